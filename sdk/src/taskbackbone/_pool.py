"""The runner of workers that are processes.

A worker that is lost is replaced at once; one that cannot be set up, after a pause that doubles up to a minute. A
task that comes while a lost worker is replaced waits for the new one, since it would find no room elsewhere any
sooner. So the slots told to the backbone stay what they are, unless setting up fails.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from ._attempts import Attempt, Completed, Events, Outcome, Released, Stopped, from_frame, to_frame
from ._worker import BELL, FOLDER, HEAD, VARIABLE, spilled
from .errors import BackboneError

if TYPE_CHECKING:
    from .service import TaskService

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0
GIVE_UP_AFTER = 5
"""So many set-ups in a row that fail, while no worker is ready, end a service that is a process of its own."""
_LAST_WORDS_S = 0.5
_EXIT_S = 2.0
_PROVEN_S = 10.0

logger = logging.getLogger("taskbackbone")


class _Job:
    """An attempt at a worker."""

    def __init__(self, number: int, attempt: Attempt, events: Events) -> None:
        self.number = number
        self.attempt = attempt
        self.events = events
        self.is_told_to_stop = False
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.questions: set[asyncio.Task[None]] = set()

    def folder(self) -> Path:
        self.attempt.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.attempt.folder

    def end(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class _Worker(asyncio.Protocol):
    """A worker as the pool knows it: the supervisor's end of its link."""

    def __init__(self, pool: ProcessPool, process: Process, is_successor: bool) -> None:
        self.pool = pool
        self.process = process
        self.is_successor = is_successor
        """Whether it takes the place of one that was lost."""
        self.ready_s: float | None = None
        self.has_worked = False
        self.is_over = False
        self.jobs: dict[int, _Job] = {}
        self._victim: _Job | None = None
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._closed = asyncio.Event()
        self._watch = asyncio.get_running_loop().create_task(self._live())

    @property
    def is_ready(self) -> bool:
        return self.ready_s is not None

    @property
    def is_proven(self) -> bool:
        """Whether its set-up has shown that it works, so that its successor's will."""
        return self.ready_s is not None and (self.has_worked or time.monotonic() - self.ready_s > _PROVEN_S)

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=self.process.link)
        ended: asyncio.Future[int] = loop.create_future()

        def wait() -> None:
            code = self.process.wait()
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(ended.set_result, code)

        threading.Thread(target=wait, name="worker's end", daemon=True).start()
        code = await ended
        with suppress(asyncio.TimeoutError):  # what it said at last; its children may hold the link open
            await asyncio.wait_for(self._closed.wait(), _LAST_WORDS_S if self.jobs else 0.05)
        self._end(code)

    def _end(self, code: int) -> None:
        self.is_over = True
        if self._transport is not None:
            self._transport.abort()
        self.process.close()
        how = f"killed by {_signal_name(-code)}" if code < 0 else f"exit code {code}"
        for job in list(self.jobs.values()):
            self._drop(job)
            if job.is_told_to_stop:
                job.end(Stopped())
            elif self._victim is not None:
                job.end(Released("the worker that it shared with another task was ended", counted=False))
            else:
                job.end(Released(f"the worker was lost: {how}", counted=True))
        self.pool.lost(self, how)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        while len(received) >= HEAD.size:
            head_size, body_size = HEAD.unpack_from(received)
            end = HEAD.size + head_size + body_size
            if len(received) < end:
                return
            head = json.loads(received[HEAD.size : HEAD.size + head_size])
            body = bytes(memoryview(received)[HEAD.size + head_size : end]) if body_size else b""
            del received[:end]
            self._take(head, body)

    def _take(self, head: dict[str, Any], body: bytes) -> None:
        kind = head["k"]
        if kind == "ready":
            self.ready_s = time.monotonic()
            self.pool.ready()
        elif kind == "broken":
            logger.error("a worker cannot be set up: %s", head["error"])
        elif job := self.jobs.get(head["n"]):
            if kind == "progress":
                job.events.progress(head["fraction"], head["text"])
            elif kind == "ask":
                question = asyncio.get_running_loop().create_task(self._answer(job, head, body))
                job.questions.add(question)
                question.add_done_callback(job.questions.discard)
            else:
                self._drop(job)
                job.end(from_frame(head, body))
                self.pool.freed()

    async def _answer(self, job: _Job, head: dict[str, Any], body: bytes) -> None:
        answer, error = None, ""
        try:
            answer = await job.events.ask(head["what"], from_frame(head, body).body)
        except BackboneError as refusal:
            error = str(refusal) or type(refusal).__name__
        except asyncio.CancelledError:
            error = "the task is no longer this service's"
        except Exception as failure:
            logger.exception("%s: a question was not answered", job.attempt)
            error = type(failure).__name__
        told, body = to_frame(Completed(spilled(answer, job.folder)))
        self._send({**told, "k": "answer", "n": job.number, "error": error}, body)

    def start(self, job: _Job) -> None:
        self.jobs[job.number] = job
        self.has_worked = True
        job.events.started()
        head, body = to_frame(job.attempt)
        self._send({**head, "k": "start", "n": job.number}, body)

    def stop(self, job: _Job, reason: str, grace_s: float) -> None:
        """Cancels an attempt, and kills the worker if that is of no avail."""
        is_first, job.is_told_to_stop = not job.is_told_to_stop, True
        if reason != "shutdown":  # which leaves time for a checkpoint
            for question in job.questions:
                question.cancel()
        if grace_s > 0 and is_first:
            if self.pool.concurrency > 1:
                self._send({"k": "cancel", "n": job.number, "reason": reason})
            else:
                self.process.ring(job.number, reason)
        if grace_s > 0:
            asyncio.get_running_loop().call_later(grace_s, self._kill_for, job)
        else:
            self._kill_for(job)

    def _kill_for(self, job: _Job) -> None:
        if job.number in self.jobs and not self.is_over:
            logger.warning("%s does not stop: its worker is killed", job.attempt)
            self._victim = job
            self.process.kill()

    def close(self) -> None:
        """Lets it end: it has nothing to do any more."""
        self.process.bell.close()
        if self._transport is not None:
            self._transport.close()

    async def wait(self) -> None:
        await self._watch

    def _drop(self, job: _Job) -> None:
        self.jobs.pop(job.number, None)
        for question in job.questions:
            question.cancel()

    def _send(self, head: dict[str, Any], body: bytes = b"") -> None:
        if self._transport is None or self._transport.is_closing():
            return
        text = json.dumps(head).encode()
        self._transport.write(b"".join((HEAD.pack(len(text), len(body)), text, body)))


