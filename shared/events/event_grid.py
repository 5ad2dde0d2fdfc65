"""Publishes to Azure Event Grid."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from pydantic import SecretStr

from shared import telemetry
from shared.events.publisher import COMPLETION_EVENT, DISPATCH_EVENT, PublishFailed
from shared.resilience.circuit_breaker import CircuitBreaker, CircuitOpen, Reachability
from shared.tasks.outcomes import SlotGrant
from shared.tasks.task import Task

if TYPE_CHECKING:
    from azure.eventgrid.aio import EventGridPublisherClient

DATA_VERSION: Final = "1.0"
PUBLISH_TIMEOUT_S = 5.0
STATUS_CHARS: Final = 200
"""How much of the status text an event has: a request to Event Grid has 1 MB at most."""
REQUESTS = 1
"""How many requests are in flight to a topic at a time. What is published meanwhile goes with the next."""
REQUEST_EVENTS = 256
REQUEST_BYTES = 900_000
_ENVELOPE_BYTES: Final = 1536
"""The most that an event has besides a path and a status text, whose characters may take 12 bytes each in JSON."""


@dataclass(eq=False, slots=True)
class _PendingPublish:
    """The events of one caller, which waits until they are sent."""

    events: list[Any]
    size_bytes: int
    sent: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def succeed(self) -> None:
        if not self.sent.done():  # else its caller has given up
            self.sent.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.sent.done():
            self.sent.set_exception(error)


class EventGridTopic:
    """One Event Grid topic, a :class:`Publisher`. Authenticates by its key, or without one by the managed
    identity."""

    def __init__(self, uri: str, key: SecretStr | None) -> None:
        self._uri = uri
        self._host = urlsplit(uri).hostname or ""
        self._key = key
        self._client: EventGridPublisherClient | None = None
        self._circuit = CircuitBreaker((PublishFailed,))
        self._pending: deque[_PendingPublish] = deque()
        self._requests = 0
        self._posts: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> Reachability:
        # A topic has nothing that could be asked, so the last publish has to tell.
        return self._circuit.state

    async def publish_dispatches(self, tasks: Sequence[Task], *, bypass_circuit: bool = False) -> None:
        if not tasks:
            return
        now = datetime.now(UTC).isoformat()
        ids = [SlotGrant.of(task).entry_id for task in tasks]
        with telemetry.producer_spans(tasks, ids, self._host) as contexts:
            # Not EventGridEvent, which takes the SDK twice the time.
            events = [
                {
                    "id": event_id,
                    "subject": f"tasks/{task.id}",
                    "eventType": DISPATCH_EVENT,
                    "eventTime": now,
                    "dataVersion": DATA_VERSION,
                    "data": {"TaskId": task.id, "Attempt": task.attempt, **context},
                }
                for task, event_id, context in zip(tasks, ids, contexts, strict=True)
            ]
            await self._send(events, len(events) * _ENVELOPE_BYTES, bypass_circuit)

    async def publish_completions(self, tasks: Sequence[Task], *, bypass_circuit: bool = False) -> None:
        if not tasks:
            return
        from azure.core.messaging import CloudEvent

        # A completion that is published twice has the same id.
        ids = [f"{task.id}.{task.attempt}.{task.state}" for task in tasks]
        with telemetry.producer_spans(tasks, ids, self._host) as contexts:
            events = [
                CloudEvent(
                    id=event_id,
                    source="/task-backbone",
                    subject=f"tasks/{task.id}",
                    type=COMPLETION_EVENT + task.state,
                    time=datetime.fromtimestamp(task.updated_ms / 1000, UTC),
                    data={
                        "TaskId": task.id,
                        "BackendStatus": task.state.value,
                        "Status": task.status[:STATUS_CHARS],
                        "EndpointPath": task.path,
                        "Attempt": task.attempt,
                    },
                    extensions=context,
                )
                for task, event_id, context in zip(tasks, ids, contexts, strict=True)
            ]
            size_bytes = sum(_ENVELOPE_BYTES + 12 * (len(task.path) + STATUS_CHARS) for task in tasks)
            await self._send(events, size_bytes, bypass_circuit)

    async def _send(self, events: list[Any], size_bytes: int, bypass_circuit: bool) -> None:
        from azure.core.exceptions import AzureError

        async def attempt() -> None:
            pending = _PendingPublish(events, size_bytes)
            self._pending.append(pending)
            if self._requests < REQUESTS:
                self._requests += 1
                # When the loop runs it, everything that is published in this tick has joined.
                post = asyncio.ensure_future(self._post())
                self._posts.add(post)
                post.add_done_callback(self._posts.discard)
            try:
                # A caller waits for this: if Event Grid hangs, the reconciler publishes instead.
                async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                    await pending.sent
            except (AzureError, OSError, TimeoutError) as error:
                raise PublishFailed(type(error).__name__) from error

        try:
            # The attempt is its own probe: a topic has nothing else to ask, and an event that comes twice does no
            # harm.
            await self._circuit.call(attempt, probe=attempt, bypass_circuit=bypass_circuit)
        except CircuitOpen as error:
            raise PublishFailed("the last event could not be published") from error

    async def _post(self) -> None:
        try:
            while batch := self._next_batch():
                await self._request(batch)
        finally:
            # Here, not when the task is known to be done: a caller of the last request may publish before that.
            self._requests -= 1

    async def _request(self, batch: list[_PendingPublish]) -> None:
        events = [event for pending in batch for event in pending.events]
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                await cast("Any", self._open()).send(events)
        except Exception as error:  # whatever it is, it is the callers' answer
            for pending in batch:
                pending.fail(error)
        else:
            for pending in batch:
                pending.succeed()

    def _next_batch(self) -> list[_PendingPublish]:
        batch: list[_PendingPublish] = []
        count = size_bytes = 0
        while self._pending:
            pending = self._pending[0]
            if not pending.sent.done():
                count += len(pending.events)
                size_bytes += pending.size_bytes
                if batch and (count > REQUEST_EVENTS or size_bytes > REQUEST_BYTES):
                    break
                batch.append(pending)
            self._pending.popleft()
        return batch

    async def aclose(self) -> None:
        posts = [*self._posts]
        for post in posts:
            post.cancel()
        await asyncio.gather(*posts, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    def _open(self) -> EventGridPublisherClient:
        if self._client is None:
            from azure.core.credentials import AzureKeyCredential
            from azure.eventgrid.aio import EventGridPublisherClient

            if self._key:
                credential = AzureKeyCredential(self._key.get_secret_value())
            else:
                from azure.identity.aio import DefaultAzureCredential

                credential = DefaultAzureCredential()
            self._client = EventGridPublisherClient(
                self._uri,
                credential,
                retry_total=1,
                connection_timeout=2,
                read_timeout=5,
            )
        return self._client
