"""What can go wrong in the gateway."""


class GatewayError(Exception):
    """Raised when the gateway cannot start: by its message, which names file and line where there are some."""


class PolicyFailed(Exception):
    """Raised when a policy ends the request with an error: the ``on-error`` section comes next.

    Parameters:
        status: of the answer, unless ``on-error`` changes it.
        source: the policy, as ``context.LastError.Source`` has it.
        reason: as ``context.LastError.Reason`` has it.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        source: str,
        reason: str,
        message: str,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        detail: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.source = source
        self.reason = reason
        self.message = message
        self.headers = headers
        self.detail = detail
        """What the log gets, and no caller."""
