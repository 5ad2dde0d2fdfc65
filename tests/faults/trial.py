"""One fault against one rig: load, strike, mend, settle, and look at every task."""

from __future__ import annotations

import random
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.faults.load import Load
from tests.faults.model_service import MODERN, TAKEN, Entry, last_status, result_of
from tests.faults.rig import Rig, Usage
from tests.faults.table import Fault
from tests.shared.store.world import World
from tests.waiting import PATIENCE_S, eventually

SETTLE_S = float(PATIENCE_S)
IDLE_S = float(PATIENCE_S)
"""How long idle connections may take to be closed: aiohttp's clients keep one for 15 s."""
SPARE_DESCRIPTORS = 40
"""For a while, a pool keeps the connections of a time when there was more to do."""
SPARE_TASKS = 8
MAX_REDIS_CONNECTIONS = 72
"""Per node: the pool's 64, and those that ask a cluster who has which slots."""
HISTORY = 32
"""Of longer ones, the middle is left out."""
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
    """What became of the tasks of one trial."""

    fault: str
    seed: str
    submitted: int = 0
    acknowledged: int = 0
    completed: int = 0
    failed: int = 0
    duplicates: int = 0
    """Dispatches that the backend took beyond the first, of the same step of the same task."""
    recovery_s: float | None = None
    """From the end of the fault until every task had ended; None if they did not."""
    lost: list[str] = field(default_factory=list)
    """Acknowledged, and not known any more."""
    stuck: list[str] = field(default_factory=list)
    """Not ended ``SETTLE_S`` after the fault."""
    wrong: list[str] = field(default_factory=list)
    """All else that must not be; a sentence each."""

    @property
    def findings(self) -> list[str]:
        return (
            [f"lost: {task_id}" for task_id in self.lost]
            + [f"stuck: {task_id}" for task_id in self.stuck]
            + self.wrong
        )


