"""The promise that a busy backend is never idle while tasks wait, kept in simulated time: each run is the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.saturation import work_of
from bench.simulation import Backbone, Manners, Record, Wire, Work, ideal, simulate
from local.redis_server import RedisServer

RETRY_S = 2.0
DOUBLINGS = 6
"""From the first pause to the longest."""


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Not that of other tests: a stack's reconciler there goes by the real time."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


def ours(redis_url: str, work: Work, manners: Manners | None = None) -> Record:
    backbone = Backbone(redis_url, settings=(("BUSY_RETRY_S", str(RETRY_S)),))
    return simulate(backbone(work, manners or Manners(), Wire()))


def test_changing_fleet_stays_busy_with_one_refusal_per_lesson_learned(redis_url: str) -> None:
    work = work_of("constant", 1000, 1)
    record = ours(redis_url, work)
    assert len(record.ended) == 1000
    assert record.makespan_s <= 1.05 * simulate(ideal(work, Manners(), Wire())).makespan_s
    # More is tried one at a time, after a pause.
    pauses = record.makespan_s / RETRY_S + DOUBLINGS * (1 + len(work.changes))
    assert len(record.refused_tries) <= pauses + len(record.refused_grants)
    # Of slots that went, each was missed once; a report under way when they went may cost one more. And where a task
    # ends just as more is tried, the try may get the slot, and whom it is handed on to is refused.
    removed = -sum(change.slots for change in work.changes if change.slots < 0)
    assert len(record.refused_grants) <= removed + len(work.changes) + pauses / 10


@pytest.mark.parametrize(("slots", "service_s", "tasks"), [(100, 1.0, 2000), (32, 0.1, 1000), (8, 0.05, 500)])
def test_queue_learns_the_capacity_from_short_tasks(redis_url: str, slots: int, service_s: float, tasks: int) -> None:
    """Some end before each answer to a try, so that the backend never holds all that is known of at that moment."""
    work = Work((service_s,) * tasks, rate_per_s=5000, slots=slots)
    wire = Wire()
    record = ours(redis_url, work)
    # Between an end and the next begin lie a report, Redis and a POST: nobody can do better.
    gap_s = wire.report_s + wire.redis_s + wire.post_s
    filled_s = slots * 2 * (wire.post_s + wire.redis_s)
    best_s = tasks / slots * (service_s + gap_s)
    assert record.makespan_s <= 1.1 * best_s + wire.event_s + filled_s
    assert len(record.refused) <= 0.1 * tasks


def test_slot_that_becomes_free_shortly_after_the_report_causes_few_refusals(redis_url: str) -> None:
    work = work_of("exponential", 500, 1)
    late = Manners(frees_late_s=0.25)
    record = ours(redis_url, work, late)
    assert len(record.ended) == 500
    assert record.makespan_s <= 1.08 * simulate(ideal(work, Manners(), Wire())).makespan_s
    assert len(record.refused_grants) <= len(record.ended) / 4


def test_killed_tasks_are_completed_in_the_end(redis_url: str) -> None:
    work = work_of("exponential", 200, 1, killed=True)
    record = simulate(Backbone(redis_url, lease_s=30)(work, Manners(), Wire()))
    assert record.killed
    assert record.ended.keys() == set(range(200))


def test_simulation_run_repeats_exactly(redis_url: str) -> None:
    work = work_of("heavy-tailed", 150, 3)
    first = ours(redis_url, work)
    assert ours(redis_url, work) == first
