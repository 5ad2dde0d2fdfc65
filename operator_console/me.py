"""Who asks, and whom: the first question of the console's page."""

from __future__ import annotations

import time
from typing import Literal

import azure.functions as func
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_pascal

from shared.http.functions import HttpFunctions, json_response
from shared.http.operators import Role, operator_of
from shared.http.times import IsoTime, iso
from shared.services import Services, ServicesByLoop
from shared.version import VERSION


class Me(BaseModel):
    """Who the operator is, as far as the app knows."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    name: str | None
    """Null: the app does not know it, as of a key's holder."""
    roles: list[Role]
    by: Literal["key", "gateway", "easyauth"]
    """How the app knows."""
    version: str
    """The app's."""
    environment: str
    now: IsoTime
    """By the app's clock."""
    retention_seconds: float
    """How long an ended task is kept."""


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    HttpFunctions(app, services).add(
        "GetMe", get_me, route="v1/me", methods=["GET"], for_owners=False, role=Role.READ, counted=False
    )


async def get_me(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    settings = services.settings
    operator = operator_of(req, settings)
    me = Me(
        name=operator.name if operator else None,
        roles=[role for role in Role if operator and role in operator.roles],
        by=operator.by if operator else "key",
        version=VERSION,
        environment=settings.azure_functions_environment,
        now=iso(time.time_ns() // 1_000_000),
        retention_seconds=settings.retention_s,
    )
    return json_response(me.model_dump(by_alias=True, mode="json"))
