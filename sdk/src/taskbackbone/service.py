"""A function as a task service.

    from taskbackbone import Task, TaskService

    service = TaskService()

    @service.task("/v1/words/count", content_types=["text/plain"])
    def count(body: str, task: Task, *, least: int = 1) -> dict:
        task.progress(0.5, "counting")
        return {"words": sum(len(word) >= least for word in body.split())}

    service.run()

`run` makes this process the *supervisor*: it serves HTTP, sends heartbeats and reports. The function runs in a
*worker*, a fresh interpreter that runs the same script and becomes a worker at the same `run`. So nothing that a
model does to its interpreter keeps the supervisor from its work, and what stands below `run` is run in the supervisor
only, at the end.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Callable, Literal, NamedTuple, TypeVar

from ._bodies import Result, Signature
from ._task import Task
from ._worker import FOLDER, LAUNCH, work
from .errors import Cancelled, Fail, TryAgain

if TYPE_CHECKING:
    from .asgi import Mounted

__all__ = ["Cancelled", "Fail", "Result", "Task", "TaskService", "TryAgain", "serve"]

Function = TypeVar("Function", bound=Callable[..., Any])
_instances: dict[str, int] = {}


def _told_s(variable: str, default_s: float) -> float:
    """Seconds of the environment, where whoever runs the service says how long its pod lasts."""
    text = os.environ.get(variable) or str(default_s)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{variable} is {text!r}, and no number of seconds")
    return seconds


class Route(NamedTuple):
    """A path with its function and limits."""

    path: str
    function: Callable[..., Any]
    signature: Signature
    content_types: tuple[str, ...]
    max_body_bytes: int | None
    timeout_s: float | None
    stall_s: float | None
    retry_on: tuple[type[BaseException], ...]


class TaskService:
    """Functions that work on tasks, and how.

    Parameters:
        workers: how many interpreters work on tasks. Each holds its own model.
        concurrency: how many tasks a worker has at a time. More than 1: in threads, and cancelled only where they
            call `task.check()` or `task.progress()`.
        isolation: ``process``, or ``thread`` to run the functions in threads of this process. Then a function that
            holds the GIL stops heartbeats, one that crashes takes the service along, and none can be ended by force.
        drain_s: for how long tasks may go on when the service is told to stop, in seconds. Without it,
            `SERVICE_DRAIN_S` of the environment, else 20.
        cancel_grace_s: how long a function may take to end when it is cancelled, before its worker is killed. Without
            it, `SERVICE_CANCEL_GRACE_S`, else 10.

    A pod needs a `terminationGracePeriodSeconds` of `drain_s` + `cancel_grace_s` + 5.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        concurrency: int = 1,
        isolation: Literal["process", "thread"] = "process",
        drain_s: float | None = None,
        cancel_grace_s: float | None = None,
    ) -> None:
        if workers < 1 or concurrency < 1:
            raise ValueError("workers and concurrency are at least 1")
        if isolation not in ("process", "thread"):
            raise ValueError("isolation is process or thread")
        self.workers = workers
        self.concurrency = concurrency
        self.isolation = isolation
        self.drain_s = _told_s("SERVICE_DRAIN_S", 20.0) if drain_s is None else drain_s
        self.cancel_grace_s = _told_s("SERVICE_CANCEL_GRACE_S", 10.0) if cancel_grace_s is None else cancel_grace_s
        self.routes: dict[str, Route] = {}
        self.setups: list[Callable[[], Any]] = []
        frame = inspect.currentframe()
        maker = frame.f_back if frame else None
        self.module = str(maker.f_globals.get("__name__")) if maker else "__main__"
        self.ordinal = _instances[self.module] = _instances.get(self.module, -1) + 1
        """Which service of its module this is: so a worker that imports the module finds it."""
        services[self.module, self.ordinal] = self
        self._asgi: Mounted | None = None

    def setup(self, function: Function) -> Function:
        """Decorates a function that each worker calls once before its first task, such as to load a model."""
        self.setups.append(function)
        return function

    def task(
        self,
        path: str,
        *,
        content_types: Sequence[str] = (),
        max_body_bytes: int | None = None,
        timeout_s: float | None = None,
        stall_s: float | None = None,
        retry_on: Sequence[type[BaseException]] = (),
    ) -> Callable[[Function], Function]:
        """Decorates the function for the tasks of a path.

        It may take, by position, a body and a `Task`: the body as bytes, str, dict, list, Path, BinaryIO or as a
        pydantic model, by its annotation. What it takes by keyword comes from the query. It returns bytes, str,
        anything that JSON can tell, the Path of a file, a `Result`, or None. It may raise `Fail` and `TryAgain`.

        Parameters:
            content_types: what bodies may be, such as ``image/png`` or ``image/*``; all, if empty.
            max_body_bytes: the largest body, compressed or not.
            timeout_s: after so many seconds of work the worker is killed, and the task has failed.
            stall_s: after so many seconds without `task.progress()` and `task.check()` the worker is killed, and the
                task is tried again.
            retry_on: exceptions upon which the task is tried again.

        Raises:
            TypeError: a function that takes something else.
            ValueError: the path has a function, or does not begin with a slash.
        """
        if not path.startswith("/") or "?" in path:
            raise ValueError(f"{path!r}: a path begins with a slash and has no query")
        path = path.rstrip("/") or "/"
        if path in self.routes:
            raise ValueError(f"{path} has a function already")

        def register(function: Function) -> Function:
            accepted = tuple(content_type.lower() for content_type in content_types)
            limits = max_body_bytes, timeout_s, stall_s
            self.routes[path] = Route(path, function, Signature(function, Task), accepted, *limits, tuple(retry_on))
            return function

        return register

    def run(self, *, host: str | None = None, port: int | None = None) -> None:
        """Serves until the process is told to stop by SIGTERM or SIGINT, and returns then.

        Parameters:
            host: the address to listen at; without it, `SERVICE_HOST`, or else 127.0.0.1.
            port: without it, `PORT`, or else 8080.

        Raises:
            SystemExit: with 1, if no worker can be set up, or if the address is not free.
        """
        if LAUNCH is not None:
            work(self, LAUNCH)
        if _is_child_of_multiprocessing():
            return  # the model's own child process imports the script too
        from ._main import main

        main(self, host, port)

    @property
    def asgi(self) -> Mounted:
        """The service as an ASGI app, to be mounted in another one: see `taskbackbone.asgi`."""
        if self._asgi is None:
            from .asgi import Mounted

            self._asgi = Mounted(self)
        return self._asgi


