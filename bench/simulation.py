"""A fleet of model services in simulated time, and dispatchers for it: the real app, and models of others.

Ours is the app itself: its operations, dispatcher, reconciler and scripts, on a real Redis. Only its surroundings are
simulated: the clock, which jumps to the next event; Event Grid; the network; the model services. Simulated time
stands still while Redis works, and all events have one order: a run repeats exactly.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import selectors
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import redis
from redis.exceptions import NoScriptError

from cache_manager.reconciler import reconcile
from cache_manager.task_service import TaskService
from shared.dispatch.backend_client import Accepted, Answer, Busy, Unreachable
from shared.dispatch.registry import Endpoint
from shared.events.publisher import PublishFailed
from shared.resilience.circuit_breaker import Reachability
from shared.services import Services
from shared.settings import Settings
from shared.store import RedisLink
from shared.store.redis.partitions import HASH_TAGS
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
    """Raised when no event is left, so that some code would wait for ever."""


class _JumpingSelector(selectors.SelectSelector):
    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise Stalled("no event is left")
        self.now_s += timeout
        return []


class _JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop that jumps to the next timer instead of waiting for it."""

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
    """The fleet gets more *slots* at a time, or loses some if they are negative.

    Removed slots finish their tasks, unless they are *killed* together with these.
    """

    at_s: float
    slots: int
    killed: bool = False


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which the service is away, with all that it had. It has as many *slots* before and after."""

    from_s: float
    seconds: float
    slots: int
    hangs: bool = False
    """Whether connections are accepted and never answered. Otherwise they are refused."""

    def holds(self, at_s: float) -> bool:
        return self.from_s <= at_s < self.from_s + self.seconds

    @property
    def changes(self) -> tuple[Change, ...]:
        return (
            Change(self.from_s, -self.slots, killed=True),
            Change(self.from_s + self.seconds, self.slots),
        )


@dataclass(frozen=True, slots=True)
class Silence:
    """A time in which Event Grid takes events and delivers none, or refuses them."""

    from_s: float
    seconds: float
    refuses: bool = False

    def holds(self, at_s: float) -> bool:
        return self.from_s <= at_s < self.from_s + self.seconds


@dataclass(frozen=True, slots=True)
class Work:
    """The tasks and the slots; the same for all dispatchers."""

    services_s: tuple[float, ...]
    """The service time of each task, in the order of arrival."""
    rate_per_s: float
    slots: int
    changes: tuple[Change, ...] = ()
    outages: tuple[Outage, ...] = ()
    """They come with their changes."""
    silences: tuple[Silence, ...] = ()
    owners: tuple[str, ...] = ()
    """Of each task. Empty: none has one."""
    arrive_s: tuple[float, ...] = ()
    """When each comes, ascending. Empty: by the rate."""
    awaited: str | None = None
    """The owner with whose last task the run is over. None: it goes on until all tasks have ended."""

    def arrivals(self) -> Iterator[tuple[int, float]]:
        if self.arrive_s:
            return enumerate(self.arrive_s)
        return ((number, number / self.rate_per_s) for number in range(len(self.services_s)))

    def owner(self, number: int) -> str:
        return self.owners[number] if self.owners else ""

    def is_awaited(self, number: int) -> bool:
        return self.awaited is None or self.owner(number) == self.awaited


@dataclass(frozen=True, slots=True)
class Wire:
    """The delays of the network in seconds, each way."""

    post_s: float = 0.010
    report_s: float = 0.010
    event_s: float = 0.300
    """From a publish to its delivery."""
    redis_s: float = 0.001


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The behaviour of the model services."""

    retry_after_s: float | None = None
    """The ``Retry-After`` of a full service."""
    frees_late_s: float = 0.0
    """How long a slot stays taken after the report of the end, as in Microsoft's framework."""


