"""Hostile model services: how long others wait beside sixteen that never stop answering, and beside a slow one.

Each of the sixteen gets a task, and another caller asks for a task of its own, call after call: by turns while they
flood and while they do not. Then a service that takes a task after 20 s gets 240 of them on six paths, and tasks of
another service are submitted one by one: each with an entry of its own in the registry, and both behind one.

The services run at the lowest priority, since in earnest they have machines of their own.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from bench.flooder import FLOODS, FlooderProcess
from bench.harness import Figure, Report, with_spread
from bench.plausibility import repeated_if_implausible, require
from local.stack import Stack

SERVICES: Final = 16
INTERIM: Final = "100 Continue"
QUICKLY: Final = (INTERIM, "a result")
SAMPLE_S: Final = 1.5
"""Short, and so many by turns, since a machine has busy moments."""
SLOW_PATHS: Final = 6
TASKS_A_PATH: Final = 40
LONG_S, SHORT_S = 60.0, 24.0
"""How long tasks of the other service come. The slow one gets more and more at a time meanwhile."""
CALLERS: Final = 16
PATIENCE_S: Final = 60.0
BETWEEN_S: Final = 0.1
SETTLING_S: Final = 1.0


def run(quick: bool) -> list[Figure]:
    names, repeats = (QUICKLY, 5) if quick else (tuple(FLOODS), 5)
    report = Report(
        "floods",
        quick=quick,
        settings={"services": SERVICES, "repeats": repeats, "slow paths": SLOW_PATHS, "tasks a path": TASKS_A_PATH},
    )
    pairs = _beside_floods(names, repeats)
    report.table(
        f"another caller's GET of a task beside {SERVICES} flooding services, ms",
        ["", "median idle", "median then", "longest then", "ratio"],
        [
            (
                name,
                with_spread([pair.idle.median_ms for pair in taken], 2),
                with_spread([pair.then.median_ms for pair in taken], 2),
                with_spread([pair.then.longest_ms for pair in taken]),
                with_spread([pair.ratio for pair in taken], 2),
            )
            for name, taken in pairs.items()
        ],
    )
    ratios = {name: [pair.ratio for pair in taken] for name, taken in pairs.items()}
    report.figure(Figure.of("floods", ratios.pop(INTERIM)))
    worst = max(ratios, key=lambda name: statistics.median(ratios[name]))
    report.note(f"the worst of the others is {worst}")
    report.figure(Figure.of("floods_worst", ratios[worst]))
    for_s = SHORT_S if quick else LONG_S
    waits = {
        name: repeated_if_implausible(
            name, lambda is_shared=is_shared: _beside_slow_service(is_shared=is_shared, for_s=for_s)
        )
        for name, is_shared in (("one each", False), ("one for both", True))
    }
    report.table(
        f"a task of another service beside {SLOW_PATHS * TASKS_A_PATH} of a slow one: until it has ended, ms",
        ["entries of the registry", "slow ones at a time", "tasks", "median", "p95", "longest"],
        [
            (
                name,
                each.held,
                len(each.ms),
                *(f"{ms:.0f}" for ms in (statistics.median(each.ms), each.p95_ms, max(each.ms))),
            )
            for name, each in waits.items()
        ],
    )
    report.figure(Figure.of("floods_slow", [each.p95_ms / 1000 for each in waits.values()]))
    return report.finish()


@dataclass(frozen=True, slots=True)
class _Sample:
    """How long calls take."""

    median_ms: float
    longest_ms: float


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two samples, one just after the other."""

    idle: _Sample
    then: _Sample

    @property
    def ratio(self) -> float:
        return self.then.median_ms / self.idle.median_ms


def _beside_floods(names: tuple[str, ...], repeats: int) -> Mapping[str, list[_Pair]]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, ExitStack() as parts:
        flooder = parts.enter_context(FlooderProcess(Path(name), SERVICES))
        prefixes = {f"/v1/flood{number}": address for number, address in enumerate(flooder.addresses)}
        app = parts.enter_context(_app(Path(name), prefixes))
        task = f"/api/v1/tasks/{_submit(app, '/v1/flood0')}"
        for prefix in prefixes:  # loading on first use is not the cost of a flood
            _wait_until_ended(app, _submit(app, prefix))
        taken: dict[str, list[_Pair]] = {each: [] for each in names}
        for _ in range(repeats):
            for each in names:
                pair = repeated_if_implausible(each, lambda each=each: _pair(app, task, flooder, each, [*prefixes]))
                taken[each].append(pair)
    return taken


