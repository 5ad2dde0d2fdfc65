from __future__ import annotations

import azure.functions as func
from pydantic import Field

from functions_http import http_function
from shared import telemetry
from shared.legacy_json import LegacyModel
from shared.problems import invalid
from shared.services import Services

blueprint = func.Blueprint()


class ProcessingReport(LegacyModel):
    """The body of ``CurrentProcessingUpsert`` (contract A3)."""

    api_path: str = Field(alias="ApiPath", min_length=1, max_length=256)
    service_cluster: str = Field(alias="ServiceCluster", min_length=1, max_length=256)
    increment_by: int = Field(alias="IncrementBy", default=0, ge=-1_000_000, le=1_000_000)
    decrement_by: int = Field(alias="DecrementBy", default=0, ge=-1_000_000, le=1_000_000)


@http_function(blueprint, "CurrentProcessingUpsert", methods=["POST"])
async def current_processing_upsert(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    report = ProcessingReport.parse(req.get_body())
    path = _with_slash(report.api_path)
    count = await services.store.report_requests(
        report.service_cluster, path, report.increment_by - report.decrement_by
    )
    telemetry.requests_in_flight(report.service_cluster, path, count)
    return func.HttpResponse(status_code=200)


@http_function(blueprint, "CurrentProcessingGet", methods=["GET", "POST"])
async def current_processing_get(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    cluster, path = req.params.get("cluster"), req.params.get("path")
    if not cluster or not path:
        raise invalid("cluster" if not cluster else "path", "the query parameter is missing")
    count = await services.store.requests(cluster, _with_slash(path))
    return func.HttpResponse(status_code=204) if count is None else func.HttpResponse(str(count))


def _with_slash(path: str) -> str:
    return "/" + path.removeprefix("/")
