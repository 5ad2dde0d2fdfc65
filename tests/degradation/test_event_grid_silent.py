"""An Event Grid that takes requests and does not answer, and what happens when it is back."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from local.redis_server import RedisServer
from shared import events as events_module
from shared.events import PublishFailed, Topic
from shared.services import Services
from shared.settings import Settings
from shared.task import Content, Task
from shared.task_store import PARTITIONS, SWEEP_LIMIT, Created, NewTask, RedisLink, StorePolicy, TaskStore
from tests.degradation.switch import Switch
from tests.shared.task_store.conftest import Clock, opener

HANG_S = 60


class Events:
    """A topic that takes everything, and knows what it got."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.task_ids: list[str] = []
        topic = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                events = json.loads(body)
                topic.batches.append(len(events))
                topic.task_ids += [event["data"]["TaskId"] for event in events]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True


@pytest.fixture
def received() -> Iterator[Events]:
    events = Events()
    threading.Thread(target=events.server.serve_forever, daemon=True).start()
    yield events
    events.server.shutdown()
    events.server.server_close()


@pytest.fixture
def switch(received: Events) -> Iterator[Switch]:
    with Switch(received.server.server_address[1]) as switch:
        yield switch


@pytest.fixture
async def services(server: RedisServer, switch: Switch) -> AsyncIterator[Services]:
    services = Services.of(
        Settings.from_env(
            {
                "REDIS_CONNECTION_STRING": server.url,
                "EVENT_GRID_TOPIC_URI": f"http://127.0.0.1:{switch.port}/topic/api/events",
                "EVENT_GRID_KEY": "key",
                "BACKENDS": '{"/v1": "https://models.example.org"}',
            }
        )
    )
    yield services
    await services.events.aclose()
    await services.store.aclose()


@pytest.fixture
def topic(services: Services, monkeypatch: pytest.MonkeyPatch) -> Topic:
    monkeypatch.setattr(events_module, "PUBLISH_TIMEOUT_S", 0.5)
    return services.events


async def create(store: TaskStore, number: int) -> Task:
    body = Content("text/plain", 5)
    created = await store.create(NewTask(f"t{number}", "/v1/a", 60, body=body, inline_body=b"hello"))
    assert isinstance(created, Created)
    return created.task


async def test_of_publishes_in_a_row_only_the_first_waits_and_the_others_are_left_to_the_reconciler(
    services: Services, topic: Topic, switch: Switch, received: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await create(services.store, 1)
    switch.silence()
    async with asyncio.timeout(HANG_S):
        with pytest.raises(PublishFailed):
            await topic.publish([task])
        monkeypatch.setattr(events_module, "PUBLISH_TIMEOUT_S", 10 * HANG_S)
        before = switch.accepted
        for _ in range(100):
            with pytest.raises(PublishFailed):
                await topic.publish([task])
        assert switch.accepted - before <= 1
        assert topic.state == "unavailable"
        switch.flow()
        switch.cut()
        received.batches.clear()
        await topic.publish([task], insist=True)
        await topic.publish([task])
        assert received.batches[-2:] == [1, 1]
        assert topic.state == "ok"


async def test_what_an_outage_has_dammed_up_goes_out_in_bounded_batches_over_bounded_runs(
    services: Services, received: Events, server: RedisServer
) -> None:
    from cache_manager.reconciler import MAX_PUBLISHES, PUBLISH_BATCH, reconcile

    clock = Clock()
    store = TaskStore(RedisLink(opener(server.url)), StorePolicy(), clock)
    services = replace(services, store=store)
    await asyncio.gather(*(create(store, number) for number in range(5000)))
    clock.advance(60)
    of_a_run: list[int] = []
    while True:
        run, others = asyncio.ensure_future(reconcile(services)), 0
        while not run.done():
            assert await store.get("t1")
            others += 1
        if await run == 0:
            break
        of_a_run.append(len(received.task_ids) - sum(of_a_run))
        assert others > 1
    await store.aclose()
    assert max(received.batches) <= PUBLISH_BATCH
    assert len(of_a_run) > 2
    assert max(of_a_run) <= MAX_PUBLISHES + PARTITIONS * SWEEP_LIMIT
    assert sorted(received.task_ids) == sorted(f"t{number}" for number in range(5000))
