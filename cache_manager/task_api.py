"""The tasks of the v1 API (contract B)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import azure.functions as func

from cache_manager import request_parsing as parse
from cache_manager.asked import Asked
from cache_manager.asked_timing import AskedTiming, timing_of
from cache_manager.audit import audited
from cache_manager.batch_schemas import view_of
from cache_manager.batch_service import is_of_batch
from cache_manager.callback_api import callback_of
from cache_manager.history import TaskHistory
from cache_manager.listing import LISTED_BY, listed_batch, listing_of
from cache_manager.outcome_problems import OperationOutcome, retry_after_s, task_of, unknown_batch
from cache_manager.owner import batches_for, service_for
from cache_manager.schemas import (
    Heartbeat,
    HeartbeatOutcome,
    HeartbeatOutcomes,
    Heartbeats,
    TaskList,
    TaskRelease,
    TaskView,
)
from cache_manager.stored_response import BODY, CHECKPOINT, RESULT, Stored, stored_response
from cache_manager.submitting import Way, batch_of, next_endpoint, sent_on, way
from cache_manager.task_service import TaskService
from cache_manager.upload_api import handed_in
from cache_manager.uploads import Uploads
from shared.bodies import BodyMissing
from shared.http.conditional import json_unless_known, matches
from shared.http.functions import HttpFunctions, header, json_response
from shared.http.operators import Role
from shared.resilience.limits import Overloaded
from shared.services import Services, ServicesByLoop
from shared.store import Outage, StoreUnavailable
from shared.tasks.ids import new_task_id
from shared.tasks.outcomes import Created, Existing, QueuePosition
from shared.tasks.task import NewTask, State, Task
from shared.tasks.uploads import Purpose, Upload

_LONGEST_RETRY_AFTER_S: Final = 30


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    services.keep_running(draw_secret)
    functions = HttpFunctions(app, services)
    functions.add(
        "SubmitTask",
        submit_task,
        route="v1/submit/{*path}",
        methods=["POST"],
        takes_body=True,
        query=None,
        role=Role.OPERATE,
    )
    functions.add("GetTask", get_task, route="v1/tasks/{id}", methods=["GET", "HEAD"], query=["wait"], role=Role.READ)
    functions.add(
        "CancelTask", cancel_task, route="v1/tasks/{id}", methods=["DELETE"], query=["purge"], role=Role.OPERATE
    )
    functions.add("ReplayTask", replay_task, route="v1/tasks/{id}/replay", methods=["POST"], role=Role.OPERATE)
    heartbeat = "v1/tasks/{id}/heartbeat"
    functions.add("TaskHeartbeat", task_heartbeat, route=heartbeat, methods=["POST"], takes_body=True)
    functions.add("TaskHeartbeats", task_heartbeats, route="v1/heartbeats", methods=["POST"], takes_body=True)
    following = "v1/tasks/{id}/next/{*path}"
    functions.add("NextStep", next_step, route=following, methods=["POST"], takes_body=True, query=None)
    functions.add("ReleaseTask", release_task, route="v1/tasks/{id}/release", methods=["POST"], takes_body=True)
    functions.add("ListTasks", list_tasks, route="v1/tasks", methods=["GET"], query=LISTED_BY, role=Role.READ)
    functions.add("GetTaskHistory", get_task_history, route="v1/tasks/{id}/history", methods=["GET"], role=Role.READ)
    functions.add("PutTaskResult", put_task_result, route="v1/tasks/{id}/result", methods=["PUT"], takes_body=True)
    checkpoint = "v1/tasks/{id}/checkpoint"
    functions.add("PutCheckpoint", put_checkpoint, route=checkpoint, methods=["PUT"], takes_body=True)
    functions.add("GetCheckpoint", get_checkpoint, route=checkpoint, methods=["GET", "HEAD"], role=Role.CONTENT)
    result, body, reading = "v1/tasks/{id}/result", "v1/tasks/{id}/body", ["GET", "HEAD"]
    functions.add("GetTaskResult", get_task_result, route=result, methods=reading, query=["link"], role=Role.CONTENT)
    functions.add("GetTaskBody", get_task_body, route=body, methods=reading, query=["link"], role=Role.CONTENT)


async def draw_secret(services: Services) -> None:
    """At the process' begin."""
    await services.store.keyed_ids.draw()


