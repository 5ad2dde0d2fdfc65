"""Publishing to Event Grid: that a task's attempt is to be dispatched, or that a task has ended.

Events are small: never a URL, never a body.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import SecretStr

from shared import telemetry
from shared.circuit import Circuit, CircuitOpen
from shared.task import Task

if TYPE_CHECKING:
    from azure.eventgrid.aio import EventGridPublisherClient

DISPATCH_EVENT = "backbone.task.dispatch"
COMPLETION_EVENT = "backbone.task."
"""And then the terminal state."""
DATA_VERSION = "1.0"
PUBLISH_TIMEOUT_S = 5.0
STATUS_CHARS = 200
"""What of the status text an event tells: a request to Event Grid has 1 MB at most."""
REQUESTS = 2
"""How many requests are on their way to a topic at a time. What is published meanwhile goes with the next."""
REQUEST_EVENTS = 256
REQUEST_BYTES = 900_000
_ENVELOPE_BYTES = 1536
"""What an event has at most beside a path and a status text, whose characters may take 12 bytes each in JSON."""


class PublishFailed(Exception):
    """Raised when Event Grid did not take the events. The tasks are safe: their deadlines publish them again."""


@dataclass(eq=False, slots=True)
class _Parcel:
    """The events of one caller, who waits for their being sent."""

    events: list[Any]
    size_bytes: int
    sent: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def succeed(self) -> None:
        if not self.sent.done():  # else its caller has given up
            self.sent.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.sent.done():
            self.sent.set_exception(error)


class Topic:
    """One Event Grid topic, entered with its key, or without one with the app's managed identity."""

    def __init__(self, uri: str, key: SecretStr | None) -> None:
        self._uri = uri
        self._key = key
        self._client: EventGridPublisherClient | None = None
        self._circuit = Circuit((PublishFailed,))
        self._waiting: deque[_Parcel] = deque()
        self._posts: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> Literal["ok", "unavailable", "untried"]:
        """As this process found it when it last published: a topic has nothing that could be asked."""
        return self._circuit.state

    async def publish(self, tasks: Sequence[Task], *, insist: bool = False) -> None:
        """Ask for the dispatch of each task's present attempt, in one request.

        While Event Grid does not answer, one call at a time tries it and the others fail at once, unless they
        *insist*, as who comes alone and comes back may.

        Raises:
            PublishFailed: Event Grid cannot be reached, or refuses.
        """
        if not tasks:
            return
        from azure.eventgrid import EventGridEvent

        with telemetry.producer_spans(tasks) as contexts:
            events = [
                EventGridEvent(
                    id=f"{task.id}.{task.attempt}",
                    subject=f"tasks/{task.id}",
                    event_type=DISPATCH_EVENT,
                    data_version=DATA_VERSION,
                    data={"TaskId": task.id, "Attempt": task.attempt, **context},
                )
                for task, context in zip(tasks, contexts, strict=True)
            ]
            await self._send(events, len(events) * _ENVELOPE_BYTES, insist)

    async def announce(self, tasks: Sequence[Task], *, insist: bool = False) -> None:
        """Say that tasks have ended, as CloudEvents in one request; *insist* as in :meth:`publish`.

        Raises:
            PublishFailed: Event Grid cannot be reached, or refuses.
        """
        if not tasks:
            return
        from azure.core.messaging import CloudEvent

        with telemetry.producer_spans(tasks) as contexts:
            await self._send(
                [
                    CloudEvent(
                        # The same end announced twice has the same id.
                        id=f"{task.id}.{task.attempt}.{task.state}",
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
                    for task, context in zip(tasks, contexts, strict=True)
                ],
                sum(_ENVELOPE_BYTES + 12 * (len(task.path) + STATUS_CHARS) for task in tasks),
                insist,
            )

    async def _send(self, events: list[Any], size_bytes: int, insist: bool) -> None:
        from azure.core.exceptions import AzureError

        async def attempt() -> None:
            parcel = _Parcel(events, size_bytes)
            self._waiting.append(parcel)
            if len(self._posts) < REQUESTS:
                # When the loop comes to it, all that is published in this tick has joined.
                post = asyncio.ensure_future(self._post())
                self._posts.add(post)
                post.add_done_callback(self._posts.discard)
            try:
                # A caller waits for this: when Event Grid hangs, the reconciler publishes instead.
                async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                    await parcel.sent
            except (AzureError, OSError, TimeoutError) as error:
                raise PublishFailed(type(error).__name__) from error

        try:
            # There is nothing else that a topic could be asked, and an event that comes twice does no harm.
            await self._circuit.call(attempt, probe=attempt, insist=insist)
        except CircuitOpen as error:
            raise PublishFailed("the last event could not be published") from error

    async def _post(self) -> None:
        while parcels := self._next():
            events = [event for parcel in parcels for event in parcel.events]
            try:
                async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                    await cast("Any", self._open()).send(events)
            except Exception as error:
                for parcel in parcels:
                    parcel.fail(error)
            else:
                for parcel in parcels:
                    parcel.succeed()

    def _next(self) -> list[_Parcel]:
        parcels: list[_Parcel] = []
        count = size_bytes = 0
        while self._waiting:
            parcel = self._waiting[0]
            if not parcel.sent.done():
                count += len(parcel.events)
                size_bytes += parcel.size_bytes
                if parcels and (count > REQUEST_EVENTS or size_bytes > REQUEST_BYTES):
                    break
                parcels.append(parcel)
            self._waiting.popleft()
        return parcels

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
