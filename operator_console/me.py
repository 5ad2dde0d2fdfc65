"""Who asks, and whom: the first question of the console's page."""

from __future__ import annotations

import time

import azure.functions as func
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_pascal

from shared.http.functions import HttpFunctions, json_response
from shared.http.operators import Role, operator_now
from shared.http.times import IsoTime, iso
from shared.services import Services, ServicesByLoop
from shared.store import KnownBy
from shared.version import VERSION


class Me(BaseModel):
    """Who the operator is, as far as the app knows."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    name: str | None
    """Null: the app does not know it, as of a key's holder."""
    roles: list[Role]
    """None, if no operator asks: then the key says which functions it opens."""
    by: KnownBy
    """How the app knows it."""
    version: str
    """The app's."""
    environment: str
    now: IsoTime
    """By the app's clock."""
    retention_seconds: float
    """How long an ended task is kept."""
    trace_url: str | None
    """Where a task's trace is shown: `{TaskId}` stands for its id, `{Query}` for the query of its telemetry, gzipped
    and in base64. Null, if the app does not know."""


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    HttpFunctions(app, services).add(
        "GetMe", get_me, route="v1/me", methods=["GET"], for_owners=False, role=Role.READ, counted=False
    )


async def get_me(_req: func.HttpRequest, services: Services) -> func.HttpResponse:
    operator = operator_now()
    me = Me(
        name=operator.name if operator else None,
        roles=[role for role in Role if operator and role in operator.roles],
        by=operator.by if operator else "key",
        version=VERSION,
        environment=services.settings.azure_functions_environment,
        now=iso(time.time_ns() // 1_000_000),
        retention_seconds=services.settings.retention_s,
        trace_url=services.settings.trace_url,
    )
    return json_response(me.model_dump(by_alias=True, mode="json"))
