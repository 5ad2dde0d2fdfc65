"""What Prometheus reads. Everything comes from Redis, so each instance of the app answers the same."""

from __future__ import annotations

import asyncio
from typing import Final

import azure.functions as func

from cache_manager.metrics import CONTENT_TYPE, Standing, metrics_text
from shared.http.functions import HttpFunctions
from shared.http.operators import Role
from shared.services import Services, ServicesByLoop
from shared.store import OTHER

MOST_PATHS: Final = 1_000
"""Of how many endpoints there are metrics, and of how many counters of requests. An endpoint has 63 series."""


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    HttpFunctions(app, services).add(
        "GetMetrics", get_metrics, route="v1/metrics", methods=["GET"], for_owners=False, role=Role.READ
    )


async def get_metrics(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    (standings, left_out), (requests, _) = await asyncio.gather(
        _standings(services), services.request_counts.page(MOST_PATHS)
    )
    text = metrics_text(standings, left_out, requests)
    return func.HttpResponse(text.encode(), headers={"Content-Type": CONTENT_TYPE})


async def _standings(services: Services) -> tuple[list[Standing], int]:
    """How endpoints stand, and how many were left out: first those that have no tasks."""
    store = services.store
    in_use, counted = await asyncio.gather(store.queues.paths(), store.series.paths())
    paths = [*sorted(in_use), *sorted({*counted} - in_use - {OTHER})]
    shown = paths[:MOST_PATHS]
    if not shown:
        return [], 0
    endpoints = [path for path in shown if path.startswith("/")]
    depths, totals = await asyncio.gather(store.queues.depths(*shown), store.series.totals(endpoints))
    return [Standing(path, depths[path], totals.get(path)) for path in sorted(shown)], len(paths) - len(shown)
