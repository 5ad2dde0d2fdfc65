"""The series of the v1 API: what happened at an endpoint, by time."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import Final

import azure.functions as func

from cache_manager import request_parsing as parse
from cache_manager.outcome_problems import unknown_endpoint
from cache_manager.series_schemas import Series, SeriesList
from shared.http.conditional import json_unless_known
from shared.http.functions import HttpFunctions
from shared.http.operators import Role
from shared.http.paging import page_limit
from shared.http.problems import Problem, invalid
from shared.services import Services, ServicesByLoop
from shared.store import OTHER, SPANS_MIN, span_of

MOST_STEPS: Final = 2_200
"""How many steps one series has at most: ninety days by hours are fewer."""
MOST_NUMBERS: Final = 20_000
"""How many steps all series of a page have at most."""
_DEFAULT_LENGTH_S: Final = 3_600


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    HttpFunctions(app, services).add(
        "GetSeries",
        get_series,
        route="v1/series",
        methods=["GET"],
        query=["path", "from", "to", "step", "limit", "cursor"],
        for_owners=False,
        role=Role.READ,
    )


@dataclass(frozen=True, slots=True)
class Times:
    """Which times are asked for, in ms."""

    start_ms: int
    end_ms: int
    step_ms: int
    now_ms: int

    @property
    def steps(self) -> int:
        return (self.end_ms - self.start_ms) // self.step_ms


async def get_series(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    times = _times(req, time.time_ns() // 1_000_000)

    async def read(path: str) -> Series:
        found = await services.store.series.read(path, times.start_ms, times.end_ms, times.step_ms, times.now_ms)
        return Series.of(path, found, times.start_ms, times.end_ms, times.step_ms)

    path = OTHER if req.params.get("path") == OTHER else parse.listed_path(req)
    if path is not None:
        parse.no_page(req)
        await _check_is_known(path, services)
        return _response(req, [await read(path)], None)
    limit, behind = page_limit(req), parse.queue_cursor(req)
    if limit * times.steps > MOST_NUMBERS:
        raise invalid("limit", f"limit times the number of steps may be {MOST_NUMBERS}, and there are {times.steps}")
    # One whose first task came just now has no row yet.
    counted, in_use = await asyncio.gather(services.store.series.paths(), services.store.queues.paths())
    paths = sorted(path for path in {*counted, *in_use} if path > behind)
    series = await asyncio.gather(*map(read, paths[:limit]))
    following = paths[limit - 1] if len(paths) > limit else None
    return _response(req, series, following)


def _response(req: func.HttpRequest, series: list[Series], following: str | None) -> func.HttpResponse:
    return json_unless_known(req, SeriesList(series=series, next_cursor=following).model_dump(by_alias=True))


async def _check_is_known(path: str, services: Services) -> None:
    if path == OTHER or services.registry.endpoint_of(path) is not None:
        return
    if path not in await services.store.series.paths():
        raise unknown_endpoint(path, "no backend is registered for this path, and nothing was counted there")


def _times(req: func.HttpRequest, now_ms: int) -> Times:
    asked_ms = {name: parse.time_ms(req.params.get(name), name) for name in ("from", "to")}
    end_ms = now_ms if asked_ms["to"] is None else min(asked_ms["to"], now_ms)
    start_ms = end_ms - _DEFAULT_LENGTH_S * 1000 if asked_ms["from"] is None else asked_ms["from"]
    if start_ms >= end_ms:
        raise invalid("from", "a time before `to`, and in the past, is expected")
    step_ms = _step_ms(req, _span_ms(start_ms, now_ms))
    start_ms -= start_ms % step_ms
    end_ms += -end_ms % step_ms
    if step_ms % (longer_ms := _span_ms(start_ms, now_ms)):
        # The first step begins before all rows that such a step is made of, so it would tell of a part of itself.
        start_ms += step_ms
        if start_ms >= end_ms:
            raise _not_a_multiple(longer_ms)
    if (end_ms - start_ms) // step_ms > MOST_STEPS:
        raise invalid("step", f"a step that makes at most {MOST_STEPS} steps is expected")
    return Times(start_ms, end_ms, step_ms, now_ms)


def _span_ms(start_ms: int, now_ms: int) -> int:
    """How long the spans are that are kept back to *start_ms*."""
    return SPANS_MIN[span_of(start_ms, now_ms)] * 60_000


def _step_ms(req: func.HttpRequest, span_ms: int) -> int:
    text = req.params.get("step")
    if text is None:
        return span_ms
    if not re.fullmatch(r"\d{1,7}", text, re.ASCII) or int(text) <= 0 or int(text) * 1000 % span_ms:
        raise _not_a_multiple(span_ms)
    return int(text) * 1000


def _not_a_multiple(span_ms: int) -> Problem:
    return invalid("step", f"so long ago, a multiple of {span_ms // 1000} seconds is expected")
