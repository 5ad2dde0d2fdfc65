"""The JSON of tasks, as clients send and get it. It keeps the legacy platform's names."""

from __future__ import annotations

import time
from functools import cache
from typing import Annotated, Any, ClassVar, Final, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_pascal

from shared.dispatch.registry import BackendRegistry
from shared.http.legacy_json import LegacyModel, LegacyText, LegacyTextBytes
from shared.http.long_texts import with_text
from shared.http.problems import ProblemDocument, invalid_fields
from shared.http.times import IsoTime, iso
from shared.http.validation import field_errors, json_object, refuse_repeated
from shared.store import Outage
from shared.tasks import status_texts
from shared.tasks.ids import TASK_ID_PATTERN, is_task_id
from shared.tasks.outcomes import Applied, Outcome, QueuePosition
from shared.tasks.task import DEFAULT_PRIORITY, MAX_ATTEMPT, BackendStatus, State, Task

MAX_RELEASE_S: Final = 86_400
MAX_SHORT_STATUS_CHARS: Final = 1_024
MAX_HEARTBEATS: Final = 200
Progress = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Number = Annotated[int, Field(ge=1, le=MAX_ATTEMPT)]
_Priority = Annotated[int, Field(ge=0, le=9)]
_PriorityText = Annotated[str, Field(pattern="^[0-9]$")]
_IdText = Annotated[str, Field(pattern=rf"{TASK_ID_PATTERN}|^\s*$")]
_NumberText = Annotated[str, Field(pattern="^[1-9][0-9]{0,8}$")]
_BoolText = Annotated[str, Field(pattern="^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee])?$")]


