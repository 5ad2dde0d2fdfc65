"""Publishing with the real SDK to the emulator: events that are published during requests share the next one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from aiohttp import ClientSession, web
from pydantic import SecretStr

from local.processes import ChildProcess
from shared.events import event_grid as events_module
from shared.events.event_grid import (
    REQUEST_BYTES,
    REQUEST_EVENTS,
    REQUESTS,
    STATUS_CHARS,
    EventGridTopic,
    PublishFailed,
)
from shared.tasks.task import State, Task
from tests.local.event_grid_stand import EVENTS_PATH, KEY
from tests.waiting import PATIENCE_S, until

MANY = 100


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChildProcess]:
    command = [sys.executable, "-m", "local.event_grid", "--topic", "Tasks", "--key", KEY]
    log_path = tmp_path_factory.mktemp("event_grid") / "log"
    with ChildProcess("Event Grid emulator", command, log_path=log_path) as process:
        yield process


@dataclass
class Gate:
    """A proxy in front of the emulator. It lets requests through while it is open, and refuses some itself."""

    target: str
    url: str = ""
    requests: list[list[str]] = field(default_factory=list)
    """The event ids of each request, in the order of arrival."""
    sizes_bytes: list[int] = field(default_factory=list)
    refused_id: str = ""
    """A request with this event is answered 400."""
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        ids = [event["id"] for event in await request.json()]
        self.requests.append(ids)
        self.sizes_bytes.append(len(body))
        await self.open.wait()
        if self.refused_id in ids:
            return web.Response(status=400)
        headers = {name: request.headers[name] for name in ("aeg-sas-key", "content-type")}
        async with (
            ClientSession() as client,
            client.post(f"{self.target}{request.path_qs}", data=body, headers=headers) as response,
        ):
            return web.Response(status=response.status, body=await response.read())


@pytest.fixture
async def gate(emulator: ChildProcess) -> AsyncIterator[Gate]:
    gate = Gate(emulator.url)
    app = web.Application(client_max_size=8 * 1024 * 1024)
    app.router.add_post(EVENTS_PATH, gate.handle)
    runner = web.AppRunner(app, shutdown_timeout=0, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    gate.url = f"http://127.0.0.1:{runner.addresses[0][1]}{EVENTS_PATH}"
    yield gate
    gate.open.set()
    await runner.cleanup()


@pytest.fixture
async def topic(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EventGridTopic]:
    monkeypatch.setattr(events_module, "PUBLISH_TIMEOUT_S", PATIENCE_S)
    topic = EventGridTopic(gate.url, SecretStr(KEY))
    yield topic
    await topic.aclose()


def task(name: str, status: str = "created") -> Task:
    return Task(
        id=name,
        state=State.COMPLETED,
        path="/v1/a",
        query="",
        status=status,
        attempt=1,
        failures=0,
        publishes=1,
        priority=5,
        dispatch_requested=True,
        version=1,
        created_ms=1_700_000_000_000,
        updated_ms=1_700_000_000_000,
        queued_ms=1_700_000_000_000,
        body=None,
        result=None,
        traceparent="",
        fingerprint="",
        owner="",
        away_ms=None,
        completion_unpublished=False,
        history=(),
    )


def published(topic: EventGridTopic, *names: str) -> asyncio.Future[Any]:
    return asyncio.ensure_future(topic.publish_dispatches([task(name) for name in names]))


async def fill_requests(topic: EventGridTopic, gate: Gate) -> list[asyncio.Future[Any]]:
    """Publish events one by one until no further request may be in flight."""
    first: list[asyncio.Future[Any]] = []
    for number in range(REQUESTS):
        first.append(published(topic, f"first-{number}"))
        await until(lambda: len(gate.requests) == len(first))
    return first


async def waiting(topic: EventGridTopic, count: int) -> None:
    await until(lambda: len(topic._pending) == count)


async def stats(emulator: ChildProcess) -> int:
    async with httpx.AsyncClient(base_url=emulator.url, timeout=PATIENCE_S) as control:
        return int((await control.get("/control/stats")).json()["published"])


async def test_events_published_while_requests_are_in_flight_share_the_next_request(
    topic: EventGridTopic, gate: Gate, emulator: ChildProcess
) -> None:
    before = await stats(emulator)
    first = await fill_requests(topic, gate)
    others = [published(topic, f"t{number}") for number in range(MANY)]
    await waiting(topic, MANY)
    assert len(gate.requests) == REQUESTS
    gate.open.set()
    assert await asyncio.gather(*first, *others) == [None] * (REQUESTS + MANY)
    assert gate.requests[REQUESTS:] == [[f"t{number}.1" for number in range(MANY)]]
    assert await stats(emulator) - before == REQUESTS + MANY


async def test_events_published_one_after_another_are_sent_at_once(topic: EventGridTopic, gate: Gate) -> None:
    gate.open.set()
    for number in range(5):
        await topic.publish_dispatches([task(f"t{number}")])
    assert gate.requests == [[f"t{number}.1"] for number in range(5)]


async def test_a_request_exceeds_the_limit_of_events_only_for_the_events_of_one_caller(
    topic: EventGridTopic, gate: Gate
) -> None:
    first = await fill_requests(topic, gate)
    others = [published(topic, f"t{number}-a", f"t{number}-b") for number in range(REQUEST_EVENTS)]
    others.append(published(topic, *(f"u{number}" for number in range(REQUEST_EVENTS + 1))))
    await waiting(topic, len(others))
    gate.open.set()
    await asyncio.gather(*first, *others)
    assert sorted(map(len, gate.requests[REQUESTS:])) == [REQUEST_EVENTS, REQUEST_EVENTS, REQUEST_EVENTS + 1]


async def test_a_request_keeps_the_limit_of_bytes(topic: EventGridTopic, gate: Gate) -> None:
    first = await fill_requests(topic, gate)
    long = [task(f"t{number}", "\N{GRINNING FACE}" * STATUS_CHARS) for number in range(2 * REQUEST_EVENTS)]
    others = [asyncio.ensure_future(topic.publish_completions([each])) for each in long]
    await waiting(topic, len(others))
    gate.open.set()
    await asyncio.gather(*first, *others)
    assert REQUEST_BYTES / 2 < max(gate.sizes_bytes) <= REQUEST_BYTES
    assert sum(map(len, gate.requests[REQUESTS:])) == len(long)


async def test_a_refused_request_fails_only_the_callers_whose_events_it_had(
    topic: EventGridTopic, gate: Gate
) -> None:
    gate.refused_id = "t0.1"
    first = await fill_requests(topic, gate)
    refused = [published(topic, f"t{number}") for number in range(REQUEST_EVENTS)]
    accepted = [published(topic, f"u{number}") for number in range(3)]
    await waiting(topic, len(refused) + len(accepted))
    gate.open.set()
    assert await asyncio.gather(*first) == [None] * REQUESTS
    outcomes = await asyncio.gather(*refused, *accepted, return_exceptions=True)
    assert sorted(map(len, gate.requests[REQUESTS:])) == [len(accepted), len(refused)]
    assert {type(outcome) for outcome in outcomes[: len(refused)]} == {PublishFailed}
    assert outcomes[len(refused) :] == [None] * len(accepted)


async def test_a_cancelled_publish_affects_no_other_and_its_event_is_not_sent(
    topic: EventGridTopic, gate: Gate
) -> None:
    first = await fill_requests(topic, gate)
    others = [published(topic, f"t{number}") for number in range(4)]
    await waiting(topic, len(others))
    for each in (first[0], *others[::2]):
        each.cancel()
    outcomes = asyncio.gather(*first[1:], *others[1::2])
    gate.open.set()
    assert await outcomes == [None] * (REQUESTS + 1)
    assert gate.requests[REQUESTS:] == [["t1.1", "t3.1"]]


async def test_a_publish_behind_a_hanging_request_fails_in_time_and_its_event_is_not_sent(
    topic: EventGridTopic, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.open.set()
    await topic.publish_dispatches([task("earlier")])  # loads the client and opens a connection
    gate.open.clear()
    gate.requests.clear()
    monkeypatch.setattr(events_module, "PUBLISH_TIMEOUT_S", 1)
    first = await fill_requests(topic, gate)
    others = [published(topic, f"t{number}") for number in range(3)]
    outcomes = await asyncio.gather(*first, *others, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {PublishFailed}
    assert topic.state == "unavailable"
    monkeypatch.setattr(events_module, "PUBLISH_TIMEOUT_S", PATIENCE_S)
    gate.open.set()
    await topic.publish_dispatches([task("later")], bypass_circuit=True)
    assert topic.state == "ok"
    assert gate.requests[-1] == ["later.1"]
