"""What operators have done, for operators."""

from __future__ import annotations

import re
from typing import Self

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
from shared.store import AuditEntry, KnownBy


class AuditEntryView(BaseModel):
    """An action of an operator."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    at: IsoTime
    """When it was begun."""
    operator: str | None
    """Null: the app does not know the name, as of a function key's holder."""
    by: KnownBy
    """How the app knows who acts: a function key, the gateway's word, or App Service authentication."""
    action: str
    target: str | None
    """The task's id, or the queue's path. Null: all."""
    count: int | None
    """How many tasks or queues it has changed; 0: it was refused. Null: it goes on, or nobody knows what came of
    it."""
    operation_id: str | None
    """That of the bulk action of which this was one call."""

    @classmethod
    def of(cls, entry: AuditEntry) -> Self:
        action = entry.action
        return cls(
            at=iso(entry.at_ms),
            operator=action.operator,
            by=action.by,
            action=action.name,
            target=action.target,
            count=entry.count,
            operation_id=action.operation_id,
        )


class AuditList(BaseModel):
    """A page of actions, the newest first."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    entries: list[AuditEntryView]
    next_cursor: str | None
    """The ``cursor`` of the next page. Null on the last page."""


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    HttpFunctions(app, services).add(
        "GetAudit",
        get_audit,
        route="v1/audit",
        methods=["GET"],
        query=["limit", "cursor"],
        for_owners=False,
        role=Role.READ,
    )


async def get_audit(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    page = await services.store.audit.page(page_limit(req), _cursor(req))
    entries = [AuditEntryView.of(entry) for entry in page.entries]
    return json_unless_known(req, AuditList(entries=entries, next_cursor=page.next).model_dump(by_alias=True))


def _cursor(req: func.HttpRequest) -> str | None:
    text = req.params.get("cursor")
    # No entry has the least of all ids, and Redis refuses to look behind it.
    if text and not re.fullmatch(r"(?!0+-0+\Z)\d{1,15}-\d{1,9}", text, re.ASCII):
        raise invalid("cursor", "the NextCursor of a former page is expected")
    return text or None
