"""The delivery policy, as tables."""

import itertools

import pytest

from local.event_grid.delivery import (
    Answer,
    EndpointHealth,
    GiveUp,
    RetryIn,
    after_failure,
    has_expired,
)

SECONDS = {"s": 1, "m": 60, "h": 3600}


def failed(status: int | None, attempts: int = 1, max_attempts: int = 30, jitter: float = 0) -> RetryIn | GiveUp:
    answer = Answer.of_status(status) if status else Answer(None, "TimedOut")
    return after_failure(answer, attempts=attempts, max_attempts=max_attempts, jitter=jitter)


def test_retry_schedule_is_the_documented_one():
    documented = ["10s", "30s", "1m", "5m", "10m", "30m", "1h", "3h", "6h", "12h", "12h", "12h"]
    expected = [RetryIn(int(delay[:-1]) * SECONDS[delay[-1]]) for delay in documented]
    assert [failed(500, attempts) for attempts in range(1, 13)] == expected


@pytest.mark.parametrize(
    ("status", "delays_s"),
    [
        (408, [120, 120, 120, 300]),
        (503, [30, 30, 60, 300]),
        (429, [10, 30, 60, 300]),
        (404, [10, 30, 60, 300]),
        (302, [10, 30, 60, 300]),
        (205, [10, 30, 60, 300]),
        (None, [10, 30, 60, 300]),
    ],
)
def test_retry_delay_is_the_longer_of_schedule_and_status_minimum(status: int | None, delays_s: list[int]):
    assert [failed(status, attempts) for attempts in range(1, 5)] == [RetryIn(delay_s) for delay_s in delays_s]


@pytest.mark.parametrize("status", [400, 401, 403, 413])
def test_permanent_error_statuses_are_not_retried(status: int):
    assert isinstance(failed(status), GiveUp)


def test_no_retry_follows_the_last_attempt():
    assert [failed(500, attempts, max_attempts=3) for attempts in (1, 2, 3)] == [
        RetryIn(10),
        RetryIn(30),
        GiveUp("MaxDeliveryAttemptsExceeded"),
    ]


def test_jitter_only_lengthens_a_delay():
    assert failed(503, jitter=0.1) == RetryIn(33)


def test_only_200_to_204_are_success():
    statuses = itertools.chain(range(200, 600))
    assert [status for status in statuses if Answer.of_status(status).is_success] == [200, 201, 202, 203, 204]


def test_an_event_expires_when_its_time_to_live_has_passed():
    assert [has_expired(published_at_s=1000, time_to_live_minutes=2, now_s=now_s) for now_s in (1119.9, 1120)] == [
        False,
        True,
    ]


def test_deliveries_are_delayed_after_ten_failures_in_a_row_and_longer_each_time():
    health = EndpointHealth()
    for _ in range(9):
        health.failed(now_s=100)
    assert health.held_until_s == 0
    holds_s: list[float] = []
    now_s = 100.0
    for _ in range(7):
        health.failed(now_s)
        health.failed(now_s)  # a delivery that was in flight when the delay began
        holds_s.append(health.held_until_s - now_s)
        now_s = health.held_until_s
    assert holds_s == [60, 300, 600, 1800, 3600, 10800, 10800]


def test_a_success_makes_an_endpoint_healthy_at_once():
    health = EndpointHealth()
    for _ in range(10):
        health.failed(now_s=100)
    health.succeeded()
    assert health == EndpointHealth()