class Fleet:
    """Slots that work on tasks, and a record of all events.

    Parameters:
        ended: called when the work on a task is done.
        killed: called when the work on a task is lost.
        grown: called when the number of slots has changed.
    """

    def __init__(
        self,
        work: Work,
        behaviour: Behaviour,
        ended: Callable[[int], None],
        killed: Callable[[int], None],
        grown: Callable[[], None] = lambda: None,
    ) -> None:
        self.record = Record(work)
        self._work = work
        self._behaviour = behaviour
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
        """Record that a task was submitted, and waits from now on."""
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
        if self._behaviour.frees_late_s:
            self._loop.call_later(self._behaviour.frees_late_s, self._free)
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
    """The events of a run."""

    work: Work
    arrived: dict[int, float] = field(default_factory=dict)
    started: dict[int, float] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)
    refused: list[float] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    """Tasks that were never completed."""
    steps: list[tuple[float, int, int, int]] = field(default_factory=list)
    """Times, each with the number of slots, busy slots and waiting tasks from then on."""
    refused_probes: list[float] = field(default_factory=list)
    """The times of refused probes, beyond the capacity estimate."""
    refused_grants: list[float] = field(default_factory=list)
    """The times of other refusals: there were fewer slots than the capacity estimate."""
    failures: dict[int, int] = field(default_factory=dict)
    """The attempts that each task lost, by the app's count."""
    probes: list[float] = field(default_factory=list)
    """The times of dispatches to a service that was away."""
    waits: list[tuple[float, float]] = field(default_factory=list)
    """The estimated and the true wait of sampled tasks."""

    def note(self, at_s: float, slots: int, busy: int) -> None:
        waiting = len(self.arrived) - len(self.ended) - busy - len(self.lost)
        self.steps.append((at_s, slots, busy, waiting))

    @property
    def makespan_s(self) -> float:
        return max(self.ended.values())

    def longest_idle_s(self, from_s: float = 0) -> float:
        """The longest that a slot stood idle for which a task waited, from *from_s* on."""
        longest_s, idle_since_s = 0.0, deque[float]()
        for at_s, slots, busy, waiting in self.steps:
            idle = max(0, min(slots - busy, waiting))
            while len(idle_since_s) > idle:
                longest_s = max(longest_s, at_s - max(from_s, idle_since_s.popleft()))
            idle_since_s += [at_s] * (idle - len(idle_since_s))
        return longest_s

    @property
    def attempts_lost(self) -> int:
        return sum(self.failures.values())

    @property
    def utilisation(self) -> float:
        """The share of busy slots, of those that the waiting tasks could have kept busy."""
        usable = used = 0.0
        for (at_s, slots, busy, waiting), (until_s, *_) in zip(self.steps, self.steps[1:], strict=False):
            if waiting > 0:
                wanted = min(max(slots, busy), busy + waiting)
                usable += wanted * (until_s - at_s)
                used += busy * (until_s - at_s)
        return used / usable if usable else 1.0

    @property
    def fills_s(self) -> list[float]:
        """The time until 95 % of all slots were busy, for each addition of slots while tasks waited."""
        taken: list[float] = []
        for change in self.work.changes:
            later = [step for step in self.steps if step[0] >= change.at_s]
            if change.slots > 0 and later and later[0][3] > 0:
                filled_s = next((at_s for at_s, slots, busy, waiting in later if busy >= 0.95 * slots), None)
                taken.append(float("inf") if filled_s is None else filled_s - change.at_s)
        return taken


class Dispatching(Protocol):
    """A dispatcher that gives the work to a fleet."""

    async def __call__(self, work: Work, behaviour: Behaviour, wire: Wire) -> Record: ...


async def ideal(work: Work, behaviour: Behaviour, wire: Wire) -> Record:
    """The task that has waited longest gets a free slot at once: no network, and no need to learn."""
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

    fleet = Fleet(work, Behaviour(), ended, killed, dispatch_granted)
    for number, at_s in work.arrivals():
        await asyncio.sleep(at_s - now_s())
        fleet.arrived(number)
        heapq.heappush(waiting, number)
        dispatch_granted()
    await done
    return fleet.record


