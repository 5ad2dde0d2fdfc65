"""One fault against one rig: load, strike, repair, settle, and check every task."""

from __future__ import annotations

import random
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import httpx

from shared.rate import Rate
from shared.store import then_task_id
from shared.store.batch_steps import REGISTRATION_GRACE_S
from shared.store.callbacks import CLAIM_S
from shared.tasks import status_texts
from tests.faults.load import EXPIRES_S, Load
from tests.faults.model_service import MODERN, PIPED, RATED, TAKEN, Entry, last_status, result_of
from tests.faults.rig import SETTINGS, Rig, Usage
from tests.faults.schedule import EachSecond
from tests.faults.table import Fault
from tests.faults.told import is_owed
from tests.grant_times import GrantTimes
from tests.shared.store.world import World
from tests.waiting import PATIENCE_S, eventually

SETTLE_S = float(PATIENCE_S)
IDLE_S = float(PATIENCE_S)
"""How long idle connections may take to be closed: aiohttp's clients keep one for 15 s."""
SPARE_DESCRIPTORS = 40
"""Connection pools keep some connections of a busier time for a while."""
SPARE_TASKS = 8
MAX_REDIS_CONNECTIONS = 72
"""Per node: the pool's 64, and those that ask a cluster for its slots."""
HISTORY = 32
"""The number of events that a record keeps; longer histories lose their middle."""
RATE: Final = Rate(3, 1)
"""Of the tasks that a ``rated`` endpoint gets. A host that was away has more to dispatch."""
_ENDED = ("completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Pace:
    """How long the load runs before the fault, and how long the fault lasts: bounds in seconds."""

    before_s: tuple[float, float]
    during_s: tuple[float, float]


LONG = Pace((1.0, 4.0), (1.0, 5.0))
SHORT = Pace((0.3, 0.6), (0.4, 0.8))


@dataclass(slots=True)
class Report:
    """The results of one trial."""

    fault: str
    seed: str
    submitted: int = 0
    acknowledged: int = 0
    completed: int = 0
    failed: int = 0
    duplicates: int = 0
    """Dispatches that the backend accepted beyond the first one of the same step of a task."""
    recovery_s: float | None = None
    """From the end of the fault until every task has ended; None if some did not end."""
    lost: list[str] = field(default_factory=list)
    """Acknowledged tasks that the app does not know any more."""
    stuck: list[str] = field(default_factory=list)
    """Tasks that had not ended ``SETTLE_S`` after the last submit."""
    wrong: list[str] = field(default_factory=list)
    """All other findings; a sentence each."""

    @property
    def findings(self) -> list[str]:
        return (
            [f"lost: {task_id}" for task_id in self.lost]
            + [f"stuck: {task_id}" for task_id in self.stuck]
            + self.wrong
        )


class Trials:
    """Fault after fault against one rig.

    A trial must not change the tasks that earlier trials left in Redis.
    """

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._earlier: dict[str, bytes] = {}
        self._usage: dict[str, Usage] = {}

    def warm_up(self, seconds: float) -> None:
        """Let the stack open its usual connections, and record how many."""
        with self._rig.client() as app:
            app.patch(f"/api/v1/queues{MODERN}{RATED}", json={"Rate": str(RATE)}).raise_for_status()
        with Load(self._rig, "warm-up") as load:
            time.sleep(seconds)
            load.finish()
        eventually(self._have_all_ended, within_s=SETTLE_S)
        if load.batch_id is not None:
            eventually(load.has_batch_ended, within_s=SETTLE_S)
        eventually(lambda: not is_owed(self._rig.world().records), within_s=SETTLE_S + 2 * CLAIM_S)
        self._earlier = self._rig.world().raw
        self._usage = {name: self._rig.usage(name) for name in ("host", "event_grid")}

    def run(self, fault: Fault, seed: str, pace: Pace) -> Report:
        """
        Raises:
            LocalStackError, AssertionError: the stack itself misbehaved.
        """
        chance = random.Random(seed)
        report = Report(fault.name, seed)
        times = GrantTimes(self._rig.redis_nodes, float(SETTINGS["REPUBLISH_S"]))
        with times, EachSecond(self._rig) as schedule, Load(self._rig, seed, with_delays=not fault.delays) as load:
            time.sleep(chance.uniform(*pace.before_s))
            load.may_forget = fault.forgets
            with fault.strike(self._rig, chance):
                time.sleep(chance.uniform(*pace.during_s))
            load.may_forget = False
            repaired_s = time.monotonic()
            load.finish()
            schedule.finish()
            self._settle(load, report, repaired_s)
            load.stop_watching()
        self._examine(load, schedule, fault, report)
        over = 0 if fault.forgets else times.over(f"{MODERN}{RATED}", RATE.tasks, RATE.window_s * 1000)
        if over:
            report.wrong.append(f"{over} windows have more grants than {RATE}")
        return report

    def leaks(self) -> list[str]:
        """The idle processes that hold more resources than after the warm-up; a sentence each."""
        self._rig.model.restart()  # to empty the pool of connections to it
        found: list[str] = []
        for name, before in self._usage.items():
            try:
                eventually(lambda name=name, before=before: _is_idle(self._rig.usage(name), before), within_s=IDLE_S)
            except AssertionError:
                found.append(f"{name} held {before} after the warm-up, and now holds {self._rig.usage(name)}")
        return found

    def _settle(self, load: Load, report: Report, repaired_s: float) -> None:
        with suppress(AssertionError):  # they are found to be stuck
            # From now on: until the last submit was acknowledged, long may have passed.
            eventually(self._have_all_ended, within_s=SETTLE_S)
            report.recovery_s = time.monotonic() - repaired_s
        if load.batch_id is not None:
            with suppress(AssertionError):  # it is found to be stuck
                eventually(load.has_batch_ended, within_s=SETTLE_S + 2 * REGISTRATION_GRACE_S)
        eventually(self._rig.model_is_idle, within_s=SETTLE_S)
        with suppress(AssertionError):  # it is found not to have been told
            eventually(lambda: not is_owed(self._rig.world().records), within_s=SETTLE_S + 2 * CLAIM_S)
        try:
            eventually(lambda: not any(self._rig.world().holding.values()), within_s=IDLE_S)
        except AssertionError:
            report.wrong.append(f"slots are held without a task: {self._rig.world().holding}")
        try:
            eventually(lambda: not any(self._rig.world().holders.values()), within_s=IDLE_S)
        except AssertionError:
            report.wrong.append(f"owners hold slots that are free: {self._rig.world().holders}")
        with self._rig.client() as app:
            for task_id in load.acknowledged:
                load.check(app, task_id)

    def _have_all_ended(self) -> bool:
        self._rig.check()
        try:
            depths = self._rig.depths()
        except (httpx.TransportError, httpx.HTTPStatusError):
            return False
        return not any(count for (_, state), count in depths.items() if state not in _ENDED)

    def _examine(self, load: Load, schedule: EachSecond, fault: Fault, report: Report) -> None:
        world = self._rig.world()
        records = {task_id: rec for task_id, rec in world.records.items() if task_id not in self._earlier}
        states = Counter(rec["s"] for rec in records.values())
        # A deleted task may have been created again by its key, and begins anew.
        known = self._earlier.keys() | self._rig.deleted
        journal = [entry for entry in self._rig.journal() if entry.task_id not in known]
        taken = Counter((entry.task_id, entry.path) for entry in journal if entry.what == TAKEN)
        report.submitted = len(load.submissions)
        report.acknowledged = len(load.acknowledged)
        report.completed, report.failed = states["completed"], states["failed"]
        report.duplicates = sum(count - 1 for count in taken.values())
        kept = (task_id for task_id in load.acknowledged if task_id not in self._rig.deleted)
        report.lost = [task_id for task_id in kept if task_id not in world.records]
        report.stuck = [task_id for task_id, rec in records.items() if rec["s"] not in _ENDED]
        report.wrong += [
            *load.wrong,
            *_wrong_histories(records),
            *_early(records, load),
            *_wrong_endings(records, load, fault),
            *_sent_too_late(records, load),
            *_wrong_dispatches(journal),
            *_wrong_reports(journal, records),
            *self._changed_since(world),
            *self._wrong_results(load, records),
            *self._rig.told.wrong(records),
            *_wrong_batch(world, load, self._rig.most_behind_s),
            *(() if fault.forgets else schedule.wrong(records)),
        ]
        if not report.stuck:  # a stuck task may move on while it is counted
            report.wrong += [*_inconsistencies(world), *self._wrong_depths(world)]
        self._earlier = world.raw

    def _changed_since(self, world: World) -> Iterator[str]:
        """The finished tasks of earlier trials that this trial has changed."""
        for task_id, raw in self._earlier.items():
            if world.raw.get(task_id) != raw:
                yield f"{task_id} had ended before this trial, and was changed by it"

    def _wrong_results(self, load: Load, records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        with self._rig.client() as app:
            for submission in load.submissions:
                rec = records.get(submission.task_id or "")
                if rec is None or rec["s"] != "completed" or not submission.path.startswith(MODERN):
                    continue
                response = app.get(f"/api/v1/tasks/{submission.task_id}/result")
                if response.status_code != 200 or response.content != result_of(submission.path, submission.body):
                    yield f"the result of {submission.task_id} does not match its body ({response.status_code})"

    def _wrong_depths(self, world: World) -> Iterator[str]:
        shown = +self._rig.depths()
        counted = Counter(
            (rec["p"], "waiting" if rec["s"] == "created" else rec["s"])
            for rec in world.records.values()
            if "G" not in rec
        )
        for key in sorted(shown | counted):
            if shown[key] != counted[key]:
                path, state = key
                yield f"{path} shows {shown[key]} {state} and has {counted[key]}"


def _is_idle(usage: Usage, before: Usage) -> bool:
    return (
        usage.tasks <= before.tasks + SPARE_TASKS
        and usage.descriptors <= before.descriptors + SPARE_DESCRIPTORS
        and usage.redis_connections <= MAX_REDIS_CONNECTIONS
    )


def _wrong_histories(records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Each transition happens once per attempt, attempts only grow, and each task ends at most once."""
    for task_id, rec in records.items():
        steps = [(state, attempt) for _, state, attempt, *_ in rec["h"]]
        attempts = [attempt for _, attempt in steps]
        claimed = [attempt for state, attempt in steps if state == "dispatched"]
        endings = [index for index, (state, _) in enumerate(steps) if state in _ENDED]
        if len(set(steps)) != len(steps):
            yield f"{task_id} made a transition twice in one attempt: {steps}"
        if attempts != sorted(attempts) or claimed != sorted(set(claimed)):
            yield f"the attempts of {task_id} do not grow: {steps}"
        if endings not in ([], [len(steps) - 1]):
            yield f"{task_id} went on after its end: {steps}"


def _early(records: Mapping[str, Mapping[str, Any]], load: Load) -> Iterator[str]:
    """A task that is to start later is not dispatched before."""
    for task_id, rec in records.items():
        dispatched = [at_ms for at_ms, state, *_ in rec["h"] if state == "dispatched"]
        if "T" in rec and dispatched and dispatched[0] < rec["T"]:
            yield f"{task_id} was to start after {rec['T']} ms, and was dispatched after {dispatched[0]} ms"
    for submission in load.submissions:
        rec = records.get(submission.task_id or "")
        if rec is None or not submission.path.startswith(MODERN):
            continue
        asked_ms = None if submission.start_after is None else round(float(submission.start_after) * 1000)
        if rec.get("T") != asked_ms:
            yield f"{submission.task_id} was to start after {asked_ms} ms, and has {rec.get('T')}"


def _wrong_endings(records: Mapping[str, Mapping[str, Any]], load: Load, fault: Fault) -> Iterator[str]:
    for submission in load.submissions:
        rec = records.get(submission.task_id or "")
        if rec and rec["s"] == "completed" and rec["x"] != last_status(submission.path, submission.body):
            yield f"{submission.task_id} did not get the body that it was submitted with"
    submitted = {each.task_id: each for each in load.submissions if each.task_id}
    unanswered = [each for each in load.submissions if not each.task_id]
    for task_id, rec in records.items():
        # A task that was made, and whose caller had no answer, is one of those.
        known = [submitted[task_id]] if task_id in submitted else [one for one in unanswered if one.path == rec["p"]]
        may_fail_with = {*fault.may_fail_with, *(text for each in known for text in each.may_fail_with)}
        if rec["s"] in ("failed", "cancelled") and "G" not in rec and rec["x"] not in may_fail_with:
            yield f"{task_id} {rec['s']} for no good reason: {rec['x']}"


def _sent_too_late(records: Mapping[str, Mapping[str, Any]], load: Load) -> Iterator[str]:
    """A task that no service has had by its time is never dispatched, and one that a service has had is not ended."""
    for submission in load.submissions:
        rec = records.get(submission.task_id or "")
        if rec is None or not submission.expires or len(rec["h"]) >= HISTORY:
            continue
        was_had = False
        for (at_ms, state, *_), (_, after, _, actor, text, *_) in pairwise([*rec["h"], (0, "", 0, "", "")]):
            if state == "dispatched" and at_ms >= EXPIRES_S * 1000 and not was_had:
                yield f"{submission.task_id} was dispatched {at_ms} ms after it was created, and had expired before"
            turned_away = (after, actor) == ("created", "dispatcher") and text.startswith(status_texts.AWAITING)
            turned_away = turned_away and text != status_texts.AWAITING_RESULT
            was_had = was_had or state == "running" or (state == "dispatched" and not turned_away)
        if was_had and rec["x"] == status_texts.expired(EXPIRES_S):
            yield f"{submission.task_id} expired although a service had had it"


def _wrong_batch(world: World, load: Load, clock_error_s: int) -> Iterator[str]:
    """The batch has ended after all its children, counts each once by its end, and had one Then task after them."""
    batch = world.records.get(load.batch_id or "")
    if batch is None or batch["s"] not in _ENDED:
        return
    children = {child: known for child, known, _ in world.children_of(load.batch_id or "")}
    for submission in load.submissions:
        if submission.batch_id and submission.task_id and submission.task_id not in children:
            yield f"{submission.task_id} was acknowledged as a child and is not counted"
    for child, known in children.items():
        if child not in world.records or world.records[child]["s"] != known:
            yield f"child {child} is counted as {known}, and is not"
    belonging = {task_id for task_id, rec in world.records.items() if rec.get("B") == load.batch_id}
    then_id = then_task_id(load.batch_id or "", 1)
    if belonging != children.keys() | {then_id} or batch["G"]["g"] != 1:
        yield f"{len(belonging)} tasks belong to a batch that counts {len(children)} and had one Then task"
    elif (batch["s"] == "completed") != ({*children.values(), world.records[then_id]["s"]} == {"completed"}):
        yield f"a batch is {batch['s']} whose children are {Counter(children.values())}"
    else:
        ended_ms = max((_ended_ms(world.records[child]) for child in children), default=0)
        if world.records[then_id]["c"] + clock_error_s * 1000 < ended_ms:
            yield "the Then task began before all children had ended"


def _ended_ms(rec: Mapping[str, Any]) -> int:
    return rec["c"] + rec["h"][-1][0]


def _wrong_dispatches(journal: Iterable[Entry]) -> Iterator[str]:
    dispatched = Counter((entry.task_id, entry.attempt) for entry in journal if not entry.is_report)
    for (task_id, attempt), count in dispatched.items():
        # A call is repeated once if its kept-alive connection closes before any answer. The service may have read it.
        if count > 2:
            yield f"attempt {attempt} of {task_id} was dispatched to the backend {count} times"


def _wrong_reports(journal: Iterable[Entry], records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """An accepted report of a worker that names its attempt must have changed that attempt, and no other."""
    for entry in journal:
        rec = records.get(entry.task_id)
        if rec is None or not entry.reported or not entry.path.startswith(MODERN):
            continue
        # A next step begins the next attempt, and so does the end of a step in a pipeline.
        leads_on = entry.path.endswith(PIPED) and entry.reported == "completed"
        reported = "created" if leads_on else entry.reported
        step = reported, entry.attempt + (reported == "created")
        if len(rec["h"]) < HISTORY and step not in [(state, attempt) for _, state, attempt, *_ in rec["h"]]:
            yield f"attempt {entry.attempt} of {entry.task_id} was accepted as {entry.reported}, but never was"


def _inconsistencies(world: World) -> Iterator[str]:
    try:
        world.assert_consistent()
    except AssertionError as error:
        line = traceback.extract_tb(error.__traceback__)[-1].line
        yield f"the indexes do not agree with the records: {line}"
    for path, entries in world.waiting.items():
        yield f"{len(entries)} entries wait at {path}, and all tasks have ended"
