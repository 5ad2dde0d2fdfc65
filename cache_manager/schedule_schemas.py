"""The JSON of schedules, as clients send and get it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_pascal

from cache_manager.schemas import RequestModel
from shared.backend_settings import LONGEST_S
from shared.dispatch.registry import MAX_PATH_CHARS
from shared.http.times import IsoTime, iso
from shared.tasks.cron import MAX_CRON_CHARS
from shared.tasks.ids import TASK_ID_PATTERN
from shared.tasks.media import HEADER_PATTERN
from shared.tasks.schedules import NAME_PATTERN, Run, RunOutcome, Schedule
from shared.tasks.task import DEFAULT_PRIORITY, BackendStatus, Task

MAX_REQUEST_BYTES: Final = 1024 * 1024
MAX_QUERY_CHARS: Final = 2_048
_CONFIG: Final = ConfigDict(
    alias_generator=to_pascal,
    populate_by_name=True,
    use_attribute_docstrings=True,
    json_schema_serialization_defaults_required=True,
)


class ScheduleRequest(RequestModel):
    """What is submitted, and when. Names match in any case; null is the same as absent."""

    most_bytes: ClassVar[int] = MAX_REQUEST_BYTES

    path: str = Field(min_length=1, max_length=MAX_PATH_CHARS)
    """An endpoint, or a pipeline that has a name."""
    query: str | None = Field(default=None, max_length=MAX_QUERY_CHARS)
    """For the backend."""
    body: Any = None
    """A text is submitted as it is, anything else as JSON. Absent: the body is empty."""
    body_upload: Annotated[str, Field(pattern=TASK_ID_PATTERN)] | None = None
    """An upload in place of a body. The schedule keeps a copy of its own."""
    content_type: Annotated[str, Field(pattern=HEADER_PATTERN)] | None = None
    """Of the body. Absent: `text/plain; charset=utf-8` of a text, `application/json` of anything else."""
    cron: str = Field(min_length=9, max_length=MAX_CRON_CHARS)
    """Five fields, as of a crontab, or six, of which the first is the second."""
    time_zone: str | None = Field(default=None, max_length=64)
    """Of the IANA, such as `Europe/Berlin`. Absent: `UTC`."""
    overlap: Literal["skip", "queue", "cancel-running"] | None = None
    """What becomes of a run that is due while the task of the last one has not ended: it is skipped (so if this is
    absent), it is started beside the other, or the other is cancelled."""
    catch_up: Literal["none", "last", "all"] | None = None
    """Which of the due times are made up for at which nothing could be started: none, the last one (so if this is
    absent), or all of them, up to a hundred."""
    until: str | None = None
    """A time after which it is due no more."""
    priority: int | None = Field(default=None, ge=0, le=9)
    start_before: float | None = Field(default=None, gt=0, le=LONGEST_S, allow_inf_nan=False)
    """For how many seconds each task may wait for a model service. Absent: for as long as its backend says."""
    max_run: float | None = Field(default=None, ge=1, le=LONGEST_S, allow_inf_nan=False)
    """For how many seconds an attempt may run, if its backend does not say less."""
    callback: str | None = Field(default=None, max_length=255)
    """Whom each task is to tell how it ends: the name of a destination."""


class RunView(BaseModel):
    """What has become of a time at which a schedule was due."""

    model_config = _CONFIG

    due: IsoTime
    outcome: RunOutcome
    """`starting`: its task is being created, or cannot be yet. `started`: it was. `skipped`: it was not."""
    task_id: str | None
    backend_status: BackendStatus | None
    """Of the task, in the state by which it is known. Null if there is none, or it is past its retention."""
    reason: str | None
    """Why it was skipped, or has not started yet."""
    asked: bool
    """Whether somebody has asked for it, and no time has made it due."""

    @classmethod
    def of(cls, run: Run, task: Task | None) -> Self:
        return cls(
            due=iso(run.due_ms),
            outcome=run.outcome,
            task_id=(run.task_id or None) if run.outcome is not RunOutcome.SKIPPED else None,
            backend_status=task.state.backend_status if task else None,
            reason=run.why or None,
            asked=run.is_asked,
        )


class ScheduleView(BaseModel):
    """A schedule as clients see it."""

    model_config = _CONFIG

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    owner: str | None
    """Null if it is nobody's."""
    path: str
    query: str
    content_type: str
    body_bytes: int
    cron: str
    time_zone: str
    overlap: Literal["skip", "queue", "cancel-running"]
    catch_up: Literal["none", "last", "all"]
    until: IsoTime | None
    priority: int = DEFAULT_PRIORITY
    start_before: float | None
    """For how many seconds each task may wait for a model service. Null: for as long as its backend says."""
    max_run: float | None
    """For how many seconds an attempt may run, if its backend does not say less."""
    callback: str | None
    paused: bool
    created_at: IsoTime
    updated_at: IsoTime
    """When its definition was put last."""
    next_time: IsoTime | None
    """When it is due next. Null if it is never, or while it is paused."""

    @classmethod
    def of(cls, schedule: Schedule) -> Self:
        return cls(**_members(schedule))


class ScheduleDetails(ScheduleView):
    """A schedule with its past and its future."""

    next_times: Sequence[IsoTime]
    """The next five. Empty if it is never due, or while it is paused."""
    runs: Sequence[RunView]
    """The last ten, the newest first."""

    @classmethod
    def of_all(cls, schedule: Schedule, next_ms: Sequence[int], tasks: Mapping[str, Task | None]) -> Self:
        return cls(
            **_members(schedule),
            next_times=[iso(time_ms) for time_ms in next_ms],
            runs=[RunView.of(run, tasks.get(run.task_id)) for run in schedule.runs],
        )


class ScheduleList(BaseModel):
    """A page of schedules, by their owners and names."""

    model_config = _CONFIG

    schedules: list[ScheduleView]
    next_cursor: str | None
    """The ``cursor`` of the next page. Null on the last page."""


def _members(schedule: Schedule) -> dict[str, Any]:
    definition = schedule.definition
    return {
        "name": schedule.name.name,
        "owner": schedule.name.owner or None,
        "path": definition.path,
        "query": definition.query,
        "content_type": definition.body.content_type,
        "body_bytes": definition.body.size_bytes,
        "cron": definition.cron,
        "time_zone": definition.zone,
        "overlap": definition.overlap.value,
        "catch_up": definition.catch_up.value,
        "until": None if definition.until_ms is None else iso(definition.until_ms),
        "priority": definition.priority,
        "start_before": _seconds(definition.start_before_ms),
        "max_run": _seconds(definition.max_run_ms),
        "callback": definition.callback or None,
        "paused": schedule.is_paused,
        "created_at": iso(schedule.created_ms),
        "updated_at": iso(schedule.updated_ms),
        "next_time": None if schedule.next_ms is None else iso(schedule.next_ms),
    }


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000
