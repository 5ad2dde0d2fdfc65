"""The v1 task API (contract B)."""

from __future__ import annotations

import asyncio
import hashlib
import re
import uuid
from urllib.parse import unquote_plus, urlsplit

import azure.functions as func

from cache_manager.callers import tasks_for
from cache_manager.tasks import retry_after_s
from cache_manager.wire import HistoryEntry, TaskHistory, TaskList, TaskView
from functions_http import header, http_function, json_response
from shared import telemetry
from shared.backends import UnknownBackend
from shared.bodies import BodyMissing
from shared.problems import Problem, invalid, no_such_task
from shared.services import Services
from shared.task import DEFAULT_PRIORITY, State, Task
from shared.task_id import is_task_id, new_task_id
from shared.task_store import Created, Existing, Listing, NewTask, Place, QueuePlace

blueprint = func.Blueprint()

MAX_WAIT_S = 60
PRIORITY_PATTERN = r"\A([0-9]|(u=[0-7]|i(=\?[01])?)( *, *(u=[0-7]|i(=\?[01])?))*)\Z"
"""A digit; or what browsers send in the same header (RFC 9218), which is not for us."""
DEFAULT_LIMIT = 50
MAX_LIMIT = 200
_IDEMPOTENCY_NAMESPACE = uuid.UUID("6f0f3a43-8c0c-5b63-9d3a-5a4c1b7d7e10")
_KEY_PARAMETERS = ("code", "clientid")
"""Query parameters of the Functions host, which are not the backend's to see."""
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{1,255}")


