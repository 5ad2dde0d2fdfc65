"""An Event Grid that accepts requests and does not answer, and its recovery."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from local.redis_server import RedisServer
from shared.dispatch.dispatcher import Dispatcher
from shared.events import event_grid as events_module
from shared.events.event_grid import EventGridTopic
from shared.events.publisher import PublishFailed
from shared.services import Services
from shared.settings import Settings
from shared.store import RedisLink, TaskStore
from shared.tasks.outcomes import Claimed, Created, Granted, SlotGrant
from shared.tasks.task import Content, NewTask, Task
from tests.degradation.switch import Switch
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.policies import store_policy
from tests.waiting import PATIENCE_S

HANG_S = PATIENCE_S
PATH = "/v1/a"


class Events:
    """A topic that accepts everything and records it."""

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
async def services(server: RedisServer, switch: Switch, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Services]:
    monkeypatch.setattr(events_module, "PUBLISH_TIMEOUT_S", PATIENCE_S)
    services = Services.compose(
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
    await services.aclose()


@pytest.fixture
def topic(services: Services, monkeypatch: pytest.MonkeyPatch) -> EventGridTopic:
    monkeypatch.setattr(events_module, "PUBLISH_TIMEOUT_S", 0.5)
    assert isinstance(services.publisher, EventGridTopic)
    return services.publisher


async def create(store: TaskStore, number: int) -> Task:
    body = Content("text/plain", 5)
    created = await store.create_unqueued(NewTask(f"t{number}", PATH, 60, body=body, inline_body=b"hello"))
    assert isinstance(created, Created)
    return created.task


async def test_only_the_first_of_many_publishes_waits_for_a_silent_event_grid(
    services: Services, topic: EventGridTopic, switch: Switch, received: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await create(services.store, 1)
    switch.silence()
    async with asyncio.timeout(HANG_S):
        with pytest.raises(PublishFailed):
            await topic.publish_dispatches([task])
        monkeypatch.setattr(events_module, "PUBLISH_TIMEOUT_S", 10 * HANG_S)
        before = switch.accepted
        for _ in range(100):
            with pytest.raises(PublishFailed):
                await topic.publish_dispatches([task])
        assert switch.accepted - before <= 1
        assert topic.state == "unavailable"
        switch.flow()
        switch.cut()
        received.batches.clear()
        await topic.publish_dispatches([task], bypass_circuit=True)
        await topic.publish_dispatches([task])
        assert received.batches[-2:] == [1, 1]
        assert topic.state == "ok"


async def test_backlog_after_an_outage_is_dispatched_only_as_slots_allow(
    services: Services, received: Events, server: RedisServer
) -> None:
    from cache_manager.reconciler import reconcile

    clock = Clock()

    class LinkToSeveralServers(RedisLink):
        """As on a cluster, which claims no attempt in the step that grants its slot."""

        async def combined(self, name: str, *args: bytes) -> None:
            return None

    store = TaskStore(LinkToSeveralServers(opener(server.url)), store_policy(), lambda _: 100, clock)
    queues = store.queues
    dispatched: list[SlotGrant] = []

    class Dispatching(Dispatcher):
        def dispatch_granted(self, granted: Iterable[Granted], *, but: SlotGrant | None = None) -> bool:
            dispatched.extend(grant for each in granted for grant in each.grants)
            return False

    dispatcher = Dispatching(
        services.settings,
        services.registry,
        store,
        services.bodies,
        services.limits,
        services.dispatcher._backend,
        services.publisher,
        None,
    )
    services = replace(services, store=store, dispatcher=dispatcher)
    await asyncio.gather(*(create(store, number) for number in range(5000)))
    clock.advance(60)
    other_calls = 0
    run = asyncio.ensure_future(reconcile(services))
    while not run.done():
        assert await store.get("t1")
        other_calls += 1
    assert await run == 5000
    assert other_calls > 1
    assert len(dispatched) == 1, "the backend has not answered the first one yet"
    assert (await queues.status(PATH)).waiting == 4999
    holding = 1
    for grant in dispatched:  # which grows meanwhile
        if holding == 100 and grant == dispatched[-1]:
            break
        task = await store.claim(grant.task_id, grant.attempt)
        assert isinstance(task, Claimed)
        dispatcher.dispatch_granted(await store.accept(task.task))
        holding = (await queues.status(PATH)).holding
    assert holding == 100, "the limit is 100, and the others wait"
    clock.advance(31)
    await reconcile(services)
    assert received.task_ids == [dispatched[-1].task_id], "only the grant that was not claimed"
    await store.aclose()
