"""What one process holds open: the settings, and for each event loop the store, the publisher, the blobs, the
dispatcher.

What the rooms share is composed here and nowhere else. A clock, a link to Redis, a publisher and a transport can be
passed in, so tests, benchmarks and the simulation compose the app in the same way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from shared.bodies import BodyStore
from shared.dispatch.backend_client import BackendClient, BackendTransport
from shared.dispatch.callback_client import CallbackClient, CallbackTransport
from shared.dispatch.deliveries import Deliveries
from shared.dispatch.destinations import Destinations
from shared.dispatch.dispatcher import Dispatcher
from shared.dispatch.endpoint_bound import EndpointBound
from shared.dispatch.registry import BackendRegistry
from shared.events.event_grid import EventGridTopic
from shared.events.publisher import Publisher
from shared.resilience.limits import Limits
from shared.settings import Settings, SettingsError
from shared.store import (
    RedisAddress,
    RedisClient,
    RedisLink,
    RequestCounts,
    StorePolicy,
    StoreUnavailable,
    TaskStore,
    connect,
)
from shared.wakes import Wakes

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

log = logging.getLogger("task_backbone")


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that a handler needs. Clients belong to one event loop."""

    settings: Settings
    registry: BackendRegistry
    store: TaskStore
    request_counts: RequestCounts
    dispatcher: Dispatcher
    publisher: Publisher
    """For the topic whose events lead to dispatches."""
    bodies: BodyStore
    limits: Limits
    endpoint_bound: EndpointBound
    destinations: Destinations
    """Who may be told of tasks."""
    deliveries: Deliveries
    wakes: Wakes
    now_ms: Callable[[], int]
    """The time, for what does not depend on the clock of Redis."""
    _beside: set[asyncio.Task[None]] = field(default_factory=set["asyncio.Task[None]"], compare=False, repr=False)

    @classmethod
    def compose(
        cls,
        settings: Settings,
        *,
        registry: BackendRegistry | None = None,
        link: RedisLink | None = None,
        publisher: Publisher | None = None,
        transport: BackendTransport | None = None,
        callbacks: CallbackTransport | None = None,
        now_ms: Callable[[], int] | None = None,
        policy: StorePolicy | None = None,
    ) -> Services:
        """Compose the app for one event loop; each argument replaces the part that *settings* describe.

        Raises:
            SettingsError: a setting is bad.
        """
        bodies, limits = BodyStore(settings), Limits.of(settings)
        registry = registry or BackendRegistry(settings)
        link = link or RedisLink(_opener(settings), settings.durability)
        publisher = publisher or EventGridTopic(settings.event_grid_topic_uri, settings.event_grid_key)
        store = TaskStore(
            link,
            policy or StorePolicy.of(settings),
            registry.limit,
            now_ms,
            registry.rate,
            bounds_of=registry.owner_bounds,
        )
        completions = (
            EventGridTopic(settings.completions_topic_uri, settings.completions_key)
            if settings.publish_completions and settings.completions_topic_uri
            else None
        )
        clock = now_ms or (lambda: time.time_ns() // 1_000_000)
        dispatcher = Dispatcher(
            settings,
            registry,
            store,
            bodies,
            limits,
            transport or BackendClient(registry),
            publisher,
            completions,
        )
        destinations = Destinations(settings, registry)
        wakes = Wakes(lambda work: services.run_beside(work))
        deliveries = Deliveries(
            settings,
            destinations,
            store.callbacks,
            callbacks or CallbackClient(registry),
            clock,
            dispatcher.start,
            wakes,
        )
        dispatcher.note_callback = deliveries.note
        services = cls(
            settings=settings,
            registry=registry,
            store=store,
            request_counts=RequestCounts(link, now_ms),
            dispatcher=dispatcher,
            publisher=publisher,
            bodies=bodies,
            limits=limits,
            endpoint_bound=EndpointBound(store.endpoint_names),
            destinations=destinations,
            deliveries=deliveries,
            wakes=wakes,
            now_ms=clock,
        )

        async def start_due(partition: int) -> None:
            dispatcher.dispatch_granted(await store.starts.begin(partition))

        store.starts.wake = lambda partition, in_s: services.wakes.after(
            in_s, f"starts {partition}", partial(start_due, partition)
        )
        return services

    def run_beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run *work* beside the invocations, until the services are closed. Its failure is logged.

        Outside of an invocation the platform may end the process at any moment, so nothing may depend on the work's
        end.
        """

        async def run() -> None:
            try:
                await work
            except StoreUnavailable as error:
                log.warning("work beside the invocations ended, since Redis could not be reached: %s", error)
            except Exception:
                log.exception("Work beside the invocations failed")

        # It outlives the invocation that begins it, whose trace it is no part of.
        task = asyncio.create_task(run(), context=Context())
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        task.add_done_callback(lambda _: work.close())  # if it was cancelled before it began
        return task

    async def aclose(self) -> None:
        self.wakes.close()
        beside = [*self._beside]
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        async with AsyncExitStack() as closing:  # each, whatever becomes of the others
            for part in (self.store, self.bodies, self.publisher, self.deliveries, self.dispatcher):
                closing.push_async_callback(part.aclose)


class ServicesByLoop:
    """The services of a process: each event loop's are made at their first use.

    Raises:
        SettingsError: a setting is bad, which stops the app's start.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._registry = BackendRegistry(settings)
        Destinations(settings, self._registry)  # a bad one stops the start
        self._open_redis = _opener(settings)
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Services] = WeakKeyDictionary()
        self._duties: list[Callable[[Services], Coroutine[Any, Any, None]]] = []

    def keep_running(self, duty: Callable[[Services], Coroutine[Any, Any, None]]) -> None:
        """Have *duty* run beside the invocations of each event loop, from the first use of its services on, or from
        :meth:`start`."""
        self._duties.append(duty)

    def start(self) -> None:
        """Begin the duties now, if an event loop runs. Azure's Python worker loads the app in the loop of its
        invocations, and a process that has served none yet may be the only one left."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        self.current()

    def current(self) -> Services:
        """The running event loop's services."""
        loop = asyncio.get_running_loop()
        services = self._by_loop.get(loop)
        if services is None:
            link = RedisLink(self._open_redis, self.settings.durability)
            services = self._by_loop[loop] = Services.compose(self.settings, registry=self._registry, link=link)
            for duty in self._duties:
                services.run_beside(duty(services))
        return services


def _opener(settings: Settings) -> Callable[[], Awaitable[RedisClient]]:
    try:
        address = RedisAddress.parse(settings.redis_connection_string.get_secret_value())
    except ValueError as error:
        raise SettingsError(f"The app cannot start: setting REDIS_CONNECTION_STRING: it {error}.") from None
    return lambda: connect(address, _managed_identity, settings.durability)


def _managed_identity() -> AsyncTokenCredential:
    from azure.identity.aio import DefaultAzureCredential

    return DefaultAzureCredential()
