"""What a played backbone answers to the requests of model services and callers (``docs/contract.md``)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

from taskbackbone._played import Content, Problem, Record, Tasks, invalid

MAX_HEARTBEATS = 200
MAX_RELEASE_S = 86_400
MAX_SLOTS = 10_000
_LEGACY_TYPE = "application/json; charset=utf-8"
_TASK = re.compile(r"/api/v1/tasks/([^/]+)(?:/(heartbeat|release|result|checkpoint|history))?")
_TASK_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_INSTANCE = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass
class Call:
    """A request that the model service sent, or a caller. Header names are in lower case.

    Attributes:
        kind: ``report``, ``result``, ``heartbeat``, ``release``, ``checkpoint``, ``lookup``, ``health``, ``count``,
            ``submit``, ``cancel``, or ``unknown``.
        attempts: the tasks that it speaks for, each with its attempt; None if it names none.
        ends: the end that it reports: ``completed``, ``failed``, or nothing.
        at_s: when it came, by ``time.monotonic``.
        status: of the answer; 0 if it got none.
        outcomes: of several heartbeats, the status of each task's.
        problem: what was wrong with it.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)
    at_s: float = 0.0
    kind: str = "unknown"
    attempts: list[tuple[str, int | None]] = field(default_factory=list)
    ends: str = ""
    status: int = 0
    outcomes: dict[str, int] = field(default_factory=dict[str, int])
    problem: str = ""

    def of(self, task_id: str) -> bool:
        """Whether it speaks for this task."""
        return any(task_id == named for named, _ in self.attempts)

    def status_of(self, task_id: str) -> int:
        """What it was answered for this task; 0 if nothing."""
        return self.outcomes.get(task_id, self.status)

    @property
    def content(self) -> Content:
        kind = self.headers.get("content-type") or "application/octet-stream"
        return Content(self.body, kind, self.headers.get("content-encoding", ""))


@dataclass
class Reply:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def length_required() -> Problem:
    detail = "A body that is sent in chunks does not arrive. Send it in one piece."
    return Problem(411, "length-required", "The body has no Content-Length.", detail)


def problem_reply(problem: Problem) -> Reply:
    return Reply(problem.status, _json(problem.document), {"Content-Type": "application/problem+json"})


