"""Whether the app can do its work, for probes. Needs no key and exposes no secrets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Literal

import azure.functions as func
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_pascal

from shared.bodies import BlobsUnavailable
from shared.http.functions import HttpFunctions, json_response
from shared.services import Services, ServicesByLoop
from shared.store import StoreUnavailable

PROBE_TIMEOUT_S = 3.0

Reachable = Literal["ok", "unavailable"]


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    # Not counted: a probe must not take a busy process for a dead one.
    HttpFunctions(app, services).add(
        "Health", health, route="v1/health", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS, counted=False
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


class Health(BaseModel):
    """``degraded``: tasks are safe, but large ones are refused, or some start late."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True)

    status: Literal["ok", "degraded", "unavailable"]
    dependencies: Dependencies


async def health(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    redis, blobs, backends = await asyncio.gather(
        _answers(services.store.ping(), StoreUnavailable),
        _answers(services.bodies.ping(), BlobsUnavailable),
        _backends(services),
    )
    events = services.publisher.state if services.store.rounds.events_are_claimed else "unavailable"
    found = Dependencies(redis=redis, blob_storage=blobs, event_grid=events, backends=backends)
    is_degraded = "unavailable" in (found.blob_storage, found.event_grid, found.backends)
    status = "unavailable" if redis != "ok" else "degraded" if is_degraded else "ok"
    document = Health(status=status, dependencies=found).model_dump(by_alias=True)
    return json_response(document, 503 if status == "unavailable" else 200)


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
