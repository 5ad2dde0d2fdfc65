"""Impossible figures are refused, and the run is repeated."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator

import pytest

from bench import __main__ as command
from bench import bodies, lifecycle, saturation, store
from bench.harness import Figure, side_by_side
from bench.lifecycle import SERVICE_S, SLOTS, Idle
from bench.load import Load
from bench.plausibility import ImplausibleFigure, Limits, repeated_if_implausible
from bench.simulation import Record, Work
from local.redis_server import RedisServer

LIMITS = Limits(round_trip_s=20e-6, payloads_per_s=1_000_000)
ONE_TASK_S = 2.475e-6
"""The time that a quick run once measured for the drain of one task: 404,040 a second."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


def test_rate_is_tasks_divided_by_seconds() -> None:
    assert LIMITS.rate("drained", 10_000, 0.4) == 25_000


@pytest.mark.parametrize(
    ("tasks", "seconds"),
    [
        pytest.param(1, ONE_TASK_S, id="404,040 a second"),
        pytest.param(10_000, 0.009, id="faster than their payloads"),
        pytest.param(0, 1.0, id="none"),
        pytest.param(5, 0.0, id="no time"),
        pytest.param(5, -1.0, id="time backwards"),
    ],
)
def test_a_rate_that_redis_alone_cannot_reach_is_refused(tasks: int, seconds: float) -> None:
    with pytest.raises(ImplausibleFigure, match="drained"):
        LIMITS.rate("drained", tasks, seconds)


def test_minimum_time_is_a_round_trip_and_the_payloads() -> None:
    assert LIMITS.least_s(10_000) == pytest.approx(0.01002)


def test_limits_of_this_machine_refuse_an_impossible_figure_of_the_past(server: RedisServer) -> None:
    limits = Limits.of_redis(server.port)
    with pytest.raises(ImplausibleFigure, match=r"1 task within 2\.5 µs"):
        limits.rate("drained", 1, ONE_TASK_S)
    assert limits.rate("drained", 20_000, 1.0) == 20_000
    with server.connect() as client:
        assert client.dbsize() == 0


def runs(*figures: float) -> Callable[[], float]:
    """A measure that returns the *figures* in order; those below 0 are impossible."""
    left = iter(figures)

    def run() -> float:
        figure = next(left)
        if figure < 0:
            raise ImplausibleFigure(f"{figure} is less than nothing")
        return figure

    return run


def test_run_with_an_impossible_figure_is_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert repeated_if_implausible("drain", runs(-1, -2, 3, 4)) == 3
    said = capsys.readouterr().err
    assert "drain: run 1 is repeated, its figure is impossible: -1 is less than nothing" in said
    assert "drain: run 2 is repeated" in said


def test_three_runs_with_impossible_figures_fail() -> None:
    with pytest.raises(
        ImplausibleFigure, match=r"^drain: 3 runs in a row gave .* The last: -3 is less than nothing$"
    ):
        repeated_if_implausible("drain", runs(-1, -2, -3, 4))


def test_side_by_side_measure_with_an_impossible_figure_is_repeated_at_once() -> None:
    assert side_by_side(2, {"a": runs(1, -1, 2), "b": runs(3, 4)}) == {"a": [1, 2], "b": [3, 4]}


def test_benchmark_with_impossible_figures_fails_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(quick: bool) -> list[Figure]:
        raise ImplausibleFigure("3 runs in a row gave a figure that cannot be.")

    monkeypatch.setitem(sys.modules, "bench.store", types.SimpleNamespace(run=run))
    monkeypatch.setattr(sys, "argv", ["bench", "store"])
    assert command.main() == 1
    said = capsys.readouterr().err
    assert "store was not measured: 3 runs in a row gave a figure that cannot be." in said
    assert "Traceback" not in said


def load(answers: int, latency_s: float) -> Load:
    return Load(seconds=1.0, latencies_s=[latency_s] * answers)


