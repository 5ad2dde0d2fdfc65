"""Publishing to Event Grid: a small event that names a task's attempt; never a URL, never a body."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from shared import telemetry
from shared.settings import Settings
from shared.task import Task

if TYPE_CHECKING:
    from azure.eventgrid.aio import EventGridPublisherClient

DISPATCH_EVENT = "backbone.task.dispatch"
DATA_VERSION = "1.0"
PUBLISH_TIMEOUT_S = 5.0


class PublishFailed(Exception):
    """Raised when Event Grid did not take the events. The tasks are safe: their deadlines publish them again."""


class EventPublisher:
    """The app's custom topic."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: EventGridPublisherClient | None = None
        self.last_outcome: Literal["ok", "unavailable", "untried"] = "untried"
        """``ok``, ``unavailable``, or ``untried`` by this process: the topic has nothing that could be asked."""

    async def publish(self, tasks: Sequence[Task]) -> None:
        """Ask for the dispatch of each task's present attempt, in one request.

        Raises:
            PublishFailed: Event Grid cannot be reached, or refuses.
        """
        if not tasks:
            return
        from azure.core.exceptions import AzureError
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
            try:
                # A create waits for this: when Event Grid hangs, the reconciler publishes instead.
                async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                    await cast("Any", self._open()).send(events)
                self.last_outcome = "ok"
            except (AzureError, OSError, TimeoutError) as error:
                self.last_outcome = "unavailable"
                raise PublishFailed(type(error).__name__) from error

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.close()

    def _open(self) -> EventGridPublisherClient:
        if self._client is None:
            from azure.core.credentials import AzureKeyCredential
            from azure.eventgrid.aio import EventGridPublisherClient
            from azure.identity.aio import DefaultAzureCredential

            key = self._settings.event_grid_key
            credential = AzureKeyCredential(key.get_secret_value()) if key else DefaultAzureCredential()
            self._client = EventGridPublisherClient(
                self._settings.event_grid_topic_uri,
                credential,
                retry_total=1,
                connection_timeout=2,
                read_timeout=5,
            )
        return self._client
