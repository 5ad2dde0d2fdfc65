"""A fleet of model services in simulated time, and who hands tasks to it: ours in earnest, and others as models.

Ours is the app itself: its operations, dispatcher, reconciler and scripts, on a real Redis. Only what surrounds them
is simulated: the clock, which jumps to the next thing that happens; Event Grid; the network; the model services.
While Redis works simulated time stands still, and all that happens has one order: a run repeats exactly.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import redis
from redis.exceptions import NoScriptError

from cache_manager.reconciler import reconcile
from cache_manager.task_service import TaskService
from shared.dispatch.backend_client import Accepted, Answer, Busy
from shared.dispatch.registry import Endpoint
from shared.resilience.circuit_breaker import Reachability
from shared.services import Services
from shared.settings import Settings
from shared.store import RedisLink
from shared.tasks.outcomes import Refused
from shared.tasks.task import NewTask, State, Task

if TYPE_CHECKING:
    from shared.store.redis.client import RedisClient
    from shared.store.redis.pipelining import CommandPrefix

T = TypeVar("T")

PATH: Final = "/v1/sim/model"
START_MS: Final = 1_700_000_000_000
RECONCILER_S: Final = 5.0
_ENVIRONMENT: Final = {
    "REDIS_CONNECTION_STRING": "redis://simulated.example.org:6379",
    "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
    "BACKENDS": '{"/v1/sim": "https://backend.example.org"}',
}


class Stalled(Exception):
    """Raised when nothing is left that could happen: somebody waits for ever."""


class _JumpingSelector(selectors.SelectSelector):
    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise Stalled("nothing is left that could happen")
        self.now_s += timeout
        return []


class _JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop that does not wait for time to pass: it says that it has."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


def simulate(main: Coroutine[Any, Any, T]) -> T:
    """Run *main* in simulated time, from 0 on."""
    with asyncio.Runner(loop_factory=_JumpingLoop) as runner:
        return runner.run(main)


def now_s() -> float:
    return asyncio.get_running_loop().time()


@dataclass(frozen=True, slots=True)
class Change:
    """At a time, the fleet gets so many slots more, or loses them. Those that are *killed* take their tasks along,
    others finish them."""

    at_s: float
    slots: int
    killed: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """What there is to do: the same for all dispatchers."""

    services_s: tuple[float, ...]
    """How long each task takes, in the order of their coming."""
    rate_per_s: float
    slots: int
    changes: tuple[Change, ...] = ()

    def arrivals(self) -> Iterator[tuple[int, float]]:
        return ((number, number / self.rate_per_s) for number in range(len(self.services_s)))


@dataclass(frozen=True, slots=True)
class Wire:
    """How long things are on their way, in seconds, each way."""

    post_s: float = 0.010
    report_s: float = 0.010
    event_s: float = 0.300
    """From a publish to its delivery."""
    redis_s: float = 0.001


@dataclass(frozen=True, slots=True)
class Manners:
    """How the model services behave."""

    retry_after_s: float | None = None
    """What they say when they are full."""
    frees_late_s: float = 0.0
    """How long after an end was reported its slot is still taken, as in Microsoft's framework."""


