"""Support for the tests of the Event Grid emulator: a scripted subscriber, and an emulator under a manual clock."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from aiohttp import web

from local.event_grid.app import create_app
from local.event_grid.clock import ManualClock
from local.event_grid.dead_letters import DeadLetters
from local.event_grid.emulator import Emulator
from local.event_grid.faults import Faults
from local.event_grid.journal import Journal
from local.event_grid.schema import Event, parse_events
from local.event_grid.subscription import SubscriptionSettings
from tests.waiting import PATIENCE_S, until

KEY = "c2VjcmV0IGtleQ=="
TOPIC_ID = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local"
    "/providers/Microsoft.EventGrid/topics/tasks"
)
EVENTS_PATH = "/tasks/api/events"
WAIT_S = PATIENCE_S


def event(event_id: str = "1", **fields: Any) -> Event:
    """An event in Event Grid's schema, as a publisher sends it."""
    return {
        "id": event_id,
        "subject": "/v1/detector",
        "eventType": "task",
        "eventTime": "2026-11-22T10:12:44.1234567Z",
        "dataVersion": "1.0",
        "data": {"taskId": event_id},
        **fields,
    }


def cloud_event(event_id: str = "1", **fields: Any) -> Event:
    return {"specversion": "1.0", "id": event_id, "source": "/gateway", "type": "task", "data": [1], **fields}


@dataclass
class Received:
    method: str
    headers: dict[str, str]
    body: Any

    @property
    def kind(self) -> str | None:
        return self.headers.get("aeg-event-type")

    @property
    def delivery_count(self) -> int:
        return int(self.headers["aeg-delivery-count"])


@dataclass
class Subscriber:
    """A webhook that echoes validation codes, and answers events with the next of `answers`, then with 200."""

    answers: deque[int] = field(default_factory=deque)
    handshakes: deque[Callable[[str], web.Response]] = field(default_factory=deque)
    """Replacements for the right answers to handshakes; each gets the validation code."""
    requests: list[Received] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    """The query of each request, exactly as it was sent."""
    hangs: bool = False
    """Whether the subscriber leaves all requests without an answer."""
    url: str = ""
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _never: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def notifications(self) -> list[Received]:
        return [request for request in self.requests if request.kind == "Notification"]

    @property
    def events(self) -> list[Event]:
        return [item for request in self.notifications for item in _as_list(request.body)]

    @property
    def ids(self) -> list[str]:
        return [received["id"] for received in self.events]

    async def until(self, count: int, kind: str = "Notification") -> None:
        """Waits until `count` requests of `kind` have arrived in all."""

        def is_there() -> bool:
            return sum(request.kind == kind for request in self.requests) >= count

        async with asyncio.timeout(WAIT_S), self._changed:
            await self._changed.wait_for(is_there)

    async def handle(self, request: web.Request) -> web.Response:
        body: Any = await request.json() if request.can_read_body else None
        self.requests.append(Received(request.method, dict(request.headers), body))
        self.queries.append(request.raw_path.partition("?")[2])
        async with self._changed:
            self._changed.notify_all()
        if self.hangs:
            await self._never.wait()
        if request.method == "OPTIONS":
            return self._handshake(allow, request.headers["WebHook-Request-Origin"])
        if request.headers["aeg-event-type"] == "SubscriptionValidation":
            return self._handshake(echo, body[0]["data"]["validationCode"])
        return web.Response(status=self.answers.popleft() if self.answers else 200)

    def _handshake(self, right_answer: Callable[[str], web.Response], question: str) -> web.Response:
        answer = self.handshakes.popleft() if self.handshakes else right_answer
        return answer(question)

    def release(self) -> None:
        self._never.set()


def echo(code: str) -> web.Response:
    return web.json_response({"validationResponse": code})


def allow(origin: str) -> web.Response:
    return web.Response(headers={"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": "*"})


def _as_list(body: Any) -> Iterable[Event]:
    return body if isinstance(body, list) else [body]