@dataclass(frozen=True, slots=True)
class Retrying:
    """Retries each task by itself, after delays that do not depend on the slots."""

    delays_s: Sequence[float]
    """The delay before each retry; the last one applies to all later retries."""
    attempts: int | None = None
    """The maximum number of attempts; after that the task is lost."""
    ttl_s: float | None = None
    """The time after which the task is lost instead of retried."""
    lease_s: float | None = None
    """The time after which a killed task is retried; None: it is lost."""
    jitter: float = 0.1

    async def __call__(self, work: Work, behaviour: Behaviour, wire: Wire) -> Record:
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
            for retries in range(1_000_000):
                await asyncio.sleep(wire.post_s)
                if fleet.take(number):
                    return
                delay_s = self.delays_s[min(retries, len(self.delays_s) - 1)] * (1 + self.jitter * chance.random())
                await asyncio.sleep(wire.post_s + delay_s)
                given_up = self.attempts is not None and retries + 1 >= self.attempts
                if given_up or (self.ttl_s is not None and now_s() - began_s > self.ttl_s):
                    break
            lost(number)

        tasks: set[asyncio.Task[None]] = set()
        fleet = Fleet(work, behaviour, lambda number: done.add(), killed)
        for number, at_s in work.arrivals():
            await asyncio.sleep(at_s - now_s())
            fleet.arrived(number)
            start(number)
        await done
        return fleet.record