class ProcessPool:
    """Workers that are processes.

    Parameters:
        spawn: starts one.
        gives_up: whether to stop trying at last if none can be set up: `is_given_up` is true then.
    """

    def __init__(
        self, workers: int, concurrency: int, cancel_grace_s: float, spawn: Callable[[], Process], *, gives_up: bool
    ) -> None:
        self.concurrency = concurrency
        self.restarts = 0
        self.is_given_up = False
        self._count = workers
        self._cancel_grace_s = cancel_grace_s
        self._spawn = spawn
        self._gives_up = gives_up
        self._early: list[Process] = []
        self._workers: list[_Worker] = []
        self._failures = 0
        self._numbers = 0
        self._waiting: deque[_Job] = deque()
        self._jobs: dict[Attempt, _Job] = {}
        self._pauses: set[asyncio.TimerHandle] = set()
        self._is_stopping = False
        self._changed: Callable[[], None] = lambda: None

    def spawn_early(self) -> None:
        """Starts the processes before there is an event loop, so that they load meanwhile."""
        self._early = [self._spawn() for _ in range(self._count)]

    @property
    def slots(self) -> int:
        return self.concurrency * sum(worker.is_ready or worker.is_successor for worker in self._workers)

    async def start(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        for _ in range(self._count):
            self._hire()

    async def run(self, attempt: Attempt, events: Events) -> Outcome:
        self._numbers += 1
        job = self._jobs[attempt] = _Job(self._numbers, attempt, events)
        self._waiting.append(job)
        self._assign()
        try:
            return await job.outcome
        finally:
            del self._jobs[attempt]

    def cancel(self, attempt: Attempt, reason: str, grace_s: float) -> None:
        job = self._jobs.get(attempt)
        if job is None:
            return
        if job in self._waiting:
            self._waiting.remove(job)
            job.end(Stopped())
            return
        for worker in self._workers:
            if job.number in worker.jobs:
                is_alone = len(worker.jobs) == 1
                worker.stop(job, reason, grace_s if grace_s or is_alone else self._cancel_grace_s)

    async def stop(self) -> None:
        self._is_stopping = True
        for pause in self._pauses:
            pause.cancel()
        workers = list(self._workers)
        for worker in workers:
            worker.close()
        ends = [asyncio.ensure_future(worker.wait()) for worker in workers]
        if ends:
            _, slow = await asyncio.wait(ends, timeout=_EXIT_S)
            for worker in workers:
                worker.process.kill()
            if slow:
                await asyncio.wait(slow)

    def ready(self) -> None:
        """A worker is set up."""
        self._assign()
        self._changed()

    def freed(self) -> None:
        """A worker has done its work on an attempt."""
        self._failures = 0
        self._assign()

    def lost(self, worker: _Worker, how: str) -> None:
        """A worker's process has ended, and its attempts have their outcomes."""
        self._workers.remove(worker)
        if self._is_stopping:
            return
        self.restarts += 1
        if worker.is_proven:
            self._failures = 0
            logger.warning("a worker was lost (%s), and is replaced", how)
            self._hire(is_successor=True)
        else:
            self._failures += 1
            when = "before its first task" if worker.is_ready else "before it was ready"
            logger.error("a worker ended %s (%s)", when, how)
            self._try_later()
        self._give_back()
        self._changed()

    def _try_later(self) -> None:
        if self._gives_up and self._failures >= GIVE_UP_AFTER * self._count and not self.slots:
            self.is_given_up = True
            return
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self._failures - 1))
        logger.info("the next worker is started in %.1f s", pause_s)
        self._pauses.add(asyncio.get_running_loop().call_later(pause_s, self._hire_later))

    def _hire_later(self) -> None:
        self._pauses = {pause for pause in self._pauses if pause.when() > asyncio.get_running_loop().time()}
        self._hire()

    def _hire(self, *, is_successor: bool = False) -> None:
        try:
            process = self._early.pop() if self._early else self._spawn()
        except OSError as error:
            self._failures += 1
            logger.error("a worker cannot be started: %s", error)
            self._try_later()
        else:
            self._workers.append(_Worker(self, process, is_successor))

    def _assign(self) -> None:
        while self._waiting:
            free = [worker for worker in self._workers if worker.is_ready and len(worker.jobs) < self.concurrency]
            if not free:
                return
            min(free, key=lambda worker: len(worker.jobs)).start(self._waiting.popleft())

    def _give_back(self) -> None:
        """Gives back what waits for a worker that does not come."""
        running = sum(len(worker.jobs) for worker in self._workers)
        while self._waiting and running + len(self._waiting) > self.slots:
            self._waiting.pop().end(Released("the service cannot set up its model", counted=False))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # those for real time have no names
        return f"signal {number}"


