"""The behaviour of a process when large bodies arrive concurrently: ``python -m bench.overload --callers 20``.

It starts a stack, submits one large body per caller at the same time, and submits small tasks meanwhile. It prints
the answers and the app process's peak resident memory, before and after (Linux).
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from local.stack import Stack
from tests.scripted_backend import ScriptedBackend

MIB = 1024 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument("--callers", type=int, default=20)
    parser.add_argument("--mib", type=int, default=100, help="size of each caller's body")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory,
        ScriptedBackend() as backend,
        Stack(Path(directory), backends={"/v1/bench": backend.url}, with_model=False) as stack,
    ):
        submit_small(stack)
        print(f"peak RSS at rest: {peak_rss_mib(stack.host.pid):.0f} MiB")
        for _ in range(options.rounds):
            body = bytes(options.mib * MIB)
            over = threading.Event()
            with ThreadPoolExecutor(options.callers + 1) as callers:
                small = callers.submit(small_tasks_until, over, stack)
                started_s = time.monotonic()
                answers = Counter(callers.map(lambda _, body=body: submit_large(stack, body), range(options.callers)))
                took_s = time.monotonic() - started_s
                over.set()
            shown = ", ".join(f"{count} x {answer}" for answer, count in sorted(answers.items()))
            print(f"{options.callers} x {options.mib} MiB at once, answered in {took_s:.1f} s: {shown}")
            print(f"small submits meanwhile: {small.result()}")
            print(f"peak RSS: {peak_rss_mib(stack.host.pid):.0f} MiB")


def submit_large(stack: Stack, body: bytes) -> str:
    with stack.client() as app:
        try:
            response = app.post("/api/v1/submit/v1/bench/large", content=body)
        except httpx.TransportError as error:
            # The host may hang up before it has read a refused body; some clients then miss its answer.
            return type(error).__name__
    return str(response.status_code)


def submit_small(stack: Stack) -> float:
    started_s = time.monotonic()
    with stack.client() as app:
        app.post("/api/v1/submit/v1/bench/small", content=b"{}").raise_for_status()
    return time.monotonic() - started_s


def small_tasks_until(over: threading.Event, stack: Stack) -> str:
    took_s: list[float] = []
    while not over.is_set():
        took_s.append(submit_small(stack))
    return f"{len(took_s)} of {len(took_s)} accepted, the slowest in {max(took_s):.1f} s"


def peak_rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
