"""The whole life of a task in the local stack: created, published, delivered, dispatched, run, completed.

One backend accepts any number of tasks and takes no time: it shows the rate and the parts of the time. Another one
has a few slots, and is held until all tasks wait: it shows how long a freed slot stays empty. A third one answers
dispatches with the result, and callers submit with ``Prefer: wait``: two function executions from submit to result.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeVar

import httpx

from bench.backend import RESULT, BackendProcess, Journal, Visit
from bench.commands import open_redis
from bench.harness import Figure, Report, with_spread
from bench.plausibility import Limits, repeated_if_implausible, require
from local.redis_server import RedisServer
from local.stack import Stack
from shared.tasks.task import State, Task

T = TypeVar("T")

FAST, SLOTTED, ANSWERING = "/v1/fast", "/v1/slotted", "/v1/answering"
BODY: Final = b"x" * 500
SLOTS: Final = 4
SERVICE_S: Final = 0.05
CALLERS: Final = 16
_CUT_OFF_S: Final = 0.002
"""How far two processes' times of the same event may differ: the store's are whole milliseconds."""
_TIMER_TOLERANCE: Final = 1.02


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task as its caller knows it. Seconds since 1970."""

    task_id: str
    sent_s: float
    answered_s: float


@dataclass(frozen=True, slots=True)
class Size:
    singles: int
    """Tasks submitted one after the other, each after the completion of the previous one."""
    crowd: int
    """Tasks submitted by many callers at once."""
    waiting: int
    """Tasks for the backend with few slots."""
    patience_s: float
    repeats: int


