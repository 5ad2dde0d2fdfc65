"""Parses Event Grid's deliveries: events in either of its schemas."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from pydantic_core import from_json

from shared.events.publisher import DISPATCH_EVENT
from shared.tasks.ids import is_task_id
from shared.tasks.task import MAX_ATTEMPT

LEGACY_EVENT = "task"
VALIDATION_EVENT = "Microsoft.EventGrid.SubscriptionValidationEvent"
MAX_EVENTS = 5_000
MAX_BYTES = 1_536 * 1024


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


def parse(body: bytes, topic_id: str | None = None) -> list[Event | BadEvent]:
    """Parse the events of one delivery, at least one. A bad event yields its error.

    Args:
        topic_id: the resource id of the topic that the events must name. None: any topic.

    Raises:
        BadEvent: the delivery itself is bad.
    """
    return [_parsed(event, topic_id) for event in _split(body)]


def _parsed(event: Any, topic_id: str | None) -> Event | BadEvent:
    try:
        return _read(event, topic_id)
    except BadEvent as error:
        return error


def _split(body: bytes) -> list[Any]:
    """Split a delivery into events: an array (Event Grid schema, CloudEvents batch) or one object (CloudEvents).

    Raises:
        BadEvent: the delivery is neither, or too large.
    """
    if len(body) > MAX_BYTES:
        raise BadEvent("the delivery is too large")
    try:
        document: Any = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise BadEvent("the delivery is not JSON") from None
    if isinstance(document, dict):
        return [cast("dict[str, Any]", document)]
    if not isinstance(document, list):
        raise BadEvent("an array of events is expected")
    events = cast("list[Any]", document)
    if not 1 <= len(events) <= MAX_EVENTS:
        raise BadEvent("the array has no events, or too many")
    return events


def _read(event: Any, topic_id: str | None) -> Event:
    """
    Raises:
        BadEvent: the event belongs to another topic, has an unknown type, or lacks a member that its type needs.
    """
    if not isinstance(event, dict):
        raise BadEvent("an event must be an object")
    members = cast("dict[str, Any]", event)
    is_cloud_event = "specversion" in members
    topic = members.get("source" if is_cloud_event else "topic")
    if topic_id is not None and not (isinstance(topic, str) and topic.casefold() == topic_id.casefold()):
        raise BadEvent("the event is another topic's")
    kind = members.get("type" if is_cloud_event else "eventType")
    data = members.get("data")
    if kind == VALIDATION_EVENT:
        return Handshake(_text(_members(data), "validationCode"))
    if kind == DISPATCH_EVENT:
        fields = _members(data)
        attempt = fields.get("Attempt")
        if type(attempt) is not int or not 1 <= attempt <= MAX_ATTEMPT:
            raise BadEvent("data.Attempt must be a positive number")
        traceparent = fields.get("traceparent")
        return DispatchEvent(
            _task_id(_text(fields, "TaskId")), attempt, traceparent if isinstance(traceparent, str) else ""
        )
    if kind == LEGACY_EVENT:
        return LegacyEvent(_task_id(_text(members, "id")), _text(members, "subject"), _legacy_body(data))
    raise BadEvent("the event type is unknown")


def _members(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadEvent("data must be an object")
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
    if data is None or data == "":
        return None
    return (data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)).encode()
