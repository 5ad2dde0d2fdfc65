"""The tasks that this process was given by the task backbone: which attempt each is, and its heartbeats."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
import uuid
from collections import OrderedDict
from typing import Any, Callable, Dict, Mapping, NamedTuple
from urllib.parse import urlencode, urlsplit, urlunsplit

from task_management.calls import call, seconds_of

Task = Dict[str, Any]

ENDS = ("completed", "failed", "cancelled")
_BEAT_TIMEOUT_S = 10.0
_LEASE_S = 90.0
"""Of a dispatch that does not say how long its lease is."""
_AFTER_NO_ANSWER_S = 1.0
_BATCH = 200
_BATCHES_AGAIN_S = 600.0
_MOST_REMEMBERED = 10000

logger = logging.getLogger("ai4e")


class TaskId(str):
    """The id of a task. It is text like any other, and knows which attempt the task was dispatched as (None if it
    was not)."""

    attempt: int | None = None

    def __str__(self) -> str:
        # So that str(taskId), which the services write here and there, still knows it.
        return self


def task_id_of(text: str, attempt: int | None) -> TaskId:
    task_id = TaskId(text)
    task_id.attempt = attempt
    return task_id


class Urls(NamedTuple):
    """Where the backbone is: the URLs that the charts give, with their keys."""

    upsert: str
    get: str

    def task(self, task_id: str) -> str:
        return self.get + ("&" if "?" in self.get else "?") + urlencode({"taskId": str.__str__(task_id)})

    def v1(self, path: str) -> str | None:
        """The URL of an operation of v1 with the same key; None if the known URL is none of the backbone's."""
        parts = urlsplit(self.upsert)
        head, _, function = parts.path.rpartition("/")
        if function.lower() != "cacheconnectorupsert":
            return None
        return urlunsplit((parts.scheme, parts.netloc, head + "/v1" + path, parts.query, ""))


class Held:
    """An attempt of a task that this process was given.

    Attributes:
        slots: how many such tasks this process takes at a time; None if it takes any number.
        free_slot: is called before an end is reported, since the next task comes at that very moment.
        is_run: whether ``APIService`` runs it, and so knows when its function returns.
        is_gone: its reports would change nothing: it was cancelled, or is another attempt's or another endpoint's.
        is_ending: its end is on the way to the backbone, or there.
        told_end: the end that its last text tells, although it was reported as running.
        last: the task as it was last seen.
    """

    def __init__(self, task_id: TaskId, headers: Mapping[str, str], last: Task) -> None:
        self.id = task_id
        self.lease_s = _number(headers.get("X-Task-Lease"), _LEASE_S)
        self.trace = headers.get("traceparent", "")
        self.slots: int | None = None
        self.free_slot: Callable[[], None] = _nothing
        self.is_run = False
        self.is_gone = False
        self.is_ending = False
        self.told_end: tuple[str, Any] | None = None
        self.last = last
        self.heard_s = time.monotonic()
        self.due_s = 0.0

    @property
    def has_ended(self) -> bool:
        return self.is_gone or self.last.get("BackendStatus") in ENDS

    @property
    def headers(self) -> dict[str, str]:
        """Of each call that is about it."""
        trace = {"traceparent": self.trace} if self.trace else {}
        return {**slots_headers(self.slots), **trace}


def _nothing() -> None:
    """Frees no slot."""


def _number(text: str | None, default: float) -> float:
    try:
        return float(text or "")
    except ValueError:
        return default


def slots_headers(slots: int | None) -> dict[str, str]:
    """What tells the backbone how many tasks this process takes at a time."""
    return {} if slots is None else {"X-Task-Slots": str(slots), "X-Task-Instance": instance()}


_instances: dict[int, str] = {}


def instance() -> str:
    """The name of this process. One that was forked has its own."""
    pid = os.getpid()
    if pid not in _instances:
        host = re.sub(r"[^A-Za-z0-9._-]", "", socket.gethostname())[:60]
        _instances[pid] = f"{host}-{pid}-{uuid.uuid4().hex[:8]}"
    return _instances[pid]