class Fleet:
    """Slots that work on tasks. It keeps what happened.

    Parameters:
        ended: called when a task's work is done.
        killed: called when a task's work is lost.
        grown: called when there are more slots.
    """

    def __init__(
        self,
        work: Work,
        manners: Manners,
        ended: Callable[[int], None],
        killed: Callable[[int], None],
        grown: Callable[[], None] = lambda: None,
    ) -> None:
        self.record = Record(work)
        self._work = work
        self._manners = manners
        self._ended = ended
        self._killed = killed
        self._grown = grown
        self._slots = work.slots
        self._taken = 0
        self._running: dict[int, asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()
        for change in work.changes:
            self._loop.call_at(change.at_s, self._change, change)
        self._note()

    @property
    def has_room(self) -> bool:
        return self._taken < self._slots

    @property
    def running(self) -> list[int]:
        return list(self._running)

    def arrived(self, number: int) -> None:
        """A task was submitted, and waits from now on."""
        self.record.arrived[number] = self._loop.time()
        self._note()

    def take(self, number: int) -> bool:
        """Begin a task. Returns False if all slots are taken."""
        if not self.has_room:
            self.record.refused.append(self._loop.time())
            return False
        if number in self._running or number in self.record.ended:
            raise AssertionError(f"task {number} was dispatched twice")
        self._taken += 1
        self._running[number] = self._loop.call_later(self._work.services_s[number], self._end, number)
        self.record.started[number] = self._loop.time()
        self._note()
        return True

    def _end(self, number: int) -> None:
        del self._running[number]
        self.record.ended[number] = self._loop.time()
        if self._manners.frees_late_s:
            self._loop.call_later(self._manners.frees_late_s, self._free)
        else:
            self._taken -= 1
        self._note()
        self._ended(number)

    def _free(self) -> None:
        self._taken -= 1

    def _change(self, change: Change) -> None:
        self._slots += change.slots
        self._note()
        self._grown()
        if change.killed:
            for number in list(self._running)[change.slots :]:
                self._running.pop(number).cancel()
                self._taken -= 1
                del self.record.started[number]
                self.record.killed.append(number)
                self._note()
                self._killed(number)

    def _note(self) -> None:
        self.record.note(self._loop.time(), self._slots, len(self._running))


@dataclass(slots=True)
class Record:
    """What happened in a run."""

    work: Work
    arrived: dict[int, float] = field(default_factory=dict)
    started: dict[int, float] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)
    refused: list[float] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    """Tasks that were never done."""
    steps: list[tuple[float, int, int, int]] = field(default_factory=list)
    """From a time on, so many slots there were, so many of them busy, and so many tasks waited."""
    refused_tries: list[float] = field(default_factory=list)
    """When turns beyond the limit that the queue knew were refused."""
    refused_grants: list[float] = field(default_factory=list)
    """When others were: there were fewer slots than the queue knew of."""
    waits: list[tuple[float, float]] = field(default_factory=list)
    """Of tasks that waited: how long they were told they would, and did."""

    def note(self, at_s: float, slots: int, busy: int) -> None:
        waiting = len(self.arrived) - len(self.ended) - busy - len(self.lost)
        self.steps.append((at_s, slots, busy, waiting))

    @property
    def makespan_s(self) -> float:
        return max(self.ended.values())

    @property
    def utilisation(self) -> float:
        """The share of slots that were busy while tasks waited that might have kept them so."""
        usable = used = 0.0
        for (at_s, slots, busy, waiting), (until_s, *_) in zip(self.steps, self.steps[1:], strict=False):
            if waiting > 0:
                wanted = min(max(slots, busy), busy + waiting)
                usable += wanted * (until_s - at_s)
                used += busy * (until_s - at_s)
        return used / usable if usable else 1.0

    @property
    def fills_s(self) -> list[float]:
        """For each time that slots were added while tasks waited: how long until 95 % of all were busy."""
        taken: list[float] = []
        for change in self.work.changes:
            later = [step for step in self.steps if step[0] >= change.at_s]
            if change.slots > 0 and later and later[0][3] > 0:
                filled_s = next((at_s for at_s, slots, busy, waiting in later if busy >= 0.95 * slots), None)
                taken.append(float("inf") if filled_s is None else filled_s - change.at_s)
        return taken


class Dispatching(Protocol):
    """Hands the work to a fleet."""

    async def __call__(self, work: Work, manners: Manners, wire: Wire) -> Record: ...


async def ideal(work: Work, manners: Manners, wire: Wire) -> Record:
    """Whoever waits longest has a free slot at once: no network, and no need to learn."""
    waiting: list[int] = []
    done = _Count(len(work.services_s))

    def dispatch_granted() -> None:
        while waiting and fleet.has_room:
            fleet.take(heapq.heappop(waiting))

    def ended(number: int) -> None:
        done.add()
        dispatch_granted()

    def killed(number: int) -> None:
        heapq.heappush(waiting, number)
        asyncio.get_running_loop().call_soon(dispatch_granted)

    fleet = Fleet(work, Manners(), ended, killed, dispatch_granted)
    for number, at_s in work.arrivals():
        await asyncio.sleep(at_s - now_s())
        fleet.arrived(number)
        heapq.heappush(waiting, number)
        dispatch_granted()
    await done
    return fleet.record


