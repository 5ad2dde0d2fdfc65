"""Delivers callbacks: tells destinations of tasks, beside everything else.

What is to be told lies in Redis until a destination has taken it, so a delivery may end anywhere, with its process.
The process that ends a task delivers at once. What is to be told later, a process wakes for; what is missed by that,
the reconciler's rounds find. A destination that fails is tried now and then, and costs nobody else anything: no
dispatch and no other destination waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from opentelemetry import metrics

from shared import telemetry
from shared.dispatch.callback_client import CallbackAnswer, CallbackTransport, message_id, signed_headers
from shared.dispatch.destinations import Destination, Destinations
from shared.settings import Settings
from shared.store import Callbacks, ClaimedCallback, Settled
from shared.tasks.callback import CallbackMessage
from shared.tasks.task import Task
from shared.wakes import Wakes

log = logging.getLogger("task_backbone")

DESTINATIONS_TO_FILL: Final = 20
"""So many destinations have all the calls that a process makes to destinations at a time. One has 5 % at most."""
FAILING_SHARE: Final = 4
"""Those that fail have one call in so many together, apart from the others': a message at a time each, which may last
as long as a destination may take to answer."""
FAILURES_TO_OPEN: Final = 3
"""After so many failures in a row, a destination is only probed."""
FIRST_PROBE_S: Final = 5.0
LAST_PROBE_S: Final = 60.0
"""The pause between probes begins with the one, and doubles up to the other."""
_NOTED_AGAIN_MS: Final = 10_000
"""How often it is noted at most that a destination answers as before."""
_MOST_KNOWN: Final = 1_000
"""So many tasks are remembered for a destination that has something else to take. The rounds find more."""
_FOUND_AT_ONCE: Final = 64
"""So many tasks of a partition are found at a time."""
_FAILED: Final = "a destination could not be told of a task"

BodyOf = Callable[[Task, CallbackMessage], bytes]
Start = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
Delivery = Literal["delivered", "failed", "gone", "given up"]

_deliveries: Final = metrics.get_meter("task_backbone").create_counter(
    "callbacks.deliveries", description="Tries to tell destinations of tasks, by destination and what came of them."
)


class Deliveries:
    """One per event loop.

    Args:
        start: begins work in the background; the text says in the log what failed.

    Attributes:
        body_of: what a destination is sent of a task; the room that knows tasks as clients see them sets it.
    """

    def __init__(
        self,
        settings: Settings,
        destinations: Destinations,
        store: Callbacks,
        transport: CallbackTransport,
        now_ms: Callable[[], int],
        start: Start,
        wakes: Wakes,
    ) -> None:
        self.body_of: BodyOf | None = None
        self._store = store
        self._transport = transport
        self._names = [*destinations.by_name]
        most = max(DESTINATIONS_TO_FILL, settings.max_dispatches)
        room = _Room(most // DESTINATIONS_TO_FILL, asyncio.Semaphore(most), asyncio.Semaphore(most // FAILING_SHARE))
        self._lines = {
            name: _Line(destination, store, self._send, room, now_ms, start, wakes)
            for name, destination in destinations.by_name.items()
        }
        store.wake = lambda partition, in_s: wakes.after(
            in_s, f"callbacks {partition}", partial(self._look_in, partition)
        )

    def note(self, task: Task) -> None:
        """A task has changed. Have its destination told, if it is to be: beside, and not now if it fails."""
        if task.callback is not None and task.callback.waiting:
            line = self._lines.get(task.callback.destination)
            if line is not None:
                line.offer(task.id)

    async def round(self) -> None:
        """Have all destinations told what is due, beside; once an interval, in one process."""
        if not self._names:
            return
        for name, partitions in (await self._store.look_everywhere(self._names)).items():
            self._lines[name].find(partitions)

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _look_in(self, partition: int) -> None:
        for name in await self._store.look_in(partition, self._names):
            self._lines[name].find({partition})

    async def _send(self, destination: Destination, claimed: ClaimedCallback, now_ms: int) -> CallbackAnswer:
        assert self.body_of is not None
        body = self.body_of(claimed.task, claimed.message)
        name = message_id(claimed.task, claimed.message)
        return await self._transport.post(
            destination.url, signed_headers(destination, name, body, now_ms // 1000), body
        )


@dataclass(frozen=True, slots=True)
class _Room:
    """How many calls a process makes to destinations at a time: to one that answers, to all of those, and to all that
    fail. None can fill what others need."""

    most: int
    calls: asyncio.Semaphore
    probes: asyncio.Semaphore


class _Line:
    """What one process sends to one destination: a few messages at a time, fewer while it fails."""

    def __init__(
        self,
        destination: Destination,
        store: Callbacks,
        send: Callable[[Destination, ClaimedCallback, int], Coroutine[Any, Any, CallbackAnswer]],
        room: _Room,
        now_ms: Callable[[], int],
        start: Start,
        wakes: Wakes,
    ) -> None:
        self._destination = destination
        self._store = store
        self._send = send
        self._room = room
        self._now_ms = now_ms
        self._start = start
        self._wakes = wakes
        self._known: deque[str] = deque()
        """Tasks of which it is to be told something."""
        self._partitions: set[int] = set()
        """Those that have something for it."""
        self._running = 0
        self._failures = 0
        """In a row."""
        self._closed_until_ms = 0
        """No probe before that."""
        self._noted: tuple[str, int] = ("", 0)

    @property
    def _name(self) -> str:
        return self._destination.name

    @property
    def _is_failing(self) -> bool:
        return self._failures >= FAILURES_TO_OPEN

    @property
    def _most(self) -> int:
        return 1 if self._failures else self._room.most

    def offer(self, task_id: str) -> None:
        """Send what is to be told of a task, unless the destination fails: its probes find the task."""
        if len(self._known) < _MOST_KNOWN and not self._is_shut():
            self._known.append(task_id)
        else:
            self._partitions.add(self._store.partition_of(task_id))
        self._fill()

    def find(self, partitions: set[int]) -> None:
        """Send what these partitions have for it."""
        self._partitions |= partitions
        self._fill()

    def _is_shut(self) -> bool:
        return self._is_failing and self._now_ms() < self._closed_until_ms

    def _fill(self) -> None:
        while self._running < self._most and (self._known or self._partitions) and not self._is_shut():
            self._running += 1
            self._start(self._work(), _FAILED)

    async def _work(self) -> None:
        """Send, one message after the other, until nothing is left or others have all the room."""
        try:
            while self._running <= self._most and not self._is_shut():
                async with self._room.probes if self._is_failing else self._room.calls:
                    if not await self._next():
                        return
        finally:
            self._running -= 1
            if self._is_shut():
                self._partitions.update(map(self._store.partition_of, self._known))
                self._known.clear()
        self._fill()

    async def _next(self) -> bool:
        """Send one message, or look where there are any. False: nothing is known of any."""
        if self._known:
            claimed, is_given_up = await self._store.claim(self._name, self._known.popleft())
            if is_given_up:
                _count(self._name, "given up")
            if claimed is not None:
                await self._deliver(claimed)
            return True
        if not self._partitions:
            return False
        number = self._partitions.pop()
        found = await self._store.due(self._name, number, _FOUND_AT_ONCE)
        self._known.extend(found)
        if len(found) == _FOUND_AT_ONCE:
            self._partitions.add(number)
        self._fill()
        return True

    async def _deliver(self, claimed: ClaimedCallback) -> None:
        started_ns = telemetry.now_ns()
        answer = await self._send(self._destination, claimed, self._now_ms())
        what: Settled = "delivered" if answer.is_taken else "gone" if answer.is_gone else "retry"
        self._learn(answer)
        _count(self._name, "failed" if what == "retry" else what)
        telemetry.join(claimed.task, f"callback {self._name} {answer.text}", started_ns)
        if await self._store.record(claimed, what, answer.text, least_s=answer.retry_after_s or 0) == 0:
            self.offer(claimed.task.id)
        await self._note(answer)

    def _learn(self, answer: CallbackAnswer) -> None:
        if answer.is_taken or answer.is_gone:
            if self._is_failing:
                log.info("destination %s takes callbacks again", self._name)
            if self._failures:
                self._failures = 0
                self._fill()
            return
        self._failures += 1
        if answer.is_throttled and answer.retry_after_s:
            self._failures = max(self._failures, FAILURES_TO_OPEN)
        if self._failures == FAILURES_TO_OPEN:
            log.warning("destination %s takes no callbacks (%s), and is tried again", self._name, answer.text)
        if self._is_failing:
            pause_s = min(LAST_PROBE_S, FIRST_PROBE_S * 2 ** min(10, self._failures - FAILURES_TO_OPEN))
            self._closed_until_ms = self._now_ms() + round(1000 * max(pause_s, answer.retry_after_s or 0))
            self._wake_to_probe()

    def _wake_to_probe(self) -> None:
        in_s = (self._closed_until_ms - self._now_ms()) / 1000
        self._wakes.after(in_s, f"probe {self._name}", self._probe)

    async def _probe(self) -> None:
        if self._is_shut():
            self._wake_to_probe()
        else:
            self._fill()

    async def _note(self, answer: CallbackAnswer) -> None:
        """Have everybody know how it answers, who asks: each change, and else now and then."""
        is_taken, now_ms = answer.is_taken or answer.is_gone, self._now_ms()
        noted = f"{is_taken} {answer.text}"
        if self._noted[0] == noted and now_ms - self._noted[1] < _NOTED_AGAIN_MS:
            return
        self._noted = (noted, now_ms)
        await self._store.note(self._name, answer.text, ok=is_taken)


def _count(destination: str, outcome: Delivery) -> None:
    _deliveries.add(1, {"destination": destination, "outcome": outcome})
