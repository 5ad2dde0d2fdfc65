"""``sdk/r`` as R runs it: its own tests, and services in R before the real app."""