class Process:
    """A worker's process, and this side of its sockets. It is started without an event loop: it loads meanwhile."""

    def __init__(self, command: list[str], directory: str, launch: dict[str, Any]) -> None:
        pairs = [socket.socketpair(type=kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_STREAM)]
        self.link, self.bell, self._lifeline = (ours for ours, _ in pairs)
        self.bell.setblocking(False)
        fds = [theirs.fileno() for _, theirs in pairs]
        environment = {**os.environ, VARIABLE: json.dumps({**launch, "sockets": fds})}
        try:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=fds,
                start_new_session=True,  # a group of its own: what the model starts is killed along with it
            )
        finally:
            for _, theirs in pairs:
                theirs.close()
        self.pid = self._process.pid

    def wait(self) -> int:
        """Waits for its end, and ends what it has left running.

        Returns its exit code, or the number of the signal that killed it, negative.
        """
        if hasattr(os, "waitid"):  # it stays a zombie, and its number its own, until its group is gone
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            self._kill_group()
            return self._process.wait()
        code = self._process.wait()
        self._kill_group()
        return code

    def ring(self, number: int, reason: str) -> None:
        """Cancels an attempt, if the worker is at it."""
        with suppress(OSError):
            self.bell.send(BELL.pack(number, reason.encode()[:24]))
            os.kill(self.pid, signal.SIGUSR1)

    def kill(self) -> None:
        """Ends it and its children at once."""
        if self._process.returncode is None:
            self._kill_group()

    def _kill_group(self) -> None:
        with suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        for sock in (self.link, self.bell, self._lifeline):
            sock.close()


def launcher(service: TaskService) -> Callable[[], Process]:
    """What starts a worker that runs this process's own script, or `-m` module, again.

    Raises:
        SystemExit: there is no script, as in an interactive interpreter.
    """
    given: list[str] | None = getattr(sys, "orig_argv", None)
    main = sys.modules["__main__"]
    if given is not None:
        rest = given[1:]
    elif main.__spec__ is not None:  # Python 3.9, with -m
        name = main.__spec__.name
        rest = ["-m", name[: -len(".__main__")] if name.endswith(".__main__") else name, *sys.argv[1:]]
    else:
        rest = list(sys.argv)
    if not hasattr(main, "__file__") and "-c" not in rest:
        raise SystemExit("A service's workers run its script again, and there is none here: write it to a file.")
    command = [sys.executable, *rest]
    return lambda: Process(command, FOLDER, {})


def mounted_launcher(service: TaskService) -> Callable[[], Process]:
    """What starts a worker that imports the service's module, since this process is somebody else's."""
    launch: dict[str, Any] = {
        "module": service.module,
        "ordinal": service.ordinal,
        "script": None,
        "path": sys.path,
        "argv": sys.argv,
    }
    if service.module == "__main__":
        script = getattr(sys.modules["__main__"], "__file__", None)
        if script is None:
            raise RuntimeError("A service's workers import its module, and there is none here: write it to a file.")
        launch["script"] = str(Path(FOLDER, script))
        launch["module"] = "__taskbackbone_worker__"
    command = [sys.executable, "-c", "from taskbackbone._worker import main; main()"]
    return lambda: Process(command, FOLDER, launch)
