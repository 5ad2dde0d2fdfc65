"""Child processes of the local stack: started and waited for until ready, watched, killed on request, and never left
behind.
"""

import fcntl
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Self

# Both matter only when something is wrong: so long that an overloaded machine makes it in time.
START_TIMEOUT_S = 240
STOP_GRACE_S = 60
_POLL_INTERVAL_S = 0.02
_LOG_TAIL_LINES = 15
_READY_LINE = re.compile(rb"^READY (http://\S+)\r?$", re.MULTILINE)

# These ports lie below those that Linux (32768+) and macOS (49152+) give to outgoing connections. So a port stays
# free while its server restarts, and a client that retries meanwhile cannot end up connected to itself. A node of a
# Redis cluster also takes port + 10000, which lies below them too, and is none of these. The order is random because
# several processes choose.
_PORTS = range(11000, 21000)
_untried_ports = iter(random.SystemRandom().sample(_PORTS, len(_PORTS)))

# PR_SET_PDEATHSIG survives exec, so a small interpreter sets it and then becomes the command. A preexec_fn would run
# Python code between the fork of a multi-threaded process and the exec, and could deadlock there.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
parent, command = int(sys.argv[1]), sys.argv[2:]
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != parent:
    sys.exit("the parent process has ended")
try:
    os.execv(command[0], command)
except OSError as error:
    sys.exit(f"cannot run {command[0]}: {error.strerror}")
"""

# The kernel sends the signal when the *thread* that forked ends. So one thread forks all processes, and it lasts as
# long as this process.
_forking_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fork")


class LocalStackError(Exception):
    """Raised when a part of the local stack is not available, does not start, or has died."""


@cache
def _claims() -> int:
    """A file of this user. Who locks the byte at a port claims that port, for as long as the process lives."""
    return os.open(Path(tempfile.gettempdir(), f"task-backbone-ports-{os.getuid()}"), os.O_RDWR | os.O_CREAT, 0o600)


def free_port() -> int:
    """Returns a TCP port of the loopback interface that no program listens on, and that no other call has returned,
    in this or another process of this user."""
    for port in _untried_ports:
        try:
            fcntl.lockf(_claims(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            continue
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise LocalStackError(f"No free TCP port was found between {_PORTS.start} and {_PORTS.stop}.")


class ChildProcess:
    """A process of the local stack, with a process group and a log file of its own.

    It can start again after it was stopped or killed or has died, always with the same command. If a server must come
    back at its old address, the command has to name a port, not 0. On Linux it dies with this process, however this
    process ends. A subclass whose program prints no ``READY <url>`` line overrides `is_ready`, and `url` if it has
    one.

    Parameters:
        name: its name in error messages.
        command: program and arguments; PATH is searched for a program without a slash.
        log_path: the file that standard output and standard error are appended to.
        environment: variables to set in addition to this process's own. Changes apply at the next start.
        start_timeout_s: how long it may take to become ready.
    """

    _stop_signal = signal.SIGTERM

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log_path: Path,
        environment: Mapping[str, str] | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._command = [str(part) for part in command]
        self.environment = dict(environment or {})
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start_bytes = 0
        self._url: str | None = None

    @property
    def url(self) -> str:
        """The address from the ``READY`` line that the process printed."""
        if self._url is None:
            raise LocalStackError(f"{self.name} has printed no READY line.")
        return self._url

    @property
    def pid(self) -> int:
        return self._started().pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the process and returns once it is ready."""
        self.spawn()
        self.wait_until_ready()

    def spawn(self) -> None:
        """Starts the process and returns at once, so that several processes can get ready at the same time."""
        if self.is_running:
            raise LocalStackError(f"{self.name} is already running.")
        self.kill()
        program = shutil.which(self._command[0])
        if program is None:
            raise LocalStackError(f"{self.name} cannot be started: there is no program {self._command[0]}.")
        command = [program, *self._command[1:]]
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._url = None
        with self.log_path.open("ab") as log:
            self._log_start_bytes = log.tell()
            starting = _forking_thread.submit(
                subprocess.Popen,
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                process_group=0,
            )
            try:
                self._process = starting.result()
            except KeyboardInterrupt:
                self._process = starting.result()  # else nobody would end it
                raise

    def wait_until_ready(self) -> None:
        """Returns once the process is ready; raises `LocalStackError` if it dies or takes too long."""
        deadline_s = time.monotonic() + self._start_timeout_s
        while True:
            self.check()
            if self.is_ready():
                return
            if time.monotonic() > deadline_s:
                self.kill()
                raise LocalStackError(
                    f"{self.name} was not ready after {self._start_timeout_s:g} s.{self._log_tail()}"
                )
            time.sleep(_POLL_INTERVAL_S)

    def is_ready(self) -> bool:
        """Whether the process has printed its ``READY`` line. Called while it starts."""
        line = _READY_LINE.search(self._output())
        if line is not None:
            self._url = line[1].decode()
        return line is not None

    def check(self) -> None:
        """Raises `LocalStackError` with the end of the log if the process has ended by itself."""
        exit_code = self._started().poll()
        if exit_code is not None:
            self._kill_group()
            how = f"exit code {exit_code}" if exit_code >= 0 else signal.Signals(-exit_code).name
            raise LocalStackError(f"{self.name} has ended unexpectedly ({how}).{self._log_tail()}")

    def stop(self, grace_s: float = STOP_GRACE_S) -> int | None:
        """Asks the process to end (SIGTERM, unless a subclass knows better), and kills it after `grace_s`.

        Returns its exit code, negative for the signal that ended it, or None if there was nothing to stop.
        """
        if self._process is None:
            return None
        process = self._process
        process.send_signal(self._stop_signal)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
        self.kill()
        return process.returncode

    def kill(self) -> None:
        """Kills the process and its children at once (SIGKILL), as a crash would."""
        if self._process is not None:
            self._kill_group()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise LocalStackError(f"{self.name} is not running.")
        return self._process

    def _kill_group(self) -> None:
        # macOS answers EPERM, not ESRCH, for a group whose members have all ended.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._started().pid, signal.SIGKILL)

    def _output(self) -> bytes:
        """What the process has printed since its latest start."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start_bytes)
            return log.read()

    def _log_tail(self) -> str:
        lines = self._output().decode(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return "".join(f"\n  {line}" for line in [f"Its log, {self.log_path}, ends with:", *lines]) if lines else ""


def serve(part: ChildProcess, address: str) -> None:
    """Runs one part on its own: prints ``READY <address>``, exits when the part ends, and stops it on SIGTERM or
    Ctrl-C.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with part:
            print(f"READY {address}", flush=True)
            while True:
                part.check()
                time.sleep(0.5)
    except LocalStackError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        return
