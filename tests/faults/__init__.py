"""The fault harness: it loads a stack, strikes it with one fault after the other, and checks every task afterwards.

``python -m tests.faults`` is the long form; the tests here are the short one. ``docs/reliability.md`` has the
results.
"""
