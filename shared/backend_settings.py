"""What ``BACKENDS`` says: the model services, and the pipelines that have a name."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from shared.rate import Rate

MAX_STEPS: Final = 16
"""How many endpoints a pipeline may have."""
LONGEST_S: Final = 31_536_000
"""A year: for how long an attempt may run, or a task wait, if that is bounded."""
_EXPECTED: Final = "must be a JSON object of path prefix → base URL"


def _rate(text: str) -> str:
    return str(Rate.parse(text))


class PerOwner(BaseModel):
    """How much of each endpoint of a backend one owner may have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    waiting: int | None = Field(default=None, ge=1)
    """How many tasks may wait, before new ones are refused. None: ``MAX_WAITING_PER_OWNER``."""
    in_flight: int | None = Field(default=None, ge=1)
    """How many tasks the backend is given while others wait that have less there. None: any number."""
    hard: bool = False
    """Whether it is given no more than that also if nobody else waits."""

    @model_validator(mode="after")
    def _is_of_something(self) -> Self:
        if self.hard and self.in_flight is None:
            raise ValueError("hard is of in_flight, which is missing")
        return self


class BackendSettings(BaseModel):
    """One entry of ``BACKENDS``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    lease_s: float | None = Field(default=None, gt=0)
    """How long a task may go without an update. Then the app takes it for lost. None: ``LEASE_S``."""
    max_run_s: float | None = Field(default=None, ge=1, le=LONGEST_S)
    """How long an attempt may run, however often it is heard of. None: for ever."""
    expires_s: float | None = Field(default=None, ge=1, le=LONGEST_S)
    """How long a task waits in the queue for the service at most, unless its submit says. None: for ever."""
    limit: int | None = Field(default=None, ge=1)
    """How many tasks each endpoint of the backend gets at a time, at most. None: as many as it accepts."""
    rate: Annotated[str, AfterValidator(_rate)] | None = None
    """How many tasks each endpoint of it gets within a time, at most, such as ``100/60s``. None: any number."""
    burst: bool = False
    """Whether these may come at once; else evenly."""
    endpoints: list[str] | None = Field(default=None, min_length=1)
    """The paths that the model service has. None: any path below the prefix."""
    busy: list[Annotated[int, Field(ge=400, le=599)]] = []
    """The statuses, beside 429 and 503, by which it says that it has no room."""
    reference: bool = False
    """Whether it takes a body that lies in Blob Storage by its URL (``X-Task-Body``), and not in the request."""
    callback: str | None = None
    """The destination of ``CALLBACKS`` that is told of tasks for which their callers name none."""
    answer: Literal["acceptance", "result"] = "acceptance"
    """What a 2xx answer without ``X-Task-Complete`` is: ``acceptance`` of the task, or its ``result``."""
    per_owner: PerOwner = PerOwner()
    """How much of each of its endpoints one owner may have."""


class BackendsSettings(BaseModel):
    """All of ``BACKENDS``."""

    model_config = ConfigDict(frozen=True)

    entries: dict[str, BackendSettings] = {}
    """The model services by path prefix."""
    pipelines: dict[str, Annotated[list[str], Field(min_length=1, max_length=MAX_STEPS)]] = {}
    """The steps of each pipeline that has a name, ``path?query``. The name is a path."""


def parse_backends(value: Any) -> Any:
    """``BACKENDS``, as JSON or parsed, in the form of :class:`BackendsSettings`.

    Raises:
        ValueError: it is no JSON object.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value or "{}")
        except ValueError:
            raise ValueError(_EXPECTED) from None
    if isinstance(value, BackendsSettings):
        return value
    if not isinstance(value, dict):
        raise ValueError(_EXPECTED)
    named = {**cast("dict[str, Any]", value)}
    pipelines = named.pop("pipelines", {})
    entries = {path: {"url": entry} if isinstance(entry, str) else entry for path, entry in named.items()}
    return {"entries": entries, "pipelines": pipelines}