def _pair(app: httpx.Client, task: str, flooder: FlooderProcess, name: str, prefixes: list[str]) -> _Pair:
    idle = _sample(app, task)
    flooder.answer_with(name)
    submitted = [_submit(app, prefix) for prefix in prefixes]
    then = _sample(app, task)
    came, _ = flooder.calls()
    flooder.be_quiet()
    for task_id in submitted:
        app.delete(f"/api/v1/tasks/{task_id}")
    _until(lambda: flooder.calls()[1] == 0, "all floods end")
    time.sleep(SETTLING_S)
    require(came >= SERVICES, f"{came} of {SERVICES} services were called, so the others did not flood")
    return _Pair(idle, then)


def _sample(app: httpx.Client, task: str) -> _Sample:
    calls_ms = [*_calls_ms(app, task)]
    return _Sample(statistics.median(calls_ms), max(calls_ms))


def _calls_ms(app: httpx.Client, task: str) -> Iterator[float]:
    end_s = time.perf_counter() + SAMPLE_S
    while (began_s := time.perf_counter()) < end_s:
        app.get(task).raise_for_status()
        yield (time.perf_counter() - began_s) * 1000


def _beside_slow_service(*, is_shared: bool, for_s: float) -> _Waits:
    """
    Args:
        is_shared: whether one entry of the registry, as of a gateway, leads to both services.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, ExitStack() as parts:
        flooder = parts.enter_context(FlooderProcess(Path(name), services=1))
        (address,) = flooder.addresses
        entries = {"/v1": address} if is_shared else {"/v1/slow": address, "/v1/own": address}
        app = parts.enter_context(_app(Path(name), entries))
        _wait_until_ended(app, _submit(app, "/v1/own"))
        paths = [f"/v1/slow/{number % SLOW_PATHS}" for number in range(SLOW_PATHS * TASKS_A_PATH)]
        with ThreadPoolExecutor(CALLERS) as pool:
            submitted = set(pool.map(lambda path: _submit(app, path), paths))
        require(len(submitted) == len(paths), "each submit makes a task")
        waits_ms, held = list[float](), 0
        end_s = time.perf_counter() + for_s
        while (began_s := time.perf_counter()) < end_s:
            _wait_until_ended(app, _submit(app, "/v1/own"))
            waits_ms.append((time.perf_counter() - began_s) * 1000)
            held = max(held, flooder.calls()[1])
    require(held >= SLOW_PATHS, f"the slow service held only {held} tasks while others came")
    return _Waits(waits_ms, held)


@dataclass(frozen=True, slots=True)
class _Waits:
    """Until each task had ended, and how many of the slow service's were under way at most."""

    ms: list[float]
    held: int

    @property
    def p95_ms(self) -> float:
        return sorted(self.ms)[math.ceil(0.95 * len(self.ms)) - 1]


@contextmanager
def _app(directory: Path, backends: Mapping[str, str]) -> Iterator[httpx.Client]:
    with Stack(directory / "stack", backends=backends, with_model=False) as stack, stack.client() as app:
        yield app


def _submit(app: httpx.Client, path: str) -> str:
    return app.post(f"/api/v1/submit{path}", content=b"{}").raise_for_status().json()["TaskId"]


def _wait_until_ended(app: httpx.Client, task_id: str) -> None:
    def has_ended() -> bool:
        task = app.get(f"/api/v1/tasks/{task_id}", headers={"Prefer": "wait=20"}).raise_for_status().json()
        return task["BackendStatus"] in ("completed", "failed")

    _until(has_ended, "each task ends")


def _until(condition: Callable[[], bool], sentence: str) -> None:
    end_s = time.perf_counter() + PATIENCE_S
    while not condition():
        require(time.perf_counter() < end_s, sentence)
        time.sleep(BETWEEN_S)
