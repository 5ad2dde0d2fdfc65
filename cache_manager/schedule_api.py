"""The schedules of the v1 API (contract B27)."""

from __future__ import annotations

import base64
import binascii
from typing import Final

import azure.functions as func

from cache_manager import request_parsing as parse
from cache_manager.audit import Audited, audited
from cache_manager.json_bodies import body_of
from cache_manager.outcome_problems import (
    no_schedule_body,
    no_such_schedule,
    not_put_problem,
    task_of,
    unknown_endpoint,
)
from cache_manager.owner import service_for
from cache_manager.schedule_schemas import ScheduleDetails, ScheduleList, ScheduleRequest, ScheduleView
from cache_manager.schedule_service import ScheduleService
from cache_manager.task_api import outcome_response
from cache_manager.upload_api import handed_in
from shared.bodies import BodyMissing
from shared.dispatch.registry import BackendRegistry, Route, UnknownBackend
from shared.http.conditional import json_unless_known
from shared.http.functions import HttpFunctions, json_response
from shared.http.operators import Role
from shared.http.owners import checked_owner, not_for_owners
from shared.http.paging import page_limit
from shared.http.problems import invalid
from shared.services import Services, ServicesByLoop
from shared.tasks.cron import BadCron, BadZone, DueTimes
from shared.tasks.outcomes import Created, Existing
from shared.tasks.schedules import CatchUp, Definition, Name, Overlap, Schedule, is_schedule_name
from shared.tasks.task import DEFAULT_PRIORITY, Content
from shared.tasks.uploads import Upload

UTC: Final = "UTC"
_OWNER: Final = ["owner"]


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    functions = HttpFunctions(app, services)
    one = "v1/schedules/{name}"
    functions.add(
        "PutSchedule", put_schedule, route=one, methods=["PUT"], takes_body=True, query=_OWNER, role=Role.OPERATE
    )
    functions.add("GetSchedule", get_schedule, route=one, methods=["GET"], query=_OWNER, role=Role.READ)
    functions.add("DeleteSchedule", delete_schedule, route=one, methods=["DELETE"], query=_OWNER, role=Role.OPERATE)
    for name, handler, verb in (
        ("PauseSchedule", pause_schedule, "pause"),
        ("ResumeSchedule", resume_schedule, "resume"),
        ("RunSchedule", run_schedule, "run"),
    ):
        functions.add(name, handler, route=f"{one}/{verb}", methods=["POST"], query=_OWNER, role=Role.OPERATE)
    listed_by = ["limit", "cursor", *_OWNER]
    functions.add(
        "ListSchedules", list_schedules, route="v1/schedules", methods=["GET"], query=listed_by, role=Role.READ
    )


