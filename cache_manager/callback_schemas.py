"""The JSON of callbacks: what destinations are sent, and how destinations stand."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_pascal

from cache_manager.batch_schemas import view_of
from cache_manager.schemas import RequestModel
from shared.dispatch.destinations import Destination
from shared.http.times import IsoTime, iso
from shared.store import DestinationState
from shared.tasks.callback import CallbackEvent, CallbackMessage
from shared.tasks.ids import TASK_ID_PATTERN
from shared.tasks.task import State, Task

MOST_BYTES: Final = 20 * 1024
"""How large a message is at most."""


class CallbackView(BaseModel):
    """A destination of callbacks, and how it stands."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    name: str
    events: list[CallbackEvent]
    """What it is told."""
    owner: str | None
    """Whose it is. Null: anybody's."""
    waiting: int
    """Of how many tasks it is to be told something now, or tried again."""
    given_up: int
    """Of how many tasks, that are still kept, it was given up to tell it."""
    failing_since: IsoTime | None
    """Null while it takes what it is told."""
    last_answer: str | None
    """A status, or a word: `timeout`, `unreachable`, `endless`. Null if it was never told anything."""
    last_tried_at: IsoTime | None

    @classmethod
    def of(cls, destination: Destination, state: DestinationState) -> Self:
        return cls(
            name=destination.name,
            events=[*destination.events],
            owner=destination.owner,
            waiting=state.waiting,
            given_up=state.given_up,
            failing_since=None if state.failing_since_ms is None else iso(state.failing_since_ms),
            last_answer=state.last_answer,
            last_tried_at=None if state.last_tried_ms is None else iso(state.last_tried_ms),
        )


class ResendRequest(RequestModel):
    """What a destination is told again. Names match in any case; null is the same as absent."""

    task_id: Annotated[str, Field(pattern=TASK_ID_PATTERN)] | None = None
    """The task of which it is told again how it has ended. Absent: those of which it was given up to tell it."""
    since: str | None = None
    """A time: only those that were given up since then."""


class Resent(BaseModel):
    """What came of it."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    resent: int
    """Of how many tasks the destination is told again."""


class CallbackDelivery(BaseModel):
    """Something that the task's destination was told, or is to be told."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    event: CallbackEvent
    at: IsoTime
    """When that was."""
    state: Literal["waiting", "delivered", "gone", "given up"]
    """`gone`: the destination answered 410. `given up`: it was tried for a day."""
    tries: int
    last_answer: str | None
    """A status, or a word: `timeout`, `unreachable`, `endless`."""
    last_tried_at: IsoTime | None


class TaskCallback(BaseModel):
    """Whom a task tells how it ends, and what came of it."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    destination: str
    deliveries: list[CallbackDelivery]
    """The last of them, the oldest first. Progress is there until it is told."""

    @classmethod
    def of(cls, task: Task) -> Self | None:
        callback = task.callback
        if callback is None:
            return None
        settled = [
            CallbackDelivery(
                event=each.message.event,
                at=iso(each.message.at_ms),
                state=each.what,
                tries=each.tries,
                last_answer=each.answer or None,
                last_tried_at=iso(each.at_ms),
            )
            for each in callback.settled
        ]
        waiting = [
            CallbackDelivery(
                event=message.event,
                at=iso(message.at_ms),
                state="waiting",
                tries=callback.tries if index == 0 else 0,
                last_answer=callback.last_answer if index == 0 and callback.tries else None,
                last_tried_at=(
                    iso(callback.last_tried_ms)
                    if index == 0 and callback.tries and callback.last_tried_ms is not None
                    else None
                ),
            )
            for index, message in enumerate(callback.waiting)
        ]
        return cls(destination=callback.destination, deliveries=[*settled, *waiting])


def body_of(task: Task, message: CallbackMessage) -> bytes:
    """What a destination is sent: the task as clients see it. If it has begun again since the end that is told, it is
    as it was then, as far as that is kept."""
    document = view_of(task).document()
    if message.event != "progress" and (task.state != message.event or task.attempt != message.attempt):
        document |= _as_it_ended(task, message)
    if task.long_status is not None:
        document["Cut"] = ["Status"]
    body = _encoded(document)
    if len(body) <= MOST_BYTES:
        return body
    document["Cut"] = ["Status"]
    status: str = document["Status"]
    kept, too_many = 0, len(status)
    while too_many - kept > 1:
        middle = (kept + too_many) // 2
        if len(_encoded(document | {"Status": status[:middle]})) <= MOST_BYTES:
            kept = middle
        else:
            too_many = middle
    return _encoded(document | {"Status": status[:kept]})


def _as_it_ended(task: Task, message: CallbackMessage) -> dict[str, Any]:
    state = State(message.event)
    ends = (each for each in task.history if each.attempt == message.attempt and each.state is state)
    end = next(ends, None)
    return {
        "Timestamp": iso(message.at_ms),
        "Status": state.value if end is None else end.status,
        "BackendStatus": state.backend_status,
        "Attempt": message.attempt,
        "Progress": None,
        "ResultContentType": None,
        "ResultSize": None,
    }


def _encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
