"""JSON bombs: what 100 MB of a caller's JSON takes of the app, and how long others wait meanwhile.

Each is sent to ``CacheConnectorUpsert`` of an app on its own, so that the peak memory of the app's process (Linux
counts it) is that of one of them. Another caller asks for health all the time.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from bench.harness import Figure, Report, Unmeasured
from bench.plausibility import require
from local.stack import NO_TLS, Stack

MB: Final = 1_000_000
LARGEST: Final = 100 * MB
TIMEOUT_S: Final = 60.0


def _filled(start: bytes, repeated: bytes, end: bytes = b"") -> bytes:
    return start + repeated * ((LARGEST - len(start) - len(end)) // len(repeated)) + end


def _many_keys() -> bytes:
    keys = b",".join(b'"name%09d":%d' % (number, number) for number in range(LARGEST // 26))
    return b'{"Status":"created",' + keys + b"}"


BOMBS: Final[dict[str, Callable[[], bytes]]] = {
    "empty lists": lambda: _filled(b"[[]", b",[]", b"]"),
    "deep lists": lambda: b"[" * (LARGEST // 2) + b"]" * (LARGEST // 2),
    "many names": _many_keys,
    "escapes": lambda: _filled(b'{"Status":"created","Endpoint":"/v1/a","Body":"', rb"\u00e9", b'"}'),
    "blanks": lambda: _filled(b"{", b" ", b"}"),
    "one number": lambda: _filled(b"", b"7"),
    "one name": lambda: _filled(b'{"', b"a", b'":1}'),
}


@dataclass(frozen=True, slots=True)
class Blast:
    status: int
    took_s: float
    peak_mb: float
    healths: int
    longest_health_s: float


def run(quick: bool) -> list[Figure]:
    if sys.platform != "linux":
        raise Unmeasured("the peak of a process's memory is read from /proc, which only Linux has")
    names = ("escapes", "one name") if quick else tuple(BOMBS)
    report = Report("bombs", quick=quick, settings={"bytes": LARGEST, "at a time": 1})
    blasts: dict[str, Blast] = {}
    for name in names:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            blasts[name] = _blast(Path(directory), BOMBS[name]())
    report.table(
        "100 MB of JSON to CacheConnectorUpsert",
        ["", "answer", "s", "peak MB", "calls of health", "longest, ms"],
        [
            (
                name,
                blast.status,
                f"{blast.took_s:.1f}",
                f"{blast.peak_mb:.0f}",
                blast.healths,
                f"{blast.longest_health_s * 1000:.0f}",
            )
            for name, blast in blasts.items()
        ],
    )
    report.figure(Figure.of("bombs_memory", [max(blast.peak_mb for blast in blasts.values())]))
    report.figure(Figure.of("bombs_health", [max(blast.longest_health_s for blast in blasts.values())]))
    return report.finish()


def _blast(directory: Path, body: bytes) -> Blast:
    with Stack(directory) as stack, stack.client() as app:
        app.get("/api/v1/health").raise_for_status()
        app.post("/api/CacheConnectorUpsert", content=b"[]")  # loading on first use is not the cost of a body
        Path(f"/proc/{stack.host.pid}/clear_refs").write_text("5")  # the peak from here
        ended = threading.Event()
        waits_s: list[float] = []
        asking = threading.Thread(target=_ask_health, args=(stack.url, ended, waits_s))
        asking.start()
        began_s = time.perf_counter()
        try:
            answer = app.post("/api/CacheConnectorUpsert", content=body, timeout=TIMEOUT_S)
        finally:
            took_s = time.perf_counter() - began_s
            ended.set()
            asking.join()
        status = Path(f"/proc/{stack.host.pid}/status").read_text()
    require(bool(waits_s), "health was asked meanwhile")
    peak_mb = int(status.split("VmHWM:")[1].split()[0]) * 1024 / MB
    return Blast(answer.status_code, took_s, peak_mb, len(waits_s), max(waits_s))


def _ask_health(url: str, ended: threading.Event, waits_s: list[float]) -> None:
    with httpx.Client(base_url=url, verify=NO_TLS, timeout=TIMEOUT_S) as other:
        while not ended.is_set():
            began_s = time.perf_counter()
            other.get("/api/v1/health")
            waits_s.append(time.perf_counter() - began_s)
            ended.wait(0.02)
