"""Why the host cannot start."""


class HostError(Exception):
    """Raised at start when the real host would refuse the app or this one cannot run it; says why in a sentence."""
