"""The error that keeps the host from starting."""


class HostError(Exception):
    """Raised at start if the real host would refuse the app or this one cannot run it; says why in a sentence."""
