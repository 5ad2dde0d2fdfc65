"""Dispatch: claim an attempt, call its backend, record the outcome, and fill the slots that become free."""
