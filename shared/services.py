"""What one process holds open: the settings, and for its event loop the store, the topic, the blobs."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from shared import telemetry
from shared.backends import BackendRegistry
from shared.bodies import BodyStore
from shared.dispatcher import Dispatcher
from shared.events import Topic
from shared.limits import Limits
from shared.settings import Settings, SettingsError
from shared.task_store import QueuePolicy, RedisLink, StorePolicy, TaskQueues, TaskStore, connect
from shared.task_store.connection import RedisAddress, RedisClient

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential


RECORDING_MARGIN_S = 5.0
"""What a dispatch may take beyond its timeout to record the outcome, before its claim is taken for lost."""


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a handler needs. Clients belong to one event loop."""

    settings: Settings
    backends: BackendRegistry
    store: TaskStore
    queues: TaskQueues
    dispatcher: Dispatcher
    events: Topic
    """Where dispatches are asked for."""
    bodies: BodyStore
    limits: Limits

    @classmethod
    def of(cls, settings: Settings) -> Services:
        """
        Raises:
            SettingsError: a setting is bad.
        """
        try:
            address = RedisAddress.parse(settings.redis_connection_string.get_secret_value())
        except ValueError as error:
            raise SettingsError(f"The app cannot start: setting REDIS_CONNECTION_STRING: it {error}.") from None

        async def open_redis() -> RedisClient:
            return await connect(address, _managed_identity)

        link = RedisLink(open_redis)
        backends, bodies, limits = BackendRegistry(settings), BodyStore(settings), Limits.of(settings)
        queues = TaskQueues(
            link,
            QueuePolicy(
                claim_s=settings.republish_s,
                look_s=settings.republish_s,
                refused_s=settings.busy_retry_s,
                failed_s=settings.backoff_base_s,
                backlog=settings.max_backlog,
            ),
            backends.limit,
        )
        store = TaskStore(
            link,
            StorePolicy(
                republish_s=settings.republish_s,
                retention_s=settings.retention_s,
                max_attempts=settings.max_attempts,
                window_s=settings.dispatch_timeout_s + RECORDING_MARGIN_S,
                announce=settings.publish_completions,
            ),
            queues=queues,
        )
        completions = (
            Topic(settings.completions_topic_uri, settings.completions_key)
            if settings.publish_completions and settings.completions_topic_uri
            else None
        )
        return cls(
            settings=settings,
            backends=backends,
            store=store,
            queues=queues,
            dispatcher=Dispatcher(settings, backends, store, queues, bodies, limits, completions),
            events=Topic(settings.event_grid_topic_uri, settings.event_grid_key),
            bodies=bodies,
            limits=limits,
        )


@cache
def process_settings() -> Settings:
    """The environment's settings, checked when the app is loaded: a bad one stops the start.

    Raises:
        SettingsError: names what is wrong.
    """
    settings = Settings.from_env(os.environ)
    Services.of(settings)
    telemetry.configure(settings)
    return settings


_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Services] = WeakKeyDictionary()


def current_services() -> Services:
    """The running event loop's services, made on first use."""
    loop = asyncio.get_running_loop()
    services = _by_loop.get(loop)
    if services is None:
        services = _by_loop[loop] = Services.of(process_settings())
    return services


def _managed_identity() -> AsyncTokenCredential:
    from azure.identity.aio import DefaultAzureCredential

    return DefaultAzureCredential()
