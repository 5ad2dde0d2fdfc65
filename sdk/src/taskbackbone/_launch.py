"""How a worker's process is started, and this side of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from ._worker import BELL, FOLDER, VARIABLE

if TYPE_CHECKING:
    from .service import TaskService


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
