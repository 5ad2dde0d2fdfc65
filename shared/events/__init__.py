"""Events: that an attempt of a task is to be dispatched, or that a task has ended."""
