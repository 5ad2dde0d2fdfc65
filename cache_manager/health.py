"""Whether the app can do its work, for probes. Needs no key and exposes no secrets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal
from weakref import WeakKeyDictionary

import azure.functions as func
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_pascal

from shared.bodies import BlobsUnavailable
from shared.http.functions import HttpFunctions, json_response
from shared.http.operators import Role
from shared.services import Services, ServicesByLoop
from shared.store import EvictionState, StoreUnavailable

PROBE_TIMEOUT_S = 3.0
FRESH_S = 1.0
"""How long an answer is given again: probes need no key, and each look costs a call of Redis and of Blob Storage."""

Reachable = Literal["ok", "unavailable"]


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    # Not counted: a probe must not take a busy process for a dead one, nor one whose probe has odd parameters.
    HttpFunctions(app, services).add(
        "Health",
        health,
        route="v1/health",
        methods=["GET", "HEAD"],
        auth_level=func.AuthLevel.ANONYMOUS,
        counted=False,
        query=None,
        role=Role.READ,
    )


class Dependencies(BaseModel):
    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    redis: Reachable
    blob_storage: Reachable
    event_grid: Literal["ok", "unavailable", "untried"]
    """By the outcome of this process's last publish. ``unavailable`` too while events are taken, and stay
    unclaimed."""
    backends: Literal["ok", "unavailable", "unknown"]
    """``unavailable``: tasks wait for at least one model service that is away or no longer registered. The queues say
    which. ``unknown``: Redis does not answer."""
    eviction: EvictionState
    """``unsafe``: Redis deletes tasks when it is full, for its eviction policy is not ``noeviction``. ``unknown``: it
    does not say, as some managed ones. At most a minute old."""


class Health(BaseModel):
    """``degraded``: large tasks are refused, some wait for their model service, or a full Redis
    would delete some."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    status: Literal["ok", "degraded", "unavailable"]
    dependencies: Dependencies
    max_body_bytes: int
    """The largest body or result that the app takes."""
    max_upload_bytes: int
    """The largest one that clients can [upload themselves](docs/large-files.md); 0 if they can upload none."""
    host_body_bytes: int | None
    """How many bytes of bodies the Functions host may hold at a time in an instance: its largest body times its HTTP
    concurrency. Null: any number."""


class LatestHealth:
    """The health of one event loop's services. Calls of the same second share one look."""

    def __init__(self, look: Callable[[], Awaitable[Health]], now_s: Callable[[], float]) -> None:
        self._look = look
        self._now_s = now_s
        self._found: asyncio.Future[Health] | None = None
        self._found_s = 0.0

    async def get(self) -> Health:
        found = self._found
        if found is None or (found.done() and self._now_s() >= self._found_s + FRESH_S):
            found = self._found = asyncio.ensure_future(self._find())
        return await asyncio.shield(found)  # a caller that is cancelled takes it from no other

    async def _find(self) -> Health:
        try:
            return await self._look()
        finally:
            self._found_s = self._now_s()


_latest: WeakKeyDictionary[asyncio.AbstractEventLoop, LatestHealth] = WeakKeyDictionary()


async def health(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    loop = asyncio.get_running_loop()
    latest = _latest.get(loop)
    if latest is None:
        latest = _latest[loop] = LatestHealth(lambda: look(services), loop.time)
    found = await latest.get()
    return json_response(found.model_dump(by_alias=True), 503 if found.status == "unavailable" else 200)


async def look(services: Services) -> Health:
    """Ask the dependencies."""
    (redis, eviction), blobs, backends = await asyncio.gather(
        _redis(services),
        _answers(services.bodies.ping(), BlobsUnavailable),
        _backends(services),
    )
    events = services.publisher.state if services.store.rounds.events_are_claimed else "unavailable"
    found = Dependencies(redis=redis, blob_storage=blobs, event_grid=events, backends=backends, eviction=eviction)
    is_degraded = eviction == "unsafe" or "unavailable" in (found.blob_storage, found.event_grid, found.backends)
    status = "unavailable" if redis != "ok" else "degraded" if is_degraded else "ok"
    return Health(
        status=status,
        dependencies=found,
        max_body_bytes=services.settings.largest_body_bytes,
        max_upload_bytes=services.bodies.most_upload_bytes,
        host_body_bytes=services.settings.host_body_bytes,
    )


async def _redis(services: Services) -> tuple[Reachable, EvictionState]:
    reachable = await _answers(services.store.ping(), StoreUnavailable)
    if reachable != "ok":
        return reachable, "unknown"
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return reachable, await services.store.eviction.state()
    except TimeoutError:
        return reachable, "unknown"


async def _backends(services: Services) -> Literal["ok", "unavailable", "unknown"]:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return "unavailable" if await services.store.queues.outages() else "ok"
    except (StoreUnavailable, TimeoutError):
        return "unknown"


async def _answers(ping: Awaitable[None], unavailable: type[Exception]) -> Reachable:
    try:
        # Sooner than most probes give up.
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await ping
    except (unavailable, TimeoutError):
        return "unavailable"
    return "ok"
