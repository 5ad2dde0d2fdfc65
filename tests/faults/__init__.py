"""The fault harness: a loaded stack, one fault after the other, and what must hold of every task afterwards.

``python -m tests.faults`` is the long form, the tests here are the short one.

What they show is in ``docs/reliability.md``.
"""
