"""The supervisor: it has the tasks of a service, hands each to a runner, and answers for it to the backbone.

It never does a model's work, and runs in an event loop of its own. A slot is taken when a request is let in, and free
when the work has stopped, which is before its end is reported: the next task may come with the answer to that report.

Whoever serves HTTP asks `knows` and `reserve`, reads the body, and then calls `begin` for a task or `call` for a
direct call; or gives the slot back with `unreserve`. `_server` does.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import time
import uuid
from collections import Counter, OrderedDict
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from ._attempts import Attempt, Completed, Events, Failed, Key, Outcome, Released, Runner, Stopped
from ._core import Backbone
from ._reports import InFlight, Reporter
from ._transfers import Transfers

if TYPE_CHECKING:
    from ._blobs import Source

_REMEMBERED = 2_000
_LOOK_EVERY_S = 0.1
_CANCELLED, _LEASE, _TIMEOUT, _STALL, _SHUTDOWN, _GONE = "cancelled", "lease", "timeout", "stall", "shutdown", "gone"
BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)

logger = logging.getLogger("taskbackbone")


def _no_span(attempt: Attempt) -> AbstractContextManager[Callable[[str, Any], None]]:
    return nullcontext(lambda name, value: None)


span: Callable[[Attempt], AbstractContextManager[Callable[[str, Any], None]]] = _no_span
"""Within it, an attempt is worked on and reported. `_tracing` replaces it."""


class Refusal(Exception):
    """A request is not let in. It is answered with this status, and may come again after some seconds."""

    def __init__(self, status: int, detail: str, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after_s = retry_after_s


class Counts:
    """What `/metrics` shows."""

    def __init__(self) -> None:
        self.accepted: Counter[str] = Counter()
        """By `task` and `call`."""
        self.refused: Counter[str] = Counter()
        """By the reason: `full`, `loading`, `draining`, `no-backbone`."""
        self.ended: Counter[str] = Counter()
        """By `completed`, `failed`, `released`, `given-back`, `stopped`."""
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.seconds = 0.0

    def end(self, outcome: Outcome, seconds: float) -> None:
        if isinstance(outcome, Released):
            kind = "released" if outcome.counted else "given-back"
        else:
            kind = type(outcome).__name__.lower()
        self.ended[kind] += 1
        self.seconds += seconds
        self.buckets[next((i for i, bound in enumerate(BUCKETS_S) if seconds <= bound), len(BUCKETS_S))] += 1


class _Work:
    """An attempt that a runner has, or will have once its body is there."""

    def __init__(self, attempt: Attempt, source: Source | None = None) -> None:
        self.attempt = attempt
        self.source = source
        self.stop_reason: str | None = None
        self.has_stopped = False


class Supervisor:
    """See the module.

    Parameters:
        backbone: None if the service is called directly only.
        drain_s, cancel_grace_s: see `TaskService`.
        cluster: the name of the counter of direct calls in flight; empty: they are not reported.
    """

    def __init__(
        self,
        runner: Runner,
        backbone: Backbone | None,
        *,
        drain_s: float,
        cancel_grace_s: float,
        cluster: str = "",
    ) -> None:
        self.runner = runner
        self.counts = Counts()
        self.taken = 0
        """How many slots are."""
        self.is_draining = False
        self.instance = uuid.uuid4().hex
        self.changed = asyncio.Event()
        """Set when the runner's slots have changed."""
        self.transfers = Transfers()
        self.reporter = None
        if backbone:
            self.reporter = Reporter(backbone, self.instance, lambda: self.told_slots, self.transfers)
        self._drain_s = drain_s
        self._cancel_grace_s = cancel_grace_s
        self._in_flight = InFlight(backbone, cluster, self.instance) if backbone and cluster else None
        self._loaded = asyncio.Event()
        self._works: dict[Attempt, _Work] = {}
        self._known: dict[Key, _Work] = {}
        self._ended: OrderedDict[Key, None] = OrderedDict()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._root: Path | None = None
        self._attempts = 0

    async def start(self) -> None:
        try:
            self._root = Path(tempfile.mkdtemp(prefix="taskbackbone-"))
        except OSError as error:
            logger.warning("no folder for temporary files: bodies and results over 1 MiB will fail (%s)", error)
        if self.reporter is not None:
            self.reporter.start()
        if self._in_flight is not None:
            self._in_flight.start()
        await self.runner.start(self._note_change)

    @property
    def told_slots(self) -> int:
        """How many tasks it holds at a time, as the backbone is told."""
        return 0 if self.is_draining else self.runner.slots

    @property
    def is_alive(self) -> bool:
        """Whether it can work, now or later, without being started anew."""
        return not getattr(self.runner, "is_stuck", False)

    @property
    def is_ready(self) -> bool:
        return not self.is_draining and self.runner.slots > 0

    def new_folder(self) -> Path:
        """The folder for an attempt's files, which is not made yet."""
        self._attempts += 1
        return (self._root or Path("/nonexistent")) / str(self._attempts)

    def knows(self, key: Key) -> bool:
        """Whether this very attempt is here, or was. An older attempt of the task is stopped."""
        if key in self._known or key in self._ended:
            return True
        task_id, number = key
        for other, work in list(self._known.items()):
            if other[0] == task_id and number is not None and other[1] is not None:
                if other[1] > number:
                    return True
                self._stop(work, _CANCELLED)
        return False

    def reserve(self, *, is_task: bool) -> None:
        """Takes a slot. Raises Refusal if there is none."""
        self.check_open()
        if self.runner.slots == 0:
            raise self._refusal("loading", "The service is loading its model.", 5)
        if self.taken >= self.runner.slots:
            raise self._refusal("full", "The service has as much work as it takes.", None if is_task else 1)
        if is_task and self.reporter is None:
            raise self._refusal("no-backbone", "The service knows no backbone: BACKBONE_URL is not set.")
        self.taken += 1

    def check_open(self) -> None:
        """Raises Refusal if the service is about to stop."""
        if self.is_draining:
            raise self._refusal("draining", "The service is stopping.")

    def _refusal(self, reason: str, detail: str, retry_after_s: int | None = None) -> Refusal:
        self.counts.refused[reason] += 1
        return Refusal(503, detail, retry_after_s)

    def unreserve(self, folder: Path) -> None:
        """Gives a slot back that nothing has begun in."""
        self.taken -= 1
        self.clean(folder)

    def begin(self, attempt: Attempt, source: Source | None = None) -> None:
        """Works on a task, in the slot that was reserved.

        Parameters:
            source: where its body is fetched from, instead of the attempt's own.
        """
        self.counts.accepted["task"] += 1
        if source is not None:
            attempt = replace(attempt, body=attempt.folder / "body")
        work = self._works[attempt] = self._known[attempt.key] = _Work(attempt, source)
        task = asyncio.get_running_loop().create_task(self._work_on(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def call(self, attempt: Attempt) -> Outcome:
        """Works on a direct call, in the slot that was reserved. Cancelled, it stops the work.

        Who calls it removes the attempt's folder with `clean`.
        """
        self.counts.accepted["call"] += 1
        work = self._works[attempt] = _Work(attempt)
        if self._in_flight is not None:
            self._in_flight.change(attempt.path, 1)
        task = asyncio.get_running_loop().create_task(self._run(work, Events()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._stop(work, _GONE)
            task.add_done_callback(lambda _: self.clean(attempt.folder))
            raise
        finally:
            if self._in_flight is not None:
                self._in_flight.change(attempt.path, -1)

    def clean(self, folder: Path) -> None:
        """Removes an attempt's files."""
        if folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)

    async def _work_on(self, work: _Work) -> None:
        attempt, reporter = work.attempt, self.reporter
        assert reporter is not None
        watch = reporter.watch(attempt, lambda reason: self._stop(work, reason))
        try:
            with span(attempt) as note:
                outcome = await self._run(work, watch)
                note("task.outcome", type(outcome).__name__.lower())
                del self._known[attempt.key]
                self._remember(attempt.key)
                await reporter.end(watch, outcome)
        except Exception:
            logger.exception("%s: the supervisor failed", attempt)
        finally:
            reporter.forget(watch)
            self.changed.set()
            self.clean(attempt.folder)

    def _remember(self, key: Key) -> None:
        if key[1] is None:
            return  # without a number, the next one of this task may be another attempt
        self._ended[key] = None
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    async def _run(self, work: _Work, events: Events) -> Outcome:
        """Has the runner do it, and keeps its limits of time. The slot is free when it returns."""
        began_s = time.monotonic()
        limits = None
        if work.attempt.timeout_s or work.attempt.stall_s:
            limits = asyncio.get_running_loop().create_task(self._keep_limits(work, events))
        try:
            outcome = None if work.source is None else await self.transfers.fetch(work.attempt, work.source)
            if outcome is None:
                outcome = Stopped() if work.stop_reason else await self.runner.run(work.attempt, events)
        finally:
            if limits is not None:
                limits.cancel()
            work.has_stopped = True
            self._works.pop(work.attempt, None)
            self.taken -= 1
            self.changed.set()
        outcome, took_s = self._judge(work, outcome), time.monotonic() - began_s
        self.counts.end(outcome, took_s)
        if work.attempt.task_id is not None:
            logger.info("%s: %s after %.2f s", work.attempt, type(outcome).__name__.lower(), took_s)
        return outcome

    def _judge(self, work: _Work, outcome: Outcome) -> Outcome:
        """What became of an attempt, by what its work came to and why it was stopped."""
        reason, attempt = work.stop_reason, work.attempt
        if reason in (_CANCELLED, _LEASE, _GONE):
            return Stopped()
        if reason == _TIMEOUT and not isinstance(outcome, Completed):
            return Failed(f"it took longer than {attempt.timeout_s:g} s", 504)
        if reason == _STALL and not isinstance(outcome, (Completed, Failed)):
            return Released(f"the function told nothing for {attempt.stall_s:g} s", counted=True)
        if isinstance(outcome, Stopped):
            if reason == _SHUTDOWN:
                return Released("the service is stopping", counted=False)
            return Failed("Cancelled; see the service's log")  # raised by the function itself
        return outcome

    async def _keep_limits(self, work: _Work, events: Events) -> None:
        timeout_s, stall_s = work.attempt.timeout_s, work.attempt.stall_s
        while True:
            if events.started_s is None:  # it waits for a worker, which may end at any time
                await asyncio.sleep(_LOOK_EVERY_S)
                continue
            ends = [(events.started_s + timeout_s, _TIMEOUT)] if timeout_s else []
            active_s = time.monotonic() if events.is_asking else events.active_s
            ends += [(active_s + stall_s, _STALL)] if stall_s else []
            end_s, reason = min(ends)
            if end_s <= time.monotonic():
                logger.warning("%s: %s", work.attempt, "its time is up" if reason == _TIMEOUT else "it tells nothing")
                self._stop(work, reason, grace_s=0)
                return
            await asyncio.sleep(end_s - time.monotonic())

    def _stop(self, work: _Work, reason: str, grace_s: float | None = None) -> None:
        self.transfers.halt(work.attempt)
        if work.stop_reason is not None or work.has_stopped:
            return
        work.stop_reason = reason
        if reason in (_CANCELLED, _LEASE):
            logger.info("%s is no longer this service's (%s)", work.attempt, reason)
        self.runner.cancel(work.attempt, reason, self._cancel_grace_s if grace_s is None else grace_s)

    def _note_change(self) -> None:
        self.changed.set()
        if self.runner.slots and not self._loaded.is_set():
            self._loaded.set()
            logger.info("ready: %s at a time", self.runner.slots)

    async def loaded(self, timeout_s: float) -> None:
        """Waits until it can work for the first time."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._loaded.wait(), timeout_s)

    async def drain(self, hurry: asyncio.Event) -> None:
        """Takes nothing more, lets what runs end for `drain_s`, and gives the rest back.

        Parameters:
            hurry: set once, it ends the wait; set again, it ends the grace of what is cancelled.
        """
        self.is_draining = True
        logger.info("stopping: %s at work", self.taken)
        give_up_s = time.monotonic() + self._drain_s
        hurrying = asyncio.ensure_future(hurry.wait())
        while (self.taken or self.transfers) and not hurry.is_set() and time.monotonic() < give_up_s:
            self.changed.clear()
            changing = asyncio.ensure_future(self.changed.wait())
            await asyncio.wait(
                {hurrying, changing}, timeout=give_up_s - time.monotonic(), return_when=asyncio.FIRST_COMPLETED
            )
            changing.cancel()
        hurrying.cancel()
        if self.reporter is not None:
            self.reporter.leave()
        self.transfers.leave()
        hurry.clear()
        for work in list(self._works.values()):
            if work.stop_reason is None:
                self._stop(work, _SHUTDOWN)
            else:  # it has not stopped yet, and has to
                self.runner.cancel(work.attempt, _SHUTDOWN, self._cancel_grace_s)
        hurrying = asyncio.ensure_future(hurry.wait())
        while self._tasks:
            await asyncio.wait({hurrying, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
            if hurrying.done():
                for attempt in list(self._works):
                    self.runner.cancel(attempt, _SHUTDOWN, 0)
                await asyncio.wait(self._tasks)
        hurrying.cancel()

    async def stop(self) -> None:
        await self.runner.stop()
        if self._in_flight is not None:
            await self._in_flight.stop()
        if self.reporter is not None:
            await self.reporter.stop()
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