class Api:
    """Takes the requests one at a time: whoever calls holds a lock.

    Attributes:
        slots: what each instance of the model service has told last.
        in_flight: the counts of ``CurrentProcessingUpsert``, by cluster and path.
    """

    def __init__(self, tasks: Tasks, key: str, max_body_bytes: int) -> None:
        self.tasks = tasks
        self.key = key
        self.max_body_bytes = max_body_bytes
        self.slots: dict[str, int] = {}
        self.in_flight: dict[tuple[str, str], int] = {}

    def answer(self, call: Call) -> Reply:
        self.tasks.sweep()
        if call.path != "/api/v1/health" and not self._has_key(call):
            return Reply(401)
        try:
            return self._answer(call)
        except Problem as problem:
            call.problem = str(problem)
            return problem_reply(problem)

    def take_told(self, headers: Mapping[str, str], *, is_answer: bool = False) -> None:
        """Note what an instance tells of its slots. In an answer, what makes no sense is ignored.

        Raises:
            Problem: 400.
        """
        told, instance = headers.get("x-task-slots"), headers.get("x-task-instance")
        if told is None:
            return
        is_number = told.isascii() and told.isdigit() and len(told) < 9 and int(told) <= MAX_SLOTS
        is_name = instance is None or _INSTANCE.fullmatch(instance) is not None
        if is_number and is_name:
            self.slots[instance or ""] = int(told)
        elif not is_answer and not is_number:
            raise invalid("X-Task-Slots", f"a number from 0 to {MAX_SLOTS} is expected")
        elif not is_answer:
            raise invalid("X-Task-Instance", "1 to 128 printable ASCII characters without blanks are expected")

    def _has_key(self, call: Call) -> bool:
        keys = [call.headers.get("x-functions-key", ""), *parse_qs(call.query).get("code", [])]
        return self.key in keys if self.key else any(keys)

    def _answer(self, call: Call) -> Reply:
        match = _TASK.fullmatch(call.path)
        if match:
            return self._of_task(call, match[1], match[2] or "")
        route = f"{call.method} {call.path}"
        if route == "POST /api/CacheConnectorUpsert":
            return self._report(call)
        if route == "GET /api/CacheConnectorGet":
            return self._look_up(call)
        if route == "POST /api/v1/heartbeats":
            return self._heartbeats(call)
        if route == "POST /api/CurrentProcessingUpsert":
            return self._count(call)
        if route == "GET /api/v1/health":
            call.kind = "health"
            fine = {"Redis": "ok", "BlobStorage": "ok", "EventGrid": "ok", "Backends": "ok"}
            return _reply(
                {
                    "Status": "ok",
                    "Dependencies": fine,
                    "MaxBodyBytes": self.max_body_bytes,
                    "HostBodyBytes": None,
                }
            )
        if route.startswith("POST /api/v1/submit/"):
            call.kind = "submit"
            path = unquote(call.path[len("/api/v1/submit") :])
            task = self.tasks.create(path, call.query, call.content, traceparent=call.headers.get("traceparent", ""))
            call.attempts.append((task.id, None))
            host = call.headers.get("host", "")
            location = {"Location": f"http://{host}/api/v1/tasks/{task.id}"}
            return self._reply(task, 202, location, {"MaxBodyBytes": self.max_body_bytes})
        return Reply(404)

    def _of_task(self, call: Call, task_id: str, part: str) -> Reply:
        tasks, method = self.tasks, call.method
        call.kind = part if part not in ("", "history") else "cancel" if method == "DELETE" else "lookup"
        attempt = _attempt(call)
        call.attempts.append((task_id, attempt))
        if part in ("result", "checkpoint") and method in ("GET", "HEAD"):
            call.kind = "lookup"
            return self._stored(tasks.find(task_id), part)
        if part == "history" and method == "GET":
            return _reply({"TaskId": task_id, "Events": self._history(tasks.find(task_id))})
        if part == "" and method in ("GET", "HEAD"):
            task = tasks.find(task_id)
            seen = [tag.strip() for tag in call.headers.get("if-none-match", "").split(",")]
            return Reply(304, headers={"ETag": task.etag}) if task.etag in seen else self._reply(task)
        if part == "" and method == "DELETE":
            task = tasks.find(task_id)
            tasks.cancel(task)
            return self._reply(task)
        if (part in ("result", "checkpoint") and method == "PUT") or (
            part in ("heartbeat", "release") and method == "POST"
        ):
            return self._from_service(call, task_id, part, attempt)
        return Reply(404)

    def _from_service(self, call: Call, task_id: str, part: str, attempt: int | None) -> Reply:
        tasks, completed = self.tasks, call.headers.get("x-task-complete") if part == "result" else None
        if completed is not None:
            call.ends = "completed"
        self._check_size(call.body)
        if part == "heartbeat":
            told = _members(call.body or b"{}", "Progress", "Status")
            progress, status = _progress(told), _short_text(told)
            self.take_told(call.headers)
            tasks.heartbeat(task := tasks.find(task_id), attempt, progress, status)
        elif part == "release":
            if attempt is None:
                raise invalid("X-Task-Attempt", "it is missing")
            told = _members(call.body or b"{}", "Failed", "RetryAfterSeconds", "Status")
            failed, after_s = told.get("Failed"), told.get("RetryAfterSeconds")
            if not isinstance(failed, (bool, type(None))):
                raise invalid("/Failed", "true or false is expected")
            if after_s is not None and not (_is_number(after_s) and 0 <= after_s <= MAX_RELEASE_S):
                raise invalid("/RetryAfterSeconds", f"a number from 0 to {MAX_RELEASE_S} is expected")
            status = _short_text(told)
            self.take_told(call.headers)
            task = tasks.find(task_id)
            tasks.release(task, attempt, failed=bool(failed), after_s=after_s or 0, status=status)
        else:
            self.take_told(call.headers)
            task = tasks.find(task_id)
            if part == "result":
                tasks.put_result(task, attempt, call.content, completed)
            else:
                tasks.put_checkpoint(task, attempt, call.content)
        return self._reply(task)

    def _report(self, call: Call) -> Reply:
        """``CacheConnectorUpsert`` for a task that there is."""
        call.kind = "report"
        told = _legacy(call.body)
        task_id, to = _text(told, "TaskId") or "", (_text(told, "BackendStatus") or "").strip().lower()
        attempt, status, body = _number(told), _text(told, "Status"), _text(told, "Body")
        call.attempts.append((task_id, attempt))
        if to not in ("", "created", "running", "completed", "failed"):
            raise invalid("/BackendStatus", "'created', 'running', 'completed' or 'failed' is expected")
        if task_id and not _TASK_ID.fullmatch(task_id):
            raise invalid("/TaskId", "up to 128 of A-Z a-z 0-9 _ . - are allowed")
        progress = _progress({"Progress": told.get("progress")})
        for text in (status, body):
            self._check_size((text or "").encode())
        if to in ("completed", "failed"):
            call.ends = to
        endpoint, publishes = _text(told, "Endpoint") or "", _is_true(told.get("publishtogrid"))
        if task_id not in self.tasks.records:
            raise invalid("/Endpoint", "a new task needs one")
        self.take_told(call.headers)
        task = self.tasks.find(task_id)
        if publishes:
            split = urlsplit(endpoint)
            content = Content(body.encode(), _LEGACY_TYPE) if body else None
            self.tasks.next_step(task, attempt, split.path or task.path, split.query, content, status)
        else:
            self.tasks.report(task, attempt, to=to, status=status, progress=progress)
        return _reply(self.tasks.view(task, is_legacy=True))

    def _look_up(self, call: Call) -> Reply:
        call.kind = "lookup"
        task_id = parse_qs(call.query).get("taskId", [""])[0]
        call.attempts.append((task_id, None))
        if not task_id:
            raise invalid("taskId", "the query parameter is missing")
        task = self.tasks.records.get(task_id)
        return _reply(self.tasks.view(task, is_legacy=True)) if task else Reply(204)

    def _count(self, call: Call) -> Reply:
        call.kind = "count"
        told = _legacy(call.body)
        counted = _text(told, "ServiceCluster") or "", _text(told, "ApiPath") or ""
        change = int(told.get("incrementby") or 0) - int(told.get("decrementby") or 0)
        self.in_flight[counted] = self.in_flight.get(counted, 0) + change
        return Reply(200, headers={"Content-Type": "text/plain"})

    def _heartbeats(self, call: Call) -> Reply:
        call.kind = "heartbeat"
        beats = _members(call.body, "Heartbeats").get("Heartbeats")
        if not isinstance(beats, list) or not 1 <= len(cast("list[Any]", beats)) <= MAX_HEARTBEATS:
            raise invalid("/Heartbeats", f"1 to {MAX_HEARTBEATS} heartbeats are expected")
        parsed: list[tuple[str, int | None, float | None, str | None]] = []
        for number, beat in enumerate(cast("list[Any]", beats)):
            where = f"/Heartbeats/{number}"
            told = _members(_json(beat), "TaskId", "Attempt", "Progress", "Status", where=where)
            task_id, attempt = told.get("TaskId"), told.get("Attempt")
            if not isinstance(task_id, str) or not _TASK_ID.fullmatch(task_id):
                raise invalid(f"{where}/TaskId", "the id of a task is expected")
            if attempt is not None and (not isinstance(attempt, int) or attempt < 1):
                raise invalid(f"{where}/Attempt", "a whole number is expected")
            parsed.append((task_id, attempt, _progress(told, where), _short_text(told, where)))
        self.take_told(call.headers)
        call.attempts.extend((task_id, attempt) for task_id, attempt, _, _ in parsed)
        outcomes = [self._beat(*beat) for beat in parsed]
        call.outcomes = {each["TaskId"]: each["StatusCode"] for each in outcomes}
        return _reply({"Outcomes": outcomes})

    def _beat(self, task_id: str, attempt: int | None, progress: float | None, status: str | None) -> dict[str, Any]:
        task, code = self.tasks.records.get(task_id), 200
        try:
            self.tasks.heartbeat(self.tasks.find(task_id), attempt, progress, status)
        except Problem as problem:
            code = problem.status
        view = self.tasks.view(task) if task else {}
        told = {"BackendStatus": view.get("BackendStatus"), "Attempt": view.get("Attempt")}
        return {"TaskId": task_id, "StatusCode": code, **told}

    def _stored(self, task: Record, part: str) -> Reply:
        content = task.result if part == "result" else task.checkpoint
        if content is None:
            title = f"There is no {part}."
            raise Problem(404, f"no-{part}", title, "No attempt has stored one, or not yet.", TaskId=task.id)
        encoding = {"Content-Encoding": content.encoding} if content.encoding else {}
        return Reply(200, content.data, {"Content-Type": content.content_type, "TaskId": task.id, **encoding})

    def _history(self, task: Record) -> list[dict[str, Any]]:
        told = {} if task.progress is None else {"Progress": task.progress}
        return [*task.history[:-1], {**task.history[-1], **told}]

    def _reply(
        self, task: Record, status: int = 200, headers: dict[str, str] | None = None, more: Any | None = None
    ) -> Reply:
        retry_after = {} if task.has_ended else {"Retry-After": "1"}
        reply = _reply({**self.tasks.view(task), **(more or {})}, status)
        reply.headers.update({"ETag": task.etag, "Cache-Control": "no-cache", **retry_after, **(headers or {})})
        return reply

    def _check_size(self, data: bytes) -> None:
        if len(data) > self.max_body_bytes:
            detail = f"At most {self.max_body_bytes} bytes are taken."
            raise Problem(413, "too-large", "The body is too large.", detail)


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _reply(document: Any, status: int = 200) -> Reply:
    return Reply(status, _json(document), {"Content-Type": "application/json"})


