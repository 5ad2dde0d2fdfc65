"""What a played backbone answers to a model service (``docs/contract.md``)."""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, cast
from urllib.parse import parse_qs, urlsplit

from ._played import Content, Problem, Tasks, invalid, iso
from ._played_storage import ROOT, Storage

_MAX_SLOTS = 10_000
_TASK = re.compile(r"/api/v1/tasks/([^/]+)(?:/(heartbeat|release|result|checkpoint|next(?=/)))?(/.*)?")
_TASK_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_INSTANCE = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass
class Call:
    """A request that the model service sent. Header names are in lower case.

    Attributes:
        kind: ``report``, ``result``, ``upload``, ``heartbeat``, ``release``, ``checkpoint``, ``next``, ``lookup``,
            ``health``, ``count``, ``cancel``, or ``unknown``; for ``fault`` alone ``storage``.
        attempts: the tasks that it speaks for, each with its attempt; None if it names none.
        ends: the end that it reports: ``completed``, ``failed``, or nothing.
        at_s: when it came, by ``time.monotonic``.
        status: of the answer; 0 if it got none.
        outcomes: of several heartbeats, each task's status.
        problem: what was wrong with it.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)
    at_s: float = 0.0
    kind: str = "unknown"
    attempts: list[tuple[str, int | None]] = field(default_factory=list[Any])
    ends: str = ""
    status: int = 0
    outcomes: dict[str, int] = field(default_factory=dict[str, int])
    problem: str = ""

    def of(self, task_id: str) -> bool:
        """Whether it speaks for a task."""
        return any(task_id == named for named, _ in self.attempts)

    def status_of(self, task_id: str) -> int:
        """What it got for a task."""
        return self.outcomes.get(task_id, self.status)

    @property
    def content(self) -> Content:
        kind = self.headers.get("content-type") or "application/octet-stream"
        return Content(self.body, kind, self.headers.get("content-encoding", ""))


@dataclass
class Reply:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict[str, str])


def chunked() -> Reply:
    """The Functions host loses a body in chunks."""
    detail = "A body that is sent in chunks does not arrive. Send it in one piece."
    return _refusal(Problem(411, "length-required", "The body has no Content-Length.", detail))


class Api:
    """Takes the requests one at a time: whoever calls holds a lock.

    ``slots`` is what each instance told last, ``in_flight`` what was counted by cluster and path.
    """

    def __init__(self, tasks: Tasks, key: str, max_body_bytes: int, max_upload_bytes: int) -> None:
        self.tasks = tasks
        self.storage = Storage()
        self.url = ""
        self._max_upload_bytes = max_upload_bytes
        self.slots: dict[str, int] = {}
        self.in_flight: dict[tuple[str, str], int] = {}
        self._key = key
        self.max_body_bytes = max_body_bytes

    def answer(self, call: Call) -> Reply:
        self.tasks.sweep()
        keys = [call.headers.get("x-functions-key", ""), *parse_qs(call.query).get("code", [])]
        if call.path != "/api/v1/health" and not (self._key in keys if self._key else any(keys)):
            return Reply(401)
        try:
            match = _TASK.fullmatch(call.path)
            if match and bool(match[3]) == (match[2] == "next"):
                return self._of_task(call, match[1], match[2] or "", match[3])
            routes: dict[str, Callable[[Call], Reply]] = {
                "POST /api/CacheConnectorUpsert": self._report,
                "GET /api/CacheConnectorGet": self._look_up,
                "POST /api/v1/heartbeats": self._heartbeats,
                "POST /api/CurrentProcessingUpsert": self._count,
                "GET /api/v1/health": self._health,
                "POST /api/v1/uploads": self._upload,
            }
            return routes.get(f"{call.method} {call.path}", lambda call: Reply(404))(call)
        except Problem as problem:
            call.problem = str(problem)
            return _refusal(problem)

    def take_told(self, headers: Mapping[str, str]) -> None:
        """Note what an instance tells of its slots. Raises Problem, 400."""
        told, instance = headers.get("x-task-slots"), headers.get("x-task-instance")
        if told is None:
            return
        if not (told.isascii() and told.isdigit() and len(told) < 9 and int(told) <= _MAX_SLOTS):
            raise invalid("X-Task-Slots", f"a number from 0 to {_MAX_SLOTS} is expected")
        if not _INSTANCE.fullmatch("-" if instance is None else instance):
            raise invalid("X-Task-Instance", "up to 128 characters without blanks are expected")
        self.slots[instance or ""] = int(told)

    def _of_task(self, call: Call, task_id: str, part: str, path: str) -> Reply:
        tasks, method = self.tasks, call.method
        call.kind = "cancel" if method == "DELETE" else "lookup" if method in ("GET", "HEAD") else part
        attempt = _attempt(call.headers.get("x-task-attempt"), "X-Task-Attempt")
        call.attempts.append((task_id, attempt))
        put = "PUT" if part in ("result", "checkpoint") else "POST" if part else ""
        if method == put:
            self._from_service(call, task_id, attempt, path)
        elif call.kind == "lookup" and part in ("result", "checkpoint"):
            return self._stored(task_id, part)
        elif call.kind == "cancel" and not part:
            tasks.cancel(tasks.find(task_id))
        elif call.kind != "lookup" or part:
            return Reply(404)
        return _reply(tasks.view(tasks.find(task_id)))

    def _from_service(self, call: Call, task_id: str, attempt: int | None, path: str) -> None:
        tasks, kind = self.tasks, call.kind
        self._check_size(call.body)
        if kind == "heartbeat":
            told = _members(_parsed(call.body or b"{}"), "Progress", "Status")
            self.take_told(call.headers)
            tasks.heartbeat(tasks.find(task_id), attempt, told.get("Progress"), told.get("Status"))
        elif kind in ("release", "next") and attempt is None:
            raise invalid("X-Task-Attempt", "it is missing")
        elif kind == "next":
            named = call.headers.get("x-next-body")
            if named not in (None, "result", "current") or (named and call.body):
                raise invalid("X-Next-Body", "result or current is expected, and no body")
            self.take_told(call.headers)
            content = None if named else call.content
            tasks.send_on(tasks.find(task_id), attempt or 0, path, call.query, content, named == "result")
        elif kind == "release":
            told = _members(_parsed(call.body or b"{}"), "Failed", "RetryAfterSeconds", "Status")
            self.take_told(call.headers)
            failed, after_s = bool(told.get("Failed")), told.get("RetryAfterSeconds") or 0
            tasks.release(tasks.find(task_id), attempt or 0, failed, after_s, told.get("Status"))
        elif kind == "checkpoint":
            self.take_told(call.headers)
            tasks.put_checkpoint(tasks.find(task_id), attempt, call.content)
        else:
            completed = call.headers.get("x-task-complete")
            call.ends = "" if completed is None else "completed"
            self.take_told(call.headers)
            content, upload = call.content, call.headers.get("x-upload")
            if upload is not None:
                content = self.storage.take(upload, task_id, attempt)
            tasks.put_result(tasks.find(task_id), attempt, content, completed)

    def _upload(self, call: Call) -> Reply:
        call.kind = "upload"
        told = _parsed(call.body)
        if not isinstance(told, dict):
            raise invalid("", "a JSON object is expected")
        document = cast("dict[str, Any]", told)
        attempt = _attempt(call.headers.get("x-task-attempt"), "X-Task-Attempt")
        task_id = _text(_lowered(document), "TaskId") or ""
        call.attempts.append((task_id, attempt))
        if attempt is None:
            raise invalid("X-Task-Attempt", "it is missing")
        self.take_told(call.headers)
        self.tasks.heartbeat(self.tasks.find(task_id), attempt, None, None)
        name = self.storage.open(document, attempt, self._max_upload_bytes)
        expires_at = iso(self.tasks.now_s() + 3600)
        url = f"{self.url}{ROOT}{name}?sp=cw&sig={secrets.token_urlsafe(8)}"
        return _reply({"UploadId": name, "Url": url, "ExpiresAt": expires_at}, 201)

    def _report(self, call: Call) -> Reply:
        """``CacheConnectorUpsert`` for a task that there is."""
        call.kind = "report"
        told = _lowered((_listed(_parsed(call.body)) or [None])[0])
        task_id, to = _text(told, "TaskId") or "", (_text(told, "BackendStatus") or "").strip().lower()
        attempt, status, body = _attempt(told.get("attempt"), "/Attempt"), _text(told, "Status"), _text(told, "Body")
        call.attempts.append((task_id, attempt))
        if to not in ("", "created", "running", "completed", "failed"):
            raise invalid("/BackendStatus", "created, running, completed or failed is expected")
        if task_id and not _TASK_ID.fullmatch(task_id):
            raise invalid("/TaskId", "the id of a task is expected")
        progress = _members({"Progress": told.get("progress")}, "Progress")["Progress"]
        self._check_size((status or "").encode(), (body or "").encode())
        call.ends = to if to in ("completed", "failed") else ""
        if task_id not in self.tasks.records:
            raise invalid("/Endpoint", "a new task needs one")
        self.take_told(call.headers)
        task, publishes = self.tasks.find(task_id), told.get("publishtogrid")
        if publishes.strip().lower() == "true" if isinstance(publishes, str) else publishes:
            split = urlsplit(_text(told, "Endpoint") or "")
            content = Content(body.encode(), "application/json; charset=utf-8") if body else None
            self.tasks.next_step(task, attempt, split.path or task.path, split.query, content, status)
        else:
            self.tasks.report(task, attempt, to, status, progress)
        return _reply(self.tasks.view(task, is_legacy=True))

    def _look_up(self, call: Call) -> Reply:
        call.kind = "lookup"
        task_id = parse_qs(call.query).get("taskId", [""])[0]
        if not task_id:
            raise invalid("taskId", "the query parameter is missing")
        call.attempts.append((task_id, None))
        task = self.tasks.records.get(task_id)
        return _reply(self.tasks.view(task, is_legacy=True)) if task else Reply(204)

    def _count(self, call: Call) -> Reply:
        call.kind = "count"
        for told in map(_lowered, _listed(_parsed(call.body))):
            key = _text(told, "ServiceCluster") or "", _text(told, "ApiPath") or ""
            change = int(told.get("incrementby") or 0) - int(told.get("decrementby") or 0)
            self.in_flight[key] = self.in_flight.get(key, 0) + change
        return Reply(200, headers={"Content-Type": "text/plain"})

    def _health(self, call: Call) -> Reply:
        call.kind = "health"
        fine = dict.fromkeys(("Redis", "BlobStorage", "EventGrid", "Backends", "Eviction"), "ok")
        told = {
            "MaxBodyBytes": self.max_body_bytes,
            "MaxUploadBytes": self._max_upload_bytes,
            "HostBodyBytes": None,
        }
        return _reply({"Status": "ok", "Dependencies": fine, **told})

    def _heartbeats(self, call: Call) -> Reply:
        call.kind = "heartbeat"
        beats: Any = _members(_parsed(call.body), "Heartbeats").get("Heartbeats")
        if not isinstance(beats, list) or not 1 <= len(cast("list[Any]", beats)) <= 200:
            raise invalid("/Heartbeats", "1 to 200 heartbeats are expected")
        parsed: list[tuple[str, int | None, float | None, str | None]] = []
        for number, beat in enumerate(cast("list[Any]", beats)):
            where = f"/Heartbeats/{number}"
            told = _members(beat, "TaskId", "Attempt", "Progress", "Status", where=where)
            if told.get("TaskId") is None:
                raise invalid(f"{where}/TaskId", "it is missing")
            attempt = _attempt(told.get("Attempt"), f"{where}/Attempt")
            parsed.append((told["TaskId"], attempt, told.get("Progress"), told.get("Status")))
        self.take_told(call.headers)
        outcomes: list[dict[str, Any]] = []
        for task_id, attempt, progress, status in parsed:
            code = 200
            call.attempts.append((task_id, attempt))
            try:
                self.tasks.heartbeat(self.tasks.find(task_id), attempt, progress, status)
            except Problem as problem:
                code = problem.status
            task = self.tasks.records.get(task_id)
            view = self.tasks.view(task) if task else {}
            call.outcomes[task_id] = code
            known = {name: view.get(name) for name in ("BackendStatus", "Attempt")}
            outcomes.append({"TaskId": task_id, "StatusCode": code, **known})
        return _reply({"Outcomes": outcomes})

    def _stored(self, task_id: str, part: str) -> Reply:
        task = self.tasks.find(task_id)
        content = task.result if part == "result" else task.kept
        if content is None:
            detail = "No attempt has stored one, or not yet."
            raise Problem(404, f"no-{part}", f"There is no {part}.", detail, TaskId=task_id)
        if len(content.data) > self.max_body_bytes:
            return Reply(303, headers={"Location": self.url + self.storage.link(content)})
        encoding = {"Content-Encoding": content.encoding} if content.encoding else {}
        return Reply(200, content.data, {"Content-Type": content.content_type, "TaskId": task_id, **encoding})

    def _check_size(self, *bodies: bytes) -> None:
        if max(map(len, bodies)) > self.max_body_bytes:
            detail = f"At most {self.max_body_bytes} bytes are taken."
            raise Problem(413, "too-large", "The body is too large.", detail)


def _reply(document: Any, status: int = 200, kind: str = "application/json") -> Reply:
    body = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    return Reply(status, body, {"Content-Type": kind})


def _refusal(problem: Problem) -> Reply:
    return _reply(problem.document, problem.status, "application/problem+json")


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise invalid("", "a JSON object is expected") from None


def _listed(document: Any) -> list[Any]:
    return cast("list[Any]", document) if isinstance(document, list) else [document]


def _lowered(document: Any) -> dict[str, Any]:
    """The members of an object by their names in lower case."""
    if not isinstance(document, dict):
        raise invalid("", "a JSON object, or an array of them, is expected")
    return {name.lower(): value for name, value in cast("dict[str, Any]", document).items()}


def _is_number(value: Any, most: float) -> bool:
    is_one = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_one and math.isfinite(value) and 0 <= value <= most


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "TaskId": (lambda value: isinstance(value, str) and bool(_TASK_ID.fullmatch(value)), "the id of a task"),
    "Progress": (lambda value: _is_number(value, 1), "a number from 0 to 1"),
    "Status": (lambda value: isinstance(value, str) and len(value) <= 1024, "a text of at most 1024 characters"),
    "Failed": (lambda value: isinstance(value, bool), "true or false"),
    "RetryAfterSeconds": (lambda value: _is_number(value, 86_400), "a number from 0 to 86400"),
}


def _members(document: Any, *names: str, where: str = "") -> dict[str, Any]:
    """The members of an object that has no others, by their names, which match in any case."""
    if not isinstance(document, dict):
        raise invalid(where, "a JSON object is expected")
    known, told = {name.lower(): name for name in names}, dict[str, Any]()
    for given, value in cast("dict[str, Any]", document).items():
        name = known.get(given.lower())
        if name is None:
            raise invalid(f"{where}/{given}", f"the members are {', '.join(names)}")
        is_right, expected = _KINDS.get(name, (lambda value: True, ""))
        if value is not None and not is_right(value):
            raise invalid(f"{where}/{name}", f"{expected} is expected")
        told[name] = value
    return told


def _attempt(told: Any, pointer: str) -> int | None:
    if isinstance(told, str) and told.isascii() and told.isdigit() and len(told) < 10:
        told = int(told)
    if told is not None and (not isinstance(told, int) or isinstance(told, bool) or told < 1):
        raise invalid(pointer, "a number is expected")
    return told


def _text(told: Mapping[str, Any], name: str) -> str | None:
    """A text, or the number or boolean that stands in its place."""
    value = told.get(name.lower())
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if value is not None and not isinstance(value, str):
        raise invalid(f"/{name}", "a text is expected")
    return value