class Trials:
    """Fault after fault against one rig.

    What one trial left in Redis, the next ones must not change.
    """

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._former: dict[str, bytes] = {}
        self._usage: dict[str, Usage] = {}

    def warm_up(self, seconds: float) -> None:
        """Open the connections that a working stack has, and note how many."""
        with Load(self._rig, "warm-up") as load:
            time.sleep(seconds)
            load.finish()
        eventually(self._have_all_ended, within_s=SETTLE_S)
        self._former = self._rig.world().raw
        self._usage = {name: self._rig.usage(name) for name in ("host", "event_grid")}

    def run(self, fault: Fault, seed: str, pace: Pace) -> Report:
        """
        Raises:
            LocalStackError, AssertionError: the stack itself did not do what is expected of it.
        """
        chance = random.Random(seed)
        report = Report(fault.name, seed)
        with Load(self._rig, seed) as load:
            time.sleep(chance.uniform(*pace.before_s))
            with fault.strike(self._rig, chance):
                time.sleep(chance.uniform(*pace.during_s))
            mended_s = time.monotonic()
            load.finish()
            self._settle(load, report, mended_s)
            load.stop_watching()
        self._examine(load, fault, report)
        return report

    def leaks(self) -> list[str]:
        """Which processes hold more than when all was well, although nothing is left to do; a sentence each."""
        self._rig.model.restart()  # so that the pool of connections to it is emptied
        found: list[str] = []
        for name, before in self._usage.items():
            try:
                eventually(lambda name=name, before=before: _is_idle(self._rig.usage(name), before), within_s=IDLE_S)
            except AssertionError:
                found.append(f"{name} held {before} when all was well, and now holds {self._rig.usage(name)}")
        return found

    def _settle(self, load: Load, report: Report, mended_s: float) -> None:
        while True:
            self._rig.check()
            now_s = time.monotonic()
            if self._have_all_ended():
                report.recovery_s = now_s - mended_s
                break
            if now_s > mended_s + SETTLE_S:
                break
            time.sleep(0.05)
        eventually(self._rig.model_is_idle, within_s=SETTLE_S)
        try:
            eventually(lambda: not any(self._rig.world().holding.values()), within_s=IDLE_S)
        except AssertionError:
            report.wrong.append(f"slots are held for nothing: {self._rig.world().holding}")
        with self._rig.stack.client() as app:
            for task_id in load.acknowledged:
                load.look(app, task_id)

    def _have_all_ended(self) -> bool:
        try:
            depths = self._rig.depths()
        except (httpx.TransportError, httpx.HTTPStatusError):
            return False
        return not any(count for (_, state), count in depths.items() if state not in _ENDED)

    def _examine(self, load: Load, fault: Fault, report: Report) -> None:
        world = self._rig.world()
        records = {task_id: rec for task_id, rec in world.records.items() if task_id not in self._former}
        states = Counter(rec["s"] for rec in records.values())
        journal = [entry for entry in self._rig.journal() if entry.task_id not in self._former]
        taken = Counter((entry.task_id, entry.path) for entry in journal if entry.what == TAKEN)
        report.submitted = len(load.submissions)
        report.acknowledged = len(load.acknowledged)
        report.completed, report.failed = states["completed"], states["failed"]
        report.duplicates = sum(count - 1 for count in taken.values())
        report.lost = [task_id for task_id in load.acknowledged if task_id not in world.records]
        report.stuck = [task_id for task_id, rec in records.items() if rec["s"] not in _ENDED]
        report.wrong += [
            *load.wrong,
            *_wrong_histories(records),
            *_wrong_endings(records, load, fault),
            *_wrong_dispatches(journal),
            *_wrong_reports(journal, records),
            *self._changed_since(world),
            *self._wrong_results(load, records),
        ]
        if not report.stuck:  # else it moves on while it is counted
            report.wrong += [*_inconsistencies(world), *self._wrong_depths(world)]
        self._former = world.raw

    def _changed_since(self, world: World) -> Iterator[str]:
        """What an earlier trial left behind is finished, and is to stay as it was, byte for byte."""
        for task_id, raw in self._former.items():
            if world.raw.get(task_id) != raw:
                yield f"{task_id} had ended before this trial, and was changed by it"

    def _wrong_results(self, load: Load, records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        with self._rig.stack.client() as app:
            for submission in load.submissions:
                rec = records.get(submission.task_id or "")
                if rec is None or rec["s"] != "completed" or not submission.path.startswith(MODERN):
                    continue
                response = app.get(f"/api/v1/tasks/{submission.task_id}/result")
                if response.status_code != 200 or response.content != result_of(submission.path, submission.body):
                    yield f"the result of {submission.task_id} is not what its body makes ({response.status_code})"

    def _wrong_depths(self, world: World) -> Iterator[str]:
        shown = +self._rig.depths()
        counted = Counter(
            (rec["p"], "waiting" if rec["s"] == "created" else rec["s"]) for rec in world.records.values()
        )
        for place in sorted(shown | counted):
            if shown[place] != counted[place]:
                yield f"{place[0]} shows {shown[place]} {place[1]} and has {counted[place]}"


def _is_idle(usage: Usage, before: Usage) -> bool:
    return (
        usage.tasks <= before.tasks + SPARE_TASKS
        and usage.descriptors <= before.descriptors + SPARE_DESCRIPTORS
        and usage.redis_connections <= MAX_REDIS_CONNECTIONS
    )


def _wrong_histories(records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Each transition is made once per attempt, attempts only grow, and what has ended has ended once, for good."""
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


def _wrong_endings(records: Mapping[str, Mapping[str, Any]], load: Load, fault: Fault) -> Iterator[str]:
    for submission in load.submissions:
        rec = records.get(submission.task_id or "")
        if rec and rec["s"] == "completed" and rec["x"] != last_status(submission.path, submission.body):
            yield f"{submission.task_id} did not get the body that it was submitted with"
    for task_id, rec in records.items():
        if rec["s"] in ("failed", "cancelled") and rec["x"] not in fault.may_fail_with:
            yield f"{task_id} {rec['s']} for no good reason: {rec['x']}"


def _wrong_dispatches(journal: Iterable[Entry]) -> Iterator[str]:
    handed_out = Counter((entry.task_id, entry.attempt) for entry in journal if not entry.is_report)
    for (task_id, attempt), count in handed_out.items():
        if count > 1:
            yield f"attempt {attempt} of {task_id} was handed to the backend {count} times"


def _wrong_reports(journal: Iterable[Entry], records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What was accepted from a worker that names its attempt was done in that attempt, and no other."""
    for entry in journal:
        rec = records.get(entry.task_id)
        if rec is None or not entry.reported or not entry.path.startswith(MODERN):
            continue
        # A hand-on begins the next attempt.
        step = entry.reported, entry.attempt + (entry.reported == "created")
        if len(rec["h"]) < HISTORY and step not in [(state, attempt) for _, state, attempt, *_ in rec["h"]]:
            yield f"attempt {entry.attempt} of {entry.task_id} was told that it is {entry.reported}, and it was not"


def _inconsistencies(world: World) -> Iterator[str]:
    try:
        world.assert_consistent()
    except AssertionError as error:
        line = traceback.extract_tb(error.__traceback__)[-1].line
        yield f"the indexes do not agree with the records: {line}"
    for path, turns in world.waiting.items():
        yield f"{len(turns)} wait at {path}, and all tasks have ended"