EVENT_GRID_DELAYS_S: Final = (30, 30, 60, 300, 600, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600)
"""The schedule 10 s, 30 s, 1 m …, but at least 30 s after a 503, the legacy framework's answer when it is full. Event
Grid also delays new events to a failing endpoint; this model leaves that out, in its favour."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """Ours: the code in ``cache_manager`` and ``shared``, on the Redis at *url*, which is emptied.

    Parameters:
        sample_every_s: how often to sample the estimated wait of a waiting task.
    """

    url: str
    lease_s: float = 600
    sample_every_s: float | None = None
    settings: tuple[tuple[str, str], ...] = ()

    async def __call__(self, work: Work, behaviour: Behaviour, wire: Wire) -> Record:
        # A call may take long on a busy machine; it takes no simulated time.
        client = redis.Redis.from_url(self.url, socket_timeout=60, single_connection_client=True)
        client.flushall()
        # The app draws the jitter of its deadlines from this generator.
        chance = random.getstate()
        random.seed(13)
        try:
            return await _Run(self, client, work, behaviour, wire).run()
        finally:
            random.setstate(chance)
            client.close()


class _Run:
    def __init__(self, backbone: Backbone, client: redis.Redis, work: Work, behaviour: Behaviour, wire: Wire) -> None:
        self._work = work
        self._wire = wire
        self._sample_every_s = backbone.sample_every_s
        self._done = _Count(sum(map(work.is_awaited, range(len(work.services_s)))))
        self._in_flight: set[asyncio.Task[None]] = set()
        self._fleet = Fleet(work, behaviour, self._ended, lambda number: None)
        self._attempts: dict[int, int] = {}
        self._retry_after_s = behaviour.retry_after_s
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
        for task in self._in_flight:
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)
        await self._services.dispatcher.aclose()
        return self._fleet.record

    def _open(self, settings: Settings, client: redis.Redis) -> Services:
        return Services.compose(
            settings,
            link=_CountingLink(client, self._wire.redis_s, self._fleet.record),
            publisher=_SimulatedTopic(self._publish),
            transport=_SimulatedBackend(self._call),
            now_ms=lambda: START_MS + round(now_s() * 1000),
        )

    async def _submit(self, number: int) -> None:
        endpoint = self._services.registry.endpoint(PATH)
        new = NewTask(_id(number), endpoint.path, endpoint.backend.lease_s, owner=self._work.owner(number))
        await self._tasks.submit(new, "application/json", b"{}")

    def _publish(self, tasks: Sequence[Task]) -> None:
        silence = next((silence for silence in self._work.silences if silence.holds(now_s())), None)
        if silence is not None:
            if silence.refuses:
                raise PublishFailed("refused")
            return
        for task in tasks:
            self._start(self._deliver(task.id, task.attempt))

    async def _deliver(self, task_id: str, attempt: int) -> None:
        await asyncio.sleep(self._wire.event_s)
        await self._services.dispatcher.dispatch(task_id, attempt)

    async def _call(self, task_id: str, attempt: int, timeout_s: float) -> Answer:
        outage = next((outage for outage in self._work.outages if outage.holds(now_s())), None)
        if outage is None:
            return await self._post(task_id, attempt)
        self._fleet.record.probes.append(now_s())
        await asyncio.sleep(timeout_s if outage.hangs else self._wire.post_s)
        if outage.hangs:
            return Unreachable("did not answer in time")
        return Unreachable("could not be reached", was_sent=False)

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
        self._fleet.record.failures[number] = outcome.task.failures
        await self._services.dispatcher.after_transition(outcome)
        if self._work.is_awaited(number):
            self._done.add()

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self._services.settings.lease_s / 3)
            for number in self._fleet.running:
                await self._services.store.heartbeat(_id(number), attempt=self._attempts[number])

    async def _reconciler(self) -> None:
        while True:
            await asyncio.sleep(RECONCILER_S)
            if await self._services.store.rounds.begin():
                await reconcile(self._services)

    async def _sampler(self, every_s: float) -> None:
        chance, record = random.Random(11), self._fleet.record
        samples: list[tuple[int, float, float]] = []
        try:
            while True:
                await asyncio.sleep(every_s)
                waiting = sorted(record.arrived.keys() - record.started.keys())
                if not waiting:
                    continue
                number, at_s = chance.choice(waiting), now_s()
                task = await self._services.store.get(_id(number))
                queue = await self._tasks.queue_status(task) if task else None
                position = queue.position if queue else None
                if position and position.wait_s is not None:
                    samples.append((number, at_s, position.wait_s))
        finally:
            record.waits = [
                (estimated_s, record.started[number] - at_s)
                for number, at_s, estimated_s in samples
                if number in record.started
            ]

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._in_flight.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._done.fail(error)


class SteppingLink(RedisLink):
    """A link that blocks the event loop during each call, so that simulated time stands still."""

    def __init__(self, client: redis.Redis, latency_s: float = 0.0) -> None:
        super().__init__(self._no_other_client)
        self._redis = client
        self._latency_s = latency_s

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

    async def keys(self) -> AsyncIterator[dict[str, list[bytes]]]:
        found: dict[str, list[bytes]] = {tag: [] for tag in HASH_TAGS}
        for key in self._redis.scan_iter(match="{*"):
            tag, brace, name = key.partition(b"}")
            found[(tag + brace).decode()].append(name)
        yield found

    async def _no_other_client(self) -> RedisClient:
        raise AssertionError("the simulation has a client of its own")


class _CountingLink(SteppingLink):
    """Counts the refusals."""

    def __init__(self, client: redis.Redis, latency_s: float, record: Record) -> None:
        super().__init__(client, latency_s)
        self._record = record

    async def script(self, name: str, tag: str, *args: bytes | str) -> Any:
        if name == "queue/refused":
            _, holding, slots, *_ = await super().script("queue/status", tag, *args)
            refused = self._record.refused_probes if holding > slots else self._record.refused_grants
            refused.append(now_s())
        return await super().script(name, tag, *args)


class _SimulatedBackend:
    def __init__(self, call: Callable[[str, int, float], Awaitable[Answer]]) -> None:
        self._call = call

    async def post(
        self, endpoint: Endpoint, headers: dict[str, str], body: object, timeout_s: float, room: object
    ) -> Answer:
        return await self._call(headers["taskId"], int(headers["X-Task-Attempt"]), timeout_s)

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
        raise AssertionError("the simulation publishes no completions")

    async def aclose(self) -> None:
        return


class _Count:
    """An awaitable that is done after a number of calls of `add`."""

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
