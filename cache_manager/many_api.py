"""What the v1 API does with many tasks at once (contract B28)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import azure.functions as func

from cache_manager import request_parsing as parse
from cache_manager.asked import Asked
from cache_manager.asked_timing import timing_of
from cache_manager.audit import audited
from cache_manager.callback_api import callback_of
from cache_manager.many_lines import asked_lines
from cache_manager.many_schemas import LineOutcome, WaitAnswer, WaitedTask, WaitRequest
from cache_manager.many_service import Kind, ManySubmits, TakenLine
from cache_manager.many_waits import ManyWaits
from cache_manager.owner import service_for
from cache_manager.submitting import PIPELINE_HEADER, Way, batch_of, way_of
from cache_manager.task_service import TaskService
from shared.http.functions import HttpFunctions, header, json_response
from shared.http.operators import Role
from shared.http.problems import Problem
from shared.services import Services, ServicesByLoop
from shared.settings import LONGEST_WAIT_S
from shared.tasks.task import Task

NDJSON = "application/x-ndjson"
_AGAIN_S = "5"
"""When to ask again after a wait that had to make room for another one."""


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    functions = HttpFunctions(app, services)
    functions.add(
        "SubmitMany",
        submit_many,
        route="v1/submit-many/{*path}",
        methods=["POST"],
        takes_body=True,
        query=None,
        role=Role.OPERATE,
    )
    functions.add(
        "WaitForTasks",
        wait_for_tasks,
        route="v1/tasks/wait",
        methods=["POST"],
        takes_body=True,
        role=Role.READ,
    )


async def submit_many(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    parse.no_upload(req)
    key, service = parse.idempotency_key(req), service_for(req, services)
    kind_of, path = await _kinds(req, service)
    lines = await asked_lines(req, services.settings.largest_body_bytes)
    async with audited(req, services, "submit many", path, is_callers=True) as action:
        taken = await ManySubmits(services, kind_of, key).submit(lines)
        action.count = sum(isinstance(line.outcome, Task) for line in taken)
    if not action.count:
        raise _none_taken(taken)
    answer = [LineOutcome.encoded(line.number, line.outcome) + b"\n" for line in taken if line.outcome is not None]
    return json_response(b"".join(answer), 202, mimetype=NDJSON)


async def wait_for_tasks(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    request = await WaitRequest.parse(req.get_body())
    news = await ManyWaits(service_for(req, services)).wait(
        [*dict.fromkeys(request.task_ids)],
        request.known or {},
        min(LONGEST_WAIT_S, request.seconds or 0),
        for_any=request.any is not False,
    )
    answer = WaitAnswer(
        tasks=[WaitedTask.of(task) for task in news.tasks.values() if task is not None],
        unknown=[task_id for task_id, task in news.tasks.items() if task is None],
    )
    headers = {"Retry-After": _AGAIN_S} if news.is_cut and not news.tasks else {}
    return json_response(answer.model_dump_json(by_alias=True).encode(), headers=headers)


async def _kinds(req: func.HttpRequest, service: TaskService) -> tuple[Callable[[str | None], Kind], str]:
    """What the request says of all its tasks, and the path.

    Raises:
        Problem: as a submit would have it.
    """
    services, batch, priority = service.services, batch_of(req) or "", parse.priority(req)
    path, query, pipeline = parse.submitted_path(req), parse.backend_query(req.url), header(req, PIPELINE_HEADER)
    timing = timing_of(req, services)
    asked = Asked(batch, priority, callback_of(req, services.destinations, service.owner), timing)

    def kind(way: Way) -> Kind:
        template = services.destinations.with_default(asked.task("", way, service))
        return Kind(template, way.route.path, asked.headers(way))

    way = way_of(path, query, pipeline, services.registry)
    await services.endpoint_bound.admit(*way.route.endpoints)
    kinds: dict[str | None, Kind] = {None: kind(way)}

    def kind_of(query: str | None) -> Kind:
        if query not in kinds:
            kinds[query] = kind(way_of(path, query or "", pipeline, services.registry))
        return kinds[query]

    return kind_of, way.route.path


def _none_taken(lines: Sequence[TakenLine]) -> Problem:
    """The problem of the first line that may be sent again, else of the first line; with all of them."""
    problems = {line.number: line.problem for line in lines if line.problem is not None}
    why = next((each for each in problems.values() if "Retry-After" in each.headers), next(iter(problems.values())))
    answer = Problem(why.status, "", "", "", headers=why.headers)
    outcomes = [LineOutcome.of_refused(*each).model_dump(by_alias=True) for each in problems.items()]
    answer.document = {**why.document, "Outcomes": outcomes}
    return answer
