"""Random interleavings of what happens to two owners' schedules of one name: the app's own code on a real Redis, with
lost answers, repeated scripts, processes that die between two steps or work at the same time, full queues, keys that
vanish, nights on which the clocks change, and clocks that are set back. What is due is found by walking through the
minutes. Each look at a schedule makes exactly the tasks that it is to make, and none is made twice; and what somebody
asks of a schedule holds, whatever it is due for meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, cast

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from cache_manager.reconciler import reconcile
from cache_manager.schedule_runs import LATE_S, MOST_CAUGHT_UP, ScheduleRuns
from cache_manager.schedule_service import ScheduleService
from cache_manager.task_service import TaskService
from shared.http.problems import Problem
from shared.store import Listing, StoreUnavailable
from shared.tasks.cron import DueTimes
from shared.tasks.schedules import CatchUp, Definition, Name, Overlap, Schedule
from shared.tasks.task import Content, Task
from tests.cache_manager.process import Process
from tests.cache_manager.schedule_model import Known, Made, Mishap, MishapLink, Waits, due_times
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.world import Server, nodes

PATH = "/v1/test"
NAMES = (Name("ann", "nightly"), Name("bob", "nightly"))
KEYS = ("a", "b")
MOST_TASKS = 500
STARTS = ("2026-03-28T23:50", "2026-10-24T23:50", "2026-06-01T12:03")
"""The two before the nights on which the clocks of Berlin change."""
EXPRESSIONS = (("*/20 * * * *", "Europe/Berlin"), ("30 2 * * *", "Europe/Berlin"), ("*/7 * * * *", "UTC"))

BODIES = (b"hi", b"ho")

names = st.sampled_from(NAMES)
definitions = st.builds(
    Definition,
    st.just(PATH),
    st.just(""),
    st.just(Content("text/plain", 2)),
    st.just(""),
    st.just(""),
    st.sampled_from([*Overlap, Overlap.QUEUE]),
    st.sampled_from(CatchUp),
)
expressions = st.sampled_from(EXPRESSIONS)
lasting = st.sampled_from([None, 3000])
mishaps = st.sampled_from([None, None, None, "repeated", "request lost", "answer lost"])
afters = st.integers(0, 6)
"""After how many steps the mishap comes."""


def ms_of(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


Asked = tuple[tuple[str, str], Definition, int | None]


class ScheduleMachine(RuleBasedStateMachine):
    def __init__(self, server: Server, runner: asyncio.Runner, processes: Sequence[Process], clock: Clock) -> None:
        super().__init__()
        self.server, self.runner, self.processes, self.clock = server, runner, processes, clock
        self.process = processes[0]

    @initialize(
        start=st.sampled_from(STARTS),
        first=st.tuples(expressions, definitions, lasting),
        second=st.tuples(expressions, definitions, lasting),
    )
    def start(self, start: str, first: Asked, second: Asked) -> None:
        self.server.flush()
        self.clock.ms = self.start_ms = ms_of(start)
        self.known = {name: Known() for name in NAMES}
        self.ids: dict[str, Made] = {}
        self.is_draining = False
        for process in self.processes:
            process.store.keyed_ids._known = None  # it was another Redis' secret
        self.run(self.process.queues.configure(PATH, {"paused": True}))
        for name, (expression, definition, lasts_s) in zip(NAMES, (first, second), strict=True):
            self.put(name, expression, definition, lasts_s, BODIES[0], None, 0)

    def run(self, step: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(step)

    @contextmanager
    def with_mishap(self, mishap: Mishap, after: int) -> Iterator[None]:
        link = cast("MishapLink", self.process.link)
        link.mishap, link.after = mishap, after
        try:
            with suppress(StoreUnavailable, Problem):
                yield
        finally:
            link.mishap, link.after, link.dies_after = None, 0, None

    def service(self, name: Name) -> ScheduleService:
        return ScheduleService(TaskService(self.process.services, name.owner))

    def find(self, name: Name) -> Schedule | None:
        return self.run(self.service(name).find(name))

    def tasks(self, owner: str) -> dict[str, Task]:
        page = self.run(self.process.store.page(Listing(limit=MOST_TASKS, path=PATH, owner=owner)))
        assert len(page.tasks) < MOST_TASKS
        return {task.id: task for task in page.tasks}

    def made(self, name: Name) -> Counter[int]:
        """The tasks of the schedule's due times."""
        mine = (self.ids[task_id] for task_id in self.tasks(name.owner))
        life = self.known[name].life
        return Counter(each.due_ms for each in mine if each.due_ms and (each.name, each.life) == (name, life))

    def times(self, definition: Definition) -> Sequence[int]:
        return due_times(definition.cron, definition.zone, self.start_ms)

    def note(self, name: Name) -> Schedule | None:
        """Learn which tasks the schedule may make, and for which times it was due, as it is now."""
        schedule, known = self.find(name), self.known[name]
        if schedule is None:
            return None
        known.generations.setdefault(schedule.generation, set())
        known.active |= {*self.due(schedule)}
        for generation, noted in known.generations.items():
            for due_ms in known.active - noted:
                scope = f"schedules\n{name.name}\n{generation}"
                task_id = self.run(self.process.store.keyed_ids.unguessable_id_of(name.owner, scope, str(due_ms)))
                self.ids.setdefault(task_id, Made(name, known.life, due_ms))
            noted |= known.active
        known.latest_ms = max([known.latest_ms, *(run.due_ms for run in schedule.runs if not run.is_asked)])
        return schedule

    def first_time(self, name: Name, definition: Definition) -> int | None:
        """When a schedule that is put or resumed now is due: no time is made up for, and none is due twice."""
        after_ms = max(self.clock.ms, self.known[name].latest_ms)
        found = next(t for t in self.times(definition) if t > after_ms)
        return None if definition.until_ms is not None and found > definition.until_ms else found

    def end_life(self, name: Name) -> None:
        self.known[name] = Known(life=self.known[name].life + 1)

    @rule(
        name=names,
        expression=st.one_of(st.none(), st.none(), expressions),
        definition=definitions,
        lasts_s=lasting,
        body=st.sampled_from(BODIES),
        mishap=mishaps,
        after=afters,
    )
    def put(
        self,
        name: Name,
        expression: tuple[str, str] | None,
        definition: Definition,
        lasts_s: int | None,
        body: bytes,
        mishap: Mishap,
        after: int,
    ) -> None:
        """
        Args:
            expression: None: the one that it has.
        """
        before = self.note(name)
        is_undisturbed = mishap in (None, "repeated") and self.known[name].has_body
        # A run that waits to be tried again is tried at its time, and not by a put.
        is_held_up = before is not None and (before.is_held_up or before.pending is not None)
        definition = self.definition(before, expression, definition, lasts_s)
        waits = self.waits_for_room(name, before) if is_undisturbed else None
        with (
            self.sees_to_what_is_due(name, is_undisturbed=is_undisturbed and not is_held_up),
            self.with_mishap(mishap, after),
        ):
            self.run(self.put_by(self.process, name, definition, body))
        schedule = self.note(name)
        is_changed = self.learn_of_put(name, before, schedule, body)
        if self.known[name].is_paused:
            return
        if is_changed and waits is not None and before is not None and schedule is not None:
            was, now = before.definition, schedule.definition
            if (was.cron, was.zone) == (now.cron, now.zone) and waits.next_ms <= self.clock.ms:
                assert schedule.next_ms == waits.next_ms, "what waits for room is given up"
        elif is_undisturbed and not self.is_draining and not is_held_up:
            first_ms = self.first_time(name, definition)
            assert is_changed == (first_ms is not None)
            assert not is_changed or (schedule is not None and schedule.next_ms == first_ms)

    def waits_for_room(self, name: Name, schedule: Schedule | None) -> Waits | None:
        """What a draining queue keeps from being started, once somebody has seen to the schedule; if none of it is
        to be lost."""
        if schedule is None or not self.is_draining or not self.known[name].has_body:
            return None
        definition, due = schedule.definition, self.due(schedule)
        if definition.catch_up is not CatchUp.ALL or definition.overlap is Overlap.SKIP or len(due) >= MOST_CAUGHT_UP:
            return None
        if schedule.pending is not None:
            if schedule.pending.task_id in self.tasks(name.owner):  # it was started, and nobody knows it
                return None
            due = [schedule.pending.due_ms, *due]
        next_ms = due[1] if len(due) > 1 else self.next_after(schedule)
        return Waits(due[0], next_ms or 0) if due else None

    def definition(
        self,
        before: Schedule | None,
        expression: tuple[str, str] | None,
        definition: Definition,
        lasts_s: int | None,
    ) -> Definition:
        if expression is None:
            expression = (before.definition.cron, before.definition.zone) if before else EXPRESSIONS[0]
        cron, zone = expression
        return replace(
            definition, cron=cron, zone=zone, until_ms=None if lasts_s is None else self.clock.ms + lasts_s * 1000
        )

    async def put_by(self, process: Process, name: Name, definition: Definition, body: bytes) -> None:
        route = process.services.registry.route(PATH, "")
        due = DueTimes.parse(definition.cron, definition.zone)
        await ScheduleService(TaskService(process.services, name.owner)).put(name, definition, due, body, route)

    def learn_of_put(self, name: Name, before: Schedule | None, schedule: Schedule | None, body: bytes) -> bool:
        """Whether the schedule has another definition now."""
        if schedule is None or (before is not None and schedule.generation == before.generation):
            return False
        self.known[name].has_body, self.known[name].body = True, body
        return True

    @rule(name=names, mishap=mishaps, after=afters)
    def delete(self, name: Name, mishap: Mishap, after: int) -> None:
        self.note(name)
        with self.with_mishap(mishap, after):
            self.run(self.service(name).remove(name))
        if self.find(name) is None:
            self.end_life(name)

    @rule(name=names, paused=st.booleans(), mishap=mishaps, after=afters)
    def pause_or_resume(self, name: Name, paused: bool, mishap: Mishap, after: int) -> None:
        known, before = self.known[name], self.note(name)
        was_paused = known.is_paused
        is_undisturbed = mishap in (None, "repeated") and before is not None and not before.is_held_up
        with self.sees_to_what_is_due(name, is_undisturbed=is_undisturbed), self.with_mishap(mishap, after):
            self.run(self.service(name).set_paused(name, paused=paused))
        schedule = self.note(name)
        if schedule is None:
            return
        # A mishap may have come before or behind it.
        known.is_paused = schedule.is_paused if mishap in ("request lost", "answer lost") else paused
        if was_paused and not known.is_paused:
            assert schedule.next_ms == self.first_time(name, schedule.definition)

    @rule(name=names, key=st.sampled_from(KEYS), mishap=mishaps, after=afters)
    def run_now(self, name: Name, key: str, mishap: Mishap, after: int) -> None:
        ids = self.process.store.keyed_ids
        task_id = self.run(ids.unguessable_id_of(name.owner, f"schedules\n{name.name}\nrun", key))
        self.ids.setdefault(task_id, Made(name, 0, 0, key))
        with self.with_mishap(mishap, after), suppress(Exception if not self.known[name].has_body else Problem):
            self.run(self.service(name).run(name, key))

    @rule(seconds=st.sampled_from([1, 50, 70, 420, 1200, 4000]))
    def time_passes(self, seconds: int) -> None:
        """The app sleeps meanwhile."""
        for name in NAMES:
            self.note(name)
        self.clock.advance(seconds)
        for name in NAMES:
            self.note(name)

    @rule(seconds=st.sampled_from([500, 1300]))
    def the_app_is_awake(self, seconds: int) -> None:
        """It looks at each schedule when it is due."""
        until_ms = self.clock.ms + seconds * 1000
        while self.clock.ms < until_ms:
            due = {
                schedule.next_ms: name
                for name in NAMES
                if (schedule := self.find(name)) is not None and schedule.next_ms is not None
            }
            next_ms = min(due, default=until_ms)
            if next_ms >= until_ms:
                break
            self.clock.ms = max(self.clock.ms + 1, next_ms)
            self.look(due[next_ms])
            if self.is_draining or not self.known[due[next_ms]].has_body:
                break
        self.time_passes((until_ms - self.clock.ms) // 1000)

    @rule(seconds=st.sampled_from([2, 70, 1300, 1300]))
    def the_clock_is_set_back(self, seconds: int) -> None:
        self.clock.ms = max(self.start_ms, self.clock.ms - seconds * 1000)

    @rule(name=names, definition=definitions, lasts_s=lasting, body=st.sampled_from(BODIES))
    def put_as_the_clock_is_set_back(
        self, name: Name, definition: Definition, lasts_s: int | None, body: bytes
    ) -> None:
        self.the_clock_is_set_back(1300)
        self.put(name, None, definition, lasts_s, body, None, 0)

    @rule(draining=st.booleans())
    def room(self, draining: bool) -> None:
        self.run(self.process.queues.configure(PATH, {"draining": draining}))
        self.is_draining = draining

    @rule(name=names)
    def the_last_task_ends(self, name: Name) -> None:
        schedule = self.find(name)
        if schedule is not None and schedule.last is not None:
            self.run(TaskService(self.process.services, name.owner).cancel(schedule.last.task_id))

    @rule(name=names)
    def look(self, name: Name) -> None:
        """A look at a schedule makes exactly the tasks that are to be made."""
        schedule, has_body = self.note(name), self.known[name].has_body
        if schedule is None:
            return
        waits = self.waits_for_room(name, schedule)
        with self.sees_to_what_is_due(name, is_undisturbed=True):
            self.run(ScheduleRuns(self.process.services).see_to(name))
        present = self.find(name)
        assert present is not None
        if waits is not None:
            assert present.pending is not None
            assert (present.pending.due_ms, present.next_ms or 0) == waits, "a time is lost to a full queue"
        elif has_body and not self.is_draining:
            assert present.pending is None
            assert present.next_ms == self.next_after(schedule)

    @contextmanager
    def sees_to_what_is_due(self, name: Name, *, is_undisturbed: bool) -> Iterator[None]:
        """Asserts that what is done within makes the tasks that are to be made, with their body, and no other."""
        schedule, known, tasks, before = self.find(name), self.known[name], self.tasks(name.owner), self.made(name)
        body, has_body = known.body, known.has_body
        expected = self.expected(schedule) if schedule is not None else Counter[int]()
        yield
        after = self.tasks(name.owner)
        if not has_body:
            assert after.keys() == tasks.keys(), "a task has no body"
        elif is_undisturbed and schedule is not None and not self.is_draining:
            assert self.made(name) - before == expected - before
            for task_id in after.keys() - tasks.keys():
                assert self.run(self.process.store.inline_body(task_id)) == body
            if schedule.definition.overlap is Overlap.CANCEL_RUNNING:
                self.only_the_latest_is_at_work(schedule, after, expected)

    def only_the_latest_is_at_work(
        self, schedule: Schedule, tasks: Mapping[str, Task], started: Counter[int]
    ) -> None:
        for task_id, task in tasks.items():
            made = self.ids[task_id]
            is_one = (made.name, made.life) == (schedule.name, self.known[schedule.name].life)
            if is_one and made.due_ms in started and made.due_ms < max(started):
                assert task.state.is_terminal, "two of its tasks are at work"
        last = schedule.last
        if last is not None and schedule.pending is None and last.due_ms < min(started, default=0):
            assert last.task_id not in tasks or tasks[last.task_id].state.is_terminal, "its last task is at work"

    def expected(self, schedule: Schedule) -> Counter[int]:
        """The due times whose tasks are there after a look at the schedule that nothing disturbs."""
        definition, now_ms, made = schedule.definition, self.clock.ms, list[int]()
        last_id = schedule.last.task_id if schedule.last else None
        if schedule.pending is not None:
            made.append(schedule.pending.due_ms)
            last_id = schedule.pending.task_id
        due = self.due(schedule)
        if due and due[0] < now_ms - LATE_S * 1000:
            if definition.catch_up is CatchUp.LAST:
                due = due[-1:]
            elif definition.catch_up is CatchUp.NONE:
                due = [t for t in due if t >= now_ms - LATE_S * 1000]
        if definition.overlap is Overlap.SKIP:
            last = self.tasks(schedule.name.owner).get(last_id or "")
            is_at_work = last_id is not None and (last is None or not last.state.is_terminal)
            due = [] if is_at_work and (last is not None or schedule.pending is not None) else due[:1]
        return Counter({*made, *due})

    def due(self, schedule: Schedule) -> list[int]:
        if schedule.next_ms is None:
            return []
        last_ms = min(self.clock.ms, schedule.definition.until_ms or self.clock.ms)
        return [t for t in self.times(schedule.definition) if schedule.next_ms <= t <= last_ms]

    def next_after(self, schedule: Schedule) -> int | None:
        definition = schedule.definition
        if schedule.next_ms is None:
            return None
        later = (t for t in self.times(definition) if t > self.clock.ms and t >= cast("int", schedule.next_ms))
        found = next(later)
        return None if definition.until_ms is not None and found > definition.until_ms else found

    @rule(name=names, mishap=mishaps, after=afters)
    def look_with_mishap(self, name: Name, mishap: Mishap, after: int) -> None:
        self.note(name)
        with self.with_mishap(mishap, after):
            self.run(ScheduleRuns(self.process.services).see_to(name))

    @rule(name=names, steps=st.integers(0, 8))
    def die(self, name: Name, steps: int) -> None:
        self.note(name)
        with self.with_mishap(None, 0):
            cast("MishapLink", self.process.link).dies_after = steps
            self.run(ScheduleRuns(self.process.services).see_to(name))

    @rule(name=names)
    def two_look_at_once(self, name: Name) -> None:
        self.note(name)

        async def both() -> None:
            await asyncio.gather(*(ScheduleRuns(each.services).see_to(name) for each in self.processes))

        self.run(both())

    @rule(
        name=names,
        definition=definitions,
        lasts_s=lasting,
        expression=expressions,
        body=st.sampled_from(BODIES),
        what=st.sampled_from(["put", "pause", "resume"]),
    )
    def change_while_another_process_looks(
        self,
        name: Name,
        definition: Definition,
        lasts_s: int | None,
        expression: tuple[str, str],
        body: bytes,
        what: Literal["put", "pause", "resume"],
    ) -> None:
        before = self.note(name)
        definition = self.definition(before, expression, definition, lasts_s)
        one, other = self.processes

        async def both() -> None:
            service = ScheduleService(TaskService(one.services, name.owner))
            change = (
                self.put_by(one, name, definition, body)
                if what == "put"
                else service.set_paused(name, paused=what == "pause")
            )
            await asyncio.gather(change, ScheduleRuns(other.services).see_to(name))

        self.run(both())
        schedule = self.note(name)
        if what == "put":
            self.learn_of_put(name, before, schedule, body)
        elif schedule is not None:
            self.known[name].is_paused = what == "pause"

    @rule(what=st.sampled_from(["schedules_due", "schedules", "schedule_body", "schedule"]), name=names)
    def lose(self, what: str, name: Name) -> None:
        self.note(name)
        pattern = f"*}}{what}" if what.startswith("schedules") else f"*}}{what}:{name.owner} {name.name}"
        for node in nodes(self.server):
            with node.connect() as client:
                for key in client.scan_iter(pattern):
                    client.delete(key)
        if what == "schedule_body":
            self.known[name].has_body = False
        if what == "schedule":
            self.end_life(name)

    @invariant()
    def each_task_is_of_one_due_time_of_its_owners_schedule(self) -> None:
        for owner in {name.owner for name in NAMES}:
            counted: Counter[Made] = Counter()
            for task_id in self.tasks(owner):
                assert task_id in self.ids, "no due time made it, and nobody asked for it"
                made = self.ids[task_id]
                assert made.name.owner == owner
                counted[made] += 1
            assert max(counted.values(), default=1) == 1, "a due time made two tasks"

    @invariant()
    def what_was_asked_of_a_schedule_holds(self) -> None:
        for name in NAMES:
            schedule, known = self.note(name), self.known[name]
            if schedule is None:
                continue
            assert schedule.is_paused == known.is_paused
            assert not (known.is_paused and schedule.next_ms is not None), "it is due though it is paused"
            due = [run.due_ms for run in reversed(schedule.runs) if not run.is_asked]
            assert due == sorted(set(due)), "a time was due twice"
            if schedule.next_ms is not None:
                assert schedule.next_ms in self.times(schedule.definition)
                assert schedule.next_ms > known.latest_ms, "a time is due anew"
                assert schedule.next_ms <= (schedule.definition.until_ms or schedule.next_ms)

    @invariant()
    def owners_see_their_own(self) -> None:
        for name in NAMES:
            page = self.run(self.service(name).page(name.owner, 10, None))
            assert {each.name.owner for each in page.schedules} <= {name.owner}

    def teardown(self) -> None:
        """Whatever was lost: what is due from now on is found again, and made."""
        self.run(self.process.queues.configure(PATH, {"draining": False}))
        self.is_draining = False
        for name in NAMES:
            if self.find(name) is not None and not self.known[name].has_body:
                self.delete(name, None, 0)
        self.time_passes(4000)
        for name in NAMES:
            self.look(name)
        for _ in range(4):
            self.time_passes(1200)
            self.run(reconcile(self.process.services))
        for name in NAMES:
            schedule = self.find(name)
            assert schedule is None or schedule.pending is None
            assert schedule is None or schedule.next_ms is None or schedule.next_ms > self.clock.ms
            self.look(name)


def test_each_due_time_makes_its_task_in_any_interleaving(redis_server: Server) -> None:
    clock = Clock()
    with asyncio.Runner() as runner:
        processes = [
            Process.start(redis_server.url, clock, link=MishapLink(opener(redis_server.url))) for _ in range(2)
        ]
        try:
            run_state_machine_as_test(
                cast("Any", lambda: ScheduleMachine(redis_server, runner, processes, clock)),
                settings=settings(
                    max_examples=40,
                    derandomize=True,
                    stateful_step_count=20,
                    deadline=None,
                    suppress_health_check=[HealthCheck.too_slow],
                ),
            )
        finally:
            for process in processes:
                runner.run(process.services.dispatcher.aclose())
                runner.run(process.services.store.aclose())