@dataclass(frozen=True, slots=True)
class Retrying:
    """Each task is tried by itself, again and again, after delays that know nothing of the slots."""

    delays_s: Sequence[float]
    """Before each further try; the last one for all that follow."""
    attempts: int | None = None
    """How often at most, or the task is lost."""
    ttl_s: float | None = None
    """Until when a further try is made, or the task is lost."""
    lease_s: float | None = None
    """After what time a task that was killed is tried again; None: never, it is lost."""
    jitter: float = 0.1

    async def __call__(self, work: Work, manners: Manners, wire: Wire) -> Record:
        chance = random.Random(7)
        done = _Count(len(work.services_s))
        loop = asyncio.get_running_loop()

        def lost(number: int) -> None:
            fleet.record.lost.add(number)
            done.add()

        def killed(number: int) -> None:
            if self.lease_s is None:
                lost(number)
            else:
                loop.call_later(self.lease_s, start, number)

        def start(number: int) -> None:
            tasks.add(loop.create_task(attempt(number)))

        async def attempt(number: int) -> None:
            began_s = now_s()
            await asyncio.sleep(wire.event_s)
            for tried in range(1_000_000):
                await asyncio.sleep(wire.post_s)
                if fleet.take(number):
                    return
                delay_s = self.delays_s[min(tried, len(self.delays_s) - 1)] * (1 + self.jitter * chance.random())
                await asyncio.sleep(wire.post_s + delay_s)
                given_up = self.attempts is not None and tried + 1 >= self.attempts
                if given_up or (self.ttl_s is not None and now_s() - began_s > self.ttl_s):
                    break
            lost(number)

        tasks: set[asyncio.Task[None]] = set()
        fleet = Fleet(work, manners, lambda number: done.add(), killed)
        for number, at_s in work.arrivals():
            await asyncio.sleep(at_s - now_s())
            fleet.arrived(number)
            start(number)
        await done
        return fleet.record


