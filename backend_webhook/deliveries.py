"""Parses Event Grid's deliveries: events in either of its schemas."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, cast

from shared.events.publisher import DISPATCH_EVENT
from shared.http.bounded_json import Integer, RepeatingObject, read_each
from shared.http.problems import invalid
from shared.tasks.ids import is_task_id
from shared.tasks.task import MAX_ATTEMPT

LEGACY_EVENT: Final = "task"
VALIDATION_EVENT: Final = "Microsoft.EventGrid.SubscriptionValidationEvent"
MAX_EVENTS: Final = 5_000
MAX_BYTES: Final = 1_536 * 1024
MAX_VALUES: Final = 40 * MAX_EVENTS
"""An event of the app's has up to 30, in either schema."""


class BadEvent(Exception):
    """Raised for an event that Event Grid should drop or dead-letter: it stays bad if it is delivered again."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """Event Grid asks whether this endpoint wants its events."""

    code: str


@dataclass(frozen=True, slots=True)
class DispatchEvent:
    """The app's own event, for the dispatch of one attempt of a task."""

    task_id: str
    attempt: int
    traceparent: str


@dataclass(frozen=True, slots=True)
class LegacyEvent:
    """The legacy platform's event. Its subject has the URL to call, its data the body."""

    task_id: str
    url: str
    body: bytes | None


Event = Handshake | DispatchEvent | LegacyEvent


async def parse(body: bytes, topic_id: str | None = None) -> list[Event | BadEvent]:
    """Parse the events of one delivery, at least one: an array (Event Grid schema, CloudEvents batch) or one object
    (CloudEvents). A bad event yields its error.

    Args:
        topic_id: the resource id of the topic that the events must name. None: any topic.

    Raises:
        Problem: 400 if the delivery itself is bad.
    """
    if len(body) > MAX_BYTES:
        raise invalid("", "the delivery is too large")
    return await read_each(body, lambda event: _parsed(event, topic_id), most=MAX_EVENTS, most_values=MAX_VALUES)


def _parsed(event: Any, topic_id: str | None) -> Event | BadEvent:
    try:
        return _read(event, topic_id)
    except BadEvent as error:
        return error.with_traceback(None)  # it would keep the event


def _read(event: Any, topic_id: str | None) -> Event:
    """
    Raises:
        BadEvent: the event belongs to another topic, has an unknown type, has a member twice, or lacks one that its
            type needs.
    """
    members = _members(event, "an event")
    is_cloud_event = "specversion" in members
    topic = members.get("source" if is_cloud_event else "topic")
    if topic_id is not None and not (isinstance(topic, str) and topic.casefold() == topic_id.casefold()):
        raise BadEvent("the event is another topic's")
    kind = members.get("type" if is_cloud_event else "eventType")
    data = members.get("data")
    if kind == VALIDATION_EVENT:
        return Handshake(_text(_members(data, "data"), "validationCode"))
    if kind == DISPATCH_EVENT:
        fields = _members(data, "data")
        attempt = fields.get("Attempt")
        if not isinstance(attempt, Integer) or not 1 <= attempt <= MAX_ATTEMPT:
            raise BadEvent("data.Attempt must be a positive number")
        traceparent = fields.get("traceparent")
        return DispatchEvent(
            _task_id(_text(fields, "TaskId")), attempt, traceparent if isinstance(traceparent, str) else ""
        )
    if kind == LEGACY_EVENT:
        return LegacyEvent(_task_id(_text(members, "id")), _text(members, "subject"), _legacy_body(data))
    raise BadEvent("the event type is unknown")


def _members(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadEvent(f"{what} must be an object")
    if isinstance(value, RepeatingObject):  # two readers may take two values
        raise BadEvent(f"{what} has a name more than once, perhaps in another case")
    return cast("dict[str, Any]", value)


def _text(members: dict[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not value:
        raise BadEvent(f"{name} is missing")
    return value


def _task_id(text: str) -> str:
    if not is_task_id(text):
        raise BadEvent("the task id is not one")
    return text


def _legacy_body(data: Any) -> bytes | None:
    """What the event brings as the task's body: a text's content, or JSON."""
    match data:
        case None | "":
            return None
        case str():
            return data.encode()
        case bytes():  # a long text
            return data
        case _:
            try:
                return json.dumps(data, ensure_ascii=False, allow_nan=False, default=bytes.decode).encode()
            except ValueError:
                raise BadEvent("data has a number that is too large") from None
