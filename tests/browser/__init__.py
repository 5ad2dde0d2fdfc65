"""The console in a real browser against the real stack. It runs by ``python3 dev.py browser`` only."""
