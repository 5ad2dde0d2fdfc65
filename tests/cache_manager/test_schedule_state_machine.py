"""Random interleavings of what happens to two owners' schedules of one name: the app's own code on a real Redis, with
lost answers, repeated scripts, processes that die between two steps or work at the same time, full queues, keys that
vanish, nights on which the clocks change, and clocks that are set back. What is due is found by walking through the
minutes. Each look at a schedule makes exactly the tasks that it is to make, and none is made twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Literal, NamedTuple, cast
from zoneinfo import ZoneInfo

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from cache_manager.reconciler import reconcile
from cache_manager.schedule_runs import LATE_S, ScheduleRuns
from cache_manager.schedule_service import ScheduleService
from cache_manager.task_service import TaskService
from shared.http.problems import Problem
from shared.store import Listing, RedisLink, StoreUnavailable
from shared.tasks.cron import DueTimes
from shared.tasks.schedules import CatchUp, Definition, Name, Overlap, Schedule
from shared.tasks.task import Content, Task
from tests.cache_manager.process import Process
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.world import Server, nodes

PATH = "/v1/test"
NAMES = (Name("ann", "nightly"), Name("bob", "nightly"))
KEYS = ("a", "b")
MINUTE_MS = 60_000
LONGEST = timedelta(days=2)
STARTS = ("2026-03-28T23:50", "2026-10-24T23:50", "2026-06-01T12:03")
"""The two before the nights on which the clocks of Berlin change."""
EXPRESSIONS = (("*/20 * * * *", "Europe/Berlin"), ("30 2 * * *", "Europe/Berlin"), ("*/7 * * * *", "UTC"))

Mishap = Literal["repeated", "request lost", "answer lost"] | None
names = st.sampled_from(NAMES)
mishaps = st.sampled_from([None, None, None, "repeated", "request lost", "answer lost"])
afters = st.integers(0, 6)
"""After how many steps the mishap comes."""


def ms_of(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


@cache
def due_times(cron: str, zone: str, start_ms: int) -> Sequence[int]:
    """The due times of the expression in the two days from a moment on, by the rules of Debian's cron."""
    place, found = ZoneInfo(zone), list[int]()
    first = start_ms - start_ms % MINUTE_MS
    for time_ms in range(first, first + round(LONGEST.total_seconds() * 1000), MINUTE_MS):
        at = datetime.fromtimestamp(time_ms / 1000, place)
        before = datetime.fromtimestamp(time_ms / 1000 - 60, place)
        if cron.startswith("*/"):
            is_due = at.minute % int(cron.split()[0][2:]) == 0
        else:
            is_left_out = (before.hour, before.minute) < (2, 30) < (at.hour, at.minute) and before.hour == 1
            is_due = ((at.hour, at.minute) == (2, 30) and not at.fold) or is_left_out
        if is_due:
            found.append(time_ms)
    return found


class Made(NamedTuple):
    """What a task was made for."""

    name: Name
    life: int
    due_ms: int
    """0: somebody has asked for it."""
    key: str = ""


class MishapLink(RedisLink):
    """Causes one mishap, after so many steps; and from a death on, no step is taken."""

    mishap: Mishap = None
    after = 0
    dies_after: int | None = None

    async def script(self, name: str, tag: str, *args: bytes | str) -> Any:
        return await self._step(lambda: super(MishapLink, self).script(name, tag, *args))

    async def combined(self, name: str, *args: bytes) -> Any | None:
        return await self._step(lambda: super(MishapLink, self).combined(name, *args))

    async def _step(self, take: Any) -> Any:
        if self.dies_after is not None:
            if not self.dies_after:
                raise StoreUnavailable("the process is dead")
            self.dies_after -= 1
        mishap, self.after = (None, self.after - 1) if self.after else (self.mishap, 0)
        if mishap is not None:
            self.mishap = None
        if mishap == "request lost":
            raise StoreUnavailable(mishap)
        if mishap == "repeated":
            await take()
        reply = await take()
        if mishap == "answer lost":
            raise StoreUnavailable(mishap)
        return reply


@dataclass
class Known:
    """What the model knows of a schedule."""

    life: int = 0
    """Which schedule of the name it is: a deleted one is forgotten."""
    generations: list[str] = field(default_factory=list)
    active: set[int] = field(default_factory=set)
    """All times at which it may have been due."""
    has_body: bool = True