def test_connections_cannot_wait_longer_than_the_run_lasted() -> None:
    possible = load(2_000, 0.016)
    possible.require_plausible(connections=32)
    assert possible.rate == 2_000
    with pytest.raises(ImplausibleFigure, match="4,000 requests a second"):
        load(4_000, 0.016).require_plausible(connections=32)
    with pytest.raises(ImplausibleFigure, match="no request was answered within 1 s"):
        load(0, 0).require_plausible(connections=32)


def idle(*, completed: int = 100, took_s: float = 100 * SERVICE_S / SLOTS, empty_s: float = 0.003) -> Idle:
    return Idle([empty_s] * 3, unfilled=0, refused=0, completed=completed, took_s=took_s)


def test_slots_cannot_complete_more_work_than_their_time_allows() -> None:
    idle().require_plausible(LIMITS)
    for impossible in (idle(took_s=1.0), idle(empty_s=1e-6), idle(completed=0)):
        with pytest.raises(ImplausibleFigure):
            impossible.require_plausible(LIMITS)


def test_timestamps_of_a_task_cannot_run_backwards() -> None:
    now_s = 1_700_000_000.0
    events = [
        types.SimpleNamespace(state=state, at_ms=(now_s + after_s) * 1000)
        for state, after_s in ((lifecycle.State.CREATED, 0.001), (lifecycle.State.DISPATCHED, 0.004))
    ]
    task = types.SimpleNamespace(history=events)
    submitted = lifecycle.Submitted("task", now_s, now_s + 0.002)

    def visit(completed_s: float) -> lifecycle.Visit:
        return lifecycle.Visit("task", *(now_s + after_s for after_s in (0.005, 0.006, 0.007, 0.008, completed_s)))

    assert lifecycle.Life.of(submitted, task, visit(0.009)).total_s == pytest.approx(0.009, rel=1e-3)  # type: ignore[arg-type]
    with pytest.raises(ImplausibleFigure, match="a clock was set"):
        lifecycle.Life.of(submitted, task, visit(-3.0))  # type: ignore[arg-type]


def phases(seconds: float, server_cpu_s: float = 0.01) -> store.Phases:
    return {"create": store.Cost(steps=4_000, seconds=seconds, client_cpu_s=0.01, server_cpu_s=server_cpu_s)}


def test_steps_cannot_be_faster_than_their_payloads_or_the_server() -> None:
    assert store._plausible(phases(0.08), LIMITS) == phases(0.08)
    for impossible in (phases(0.003), phases(0.08, server_cpu_s=0.2)):
        with pytest.raises(ImplausibleFigure, match="create"):
            store._plausible(impossible, LIMITS)


def test_no_queue_completes_more_work_than_its_slots_allow() -> None:
    work = Work((10.0,) * 4, rate_per_s=1, slots=2)

    def record(makespan_s: float) -> Record:
        return Record(work, ended=dict.fromkeys(range(4), makespan_s), steps=[(0, 2, 2, 0)])

    assert saturation._plausible("ours", record(20.0)).makespan_s == 20
    with pytest.raises(ImplausibleFigure, match=r"ours: 40\.000 s of work ended within 19\.000 s on at most 2 slots"):
        saturation._plausible("ours", record(19.0))


def test_body_is_no_faster_than_memory_and_needs_at_least_the_idle_memory() -> None:
    def journey(seconds: float, peak_mb: float) -> bodies.Journey:
        return bodies.Journey({"submit": seconds}, {"submit": peak_mb})

    def checked(journey: bodies.Journey) -> bodies.Journey:
        return bodies._plausible(journey, 100 * bodies.MB, at_rest_mb=90, copied_mb_per_s=5_000)

    assert checked(journey(1.0, 220)).total_s == 1
    for impossible in (journey(0.01, 220), journey(1.0, 10)):
        with pytest.raises(ImplausibleFigure, match="100 MB"):
            checked(impossible)


def test_measured_memory_bandwidth_is_plausible() -> None:
    assert 100 < bodies._copied_mb_per_s() < 1_000_000