@http_function(blueprint, "SubmitTask", route="v1/submit/{*path}", methods=["POST"])
async def submit_task(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    path = "/" + (req.route_params.get("path") or "")
    try:
        endpoint = services.backends.endpoint(path, _query(req.url))
    except UnknownBackend as error:
        raise Problem(404, "unknown-endpoint", "There is no such endpoint.", f"{path!r}: {error}.") from None
    body = req.get_body()
    content_type = _content_type(req)
    wait_s = _preferred_wait_s(req)
    key = _idempotency_key(req)
    # In a thread: of a large body it takes a while, in which the others are not to stand still.
    fingerprint = await asyncio.to_thread(_fingerprint, content_type, endpoint.query, body) if key else ""
    tasks = tasks_for(req, services)
    owner = tasks.owner or ""
    created = await tasks.submit(
        NewTask(
            str(uuid.uuid5(_IDEMPOTENCY_NAMESPACE, f"{owner}\n{path}\n{key}")) if key else new_task_id(),
            path,
            endpoint.backend.lease_s,
            query=endpoint.query,
            traceparent=telemetry.traceparent(),
            fingerprint=fingerprint,
            owner=owner,
            priority=_priority(req),
        ),
        content_type,
        body,
    )
    task = created.task
    if isinstance(created, Existing) and task.fingerprint != fingerprint:
        raise Problem(
            422,
            "idempotency-key-reused",
            "The idempotency key was used before.",
            "An earlier request with the same Idempotency-Key had another body.",
            members={"TaskId": task.id},
        )
    preference: dict[str, str] = {}
    if wait_s is not None and (waited := await tasks.wait_for_end(task, wait_s, len(body))) is not None:
        task = waited
        preference = {"Preference-Applied": f"wait={wait_s}"}
    root = re.split("/v1/submit/", req.url, maxsplit=1, flags=re.IGNORECASE)[0]
    status = 200 if wait_s is not None and task.state.is_terminal else 202
    place = created.place if isinstance(created, Created) and task.state is State.CREATED else None
    return _task_response(task, services, status, {"Location": f"{root}/v1/tasks/{task.id}", **preference}, place)


@http_function(blueprint, "GetTask", route="v1/tasks/{id}", methods=["GET"])
async def get_task(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    tasks = tasks_for(req, services)
    task = await tasks.get(_task_id(req))
    known = header(req, "if-none-match")
    if wait_s := _wait_s("wait", req.params.get("wait")):
        seen = known or task.etag
        task = await tasks.wait_for_change(task, lambda now: _matches(seen, now.etag), wait_s)
    place = await tasks.place(task)
    if known is not None and _matches(known, task.etag):
        return func.HttpResponse(status_code=304, headers=_task_headers(task, place))
    return _task_response(task, services, 200, {}, place)


@http_function(blueprint, "CancelTask", route="v1/tasks/{id}", methods=["DELETE"])
async def cancel_task(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    task = await tasks_for(req, services).cancel(_task_id(req))
    return _task_response(task, services, 200, {})


@http_function(blueprint, "ReplayTask", route="v1/tasks/{id}/replay", methods=["POST"])
async def replay_task(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    task = await tasks_for(req, services).replay(_task_id(req))
    return _task_response(task, services, 202, {})


@http_function(blueprint, "TaskHeartbeat", route="v1/tasks/{id}/heartbeat", methods=["POST"])
async def task_heartbeat(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    task = await tasks_for(req, services).beat(_task_id(req), _attempt(req))
    return _task_response(task, services, 200, {})


@http_function(blueprint, "ListTasks", route="v1/tasks", methods=["GET"])
async def list_tasks(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    page = await tasks_for(req, services).page(
        Listing(
            limit=_limit(req.params.get("limit")),
            path=req.params.get("path") or None,
            state=_state(req.params.get("status")),
            before=_cursor(req.params.get("cursor")),
        )
    )
    listed = TaskList(
        tasks=[TaskView.of(task, services.backends) for task in page.tasks],
        next_cursor=f"{page.next.created_ms:x}-{page.next.id}" if page.next else None,
    )
    return json_response(listed.model_dump_json(by_alias=True).encode())


@http_function(blueprint, "GetTaskHistory", route="v1/tasks/{id}/history", methods=["GET"])
async def get_task_history(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    task = await tasks_for(req, services).get(_task_id(req))
    history = TaskHistory(task_id=task.id, events=[HistoryEntry.of(event) for event in task.history])
    return json_response(history.model_dump(by_alias=True))


@http_function(blueprint, "PutTaskResult", route="v1/tasks/{id}/result", methods=["PUT"])
async def put_task_result(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    task = await tasks_for(req, services).put_result(_task_id(req), _attempt(req), _content_type(req), req.get_body())
    return _task_response(task, services, 200, {})


@http_function(blueprint, "GetTaskResult", route="v1/tasks/{id}/result", methods=["GET"])
async def get_task_result(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    task = await tasks_for(req, services).get(_task_id(req))
    if task.result is None:
        raise _no_result(task)
    with services.limits.body(task.result.size_bytes):
        try:
            data = (
                await services.bodies.read(task.result.blob)
                if task.result.blob
                else await services.store.inline_result(task.id)
            )
        except BodyMissing:
            data = None
    if data is None:
        raise _no_result(task)
    return func.HttpResponse(
        data,
        # The content is a model's: no browser is to run it in this app's name.
        headers={
            "TaskId": task.id,
            "Content-Type": task.result.content_type,
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox",
        },
    )


def _task_response(
    task: Task, services: Services, status: int, headers: dict[str, str], place: QueuePlace | None = None
) -> func.HttpResponse:
    document = TaskView.of(task, services.backends, place).encoded()
    return json_response(document, status, {**_task_headers(task, place), **headers})


def _task_headers(task: Task, place: QueuePlace | None = None) -> dict[str, str]:
    # Weak where the document tells of the task's place too, which changes without the task.
    headers = {"ETag": f"W/{task.etag}" if place else task.etag, "Cache-Control": "no-cache"}
    if place is not None and place.wait_s is not None:
        headers["Retry-After"] = str(retry_after_s(place.wait_s))
    elif not task.state.is_terminal:
        # Short tasks are asked after often, long ones seldom.
        age_s = (task.updated_ms - task.created_ms) / 1000
        headers["Retry-After"] = str(min(30, max(1, round(age_s / 10))))
    return headers


def _task_id(req: func.HttpRequest) -> str:
    task_id = req.route_params.get("id") or ""
    if not is_task_id(task_id):
        raise no_such_task()
    return task_id


def _content_type(req: func.HttpRequest) -> str:
    content_type = header(req, "content-type") or "application/octet-stream"
    if not _HEADER_VALUE.fullmatch(content_type):
        raise invalid("Content-Type", "at most 255 printable ASCII characters are allowed")
    return content_type


def _idempotency_key(req: func.HttpRequest) -> str | None:
    key = header(req, "idempotency-key")
    if key is not None and not _HEADER_VALUE.fullmatch(key):
        raise invalid("Idempotency-Key", "1 to 255 printable ASCII characters are allowed")
    return key


def _priority(req: func.HttpRequest) -> int:
    text = header(req, "priority")
    if text is None:
        return DEFAULT_PRIORITY
    if not re.search(PRIORITY_PATTERN, text):
        raise invalid("Priority", "a digit from 0 to 9 is expected")
    return int(text) if text.isdecimal() else DEFAULT_PRIORITY


def _fingerprint(content_type: str, query: str, body: bytes) -> str:
    return hashlib.sha256(b"\n".join((content_type.encode(), query.encode(), body))).hexdigest()[:32]


def _attempt(req: func.HttpRequest) -> int | None:
    text = header(req, "x-task-attempt")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise invalid("X-Task-Attempt", "a number is expected")
    return int(text)


def _preferred_wait_s(req: func.HttpRequest) -> int | None:
    """``Prefer: wait=N`` (RFC 7240). A preference that cannot be understood is not one, says the RFC."""
    text = header(req, "prefer")
    match = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?", text, re.IGNORECASE) if text else None
    return min(MAX_WAIT_S, int(match[1])) if match else None


def _wait_s(name: str, text: str | None) -> float:
    if text is None:
        return 0
    if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", text, re.ASCII):
        raise invalid(name, "a number of seconds is expected")
    return min(MAX_WAIT_S, float(text))


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not re.fullmatch(r"\d{1,4}", text, re.ASCII) or not 1 <= int(text) <= MAX_LIMIT:
        raise invalid("limit", f"a number from 1 to {MAX_LIMIT} is expected")
    return int(text)


def _state(text: str | None) -> State | None:
    if text and text not in set(State):
        raise invalid("status", f"one of {', '.join(State)} is expected")
    return State(text) if text else None


def _cursor(text: str | None) -> Place | None:
    match = re.fullmatch(r"([0-9a-f]{1,12})-(.+)", text or "")
    if text and (match is None or not is_task_id(match[2])):
        raise invalid("cursor", "the NextCursor of a former page is expected")
    return Place(int(match[1], 16), match[2]) if match else None


def _matches(if_none_match: str, etag: str) -> bool:
    return any(tag.strip().removeprefix("W/") in (etag, "*") for tag in if_none_match.split(","))


def _query(url: str) -> str:
    pairs = urlsplit(url).query.split("&")
    return "&".join(pair for pair in pairs if pair and _name(pair) not in _KEY_PARAMETERS)


def _name(pair: str) -> str:
    return unquote_plus(pair.partition("=")[0]).lower()


def _no_result(task: Task) -> Problem:
    return Problem(
        404,
        "no-result",
        "There is no result.",
        "The task has stored none, or not yet.",
        members={"TaskId": task.id},
    )