EVENT_GRID_DELAYS_S: Final = (30, 30, 60, 300, 600, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600)
"""10 s, 30 s, 1 m …; after a 503, which is what the existing framework says when it is full, not before 30 s. That
Event Grid would also delay new events to an endpoint that refuses is left out, in its favour."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """Ours: what is in ``cache_manager`` and ``shared``, on the Redis of *url*, which is emptied.

    Parameters:
        sample_every_s: how often a waiting task is asked how long it has to wait.
    """

    url: str
    lease_s: float = 600
    sample_every_s: float | None = None
    settings: tuple[tuple[str, str], ...] = ()

    async def __call__(self, work: Work, manners: Manners, wire: Wire) -> Record:
        # On a busy machine a call may take long; in simulated time it takes none.
        client = redis.Redis.from_url(self.url, socket_timeout=60)
        client.flushall()
        # The app draws the jitter of its deadlines from here.
        chance = random.getstate()
        random.seed(13)
        try:
            return await _Run(self, client, work, manners, wire).run()
        finally:
            random.setstate(chance)
            client.close()


class _Run:
    def __init__(self, backbone: Backbone, client: redis.Redis, work: Work, manners: Manners, wire: Wire) -> None:
        self._work = work
        self._wire = wire
        self._sample_every_s = backbone.sample_every_s
        self._done = _Count(len(work.services_s))
        self._under_way: set[asyncio.Task[None]] = set()
        self._fleet = Fleet(work, manners, self._ended, lambda number: None)
        self._attempts: dict[int, int] = {}
        self._retry_after_s = manners.retry_after_s
        settings = Settings.from_env(_ENVIRONMENT | {"LEASE_S": str(backbone.lease_s)} | dict(backbone.settings))
        self._services = self._open(settings, client)
        self._tasks = TaskService(self._services)

    async def run(self) -> Record:
        self._start(self._reconciler())
        self._start(self._heartbeats())
        if self._sample_every_s is not None:
            self._start(self._sampler(self._sample_every_s))
        for number, at_s in self._work.arrivals():
            await asyncio.sleep(at_s - now_s())
            self._fleet.arrived(number)
            self._start(self._submit(number))
        await self._done
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._services.dispatcher.aclose()
        return self._fleet.record

    def _open(self, settings: Settings, client: redis.Redis) -> Services:
        return Services.compose(
            settings,
            link=_SteppingLink(client, self._wire.redis_s, self._fleet.record),
            publisher=_SimulatedTopic(self._publish),
            transport=_SimulatedBackend(self._post),
            now_ms=lambda: START_MS + round(now_s() * 1000),
        )

    async def _submit(self, number: int) -> None:
        endpoint = self._services.registry.endpoint(PATH)
        new = NewTask(_id(number), endpoint.path, endpoint.backend.lease_s)
        await self._tasks.submit(new, "application/json", b"{}")

    def _publish(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._start(self._deliver(task.id, task.attempt))

    async def _deliver(self, task_id: str, attempt: int) -> None:
        await asyncio.sleep(self._wire.event_s)
        await self._services.dispatcher.dispatch(task_id, attempt)

    async def _post(self, task_id: str, attempt: int) -> Answer:
        await asyncio.sleep(self._wire.post_s)
        taken = self._fleet.take(_number(task_id))
        self._attempts[_number(task_id)] = attempt
        await asyncio.sleep(self._wire.post_s)
        return Accepted() if taken else Busy(self._retry_after_s)

    def _ended(self, number: int) -> None:
        self._start(self._report(number, self._attempts[number]))

    async def _report(self, number: int, attempt: int) -> None:
        await asyncio.sleep(self._wire.report_s)
        outcome = await self._services.store.update(
            _id(number), state=State.COMPLETED, status="completed", attempt=attempt
        )
        if isinstance(outcome, Refused):
            raise AssertionError(f"the end of task {number} was refused: {outcome.reason}")
        await self._services.dispatcher.after_transition(outcome)
        self._done.add()

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self._services.settings.lease_s / 3)
            for number in self._fleet.running:
                await self._services.store.heartbeat(_id(number), attempt=self._attempts[number])

    async def _reconciler(self) -> None:
        while True:
            await asyncio.sleep(RECONCILER_S)
            await reconcile(self._services)

    async def _sampler(self, every_s: float) -> None:
        chance, record = random.Random(11), self._fleet.record
        asked: list[tuple[int, float, float]] = []
        try:
            while True:
                await asyncio.sleep(every_s)
                waiting = sorted(record.arrived.keys() - record.started.keys())
                if not waiting:
                    continue
                number, at_s = chance.choice(waiting), now_s()
                task = await self._services.store.get(_id(number))
                place = task and await self._tasks.position(task)
                if place and place.wait_s is not None:
                    asked.append((number, at_s, place.wait_s))
        finally:
            record.waits = [
                (told_s, record.started[number] - at_s) for number, at_s, told_s in asked if number in record.started
            ]

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._done.fail(error)


class _SteppingLink(RedisLink):
    """For whose answers the whole event loop waits: meanwhile nothing happens in simulated time."""

    def __init__(self, client: redis.Redis, latency_s: float, record: Record) -> None:
        super().__init__(self._no_other_client)
        self._redis = client
        self._latency_s = latency_s
        self._record = record

    async def script(self, name: str, tag: str, *args: bytes | str) -> Any:
        if name == "queue/refused":
            _, holding, slots, *_ = await super().script("queue/status", tag, *args)
            refused = self._record.refused_tries if holding > slots else self._record.refused_grants
            refused.append(now_s())
        return await super().script(name, tag, *args)

    async def _ask(self, tag: str, prefix: CommandPrefix, args: tuple[bytes, ...]) -> Any:
        await asyncio.sleep(self._latency_s)
        words = (*prefix.words, *args)
        try:
            reply: Any = self._redis.execute_command(*words)
        except NoScriptError:
            assert prefix.source is not None
            reply = self._redis.execute_command(b"EVAL", prefix.source, *words[2:])
        if not prefix.is_combined:
            return reply
        (own,) = reply
        if isinstance(own, Exception):
            raise own
        return own

    async def _no_other_client(self) -> RedisClient:
        raise AssertionError("the simulation has a client of its own")


class _SimulatedBackend:
    def __init__(self, call: Callable[[str, int], Awaitable[Answer]]) -> None:
        self._call = call

    async def post(self, endpoint: Endpoint, headers: dict[str, str], body: object, timeout_s: float) -> Answer:
        return await self._call(headers["taskId"], int(headers["X-Task-Attempt"]))

    async def aclose(self) -> None:
        return


class _SimulatedTopic:
    def __init__(self, publish: Callable[[Sequence[Task]], None]) -> None:
        self._deliver = publish

    @property
    def state(self) -> Reachability:
        return "ok"

    async def publish_dispatches(self, tasks: Sequence[Task], *, bypass_circuit: bool = False) -> None:
        self._deliver(tasks)

    async def publish_completions(self, tasks: Sequence[Task], *, bypass_circuit: bool = False) -> None:
        raise AssertionError("the simulation wants no completions")

    async def aclose(self) -> None:
        return


class _Count:
    """Awaits a number of things."""

    def __init__(self, number: int) -> None:
        self._left = number
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def add(self) -> None:
        self._left -= 1
        if self._left == 0 and not self._over.done():
            self._over.set_result(None)

    def fail(self, error: BaseException) -> None:
        if not self._over.done():
            self._over.set_exception(error)

    def __await__(self) -> Any:
        return self._over.__await__()


def _id(number: int) -> str:
    return f"t{number}"


def _number(task_id: str) -> int:
    return int(task_id[1:])
