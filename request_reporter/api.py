"""The legacy platform's two functions for requests in flight (contract A3, A4)."""

from __future__ import annotations

import asyncio

import azure.functions as func
from pydantic import Field

from shared import telemetry
from shared.http.functions import HttpFunctions
from shared.http.legacy_json import LegacyModel
from shared.http.problems import invalid
from shared.services import Services, ServicesByLoop

MAX_REPORTS = 1_000
INTERVALS_KEPT = 3
"""After so many silent intervals, the app drops a named reporter's share."""


class ProcessingReport(LegacyModel):
    """The body of ``CurrentProcessingUpsert`` (contract A3), or one element of it if the body is an array."""

    api_path: str = Field(alias="ApiPath", min_length=1, max_length=256)
    service_cluster: str = Field(alias="ServiceCluster", min_length=1, max_length=256)
    increment_by: int = Field(alias="IncrementBy", default=0, ge=-1_000_000, le=1_000_000)
    decrement_by: int = Field(alias="DecrementBy", default=0, ge=-1_000_000, le=1_000_000)
    instance: str | None = Field(alias="Instance", default=None, min_length=1, max_length=128)
    """The instance of the model service that reports. If it falls silent, the app drops its share of the count."""
    interval_seconds: float = Field(alias="IntervalSeconds", default=60, ge=1, le=3_600)
    """The instance reports at least once in this time, with increments of 0 if nothing changes. The app keeps its
    share for three intervals."""


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    functions = HttpFunctions(app, services)
    functions.add("CurrentProcessingUpsert", current_processing_upsert, methods=["POST"])
    functions.add("CurrentProcessingGet", current_processing_get, methods=["GET", "POST"])


async def current_processing_upsert(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    reports = ProcessingReport.parse_all(req.get_body(), MAX_REPORTS)
    await asyncio.gather(*(_count(report, services) for report in reports))
    return func.HttpResponse(status_code=200)


async def current_processing_get(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    cluster, path = req.params.get("cluster"), req.params.get("path")
    if not cluster or not path:
        raise invalid("cluster" if not cluster else "path", "the query parameter is missing")
    count = await services.request_counts.count(cluster, _with_slash(path))
    return func.HttpResponse(status_code=204) if count is None else func.HttpResponse(str(count))


async def _count(report: ProcessingReport, services: Services) -> None:
    path = _with_slash(report.api_path)
    count = await services.request_counts.report(
        report.service_cluster,
        path,
        report.increment_by - report.decrement_by,
        instance=report.instance,
        keep_s=INTERVALS_KEPT * report.interval_seconds,
    )
    telemetry.requests_in_flight(report.service_cluster, path, count)


def _with_slash(path: str) -> str:
    return "/" + path.removeprefix("/")
