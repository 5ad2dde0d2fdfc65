"""A simulated app, and what it sends while it works, idles or fails: a virtual clock, and rows of the true shape.

Each row is a copy of one that the real exporter sent to the ingestion double (``recorded.py``), with another time,
value and names. A row of which no real one was seen cannot be made.
"""

from __future__ import annotations

import copy
import json
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.judges.monitor.tables import Row

TICK_S = 30
"""The period of the timer that sends the gauges of queues with open tasks, and once more when these have ended."""
IDLE_S = 300
"""The period of the one that sends those of all others."""
ZEROS = 10
"""A number that stays 0 is sent by one run of so many."""
HEALTHY_EVERY = 4
"""So many runs are between two that tell that the app is available."""
MIDNIGHT = datetime(2026, 11, 2, tzinfo=UTC)
DESTINATION = "judged"
BACKOFF_S = 60
"""How long a task waits that its service did not take."""


@dataclass(eq=False)
class Work:
    """A task."""

    id: str
    arrived_s: int
    run_s: int
    attempt: int = 1
    not_before_s: int = 0
    begun_s: int = 0
    heard_s: int = 0


@dataclass
class Service:
    """A model service and its endpoint. What a fault changes, can be changed while it runs."""

    path: str
    arrivals: Callable[[int], int]
    """How many tasks come in the tick that begins at this second."""
    run_s: Callable[[random.Random], int]
    slots: int = 4
    limit: int | None = None
    rate_s: int | None = None
    """How long after a dispatch there may be another."""
    lease_s: int = 600
    heartbeat_s: int | None = 300
    fails: float = 0.0
    refusals: int = 0
    """How often it does not take a task before it does."""
    hangs: Callable[[random.Random], bool] = lambda _: False
    """Whether it takes a task and is never heard of again."""
    paused: bool = False
    is_forgotten: bool = False
    """Whether nothing is dispatched to it, as no app should do."""

    next_s: int = 0
    """When the rate allows the next dispatch."""
    waiting: deque[Work] = field(default_factory=deque)
    running: list[Work] = field(default_factory=list)
    hung: set[int] = field(default_factory=set)


