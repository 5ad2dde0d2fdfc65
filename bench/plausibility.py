"""Whether a figure can be at all: a bench refuses one that cannot, and repeats the run.

A figure that cannot be is the fault of what measured it, a clock that began late for example. It is worse than none:
all that is divided by it is wrong as well.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self, TypeVar

T = TypeVar("T")

TRIES: Final = 3
"""How often a run is made before its benchmark fails."""
_PAYLOADS: Final = 5_000
_PINGS: Final = 100
_BURSTS: Final = 5


class ImplausibleFigure(Exception):
    """Raised for a figure that cannot be. The message says why."""


def require(holds: bool, sentence: str) -> None:
    """
    Raises:
        ImplausibleFigure: it does not hold; with the sentence, which says what was measured and why it cannot be.
    """
    if not holds:
        raise ImplausibleFigure(sentence)


def repeated_if_implausible(name: str, measure: Callable[[], T], tries: int = TRIES) -> T:
    """What *measure* returns, once it raises no `ImplausibleFigure`.

    Raises:
        ImplausibleFigure: each of the tries gave a figure that cannot be.
    """
    for number in range(1, tries + 1):
        try:
            return measure()
        except ImplausibleFigure as reason:
            if number == tries:
                raise ImplausibleFigure(
                    f"{name}: {tries} runs in a row gave a figure that cannot be. The last: {reason}"
                ) from reason
            print(f"{name}: run {number} is repeated, its figure cannot be: {reason}", file=sys.stderr, flush=True)
    raise ValueError("a run is made at least once")


@dataclass(frozen=True, slots=True)
class Limits:
    """What no task queue on this machine can surpass, since each task's payload has to go into Redis and out again.

    Parameters:
        round_trip_s: the fastest round trip to Redis.
        payloads_per_s: how many payloads a second Redis takes, or gives, through one connection that sends requests
            made beforehand and reads no answer until all are sent.
    """

    round_trip_s: float
    payloads_per_s: float

    @classmethod
    def of_redis(cls, port: int, payload_bytes: int = 500) -> Self:
        """Measure them, on a server of this machine without password. Takes a tenth of a second."""
        key, payload = b"bench:limit", b"x" * payload_bytes
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # The best of several: whatever disturbs the machine meanwhile must not make the limits stricter.
            round_trip_s = min(_took_s(connection, [b"PING"], 1) for _ in range(_PINGS))
            written_s = min(_took_s(connection, [b"SET", key, payload], _PAYLOADS) for _ in range(_BURSTS))
            read_s = min(_took_s(connection, [b"GET", key], _PAYLOADS) for _ in range(_BURSTS))
            _took_s(connection, [b"DEL", key], 1)
        return cls(round_trip_s, _PAYLOADS / min(written_s, read_s))

    def least_s(self, tasks: int) -> float:
        """The time that so many tasks take at least, to be enqueued or to be drained."""
        return self.round_trip_s + tasks / self.payloads_per_s

    def rate(self, what: str, tasks: int, seconds: float) -> float:
        """Tasks a second.

        Raises:
            ImplausibleFigure: there were none, or they took less time than is possible.
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
    """How long Redis takes to answer a request so many times, all sent in one go."""
    sent = b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)]) * times
    last = b"end of a burst"
    end = b"$%d\r\n%b\r\n" % (len(last), last)
    if times > 1:
        # The answers are counted by their last one.
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
