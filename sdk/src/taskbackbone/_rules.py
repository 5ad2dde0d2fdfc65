"""The rules of ``docs/model-services.md``, and how a played backbone finds out whether a model service keeps them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Callable
from urllib.parse import unquote

from ._dispatch import Answer
from ._played import Problem
from ._played_api import Call
from .testing import PlayedBackbone, PlayedTask

UNSEEN, RIGHT, ADVICE, WRONG = VERDICTS = ("not seen", "right", "advice", "wrong")
RULES = {
    "accepts": ("accepts a task at once, and works afterwards", 1),
    "answers": ("answers with the result only beside X-Task-Complete", 1),
    "full": ("answers 503 or 429 when it is full", 2),
    "told": ("tells slots and instance that make sense", 2),
    "bad": ("answers 4xx to what can never work, or fails the task", 3),
    "reports": ("reports how the task has ended", 4),
    "attempt": ("sends its attempt with each call", 4),
    "lease": ("says something at least once a lease", 4),
    "result": ("stores the result before it reports the end", 5),
    "slot": ("frees the slot before it reports the end", 6),
    "stops": ("stops on a 409", 7),
    "repeats": ("repeats a call that got 429, 5xx or no answer", 7),
    "size": ("sends no body that is too large, and none in chunks", 8),
    "gives back": ("gives back what it cannot finish", 9),
    "twice": ("does not run an attempt twice", 10),
    "newer": ("takes a newer attempt beside an older one", 10),
}
"""By their names: what a service does that keeps the rule, and the number of the section that has it."""

_MOST_SLOTS = 64
_QUIET_S = 2.0
_STRAGGLER_S = 0.3
"""For how long something may come after an end."""
_SLOWER = "Give slower work with --slow"


@dataclass(frozen=True)
class Work:
    """A body for the model service."""

    body: bytes
    content_type: str
    query: str = ""


@dataclass
class Case:
    """What the rules are tried with.

    Attributes:
        slow: what takes the model a while.
        bad: what the model can never do.
        large: what has a result that is too large; None: that is not tried.
        pid: of the service's process, which is ended last; 0: that is not tried.
        patience_s: for how long an end is awaited.
    """

    path: str
    good: Work
    slow: Work
    bad: Work
    large: Work | None = None
    pid: int = 0
    process: subprocess.Popen[bytes] | None = None
    patience_s: float = 60.0


class _Hold:
    """Answers a service late, so that even the quickest task is at work when something happens to it.

    ``began`` is set with the first call, and none is answered before ``over`` is set, or a moment is past.
    """

    def __init__(self, backbone: PlayedBackbone) -> None:
        self.began, self.over, self._backbone = threading.Event(), threading.Event(), backbone

    def __call__(self, call: Call) -> None:
        if call.method == "GET" or self.over.is_set():
            return
        self.began.set()
        with self._backbone.changed:
            self._backbone.changed.notify_all()
        self.over.wait(_QUIET_S)


@dataclass
class Trial:
    """One service on trial. *backbone* dispatches nothing by itself, and its clock runs.

    ``findings`` has the verdict on each rule, and why.
    """

    backbone: PlayedBackbone
    case: Case
    progress: Callable[[str], None] = lambda text: None
    findings: dict[str, tuple[str, str]] = field(default_factory=lambda: dict.fromkeys(RULES, (UNSEEN, "")))
    _sent_s: float = 0.0
    _usual_end: str = ""

    def run(self, only: Sequence[str] = ()) -> dict[str, tuple[str, str]]:
        """Try all rules, or *only* some; what is seen of others on the way is told too."""
        trials = {
            "repeats": self._faults,
            "bad": self._bad_input,
            "full": self._fill,
            "slot": self._fill,
            "twice": self._twice,
            "newer": self._newer_attempt,
            "stops": self._cancel,
            "size": self._too_large,
            "gives back": self._end_of_the_process,
        }
        if self._first_task():
            for trial in dict.fromkeys(trials[rule] for rule in only or trials if rule in trials):
                self.backbone.fault, self.backbone.on_applied = None, lambda call: None
                self.progress(trial.__name__.replace("_", " ").strip())
                trial()
        self._look_at_all_calls()
        self._look_at_what_is_told()
        return self.findings

    def _say(self, rule: str, verdict: str, text: str, *, is_cause: bool = False) -> None:
        """Note a finding, unless the rule has a graver one, or one as grave that this is not the cause of."""
        before, why = self.findings[rule]
        if not why or VERDICTS.index(verdict) + is_cause > VERDICTS.index(before):
            self.findings[rule] = verdict, text

    def _first_task(self) -> bool:
        """Whether the service does anything at all."""
        task, self._sent_s = self._submit(self.case.good), time.monotonic()
        answer = self.backbone.dispatch(task)
        took = f"{answer.status} after {_ms(answer.took_s)}"
        patience = f"within {self.case.patience_s:g} s"
        if not answer.is_taken:
            self._say("accepts", WRONG, f"it {answer.reason}")
            return False
        if answer.meaning == "completed":
            text = answer.headers["x-task-complete"]
            is_right = "\ufffd" not in unquote(text)
            verdict, how = (RIGHT, "bytes with") if is_right else (WRONG, "bytes, and no percent-encoded UTF-8 in")
            self._say("answers", verdict, f"{len(answer.body)} {how} X-Task-Complete")
        elif task.is_done:
            self._say("accepts", ADVICE, f"{took}, when the work was done")
        self._say("accepts", RIGHT, took)
        if not self._ends(task):
            self._say("reports", WRONG, f"no end came {patience}, but {_named(task.calls)}")
            if answer.body and not task.calls:
                self._say("answers", WRONG, f"{len(answer.body)} bytes that nobody reads, without X-Task-Complete")
            return False
        self._waits(lambda: False, _STRAGGLER_S)
        ends = [call.at_s for call in task.calls if call.ends]
        how = f"{_ms(ends[-1] - self._sent_s)} after the dispatch" if ends else "by its answer"
        self._say("reports", RIGHT, f"{task.state} {how}")
        self._usual_end = task.deferred or task.state
        if not task.has_ended:
            self._say("reports", ADVICE, "only the text tells the end. Send BackendStatus")
        return True

    def _faults(self) -> None:
        for fault, what in ((500, "500"), (429, "429"), (0, "no answer")):
            failed: set[tuple[str, str]] = set()

            def once(call: Call, fault: int = fault, failed: set[tuple[str, str]] = failed) -> int | None:
                name = (call.method, call.path)
                if call.method == "GET" or call.path.endswith(("heartbeat", "heartbeats")) or name in failed:
                    return None
                failed.add(name)
                return fault

            self.backbone.fault = once
            task = self._dispatched(self.case.good)
            has_ended = task is not None and self._ends(task)
            if task is None or not failed:
                return self._say("repeats", UNSEEN, "it takes no task, or calls nobody")
            if not has_ended or (task.deferred or task.state) != self._usual_end:
                return self._say("repeats", WRONG, f"it gave up after {what}")
        return self._say("repeats", RIGHT, "after 500, 429 and no answer")

    def _bad_input(self) -> None:
        task = self._submit(self.case.bad)
        answer = self._deliver(task)
        did = f"it {answer.reason[:120]}"
        if answer.meaning == "rejected":
            self._say("bad", RIGHT, did)
        elif not answer.is_taken:
            self._say("bad", UNSEEN if answer.meaning == "busy" else WRONG, f"{did}: the backbone tries again")
        elif not self._ends(task):
            self._say("bad", WRONG, "no end came")
        elif "failed" in (task.state, task.deferred):
            self._say("bad", RIGHT, f"it failed the task: {task.status[:80]!r}")
        else:
            self._say("bad", UNSEEN, "it completed it. Give another with --bad")

    def _fill(self) -> None:
        """Give it tasks until it refuses, and then one more at the moment at which one ends."""
        held: list[PlayedTask] = []
        after_end: list[Answer] = []
        is_full, one_end = False, threading.Lock()

        def hold(call: Call) -> None:
            """A service that waits for its answers keeps its slots meanwhile."""
            if call.method != "GET":
                self._waits(lambda: is_full, _QUIET_S)

        def next_one(call: Call) -> None:
            with one_end:  # another end would free another slot
                if is_full and not after_end and self._is_end(call):
                    after_end.append(self.backbone.dispatch(held[-1]))

        self.backbone.fault, self.backbone.on_applied = hold, next_one
        answer = Answer("accepted")
        while answer.is_taken and len(held) < _MOST_SLOTS:
            held.append(self._submit(self.case.slow))
            answer = self.backbone.dispatch(held[-1])
        at_work = sum(not task.is_done for task in held[:-1])
        is_full = True
        if answer.is_taken:
            self._say("full", UNSEEN, f"it took {len(held)} tasks. {_SLOWER}")
        elif answer.meaning == "busy":
            self._say("full", RIGHT, f"{answer.status} to the task after {at_work}")
            told = list(self.backbone.slots.values())
            if len(told) == 1 and told[0] > at_work:
                self._say("told", WRONG, f"it told {told[0]} slots, and refused a task while it had {at_work}")
            self._waits(lambda: after_end, self.case.patience_s)
            after = "another task when it reported an end"
            if not after_end:
                self._say("slot", UNSEEN, "no task ended then")
            elif after_end[0].is_taken:
                self._say("slot", RIGHT, f"it accepted {after}")
            else:
                self._say("slot", WRONG, f"it refused {after}")
        else:
            self._say("full", WRONG, f"with {at_work} tasks it {answer.reason[:120]}")
        for task in held:
            if not task.has_ended:
                _cancel(task)

    def _twice(self) -> None:
        task = self._dispatched(self.case.slow)
        if task is None or task.answers[-1].meaning == "completed":
            return self._say("twice", UNSEEN, "no task was at work")
        answer = task.dispatch_again()
        if not answer.is_taken:
            self._say("twice", WRONG, f"it {answer.reason[:80]} when the attempt came again, and so loses it")
        if not self._ends(task):
            verdict, text = (
                (UNSEEN, "the lease ended first") if task.failures else (WRONG, "the task has no end then")
            )
            return self._say("twice", verdict, text)
        if self._waits(lambda: self._surplus(task), time.monotonic() - self._sent_s + _QUIET_S):
            return self._say("twice", WRONG, f"{_named(self._surplus(task))} came again: it ran twice")
        return self._say("twice", RIGHT, f"{answer.status} to the second, and one end")

    def _newer_attempt(self) -> None:
        hold = self._hold()
        task = self._dispatched(self.case.slow)
        if task is None or task.is_done:
            return self._say("newer", UNSEEN, "no task was at work")
        task.end_lease()
        hold.over.set()
        if not self._deliver(task).is_taken:
            return self._say("newer", UNSEEN, "it was full")
        number = task.attempt
        if self._ends(task) and task.attempt == number:
            return self._say("newer", RIGHT, f"attempt {task.attempt} is {task.state}")
        if not any((task.id, said) in call.attempts for call in task.calls for said in (number, None)):
            return self._say("newer", WRONG, f"it took attempt {number}, and nothing came of it")
        verdict = UNSEEN if task.failures > 1 else WRONG
        return self._say("newer", verdict, f"attempt {task.attempt} is {task.state}")

    def _cancel(self) -> None:
        hold = self._hold()
        task = self._dispatched(self.case.slow)
        self._waits(lambda: task is None or task.is_done or hold.began.is_set(), _QUIET_S)
        if task is None or task.has_ended:
            return self._say("stops", UNSEEN, f"no task was at work. {_SLOWER}")
        _cancel(task)
        hold.over.set()
        if not self._waits(lambda: self._refused(task), self.case.patience_s):
            return self._say("stops", UNSEEN, "no call came after the cancel")
        quiet_s = self._refused(task)[0].at_s + _QUIET_S
        self._waits(lambda: False, 2 * _QUIET_S)
        late = [call for call in task.calls if call.at_s > quiet_s]
        if late:
            return self._say("stops", WRONG, f"{_named(late)} came more than {_QUIET_S:g} s after the 409")
        after = self._dispatched(self.case.good)
        if after is None:
            return self._say("stops", WRONG, "it took no other task after that")
        _cancel(after)
        return self._say("stops", RIGHT, "nothing came of the task after the 409")

    def _too_large(self) -> None:
        if self.case.large is None:
            return self._say("size", UNSEEN, "give work with --large")
        before = len(self.backbone.calls)
        task = self._dispatched(self.case.large)
        has_ended = task is not None and self._ends(task)
        sent = [call for call in self.backbone.calls[before:] if call.status in (500, 413)]
        if len(sent) > 1:
            return self._say("size", WRONG, f"it sent the too large result {len(sent)} times")
        if task is None or not has_ended:
            return self._say("size", WRONG, "no end came")
        if task.state == "completed":
            return self._say("size", UNSEEN, "the result was not too large")
        return self._say("size", ADVICE if sent else RIGHT, f"it failed the task: {task.status[:80]!r}")

    def _end_of_the_process(self) -> None:
        process = self.case.process
        pid = process.pid if process else self.case.pid
        hold = self._hold()
        task = self._dispatched(self.case.slow) if pid else None
        if task is None:
            return self._say("gives back", UNSEEN, "give its process with --pid")
        self._waits(lambda: task.is_done or hold.began.is_set(), _QUIET_S)
        was_done = task.is_done
        os.kill(pid, signal.SIGTERM)
        hold.over.set()
        self._waits(lambda: not self._lives(pid), _QUIET_S / 2)
        late = self._submit(self.case.good)
        takes_late = self.backbone.dispatch(late).meaning == "accepted"
        if not self._waits(lambda: not self._lives(pid), self.case.patience_s):
            return self._say("gives back", WRONG, f"it lives {self.case.patience_s:g} s after SIGTERM")
        if takes_late and not self._is_safe(late):
            return self._say("gives back", WRONG, "it took a task after SIGTERM")
        if was_done:
            return self._say("gives back", UNSEEN, f"no task was at work. {_SLOWER}")
        if not self._is_safe(task):
            return self._say("gives back", WRONG, "it ended with a task")
        how = f"it {task.state} the task" if task.is_done else "it gave the task back"
        if process and process.returncode:
            return self._say("gives back", ADVICE, f"{how}, and ended with the exit code {process.returncode}")
        return self._say("gives back", RIGHT, f"{how} before it ended")

    def _look_at_all_calls(self) -> None:
        calls = self.backbone.calls
        spoken = [call for call in calls if call.kind not in ("lookup", "health", "count", "cancel", "unknown")]
        without = [call for call in spoken if any(attempt is None for _, attempt in call.attempts)]
        if without:
            self._say("attempt", WRONG, f"{len(without)} of {len(spoken)} calls had none: {_named(without)}")
        elif spoken:
            self._say("attempt", RIGHT, f"all of {len(spoken)}")
        for call in calls:
            if call.status == 401:
                self._say("reports", WRONG, "a call came without the key", is_cause=True)
            elif call.status == 411:
                self._say("size", WRONG, "a body came in chunks", is_cause=True)
            elif call.status == 400:
                self._say("reports", WRONG, f"a {call.kind} got 400: {call.problem[:120]}", is_cause=True)
        for task in self.backbone.all_tasks:
            self._look_at_results(task)
            self._look_at_silence(task)

    def _look_at_results(self, task: PlayedTask) -> None:
        ends = [call.at_s for call in task.calls if call.ends and call.status == 200]
        results = [call for call in task.calls if call.kind == "result"]
        if any(ends and call.at_s > ends[0] and call.status == 409 and not call.ends for call in results):
            self._say("result", WRONG, "the result came after the end, and is lost")
        elif any(call.status == 200 for call in results):
            self._say("result", RIGHT, "result first, or both in one")
        if task.answers and task.answers[-1].meaning == "completed" and any(call.ends for call in task.calls):
            self._say("answers", WRONG, "it answered with the result, and reported an end too")

    def _look_at_silence(self, task: PlayedTask) -> None:
        lease_s = self.backbone.tasks.lease_s
        is_silent = any("not heard of" in event["Status"] for event in task.history)
        spoken = [call.at_s for call in task.calls]
        gap_s = max((after - before for before, after in zip(spoken, spoken[1:])), default=0.0)
        if is_silent and not task.lease_was_ended and gap_s > lease_s:  # it was at work all the same
            self._say("lease", WRONG, f"it was silent for longer than X-Task-Lease: {lease_s:g}")
        elif spoken and spoken[-1] - spoken[0] > lease_s:
            self._say("lease", RIGHT, f"silent for {gap_s:.1f} s of {lease_s:g} s")
        else:
            self._say("lease", UNSEEN, f"no task took {lease_s:g} s. {_SLOWER}")

    def _look_at_what_is_told(self) -> None:
        answers = [answer.headers for task in self.backbone.all_tasks for answer in task.answers]
        told = [
            each for each in (*answers, *(call.headers for call in self.backbone.calls)) if "x-task-slots" in each
        ]
        values = sorted({each["x-task-slots"] for each in told})
        names = {each.get("x-task-instance", "") for each in told}
        odd = [value for value in values if not value.isdigit() or int(value) > 10_000]
        if not told:
            self._say("told", UNSEEN, "it tells nothing")
        elif odd:
            self._say("told", WRONG, f"X-Task-Slots was {odd[0]!r}")
        elif len(names) > 8:
            self._say("told", WRONG, f"{len(names)} instances: a name stays the same")
        elif values == ["0"]:
            self._say("told", WRONG, "it tells 0 slots")
        else:
            self._say("told", RIGHT, f"{', '.join(values)} of {len(names)} instance(s)")

    # How tasks are given and awaited.

    def _submit(self, work: Work) -> PlayedTask:
        self._sent_s = time.monotonic()
        return self.backbone.submit(self.case.path, work.body, content_type=work.content_type, query=work.query)

    def _dispatched(self, work: Work) -> PlayedTask | None:
        """A task that the service has taken; None if it took none."""
        task = self._submit(work)
        return task if self._deliver(task).is_taken else None

    def _deliver(self, task: PlayedTask) -> Answer:
        """Dispatch a task, again and again while the service is full."""
        deadline_s = time.monotonic() + self.case.patience_s
        while True:
            self._sent_s = time.monotonic()
            answer = self.backbone.dispatch(task)
            if answer.meaning != "busy" or time.monotonic() > deadline_s:
                return answer
            self._waits(lambda: False, 0.05)

    def _hold(self) -> _Hold:
        hold = _Hold(self.backbone)
        self.backbone.fault = hold
        return hold

    def _ends(self, task: PlayedTask) -> bool:
        return self._waits(lambda: task.is_done, self.case.patience_s)

    def _waits(self, condition: Callable[[], object], timeout_s: float) -> bool:
        return self.backbone.wait_for(condition, timeout_s)

    def _surplus(self, task: PlayedTask) -> list[Call]:
        """What came after the end, and results but the first."""
        calls = [call for call in task.calls if call.kind in ("report", "result")]
        end = next((at for at, call in enumerate(calls) if self._is_end(call)), len(calls))
        return calls[end + 1 :] or [call for call in calls if call.kind == "result"][1:]

    def _is_end(self, call: Call) -> bool:
        """Whether a call reports an end, if only by its text."""
        records = self.backbone.tasks.records
        told = [records[name].deferred for name, _ in call.attempts if name in records and call.kind == "report"]
        return bool(call.ends or any(told))

    def _refused(self, task: PlayedTask) -> list[Call]:
        return [call for call in task.calls if call.status_of(task.id) == 409]

    def _is_safe(self, task: PlayedTask) -> bool:
        return task.is_done or any(call.kind == "release" and call.status == 200 for call in task.calls)

    def _lives(self, pid: int) -> bool:
        if self.case.process is not None:
            return self.case.process.poll() is None
        with suppress(ProcessLookupError):
            os.kill(pid, 0)
            return True
        return False


def _named(calls: list[Call]) -> str:
    kinds = [call.kind for call in calls]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or "nothing"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _cancel(task: PlayedTask) -> None:
    with suppress(Problem):  # it may have ended meanwhile
        task.cancel()
