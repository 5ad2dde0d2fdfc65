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

from taskbackbone._dispatch import Answer
from taskbackbone._played_api import Call
from taskbackbone.testing import PlayedBackbone, PlayedTask

RIGHT, WRONG, ADVICE, UNSEEN = "right", "wrong", "advice", "not seen"
_RANK = (UNSEEN, RIGHT, ADVICE, WRONG)

RULES = {
    "accepts": ("accepts a task at once, and works afterwards", 1),
    "answers": ("answers with the result only beside X-Task-Complete", 1),
    "full": ("answers 503 or 429 when it is full", 2),
    "told": ("tells its slots and its instance so that they make sense", 2),
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

MOST_SLOTS = 64
_QUIET_S = 2.0
_STRAGGLER_S = 0.3
"""For how long something may come after an end."""
_TOLD_INSTANCES = 8
_SLOWER = "Give slower ones with --slow"


@dataclass(frozen=True)
class Work:
    """A body for the model service."""

    body: bytes
    content_type: str
    query: str = ""


@dataclass
class Finding:
    """What was found out about a rule: ``right``, ``wrong``, ``advice`` or ``not seen``, and why."""

    rule: str
    verdict: str = UNSEEN
    text: str = ""


@dataclass
class Case:
    """What the rules are tried with.

    Attributes:
        slow: what takes the model a while; None: *good* is taken.
        bad: what the model can never do.
        large: what has a result that is too large; None: that is not tried.
        pid: of the service's process, which is ended last; 0: that is not tried.
        patience_s: for how long an end is awaited.
    """

    path: str
    good: Work
    bad: Work
    slow: Work | None = None
    large: Work | None = None
    pid: int = 0
    process: subprocess.Popen[bytes] | None = None
    patience_s: float = 60.0


@dataclass
class Trial:
    """One service on trial. *backbone* dispatches nothing by itself, and its clock runs."""

    backbone: PlayedBackbone
    case: Case
    progress: Callable[[str], None] = lambda text: None
    findings: dict[str, Finding] = field(default_factory=lambda: {rule: Finding(rule) for rule in RULES})
    _sent_s: float = 0.0

    def run(self, only: Sequence[str] = ()) -> list[Finding]:
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
                self.backbone.fault = None
                self.backbone.on_applied = lambda call: None
                trial()
        self._look_at_all_calls()
        self._look_at_what_is_told()
        return list(self.findings.values())

    def say(self, rule: str, verdict: str, text: str, *, is_cause: bool = False) -> None:
        """Note a finding, unless the rule has a graver one, or one as grave that this is not the cause of."""
        finding, graver = self.findings[rule], _RANK.index(verdict)
        if not finding.text or graver + is_cause > _RANK.index(finding.verdict):
            finding.verdict, finding.text = verdict, text

    def _first_task(self) -> bool:
        """Whether the service does anything at all."""
        self.progress("one task")
        task = self._submit(self.case.good)
        answer = self.backbone.dispatch(task)
        if answer.meaning not in ("accepted", "completed"):
            self.say("accepts", WRONG, f"it {answer.reason}")
            return False
        took = f"{answer.status} after {_ms(answer.took_s)}"
        if answer.meaning == "completed":
            self.say("accepts", RIGHT, f"{took}, with the result")
            self._look_at_quick_answer(answer)
        if answer.meaning == "accepted" and task.is_done:
            late = f"{took}, when the work was done: it has to answer within 25 s"
            self.say("accepts", ADVICE, late)
        if self._ends(task):
            self.say("accepts", RIGHT, took)
        elif answer.body and not task.calls:
            lost = f"{took} with {len(answer.body)} bytes that nobody reads, and no report"
            self.say("answers", WRONG, f"{lost}. Add X-Task-Complete to such an answer")
            self.say("reports", WRONG, f"nothing came within {self.case.patience_s:g} s")
            return False
        else:
            self.say("reports", WRONG, f"no end came within {self.case.patience_s:g} s, but {_named(task.calls)}")
            return False
        self._waits(lambda: False, _STRAGGLER_S)
        ended = [call for call in task.calls if call.ends]
        how = f"{task.state} {_ms(ended[-1].at_s - self._sent_s)} after the dispatch" if ended else "by its answer"
        self.say("reports", RIGHT, how)
        if not task.has_ended:
            text = f"only the text tells the end ({task.status[:40]!r}): the backbone waits 30 s for another report"
            self.say("reports", ADVICE, f"{text}. Send BackendStatus completed or failed")
        return True

    def _look_at_quick_answer(self, answer: Answer) -> None:
        text = answer.headers.get("x-task-complete", "")
        try:
            unquote(text, errors="strict")
            self.say("answers", RIGHT, f"{len(answer.body)} bytes with X-Task-Complete")
        except UnicodeDecodeError:
            self.say("answers", WRONG, f"X-Task-Complete is no percent-encoded UTF-8: {text!r}")

    def _faults(self) -> None:
        for fault, what in ((500, "500"), (429, "429"), (0, "no answer")):
            self.progress(f"calls that get {what}")
            failed: set[tuple[str, str]] = set()

            def once(call: Call, fault: int = fault, failed: set[tuple[str, str]] = failed) -> int | None:
                name = (call.method, call.path)
                if call.method == "GET" or call.path.endswith(("heartbeat", "heartbeats")) or name in failed:
                    return None
                failed.add(name)
                return fault

            self.backbone.fault = once
            task = self._dispatched(self.case.good)
            if task is None:
                return self.say("repeats", UNSEEN, "it took no task")
            is_ended = self._ends(task)
            if not failed:
                return self.say("repeats", UNSEEN, "it calls nobody")
            if not is_ended:
                return self.say("repeats", WRONG, f"it gave up after {what}, and the task has no end")
            self.say("repeats", RIGHT, "after 500, 429 and no answer")
        return None

    def _bad_input(self) -> None:
        self.progress("a body that can never work")
        task = self._submit(self.case.bad)
        answer = self._deliver(task)
        if answer.meaning == "rejected":
            self.say("bad", RIGHT, f"it {answer.reason[:120]}")
        elif answer.meaning in ("erred", "away"):
            self.say("bad", WRONG, f"it {answer.reason[:120]}: the backbone tries that again and again")
        elif answer.meaning == "busy":
            self.say("bad", UNSEEN, "it took no task")
        elif not self._ends(task):
            self.say("bad", WRONG, f"it accepted the body, and no end came within {self.case.patience_s:g} s")
        elif task.state == "failed" or task.status.lower().startswith("failed"):
            self.say("bad", RIGHT, f"it accepted the body, and failed the task: {task.status[:80]!r}")
        else:
            self.say("bad", UNSEEN, "it completed the body that was thought to be bad. Give one with --bad")

    def _fill(self) -> None:
        """Give it tasks until it refuses, and then one more at the moment at which one ends."""
        self.progress("as many tasks as it takes")
        held: list[PlayedTask] = []
        after_end: list[Answer] = []
        is_full, one_end = False, threading.Lock()

        def hold(call: Call) -> int | None:
            """A service that waits for its answers keeps its slots meanwhile."""
            if call.method != "GET":
                deadline_s = time.monotonic() + _QUIET_S
                self.backbone.wait_for(lambda: is_full, deadline_s - time.monotonic())
            return None

        def next_one(call: Call) -> None:
            with one_end:  # another end would free another slot
                if is_full and not after_end and (call.ends or self._tells_end(call)):
                    after_end.append(self.backbone.dispatch(held[-1]))

        self.backbone.fault, self.backbone.on_applied = hold, next_one
        answer = Answer("")
        while len(held) < MOST_SLOTS:
            held.append(self._submit(self.case.slow or self.case.good))
            answer = self.backbone.dispatch(held[-1])
            if answer.meaning not in ("accepted", "completed"):
                break
        at_work = sum(not task.is_done for task in held[:-1])
        is_full = True
        if answer.meaning in ("accepted", "completed"):
            done = sum(task.is_done for task in held)
            self.say("full", UNSEEN, f"it took {len(held)} tasks, {done} of which were over soon. {_SLOWER}")
        elif answer.meaning == "busy":
            self._look_at_refusal(answer, at_work)
            if self._waits(lambda: after_end, self.case.patience_s):
                self._look_at_next(after_end[0])
            else:
                self.say("slot", UNSEEN, "no task ended while it was full")
        else:
            self.say("full", WRONG, f"with {at_work} tasks it {answer.reason[:120]}")
        for task in held:
            if not task.has_ended:
                task.cancel()

    def _look_at_refusal(self, answer: Answer, at_work: int) -> None:
        self.say("full", RIGHT, f"{answer.status} to the task after {at_work}")
        told = sum(self.backbone.slots.values())
        if told > at_work and len(self.backbone.slots) == 1:
            self.say("told", WRONG, f"it told {told} slots, and refused a task while it had {at_work}")
        if answer.status == 503 and "retry-after" in answer.headers and not answer.headers["retry-after"].isdigit():
            self.say("full", ADVICE, f"Retry-After is {answer.headers['retry-after']!r}: give seconds")

    def _look_at_next(self, answer: Answer) -> None:
        if answer.meaning in ("accepted", "completed"):
            self.say("slot", RIGHT, "it accepted another task at the moment at which it reported an end")
        else:
            told = "it refused another task at the moment at which it reported an end"
            self.say("slot", WRONG, f"{told} ({answer.status}): the slot stands idle for 50 ms or longer")

    def _twice(self) -> None:
        self.progress("the same attempt twice")
        task = self._dispatched(self.case.slow or self.case.good)
        if task is None or task.answers[-1].meaning == "completed":
            return self.say("twice", UNSEEN, "no task was at work")
        answer = task.dispatch_again()
        if answer.meaning not in ("accepted", "completed"):
            text = f"it {answer.reason[:80] or answer.status} when the attempt came again"
            self.say("twice", WRONG, f"{text}: the backbone begins another attempt, and this one's work is lost")
        if not self._ends(task):
            if task.failures:
                return self.say("twice", UNSEEN, "the lease ended first")
            return self.say("twice", WRONG, "the task has no end when its attempt comes twice")
        took_s = time.monotonic() - self._sent_s
        if self._waits(lambda: self._repeats(task), took_s + _QUIET_S):
            return self.say("twice", WRONG, f"{_named(self._repeats(task))} came again of one attempt: it ran twice")
        return self.say("twice", RIGHT, f"{answer.status} to the second, and one end")

    def _newer_attempt(self) -> None:
        self.progress("a newer attempt")
        task = self._dispatched(self.case.slow or self.case.good)
        if task is None or task.is_done:
            return self.say("newer", UNSEEN, "no task was at work")
        task.end_lease()
        answer = self._deliver(task)
        if answer.meaning not in ("accepted", "completed"):
            return self.say("newer", UNSEEN, f"it {answer.reason or 'was full'} while the older attempt was at work")
        if self._ends(task) and task.attempt == 2:
            return self.say("newer", RIGHT, f"attempt {task.attempt} has {task.state}")
        return self.say("newer", WRONG, f"attempt {task.attempt} has no end")

    def _cancel(self) -> None:
        self.progress("a task that is cancelled")
        task = self._dispatched(self.case.slow or self.case.good)
        if task is None:
            return self.say("stops", UNSEEN, "it took no task")
        self._waits(lambda: task.is_done or task.calls, _QUIET_S)
        if task.has_ended:
            return self.say("stops", UNSEEN, f"the task was over before it could be cancelled. {_SLOWER}")
        task.cancel()
        if not self._waits(lambda: self._refused(task), self.case.patience_s):
            return self.say("stops", UNSEEN, "no call came after the cancel")
        first_s = self._refused(task)[0].at_s
        self._waits(lambda: False, 2 * _QUIET_S)
        late = [call for call in task.calls if call.at_s > first_s + _QUIET_S]
        if late:
            return self.say("stops", WRONG, f"{_named(late)} came more than {_QUIET_S:g} s after the 409")
        after = self._dispatched(self.case.good)
        if after is None:
            return self.say("stops", WRONG, "it took no other task after that: the slot is not free")
        after.cancel()
        return self.say("stops", RIGHT, "nothing came of the task after the 409")

    def _too_large(self) -> None:
        if self.case.large is None:
            return self.say("size", UNSEEN, "give a body whose result has more than a MiB with --large")
        self.progress("a result that is too large")
        before = len(self.backbone.calls)
        task = self._dispatched(self.case.large)
        has_ended = task is not None and self._ends(task)
        sent = [call for call in self.backbone.calls[before:] if call.status in (500, 413)]
        if len(sent) > 1:
            return self.say("size", WRONG, f"it sent the too large result {len(sent)} times")
        if task is None or not has_ended:
            return self.say("size", WRONG, "the task with the too large result has no end")
        if task.state == "completed":
            return self.say("size", UNSEEN, "the result was not too large")
        verdict = ADVICE if sent else RIGHT
        return self.say(
            "size", verdict, f"{'after one try, ' if sent else ''}it failed the task: {task.status[:80]!r}"
        )

    def _end_of_the_process(self) -> None:
        pid = self.case.process.pid if self.case.process else self.case.pid
        if not pid:
            return self.say("gives back", UNSEEN, "give its process with --pid, or its command behind --")
        self.progress("the end of its process")
        task = self._dispatched(self.case.slow or self.case.good)
        if task is None:
            return self.say("gives back", UNSEEN, "it took no task")
        self._waits(lambda: task.is_done or task.calls, _QUIET_S)
        was_done = task.is_done
        os.kill(pid, signal.SIGTERM)
        self._waits(lambda: not self._lives(pid), _QUIET_S / 2)
        late = self._submit(self.case.good)
        takes_late = self.backbone.dispatch(late).meaning == "accepted"
        has_ended = self._waits(lambda: not self._lives(pid), self.case.patience_s)
        if takes_late and not self._is_safe(late):
            return self.say("gives back", WRONG, "it took a task after SIGTERM, and ended without it")
        code = self.case.process.returncode if self.case.process else None
        if not has_ended:
            return self.say("gives back", WRONG, f"it lives {self.case.patience_s:g} s after SIGTERM")
        if was_done:
            return self.say("gives back", UNSEEN, f"no task was at work. {_SLOWER}")
        if not self._is_safe(task):
            return self.say("gives back", WRONG, "it ended with a task, which begins again when the lease is over")
        how = f"{task.state} the task" if task.is_done else "gave the task back"
        if code:
            return self.say("gives back", ADVICE, f"it {how}, and ended with the exit code {code}")
        return self.say("gives back", RIGHT, f"it {how} before it ended")

    def _look_at_all_calls(self) -> None:
        calls, tasks = self.backbone.calls, self.backbone.all_tasks
        spoken = [call for call in calls if call.kind in ("report", "result", "heartbeat", "release", "checkpoint")]
        without = [call for call in spoken if any(attempt is None for _, attempt in call.attempts)]
        if without:
            self.say("attempt", WRONG, f"{len(without)} of {len(spoken)} calls had none: {_named(without)}")
        elif spoken:
            self.say("attempt", RIGHT, f"all of {len(spoken)}")
        if any(call.status == 401 for call in calls):
            self.say("reports", WRONG, "a call came without the key, which gets 401", is_cause=True)
        if any(call.status == 411 for call in calls):
            self.say("size", WRONG, "a body came in chunks, which gets 411", is_cause=True)
        bad = next((call for call in spoken if call.status == 400), None)
        if bad is not None:
            text = f"{_named([bad])} made no sense, which gets 400: {bad.problem[:100]}"
            self.say("reports", WRONG, text, is_cause=True)
        for task in tasks:
            self._look_at_results(task)
            self._look_at_silence(task)

    def _look_at_results(self, task: PlayedTask) -> None:
        end_s = min((call.at_s for call in task.calls if call.ends and call.status == 200), default=0.0)
        results = [call for call in task.calls if call.kind == "result"]
        if end_s and any(call.at_s > end_s and call.status == 409 and not call.ends for call in results):
            self.say("result", WRONG, "the result came after the end, and is lost")
        elif any(call.status == 200 for call in results):
            self.say("result", RIGHT, "result first, or both in one")
        else:
            self.say("result", UNSEEN, "it stores no result")
        if task.answers and task.answers[-1].meaning == "completed" and any(call.ends for call in task.calls):
            self.say("answers", WRONG, "it answered with the result, and reported an end too")

    def _look_at_silence(self, task: PlayedTask) -> None:
        lease_s = self.backbone.tasks.lease_s
        silent = any("not heard of" in event["Status"] for event in task.history)
        if silent and not task.lease_was_ended and self._refused(task):  # it was at work all the same
            self.say("lease", WRONG, f"it was silent for longer than X-Task-Lease, which was {lease_s:g} s")
        spoken = [call.at_s for call in task.calls if call.status == 200]
        if len(spoken) > 1 and spoken[-1] - spoken[0] > lease_s:
            gap_s = max(after - before for before, after in zip(spoken, spoken[1:]))
            self.say("lease", RIGHT, f"silent for {gap_s:.1f} s at most, at a lease of {lease_s:g} s")
        else:
            self.say("lease", UNSEEN, f"no task took longer than a lease of {lease_s:g} s. {_SLOWER}")

    def _look_at_what_is_told(self) -> None:
        answers = [answer.headers for task in self.backbone.all_tasks for answer in task.answers]
        told = [
            each for each in (*answers, *(call.headers for call in self.backbone.calls)) if "x-task-slots" in each
        ]
        if not told:
            return self.say("told", UNSEEN, "it tells nothing: the backbone finds out how many it holds")
        values = {each["x-task-slots"] for each in told}
        names = {each.get("x-task-instance", "") for each in told}
        odd = sorted(value for value in values if not value.isdigit() or int(value) > 10_000)
        if odd:
            return self.say("told", WRONG, f"X-Task-Slots was {odd[0]!r}, which is no number up to 10,000")
        if any(not name.isprintable() or " " in name or len(name) > 128 for name in names):
            return self.say("told", WRONG, "X-Task-Instance was no name of up to 128 printable characters")
        if len(names) > _TOLD_INSTANCES:
            return self.say("told", WRONG, f"{len(names)} instances told their slots: a name has to stay the same")
        if values == {"0"}:
            return self.say("told", WRONG, "it tells 0 slots, and so gets no tasks")
        return self.say("told", RIGHT, f"{', '.join(sorted(values, key=int))} of {len(names)} instance(s)")

    # How tasks are given and awaited.

    def _submit(self, work: Work) -> PlayedTask:
        self._sent_s = time.monotonic()
        return self.backbone.submit(self.case.path, work.body, content_type=work.content_type, query=work.query)

    def _dispatched(self, work: Work) -> PlayedTask | None:
        """A task that the service has taken; None if it took none."""
        task = self._submit(work)
        return task if self._deliver(task).meaning in ("accepted", "completed") else None

    def _deliver(self, task: PlayedTask) -> Answer:
        """Dispatch a task, again and again while the service is full."""
        deadline_s = time.monotonic() + self.case.patience_s
        while True:
            self._sent_s = time.monotonic()
            answer = self.backbone.dispatch(task)
            if answer.meaning != "busy" or time.monotonic() > deadline_s:
                return answer
            self._waits(lambda: False, 0.05)

    def _ends(self, task: PlayedTask) -> bool:
        return self._waits(lambda: task.is_done, self.case.patience_s)

    def _waits(self, condition: Callable[[], object], timeout_s: float) -> bool:
        return self.backbone.wait_for(condition, timeout_s)

    def _repeats(self, task: PlayedTask) -> list[Call]:
        """What came after the end, and results but the first."""
        calls = [call for call in task.calls if call.kind in ("report", "result")]
        end = next((at for at, call in enumerate(calls) if call.ends or self._tells_end(call)), len(calls))
        return calls[end + 1 :] or [call for call in calls if call.kind == "result"][1:]

    def _tells_end(self, call: Call) -> bool:
        """Whether the text of a report without an attempt is an end."""
        records = self.backbone.tasks.records
        return call.kind == "report" and any(records[name].deferred for name, _ in call.attempts if name in records)

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
