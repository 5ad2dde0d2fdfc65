"""Random interleavings of what happens to a few tasks and their queues: the app's own code on a real Redis, with lost
answers, repeated scripts, processes that die, and keys that vanish. The invariants hold after every step, and in the
end every task comes to an end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, cast

import hypothesis.strategies as st
import msgpack
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from cache_manager.reconciler import reconcile
from cache_manager.schemas import TaskUpsert
from cache_manager.task_service import TaskService
from shared.dispatch.backend_client import Accepted, Answer, Busy, Erred, NotFound, Rejected, Unreachable
from shared.dispatch.registry import Endpoint
from shared.http.problems import Problem
from shared.rate import Rate
from shared.store import RedisLink, StoreUnavailable, store
from shared.store.redis.partitions import unpack
from shared.store.upkeep_steps import WAIT_CAP_S
from shared.tasks.outcomes import SlotGrant
from shared.tasks.task import NewTask, State
from shared.tasks.told_slots import ToldSlots
from tests.cache_manager.process import Process
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.test_rates import most_within
from tests.shared.store.world import START_MS, Server, nodes, tag_of

PATHS = ("/v1/a", "/v1/b")
IDS = tuple(f"t{number}" for number in range(6))
OWNERS = dict(zip(IDS, ("", "a", "b") * 2, strict=True))
IN_FLIGHT = 1
BASE = "https://models.example.org"
KINDS = ("q", "qo", "qw", "qh", "qi", "qb", "qr")
ANSWERS = (
    Accepted(),
    Accepted(),
    Accepted(),
    Busy(None),
    Busy(7.0),
    Unreachable("is away"),
    Unreachable("is away", was_sent=False),
    NotFound(),
    Erred("answered 500"),
    Rejected("answered 400"),
)
Mishap = Literal["repeated", "request lost", "answer lost"] | None
mishaps = st.sampled_from([None, None, None, "repeated", "request lost", "answer lost"])
ids, paths = st.sampled_from(IDS), st.sampled_from(PATHS)


@dataclass(frozen=True)
class Picture:
    """The keys of a queue in Redis."""

    state: dict[str, Any]
    settings: dict[str, Any]
    waiting: frozenset[str]
    held: frozenset[str]
    entries: int
    """The number of waiting entries. On a cluster, an id that two owners chose can have two."""
    holders: frozenset[str]
    """Whose entries hold slots, as the queue has noted it."""
    owners: dict[str, str]
    """By entry, as the records have it: a step may have made a task without an owner."""

    @property
    def is_counted(self) -> bool:
        return not self.state or (self.state["w"], self.state["h"]) == (self.entries, len(self.held))

    @property
    def holders_are_known(self) -> bool:
        return self.holders == {f"{self.owners[entry]} {entry}" for entry in self.held}

    @property
    def held_by(self) -> Counter[str]:
        return Counter(self.owners[entry] for entry in self.held)


class Witness:
    """Reads the keys of queues from Redis."""

    def __init__(self, server: Server) -> None:
        self._clients = [cast("Any", redis.Redis(port=node.port)) for node in nodes(server)]

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def keys(self, path: str, kind: str) -> list[tuple[Any, bytes]]:
        tag = "{" + tag_of(path) + "}"
        pattern = f"{tag}{kind}:{path}" + (" *" if kind == "qw" else "")
        return [(client, key) for client in self._clients for key in client.scan_iter(pattern)]

    def picture(self, path: str) -> Picture:
        def packed(kind: str) -> dict[str, Any]:
            return next((msgpack.unpackb(client.get(key)) for client, key in self.keys(path, kind)), {})

        def entries_of(kind: str) -> frozenset[str]:
            keys = self.keys(path, kind)
            return frozenset(entry.decode() for client, key in keys for entry in client.zrange(key, 0, -1))

        entries = sum(client.zcard(key) for client, key in self.keys(path, "qw"))
        waiting, held = entries_of("qw"), entries_of("qh")
        owners = {entry: self._owner(entry.partition(".")[0]) for entry in waiting | held}
        return Picture(packed("q"), packed("qs"), waiting, held, entries, entries_of("qb"), owners)

    def _owner(self, task_id: str) -> str:
        key = "{" + tag_of(task_id) + "}t:" + task_id
        packed = (client.get(key) for client in self._clients for _ in client.scan_iter(key))
        return next((unpack(record).get("o", "") for record in packed), "")

    def due_ms(self, task_id: str) -> float | None:
        key = "{" + tag_of(task_id) + "}due"
        found = (client.zscore(key, task_id) for client in self._clients for _ in client.scan_iter(key))
        return next((at for at in found if at is not None), None)


class WatchedLink(RedisLink):
    """Checks each queue before and after each script, and causes mishaps on request.

    Args:
        is_hard: whether an owner never has more than ``IN_FLIGHT`` tasks in flight; None: it has no bound.
    """

    def __init__(self, server: Server, clock: Clock, witness: Witness, is_hard: bool | None = None) -> None:
        super().__init__(opener(server.url))
        self._clock, self._witness, self._is_hard = clock, witness, is_hard
        self._alone = asyncio.Lock()
        """Between two pictures of a queue there is one script: the reconciler runs several at a time."""
        self.mishap: Mishap = None
        self.granted_ms: dict[str, list[int]] = {}
        """When each queue granted slots, as far as its rate knows."""

    @property
    def is_bounded(self) -> bool:
        return self._is_hard is not None

    async def script(self, name: str, tag: str, *args: bytes | str) -> Any:
        if not args or not name.startswith("queue/"):
            if self.mishap == "repeated":
                await super().script(name, tag, *args)
            return await super().script(name, tag, *args)
        mishap, self.mishap = self.mishap, None
        if mishap == "request lost":
            raise StoreUnavailable(mishap)
        if mishap == "repeated":
            await self._watched(name, tag, *args)
        reply = await self._watched(name, tag, *args)
        if mishap == "answer lost":
            raise StoreUnavailable(mishap)
        return reply

    async def combined(self, name: str, *args: bytes) -> Any | None:
        mishap, self.mishap = self.mishap, None
        if mishap == "request lost":
            raise StoreUnavailable(mishap)
        entry = msgpack.unpackb(args[-1]).get("entry")
        for _ in range(2 if mishap == "repeated" else 1):
            async with self._alone:
                before = {path: self._witness.picture(path) for path in PATHS}
                reply = await super().combined(name, *args)
                for path in PATHS:
                    self._check(path, before[path], self._witness.picture(path), entry)
        if mishap == "answer lost":
            raise StoreUnavailable(mishap)
        return reply

    async def _watched(self, name: str, tag: str, *args: bytes | str) -> Any:
        arg = msgpack.unpackb(cast("bytes", args[0]))
        async with self._alone:
            before = self._witness.picture(arg["path"])
            reply = await super().script(name, tag, *args)
            if name != "queue/mark_held":
                self._check(arg["path"], before, self._witness.picture(arg["path"]), arg.get("entry"))
        return reply

    def _check_rate(self, path: str, before: Picture, after: Picture, count: int) -> None:
        """A change of it counts for the windows that begin after it."""
        if before.settings.get("rate") != after.settings.get("rate"):
            self.granted_ms.pop(path, None)
        granted_ms = self.granted_ms.setdefault(path, [])
        granted_ms += [self._clock()] * count
        if granted_ms and "rate" in after.settings:
            tasks, window_ms = after.settings["rate"]
            assert most_within(granted_ms, window_ms) <= tasks, "granted beyond the rate"

    def _check(self, path: str, before: Picture, after: Picture, entry: str | None) -> None:
        granted = after.held - before.held
        self._check_rate(path, before, after, len(granted))
        if not granted:
            return
        if self._is_hard is not None and before.holders_are_known:
            self._check_owners(granted, after)
        assert not after.settings.get("paused"), "granted while the queue is paused"
        limit = after.settings.get("limit")
        assert limit is None or len(after.held) <= limit, "granted beyond the limit"
        assert before.state.get("o", 0) <= self._clock(), "granted during a pause"
        probing = before.state.get("p")
        # A probe that got no answer stays beyond the estimate when the next one begins.
        unanswered = probing in after.held and before.state["u"] <= self._clock()
        beyond = min(len(granted), len(after.held) - unanswered - after.state["l"])
        budget = max(before.state.get("B") or 1, after.state.get("B") or 1)
        assert beyond <= budget, "more probes beyond the estimate than a search may have"
        earlier = after.state.get("Q") or {}
        assert not after.state.get("B") or len(earlier) < budget, "more probes than a search may have"
        begun = after.state.get("p") not in (None, probing)
        if begun and probing in after.held - earlier.keys() and probing != entry:
            assert before.state["u"] <= self._clock(), "a second probe began before the first was answered"

    def _check_owners(self, granted: Set[str], after: Picture) -> None:
        owners = {after.owners[entry] for entry in granted}
        beyond = {owner for owner in owners if after.held_by[owner] > IN_FLIGHT}
        if self._is_hard:
            assert not beyond, "granted beyond what an owner may ever have"
        elif beyond and not after.state.get("O"):  # during an outage, one at a time goes out
            wanting = {after.owners[entry] for entry in after.waiting}
            wanting = {owner for owner in wanting if after.held_by[owner] < IN_FLIGHT}
            assert not wanting, "granted beyond an owner's bound while another waits that has less"


class Backend:
    """A backend whose answers the test sets."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Future[Answer]] = []
        self.called = asyncio.Event()

    async def post(
        self, endpoint: Endpoint, headers: dict[str, str], body: object, timeout_s: float, room: object
    ) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.calls.append(answer)
        self.called.set()
        return await answer

    async def aclose(self) -> None:
        return


