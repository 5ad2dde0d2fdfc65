"""What a process of a service has to do beside its functions: to leave in order, and to count its requests."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import time
from queue import Empty, SimpleQueue
from typing import Any, Callable
from urllib.parse import urlsplit

from task_management.calls import call
from task_management.held_tasks import instance

_RENEW_S, _INTERVAL_S, _AT_MOST_EVERY_S = 20.0, 60, 1.0

logger = logging.getLogger("ai4e")


def is_metric_disabled() -> bool:
    """Whether ``DISABLE_CURRENT_REQUEST_METRIC`` says so; some charts put something else there."""
    return os.environ.get("DISABLE_CURRENT_REQUEST_METRIC", "").strip().lower() in ("true", "1", "yes")


class Departure:
    """How the process ends: what it runs gets its time, then the server that runs it is told.

    The handler of a signal does next to nothing, for it may interrupt whatever holds a lock. A thread does the rest,
    and then repeats the signal, which goes to the handler that was there before: gunicorn's, for instance. A server
    that overwrites the handlers, or ends in another way, is caught by ``atexit``.

    Parameters:
        handler: of signals; it calls ``handle``.
        leave: does what is to be done before the process ends. It gets a function that waits for some seconds, and
            tells whether somebody is impatient meanwhile.
    """

    def __init__(self, handler: Callable[[int, Any], None], leave: Callable[[Callable[[float], bool]], None]) -> None:
        self._leave = leave
        self._signals: SimpleQueue[int] = SimpleQueue()
        self._previous: dict[int, Any] = {}
        self._pid = 0
        self._is_over = False
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, handler)
            except ValueError:
                logger.info("the service was not made by the main thread, so it handles no signals")
        atexit.register(self._at_exit)

    def is_needed(self) -> None:
        """From now on this process has something that must not be lost."""
        if self._pid != os.getpid():  # it was forked, and threads are not
            self._pid = os.getpid()
            self._is_over = False
            threading.Thread(target=self._wait, name="ai4e-departure", daemon=True).start()

    def handle(self, number: int, frame: Any) -> None:
        if self._pid == os.getpid() and not self._is_over:
            self._signals.put(number)
            return
        previous = self._previous.get(number)
        if callable(previous):
            previous(number, frame)
        elif previous != signal.SIG_IGN:
            raise SystemExit(0)

    def _wait(self) -> None:
        number = self._signals.get()
        try:
            self._leave(self._is_impatient)
        finally:
            self._is_over = True
            os.kill(os.getpid(), number)

    def _is_impatient(self, wait_s: float) -> bool:
        """Whether a second signal comes within a while."""
        try:
            self._signals.get(timeout=wait_s)
        except Empty:
            return False
        return True

    def _at_exit(self) -> None:
        if self._pid == os.getpid() and not self._is_over:
            self._is_over = True
            self._leave(self._is_impatient)


class RequestCounts:
    """Tells the backbone how many requests this process works on, by path: once a second at most, and often enough
    that its share is not dropped. It is on if ``CURRENT_PROCESSING_UPSERT_URI`` is a URL."""

    def __init__(self) -> None:
        self._url = os.environ.get("CURRENT_PROCESSING_UPSERT_URI", "").strip()
        self._cluster = os.environ.get("SERVICE_CLUSTER", "undefined")
        self._is_on = urlsplit(self._url).scheme in ("http", "https") and not is_metric_disabled()
        self._changed = threading.Condition()
        self._counts: dict[str, int] = {}
        self._told: dict[str, int] = {}
        self._shares = 0
        self._pid = 0
        self._is_leaving = False

    def change(self, path: str, by: int) -> None:
        if not self._is_on:
            return
        with self._changed:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                self._counts, self._told = {}, {}
                threading.Thread(target=self._run, name="ai4e-requests", daemon=True).start()
            self._counts[path] = self._counts.get(path, 0) + by
            self._changed.notify()

    def leave(self) -> None:
        """Take the share back to nothing."""
        with self._changed:
            if self._pid != os.getpid() or self._is_leaving:
                return
            self._is_leaving = True
            self._counts = dict.fromkeys(self._counts, 0)
            is_told = any(self._told.values())
        if is_told:
            self._tell(2.0)

    def _run(self) -> None:
        while not self._is_leaving:
            with self._changed:
                if self._counts == self._told:
                    self._changed.wait(_RENEW_S)
            if not self._is_leaving:
                self._tell(5.0)
            time.sleep(_AT_MOST_EVERY_S)

    def _tell(self, timeout_s: float) -> None:
        with self._changed:
            counts = dict(self._counts)
        reports = []
        for path, count in counts.items():
            change = count - self._told.get(path, 0)
            report = {"ApiPath": path, "ServiceCluster": self._cluster, "IntervalSeconds": _INTERVAL_S}
            report.update(IncrementBy=max(0, change), DecrementBy=max(0, -change))
            reports.append({**report, "Instance": f"{instance()}-{self._shares}"})
        status, _ = call("POST", self._url, reports, timeout_s=timeout_s, retry_for_s=0)
        if status == 200:
            self._told = counts
            return
        logger.warning("requests in flight were not reported: status %d", status)
        if status in (0, 408, 429) or status >= 500:
            # Nobody knows whether that was counted. So a new share begins, and the old one is dropped in silence.
            self._shares += 1
            self._told = {}
        else:
            self._is_on, self._is_leaving = False, True
