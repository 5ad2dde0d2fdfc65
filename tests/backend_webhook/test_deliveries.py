"""Deliveries of Event Grid: whole batches of real events are read, and bombs cost little."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest

from backend_webhook.deliveries import (
    MAX_BYTES,
    MAX_EVENTS,
    MAX_VALUES,
    BadEvent,
    DispatchEvent,
    Handshake,
    LegacyEvent,
    parse,
)
from shared.http.problems import Problem

MB = 1024 * 1024
ID = "3b241101-e2bb-4255-8caf-4136c566a962"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TASK: dict[str, Any] = {"TaskId": ID, "Attempt": 1, "traceparent": TRACE}
EVENT: dict[str, Any] = {
    "topic": "/subscriptions/a/topics/b",
    "id": f"{ID}.1",
    "eventType": "backbone.task.dispatch",
    "subject": f"tasks/{ID}",
    "eventTime": "2026-11-22T10:12:44.1234567Z",
    "dataVersion": "1.0",
    "metadataVersion": "1",
    "data": TASK,
}
CLOUD_EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": f"{ID}.1",
    "source": "/subscriptions/a/topics/b",
    "type": "backbone.task.dispatch",
    "subject": f"tasks/{ID}",
    "time": "2026-11-22T10:12:44Z",
    "datacontenttype": "application/json",
    "dataschema": "#1.0",
    "traceparent": TRACE,
    "tracestate": "",
    "data": TASK,
}
LEGACY: dict[str, Any] = {"id": ID, "eventType": "task", "subject": "http://models.example.org/v1/a"}


def read(body: bytes) -> list[Any]:
    return asyncio.run(parse(body))


def refusal(body: bytes) -> str:
    with pytest.raises(Problem) as refused:
        read(body)
    assert refused.value.status == 400
    assert [error["pointer"] for error in refused.value.document["errors"]] == [""]
    return refused.value.document["errors"][0]["detail"]


def legacy(data: bytes, blanks: int = 0) -> bytes:
    """A delivery of one event whose data is written so, after so many blanks."""
    return b"[" + b" " * blanks + json.dumps(LEGACY).encode()[:-1] + b',"data":' + data + b"}]"


async def peak_bytes(body: bytes) -> int:
    """What is taken beside the body."""
    tracemalloc.start()
    try:
        with suppress(Problem):
            await parse(body)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def turns_during(body: bytes) -> int:
    """How many turns others have while the body is read."""
    reading = asyncio.create_task(parse(body))
    turns = 0
    while not reading.done():
        turns += 1
        await asyncio.sleep(0)
    with suppress(Problem):
        await reading
    return turns


@pytest.mark.parametrize("event", [EVENT, CLOUD_EVENT], ids=["Event Grid schema", "CloudEvents"])
@pytest.mark.parametrize("count", [1, 20, 400, 5_000])
def test_as_many_events_as_a_delivery_can_have_are_read(event: dict[str, Any], count: int) -> None:
    if count == 5_000:  # as short as they can be, or they are too many bytes
        event = {
            name: value if name in ("data", "eventType", "type", "specversion", "dataschema") else ""
            for name, value in event.items()
        } | {"data": {"TaskId": ID, "Attempt": 1, "traceparent": ""}}
    events = read(json.dumps([event] * count, separators=(",", ":")).encode())
    assert events == [DispatchEvent(ID, 1, event["data"]["traceparent"])] * count


def test_one_event_may_stand_alone() -> None:
    assert read(json.dumps(CLOUD_EVENT).encode()) == [DispatchEvent(ID, 1, TRACE)]
    assert read(b" " * 70_000 + json.dumps(CLOUD_EVENT).encode()) == [DispatchEvent(ID, 1, TRACE)]
    handshake = {"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {"validationCode": "a"}}
    assert read(json.dumps([handshake]).encode()) == [Handshake("a")]


@pytest.mark.parametrize(
    "bomb",
    [
        b"[" + b"[]," * (MB // 3) + b"[]]",
        b"[" + b"0," * (MB // 2) + b"0]",
        b"[[" + b"[]," * (MB // 3) + b"[]]]",
        b"[" + b",".join([b"[" + b"[]," * 40_000 + b"[]]"] * 12) + b"]",
        b'{"a":1' + b',"":0' * (MB // 4) + b"}",
        b"[" * MB,
        legacy(b"[" + b"[]," * (MB // 3) + b"[]]"),
        legacy(b'"' + b"\\n" * (MB // 2) + b'"'),
        legacy(json.dumps("\U0001f30d" + "x" * MB, ensure_ascii=False).encode()),
    ],
    ids=["lists", "numbers", "a list of lists", "many lists", "names", "depth", "data", "escapes", "wide"],
)
def test_no_delivery_takes_much_more_than_its_bytes(bomb: bytes) -> None:
    assert len(bomb) <= MAX_BYTES  # larger ones are not read
    assert asyncio.run(peak_bytes(bomb)) <= 3 * len(bomb) + 4 * MB


def test_others_have_their_turns_while_a_delivery_is_read() -> None:
    assert asyncio.run(turns_during(json.dumps([EVENT] * 2_500).encode())) >= 100
    assert asyncio.run(turns_during(legacy(b'"' + b"\\n" * (MB // 2) + b'"'))) >= 10


def test_what_is_too_much_is_refused_whole() -> None:
    assert refusal(b" " * (MAX_BYTES + 1)) == "the delivery is too large"
    many = b"[" + b"5," * MAX_EVENTS + b"5]"
    assert refusal(many) == f"the array has more than {MAX_EVENTS} elements"
    assert refusal(many + b" " * 70_000) == f"the array has more than {MAX_EVENTS} elements"
    fifty_thousand = b"[" + b"0," * 49_990 + b"0]"
    assert refusal(b"[" + b",".join([fifty_thousand] * 5) + b"]") == f"it has more than {MAX_VALUES} values"
    for nothing in (b"", b"5", b'"event"', b"null", b"[]", b"[5", b"[5]5"):
        for blanks in (0, 70_000):
            assert refusal(nothing + b" " * blanks)


@pytest.mark.parametrize("blanks", [0, 70_000])
@pytest.mark.parametrize(
    "event",
    [
        b'{"id":"a","eventType":"task","subject":"b","data":"c","eventType":"task"}',
        b'{"id":"a","eventType":"task","subject":"b","data":"c","Subject":"d"}',
        b'{"eventType":"backbone.task.dispatch","data":{"TaskId":"a","Attempt":1,"taskid":"b"}}',
        b'{"specversion":"1.0","type":"backbone.task.dispatch","data":{"TaskId":"a","Attempt":1,"Attempt":2}}',
    ],
)
def test_a_name_that_stands_twice_in_any_case_makes_the_event_bad(event: bytes, blanks: int) -> None:
    bad, good = read(b"[" + event + b"," + b" " * blanks + json.dumps(EVENT).encode() + b"]")
    assert isinstance(bad, BadEvent)
    assert "more than once" in str(bad)
    assert good == DispatchEvent(ID, 1, TRACE)


@pytest.mark.parametrize("blanks", [0, 70_000])
def test_the_data_of_a_legacy_event_is_posted_as_it_is(blanks: int) -> None:
    long = "größe\U0001f30d\n" * 20_000
    for data in ('{"a":1}', "größe", long, [1, 1.5, None, {"a": True, "A": long}], 0, False):
        for escaped in (True, False):
            (event,) = read(legacy(json.dumps(data, ensure_ascii=escaped).encode(), blanks))
            assert isinstance(event, LegacyEvent)
            assert event.body is not None
            assert event.body.decode() == data if isinstance(data, str) else json.loads(event.body) == data


@pytest.mark.parametrize("number", [b"1e999", b"[-1e999]"])
def test_a_number_that_json_cannot_say_again_makes_the_event_bad(number: bytes) -> None:
    (event,) = read(legacy(number))
    assert isinstance(event, BadEvent)
    assert "too large" in str(event)
