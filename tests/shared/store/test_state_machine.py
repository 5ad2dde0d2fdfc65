"""Random interleavings of the steps of several processes on a few tasks, compared with a model."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from shared.store.callbacks import CLAIM_S, LONGEST_PAUSE_S, Settled
from shared.store.redis.partitions import HASH_TAGS, partition
from shared.tasks.callback import ENDS, WantedCallback
from shared.tasks.end_reason import EndReason
from shared.tasks.outcomes import Applied, Claimed, Created, Refused
from shared.tasks.task import Content, NewTask, PipelineStep, State, Task
from shared.tasks.timing import Moment, Timing
from tests.shared.store.conftest import POLICY, Clock, Store, store_at
from tests.shared.store.world import START_MS, Server, World

IDS = ("t1", "t2")
PATHS = ("/v1/a", "/v1/b")
LEASE_MS, WINDOW_MS, PAUSE_MS, BLOB_GRACE_MS = 60_000, 40_000, 7_000, 120_000
DEFERRED_END_MS, MOST_DOUBLINGS = 30_000, 3
STEP_GRACE_MS = 30_000
PIPELINE = (PipelineStep(PATHS[0], "", 60), PipelineStep(PATHS[1], "", 60), PipelineStep(PATHS[1], "", 60))
REPUBLISH_MS, RETENTION_MS = round(POLICY.republish_s * 1000), round(POLICY.retention_s * 1000)
WAIT_CAP_MS = 3_600_000
DAY_MS = 86_400_000
DESTINATION = "ends"
ids, paths = st.sampled_from(IDS), st.sampled_from(PATHS)
contents = st.sampled_from(
    [
        Content("text/plain", 2),
        Content("text/plain", 99_999, "blob"),
        Content("text/plain", 2**41, "u-u1?snapshot=1", "gzip", "ab" * 32),
    ]
)
attempts = st.sampled_from([0, 0, 0, 0, 0, 0, None, None, -1, 1])
"""The attempt that a caller names: none, or its distance from the current one."""


@dataclass(frozen=True)
class Model:
    """One task as the store has to keep it. ``due_ms`` are the bounds of its deadline, since some have jitter."""

    state: State
    path: str
    dispatch_requested: bool
    has_body: bool
    has_blobs: bool
    due_ms: tuple[int, int]
    attempt: int = 1
    failures: int = 0
    publishes: int = 1
    has_start: bool = False
    """Whether it was created to start later."""
    checks: int | None = None
    """How often the sweep found the task waiting; 0 during a pause apart from its queue."""
    fresh: bool = True
    is_accepted: bool = False
    is_handed_on: bool = False
    """Whether a report without an attempt may be the previous step's."""
    ending: State | None = None
    """The end that takes effect if no report follows."""
    doublings: int = 0
    """How often the lease is doubled."""
    step: int = 0
    steps: int = 0
    sent_on: frozenset[int] = frozenset()
    """The attempts whose report, without a result, has led to the next step."""
    is_told: bool = False
    """Whether its destination is to be told how it ends."""
    untold_ms: int | None = None
    """Since when it is to be told of an end, until it is."""
    quiet_ms: int = 0
    """Until when it is not tried again."""
    expires_ms: int | None = None
    """When it ends unless a backend has had it."""
    max_run_ms: int | None = None
    began_ms: int | None = None
    """When its present attempt began to run, or the last one did."""

    @property
    def is_delayed(self) -> bool:
        return self.has_start and self.state is State.CREATED and (self.attempt, self.checks) == (1, 0)

    @property
    def goes_on(self) -> bool:
        return self.step < self.steps

    def next_step(self, now_ms: int, path: str, attempt: int | None, **change: Any) -> Model:
        """The task at the end of the queue of *path*, to which a step that speaks for *attempt* has sent it."""
        return self.moved_to(
            State.CREATED,
            now_ms,
            REPUBLISH_MS,
            **{
                "path": path,
                "dispatch_requested": True,
                "has_body": True,
                "attempt": self.attempt + 1,
                "failures": 0,
                "publishes": 1,
                "checks": None,
                "ending": None,
                "is_handed_on": attempt is None,
                "doublings": 0,
                "expires_ms": None,
                **change,
            },
        )

    def went_on(self, now_ms: int, attempt: int | None) -> Model:
        """The task in the next step of its pipeline."""
        sent_on = self.sent_on if attempt is None else self.sent_on | {attempt}
        return self.next_step(now_ms, PIPELINE[self.step].path, attempt, step=self.step + 1, sent_on=sent_on)

    def is_over(self, now_ms: int) -> bool:
        """Whether its time is over to wait for a backend, or to run."""
        if self.state is State.CREATED:
            return self.expires_ms is not None and self.expires_ms <= now_ms
        is_running = self.max_run_ms is not None and self.began_ms is not None
        return is_running and self.began_ms + self.max_run_ms <= now_ms

    def bounded(self) -> Model:
        """The task with a deadline that is not later than the end of its time."""
        end_ms = self.expires_ms if self.state is State.CREATED else None
        if (
            self.state in (State.DISPATCHED, State.RUNNING)
            and self.max_run_ms is not None
            and self.began_ms is not None
        ):
            end_ms = self.began_ms + self.max_run_ms
        return (
            self
            if end_ms is None
            else replace(self, due_ms=(min(self.due_ms[0], end_ms), min(self.due_ms[1], end_ms)))
        )

    def refusal(self, attempt: int | None, *, dispatch: bool = False, ask_body: bool = False) -> str | None:
        if attempt is not None and attempt != self.attempt:
            return "stale"
        if self.state.is_terminal:
            return "finished"
        if dispatch and self.state is not State.DISPATCHED:
            return "state"
        return "bodiless" if ask_body and not self.has_body else None

    def moved_to(self, state: State, now_ms: int, in_ms: int | None = None, **change: Any) -> Model:
        """The task in *state*, with the deadline of that state unless *in_ms* gives another."""
        if state is not State.CREATED:
            change = {"expires_ms": None, **change}
        moved = replace(self, state=state, fresh=False, **{"is_accepted": False, **change})
        if (self.state, state) == (State.CREATED, State.RUNNING) and self.dispatch_requested and self.max_run_ms:
            moved = replace(moved, began_ms=now_ms)
        if state.is_terminal:
            moved, in_ms = replace(moved, ending=None, untold_ms=now_ms if self.is_told else None), RETENTION_MS
        elif in_ms is None and moved.ending:
            in_ms = DEFERRED_END_MS
        elif in_ms is None and not self.dispatch_requested:
            in_ms = RETENTION_MS
        elif in_ms is None and state is not State.CREATED:
            in_ms, moved = self._lease_ms(now_ms, moved)
        return moved if in_ms is None else replace(moved, due_ms=(now_ms + in_ms, now_ms + in_ms)).bounded()

    def _lease_ms(self, now_ms: int, moved: Model) -> tuple[int, Model]:
        if self.state is State.DISPATCHED and not self.is_accepted:
            return LEASE_MS * 2**self.doublings, moved
        granted_ms = self.due_ms[0] - now_ms
        if self.doublings and granted_ms > LEASE_MS:
            return granted_ms, moved
        return LEASE_MS, replace(moved, doublings=0)

    def heard(self, attempt: int | None) -> Model:
        """The task after a client's step, which speaks for *attempt*."""
        is_step_heard = attempt is not None or self.state in (State.DISPATCHED, State.RUNNING)
        return replace(self, ending=None, is_handed_on=self.is_handed_on and not is_step_heard)

    def reported(
        self, now_ms: int, attempt: int | None, state: State | None, told: State | None, path: str | None
    ) -> Model:
        """The task after a report."""
        ends = told or (state if state and state.is_terminal else None)
        if attempt is None and self.is_handed_on and (self.state is State.CREATED or ends):
            kept = replace(self, ending=None if self.state is State.CREATED else ends, fresh=False)
            due_ms = now_ms + DEFERRED_END_MS
            return replace(kept, due_ms=(due_ms, due_ms)).bounded() if kept.ending and self.is_accepted else kept
        to = State.RUNNING if told else state or self.state
        if to is State.COMPLETED and self.goes_on:
            return self.went_on(now_ms, attempt)
        is_accepted = self.is_accepted and to is State.DISPATCHED
        heard = self.heard(attempt)
        return heard.moved_to(to, now_ms, path=path or self.path, ending=told, is_accepted=is_accepted)

    def swept(self, now_ms: int, fenced: set[str]) -> tuple[str, Model | None]:
        """What a sweep does with an overdue task."""
        if self.state.is_terminal and self.untold_ms is not None and now_ms < self.untold_ms + DAY_MS:
            return "kept", replace(self, due_ms=(self.untold_ms + DAY_MS, self.untold_ms + DAY_MS))
        if self.state.is_terminal:
            later = replace(self, due_ms=(now_ms + BLOB_GRACE_MS, now_ms + BLOB_GRACE_MS))
            return ("blobs", later) if self.has_blobs else ("purged", None)
        if self.ending and (self.state is not State.DISPATCHED or self.is_accepted):
            if self.ending is State.COMPLETED and self.goes_on:
                return "next step", replace(self, due_ms=(now_ms + STEP_GRACE_MS, now_ms + STEP_GRACE_MS))
            return "ended", self.moved_to(self.ending, now_ms)
        if self.state is State.CREATED and self.dispatch_requested:
            if self.is_over(now_ms):
                return "failed", self.moved_to(State.FAILED, now_ms)
            return "starts" if self.is_delayed else "waits", self.after_check(now_ms)
        failed = replace(self, failures=self.failures + 1, ending=None, expires_ms=None)
        if not self.dispatch_requested or failed.failures >= POLICY.max_attempts:
            return "failed", failed.moved_to(State.FAILED, now_ms)
        if self.is_accepted or self.state is State.RUNNING:
            failed = replace(failed, is_handed_on=self.is_handed_on and not self.is_accepted)
            if not self.is_over(now_ms):
                doublings = 0 if self.path in fenced else min(self.doublings + 1, MOST_DOUBLINGS)
                failed = replace(failed, doublings=doublings)
        retried = failed.moved_to(State.CREATED, now_ms, attempt=self.attempt + 1, publishes=0, checks=None)
        return "retry", retried.after_check(now_ms)

    def after_check(self, now_ms: int) -> Model:
        checks = (self.checks or 0) + 1
        full_ms = min(WAIT_CAP_MS, REPUBLISH_MS * 2 ** (checks - 1))
        return replace(self, checks=checks, due_ms=(now_ms + full_ms // 2, now_ms + full_ms)).bounded()

    def checked(self, path: str, attempt: int, now_ms: int) -> tuple[str | None, Model]:
        """What the check of a slot finds."""
        if self.path != path or self.attempt != attempt or self.state.is_terminal or self.is_delayed:
            return "gone", self
        if self.state is not State.CREATED:
            return None, self
        if self.publishes >= POLICY.max_attempts:
            return "failed", self.moved_to(State.FAILED, now_ms)
        return "publish", replace(self, publishes=self.publishes + 1)


class StoreMachine(RuleBasedStateMachine):
    """Each step is sent once or, as after a lost answer, twice. The invariants are the same."""

    claims = Bundle("claims")

    def __init__(self, server: Server, runner: asyncio.Runner, once: Store, twice: Store, clock: Clock) -> None:
        super().__init__()
        self.server, self.runner, self.stores, self.clock = server, runner, (once, twice), clock
        self.models: dict[str, Model] = {}
        self.ended: dict[str, tuple[int, bytes]] = {}
        self.fenced: set[str] = set()

    @initialize()
    def start(self) -> None:
        self.server.flush()
        self.clock.ms = START_MS
        for task_id in IDS:
            is_piped = task_id == IDS[0]
            self.create(False, task_id, PATHS[0], True, Content("text/plain", 2), State.CREATED, is_piped, True)

    @property
    def now_ms(self) -> int:
        return self.clock.ms - START_MS

    def run(self, step: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(step)

    def expect(self, task_id: str, outcome: object, refusal: str | None, after: Model | None) -> None:
        """Check that a step was refused for *refusal*, or led to *after*."""
        if refusal:
            assert isinstance(outcome, Refused)
            assert outcome.reason == refusal
            return
        assert isinstance(outcome, (Applied, Claimed))
        assert after
        before, self.models[task_id] = self.models[task_id], after
        if isinstance(outcome, Applied):
            is_moved = (before.state, before.path, before.attempt) != (after.state, after.path, after.attempt)
            assert outcome.is_transition == is_moved

    def with_attempt(self, task_id: str, attempt: int | None) -> tuple[Model | None, int | None]:
        model = self.models.get(task_id)
        return model, None if attempt is None else (model.attempt if model else 1) + attempt

    @rule(
        twice=st.booleans(),
        task_id=ids,
        path=paths,
        dispatch_requested=st.booleans(),
        body=st.none() | contents,
        state=st.sampled_from(State),
        is_piped=st.booleans(),
        is_told=st.booleans(),
        delay_ms=st.sampled_from([None, None, 0, 7_000, 90_000]),
        is_relative=st.booleans(),
        start_before_ms=st.sampled_from([None, None, 5_000, 45_000]),
        max_run_ms=st.sampled_from([None, None, 20_000, 90_000]),
    )
    def create(
        self,
        twice: bool,
        task_id: str,
        path: str,
        dispatch_requested: bool,
        body: Content | None,
        state: State,
        is_piped: bool,
        is_told: bool,
        delay_ms: int | None = None,
        is_relative: bool = False,
        start_before_ms: int | None = None,
        max_run_ms: int | None = None,
    ) -> None:
        dispatch_requested = dispatch_requested and body is not None
        delay_ms = delay_ms if dispatch_requested else None
        steps = PIPELINE if is_piped and dispatch_requested else ()
        path = steps[0].path if steps else path
        state = State.CREATED if dispatch_requested else state
        # One that has ended from the begin is told of once somebody looks after it.
        is_told = is_told and not state.is_terminal
        ahead_ms = delay_ms or 0
        start = Moment("create", ahead_ms) if is_relative else Moment("epoch", self.clock.ms + ahead_ms)
        new = NewTask(
            task_id,
            path,
            LEASE_MS / 1000,
            state=state,
            dispatch_requested=dispatch_requested,
            body=body,
            inline_body=b"hi",
            steps=steps,
            pipeline="/v1/whole" if steps and task_id == IDS[0] else "",
            callback=WantedCallback(DESTINATION, ENDS) if is_told else None,
            timing=Timing(
                None if delay_ms is None else start,
                None if start_before_ms is None else Moment("create", start_before_ms),
                max_run_ms,
            ),
        )
        outcome = self.run(self.stores[twice].create(new))
        assert isinstance(outcome, Created) == (task_id not in self.models)
        default_ms = REPUBLISH_MS if dispatch_requested else RETENTION_MS
        due_ms = self.now_ms + (default_ms if delay_ms is None else delay_ms)
        blobs = body is not None and body.blob is not None
        if task_id in self.models:  # a second create has found it, so it cannot be withdrawn any more
            self.models[task_id] = replace(self.models[task_id], fresh=False)
        else:
            self.models[task_id] = Model(
                state,
                path,
                dispatch_requested,
                body is not None,
                blobs,
                (due_ms, due_ms),
                publishes=int(dispatch_requested),
                step=int(bool(steps)),
                steps=len(steps),
                is_told=is_told,
                has_start=delay_ms is not None,
                checks=None if delay_ms is None else 0,
                expires_ms=self.now_ms + start_before_ms if start_before_ms and dispatch_requested else None,
                max_run_ms=max_run_ms,
            ).bounded()

    @rule(target=claims, twice=st.booleans(), task_id=ids, attempt=attempts)
    def claim(self, twice: bool, task_id: str, attempt: int | None) -> Any:
        model, named = self.with_attempt(task_id, attempt)
        outcome = self.run(self.stores[twice].claim(task_id, named))
        refusal = model.refusal(named) if model else "unknown"
        if model and not refusal:
            refusal = "state"
            if model.state is State.CREATED and model.is_over(self.now_ms):
                refusal = "expired"
            elif model.state is State.CREATED and not model.is_delayed:
                refusal = model.refusal(named, ask_body=True)
        claimed = model and model.moved_to(
            State.DISPATCHED,
            self.now_ms,
            WINDOW_MS,
            dispatch_requested=True,
            expires_ms=model.expires_ms,
            began_ms=self.now_ms,
        )
        self.expect(task_id, outcome, refusal, claimed)
        return outcome.task if isinstance(outcome, Claimed) else multiple()

    @rule(
        twice=st.booleans(),
        task=consumes(claims),
        answer=st.sampled_from(["accepted", "busy", "apart", "retry", "failed"]),
    )
    def record(self, twice: bool, task: Task, answer: str) -> None:
        """A dispatcher records the answer of the backend, at once or long after the attempt was over."""
        store, model, now_ms = self.stores[twice], self.models.get(task.id), self.now_ms
        refusal = model.refusal(task.attempt, dispatch=True) if model else "unknown"
        after: Model | None = None
        if answer == "accepted":
            outcome = self.run(store.accepted(task))
            after = model and model.moved_to(State.DISPATCHED, now_ms, is_accepted=True)
        elif answer == "failed":
            outcome = self.run(store.fail_dispatch(task, status="Failed", reason=EndReason.REJECTED))
            after = model and model.moved_to(State.FAILED, now_ms, failures=model.failures + 1)
        else:
            failed = answer == "retry"
            apart_s = None if answer == "busy" else PAUSE_MS / 1000
            outcome = self.run(store.requeue(task, status=answer, apart_s=apart_s, failed=failed))
            after = model and model.moved_to(
                State.CREATED,
                now_ms,
                REPUBLISH_MS if answer == "busy" else PAUSE_MS,
                attempt=model.attempt + 1,
                failures=model.failures + failed,
                publishes=0,
                checks=None if answer == "busy" else 0,
                ending=None,
                expires_ms=None if failed else model.expires_ms,
            )
        self.expect(task.id, outcome, refusal, after)

    @rule(
        twice=st.booleans(),
        task_id=ids,
        attempt=attempts,
        state=st.sampled_from([None, State.RUNNING]),
        told=st.sampled_from([None, None, State.COMPLETED, State.FAILED]),
        path=st.none() | paths,
    )
    def update(
        self,
        twice: bool,
        task_id: str,
        attempt: int | None,
        state: State | None,
        told: State | None,
        path: str | None,
    ) -> None:
        model, named = self.with_attempt(task_id, attempt)
        told = told if named is None else None
        store = self.stores[twice]
        outcome = self.run(store.update(task_id, state=state, status=None, attempt=named, told=told, path=path))
        if model and told and model.state is told:
            assert isinstance(outcome, Applied)
            assert not outcome.is_transition
            return
        after = model and model.reported(self.now_ms, named, state, told, path)
        self.expect(task_id, outcome, model.refusal(named) if model else "unknown", after)

    @rule(
        twice=st.booleans(),
        task_id=ids,
        attempt=attempts,
        state=st.sampled_from([State.COMPLETED, State.FAILED, State.CANCELLED]),
    )
    def end(self, twice: bool, task_id: str, attempt: int | None, state: State) -> None:
        model, named = self.with_attempt(task_id, attempt)
        outcome = self.run(self.stores[twice].update(task_id, state=state, status=None, attempt=named))
        refusal = model.refusal(named) if model else "unknown"
        is_repeated = model and refusal == "stale" and state is State.COMPLETED and named in model.sent_on
        if is_repeated or (model and refusal == "finished" and state is model.state):
            assert isinstance(outcome, Applied)
            assert not outcome.is_transition
            return
        after = model and model.reported(self.now_ms, named, state, None, None)
        self.expect(task_id, outcome, refusal, after)

    @rule(twice=st.booleans(), task_id=ids, attempt=attempts, path=paths, body=st.none() | contents)
    def next_step(self, twice: bool, task_id: str, attempt: int | None, path: str, body: Content | None) -> None:
        model, named = self.with_attempt(task_id, attempt)
        outcome = self.run(
            self.stores[twice].next_step(
                task_id, status="next step", attempt=named, path=path, body=body, inline_body=b"ho" if body else b""
            )
        )
        has_blobs = model and (model.has_blobs or bool(body and body.blob))
        after = model and model.next_step(self.now_ms, path, named, has_blobs=has_blobs)
        self.expect(task_id, outcome, model.refusal(named, ask_body=not body) if model else "unknown", after)

    @rule(twice=st.booleans(), task_id=ids)
    def end_step(self, twice: bool, task_id: str) -> None:
        """A deferred end takes effect and leads to the next step of the pipeline."""
        model = self.models.get(task_id)
        if not model or not model.goes_on or model.state.is_terminal:
            return
        outcome = self.run(self.stores[twice].end_step(task_id))
        is_due = model.state is not State.CREATED and model.ending is State.COMPLETED
        self.expect(task_id, outcome, None if is_due else "state", model.went_on(self.now_ms, None))

    @rule(twice=st.booleans(), task_id=ids, attempt=attempts, result=contents)
    def put_result(self, twice: bool, task_id: str, attempt: int | None, result: Content) -> None:
        model, named = self.with_attempt(task_id, attempt)
        outcome = self.run(self.stores[twice].put_result(task_id, result, b"ok", attempt=named))
        after = model and model.heard(named).moved_to(
            model.state,
            self.now_ms,
            has_blobs=model.has_blobs or result.blob is not None,
            is_accepted=model.is_accepted,
        )
        self.expect(task_id, outcome, model.refusal(named) if model else "unknown", after)

    @rule(
        twice=st.sampled_from([False, False, True]),
        task_id=ids,
        purge=st.booleans(),
        late_ms=st.sampled_from([0, 999, 0, 999, -1, None]),
    )
    def sweep(self, twice: bool, task_id: str, purge: bool, late_ms: int | None) -> None:
        """A reconciler sweeps a task's partition, now or after its deadline. It may die before it deletes the
        blobs, or lose the answer."""
        if late_ms is not None and task_id in self.models:
            self.clock.ms += max(0, self.models[task_id].due_ms[0] - self.now_ms + late_ms)
        overdue = self.run(self.stores[twice].sweep(partition(task_id), {}))
        done = {
            id_: model.swept(self.now_ms, self.fenced)
            for id_, model in self.models.items()
            if partition(id_) == partition(task_id) and model.due_ms[0] <= self.now_ms
        }
        assert {item.id: item.what for item in overdue} == (
            {} if twice else {k: what for k, (what, _) in done.items() if what != "kept"}
        )
        for id_, (what, after) in done.items():
            if after is None:
                self.drop(id_)
            else:
                self.models[id_] = after
            if what == "blobs" and purge:
                assert self.run(self.stores[0].purge([id_])) == 1
                self.drop(id_)

    @rule(
        twice=st.booleans(), task_id=ids, path=paths, attempt=st.sampled_from([0, 0, 0, -1, 1]), often=st.booleans()
    )
    def check(self, twice: bool, task_id: str, path: str, attempt: int, often: bool) -> None:
        """A slot that was held for long is checked, once or up to the limit of attempts."""
        for _ in range(POLICY.max_attempts if often else 1):
            model, named = self.with_attempt(task_id, attempt)
            checked = self.run(self.stores[twice].check_slots(path, [(task_id, named or 0)]))
            what, after = model.checked(path, named or 0, self.now_ms) if model else ("gone", None)
            assert [(item.what, item.id, item.attempt) for item in checked] == [(what, task_id, named)] * bool(what)
            if after:
                self.models[task_id] = after

    @rule(
        twice=st.sampled_from([False, False, True]), task_id=ids, late_ms=st.sampled_from([0, 999, 0, 999, -1, None])
    )
    def start_due(self, twice: bool, task_id: str, late_ms: int | None) -> None:
        """A process wakes at the start of a task, just before it, or for nothing."""
        if late_ms is not None and task_id in self.models:
            self.clock.ms += max(0, self.models[task_id].due_ms[0] - self.now_ms + late_ms)
        started = self.run(self.stores[twice].starts.start_due(partition(task_id)))
        due = {
            id_
            for id_, model in self.models.items()
            if partition(id_) == partition(task_id) and model.is_delayed and model.due_ms[0] <= self.now_ms
        }
        assert {task.id for task in started.tasks} == (set() if twice else due)
        for id_ in due:
            self.models[id_] = self.models[id_].after_check(self.now_ms)

    @rule(twice=st.booleans(), task_id=ids)
    def withdraw(self, twice: bool, task_id: str) -> None:
        """A queue refuses a task, which is withdrawn if it has not changed."""
        self.run(self.stores[twice].withdraw(task_id))
        model = self.models.get(task_id)
        if model and model.state is State.CREATED and model.fresh:
            self.drop(task_id)

    @rule(twice=st.booleans(), task_id=ids, answer=st.sampled_from(["delivered", "gone", "retry", "lost"]))
    def tell(self, twice: bool, task_id: str, answer: Settled | Literal["lost"]) -> None:
        """A process tells the destination of a task's end, and records the answer, or dies before it does."""
        store, model = self.stores[twice].callbacks, self.models.get(task_id)
        claimed, _ = self.run(store.claim(DESTINATION, task_id))
        is_due = model is not None and model.untold_ms is not None and model.quiet_ms <= self.now_ms
        if model is None or not is_due or self.now_ms >= (model.untold_ms or 0) + DAY_MS:
            assert claimed is None
            if model is not None and is_due:  # it was given up
                self.models[task_id] = replace(model, untold_ms=None)
                self.ended.pop(task_id, None)
            return
        assert claimed is not None
        assert claimed.message.event == model.state
        self.ended.pop(task_id, None)
        if answer == "lost":
            self.models[task_id] = replace(model, quiet_ms=self.now_ms + round(CLAIM_S * 1000))
            return
        in_s = self.run(store.record(claimed, answer, "200"))
        if answer == "retry":
            assert 0 < in_s <= LONGEST_PAUSE_S
            self.models[task_id] = replace(model, quiet_ms=self.now_ms + round(in_s * 1000))
        else:
            assert in_s is None
            self.models[task_id] = replace(model, untold_ms=None)

    @rule()
    def look(self) -> None:
        """A round finds what is due, and changes nothing."""
        found = self.run(self.stores[0].callbacks.look_everywhere([DESTINATION]))
        due = {
            partition(id_)
            for id_, model in self.models.items()
            if model.untold_ms is not None and model.quiet_ms <= self.now_ms
        }
        assert found.get(DESTINATION, set()) == due

    @rule(path=paths)
    def note(self, path: str) -> None:
        """A service names its attempt, or sends a heartbeat."""
        for tag in HASH_TAGS:
            self.run(self.stores[0].link.script("task/note_fenced", tag, str(self.clock.ms), path, "1000000000"))
        self.fenced.add(path)

    @rule(seconds=st.sampled_from([1, 7, 60]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    def drop(self, task_id: str) -> None:
        del self.models[task_id]
        self.ended.pop(task_id, None)

    @invariant()
    def redis_holds_what_the_models_say(self) -> None:
        world = World(self.server)
        world.assert_consistent()
        assert world.records.keys() == self.models.keys()
        for task_id, model in self.models.items():
            rec, due_ms = world.records[task_id], round(world.due_s[task_id] * 1000)
            assert (rec["s"], rec["p"], rec["w"]) == (model.state, model.path, model.dispatch_requested)
            assert (rec["a"], rec["f"], rec["n"]) == (model.attempt, model.failures, model.publishes)
            assert ("b" in rec, rec.get("g", False)) == (model.has_body, model.has_blobs)
            assert rec.get("z") == model.checks
            assert rec["c"] + rec["V"] - START_MS == model.expires_ms if "V" in rec else model.expires_ms is None
            assert rec.get("N", [0, 0])[:2] == [model.step, model.steps]
            if not model.state.is_terminal:
                marks = rec.get("A", False), rec.get("H", False), rec.get("L", 0), rec.get("E", [None])[0]
                assert marks == (model.is_accepted, model.is_handed_on, model.doublings, model.ending)
            assert model.due_ms[0] <= due_ms <= model.due_ms[1]
            self.models[task_id] = replace(model, due_ms=(due_ms, due_ms))
            if model.state.is_terminal:
                assert self.ended.setdefault(task_id, (rec["v"], world.raw[task_id])) == (
                    rec["v"],
                    world.raw[task_id],
                )

    @invariant()
    def the_depths_are_those_of_the_models(self) -> None:
        depths = self.run(self.stores[0].queries.depths())
        counts = Counter(
            (model.path, "delayed" if model.is_delayed else model.state.value) for model in self.models.values()
        )
        states = (*(state.value for state in State), "delayed")
        shown = {(path, state): getattr(depth, state) for path, depth in depths.items() for state in states}
        assert {key: count for key, count in shown.items() if count} == counts
        assert depths.keys() == {model.path for model in self.models.values()}


def test_the_store_behaves_like_the_model(redis_server: Server) -> None:
    clock = Clock()
    with asyncio.Runner() as runner:
        once = store_at(redis_server.url, POLICY, clock)
        twice = store_at(redis_server.url, POLICY, clock, repeating=True)
        try:
            run_state_machine_as_test(
                cast("Any", partial(StoreMachine, redis_server, runner, once, twice, clock)),
                settings=settings(
                    max_examples=100,
                    stateful_step_count=30,
                    deadline=None,
                    suppress_health_check=[HealthCheck.too_slow],
                ),
            )
        finally:
            for store in (once, twice):
                runner.run(store.aclose())