class ScheduleMachine(RuleBasedStateMachine):
    def __init__(self, server: Server, runner: asyncio.Runner, processes: Sequence[Process], clock: Clock) -> None:
        super().__init__()
        self.server, self.runner, self.processes, self.clock = server, runner, processes, clock
        self.process = processes[0]

    @initialize(start=st.sampled_from(STARTS))
    def start(self, start: str) -> None:
        self.server.flush()
        self.clock.ms = self.start_ms = ms_of(start)
        self.known = {name: Known() for name in NAMES}
        self.ids: dict[str, Made] = {}
        self.is_draining = False
        for process in self.processes:
            process.store.keyed_ids._known = None  # it was another Redis' secret
        self.run(self.process.queues.configure(PATH, {"paused": True}))

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
        page = self.run(self.process.store.page(Listing(limit=200, path=PATH, owner=owner)))
        assert len(page.tasks) < 200
        return {task.id: task for task in page.tasks}

    def made(self, name: Name) -> Counter[int]:
        """The tasks of the schedule's due times."""
        mine = (self.ids[task_id] for task_id in self.tasks(name.owner))
        life = self.known[name].life
        return Counter(each.due_ms for each in mine if each.due_ms and (each.name, each.life) == (name, life))

    def times(self, definition: Definition) -> Sequence[int]:
        return due_times(definition.cron, definition.zone, self.start_ms)

    def note(self, name: Name) -> None:
        """Learn which tasks the schedule may make, as it is now."""
        schedule, known = self.find(name), self.known[name]
        if schedule is None:
            return
        if schedule.generation not in known.generations:
            known.generations.append(schedule.generation)
        until_ms = schedule.definition.until_ms or self.clock.ms
        if schedule.next_ms is not None:
            known.active |= {
                t for t in self.times(schedule.definition) if schedule.next_ms <= t <= min(self.clock.ms, until_ms)
            }
        for generation in known.generations:
            for due_ms in known.active:
                scope = f"schedules\n{name.name}\n{generation}"
                task_id = self.run(self.process.store.keyed_ids.unguessable_id_of(name.owner, scope, str(due_ms)))
                self.ids.setdefault(task_id, Made(name, known.life, due_ms))

    def end_life(self, name: Name) -> None:
        self.known[name] = Known(life=self.known[name].life + 1)

    @rule(
        name=names,
        expression=st.sampled_from(EXPRESSIONS),
        overlap=st.sampled_from([*Overlap, Overlap.QUEUE]),
        catch_up=st.sampled_from([*CatchUp, CatchUp.ALL]),
        lasts_s=st.sampled_from([None, None, 3000]),
        mishap=mishaps,
        after=afters,
    )
    def put(
        self,
        name: Name,
        expression: tuple[str, str],
        overlap: Overlap,
        catch_up: CatchUp,
        lasts_s: int | None,
        mishap: Mishap,
        after: int,
    ) -> None:
        until_ms = None if lasts_s is None else self.clock.ms + lasts_s * 1000
        definition = Definition(PATH, "", Content("text/plain", 2), *expression, overlap, catch_up, until_ms=until_ms)
        self.note(name)
        before = self.find(name)
        with self.with_mishap(mishap, after):
            due = DueTimes.parse(*expression)
            route = self.process.services.registry.route(PATH, "")
            self.run(self.service(name).put(name, definition, due, b"hi", route))
        schedule = self.find(name)
        if schedule is not None and (before is None or schedule.generation != before.generation):
            self.known[name].has_body = True
        self.note(name)

    @rule(name=names, mishap=mishaps, after=afters)
    def delete(self, name: Name, mishap: Mishap, after: int) -> None:
        self.note(name)
        with self.with_mishap(mishap, after):
            self.run(self.service(name).remove(name))
        if self.find(name) is None:
            self.end_life(name)

    @rule(name=names, paused=st.booleans(), mishap=mishaps, after=afters)
    def pause_or_resume(self, name: Name, paused: bool, mishap: Mishap, after: int) -> None:
        self.note(name)
        with self.with_mishap(mishap, after):
            self.run(self.service(name).set_paused(name, paused=paused))
        self.note(name)

    @rule(name=names, key=st.sampled_from(KEYS), mishap=mishaps, after=afters)
    def run_now(self, name: Name, key: str, mishap: Mishap, after: int) -> None:
        ids = self.process.store.keyed_ids
        task_id = self.run(ids.unguessable_id_of(name.owner, f"schedules\n{name.name}\nrun", key))
        self.ids.setdefault(task_id, Made(name, 0, 0, key))
        with self.with_mishap(mishap, after), suppress(Exception if not self.known[name].has_body else Problem):
            self.run(self.service(name).run(name, key))

    @rule(seconds=st.sampled_from([1, 50, 70, 420, 1200, 1800]))
    def time_passes(self, seconds: int) -> None:
        for name in NAMES:
            self.note(name)
        self.clock.advance(seconds)
        for name in NAMES:
            self.note(name)

    @rule(seconds=st.sampled_from([2, 70, 1300]))
    def the_clock_is_set_back(self, seconds: int) -> None:
        self.clock.ms = max(self.start_ms, self.clock.ms - seconds * 1000)

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
        self.note(name)
        schedule, before = self.find(name), self.made(name)
        if schedule is None:
            return
        expected = None if self.is_draining or not self.known[name].has_body else self.expected(schedule)
        self.run(ScheduleRuns(self.process.services).see_to(name))
        if expected is None:
            return
        after, present = self.made(name), self.find(name)
        assert after - before == expected - before
        assert present is not None
        assert present.pending is None
        assert present.next_ms == self.next_after(schedule)

    def expected(self, schedule: Schedule) -> Counter[int]:
        """The due times whose tasks are there after a look at the schedule that nothing disturbs."""
        definition, now_ms, made = schedule.definition, self.clock.ms, list[int]()
        last_id = schedule.last.task_id if schedule.last else None
        if schedule.pending is not None:
            made.append(schedule.pending.due_ms)
            last_id = schedule.pending.task_id
        until_ms = min(now_ms, definition.until_ms or now_ms)
        due = [
            t for t in self.times(definition) if schedule.next_ms is not None and schedule.next_ms <= t <= until_ms
        ]
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
                    max_examples=60,
                    stateful_step_count=20,
                    deadline=None,
                    suppress_health_check=[HealthCheck.too_slow],
                ),
            )
        finally:
            for process in processes:
                runner.run(process.services.dispatcher.aclose())
                runner.run(process.services.store.aclose())