class App:
    """The simulated app: it works tick by tick, and keeps what it sends."""

    def __init__(self, shapes: Mapping[str, Row], services: Iterable[Service], seed: int = 1) -> None:
        self._shapes = shapes
        self._random = random.Random(seed)
        self.services = {each.path: each for each in services}
        self.now_s = 0
        self.is_down = False
        """Whether nothing runs: a restart, or a death."""
        self.is_unavailable = False
        """Whether its Redis does not answer."""
        self.is_deaf = False
        """Whether the destination of callbacks takes nothing."""
        self.rows: dict[str, list[Row]] = defaultdict(list)
        self._zeros: dict[tuple[str, str, str], int] = {}
        self._open: set[str] = set()
        self._steps: Counter[tuple[str, str]] = Counter()
        self._made = 0

    def run(self, until_s: int) -> None:
        while self.now_s < until_s:
            for service in self.services.values():
                for _ in range(service.arrivals(self.now_s)):
                    self._made += 1
                    run_s = service.run_s(self._random)
                    service.waiting.append(Work(f"task-{self._made}", self.now_s, run_s))
            if not (self.is_down or self.is_unavailable):
                for service in self.services.values():
                    self._end(service)
                    self._dispatch(service)
            self.now_s += TICK_S
            if not self.is_down:
                self._send()

    def _end(self, service: Service) -> None:
        for work in [*service.running]:
            if id(work) in service.hung:
                if self.now_s - work.heard_s >= service.lease_s:
                    service.running.remove(work)
                    service.hung.discard(id(work))
                    self._steps[service.path, "silent"] += 1
                    self._again(service, work)
                continue
            if service.heartbeat_s and self.now_s - work.heard_s >= service.heartbeat_s:
                work.heard_s = self.now_s
                self._steps[service.path, "reported"] += 1
            if self.now_s - work.begun_s >= work.run_s:
                service.running.remove(work)
                self._steps[service.path, "reported"] += 1
                ended = "failed" if self._random.random() < service.fails else "completed"
                self._steps[service.path, ended] += 1

    def _again(self, service: Service, work: Work) -> None:
        work.attempt += 1
        work.not_before_s = self.now_s + BACKOFF_S
        service.waiting.append(work)

    def _dispatch(self, service: Service) -> None:
        if service.paused or service.is_forgotten:
            return
        most = min(service.slots, service.limit or service.slots)
        for work in [*service.waiting]:
            if len(service.running) >= most or service.next_s > self.now_s:
                break
            if work.not_before_s > self.now_s:
                continue
            service.waiting.remove(work)
            service.next_s = self.now_s + (service.rate_s or 0)
            self._steps[service.path, "dispatched"] += 1
            self._add("event", path=service.path, id=work.id, attempt=work.attempt)
            if work.attempt <= service.refusals:
                self._again(service, work)
                continue
            work.begun_s = work.heard_s = self.now_s
            service.running.append(work)
            if service.hangs(self._random):
                service.hung.add(id(work))

    def _send(self) -> None:
        self._gauge("health.unavailable", "", float(self.is_unavailable), HEALTHY_EVERY)
        if self.is_unavailable:
            return
        for service in self.services.values():
            is_open = bool(service.waiting or service.running)
            if is_open or service.path in self._open:
                self._send_queue(service, "often")
            elif self.now_s % IDLE_S == 0:
                self._send_queue(service, "seldom")
            (self._open.add if is_open else self._open.discard)(service.path)
        # A destination that takes nothing is tried more and more seldom.
        if self.now_s % (1800 if self.is_deaf else 300) == 0:
            outcome = "failed" if self.is_deaf else "delivered"
            self._add("callbacks.deliveries", 1.0, destination=DESTINATION, outcome=outcome)
        if self.now_s % 60 == 0:
            for (path, step), number in self._steps.items():
                self._add("tasks.steps", number, path=path, step=step)
            self._steps.clear()

    def _send_queue(self, service: Service, timer: str) -> None:
        waiting, path = service.waiting, service.path
        oldest_s = self.now_s - min((work.arrived_s for work in waiting), default=self.now_s)
        self._gauge("queue.waiting", path, len(waiting), timer=timer)
        self._gauge("queue.oldest_wait_s", path, oldest_s, timer=timer)
        self._gauge("queue.in_flight", path, len(service.running), timer=timer)
        self._gauge("queue.slots", path, service.slots, timer=timer)
        self._gauge("queue.paused", path, float(service.paused), timer=timer)
        if service.limit is not None:
            self._gauge("queue.limit", path, service.limit, timer=timer)
        if service.rate_s is not None:
            self._gauge("queue.rate_wait_s", path, max(0, service.next_s - self.now_s), timer=timer)

    def _gauge(self, name: str, path: str, value: float, zeros: int = ZEROS, timer: str = "often") -> None:
        key = (name, path, timer)
        if value:
            self._zeros.pop(key, None)
        else:
            self._zeros[key] = run = self._zeros.get(key, -1) + 1
            if run % zeros:
                return
        self._add(name, value, **({"path": path} if path else {}))

    def restart(self) -> None:
        """A new process knows of no number that it has sent."""
        self._zeros.clear()

    def _add(self, shape: str, value: float | None = None, **named: Any) -> None:
        row = copy.copy(self._shapes[shape])
        dimensions = json.loads(row["customDimensions"])
        names = {"path": "task.path", "id": "task.id", "attempt": "task.attempt"} if shape == "event" else {}
        for name, text in named.items():
            name = names.get(name, name)
            assert name in dimensions, f"no real {shape} has {name}"
            dimensions[name] = str(text)
        row["customDimensions"] = json.dumps(dimensions)
        row["timestamp"] = (MIDNIGHT + timedelta(seconds=self.now_s)).isoformat()
        if value is not None:
            row["value"] = row["valueSum"] = float(value)
        self.rows["customEvents" if shape == "event" else "customMetrics"].append(row)


def shapes_of(tables: Mapping[str, list[Row]]) -> dict[str, Row]:
    """One real row of each kind."""
    shapes = {row["name"]: row for row in tables["customMetrics"]}
    for row in tables["customEvents"]:
        dimensions = json.loads(row["customDimensions"])
        if row["name"] == "TaskStateChanged" and dimensions["task.state"] == "dispatched":
            shapes["event"] = row
    return shapes


