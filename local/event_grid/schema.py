"""The two event schemas: which events a publisher may send, and how events look to a subscriber."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NoReturn

Event = dict[str, Any]
"""One event as JSON, in the schema in which it was published, with the fields that the service adds."""

KEY_VARIABLE = "EVENT_GRID_EMULATOR_KEY"
DEAD_LETTERS_VARIABLE = "EVENT_GRID_EMULATOR_DEAD_LETTERS"
"""Of the environment, for what the arguments of a process would show to everybody on the machine."""

MAX_BATCH_BYTES = 1024 * 1024  # also the limit of a single event
MAX_BATCH_EVENTS = 5_000

EVENT_GRID_CONTENT_TYPE = "application/json; charset=utf-8"
CLOUD_EVENT_CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
CLOUD_EVENT_BATCH_CONTENT_TYPE = "application/cloudevents-batch+json; charset=utf-8"

_EVENT_GRID_REQUIRED = ("id", "subject", "eventType", "eventTime")
_CLOUD_EVENT_REQUIRED = ("id", "source", "type", "specversion")


class InvalidEventsError(ValueError):
    """Raised when a batch does not fit its schema; `problems` has one line per mistake."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("The events do not conform to the expected schema.")
        self.problems = problems


class TooManyEventsError(ValueError):
    """Raised when a batch holds more than `MAX_BATCH_EVENTS` events."""


def topic_id(topic: str) -> str:
    """The resource id of a topic in this emulator."""
    return (
        "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local"
        f"/providers/Microsoft.EventGrid/topics/{topic}"
    )


def parse_events(body: bytes, content_type: str, topic_id: str) -> list[Event]:
    """Checks the events of a publish request and stamps them with `topic_id`.

    Raises:
        InvalidEventsError: the body is not JSON, has no events, or has an event that does not fit its schema.
        TooManyEventsError: the body has more events than the service takes.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    batch = _parse_json(body)
    if media_type == "application/cloudevents+json":
        batch = [batch]
    if not isinstance(batch, list) or not batch:
        raise InvalidEventsError(["The body must be a JSON array with at least one event."])
    if len(batch) > MAX_BATCH_EVENTS:
        raise TooManyEventsError(f"A batch holds at most {MAX_BATCH_EVENTS} events.")
    are_cloud_events = media_type.startswith("application/cloudevents")
    problems_of = _cloud_event_problems if are_cloud_events else _event_grid_problems
    problems = [
        f"Event {index}: {problem}"
        for index, event in enumerate(batch)
        for problem in (problems_of(event) if isinstance(event, dict) else ["is not a JSON object."])
    ]
    if problems:
        raise InvalidEventsError(problems)
    return batch if are_cloud_events else [_stamp(event, topic_id) for event in batch]


def _parse_json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidEventsError(["The body is not valid JSON in UTF-8."]) from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _event_grid_problems(event: Event) -> Iterable[str]:
    yield from _blank_fields(event, _EVENT_GRID_REQUIRED)
    yield from _time_problems(event, "eventTime")
    if event.get("topic") is not None:
        yield "topic must not be set by the publisher."
    if event.get("metadataVersion") not in (None, "1"):
        yield "metadataVersion must be absent or '1'."
    if not isinstance(event.get("dataVersion", ""), str | None):
        yield "dataVersion must be a string."


def _cloud_event_problems(event: Event) -> Iterable[str]:
    yield from _blank_fields(event, _CLOUD_EVENT_REQUIRED)
    yield from _time_problems(event, "time")
    if event.get("specversion") not in (None, "1.0"):
        yield "specversion must be '1.0'."
    if event.get("data") is not None and event.get("data_base64") is not None:
        yield "data and data_base64 exclude each other."


def _blank_fields(event: Event, required: Sequence[str]) -> Iterable[str]:
    for name in required:
        value = event.get(name)
        if not isinstance(value, str) or not value.strip():
            yield f"{name} must be a string that is not blank."


def _time_problems(event: Event, name: str) -> Iterable[str]:
    value = event.get(name)
    if value is None:
        return
    try:
        has_zone = datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        has_zone = False
    if not has_zone:
        yield f"{name} must be an ISO 8601 time with a time zone."


def _stamp(event: Event, topic_id: str) -> Event:
    return {
        "id": event["id"],
        "topic": topic_id,
        "subject": event["subject"],
        "data": event.get("data"),
        "eventType": event["eventType"],
        "eventTime": event["eventTime"],
        "metadataVersion": "1",
        "dataVersion": event.get("dataVersion") or "",
    }


def is_cloud_event(event: Event) -> bool:
    return "specversion" in event


def type_of(event: Event) -> str:
    return event["type"] if is_cloud_event(event) else event["eventType"]


def subject_of(event: Event) -> str:
    return event.get("subject") or ""


def to_cloud_event(event: Event) -> Event:
    """Converts the event to a CloudEvent, with the service's own mapping; a CloudEvent stays as it is."""
    if is_cloud_event(event):
        return event
    return {
        "specversion": "1.0",
        "id": event["id"],
        "source": event["topic"],
        "type": event["eventType"],
        "subject": event["subject"],
        "time": event["eventTime"],
        "dataschema": f"#{event['dataVersion']}",
        "data": event["data"],
    }