async def submit_task(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    endpoints = way(req, services.registry)
    content_type, key, timing = parse.content_type(req), parse.idempotency_key(req), timing_of(req, services)
    service = service_for(req, services)
    await services.endpoint_bound.admit(*endpoints.route.endpoints)
    upload_id = parse.upload_id(req)
    upload = None if upload_id is None else await handed_in(upload_id, service)
    new = await _new_task(req, endpoints, content_type, key, service, upload, timing)
    created = await _submitted(req, service, new, content_type, endpoints, upload)
    task = task_of(created)
    headers = {"Location": parse.location(req, task.id)}
    if (wait_s := parse.preferred_wait_s(req)) is not None:
        # The task is there: an error would tell that it is not.
        with suppress(Overloaded, StoreUnavailable):
            waited, is_cut = await service.wait_for_end(task, wait_s, len(req.get_body()))
            task = task_of(waited)
            if not is_cut:
                headers["Preference-Applied"] = f"wait={wait_s}"
    status = 200 if wait_s is not None and task.state.is_terminal else 202
    position = created.position if isinstance(created, Created) and task.state is State.CREATED else None
    return await _whole_response(await service.whole_if_possible(task), services, status, headers, position)


async def get_task(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    service = service_for(req, services)
    task = task_of(await service.find(parse.task_id(req)))
    known = header(req, "if-none-match")
    if wait_s := parse.wait_s(req):
        seen = known or task.etag
        changed = await service.wait_for_change(task, lambda now: matches(seen, now.etag), wait_s)
        task = task_of(changed)
    queue = await service.queue_status(task)
    position = queue.position if queue else None
    if known is not None and matches(known, task.etag):
        return func.HttpResponse(status_code=304, headers=_task_headers(task, services, position))
    outage = queue.outage if queue else None
    return await _whole_response(await service.whole(task), services, 200, position=position, outage=outage)


async def cancel_task(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    batches, task_id = batches_for(req, services), parse.task_id(req)
    if parse.flag(req, "purge"):
        async with audited(req, services, "purge", task_id):
            unfinished = await batches.purge(task_id)
            return (
                func.HttpResponse(status_code=204) if unfinished is None else outcome_response(unfinished, services)
            )
    async with audited(req, services, "cancel", task_id):
        outcome = await service_for(req, services).cancel(task_id)
        return outcome_response(await batches.cancel(task_id) if is_of_batch(outcome) else outcome, services)


async def replay_task(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    task_id = parse.task_id(req)
    async with audited(req, services, "replay", task_id):
        outcome = await service_for(req, services).replay(task_id)
        if is_of_batch(outcome):
            outcome = await batches_for(req, services).replay(task_id)
        return outcome_response(outcome, services, 202)


async def task_heartbeat(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    service = service_for(req, services)
    beat = await Heartbeat.parse(req.get_body() or b"{}")
    return outcome_response(await service.heartbeat(parse.task_id(req), parse.attempt(req), beat), services)


async def task_heartbeats(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    beats = (await Heartbeats.parse(req.get_body())).heartbeats
    outcomes = await service_for(req, services).heartbeats(beats)
    answered = [HeartbeatOutcome.of(beat.task_id, outcome) for beat, outcome in zip(beats, outcomes, strict=True)]
    return json_response(HeartbeatOutcomes(outcomes=answered).model_dump(by_alias=True))


async def release_task(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    service = service_for(req, services)
    attempt = parse.required_attempt(req)
    return outcome_response(
        await service.release(parse.task_id(req), attempt, await TaskRelease.parse(req.get_body() or b"{}")), services
    )


async def next_step(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    parse.no_upload(req)
    endpoint = next_endpoint(req, services.registry)
    content_type, encoding = parse.content_type(req), parse.content_encoding(req)
    service, attempt = service_for(req, services), parse.required_attempt(req)
    await services.endpoint_bound.admit(endpoint)
    sent = await sent_on(req, endpoint, content_type, encoding)
    outcome = await service.send_on(
        parse.task_id(req), attempt, endpoint, sent, content_type, req.get_body(), encoding
    )
    return outcome_response(outcome, services)


async def list_tasks(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    service = service_for(req, services)
    listing, batch_id = listing_of(req, service.owner), listed_batch(req)
    store = services.store
    page = await (store.page(listing) if batch_id is None else store.page_of_children(batch_id, listing))
    if page is None:
        raise unknown_batch()
    listed = TaskList(
        tasks=[TaskView.of(task) for task in page.tasks],
        next_cursor=parse.cursor_text(page.next) if page.next else None,
        looked=page.looked,
    )
    return json_unless_known(req, listed.model_dump_json(by_alias=True).encode())


async def get_task_history(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    service = service_for(req, services)
    task = task_of(await service.find(parse.task_id(req)))
    # An operator's name is told to operators, and to no caller.
    return json_response(TaskHistory.of(task, names=service.by is not None).model_dump(by_alias=True))


async def put_task_result(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    service, task_id = service_for(req, services), parse.task_id(req)
    if (upload_id := parse.upload_id(req)) is not None:
        purpose, completed = Purpose(task_id, parse.required_attempt(req)), parse.completion_text(req)
        upload = await handed_in(upload_id, service, purpose)
        return outcome_response(await Uploads(service).put_result(upload, completed), services)
    outcome = await service.put_result(
        task_id,
        parse.attempt(req),
        parse.content_type(req),
        req.get_body(),
        parse.content_encoding(req),
        parse.completion_text(req),
    )
    return outcome_response(outcome, services)


async def put_checkpoint(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    parse.no_upload(req)
    outcome = await service_for(req, services).put_checkpoint(
        parse.task_id(req),
        parse.attempt(req),
        parse.content_type(req),
        req.get_body(),
        parse.content_encoding(req),
    )
    return outcome_response(outcome, services)


async def get_task_result(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    return await _stored(req, services, RESULT)


async def get_task_body(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    return await _stored(req, services, BODY)


async def get_checkpoint(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    return await _stored(req, services, CHECKPOINT)


async def _stored(req: func.HttpRequest, services: Services, kind: Stored) -> func.HttpResponse:
    service = service_for(req, services)
    task = task_of(await service.find(parse.task_id(req)))
    if kind is RESULT and (then := await batches_for(req, services).find_then(task)) is not None:
        task = then  # whose result is the batch's
    while True:
        try:
            return await stored_response(req, task, kind, services)
        except BodyMissing:
            now = task_of(await service.find(task.id))
            if kind.of(now) == kind.of(task):
                raise kind.missing(task) from None
            task = now  # another one has replaced it meanwhile


async def _submitted(
    req: func.HttpRequest, service: TaskService, new: NewTask, content_type: str, way: Way, upload: Upload | None
) -> OperationOutcome:
    async with audited(req, service.services, "submit", new.id, is_callers=True) as action:
        if upload is not None:
            outcome = await Uploads(service).submit(new, upload, way.route.endpoints)
        else:
            outcome = await service.submit(new, content_type, req.get_body(), parse.content_encoding(req))
        action.count = int(isinstance(outcome, (Created, Existing)))
        return outcome


async def _fingerprint(
    req: func.HttpRequest, content_type: str, query: str, upload: Upload | None, headers: Mapping[str, str]
) -> str:
    if upload is not None:
        declared = {"Content-Encoding": upload.encoding, "Upload": f"{upload.size_bytes} {upload.sha256}"}
        return parse.fingerprint(upload.content_type, query, b"", {**headers, **declared})
    headers = {**headers, "Content-Encoding": parse.content_encoding(req)}
    # In a thread: it takes a while for a large body, and other requests must not stand still.
    return await asyncio.to_thread(parse.fingerprint, content_type, query, req.get_body(), headers)


async def _new_task(
    req: func.HttpRequest,
    way: Way,
    content_type: str,
    key: str | None,
    service: TaskService,
    upload: Upload | None,
    timing: AskedTiming,
) -> NewTask:
    services, owner = service.services, service.owner
    callback = callback_of(req, services.destinations, owner)
    asked = Asked(batch_of(req) or "", parse.priority(req), callback, timing)
    if not key:
        return asked.task(new_task_id(), way, service)
    query = way.route.endpoints[0].query
    fingerprint = await _fingerprint(req, content_type, query, upload, asked.headers(way))
    task_id = await services.store.keyed_ids.id_of(owner or "", way.route.path, key)
    return asked.task(task_id, way, service, fingerprint)


def outcome_response(
    outcome: OperationOutcome, services: Services, status: int = 200, headers: Mapping[str, str] | None = None
) -> func.HttpResponse:
    return _task_response(task_of(outcome), services, status, headers)


def _task_response(
    task: Task, services: Services, status: int, headers: Mapping[str, str] | None = None
) -> func.HttpResponse:
    document = _view(task, services, status).encoded()
    return json_response(document, status, {**_task_headers(task, services), **(headers or {})})


async def _whole_response(
    task: Task,
    services: Services,
    status: int,
    headers: Mapping[str, str] | None = None,
    position: QueuePosition | None = None,
    outage: Outage | None = None,
) -> func.HttpResponse:
    """With the whole status text, however long it is."""
    document = await _view(task, services, status, position, outage).encoded_whole(task)
    return json_response(document, status, {**_task_headers(task, services, position), **(headers or {})})


def _view(
    task: Task,
    services: Services,
    status: int,
    position: QueuePosition | None = None,
    outage: Outage | None = None,
) -> TaskView:
    view = view_of(task, position, outage)
    if status == 202:
        view.max_body_bytes = services.settings.largest_body_bytes
        view.max_upload_bytes = services.bodies.most_upload_bytes
    return view


def _task_headers(task: Task, services: Services, position: QueuePosition | None = None) -> dict[str, str]:
    # Weak if the document has the task's position too, which changes without the task.
    headers = {"ETag": f"W/{task.etag}" if position else task.etag, "Cache-Control": "no-cache"}
    if position is not None and position.wait_s is not None:
        headers["Retry-After"] = str(retry_after_s(position.wait_s))
    elif position is not None and position.is_paused:
        headers["Retry-After"] = str(_LONGEST_RETRY_AFTER_S)
    elif task.start is not None and task.is_delayed:
        ahead_s = (task.start.at_ms - services.now_ms()) / 1000
        headers["Retry-After"] = str(min(_LONGEST_RETRY_AFTER_S, max(1, math.ceil(ahead_s))))
    elif not task.state.is_terminal:
        # Callers ask often after short tasks and seldom after long ones, silent or not.
        age_s = (max(services.now_ms(), task.updated_ms) - task.created_ms) / 1000
        headers["Retry-After"] = str(min(_LONGEST_RETRY_AFTER_S, max(1, round(age_s / 10))))
    return headers