services: dict[tuple[str, int], TaskService] = {}
"""All services of this process, by module and ordinal."""


def serve(argv: Sequence[str]) -> int:
    """`python -m taskbackbone serve MODULE:SERVICE [--host HOST] [--port PORT]`. Returns the exit code."""
    import argparse
    import importlib

    parser = argparse.ArgumentParser(prog="taskbackbone serve", description="Run a service until it is told to stop.")
    parser.add_argument("service", metavar="MODULE:SERVICE", help="where the TaskService is, such as words:service")
    parser.add_argument("--host", help="the address to listen at (SERVICE_HOST, or 127.0.0.1)")
    parser.add_argument("--port", type=int, help="the port (PORT, or 8080)")
    options = parser.parse_args(argv)
    module_name, _, name = options.service.partition(":")
    sys.path.insert(0, FOLDER)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0]:
            raise
        parser.error(f"there is no module {module_name} here")
    found = getattr(module, name or "service", None)
    if not isinstance(found, TaskService):
        parser.error(f"{name or 'service'} in {module_name} is no TaskService")
    found.run(host=options.host, port=options.port)
    return 0


def _is_child_of_multiprocessing() -> bool:
    process = sys.modules.get("multiprocessing.process")
    if process is None:
        return False
    # The first is true while a spawned child imports the script, and the other one from then on.
    return getattr(process.current_process(), "_inheriting", False) or process.parent_process() is not None
