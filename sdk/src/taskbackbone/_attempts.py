"""What the supervisor hands to a runner, and what it gets back: the seam between the two.

A *runner* does the work of attempts. There are three: `_pool.ProcessPool` (a fresh interpreter for each worker),
`_pool.ThreadPool` (`isolation="thread"`), and the sidecar's, for which another server does the work. The supervisor
has all the rest: slots, duplicates, limits of time, heartbeats, reports, draining.

How to write a runner: make a class with the members of `Runner`. All of it runs in the supervisor's event loop.

- `slots` is how many attempts the runner holds at a time, now: 0 until it can work. The supervisor never has more at
  it, and tells the backbone this number. Call the `changed` that `start` got when the number changes.
- `run` does one attempt, and returns an outcome when the work **has stopped**, not before: the slot is free from then
  on. It raises nothing. It calls `events.started()` when the work begins, and passes on what the work tells.
- `cancel` makes the work stop: kindly at first, by force after `grace_s`. It returns at once; `run` then returns
  `Stopped`, or the outcome that the work came to after all. To an attempt that has ended it does nothing.
- `stop` ends the runner. No attempt is at it any more.
- `restarts`, if it has that, is a number in `/metrics`; `is_stuck`, if it is true, makes `/livez` fail.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional, Protocol, Union

Data = Union[bytes, Path]
"""Bytes, or the file that has them."""
NextStep = tuple[str, str, str, str]
"""The path and query of another endpoint, the type of the body there, and the file that has it. No file: it gets the
result, or, if there is none, the same body once more."""
Key = tuple[str, Optional[int]]
"""A task and the number of its attempt, or None if the backbone does not number attempts."""


@dataclass(frozen=True, eq=False)
class Attempt:
    """One attempt of a task, or one direct call."""

    path: str
    folder: Path
    """For its files. It need not be there; the supervisor removes it once the end is reported."""
    body: Data = b""
    content_type: str = ""
    content_encoding: str = ""
    query: str = ""
    """The query string as it came, without its question mark."""
    task_id: str | None = None
    """None for a direct call: its caller waits for the answer, and nobody is told of it."""
    number: int | None = None
    lease_s: float = 300.0
    timeout_s: float | None = None
    stall_s: float | None = None
    trace: dict[str, str] = field(default_factory=dict)
    """The headers `traceparent` and `tracestate`, if they came."""

    @property
    def key(self) -> Key:
        return self.task_id or "", self.number

    def __str__(self) -> str:
        if self.task_id is None:
            return f"direct call of {self.path}"
        return f"task {self.task_id}" if self.number is None else f"task {self.task_id}, attempt {self.number}"


@dataclass(frozen=True)
class Completed:
    body: Data | None = None
    """The result; None: there is none."""
    content_type: str = "application/octet-stream"
    content_encoding: str = ""
    text: str = ""
    """What the caller reads beside the word *completed*."""
    next_step: NextStep | None = None
    """Where the task goes on, if it does not end."""


@dataclass(frozen=True)
class Failed:
    reason: str
    """For the caller."""
    http_status: int = 500
    """How a direct call is answered."""


@dataclass(frozen=True)
class Released:
    """The attempt is given back: the task waits for its next one."""

    reason: str
    counted: bool
    """Whether it counts as a failure of the task."""
    after_s: float | None = None


@dataclass(frozen=True)
class Stopped:
    """The work stopped because of `Runner.cancel`."""


Outcome = Union[Completed, Failed, Released, Stopped]


class Events:
    """What the work of an attempt tells and asks. So it is for a direct call: nobody is told, and nothing is kept."""

    def __init__(self) -> None:
        self.started_s: float | None = None
        self.active_s = time.monotonic()
        """When it was last known to be alive."""
        self.is_asking = 0
        """How many questions are being answered."""

    def started(self) -> None:
        """The work begins: limits of time count from here."""
        self.started_s = self.active_s = time.monotonic()

    def progress(self, fraction: float | None, text: str | None) -> None:
        """How far it is, 0 to 1, and a text for the caller. With None for both: it is alive."""
        self.active_s = time.monotonic()

    async def ask(self, what: str, data: Data | None = None) -> Data | None:
        """Keeps a `checkpoint` for the next attempt, or answers with what was `restored` or the `previous` result.

        Raises:
            BackboneError: the backbone does not do it.
        """


class Runner(Protocol):
    """See the module."""

    @property
    def slots(self) -> int: ...

    async def start(self, changed: Callable[[], None]) -> None:
        """Begins, and returns before the runner is ready."""
        ...

    async def run(self, attempt: Attempt, events: Events) -> Outcome: ...

    def cancel(self, attempt: Attempt, reason: str, grace_s: float) -> None: ...

    async def stop(self) -> None: ...


_RECORDS = {kind.__name__: kind for kind in (Attempt, Completed, Failed, Released, Stopped)}


def to_frame(record: Attempt | Outcome) -> tuple[dict[str, Any], bytes]:
    """What JSON can tell of a record, and its body if that is bytes."""
    head, body = dict(vars(record)), getattr(record, "body", None)
    head["body"] = str(body) if isinstance(body, Path) else None if body is None else ""
    head["folder"] = str(head.get("folder", ""))
    return {"record": type(record).__name__, "fields": head}, body if isinstance(body, bytes) else b""


def from_frame(head: dict[str, Any], body: bytes) -> Any:
    """The record of a frame."""
    kind, fields = _RECORDS[head["record"]], head["fields"]
    fields["folder"] = Path(fields["folder"])
    if fields["body"] is not None:
        fields["body"] = Path(fields["body"]) if fields["body"] else body
    return kind(**{name: fields[name] for name in kind.__dataclass_fields__})
