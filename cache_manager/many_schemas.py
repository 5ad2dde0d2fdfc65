"""The JSON of what is done with many tasks at once, as clients send and get it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, WithJsonSchema
from pydantic.alias_generators import to_pascal

from cache_manager.batch_schemas import view_of
from cache_manager.schemas import RequestModel, TaskView
from shared.http.problems import Problem
from shared.tasks.ids import TASK_ID_PATTERN
from shared.tasks.media import HEADER_PATTERN
from shared.tasks.task import BackendStatus, Task

MOST_WAITED_FOR = 200
_ProblemDocument = Annotated[dict[str, Any], WithJsonSchema({"$ref": "#/components/schemas/ProblemDocument"})]
_MOST_ETAG_CHARS = 64


class SubmitLine(RequestModel):
    """One line of a submit of many tasks: a task. Names match in any case; null is the same as absent."""

    body: Any = None
    """A text is sent to the model service as its UTF-8. Any other JSON is sent as it is written here, byte for byte.
    Absent: the body is empty."""
    content_type: str | None = Field(default=None, pattern=HEADER_PATTERN)
    """The type of the body. Absent: `text/plain; charset=utf-8` of a text, `application/json` of other JSON,
    `application/octet-stream` of an empty body."""
    query: str | None = None
    """The query string for the model service, without `?`. Absent: that of the request."""
    idempotency_key: str | None = Field(default=None, pattern=HEADER_PATTERN)
    """As the header of a submit. Absent: derived from the request's `Idempotency-Key` and the number of the line, if
    it has that header."""
    priority: int | None = Field(default=None, ge=0, le=9)
    """Absent: that of the request."""


class LineOutcome(BaseModel):
    """What one task of a submit of many has come to."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    line: int
    """The number of the line, or of the part: 1 for the first. Empty lines are counted, and have no outcome."""
    status_code: Literal[202, 400, 404, 409, 413, 422, 429, 500, 503]
    """What a submit of this task alone would be answered. 202: the task is stored. 429, 503: send it again."""
    task_id: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Absent if it was not taken."""
    backend_status: BackendStatus | None = Field(default=None, exclude_if=lambda value: value is None)
    """The task's, which an idempotency key may have found ended. Absent if it was not taken."""
    retry_after_seconds: int | None = Field(default=None, exclude_if=lambda value: value is None)
    """When it is worth sending it again, if it may be taken then."""
    problem: _ProblemDocument | None = Field(default=None, exclude_if=lambda value: value is None)
    """Why it was not taken: a problem document (RFC 9457), as a submit of it alone would get."""

    @classmethod
    def encoded(cls, line: int, outcome: Task | Problem) -> bytes:
        """The JSON of an outcome."""
        if isinstance(outcome, Task):  # which costs a tenth of making one and writing it
            taken = line, outcome.id.encode(), outcome.state.backend_status.encode()
            return b'{"Line":%d,"StatusCode":202,"TaskId":"%b","BackendStatus":"%b"}' % taken
        return cls.of_refused(line, outcome).model_dump_json(by_alias=True).encode()

    @classmethod
    def of_refused(cls, line: int, outcome: Problem) -> Self:
        again_s = outcome.headers.get("Retry-After")
        return cls.model_construct(
            line=line,
            status_code=outcome.status,
            retry_after_seconds=None if again_s is None else int(again_s),
            problem=outcome.document,
        )


class WaitRequest(RequestModel):
    """The body of a wait for many tasks. Names match in any case; null is the same as absent."""

    task_ids: list[Annotated[str, Field(pattern=TASK_ID_PATTERN)]] = Field(min_length=1, max_length=MOST_WAITED_FOR)
    """The tasks and batches to wait for."""
    seconds: float | None = Field(default=None, ge=0)
    """How long to wait at most; more than 60 counts as 60. Absent: not at all."""
    any: bool | None = None
    """False: wait until all have ended. Otherwise: until one of them changes or ends."""
    known: dict[str, Annotated[str, Field(max_length=_MOST_ETAG_CHARS)]] | None = Field(
        default=None, max_length=MOST_WAITED_FOR
    )
    """By task id, the `ETag` that the caller has of it. A task with another one has changed. A task without one here
    has changed if it does so while the request waits."""


class WaitedTask(BaseModel):
    """A task that has changed or ended."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    etag: str = Field(serialization_alias="ETag")
    """For `Known` of the next wait."""
    task: SerializeAsAny[TaskView]

    @classmethod
    def of(cls, task: Task) -> Self:
        return cls(etag=task.etag, task=view_of(task))


class WaitAnswer(BaseModel):
    """What a wait for many tasks has come to."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    tasks: list[WaitedTask]
    """Those that have changed or ended. Those that do not fit into one answer are in the next one."""
    unknown: list[str]
    """The ids of which there is no task, or none that the caller may see: nothing is to be waited for."""
