"""Promise: a backend is never idle while tasks wait. Shown in simulated time, so that each run is the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.saturation import work_of
from bench.simulation import Backbone, Behaviour, Record, Wire, Work, ideal, simulate
from local.redis_server import RedisServer

RETRY_S = 2.0
DOUBLINGS = 6
"""Doublings of the pause between probes, from the first to the longest."""


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of its own: the reconciler of another test's stack would use the real time."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


def ours(redis_url: str, work: Work, behaviour: Behaviour | None = None) -> Record:
    backbone = Backbone(redis_url, settings=(("BUSY_RETRY_S", str(RETRY_S)),))
    return simulate(backbone(work, behaviour or Behaviour(), Wire()))


def test_changing_fleet_stays_busy_with_one_refusal_per_lesson_learned(redis_url: str) -> None:
    work = work_of("constant", 1000, 1)
    record = ours(redis_url, work)
    assert len(record.ended) == 1000
    assert record.makespan_s <= 1.05 * simulate(ideal(work, Behaviour(), Wire())).makespan_s
    # The queue probes with one task at a time, after a pause; but a search is refused as many as it has found.
    pauses = record.makespan_s / RETRY_S + DOUBLINGS * (1 + len(work.changes))
    found = work.slots + sum(change.slots for change in work.changes if change.slots > 0)
    assert len(record.refused_probes) <= pauses + len(record.refused_grants) + found
    # Each removed slot costs one refusal, and a report in flight at that time may cost one more. If a task ends
    # during a probe, the probe may take its slot; the task that is granted that slot is then refused.
    removed = -sum(change.slots for change in work.changes if change.slots < 0)
    assert len(record.refused_grants) <= removed + len(work.changes) + pauses / 10


@pytest.mark.parametrize(("slots", "service_s", "tasks"), [(100, 1.0, 2000), (32, 0.1, 1000), (8, 0.05, 500)])
def test_queue_learns_the_capacity_from_short_tasks(redis_url: str, slots: int, service_s: float, tasks: int) -> None:
    """Some tasks end before each answer to a probe, so the backend never holds as many as the capacity estimate."""
    work = Work((service_s,) * tasks, rate_per_s=5000, slots=slots)
    wire = Wire()
    record = ours(redis_url, work)
    # Between an end and the next start are a report, Redis and a POST: no dispatcher can do better.
    gap_s = wire.report_s + wire.redis_s + wire.post_s
    filled_s = slots * 2 * (wire.post_s + wire.redis_s)
    best_s = tasks / slots * (service_s + gap_s)
    assert record.makespan_s <= 1.1 * best_s + wire.event_s + filled_s
    assert len(record.refused) <= 0.1 * tasks


def test_slot_that_becomes_free_shortly_after_the_report_causes_few_refusals(redis_url: str) -> None:
    work = work_of("exponential", 500, 1)
    late = Behaviour(frees_late_s=0.25)
    record = ours(redis_url, work, late)
    assert len(record.ended) == 500
    assert record.makespan_s <= 1.08 * simulate(ideal(work, Behaviour(), Wire())).makespan_s
    assert len(record.refused_grants) <= len(record.ended) / 4


def test_killed_tasks_are_completed_in_the_end(redis_url: str) -> None:
    work = work_of("exponential", 200, 1, killed=True)
    record = simulate(Backbone(redis_url, lease_s=30)(work, Behaviour(), Wire()))
    assert record.killed
    assert record.ended.keys() == set(range(200))


def test_simulation_run_repeats_exactly(redis_url: str) -> None:
    work = work_of("heavy-tailed", 150, 3)
    first = ours(redis_url, work)
    assert ours(redis_url, work) == first
