"""The legacy platform's two functions for requests in flight (contract A3, A4)."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar
from urllib.parse import parse_qs

import azure.functions as func
from pydantic import BeforeValidator, Field

from shared import gauges
from shared.http.functions import HttpFunctions, query_string
from shared.http.legacy_json import LegacyModel, as_text
from shared.http.problems import invalid, too_many_reporters
from shared.services import Services, ServicesByLoop
from shared.store import RequestReport, TooManyReporters

MAX_REPORTS = 1_000
DEFAULT_INTERVAL_S = 60.0
INTERVALS_KEPT = 3
"""After so many silent intervals, the app drops a named reporter's share."""
_Text = Annotated[str, Field(max_length=256)]
_Whole = Annotated[int, Field(ge=-1_000_000, le=1_000_000)]
_WholeText = Annotated[str, Field(pattern=r"^\s*[+-]?[0-9]{1,6}\s*$")]


def _null_is_empty(value: Any) -> Any:
    return "" if value is None else value


def _null_is_default(value: Any) -> Any:
    return DEFAULT_INTERVAL_S if value is None else value


def _as_whole(value: Any) -> Any:
    """A number from what plainly means one."""
    if value is None or isinstance(value, bool):
        return int(value or 0)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", value):
        return int(value)
    return value


_Name = Annotated[
    _Text,
    BeforeValidator(as_text),
    BeforeValidator(_null_is_empty, json_schema_input_type=_Text | float | bool | None),
]
_Count = Annotated[_Whole, BeforeValidator(_as_whole, json_schema_input_type=_Whole | _WholeText | bool | None)]

_Seconds = Annotated[float, Field(ge=1, le=3_600)]
_Interval = Annotated[float, BeforeValidator(_null_is_default, json_schema_input_type=_Seconds | None)]


class ProcessingReport(LegacyModel):
    """The body of ``CurrentProcessingUpsert`` (contract A3), or one element of it if the body is an array."""

    most_bytes: ClassVar[int | None] = 2 * 1024 * 1024

    api_path: _Name = Field(alias="ApiPath")
    service_cluster: _Name = Field(alias="ServiceCluster")
    """May be empty, as the legacy platform's chart leaves it."""
    increment_by: _Count = Field(alias="IncrementBy", default=0)
    decrement_by: _Count = Field(alias="DecrementBy", default=0)
    instance: str | None = Field(alias="Instance", default=None, min_length=1, max_length=128)
    """The instance of the model service that reports. If it falls silent, the app drops its share of the count."""
    interval_seconds: _Interval = Field(alias="IntervalSeconds", default=DEFAULT_INTERVAL_S, ge=1, le=3_600)
    """The instance reports at least once in this time, with increments of 0 if nothing changes. The app keeps its
    share for three intervals."""


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    functions = HttpFunctions(app, services)
    functions.add(
        "CurrentProcessingUpsert",
        current_processing_upsert,
        methods=["POST"],
        takes_body=True,
        query=None,
        for_owners=False,
    )
    functions.add(
        "CurrentProcessingGet", current_processing_get, methods=["GET", "POST"], query=None, for_owners=False
    )


async def current_processing_upsert(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    parsed = await ProcessingReport.parse_all(req.get_body(), MAX_REPORTS)
    reports = [_report(each) for each in parsed]
    try:
        counts = await services.request_counts.report_all(reports)
    except TooManyReporters as error:
        raise too_many_reporters(str(error)) from error
    for report, count in zip(reports, counts, strict=True):
        gauges.REQUESTS.set(count, cluster=report.cluster, path=report.path)
    return func.HttpResponse(status_code=200)


async def current_processing_get(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    cluster, path = _parameter(req, "cluster"), _parameter(req, "path")
    count = await services.request_counts.count(cluster, _path(path))
    return func.HttpResponse(status_code=204) if count is None else func.HttpResponse(str(count))


def _report(told: ProcessingReport) -> RequestReport:
    return RequestReport(
        told.service_cluster,
        _path(told.api_path),
        told.increment_by - told.decrement_by,
        told.instance,
        INTERVALS_KEPT * told.interval_seconds,
    )


def _parameter(req: func.HttpRequest, name: str) -> str:
    """A query parameter, which may be empty. The Functions host leaves empty ones out.

    Raises:
        Problem: 400 if it is absent.
    """
    value = req.params.get(name)
    if value is None and name in parse_qs(query_string(req.url), keep_blank_values=True):
        return ""
    if value is None:
        raise invalid(name, "the query parameter is missing")
    return value


def _path(text: str) -> str:
    return "/" + text.removeprefix("/").removesuffix("/")