@asynccontextmanager
async def a_subscriber(port: int = 0) -> AsyncIterator[Subscriber]:
    """A listening subscriber."""
    subscriber = Subscriber()
    app = web.Application(client_max_size=8 * 1024 * 1024)
    app.router.add_route("*", "/hook", subscriber.handle)
    runner = web.AppRunner(app, shutdown_timeout=0, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    subscriber.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield subscriber
    finally:
        subscriber.release()
        await runner.cleanup()


@dataclass
class Stand:
    emulator: Emulator
    clock: ManualClock
    subscriber: Subscriber

    async def subscribe(self, name: str = "worker", **settings: Any) -> None:
        """Creates the subscription and waits until it is active."""
        await self.propose(name, **settings)
        await self.until_active(name)

    async def propose(self, name: str = "worker", **settings: Any) -> None:
        await self.emulator.put_subscription(
            name, SubscriptionSettings.model_validate({"endpoint": self.subscriber.url, **settings})
        )

    def state(self, name: str = "worker") -> str:
        subscription = self.emulator.subscription(name)
        assert subscription is not None
        return subscription.public()["state"]

    async def until_active(self, name: str = "worker") -> None:
        await until(lambda: self.state(name) == "Active")

    async def until_handshake_failed(self, name: str = "worker") -> str:
        """Waits until the handshake has failed, and returns the reason."""
        subscription = self.emulator.subscription(name)
        assert subscription is not None
        await until(lambda: subscription.handshake_failure)
        return subscription.handshake_failure or ""

    async def publish(self, *events: Event) -> None:
        """Publishes without HTTP, and drains."""
        await self.accept(*events)
        await self.drain()

    async def accept(self, *events: Event) -> None:
        is_cloud = "specversion" in events[0]
        content_type = f"application/{'cloudevents-batch+' if is_cloud else ''}json"
        await self.emulator.publish(parse_events(json.dumps(events).encode(), content_type, TOPIC_ID))

    async def drain(self) -> None:
        assert await self.emulator.drain(WAIT_S)

    async def after(self, seconds: float) -> None:
        """Advances the emulated time, and waits for everything that becomes due."""
        self.clock.advance(seconds)
        await self.drain()

    def stats(self) -> dict[str, int]:
        """The counters other than zero."""
        return {name: count for name, count in self.emulator.public_stats().items() if count}


@asynccontextmanager
async def a_stand(
    faults: Faults | None = None, dead_letters: DeadLetters | None = None, journal: Path | None = None
) -> AsyncIterator[Stand]:
    """An emulator under a manual clock and without jitter, and one subscriber."""
    clock = ManualClock()
    async with (
        a_subscriber() as subscriber,
        Emulator(
            "tasks",
            url="http://127.0.0.1:1",
            clock=clock,
            journal=Journal(journal),
            dead_letters=dead_letters,
            faults=faults or Faults(jitter=0),
        ) as emulator,
    ):
        yield Stand(emulator, clock, subscriber)
        subscriber.release()


class Client(httpx.AsyncClient):
    """An HTTP client of a stand's emulator; it sends the topic's key."""

    def __init__(self, stand: Stand) -> None:
        app = create_app(stand.emulator, key=KEY)
        super().__init__(
            transport=httpx.ASGITransport(app),
            base_url="http://127.0.0.1",
            headers={"aeg-sas-key": KEY},
            params={"api-version": "2018-01-01"},
        )

    async def publish(self, batch: Any, content_type: str = "application/json") -> httpx.Response:
        content = batch if isinstance(batch, bytes) else json.dumps(batch).encode()
        return await self.post(EVENTS_PATH, content=content, headers={"content-type": content_type})


@asynccontextmanager
async def a_client() -> AsyncIterator[tuple[Client, Stand]]:
    async with a_stand() as stand, Client(stand) as client:
        yield client, stand


def assert_is_error(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status
    error = response.json()["error"]
    assert error.keys() == {"code", "message", "details"}
    assert error["code"] == code
    assert error["message"]
    assert all(detail.keys() == {"code", "message"} for detail in error["details"])
