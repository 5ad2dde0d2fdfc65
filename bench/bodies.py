"""Bodies from 1 KB to 100 MB: submitted, sent to a backend, stored by it as the result, fetched by the caller.

There is one body at a time, so the peak memory of the app's process (Linux counts it) is the cost of that body. The
largest is also measured part by part. 1 MB is 1,000,000 bytes.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from bench.harness import Figure, Report, Unmeasured, with_spread
from bench.plausibility import repeated_if_implausible, require
from local.stack import Stack
from tests.scripted_backend import ScriptedBackend

T = TypeVar("T")

MB: Final = 1_000_000
PATH: Final = "/v1/bench/bodies"
LARGEST: Final = 100 * MB
PARTS: Final = ("submit", "dispatch", "store result", "fetch result")
HOLD_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Journey:
    """The costs of one body, by part."""

    seconds: dict[str, float]
    peak_mb: dict[str, float]
    """Resident memory of the app's process at its peak."""

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())


def run(quick: bool) -> list[Figure]:
    if sys.platform != "linux":
        raise Unmeasured("the peak of a process's memory is read from /proc, which only Linux has")
    sizes = (1_000, 50_000, MB, 10 * MB, LARGEST)
    repeats = {size: (1 if quick else 3) if size >= 10 * MB else (3 if quick else 10) for size in sizes}
    report = Report(
        "bodies",
        quick=quick,
        settings={"repeats, by bytes": repeats, "inline up to, bytes": 64 * 1024, "at a time": 1},
    )
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory,
        ScriptedBackend() as backend,
        Stack(Path(directory), backends={"/v1/bench": backend.url}, with_model=False) as stack,
    ):
        for size in (1_000, MB):  # loading on first use is not the cost of a body
            _journey(stack, backend, size)
        at_rest_mb = _resident_mb(stack.host.pid, "VmRSS")
        copied_mb_per_s = _copied_mb_per_s()

        def journey(size: int, *, apart: bool = False) -> Journey:
            return repeated_if_implausible(
                _size(size),
                lambda: _plausible(_journey(stack, backend, size, apart=apart), size, at_rest_mb, copied_mb_per_s),
            )

        journeys = {size: [journey(size) for _ in range(repeats[size])] for size in sizes}
        in_parts = journey(LARGEST, apart=True)
    report.table(
        f"One body at a time, there and back (the process at rest: {at_rest_mb:.0f} MB)",
        ["", "ms in all", "MB/s, there and back", *(f"{part}, ms" for part in PARTS), "peak MB"],
        [
            (
                _size(size),
                with_spread([each.total_s * 1000 for each in runs], 1),
                with_spread([2 * size / MB / each.total_s for each in runs], 1),
                *(f"{statistics.median(each.seconds[part] for each in runs) * 1000:,.1f}" for part in PARTS),
                with_spread([max(each.peak_mb.values()) for each in runs]),
            )
            for size, runs in journeys.items()
        ],
    )
    report.note(
        "dispatch is what is left of it once the submit is answered: the backend may have been called by then"
    )
    largest = journeys[LARGEST]
    report.table(
        "100 MB: memory of the app's process at its peak, by part, MB",
        PARTS,
        [[f"{in_parts.peak_mb[part]:.0f}" for part in PARTS]],
    )
    report.figure(Figure.of("memory", [max(each.peak_mb.values()) for each in largest]))
    return report.finish(at_rest_mb=round(at_rest_mb, 1))


def _plausible(journey: Journey, size: int, at_rest_mb: float, copied_mb_per_s: float) -> Journey:
    """
    Raises:
        ImplausibleFigure: the body was faster than memory, or the process needed much less than it does at rest.
    """
    rate = 2 * size / MB / journey.total_s
    require(
        rate <= copied_mb_per_s,
        f"{_size(size)} there and back at {rate:,.0f} MB/s, but memory is copied at {copied_mb_per_s:,.0f}",
    )
    peak_mb = max(journey.peak_mb.values())
    require(
        peak_mb >= at_rest_mb / 2,
        f"a peak of {peak_mb:.0f} MB with {_size(size)}, but the process has {at_rest_mb:.0f} MB at rest",
    )
    return journey


def _copied_mb_per_s() -> float:
    """The rate at which this machine copies memory; each byte of a body is copied more than once."""
    body = bytearray(LARGEST)
    took_s: list[float] = []
    for _ in range(3):
        began_s = time.perf_counter()
        body = bytearray(body)
        took_s.append(time.perf_counter() - began_s)
    return LARGEST / MB / min(took_s)


def _journey(stack: Stack, backend: ScriptedBackend, size: int, *, apart: bool = False) -> Journey:
    """
    Parameters:
        apart: whether the event is delayed until the submit is answered and its body is freed.
    """
    body = os.urandom(size)
    seconds: dict[str, float] = {}
    peak_mb: dict[str, float] = {}
    stack.set_faults({"delay": {"seconds": HOLD_S}} if apart else {})

    def part(name: str, act: Callable[[], T], *, goes_on: bool = False) -> T:
        if not goes_on:
            Path(f"/proc/{stack.host.pid}/clear_refs").write_text("5")  # the peak from here
        began_s = time.perf_counter()
        done = act()
        seconds[name] = time.perf_counter() - began_s
        peak_mb[name] = _resident_mb(stack.host.pid, "VmHWM")
        return done

    with stack.client() as app:
        submitted = part("submit", lambda: app.post(f"/api/v1/submit{PATH}", content=body))
        task_id = submitted.raise_for_status().json()["TaskId"]
        # Without a pause the backend would be called while the submit is still being answered.
        call = part("dispatch", lambda: backend.next_call(PATH, 60), goes_on=not apart)
        assert call.body == body
        result = f"/api/v1/tasks/{task_id}/result"
        part("store result", lambda: app.put(result, content=call.body).raise_for_status())
        report = {"TaskId": task_id, "BackendStatus": "completed", "Status": "completed"}
        app.post("/api/CacheConnectorUpsert", json=report).raise_for_status()
        assert part("fetch result", lambda: app.get(result).raise_for_status()).content == body
    return Journey(seconds, peak_mb)


def _resident_mb(pid: int, field: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024 / MB


def _size(size: int) -> str:
    return f"{size // MB} MB" if size >= MB else f"{size // 1000} KB"