def every(period_s: int, begin_h: float = 0, end_h: float = 24, number: int = 1) -> Callable[[int], int]:
    """So many tasks a period, between two hours of the day."""

    def arrivals(at_s: int) -> int:
        if not begin_h * 3600 <= at_s < end_h * 3600:
            return 0
        return number * ((at_s + TICK_S - 1) // period_s - (at_s - 1) // period_s)

    return arrivals


def between(least_s: int, most_s: int) -> Callable[[random.Random], int]:
    return lambda chance: chance.randint(least_s, most_s)


def ordinary() -> list[Service]:
    """Services of an ordinary day: nobody works at night, some tasks take six hours, a queue is paused, and one
    may be given a task an hour, of which 16 come in the morning."""
    return [
        Service("/v1/steady", every(60, 7, 20), between(30, 90)),
        Service("/v1/hours", every(21_600, 0, 24, number=4), between(21_000, 21_600)),
        Service("/v1/rare", every(2_700), between(20, 60), heartbeat_s=None),
        Service("/v1/batch", every(86_400, 10, 24, number=0), between(10, 20), limit=8, slots=8),
        Service("/v1/paused", every(600, 8, 18), between(60, 120)),
        Service("/v1/flaky", every(30, 9, 17), between(10, 40), fails=0.02),
        Service("/v1/tides/predict", every(300, 6, 22), between(60, 200), lease_s=120, heartbeat_s=60),
        Service("/v1/hourly", every(900, 7, 11), between(20, 60), rate_s=3600),
        Service("/v1/measured", every(60, 7, 20), between(30, 90), rate_s=60),
        Service("/v1/unused", every(86_400, 25, 26), between(1, 2)),
    ]


def healthy(shapes: Mapping[str, Row]) -> App:
    """A day on which nobody should be woken: with work by day, an idle night, six-hour tasks, a batch that fills a
    limit and drains, an operator's pause, a new version, a short failover."""
    app = App(shapes, ordinary())
    app.services["/v1/batch"].arrivals = lambda at_s: 120 if at_s == 10 * 3600 else 0
    app.run(9 * 3600)
    app.services["/v1/paused"].paused = True
    app.run(13 * 3600)
    app.is_down = True
    app.run(13 * 3600 + 120)
    app.is_down = False
    app.restart()
    app.run(15 * 3600)
    app.is_unavailable = True
    app.run(15 * 3600 + 60)
    app.is_unavailable = False
    app.run(16 * 3600)
    # What has waited meanwhile is worked off within minutes.
    app.services["/v1/paused"].slots = 64
    app.services["/v1/paused"].paused = False
    # The destination of callbacks is away for half an hour.
    app.is_deaf = True
    app.run(17 * 3600 - 1800)
    app.is_deaf = False
    app.run(24 * 3600)
    return app


@dataclass(frozen=True)
class Fault:
    """What goes wrong at an hour, and the alert that has to fire."""

    alert: str
    what: str
    inject: Callable[[App], None]
    path: str = "/v1/steady"
    lasts_s: int = 3 * 3600
    grows_s: int = 0
    """How long it takes until what it does is what the alert looks for."""


FAULT_S = 11 * 3600


def injected(shapes: Mapping[str, Row], fault: Fault) -> App:
    """A morning without a fault, the fault, and some hours of it."""
    app = App(shapes, ordinary())
    app.run(FAULT_S)
    fault.inject(app)
    app.run(FAULT_S + fault.lasts_s)
    return app


def _hang(app: App) -> None:
    app.services["/v1/steady"].hangs = lambda _: True
    service = app.services["/v1/steady"]
    service.hung |= {id(work) for work in service.running}


def _hang_sometimes(app: App) -> None:
    app.services["/v1/steady"].hangs = lambda chance: chance.random() < 0.1


def _forget(app: App) -> None:
    app.services["/v1/steady"].is_forgotten = True


def _forget_hourly(app: App) -> None:
    app.services["/v1/hourly"].is_forgotten = True


def _slow_down(app: App) -> None:
    app.services["/v1/steady"].run_s = between(600, 900)


def _slow_down_measured(app: App) -> None:
    app.services["/v1/measured"].run_s = between(600, 900)


def _fail(app: App) -> None:
    app.services["/v1/flaky"].fails = 0.4


def _refuse(app: App) -> None:
    app.services["/v1/steady"].refusals = 4


def _overload(app: App) -> None:
    service = app.services["/v1/batch"]
    service.arrivals, service.limit, service.run_s = every(30, number=4), 2, between(60, 90)


def _deafen(app: App) -> None:
    app.is_deaf = True


def _lose_redis(app: App) -> None:
    app.is_unavailable = True


def _die(app: App) -> None:
    app.is_down = True


FAULTS = (
    Fault("unavailable", "Redis does not answer", _lose_redis, path="", lasts_s=900),
    Fault("no-metrics", "the app is dead", _die, path="", lasts_s=1800),
    Fault("nothing-ends", "the service takes tasks and is not heard of again", _hang),
    Fault("nothing-is-dispatched", "the app forgets a queue", _forget),
    Fault("tasks-wait", "the service is slower than tasks come", _slow_down, grows_s=1800),
    Fault("nothing-is-dispatched", "the app forgets a queue with a rate", _forget_hourly, "/v1/hourly", grows_s=3600),
    Fault("tasks-wait", "the app forgets a queue with a rate", _forget_hourly, "/v1/hourly", grows_s=3600),
    Fault("tasks-wait", "the service is slower than its rate", _slow_down_measured, "/v1/measured", grows_s=1800),
    Fault("tasks-fail", "two of five tasks fail", _fail, path="/v1/flaky"),
    Fault("leases-end", "one of ten attempts is never heard of", _hang_sometimes),
    Fault("many-dispatches", "the service refuses each task four times", _refuse),
    Fault("callbacks-fail", "a destination takes nothing", _deafen, path=DESTINATION, lasts_s=5 * 3600),
    Fault("limit-reached", "more tasks come than the limit lets through", _overload, path="/v1/batch"),
)


def evaluations(app: App, frequency_s: int) -> Iterator[datetime]:
    """When a rule is evaluated. Not at the full minute: nobody chooses."""
    at_s = 3600 + 17
    while at_s <= app.now_s:
        yield (MIDNIGHT + timedelta(seconds=at_s)).replace(tzinfo=None)
        at_s += frequency_s
