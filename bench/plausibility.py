"""Checks for impossible figures: a benchmark refuses them and repeats the run.

An impossible figure is a fault of the measurement, such as a clock that began late. It is worse than no figure, since
every ratio to it is wrong as well.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self, TypeVar

T = TypeVar("T")

MAX_RUNS: Final = 3
"""How many runs with impossible figures make a benchmark fail."""
_PAYLOADS: Final = 5_000
_PINGS: Final = 100
_BURSTS: Final = 5


class ImplausibleFigure(Exception):
    """Raised for an impossible figure. The message says why."""


def require(holds: bool, sentence: str) -> None:
    """
    Raises:
        ImplausibleFigure: *holds* is false. The *sentence* says what was measured and why it is impossible.
    """
    if not holds:
        raise ImplausibleFigure(sentence)


def repeated_if_implausible(name: str, measure: Callable[[], T], max_runs: int = MAX_RUNS) -> T:
    """Repeat *measure* until it raises no `ImplausibleFigure`, and return its result.

    Raises:
        ImplausibleFigure: each run gave an impossible figure.
    """
    for number in range(1, max_runs + 1):
        try:
            return measure()
        except ImplausibleFigure as reason:
            if number == max_runs:
                raise ImplausibleFigure(
                    f"{name}: {max_runs} runs in a row gave an impossible figure. The last: {reason}"
                ) from reason
            print(
                f"{name}: run {number} is repeated, its figure is impossible: {reason}", file=sys.stderr, flush=True
            )
    raise ValueError("a run is made at least once")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of every task queue on this machine, since each task's payload has to go into Redis and out again.

    Parameters:
        round_trip_s: the fastest round trip to Redis.
        payloads_per_s: how many payloads a second Redis accepts or returns through one connection that sends prepared
            requests and reads no answer until all are sent.
    """

    round_trip_s: float
    payloads_per_s: float

    @classmethod
    def of_redis(cls, port: int, payload_bytes: int = 500) -> Self:
        """Measure the limits on a local server without a password, which takes a tenth of a second."""
        key, payload = b"bench:limit", b"x" * payload_bytes
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # The best of several: a disturbance of the machine must not make the limits stricter.
            round_trip_s = min(_took_s(connection, [b"PING"], 1) for _ in range(_PINGS))
            written_s = min(_took_s(connection, [b"SET", key, payload], _PAYLOADS) for _ in range(_BURSTS))
            read_s = min(_took_s(connection, [b"GET", key], _PAYLOADS) for _ in range(_BURSTS))
            _took_s(connection, [b"DEL", key], 1)
        return cls(round_trip_s, _PAYLOADS / min(written_s, read_s))

    def least_s(self, tasks: int) -> float:
        """The least time in which so many tasks can be enqueued or drained."""
        return self.round_trip_s + tasks / self.payloads_per_s

    def rate(self, what: str, tasks: int, seconds: float) -> float:
        """Tasks a second.

        Raises:
            ImplausibleFigure: there were no tasks, or they took less time than is possible.
        """
        require(tasks > 0, f"{what}: no task within {seconds:g} s")
        least_s = self.least_s(tasks)
        require(
            seconds >= least_s,
            f"{what}: {tasks:,} task{'s' * (tasks > 1)} within {seconds * 1e6:,.1f} µs, "
            f"but Redis alone takes {least_s * 1e6:,.1f} µs for their payloads",
        )
        return tasks / seconds


def _took_s(connection: socket.socket, words: list[bytes], times: int) -> float:
    """How long Redis takes to answer a request *times* times, all sent at once."""
    sent = b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)]) * times
    last = b"end of a burst"
    end = b"$%d\r\n%b\r\n" % (len(last), last)
    if times > 1:
        # The last answer shows that all are complete.
        sent += b"*2\r\n$4\r\nECHO\r\n" + end
    began_s = time.perf_counter()
    connection.sendall(sent)
    tail = b""
    while not (tail.endswith(end) if times > 1 else tail.endswith(b"\r\n")):
        received = connection.recv(1 << 20)
        if not received:
            raise ConnectionError("Redis hung up")
        tail = (tail + received)[-len(end) :]
    return time.perf_counter() - began_s