class QueueMachine(RuleBasedStateMachine):
    def __init__(
        self,
        server: Server,
        runner: asyncio.Runner,
        process: Process,
        backend: Backend,
        witness: Witness,
        clock: Clock,
    ) -> None:
        super().__init__()
        self.server, self.runner, self.process, self.witness, self.clock = server, runner, process, witness, clock
        self.link = cast("WatchedLink", process.link)
        self.backend = backend
        self.in_flight: list[tuple[asyncio.Task[Any], asyncio.Future[Answer]]] = []
        self.torn: set[str] = set()
        self.unowned: set[str] = set()
        """The queues that lost a key, until a run of the reconciler has met with no mishap."""

    @initialize()
    def start(self) -> None:
        self.server.flush()
        self.clock.ms = START_MS
        self.process.dispatcher.granted.clear()
        self.process.published.attempts.clear()
        self.process.queues._told.clear()  # what it told is not in this Redis
        self.link.granted_ms.clear()

    @contextmanager
    def with_mishap(self, mishap: Mishap) -> Iterator[None]:
        self.link.mishap = mishap
        try:
            with suppress(StoreUnavailable, Problem):
                yield
        finally:
            self.link.mishap = None

    def run(self, step: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(step)

    @property
    def tasks(self) -> TaskService:
        return TaskService(self.process.services)

    async def begin(self, dispatch: Coroutine[Any, Any, Any]) -> None:
        """Run a dispatch until it has called the backend or ended."""
        self.backend.called.clear()
        work = asyncio.ensure_future(dispatch)
        called = asyncio.ensure_future(self.backend.called.wait())
        await asyncio.wait({work, called}, return_when=asyncio.FIRST_COMPLETED)
        called.cancel()
        if work.done():
            work.result()
        else:
            self.in_flight.append((work, self.backend.calls.pop()))

    @rule(
        task_id=ids,
        path=paths,
        priority=st.sampled_from([0, 5, 9]),
        mishap=mishaps,
    )
    def submit(self, task_id: str, path: str, priority: int, mishap: Mishap) -> None:
        new = NewTask(task_id, path, lease_s=60, owner=OWNERS[task_id], priority=priority)
        with self.with_mishap(mishap):
            self.run(self.tasks.submit(new, "text/plain", b"hi"))

    @rule(number=st.integers(0, 5), mishap=mishaps)
    def dispatch(self, number: int, mishap: Mishap) -> None:
        """Dispatch one of the slots that were granted to the process."""
        slots = self.process.dispatcher.granted
        if slots:
            slot = slots.pop(number % len(slots))
            with self.with_mishap(mishap):
                self.run(self.begin(self.process.dispatcher._dispatch_one_granted(*slot)))

    @rule(number=st.integers(0, 5), keep=st.booleans(), mishap=mishaps)
    def deliver(self, number: int, keep: bool, mishap: Mishap) -> None:
        """Deliver an event, which may be delivered again."""
        events = self.process.published.attempts
        if events:
            event = events[number % len(events)]
            if not keep:
                events.remove(event)
            with self.with_mishap(mishap):
                self.run(self.begin(self.process.dispatcher.dispatch(event.task_id, event.attempt)))

    @rule(number=st.integers(0, 5), answer=st.sampled_from(ANSWERS), mishap=mishaps)
    def answer(self, number: int, answer: Answer, mishap: Mishap) -> None:
        if self.in_flight:
            work, call = self.in_flight.pop(number % len(self.in_flight))
            with self.with_mishap(mishap):
                call.set_result(answer)
                self.run(_end(work))

    @rule(number=st.integers(0, 5))
    def die(self, number: int) -> None:
        """The process that was to dispatch a task dies."""
        if self.in_flight:
            work, _ = self.in_flight.pop(number % len(self.in_flight))
            work.cancel()
            self.run(_end(work))
        elif self.process.dispatcher.granted:
            self.process.dispatcher.granted.pop()

    @rule(
        task_id=ids,
        status=st.sampled_from(["running", "completed", "completed", "failed"]),
        text=st.sampled_from(["working", "completed - 3 of 10", "failed"]),
        mishap=mishaps,
    )
    def report(self, task_id: str, status: str, text: str, mishap: Mishap) -> None:
        with self.with_mishap(mishap):
            self.run(self.tasks.upsert(_upsert(TaskId=task_id, BackendStatus=status, Status=text)))

    @rule(task_id=ids, path=paths, mishap=mishaps)
    def next_step(self, task_id: str, path: str, mishap: Mishap) -> None:
        with self.with_mishap(mishap):
            self.run(self.tasks.upsert(_upsert(TaskId=task_id, Endpoint=BASE + path, PublishToGrid=True, Body="ho")))

    @rule(task_id=ids, what=st.sampled_from(["cancel", "replay"]), mishap=mishaps)
    def ask_for(self, task_id: str, what: str, mishap: Mishap) -> None:
        with self.with_mishap(mishap):
            self.run(self.tasks.cancel(task_id) if what == "cancel" else self.tasks.replay(task_id))

    @rule(
        path=paths,
        change=st.sampled_from(
            [
                *({"paused": True}, {"paused": False}, {"draining": True}),
                *({"limit": 1}, {"limit": 2}, {"limit": None}),
                *({"rate": Rate(2, 10)}, {"rate": Rate(1, 3)}, {"rate": None}, {"burst": True}, {"burst": False}),
            ]
        ),
        mishap=mishaps,
    )
    def configure(self, path: str, change: dict[str, Any], mishap: Mishap) -> None:
        with self.with_mishap(mishap):
            granted = self.run(self.process.queues.configure(path, change))
            self.process.dispatcher.dispatch_granted([granted])

    @rule(path=paths, slots=st.integers(0, 3), instance=st.sampled_from(["", "a"]), mishap=mishaps)
    def tell(self, path: str, slots: int, instance: str, mishap: Mishap) -> None:
        with self.with_mishap(mishap):
            self.run(self.process.dispatcher.take_told(path, ToldSlots(slots, instance)))

    @rule(seconds=st.sampled_from([0.05, 1, 7, 31, 61]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(path=paths)
    def timer(self, path: str) -> None:
        self.process.dispatcher.dispatch_granted([self.run(self.process.queues.grant_free_slots(path))])

    @rule(mishap=mishaps)
    def reconcile(self, mishap: Mishap) -> None:
        with self.with_mishap(mishap):
            self.run(reconcile(self.process.services))
            self.torn.clear()
        if mishap is None:
            self.unowned.clear()

    @rule(path=paths, kinds=st.sampled_from([*((kind,) for kind in KINDS), KINDS, ("qo", "qw"), ("q", "qh")]))
    def lose(self, path: str, kinds: tuple[str, ...]) -> None:
        for kind in kinds:
            for client, key in self.witness.keys(path, kind):
                client.delete(key)
        if not self.witness.keys(path, "q") and not self.witness.keys(path, "qr"):
            self.link.granted_ms.pop(path, None)  # nothing is left to tell of them
        self.torn.add(path)
        self.unowned.add(path)

    @invariant()
    def an_entry_waits_or_holds_a_slot_and_is_counted(self) -> None:
        for path in PATHS:
            queue = self.witness.picture(path)
            assert not queue.waiting & queue.held
            assert queue.is_counted or path in self.torn

    @invariant()
    def nobody_holds_a_slot_that_is_free(self) -> None:
        for path in PATHS:
            queue = self.witness.picture(path)
            assert self.link.is_bounded or not queue.holders
            noted = {holder.partition(" ")[2] for holder in queue.holders}
            assert noted <= queue.held or path in self.unowned

    @invariant()
    def a_task_to_be_dispatched_is_in_its_queue_or_has_a_deadline(self) -> None:
        queues = {path: self.witness.picture(path) for path in PATHS}
        for task_id in IDS:
            task = self.run(self.process.store.get(task_id))
            if task is None or task.state.is_terminal:
                continue
            due_ms = self.witness.due_ms(task_id)
            entry = SlotGrant(task_id, task.attempt).entry_id
            stands = entry in queues[task.path].waiting | queues[task.path].held
            assert due_ms is not None or (task.state is State.CREATED and stands)
            assert due_ms is None or due_ms <= self.clock() + WAIT_CAP_S * 1000

    def teardown(self) -> None:
        self.run(self._settle())
        for path in PATHS:
            queue = self.witness.picture(path)
            assert not queue.waiting | queue.held, "an entry is left of a task that has ended"

    async def _settle(self) -> None:
        """Run without mishaps until every task has ended and every slot is free."""
        self.link.mishap = None
        for work, _ in self.in_flight:
            work.cancel()
            await _end(work)
        process = self.process
        for path in PATHS:
            reset = {"paused": False, "draining": False, "limit": None, "rate": None}
            process.dispatcher.dispatch_granted([await process.queues.configure(path, reset)])
        for _ in range(200):
            self.clock.advance(31)
            await reconcile(process.services)
            slots, events = process.take_granted(), process.published.attempts[:]
            process.published.attempts.clear()
            for slot in slots:
                await self._finish(process.dispatcher._dispatch_one_granted(*slot))
            for event in events:
                await self._finish(process.dispatcher.dispatch(event.task_id, event.attempt))
            known = [task for task_id in IDS if (task := await process.store.get(task_id))]
            for task in known:
                if task.state in (State.DISPATCHED, State.RUNNING):
                    await self.tasks.upsert(_upsert(TaskId=task.id, BackendStatus="completed"))
            over = all(task.state.is_terminal for task in known)
            if over and not any((q := self.witness.picture(path)).waiting | q.held for path in PATHS):
                return
        raise AssertionError(f"not all came to their end: {known}")

    async def _finish(self, dispatch: Coroutine[Any, Any, Any]) -> None:
        self.in_flight.clear()
        await self.begin(dispatch)
        for work, call in self.in_flight:
            call.set_result(Accepted())
            await work


async def _end(work: asyncio.Task[Any]) -> None:
    with suppress(asyncio.CancelledError):
        await work


def _upsert(**members: Any) -> TaskUpsert:
    return TaskUpsert.model_validate(members)


@pytest.mark.parametrize("is_hard", [None, False, True], ids=["unbounded", "soft", "hard"])
def test_no_task_and_no_slot_is_lost_in_any_interleaving(
    redis_server: Server, monkeypatch: pytest.MonkeyPatch, is_hard: bool | None
) -> None:
    # The store does not wait for the record of a granted task: in this test it never appears.
    monkeypatch.setattr(store, "_RECORD_PAUSES_S", ())
    clock, witness = Clock(), Witness(redis_server)
    with asyncio.Runner() as runner:
        link = WatchedLink(redis_server, clock, witness, is_hard)
        backend = Backend()
        per_owner = {} if is_hard is None else {"in_flight": IN_FLIGHT, "hard": is_hard}
        process = Process.start(redis_server.url, clock, link=link, transport=backend, per_owner=per_owner)
        try:
            run_state_machine_as_test(
                cast("Any", lambda: QueueMachine(redis_server, runner, process, backend, witness, clock)),
                settings=settings(
                    max_examples=40,
                    stateful_step_count=20,
                    deadline=None,
                    suppress_health_check=[HealthCheck.too_slow],
                ),
            )
        finally:
            runner.run(process.services.dispatcher.aclose())
            runner.run(link.aclose())
            witness.close()
