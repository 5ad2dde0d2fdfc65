"""The percentiles of the series."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shared.store.queue_steps import QueueEntry, QueueSteps
from shared.store.redis.link import RedisLink
from shared.store.series import FIRST_BIN_S, LAST_BIN, Ended, EndpointSeries, percentile_s
from shared.tasks.outcomes import SlotGrant
from shared.tasks.task import State
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.counted import (
    HOUR_MS,
)
from tests.shared.store.fleet import PATH, new_task
from tests.shared.store.policies import store_policy
from tests.shared.store.world import START_MS


def bin_of(seconds: float) -> int:
    edges = [FIRST_BIN_S * 2**number for number in range(LAST_BIN)]
    return sum(1 for edge in edges if seconds > edge)


@given(
    st.lists(st.floats(0.01, 90_000), min_size=1, max_size=300),
    st.sampled_from([0.5, 0.95, 0.99]),
)
def test_a_percentile_is_right_within_its_bin(durations_s: list[float], share: float) -> None:
    bins: dict[int, int] = {}
    for seconds in durations_s:
        bins[bin_of(seconds)] = bins.get(bin_of(seconds), 0) + 1
    exact = sorted(durations_s)[max(0, -(-len(durations_s) * round(share * 100) // 100) - 1)]
    found = percentile_s(bins, share)
    assert found is not None
    assert abs(bin_of(found) - bin_of(exact)) <= 1


def test_percentiles_rise_with_the_share() -> None:
    bins = {0: 3, 4: 10, 9: 1, LAST_BIN: 1}
    found = [percentile_s(bins, share / 100) for share in range(1, 100)]
    assert all(low is not None and high is not None and low <= high for low, high in pairwise(found))
    assert percentile_s({}, 0.5) is None


async def test_percentiles_of_many_random_waits_and_runs_are_within_one_bin(redis_url: str, clock: Clock) -> None:
    """As one would compute them of the tasks themselves."""
    link, chance = RedisLink(opener(redis_url)), random.Random(18)
    queues, series = QueueSteps(link, store_policy(), lambda path: None, clock), EndpointSeries(link)
    waits = [round(chance.lognormvariate(1, 2) * 1000) for _ in range(10_000)]
    runs = [round(chance.paretovariate(0.7) * 500) for _ in range(10_000)]
    for start in range(0, len(waits), 500):
        batch = [new_task(f"t{number}", clock) for number in range(start, start + 500)]
        await queues.mark_held([QueueEntry.of(task) for task in batch])
        ends = zip(batch, waits[start:], runs[start:], strict=False)
        await asyncio.gather(
            *(
                queues.release(PATH, SlotGrant.of(task), "", run_ms, Ended(State.COMPLETED, wait_ms))
                for task, wait_ms, run_ms in ends
            )
        )
        clock.advance(7)
    hour_ms = START_MS - START_MS % HOUR_MS
    (bucket,) = await series.read(PATH, hour_ms, hour_ms + HOUR_MS, HOUR_MS, clock())
    assert bucket.counts is not None and bucket.counts["completed"] == 10_000
    for bins, exact in ((bucket.waits, waits), (bucket.runs, runs)):
        assert sum(bins.values()) == 10_000
        for share in (0.5, 0.95, 0.99):
            found = percentile_s(bins, share)
            assert found is not None
            assert abs(bin_of(found) - bin_of(sorted(exact)[int(share * 10_000) - 1] / 1000)) <= 1
    await link.aclose()
