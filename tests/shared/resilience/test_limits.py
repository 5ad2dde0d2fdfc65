"""The limits of what a process does at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from itertools import cycle

import pytest

from shared.resilience.limits import FairLimit, Limit, Limits, Overloaded
from shared.resilience.waits import Wait
from shared.settings import INLINE_LIMIT_BYTES, Settings


def test_a_full_limit_refuses_more_by_its_name_until_there_is_room() -> None:
    limit = Limit("requests", 3)
    with ExitStack() as held:
        held.enter_context(limit.hold(2))
        with pytest.raises(Overloaded, match="requests"), limit.hold(2):
            raise AssertionError
        held.enter_context(limit.hold())
        with pytest.raises(Overloaded), limit.hold():
            raise AssertionError
    with limit.hold(3):
        pass


def test_room_is_released_after_an_error_too() -> None:
    limit = Limit("requests", 1)
    for _ in range(3):
        with pytest.raises(ValueError), limit.hold():
            raise ValueError


def test_an_amount_beyond_the_limit_is_admitted_only_alone() -> None:
    limit = Limit("large bodies", 10)
    with limit.hold(11), pytest.raises(Overloaded), limit.hold(1):
        raise AssertionError
    with limit.hold(1), pytest.raises(Overloaded), limit.hold(11):
        raise AssertionError


def test_one_holder_may_have_all_and_the_others_still_get_their_share() -> None:
    limit = FairLimit("dispatches", 6, holders=3)
    with ExitStack() as held:
        for _ in range(6):
            held.enter_context(limit.hold("a"))
        for holder, more in (("a", 0), ("b", 2), ("c", 2)):
            for _ in range(more):
                held.enter_context(limit.hold(holder))
            with pytest.raises(Overloaded, match="dispatches"), limit.hold(holder):
                raise AssertionError
    for _ in range(3):
        with limit.hold("b"), limit.hold("b"):
            pass


def test_each_of_many_holders_has_a_share() -> None:
    limit = FairLimit("dispatches", 1, holders=3)
    with limit.hold("a"), limit.hold("b"), pytest.raises(Overloaded), limit.hold("b"):
        raise AssertionError


def fill(held: ExitStack, limit: FairLimit, holder: str, paths: Sequence[str]) -> int:
    """Hold for one path after the other while there is room. Returns how often there was."""
    number = 0
    with suppress(Overloaded):
        for path in cycle(paths):
            held.enter_context(limit.hold(holder, path))
            number += 1
    return number


def test_paths_of_one_holder_have_shares_too() -> None:
    limit = FairLimit("dispatches", 96, holders=1)
    with ExitStack() as held:
        assert fill(held, limit, "", [f"/v1/slow/{number}" for number in range(6)]) == 96
        assert fill(held, limit, "", ["/v1/fast/x"]) == 6
        assert fill(held, limit, "", ["/v1/slow/1"]) == 0
    with ExitStack() as held:
        assert fill(held, limit, "", ["/v1/slow"]) == 96
        assert fill(held, limit, "", ["/v1/fast"]) == 6


def test_paths_that_are_made_up_take_no_share_from_another_branch() -> None:
    limit = FairLimit("dispatches", 96, holders=1)
    with ExitStack() as held:
        most = fill(held, limit, "", [f"/v1/slow/{number}" for number in range(1000)])
        assert most < 96 + 96 // 2
        assert fill(held, limit, "", ["/v1/fast/x"]) == 6


def test_never_more_than_twice_the_bound_is_held_whatever_the_paths() -> None:
    limit = FairLimit("dispatches", 96, holders=3)
    with ExitStack() as held:
        paths = [f"/{first}/{second}" for first in range(50) for second in range(50)]
        assert 96 < sum(fill(held, limit, holder, paths) for holder in "abc") <= 2 * 96


def test_what_is_given_back_leaves_room_as_before() -> None:
    limit = FairLimit("dispatches", 96, holders=1)
    for _ in range(3):
        with ExitStack() as held:
            fill(held, limit, "", [f"/v1/slow/{number}" for number in range(6)])
            assert fill(held, limit, "", ["/v1/fast/x"]) == 6


def limits_of_bodies(most_bytes: int) -> Limits:
    return Limits.of(
        Settings.from_env(
            {
                "REDIS_CONNECTION_STRING": "redis://127.0.0.1",
                "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
                "BACKENDS": '{"/v1": "https://models.example.org"}',
                "MAX_BODY_BYTES_IN_FLIGHT": str(most_bytes),
            }
        )
    )


LARGE_BYTES = INLINE_LIMIT_BYTES + 1


def test_bodies_of_dispatches_leave_requests_their_share_and_the_other_way_round() -> None:
    limits = limits_of_bodies(4 * LARGE_BYTES)
    for all_of_it, others in (
        (lambda: limits.dispatched("/v1/slow", LARGE_BYTES), lambda: limits.body(LARGE_BYTES)),
        (lambda: limits.body(LARGE_BYTES), lambda: limits.dispatched("/v1/slow", LARGE_BYTES)),
    ):
        with ExitStack() as held:
            for _ in range(4):
                held.enter_context(all_of_it())
            with pytest.raises(Overloaded), all_of_it():
                raise AssertionError
            with others(), others(), pytest.raises(Overloaded), others():
                raise AssertionError


def test_bodies_of_one_service_leave_others_room() -> None:
    limits = limits_of_bodies(64 * LARGE_BYTES)
    with ExitStack() as held:
        for _ in range(64):
            held.enter_context(limits.dispatched("/v1/slow", LARGE_BYTES))
        with limits.dispatched("/v1/fast", LARGE_BYTES):
            pass


def test_small_bodies_do_not_count_toward_the_limit() -> None:
    limits = limits_of_bodies(LARGE_BYTES)
    with limits.body(LARGE_BYTES):
        with pytest.raises(Overloaded), limits.body(LARGE_BYTES):
            raise AssertionError
        with limits.body(INLINE_LIMIT_BYTES), limits.body(INLINE_LIMIT_BYTES):
            pass


async def test_requests_that_wait_with_large_bodies_leave_half_of_the_room_to_others() -> None:
    limits = limits_of_bodies(2 * LARGE_BYTES)

    def wait(body_size_bytes: int = 0) -> AbstractAsyncContextManager[Wait]:
        return limits.wait("a", 60, body_size_bytes)

    async with wait(LARGE_BYTES):
        with pytest.raises(Overloaded):
            await wait(LARGE_BYTES).__aenter__()
        async with wait(INLINE_LIMIT_BYTES), wait():
            pass
    with pytest.raises(Overloaded):
        await wait(LARGE_BYTES + 1).__aenter__()
    async with wait(LARGE_BYTES):
        pass
