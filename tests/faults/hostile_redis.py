"""A Redis server whose clock can be set back, and whose disk can be full, while it runs."""

from __future__ import annotations

import importlib.util
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from local.processes import LocalStackError
from local.redis_server import RedisServer
from shared.store.redis.durability import WAITAOF_SINCE
from tests.waiting import eventually

_DEBIAN = Path("/usr/lib")
_ROUGHLY_S = 30
"""More than the machine's clock is corrected by meanwhile."""


class SmallDisk(RedisServer):
    """A server whose disk can be full: its files stay below a limit, and the kernel refuses what would exceed it."""

    def __init__(self, directory: Path, *, extra_arguments: Sequence[str] = ()) -> None:
        super().__init__(directory, extra_arguments=extra_arguments, minimum_version=WAITAOF_SINCE)
        self._files = directory / "appendonlydir"
        # The signal of the limit would end the server. Ignored, as a child inherits it, the write fails instead.
        self._command = ["/bin/sh", "-c", 'trap "" XFSZ; exec "$@"', "sh", *self._command]

    def fill(self, limit_bytes: int | None = None) -> None:
        """The disk has room for files of that size, or for nothing more."""
        if limit_bytes is None:
            limit_bytes = max(file.stat().st_size for file in self._files.iterdir())
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))

    def empty(self) -> None:
        """The disk has room again."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def why_no_disk_is_full() -> str | None:
    """Why the disk of a running server cannot be full here, if it cannot."""
    return None if sys.platform == "linux" else "only Linux limits the files of a process that runs"


class SettableClock:
    """The clock of one server. The server sees it from its next start on, and follows it within two seconds."""

    def __init__(self, server: RedisServer, file: Path) -> None:
        self.behind_s = 0
        self._server = server
        self._file = file
        self._write()
        server.environment |= {
            "LD_PRELOAD": str(_library() or ""),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",
            # Durations stay right, as on a machine whose clock is corrected.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set_back(self, by_s: int) -> None:
        self.behind_s += by_s
        self._write()

    def is_followed(self) -> bool:
        with self._server.connect() as client:
            behind_s = time.time() - client.time()[0]
        return abs(behind_s - self.behind_s) < _ROUGHLY_S

    def _write(self) -> None:
        scratch = self._file.with_suffix(".new")
        scratch.write_text(f"-{self.behind_s}\n")
        scratch.replace(self._file)


@cache
def why_clocks_are_fixed() -> str | None:
    """Why the clock of a server cannot be set here, if it cannot. It is tried, since a library may fit no server."""
    if _library() is None:
        return "libfaketime is not installed"
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(Path(directory, "redis"))
        clock = SettableClock(server, Path(directory, "clock"))
        try:
            server.start()
            clock.set_back(3600)
            eventually(clock.is_followed)
        except (LocalStackError, AssertionError) as error:
            return f"libfaketime does not set the clock of this server: {error}"
        finally:
            server.stop()
    return None


def _library() -> Path | None:
    """The library of the PyPI package or the Debian package libfaketime."""
    package = importlib.util.find_spec("libfaketime")
    for folder in (package and package.submodule_search_locations) or ():
        for library in Path(folder).glob("vendor/libfaketime/src/libfaketime.so.1"):
            return library
    return next(_DEBIAN.glob("*/faketime/libfaketime.so.1"), None)