async def put_schedule(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    service, name = _service(req, services), _named(req, services)
    if not is_schedule_name(name.name):
        raise invalid("name", "letters, digits and . _ - are allowed, up to 128, the first a letter or a digit")
    request = await ScheduleRequest.parse(req.get_body())
    due, route = _due_times(request), _route(request, services.registry)
    await services.endpoint_bound.admit_later(*route.endpoints)
    _check_callback(request, name, services)
    body, content = await _body(request, service)
    async with _audited(req, services, "put schedule", name):
        put = await service.put(name, _definition(request, content), due, body, route)
        if not isinstance(put, tuple):
            raise not_put_problem(put)
    schedule, is_new = put
    return await _details(service, schedule, 201 if is_new else 200)


async def get_schedule(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    service = _service(req, services)
    return await _details(service, _known(await service.find(_existing(req, services))))


async def delete_schedule(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    service, name = _service(req, services), _existing(req, services)
    _known(await service.find(name))
    async with _audited(req, services, "delete schedule", name):
        await service.remove(name)  # or a call whose answer was lost has
    return func.HttpResponse(status_code=204)


async def pause_schedule(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    return await _set_paused(req, services, paused=True)


async def resume_schedule(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    return await _set_paused(req, services, paused=False)


async def run_schedule(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    service, name, key = _service(req, services), _existing(req, services), parse.idempotency_key(req)
    async with _audited(req, services, "run schedule", name) as action:
        try:
            outcome = await service.run(name, key)
        except UnknownBackend as error:
            raise unknown_endpoint(_known(await service.find(name)).definition.path, str(error)) from None
        except BodyMissing:
            raise no_schedule_body() from None
        if outcome is None:
            raise no_such_schedule()
        action.count = int(isinstance(outcome, Created | Existing))
        task = task_of(outcome)
        return outcome_response(task, services, 202, {"Location": parse.location(req, task.id)})


async def list_schedules(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    service = _service(req, services)
    owner = _owner_asked(req, service.tasks.owner)
    page = await service.page(owner, page_limit(req), _cursor(req, service.tasks.owner))
    listed = ScheduleList(
        schedules=[ScheduleView.of(schedule) for schedule in page.schedules],
        next_cursor=_cursor_text(page.next) if page.next else None,
    )
    return json_unless_known(req, listed.model_dump_json(by_alias=True).encode())


async def _set_paused(req: func.HttpRequest, services: Services, *, paused: bool) -> func.HttpResponse:
    service, name = _service(req, services), _existing(req, services)
    async with _audited(req, services, "pause schedule" if paused else "resume schedule", name):
        schedule = _known(await service.set_paused(name, paused=paused))
    return await _details(service, schedule)


async def _details(service: ScheduleService, schedule: Schedule, status: int = 200) -> func.HttpResponse:
    tasks, next_ms = await service.tasks_of(schedule), await service.next_times(schedule)
    view = ScheduleDetails.of_all(schedule, next_ms, tasks)
    return json_response(view.model_dump_json(by_alias=True).encode(), status)


def _service(req: func.HttpRequest, services: Services) -> ScheduleService:
    return ScheduleService(service_for(req, services))


def _named(req: func.HttpRequest, services: Services) -> Name:
    """The schedule of the route: the owner's own, or one of the owner that the query names.

    Raises:
        Problem: 403 if an owner asks for another's.
    """
    owner = service_for(req, services).owner
    return Name(_owner_asked(req, owner) or "", req.route_params.get("name") or "")


def _existing(req: func.HttpRequest, services: Services) -> Name:
    """As :func:`_named`.

    Raises:
        Problem: 404 if there cannot be one of that name.
    """
    name = _named(req, services)
    if not is_schedule_name(name.name):
        raise no_such_schedule()
    return name


def _owner_asked(req: func.HttpRequest, owner: str | None) -> str | None:
    asked = req.params.get("owner") or None
    if asked is not None:
        checked_owner(asked, "owner")
    if owner is not None and asked not in (None, owner):
        raise not_for_owners()
    return owner or asked


def _known(schedule: Schedule | None) -> Schedule:
    if schedule is None:
        raise no_such_schedule()
    return schedule


def _audited(req: func.HttpRequest, services: Services, action: str, name: Name) -> Audited:
    return audited(req, services, action, " ".join(name).strip(), is_callers=True)


def _route(request: ScheduleRequest, registry: BackendRegistry) -> Route:
    try:
        return registry.route(request.path, request.query or "")
    except UnknownBackend as error:
        raise unknown_endpoint(request.path, str(error)) from None


def _due_times(request: ScheduleRequest) -> DueTimes:
    try:
        return DueTimes.parse(request.cron, request.time_zone or UTC)
    except BadZone as error:
        raise invalid("/TimeZone", str(error)) from None
    except BadCron as error:
        raise invalid("/Cron", str(error)) from None


def _check_callback(request: ScheduleRequest, name: Name, services: Services) -> None:
    if request.callback and services.destinations.find(request.callback, name.owner or None) is None:
        raise invalid("/Callback", "there is no such destination")


async def _body(request: ScheduleRequest, service: ScheduleService) -> tuple[bytes | Upload, Content]:
    """What each run is to submit, and what is known of it.

    Raises:
        Problem: 400 if there are a body and an upload; 404 or 409 if the upload is not there, or for something else.
    """
    if request.body_upload is None:
        data, kind = body_of(request.body) if request.body is not None else (b"", "application/octet-stream")
        return data, Content(request.content_type or kind, len(data))
    if request.body is not None or request.content_type is not None:
        raise invalid("/BodyUpload", "with it, there is neither a Body nor a ContentType")
    upload = await handed_in(request.body_upload, service.tasks)
    return upload, upload.content


def _definition(request: ScheduleRequest, content: Content) -> Definition:
    return Definition(
        path=request.path,
        query=request.query or "",
        body=content,
        cron=request.cron,
        zone=request.time_zone or UTC,
        overlap=Overlap(request.overlap or Overlap.SKIP),
        catch_up=CatchUp(request.catch_up or CatchUp.LAST),
        until_ms=parse.time_ms(request.until, "/Until"),
        priority=DEFAULT_PRIORITY if request.priority is None else request.priority,
        start_before_ms=_ms(request.start_before),
        max_run_ms=_ms(request.max_run),
        callback=request.callback or "",
    )


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * 1000))


def _cursor_text(name: Name) -> str:
    return base64.urlsafe_b64encode(" ".join(name).encode()).decode().rstrip("=")


def _cursor(req: func.HttpRequest, owner: str | None) -> Name | None:
    text = req.params.get("cursor")
    if not text:
        return None
    try:
        of, blank, name = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii").rpartition(" ")
    except (binascii.Error, ValueError):
        of, blank, name = "", "", ""
    if not blank or not is_schedule_name(name) or (owner is not None and of != owner):
        raise invalid("cursor", "the NextCursor of a former page is expected")
    if of:
        checked_owner(of, "cursor")
    return Name(of, name)