def _blank_is_absent(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _checked_id(value: str | None) -> str | None:
    if value is not None and not is_task_id(value):
        raise ValueError("up to 128 of A-Z a-z 0-9 _ . - are allowed")
    return value


def _word(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _bool(value: Any) -> Any:
    """A boolean from text or from a number: R data frames and some gateways send booleans so."""
    if isinstance(value, str):
        return {"true": True, "false": False, "": False}.get(value.strip().lower(), value)
    return bool(value) if value is None or isinstance(value, (int, float)) else value


def _int_or_text(value: Any) -> Any:
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else value
    return value


def _priority(value: Any) -> Any:
    return DEFAULT_PRIORITY if value is None else _int_or_text(value)


_TELLING_BYTES: Final = 64 * 1024
"""Of a status text, in which it may tell an end."""


class TaskUpsert(LegacyModel):
    """The body of ``CacheConnectorUpsert`` (contract A1)."""

    task_id: Annotated[
        LegacyText | None,
        AfterValidator(_checked_id),
        BeforeValidator(_blank_is_absent, json_schema_input_type=_IdText | float | bool | None),
    ] = Field(default=None, alias="TaskId")
    """Absent, null or blank: the app makes a new task and its id. An unknown id creates a task with that id."""
    status: LegacyTextBytes | None = Field(default=None, alias="Status")
    """Free text for the caller."""
    backend_status: Annotated[Literal["created", "running", "completed", "failed"] | None, BeforeValidator(_word)] = (
        Field(default=None, alias="BackendStatus")
    )
    """In any case, and with blanks around it."""
    endpoint: Annotated[
        LegacyText | None, BeforeValidator(_blank_is_absent, json_schema_input_type=str | float | bool | None)
    ] = Field(default=None, alias="Endpoint")
    """Absolute URL of the endpoint, within a registered base URL. A new task and a next step need it. Without it, an
    update leaves the task at its endpoint, and so it does with one that leads nowhere."""
    body: LegacyTextBytes | None = Field(default=None, alias="Body")
    """The request body for the backend, usually serialized JSON. Without it, the stored body stays."""
    publish_to_grid: Annotated[
        bool,
        BeforeValidator(_bool, json_schema_input_type=bool | float | _BoolText | None),
    ] = Field(default=False, alias="PublishToGrid")
    """Dispatch the task to its endpoint now. A boolean, its text in any case, or a number that is not 0."""
    attempt: Annotated[
        int | None,
        BeforeValidator(_int_or_text, json_schema_input_type=_Number | _NumberText | None),
    ] = Field(default=None, alias="Attempt", ge=1, le=MAX_ATTEMPT)
    """The attempt that the update speaks for, from ``X-Task-Attempt``. Absent: the app trusts it to be the current
    one."""

    priority: Annotated[int, BeforeValidator(_priority, json_schema_input_type=_Priority | _PriorityText | None)] = (
        Field(default=DEFAULT_PRIORITY, alias="Priority", ge=0, le=9)
    )
    """The priority of a new task. 9 goes before 0, see ``docs/queues.md``."""

    progress: Progress | None = Field(default=None, alias="Progress")
    """How far the attempt is, 0 to 1."""

    @property
    def state(self) -> State | None:
        return State(self.backend_status) if self.backend_status else None

    @property
    def end_told(self) -> State | None:
        """The end that only the text tells. A service that sends its attempt says so in ``BackendStatus``."""
        if self.attempt is not None or self.status is None or (self.state and self.state.is_terminal):
            return None
        return status_texts.end_told(self.status[:_TELLING_BYTES].decode(errors="ignore"))


class TaskView(BaseModel):
    """A task as clients see it. The first eight members come from the legacy platform."""

    model_config = ConfigDict(
        alias_generator=to_pascal,
        populate_by_name=True,
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
    )

    task_id: str
    timestamp: IsoTime
    """Time of the last change."""
    status: str
    backend_status: BackendStatus
    endpoint: str
    """The endpoint's path, the same as ``EndpointPath``. In the answers of the legacy functions: the URL that the app
    calls."""
    body: str | None = None
    """Always null: only `GetTaskBody` answers the body."""
    publish_to_grid: bool
    endpoint_path: str
    attempt: int
    """The number of the current dispatch. The model service gets it as ``X-Task-Attempt``."""
    created_at: IsoTime
    result_content_type: str | None
    result_size: int | None
    """In bytes. Null while there is no result."""
    priority: int
    queue_position: int | None = Field(default=None, exclude_if=lambda value: value is None)
    """The waiting task's position in its queue, 1 for the next. Other tasks may still go first."""
    estimated_start: IsoTime | None = Field(default=None, exclude_if=lambda value: value is None)
    """When the model service will get the waiting task, estimated from how long tasks took lately. Absent while that
    is unknown."""
    start_at: IsoTime | None = Field(default=None, exclude_if=lambda value: value is None)
    """When it starts, or was to start, if it was submitted to start later. Until then it is in no queue."""
    lease_seconds: float
    """How long the model service may be silent once it has the task, before it is taken for dead."""
    max_run_seconds: float | None = Field(default=None, exclude_if=lambda value: value is None)
    """How long the model service may work on the task at a time, however often it is heard of. Absent: for ever."""
    expires_at: IsoTime | None = Field(default=None, exclude_if=lambda value: value is None)
    """When the task ends as failed unless a model service has it by then. Absent: never, or one has had it."""
    progress: float | None
    """How far the attempt is, 0 to 1. Null if the model service does not tell."""
    step: int | None = Field(default=None, exclude_if=lambda value: value is None)
    """Which step of its pipeline the task is in, 1 for the first. Absent if it was submitted without one."""
    steps: int | None = Field(default=None, exclude_if=lambda value: value is None)
    """How many steps its pipeline has."""
    pipeline: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The name of its pipeline. Absent if that has none."""
    batch: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The batch that it is a child of. Absent if of none."""
    callback: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The destination that is told how it ends. Absent if none is. Its history tells what came of that."""
    max_body_bytes: int | None = Field(default=None, exclude_if=lambda value: value is None)
    """The largest body or result that the app takes. Only in an answer 202."""
    max_upload_bytes: int | None = Field(default=None, exclude_if=lambda value: value is None)
    """The largest one that clients can upload themselves; 0 if they can upload none. Only in an answer 202."""

    @classmethod
    def of(
        cls,
        task: Task,
        position: QueuePosition | None = None,
        outage: Outage | None = None,
        *,
        registry: BackendRegistry | None = None,
    ) -> Self:
        """
        Args:
            outage: of the task's backend, if it waits for that one to be back.
            registry: of the legacy calls, whose clients expect the URL that the app calls. Others see the path only.
        """
        endpoint = registry.endpoint_of(task.path, task.query) if registry else None
        return cls(
            task_id=task.id,
            timestamp=iso(task.updated_ms),
            # Each attempt's text is the record's; the queue's news is that of all that wait in it.
            status=status_texts.awaiting(outage.cause) if outage else task.status,
            backend_status=task.state.backend_status,
            endpoint=endpoint.url if endpoint else task.path,
            publish_to_grid=task.dispatch_requested,
            endpoint_path=task.path,
            attempt=task.attempt,
            created_at=iso(task.created_ms),
            result_content_type=task.result.content_type if task.result else None,
            result_size=task.result.size_bytes if task.result else None,
            priority=task.priority,
            start_at=iso(task.start.at_ms) if task.start else None,
            lease_seconds=task.lease_s,
            max_run_seconds=None if task.max_run_ms is None else task.max_run_ms / 1000,
            expires_at=None if task.expires_ms is None else iso(task.expires_ms),
            progress=task.progress,
            step=task.place.step if task.place else None,
            steps=task.place.steps if task.place else None,
            pipeline=task.pipeline or None,
            batch=task.batch or None,
            callback=task.callback.destination if task.callback else None,
            queue_position=position.ahead + 1 if position else None,
            estimated_start=(
                iso(round((time.time() + position.wait_s) * 1000))
                if position and position.wait_s is not None
                else None
            ),
        )

    def document(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True)

    def encoded(self) -> bytes:
        return self.__pydantic_serializer__.to_json(self, by_alias=True)

    async def encoded_whole(self, task: Task) -> bytes:
        """The document of the *task*, with its whole status text if it has one that is known."""
        if task.whole_status is None or self.status != task.status:
            return self.encoded()
        self.status = ""
        return await with_text(self.encoded(), "Status", task.whole_status)


class TaskList(BaseModel):
    """A page of tasks, newest first."""

    model_config = ConfigDict(
        alias_generator=to_pascal,
        populate_by_name=True,
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
    )

    tasks: list[TaskView]
    """A page may have fewer tasks than the limit, even none, and not be the last."""
    next_cursor: str | None
    """The ``cursor`` of the next page. Null on the last page."""
    looked: int
    """How many tasks this page goes past: its own, and those between them that the filter skipped. An owner is told
    of its own only."""


class ConflictDocument(ProblemDocument):
    """A change that the task does not take: it has ended, or the caller speaks for another attempt than the current
    one."""

    task: TaskView = Field(serialization_alias="Task")
    """As it is. Not among the document's own members, because its ``Status`` would stand beside their ``status``."""


class RequestModel(BaseModel):
    """The JSON object of a v1 request, or one in it. Names match in any case."""

    model_config = ConfigDict(alias_generator=to_pascal, extra="forbid", strict=True, use_attribute_docstrings=True)

    most_bytes: ClassVar[int] = 64 * 1024
    """How large a body may be."""

    @classmethod
    async def parse(cls, body: bytes) -> Self:
        """
        Raises:
            Problem: 400 that names what is wrong; 413 if the body is too large.
        """
        document = await json_object(body, cls.most_bytes)
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise invalid_fields(field_errors(error, known=[*cls._names().values()])) from None

    @model_validator(mode="before")
    @classmethod
    def _in_any_case(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        names = cls._names()
        refuse_repeated(cast("dict[str, Any]", value), names)
        return {names.get(name.lower(), name): member for name, member in cast("dict[str, Any]", value).items()}

    @classmethod
    @cache
    def _names(cls) -> dict[str, str]:
        return {name.lower(): name for name in map(to_pascal, cls.model_fields)}


class Heartbeat(RequestModel):
    """The body of a heartbeat, which may have none. Names match in any case; null is the same as absent."""

    progress: Progress | None = None
    """How far the attempt is, 0 to 1."""
    status: str | None = Field(default=None, max_length=MAX_SHORT_STATUS_CHARS)
    """Free text for the caller."""


class TaskHeartbeat(Heartbeat):
    """One of several heartbeats."""

    task_id: Annotated[str, Field(pattern=TASK_ID_PATTERN)]
    attempt: int | None = Field(default=None, ge=1, le=MAX_ATTEMPT)
    """The attempt that it speaks for, from ``X-Task-Attempt``. Absent: the app trusts it to be the current one."""


class Heartbeats(RequestModel):
    """The body of several heartbeats at once."""

    most_bytes: ClassVar[int] = 3 * 1024 * 1024

    heartbeats: list[TaskHeartbeat] = Field(min_length=1, max_length=MAX_HEARTBEATS)


class HeartbeatOutcome(BaseModel):
    """What one of several heartbeats has come to."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    task_id: str
    status_code: Literal[200, 404, 409, 503]
    """What a heartbeat of this task alone would be answered. 409: stop, the task has ended, or another attempt has
    it. 503: repeat this one."""
    backend_status: BackendStatus | None
    """Null if the task is unknown, or its part of the store does not answer."""
    attempt: int | None
    """The task's current attempt."""

    @classmethod
    def of(cls, task_id: str, outcome: Outcome | None) -> Self:
        task = outcome.task if outcome else None
        return cls(
            task_id=task_id,
            status_code=(503 if outcome is None else 200 if isinstance(outcome, Applied) else 409 if task else 404),
            backend_status=task.state.backend_status if task else None,
            attempt=task.attempt if task else None,
        )


class HeartbeatOutcomes(BaseModel):
    """In the order of the heartbeats."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True)

    outcomes: list[HeartbeatOutcome]


class TaskRelease(RequestModel):
    """The body of a release. Names match in any case; null is the same as absent."""

    failed: bool | None = None
    """True: the model service failed at the task. That counts, and the task waits after a backoff. Otherwise it keeps
    its place, as if it had not been dispatched."""
    retry_after_seconds: float | None = Field(default=None, ge=0, le=MAX_RELEASE_S)
    """For how long the task is not to be dispatched again, at least: after a failure, the backoff may be longer."""
    status: str | None = Field(default=None, max_length=MAX_SHORT_STATUS_CHARS)
    """Why, for the caller and the history."""