class Holdings:
    """The attempts that this process holds. All task managers of the process share them, as services make several."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[str, int | None], Held] = OrderedDict()
        self._came: OrderedDict[tuple[str, str], None] = OrderedDict()

    def came(self, task_id: str, attempt: str) -> bool:
        """Whether this attempt was dispatched to this process already."""
        with self._lock:
            return (task_id, attempt) in self._came

    def comes(self, task_id: str, attempt: str) -> bool:
        """An attempt is dispatched to this process; returns whether it is the first time."""
        with self._lock:
            if (task_id, attempt) in self._came:
                return False
            if attempt:
                self._came[(task_id, attempt)] = None
            while len(self._came) > _MOST_REMEMBERED:
                self._came.popitem(last=False)
        return True

    def never_came(self, task_id: str, attempt: str) -> None:
        """It was refused after all, and may be dispatched again."""
        with self._lock:
            self._came.pop((task_id, attempt), None)

    def add(self, held: Held) -> None:
        with self._lock:
            self._held[(str.__str__(held.id), held.id.attempt)] = held
            while len(self._held) > _MOST_REMEMBERED:
                self._held.popitem(last=False)

    def remove(self, held: Held) -> None:
        key = (str.__str__(held.id), held.id.attempt)
        with self._lock:
            if self._held.get(key) is held:
                del self._held[key]

    def find(self, task_id: Any) -> Held | None:
        """Of an id that does not know its attempt, the oldest one: an attempt must never report for a newer one."""
        text = str.__str__(task_id) if isinstance(task_id, str) else str(task_id)
        with self._lock:
            if isinstance(task_id, TaskId):
                return self._held.get((text, task_id.attempt))
            return next((held for (held_id, _), held in self._held.items() if held_id == text), None)


holdings = Holdings()


class Heart:
    """Sends a heartbeat for each task at work, three times in its lease. A thread of its own does.

    It beats while the interpreter gives that thread a turn: a model in C that keeps the interpreter to itself for
    longer than two thirds of the lease loses the task to another attempt. A task that is reported on by nobody for
    ``AI4E_MAX_SILENCE_S`` (a day) is taken for hung, and no longer beaten for.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._beaten_for: dict[Held, Urls] = {}
        self._pid = 0
        self._batches_from_s = 0.0

    def begin(self, held: Held, urls: Urls) -> None:
        if held.id.attempt is None:
            return  # nobody waits for its heartbeats: it was not dispatched
        held.due_s = time.monotonic() + _interval_s(held)
        with self._changed:
            if self._pid != os.getpid():  # it was forked, and threads are not
                self._beaten_for.clear()
                self._pid = os.getpid()
                threading.Thread(target=self._run, name="ai4e-heartbeats", daemon=True).start()
            self._beaten_for[held] = urls
            self._changed.notify()

    def end(self, held: Held) -> None:
        with self._changed:
            self._beaten_for.pop(held, None)

    def _run(self) -> None:
        while True:
            try:
                self._beat(self._due())
            except Exception:
                logger.exception("heartbeats went wrong, and go on")
                time.sleep(_AFTER_NO_ANSWER_S)

    def _due(self) -> list[tuple[Held, Urls]]:
        """Waits until there is something to do."""
        silence_s = seconds_of("AI4E_MAX_SILENCE_S", 86400.0)
        with self._changed:
            while True:
                now_s = time.monotonic()
                for held in [each for each in self._beaten_for if each.is_gone or each.heard_s < now_s - silence_s]:
                    if not held.is_gone:
                        logger.warning(
                            "task %s: nothing was reported for %.0f s, so its lease ends", held.id, silence_s
                        )
                    del self._beaten_for[held]
                if any(held.due_s <= now_s for held in self._beaten_for):
                    # Those that are due soon go along.
                    soon_s = {held: now_s + _interval_s(held) / 4 for held in self._beaten_for}
                    return [(held, urls) for held, urls in self._beaten_for.items() if held.due_s <= soon_s[held]]
                next_s = min((held.due_s for held in self._beaten_for), default=now_s + 60)
                self._changed.wait(max(0.01, next_s - now_s))

    def _beat(self, due: list[tuple[Held, Urls]]) -> None:
        by_kind: dict[tuple[Urls, int | None], list[Held]] = {}
        for held, urls in due:
            by_kind.setdefault((urls, held.slots), []).append(held)
        for (urls, slots), beaten_for in by_kind.items():
            for start in range(0, len(beaten_for), _BATCH):
                part = beaten_for[start : start + _BATCH]
                answered = self._beat_for(urls, slots, part)
                now_s = time.monotonic()
                for held in part:
                    held.due_s = now_s + (_interval_s(held) if held in answered else _AFTER_NO_ANSWER_S)

    def _beat_for(self, urls: Urls, slots: int | None, beaten_for: list[Held]) -> set[Held]:
        url = urls.v1("/heartbeats")
        if url is None or time.monotonic() < self._batches_from_s:
            return {held for held in beaten_for if self._report_for(urls, held)}
        beats = [{"TaskId": held.id, "Attempt": held.id.attempt} for held in beaten_for]
        status, answer = call(
            "POST", url, {"Heartbeats": beats}, slots_headers(slots), timeout_s=_BEAT_TIMEOUT_S, retry_for_s=0
        )
        if status in (401, 403, 404, 405):
            if not self._batches_from_s:
                logger.warning(
                    "the key of CACHE_CONNECTOR_UPSERT_URI opens this one function (heartbeats: %d). Leases are "
                    "renewed by reports, and no task can be given back: take a key of the host.",
                    status,
                )
            self._batches_from_s = time.monotonic() + _BATCHES_AGAIN_S  # a host that is starting may say so too
            return {held for held in beaten_for if self._report_for(urls, held)}
        if status != 200:
            return set()
        outcomes = answer.get("Outcomes", []) if isinstance(answer, dict) else []
        for held, outcome in zip(beaten_for, outcomes):  # they are in the order of the heartbeats
            if outcome.get("StatusCode") in (404, 409):
                self._lose(held, {**held.last, "BackendStatus": outcome.get("BackendStatus")})
        return set(beaten_for)

    @staticmethod
    def _report_for(urls: Urls, held: Held) -> bool:
        """Renew a lease by the one call that every key is good for. The text stays."""
        report = {"TaskId": held.id, "Attempt": held.id.attempt, "BackendStatus": "running"}
        status, answer = call("POST", urls.upsert, report, held.headers, timeout_s=_BEAT_TIMEOUT_S, retry_for_s=0)
        if status in (404, 409):
            Heart._lose(held, task_in(answer) or held.last)
        return status not in (0, 408, 429) and status < 500

    @staticmethod
    def _lose(held: Held, task: Task) -> None:
        if held.is_ending:
            return  # its own end came first
        held.last = task
        held.is_gone = True
        logger.warning(
            "task %s: it is no longer attempt %s (%s)", held.id, held.id.attempt, task.get("BackendStatus")
        )


heart = Heart()


def _interval_s(held: Held) -> float:
    return min(30.0, max(0.5, held.lease_s / 3))


def task_in(problem: Any) -> Task | None:
    """The stored task, which a 409 brings along."""
    task = problem.get("Task") if isinstance(problem, dict) else None
    return task if isinstance(task, dict) else None
