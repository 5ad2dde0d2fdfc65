"""Python runs this file first in each process that has this folder on its path.

``CLOCK_SHIFT_S`` shifts the process's clock by that many seconds: ``time.time``, ``time.time_ns``, ``time.gmtime``
and ``time.localtime`` without an argument, and ``now``, ``utcnow`` and ``today`` of ``datetime.datetime``. Durations
stay right, as on a machine whose clock is wrong: ``time.monotonic`` and the event loop's time are not changed.

On SIGUSR1 the process writes the number of its unfinished asyncio tasks to the file ``TASK_COUNT_FILE``.
"""

import asyncio
import datetime as datetime_module
import gc
import os
import signal
import time
from pathlib import Path
from typing import Self


def _shift_clock(by_s: float) -> None:
    right_time, right_time_ns, gmtime, localtime = time.time, time.time_ns, time.gmtime, time.localtime
    right_datetime = datetime_module.datetime
    time.time = lambda: right_time() + by_s
    time.time_ns = lambda: right_time_ns() + round(by_s * 1e9)
    time.gmtime = lambda seconds=None: gmtime(time.time() if seconds is None else seconds)
    time.localtime = lambda seconds=None: localtime(time.time() if seconds is None else seconds)

    class Kind(type):
        """C code makes instances of the original class; they count as instances of this one."""

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, right_datetime)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, right_datetime)

    class datetime(right_datetime, metaclass=Kind):  # noqa: N801 (it replaces that class)
        @classmethod
        def now(cls, tz: datetime_module.tzinfo | None = None) -> Self:
            return cls.fromtimestamp(time.time(), tz)

        @classmethod
        def today(cls) -> Self:
            return cls.now()

        @classmethod
        def utcnow(cls) -> Self:
            return cls.now(datetime_module.UTC).replace(tzinfo=None)

    datetime_module.datetime = datetime


def _write_task_count(file: Path) -> None:
    def write(*_: object) -> None:
        # By type, since isinstance would wake lazy proxy objects.
        tasks = [thing for thing in gc.get_objects() if issubclass(type(thing), asyncio.Task)]
        scratch = file.with_suffix(f".{os.getpid()}")
        scratch.write_text(str(sum(not task.done() for task in tasks)))
        scratch.replace(file)

    signal.signal(signal.SIGUSR1, write)


if "CLOCK_SHIFT_S" in os.environ:
    _shift_clock(float(os.environ["CLOCK_SHIFT_S"]))
if "TASK_COUNT_FILE" in os.environ:
    _write_task_count(Path(os.environ["TASK_COUNT_FILE"]))
