"""The requests in flight of the v1 API: all that model services have reported."""

from __future__ import annotations

import azure.functions as func
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_pascal

from shared.http.conditional import json_unless_known
from shared.http.functions import HttpFunctions
from shared.http.operators import Role
from shared.http.paging import page_limit
from shared.http.problems import invalid
from shared.http.times import IsoTime, iso
from shared.services import Services, ServicesByLoop
from shared.store import RequestCount


class RequestCounter(BaseModel):
    """How many requests a model service has in flight, as its instances report."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    cluster: str
    """May be empty."""
    path: str
    count: int
    """Without what instances said that have been silent for three of their intervals, and others for a day."""
    updated_at: IsoTime | None
    """When the last report came. Null if that is not known."""

    @classmethod
    def of(cls, count: RequestCount) -> RequestCounter:
        updated_at = None if count.reported_ms is None else iso(count.reported_ms)
        return cls(cluster=count.cluster, path=count.path, count=count.count, updated_at=updated_at)


class RequestCounterList(BaseModel):
    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    counters: list[RequestCounter]
    """A page may have fewer than the limit, and not be the last."""
    next_cursor: str | None
    """The ``cursor`` of the next page. Null on the last page."""


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    HttpFunctions(app, services).add(
        "ListRequests",
        list_requests,
        route="v1/requests",
        methods=["GET"],
        query=["limit", "cursor"],
        for_owners=False,
        role=Role.READ,
    )


async def list_requests(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    counts, following = await services.request_counts.page(page_limit(req), _cursor(req))
    document = RequestCounterList(counters=[*map(RequestCounter.of, counts)], next_cursor=following)
    return json_unless_known(req, document.model_dump(by_alias=True))


def _cursor(req: func.HttpRequest) -> str:
    """
    Raises:
        Problem: 400 if it cannot be one: a cluster in its quoted form, a blank, and a path.
    """
    text = req.params.get("cursor") or ""
    if text and " /" not in text:
        raise invalid("cursor", "the NextCursor of a former page is expected")
    return text
