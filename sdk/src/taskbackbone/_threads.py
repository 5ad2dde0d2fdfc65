"""The runner of `isolation="thread"`."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from ._attempts import Attempt, Events, Outcome, Stopped
from ._task import Desk, perform

if TYPE_CHECKING:
    from .service import TaskService

logger = logging.getLogger("taskbackbone")


class _ThreadDesk(Desk):
    """The desk of an attempt in a thread of this process."""

    def __init__(self, attempt: Attempt, events: Events) -> None:
        super().__init__(attempt.folder)
        self.is_overdue = False
        """Whether its function has not ended within its grace."""
        self._events = events
        self._loop = asyncio.get_running_loop()
        self.abandoned: asyncio.Future[Outcome] = self._loop.create_future()

    def send_progress(self, fraction: float | None, text: str | None) -> None:
        self._loop.call_soon_threadsafe(self._events.progress, fraction, text)

    def ask(self, what: str, data: Any = None) -> bytes | None:
        self.check()
        answer = asyncio.run_coroutine_threadsafe(self._events.ask(what, data), self._loop).result()
        return answer.read_bytes() if isinstance(answer, Path) else answer


class ThreadPool:
    """Threads of this process, for `isolation="thread"`.

    A function that does not end when it is cancelled keeps its slot until it does. If all slots are kept so, the
    runner is stuck. When the service stops, it is left behind.
    """

    def __init__(self, service: TaskService) -> None:
        self.restarts = 0
        self.is_given_up = False
        self.has_left_behind = False
        """Whether threads of functions still run, so that the process has to be ended by force."""
        self._service = service
        self._ready_slots = 0
        self._desks: dict[Attempt, _ThreadDesk] = {}
        self._threads = ThreadPoolExecutor(service.workers * service.concurrency, "task")
        self._setting_up: asyncio.Task[None] | None = None

    @property
    def slots(self) -> int:
        return self._ready_slots

    async def start(self, changed: Callable[[], None]) -> None:
        self._setting_up = asyncio.get_running_loop().create_task(self._set_up(changed))

    async def _set_up(self, changed: Callable[[], None]) -> None:
        error = await asyncio.get_running_loop().run_in_executor(self._threads, self._run_setups)
        if error is None:
            self._ready_slots = self._service.workers * self._service.concurrency
        else:
            logger.error("the service cannot be set up", exc_info=error)
            self.is_given_up = True
        changed()

    def _run_setups(self) -> BaseException | None:
        try:
            for setup in self._service.setups:
                setup()
        except BaseException as error:
            return error
        return None

    @property
    def is_stuck(self) -> bool:
        overdue = sum(desk.is_overdue for desk in self._desks.values())
        return 0 < self._ready_slots <= overdue

    async def run(self, attempt: Attempt, events: Events) -> Outcome:
        desk = self._desks[attempt] = _ThreadDesk(attempt, events)
        route = self._service.routes[attempt.path]
        events.started()
        work = asyncio.get_running_loop().run_in_executor(self._threads, perform, route, attempt, desk)
        try:
            await asyncio.wait({work, desk.abandoned}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            desk.is_over = True
            del self._desks[attempt]
        if not work.done():
            self.has_left_behind = True
            return desk.abandoned.result()
        return work.result()

    def cancel(self, attempt: Attempt, reason: str, grace_s: float) -> None:
        desk = self._desks.get(attempt)
        if desk is not None:
            desk.stop_reason = desk.stop_reason or reason
            is_last = reason == "shutdown"
            grace_s = grace_s if is_last else grace_s or self._service.cancel_grace_s
            asyncio.get_running_loop().call_later(grace_s, self._give_up, desk, attempt, is_last)

    def _give_up(self, desk: _ThreadDesk, attempt: Attempt, is_last: bool) -> None:
        if desk.is_over or desk.abandoned.done():
            return
        if not desk.is_overdue:
            desk.is_overdue = True
            logger.warning("%s does not stop, and a thread cannot be ended by force", attempt)
        if is_last:
            desk.abandoned.set_result(Stopped())

    async def stop(self) -> None:
        if self._setting_up is not None:
            self._setting_up.cancel()
        self._threads.shutdown(wait=False)