def _parsed(body: bytes) -> Any:
    if not body.strip():
        raise invalid("", "it is empty; a JSON object is expected")
    try:
        return json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise invalid("", "it is not JSON") from None


def _legacy(body: bytes) -> dict[str, Any]:
    """The object, or the first one of an array; its members by their names in lower case."""
    document = _parsed(body)
    if isinstance(document, list):
        document = cast("list[Any]", document)[0] if document else None
    if not isinstance(document, dict):
        raise invalid("", "a JSON object, or an array of them, is expected")
    return {name.lower(): value for name, value in cast("dict[str, Any]", document).items()}


def _members(body: bytes, *names: str, where: str = "") -> dict[str, Any]:
    """The members of an object that has no others. Names match in any case."""
    document = _parsed(body)
    if not isinstance(document, dict):
        raise invalid(where, "a JSON object is expected")
    known, members = {name.lower(): name for name in names}, cast("dict[str, Any]", document)
    for name in members:
        if name.lower() not in known:
            raise invalid(f"{where}/{name}", f"there is no such member; this request takes {', '.join(names)}")
    return {known[name.lower()]: value for name, value in members.items()}


def _attempt(call: Call) -> int | None:
    text = call.headers.get("x-task-attempt")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise invalid("X-Task-Attempt", "a number is expected")
    return int(text)


def _number(told: Mapping[str, Any]) -> int | None:
    attempt = told.get("attempt")
    if isinstance(attempt, str) and attempt.isdigit():
        attempt = int(attempt)
    if attempt is not None and (not isinstance(attempt, int) or isinstance(attempt, bool) or attempt < 1):
        raise invalid("/Attempt", "a whole number is expected")
    return attempt


def _text(told: Mapping[str, Any], name: str) -> str | None:
    """A text, or the number or boolean that stands in its place."""
    value = told.get(name.lower())
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    raise invalid(f"/{name}", "a text is expected")


def _is_true(value: Any) -> bool:
    return value.strip().lower() == "true" if isinstance(value, str) else bool(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _progress(told: Mapping[str, Any], where: str = "") -> float | None:
    value = told.get("Progress")
    if value is not None and not (_is_number(value) and 0 <= value <= 1):
        raise invalid(f"{where}/Progress", "a number from 0 to 1 is expected")
    return value


def _short_text(told: Mapping[str, Any], where: str = "") -> str | None:
    value = told.get("Status")
    if value is not None and (not isinstance(value, str) or len(value) > 1024):
        raise invalid(f"{where}/Status", "a text of at most 1024 characters is expected")
    return value
