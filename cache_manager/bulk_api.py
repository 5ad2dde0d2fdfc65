"""Bulk actions of operators (contract B21)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import azure.functions as func
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_pascal

from cache_manager import request_parsing as parse
from cache_manager.audit import audited
from cache_manager.bulk_service import STATES, BulkAction, BulkService, Piece
from cache_manager.listing import MAX_TEXT_CHARS
from cache_manager.owner import service_for
from cache_manager.schemas import RequestModel
from shared.http.functions import HttpFunctions, json_response
from shared.http.operators import Role
from shared.http.problems import invalid
from shared.services import Services, ServicesByLoop
from shared.store import Listing
from shared.tasks.ids import TASK_ID_PATTERN
from shared.tasks.outcomes import Refusal
from shared.tasks.task import State

DEFAULT_TASKS = 100
MOST_TASKS = 500


class BulkRequest(RequestModel):
    """What to do, and to which tasks. Names match in any case; null is the same as absent. The next call has the same
    members, and the ``NextCursor`` of the last answer as its ``Cursor``."""

    action: BulkAction
    path: str | None = Field(default=None, min_length=1, max_length=2_400)
    """Only tasks of this endpoint path."""
    status: Literal["created", "dispatched", "running", "failed"] | None = None
    """Only tasks in this state. A replay takes `failed` ones only, a cancel the others: all of them if it is
    absent."""
    q: str | None = Field(default=None, min_length=1, max_length=MAX_TEXT_CHARS)
    """Only tasks with this in their id, path or status text, as in the list of tasks."""
    created_before: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    """Only tasks that were created before this."""
    limit: int | None = Field(default=None, ge=1, le=MOST_TASKS)
    """How many tasks this call takes, at most; 100 if it is absent."""
    dry_run: bool | None = None
    """True: only count the tasks."""
    operation_id: Annotated[str, Field(pattern=TASK_ID_PATTERN)]
    """Drawn by the caller, and the same in all calls of one action: no task is replayed twice by it."""
    cursor: str | None = Field(default=None, min_length=1, max_length=200)
    """The ``NextCursor`` of the answer before. Absent: from the newest task on."""

    def listing(self) -> Listing:
        """
        Raises:
            Problem: 400 that names a member which cannot be.
        """
        states = STATES[self.action]
        if self.status is not None and State(self.status) not in states:
            raise invalid("/Status", f"a {self.action} takes tasks that are {', '.join(states)}")
        return Listing(
            limit=self.limit or DEFAULT_TASKS,
            path=None if self.path is None else parse.path_of(self.path, "/Path"),
            states=states if self.status is None else [State(self.status)],
            before=parse.cursor_of(self.cursor, "/Cursor"),
            until_ms=parse.time_ms(self.created_before, "/CreatedBefore"),
            text=self.q or "",
        )


class RefusedTask(BaseModel):
    """A task that was left as it is."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    task_id: str
    why: Refusal
    """`done`: the same operation has replayed it before. `finished`, `state`: it has ended meanwhile, or is in
    another state. `bodiless`: nothing is kept to send again. `unknown`: it is gone."""


class BulkAnswer(BaseModel):
    """What one call has done."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    matched: int
    """How many tasks it found, which may be none while there are more."""
    done: int
    """How many of them it has changed. What a call had done whose answer was lost is in neither number."""
    refused: list[RefusedTask]
    """Those that it found and could not change."""
    next_cursor: str | None
    """The ``Cursor`` of the next call. Null if no more tasks are to be found."""

    @classmethod
    def of(cls, piece: Piece) -> Self:
        return cls(
            matched=piece.matched,
            done=piece.done,
            refused=[RefusedTask(task_id=kept.task_id, why=kept.why) for kept in piece.refused],
            next_cursor=parse.cursor_text(piece.next) if piece.next else None,
        )


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    HttpFunctions(app, services).add(
        "Bulk",
        bulk,
        route="v1/bulk",
        methods=["POST"],
        takes_body=True,
        for_owners=False,
        role=Role.OPERATE,
    )


async def bulk(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    request = await BulkRequest.parse(req.get_body())
    listing, work = request.listing(), BulkService(service_for(req, services))
    if request.dry_run:
        return _response(await work.count(listing))
    name, operation_id = f"bulk {request.action}", request.operation_id
    async with audited(req, services, name, listing.path, operation_id=operation_id) as action:
        piece = await work.apply(request.action, listing, operation_id)
        action.count = piece.done
    return _response(piece)


def _response(piece: Piece) -> func.HttpResponse:
    return json_response(BulkAnswer.of(piece).model_dump(by_alias=True, mode="json"))
