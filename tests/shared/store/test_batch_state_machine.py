"""Random interleavings of the steps of a batch and of its children by several processes, which die at any moment, on
a Redis whose partitions know nothing of each other.

After each step, every child that exists is counted, once, by what the batch was told of it last; and a batch does not
end before all of them have. In the end, with nothing lost but processes, it does end, and counts what the records of
its children say.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, cast

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.store.batch_steps import (
    REGISTRATION_GRACE_S,
    REGISTRATION_S,
    ChildEnd,
    ChildReport,
    Registration,
    then_task_id,
)
from shared.tasks.outcomes import Applied, BatchRefused, Created, Existing, TooLate
from shared.tasks.task import BatchState, Content, NewBatch, NewTask, PipelineStep, State, Task, ThenTask
from tests.shared.store.conftest import POLICY, Clock, Store, store_at
from tests.shared.store.world import START_MS, Server, World

IDS = ("c1", "c2", "c3")
CHILD = NewTask("c", "/v1/a", 60, body=Content("text/plain", 2), inline_body=b"hi", batch="b")
THEN = ThenTask("/v1/then", "", (PipelineStep("/v1/then", "", 60),))
ids = st.sampled_from(IDS)
ends = st.sampled_from([State.COMPLETED, State.COMPLETED, State.FAILED, State.CANCELLED])


class BatchMachine(RuleBasedStateMachine):
    """Each step is sent once or, as after a lost answer, twice."""

    def __init__(self, server: Server, runner: asyncio.Runner, once: Store, twice: Store, clock: Clock) -> None:
        super().__init__()
        self.server, self.runner, self.stores, self.clock = server, runner, (once, twice), clock
        self.registrations: dict[str, Registration] = {}
        """The last one that a process was given for a child that it may still create."""
        self.told: list[ChildEnd] = []
        """What was reported, and may come once more."""
        self.created: set[str] = set()

    @initialize(has_then=st.booleans())
    def start(self, has_then: bool) -> None:
        self.server.flush()
        self.clock.ms = START_MS
        self.run(self.stores[0].batches.create(NewBatch("b", then=THEN if has_then else None)))

    def run(self, step: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(step)

    @property
    def batch(self) -> Task:
        task = self.run(self.stores[0].get("b"))
        assert task
        return task

    @property
    def state(self) -> BatchState:
        children = self.batch.children
        assert children
        return children

    def record(self, task_id: str) -> Task | None:
        return self.run(self.stores[0].get(task_id))

    @rule(twice=st.booleans(), child_id=ids)
    def register(self, twice: bool, child_id: str) -> None:
        if self.record(child_id) is not None:
            return  # whoever submits it again finds it
        known = {child for child, *_ in World(self.server).children_of("b")}
        batch, state = self.batch, self.state
        outcome = self.run(self.stores[twice].batches.register("b", child_id, ""))
        if batch.state.is_terminal or (state.sealed and child_id not in known):
            assert outcome == BatchRefused("sealed")
        else:
            assert isinstance(outcome, Registration)
            self.registrations[child_id] = outcome

    @rule(twice=st.booleans(), child_id=ids)
    def create(self, twice: bool, child_id: str) -> None:
        registered = self.registrations.get(child_id)
        if registered is None:
            return
        new = replace(CHILD, id=child_id, create_until_ms=registered.until_ms)
        existed = self.record(child_id) is not None
        outcome = self.run(self.stores[twice].create(new))
        if existed:
            assert isinstance(outcome, Existing)
        elif self.clock.ms > registered.until_ms:
            assert isinstance(outcome, TooLate)
        else:
            assert isinstance(outcome, Created)
            self.created.add(child_id)

    @rule(twice=st.booleans(), child_id=ids)
    def its_queue_refuses_it(self, twice: bool, child_id: str) -> None:
        registered = self.registrations.get(child_id)
        if registered is None or self.record(child_id) is not None:
            return
        del self.registrations[child_id]
        report = ChildReport(child_id, registered.number, "dropped")
        self.run(self.stores[twice].batches.report("b", [report], is_refused=True))

    @rule(twice=st.booleans(), child_id=ids, end=ends)
    def end(self, twice: bool, child_id: str, end: State) -> None:
        if end is State.CANCELLED:
            self.run(self.stores[twice].cancel(child_id))
        else:
            self.run(self.stores[twice].update(child_id, state=end, status=end.value))

    @rule(twice=st.booleans(), child_id=ids)
    def replay(self, twice: bool, child_id: str) -> None:
        self.run(self.stores[twice].replay(child_id))

    @rule(twice=st.booleans(), which=st.integers(0, 100), is_acknowledged=st.booleans())
    def report(self, twice: bool, which: int, is_acknowledged: bool) -> None:
        """A process, or the reconciler, reports what is kept for the batch; and dies then, or not."""
        kept = sorted(World(self.server).ends)
        if kept:
            self.deliver(self.stores[twice], ChildEnd.parse(kept[which % len(kept)]), is_acknowledged)

    def deliver(self, store: Store, end: ChildEnd, is_acknowledged: bool) -> None:
        if is_acknowledged:
            self.run(store.batches.report_ends("b", [end]))
        else:
            self.run(store.batches.report("b", [ChildReport(end.child_id, end.attempt, end.state)]))
        self.told.append(end)

    @rule(which=st.integers(0, 100))
    def report_again(self, which: int) -> None:
        """A report comes late, from a process that was slow."""
        if self.told:
            self.deliver(self.stores[0], self.told[which % len(self.told)], False)

    @rule(twice=st.booleans())
    def seal(self, twice: bool) -> None:
        self.run(self.stores[twice].batches.seal("b", None))
        assert self.state.sealed

    @precondition(lambda self: len(self.told) > 2)
    @rule(twice=st.booleans())
    def cancel_batch(self, twice: bool) -> None:
        before = self.batch
        outcome = self.run(self.stores[twice].batches.cancel("b", None))
        assert isinstance(outcome, Applied) == (before.state is State.CANCELLED or not before.state.is_terminal)

    @rule(twice=st.booleans())
    def replay_batch(self, twice: bool) -> None:
        before, state = self.batch, self.state
        outcome = self.run(self.stores[twice].batches.replay("b", None))
        has_failed = state.failed or state.then_state not in (None, State.COMPLETED)
        assert isinstance(outcome, Applied) == bool(before.state is State.FAILED and has_failed)

    @rule(twice=st.booleans())
    def mark_replays(self, twice: bool) -> None:
        self.run(self.stores[twice].batches.mark_replays("b"))

    @rule(twice=st.booleans(), which=st.integers(0, 2))
    def replay_marked(self, twice: bool, which: int) -> None:
        """A process replays a child that is to be replayed."""
        marked = [known for known in World(self.server).children_of("b") if known[1] == "again"]
        if marked:
            self.replay_again(self.stores[twice], *marked[which % len(marked)])

    def replay_again(self, store: Store, child_id: str, _: str, attempt: int) -> None:
        outcome = self.run(store.replay(child_id, attempt=attempt))
        if not isinstance(outcome, Applied):
            task = outcome.task
            state = task.state if task.state.is_terminal else State.CREATED
            self.run(store.batches.report("b", [ChildReport(child_id, task.attempt, state)]))

    @rule(twice=st.booleans())
    def begin_then(self, twice: bool) -> None:
        state = self.state
        if state.then_id and not state.then_exists:
            store = self.stores[twice]
            self.run(store.create(replace(CHILD, id=state.then_id, path="/v1/then")))
            self.run(store.batches.report("b", [ChildReport(state.then_id, 1, "begun")]))

    @rule(twice=st.booleans(), end=ends)
    def end_then(self, twice: bool, end: State) -> None:
        state = self.state
        if state.then_id and self.record(state.then_id) is not None:
            self.end(twice, state.then_id, end)

    @rule(twice=st.booleans())
    def check(self, twice: bool) -> None:
        """The deadline of the batch: what is registered is looked for."""
        self.look(self.stores[twice])

    def look(self, store: Store) -> None:
        state = self.state
        checked = None
        if state.seen < state.checked_next:
            _, children = self.run(store.batches.children("b", behind=state.seen, last=state.checked_next))
            for child in children:
                task = self.record(child.id) if child.is_awaited else None
                if child.is_awaited and task is None:
                    self.run(store.batches.report("b", [ChildReport(child.id, child.number, "dropped")]))
                elif task is not None and task.state.is_terminal and child.known != "again":
                    self.run(store.batches.report("b", [ChildReport(child.id, task.attempt, task.state)]))
            checked = state.checked_next
        look_again = checked is None and state.seen == state.last_place
        self.run(store.batches.rest("b", checked=checked, look_again=look_again, is_cancelled=True))

    @rule(seconds=st.sampled_from([1.0, REGISTRATION_S + 1, REGISTRATION_GRACE_S]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def every_child_that_exists_is_counted(self) -> None:
        world = World(self.server)
        world.assert_consistent()
        known = {child: (what, number) for child, what, number in world.children_of("b")}
        assert self.created <= known.keys()
        batch = self.batch
        if batch.state in (State.COMPLETED, State.FAILED):
            assert {what for what, _ in known.values()} <= {"completed", "failed", "cancelled"}
            assert self.state.sealed
            all_completed = all(what == "completed" for what, _ in known.values())
            then_completed = self.state.then is None or self.state.then_state is State.COMPLETED
            assert (batch.state is State.COMPLETED) == (all_completed and then_completed)
        for child_id, (what, number) in known.items():
            record = world.records.get(child_id)
            if what in ("completed", "failed", "cancelled"):
                assert record
                assert record["a"] >= number
                if record["a"] == number:
                    assert record["s"] == what

    def teardown(self) -> None:
        """Nothing is lost: with time, and the reconciler, the batch ends and knows how its children have."""
        store = self.stores[0]
        self.run(store.batches.seal("b", None))
        for _ in range(12):
            for end in [ChildEnd.parse(text) for text in sorted(World(self.server).ends)]:
                self.deliver(store, end, True)
            while self.state.job == "replay":
                self.run(store.batches.mark_replays("b"))
            for child_id, what, number in [*World(self.server).children_of("b")]:
                if what == "again" and self.state.job == "cancel":
                    self.run(store.batches.report("b", [ChildReport(child_id, number, "unreplayable")]))
                    self.replay_again(store, child_id, what, number)
                elif what == "again":
                    self.replay_again(store, child_id, what, number)
                elif (task := self.record(child_id)) is not None and not task.state.is_terminal:
                    self.run(store.cancel(child_id) if self.state.job == "cancel" else self.complete(child_id))
            self.begin_then(False)
            if self.state.then_id:
                self.run(self.complete(self.state.then_id))
            self.clock.advance(REGISTRATION_GRACE_S)
            self.look(store)
        batch, state = self.batch, self.state
        assert batch.state.is_terminal
        assert (state.unfinished, state.replayable, state.job) == (0, 0, None)
        known = Counter(what for _, what, _ in World(self.server).children_of("b"))
        assert known.total() == state.total == len(self.created)
        assert state.then_tasks == 0 or state.then is not None
        if state.then_tasks and batch.state is not State.CANCELLED:
            assert self.record(then_task_id("b", state.then_tasks)) is not None

    async def complete(self, task_id: str) -> None:
        await self.stores[0].update(task_id, state=State.COMPLETED, status="completed")


def test_a_batch_counts_right_through_any_interleaving_of_steps(
    redis_server: Server, redis_url: str, clock: Clock
) -> None:
    with asyncio.Runner() as runner:
        once = store_at(redis_url, POLICY, clock)
        twice = store_at(redis_url, POLICY, clock, repeating=True)
        try:
            run_state_machine_as_test(
                cast("Any", partial(BatchMachine, redis_server, runner, once, twice, clock)),
                settings=settings(
                    max_examples=60,
                    stateful_step_count=40,
                    deadline=None,
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
                ),
            )
        finally:
            runner.run(once.aclose())
            runner.run(twice.aclose())