def run(quick: bool) -> list[Figure]:
    size = Size(20, 150, 100, 5.0, 1) if quick else Size(100, 1500, 400, 16.0, 3)
    report = Report(
        "lifecycle",
        quick=quick,
        settings={
            "repeats": size.repeats,
            "tasks one by one": size.singles,
            f"tasks from {CALLERS} callers": size.crowd,
            "body bytes": len(BODY),
            "slots": SLOTS,
            "service s": SERVICE_S,
            "tasks for the slots": size.waiting,
        },
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = Path(name)
        fast = BackendProcess(directory / "fast")
        slotted = BackendProcess(directory / "slotted", slots=SLOTS, service_s=SERVICE_S)
        answering = BackendProcess(directory / "answering", answers=True)
        backends = {FAST: fast.address, SLOTTED: slotted.address, ANSWERING: answering.address}
        stack = Stack(directory / "stack", backends=backends, with_model=False)
        with answering, fast.report_to(stack.url, stack.key), slotted.report_to(stack.url, stack.key), stack:
            assert isinstance(stack.redis, RedisServer)
            limits = Limits.of_redis(stack.redis.port)
            _one_by_one(stack, fast, 5)  # loading on first use is not the cost of a task
            singles = repeated_if_implausible("one by one", lambda: _one_by_one(stack, fast, size.singles))
            _answered(stack, 5)
            alone_s = repeated_if_implausible("answered one by one", lambda: _answered(stack, size.singles))
            rates: list[float] = []
            answered_rates: list[float] = []
            answered_s: list[float] = []
            crowd: list[Life] = []
            idle: list[Idle] = []
            for _ in range(size.repeats):
                rate, lives = repeated_if_implausible(
                    f"{CALLERS} callers", lambda: _crowd(stack, fast, size.crowd, limits, patience_s=60)
                )
                rates.append(rate)
                crowd += lives
                rate, took_s = repeated_if_implausible(
                    f"answered, {CALLERS} callers", lambda: _answered_crowd(stack, size.crowd, limits)
                )
                answered_rates.append(rate)
                answered_s += took_s
                idle.append(
                    repeated_if_implausible(
                        f"{SLOTS} slots", lambda: _idle(stack, slotted, size.waiting, limits, size.patience_s)
                    )
                )
    _report_lives(report, singles, crowd, rates)
    _report_answered(report, alone_s, answered_s, answered_rates)
    return _report_idle(report, idle, rates=rates)


@dataclass(frozen=True, slots=True)
class Life:
    """The parts of a task's life, in seconds."""

    parts: Mapping[str, float]
    total_s: float
    """From the start of the submit to the answer to the report of completion."""

    @classmethod
    def of(cls, submitted: Submitted, task: Task, visit: Visit) -> Life:
        entered_s: dict[State, float] = {}
        for event in task.history:
            entered_s.setdefault(event.state, event.at_ms / 1000)
        # The store's times are truncated to whole milliseconds, so they are half of one too early on average.
        marks = [
            ("caller → stored", submitted.sent_s),
            ("stored → event delivered, claimed", entered_s[State.CREATED] + 0.0005),
            ("claimed → at the backend", entered_s[State.DISPATCHED] + 0.0005),
            ("at the backend → its report sent", visit.arrived_s),
            ("report 'running'", visit.running_sent_s),
            ("backend's own work", visit.running_answered_s),
            ("report 'completed'", visit.completed_sent_s),
            ("", visit.completed_answered_s),
        ]
        parts = {name: after - at for (name, at), (_, after) in pairwise(marks)}
        backwards_s = min(parts.values())
        require(
            backwards_s > -_CUT_OFF_S, f"a part of a task's life took {backwards_s * 1000:,.1f} ms: a clock was set"
        )
        parts["(submit, until its answer)"] = submitted.answered_s - submitted.sent_s
        return cls(parts, visit.completed_answered_s - submitted.sent_s)


def _one_by_one(stack: Stack, backend: BackendProcess, count: int) -> list[Life]:
    backend.clear()
    submitted: list[Submitted] = []
    with stack.client() as app:
        for number in range(1, count + 1):
            submitted.append(_submit(app, FAST))
            _wait_for_completions(backend, number, patience_s=60)
    return _lives(stack, submitted, backend.journal())


def _crowd(
    stack: Stack, backend: BackendProcess, count: int, limits: Limits, patience_s: float
) -> tuple[float, list[Life]]:
    """Tasks a second from the first submit to the last completion, and the life of each."""
    backend.clear()
    submitted = _submit_all(stack, FAST, count)
    journal = _wait_for_completions(backend, count, patience_s=patience_s)
    began_s = min(each.sent_s for each in submitted)
    ended_s = max(visit.completed_answered_s for visit in journal.visits)
    return limits.rate("submitted and completed", count, ended_s - began_s), _lives(stack, submitted, journal)


def _answered(stack: Stack, count: int) -> list[float]:
    """Seconds from submit to the answer that says that the task is completed, one task after the other."""
    with stack.client() as app:
        return [_submit_and_wait(app) for _ in range(count)]


def _answered_crowd(stack: Stack, count: int, limits: Limits) -> tuple[float, list[float]]:
    """Tasks a second, and the seconds of each."""
    began_s = time.time()
    took_s = _from_all_callers(stack, _submit_and_wait, count)
    return limits.rate("submitted and answered", count, time.time() - began_s), took_s


def _submit_and_wait(app: httpx.Client) -> float:
    sent_s = time.perf_counter()
    answer = app.post(f"/api/v1/submit{ANSWERING}", content=BODY, headers={"Prefer": "wait=60"})
    took_s = time.perf_counter() - sent_s
    task = answer.raise_for_status().json()
    require(task["ResultSize"] == len(RESULT), f"a task came back without its result: {task['Status']}")
    return took_s


@dataclass(frozen=True, slots=True)
class Idle:
    """How long slots stayed empty while tasks waited."""

    seconds: list[float]
    unfilled: int
    """Those of them that were not filled before the end of the measurement: they were empty for even longer."""
    refused: int
    """Tasks that arrived when no slot was free."""
    completed: int
    took_s: float

    def require_plausible(self, limits: Limits) -> None:
        """
        Raises:
            ImplausibleFigure: the slots completed more than they can, or were filled faster than Redis answers.
        """
        require(self.completed > 0 and bool(self.seconds), "no slot was freed and filled again")
        most = self.took_s * SLOTS / SERVICE_S * _TIMER_TOLERANCE
        require(
            self.completed <= most,
            f"{self.completed} tasks completed within {self.took_s:.3f} s, but {SLOTS} slots can do {most:,.1f}",
        )
        median_s = statistics.median(self.seconds)
        require(
            median_s >= limits.round_trip_s,
            f"a slot was empty for {median_s * 1e6:,.1f} µs, but a round trip to Redis takes "
            f"{limits.round_trip_s * 1e6:,.1f}",
        )


def _idle(stack: Stack, backend: BackendProcess, count: int, limits: Limits, patience_s: float) -> Idle:
    backend.clear()
    backend.hold()
    submitted = _submit_all(stack, SLOTTED, count)
    # Wait until all events are delivered: later ones would fill slots without a slot grant.
    address = f"{stack.event_grid_url}/control/drain"
    httpx.post(address, json={"timeoutSeconds": 30}, timeout=40).raise_for_status()
    began_s = time.time()
    backend.release()
    journal = _wait_for_completions(backend, count, patience_s=patience_s, must=False)
    completed = [visit for visit in journal.visits if visit.completed_answered_s]
    all_done = len(completed) == count
    ended_s = max(visit.completed_answered_s for visit in completed) if all_done else time.time()
    seconds, unfilled = idle_times(journal.visits, count, ended_s)
    _cancel_rest(stack, submitted, {visit.task_id for visit in completed})
    idle = Idle(seconds, unfilled, len(journal.refused_s), len(completed), ended_s - began_s)
    idle.require_plausible(limits)
    return idle


def idle_times(visits: Sequence[Visit], tasks: int, ended_s: float) -> tuple[list[float], int]:
    """How long each freed slot stayed empty while some of the *tasks*, all submitted before, still waited.

    The slot that has been empty for the longest is filled first. Slots that are empty at the end although tasks wait
    count as filled then; their number is returned too.
    """
    frees = [(visit.completed_sent_s, True) for visit in visits if visit.completed_sent_s]
    waiting = tasks
    empty: deque[tuple[float, bool]] = deque()
    seconds: list[float] = []
    for at_s, is_freed in sorted([*frees, *((visit.arrived_s, False) for visit in visits)]):
        if is_freed:
            empty.append((at_s, waiting > 0))
        else:
            waiting -= 1
            if empty:
                freed_s, was_waited_for = empty.popleft()
                if was_waited_for:
                    seconds.append(at_s - freed_s)
    unfilled = [ended_s - freed_s for freed_s, was_waited_for in empty if was_waited_for and waiting > 0]
    return seconds + unfilled, len(unfilled)


def _submit(app: httpx.Client, path: str) -> Submitted:
    sent_s = time.time()
    answer = app.post(f"/api/v1/submit{path}", content=BODY)
    answered_s = time.time()
    return Submitted(answer.raise_for_status().json()["TaskId"], sent_s, answered_s)


def _submit_all(stack: Stack, path: str, count: int) -> list[Submitted]:
    return _from_all_callers(stack, lambda app: _submit(app, path), count)


def _from_all_callers(stack: Stack, call: Callable[[httpx.Client], T], count: int) -> list[T]:
    own = threading.local()
    clients: list[httpx.Client] = []

    def call_once(_: int) -> T:
        if not hasattr(own, "app"):
            own.app = stack.client()
            clients.append(own.app)
        return call(own.app)

    with ThreadPoolExecutor(CALLERS) as callers:
        outcomes = list(callers.map(call_once, range(count)))
    for client in clients:
        client.close()
    return outcomes


def _wait_for_completions(backend: BackendProcess, count: int, *, patience_s: float, must: bool = True) -> Journal:
    until_s = time.monotonic() + patience_s
    while True:
        journal = backend.journal()
        done = sum(visit.completed_answered_s > 0 for visit in journal.visits)
        if journal.failed_reports:
            raise AssertionError(f"{journal.failed_reports} reports were refused")
        if done >= count:
            return journal
        if time.monotonic() > until_s:
            if must:
                raise AssertionError(f"{done} of {count} tasks were completed within {patience_s:g} s")
            return journal
        time.sleep(
            min(0.2, 0.005 + 0.0002 * len(journal.visits))
        )  # each answer costs the backend time by the length of its journal


def _lives(stack: Stack, submitted: Sequence[Submitted], journal: Journal) -> list[Life]:
    visits = {visit.task_id: visit for visit in journal.visits}

    async def read() -> list[Task | None]:
        redis = open_redis(stack.redis.url)
        tasks = await asyncio.gather(*(redis.store.get(each.task_id) for each in submitted))
        await redis.aclose()
        return tasks

    return [
        Life.of(each, task, visits[each.task_id])
        for each, task in zip(submitted, asyncio.run(read()), strict=True)
        if task is not None
    ]


def _cancel_rest(stack: Stack, submitted: Sequence[Submitted], done: set[str]) -> None:
    """Cancel the tasks that still wait, so that they do not disturb the next measurement."""
    with stack.client() as app:
        for each in submitted:
            if each.task_id not in done:
                app.delete(f"/api/v1/tasks/{each.task_id}")


def _report_lives(report: Report, singles: Sequence[Life], crowd: Sequence[Life], rates: Sequence[float]) -> None:
    columns = [("one by one", singles), (f"from {CALLERS} callers", crowd)]
    report.table(
        "The way of a task, milliseconds from submit to the answer to its completion",
        ["", *(name for name, _ in columns)],
        [
            ("tasks/s", "", with_spread(rates)),
            *(
                (
                    f"p{percent}",
                    *(f"{_percentile([life.total_s for life in lives], percent):,.1f}" for _, lives in columns),
                )
                for percent in (50, 90, 99)
            ),
        ],
    )
    report.table(
        "Where it goes, median milliseconds (p99)",
        ["", *(name for name, _ in columns)],
        [
            (part, *(_median_and_p99([life.parts[part] for life in lives]) for _, lives in columns))
            for part in singles[0].parts
        ],
    )


def _report_answered(
    report: Report, alone_s: Sequence[float], crowd_s: Sequence[float], rates: Sequence[float]
) -> None:
    columns = [("one by one", alone_s), (f"from {CALLERS} callers", crowd_s)]
    report.table(
        "A backend that answers with the result, milliseconds from submit to completed (two function executions)",
        ["", *(name for name, _ in columns)],
        [
            ("tasks/s", "", with_spread(rates)),
            *(
                (f"p{percent}", *(f"{_percentile(seconds, percent):,.1f}" for _, seconds in columns))
                for percent in (50, 90, 99)
            ),
        ],
    )


def _report_idle(report: Report, runs: Sequence[Idle], *, rates: Sequence[float]) -> list[Figure]:
    ideal = SLOTS / SERVICE_S
    report.table(
        f"A backend of {SLOTS} slots and {SERVICE_S * 1000:.0f} ms, all busy while tasks wait",
        ["", *(f"run {number}" for number in range(1, len(runs) + 1))],
        [
            ("slot empty, median ms", *(f"{statistics.median(each.seconds) * 1000:,.1f}" for each in runs)),
            ("slot empty, p90 ms", *(f"{_percentile(each.seconds, 90):,.1f}" for each in runs)),
            ("slots not filled at the end", *(each.unfilled for each in runs)),
            ("dispatches refused with 503", *(each.refused for each in runs)),
            ("tasks completed", *(each.completed for each in runs)),
            ("tasks/s ÷ slots ÷ service time", *(f"{each.completed / each.took_s / ideal:.2f}" for each in runs)),
        ],
    )
    if any(each.unfilled for each in runs):
        report.note("a slot that was not filled at the end counts as filled then: it was empty for longer")
    report.figure(Figure.of("idle", [statistics.median(each.seconds) * 1000 for each in runs]))
    return report.finish(
        tasks_per_s=[round(rate, 1) for rate in rates],
        idle_ms=[[round(seconds * 1000, 2) for seconds in each.seconds] for each in runs],
    )


def _median_and_p99(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1000:,.1f} ({_percentile(seconds, 99):,.1f})"


def _percentile(seconds: Sequence[float], percent: int) -> float:
    """In milliseconds."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] * 1000
