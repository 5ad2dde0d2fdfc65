"""Retries, expiry and delayed delivery, in manual time."""

import pytest

from local.event_grid.faults import Faults
from tests.local.event_grid_stand import a_stand, a_subscriber, event

DAY_S = 24 * 3600
SCHEDULE_S = [10, 30, 60, 300, 600, 1800, 3600, 10800, 21600, 43200]


async def test_retry_schedule_of_a_day_is_exact_to_the_second():
    async with a_stand() as stand:
        await stand.subscribe()
        stand.subscriber.answers.extend([500] * 100)
        await stand.publish(event())
        for attempt, delay_s in enumerate(SCHEDULE_S, start=1):
            assert len(stand.subscriber.notifications) == attempt
            await stand.after(delay_s - 1)
            assert len(stand.subscriber.notifications) == attempt
            await stand.after(1)
        # 10 s + 30 s + ... + 6 h + 12 h is 22:46:40; the next attempt would be due 12 h later, after the day.
        assert [request.delivery_count for request in stand.subscriber.notifications] == list(range(11))
        await stand.after(DAY_S)
        assert len(stand.subscriber.notifications) == 11
        assert stand.stats() == {"published": 1, "retried": 11, "dropped": 1}


@pytest.mark.parametrize(("status", "delay_s"), [(408, 120), (503, 30), (429, 10), (301, 10)])
async def test_minimum_delay_of_the_status_is_kept(status: int, delay_s: int):
    async with a_stand() as stand:
        await stand.subscribe()
        stand.subscriber.answers.append(status)
        await stand.publish(event())
        await stand.after(delay_s - 1)
        assert stand.stats() == {"published": 1, "retried": 1, "pending": 1}
        await stand.after(1)
        assert stand.stats() == {"published": 1, "retried": 1, "delivered": 1}


async def test_an_event_is_dropped_after_its_last_attempt():
    async with a_stand() as stand:
        await stand.subscribe(maxDeliveryAttempts=2)
        stand.subscriber.answers.extend([500] * 10)
        await stand.publish(event())
        await stand.after(10)
        await stand.after(DAY_S)
        assert stand.stats() == {"published": 1, "retried": 1, "dropped": 1}
        assert len(stand.subscriber.notifications) == 2


async def test_event_is_not_attempted_again_after_its_time_to_live():
    async with a_stand() as stand:
        await stand.subscribe(eventTimeToLiveInMinutes=1)
        stand.subscriber.answers.extend([500] * 10)
        await stand.publish(event())
        await stand.after(10)
        await stand.after(30)
        await stand.after(59)
        assert stand.stats() == {"published": 1, "retried": 3, "pending": 1}, (
            "the emulator checks it only when it is due"
        )
        await stand.after(1)
        assert stand.stats() == {"published": 1, "retried": 3, "dropped": 1}
        assert len(stand.subscriber.notifications) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 413])
async def test_event_with_a_permanent_error_is_dropped_at_once(status: int):
    async with a_stand() as stand:
        await stand.subscribe()
        stand.subscriber.answers.append(status)
        await stand.publish(event())
        assert stand.stats() == {"published": 1, "dropped": 1}


async def test_a_subscriber_has_30_s_to_answer():
    async with a_stand() as stand:
        await stand.subscribe()
        stand.subscriber.hangs = True
        await stand.accept(event())
        await stand.subscriber.until(1)
        stand.clock.advance(29.9)
        assert not await stand.emulator.drain(0.05)
        stand.subscriber.hangs = False
        await stand.after(0.1)
        assert stand.stats() == {"published": 1, "retried": 1, "pending": 1}
        await stand.after(10)
        assert stand.subscriber.notifications[-1].delivery_count == 1
        assert stand.stats() == {"published": 1, "retried": 1, "delivered": 1}


async def test_hanging_subscriber_does_not_block_others():
    async with a_stand() as stand, a_subscriber() as other:
        await stand.subscribe()
        await stand.subscribe("other", endpoint=other.url)
        stand.subscriber.hangs = True
        await stand.accept(*(event(str(number)) for number in range(300)))
        await other.until(300)
        await stand.subscriber.until(100)
        assert len(stand.subscriber.notifications) == 100, "at most 100 deliveries are in flight at the same time"


async def test_hanging_delivery_does_not_block_the_next_one():
    async with a_stand() as stand:
        await stand.subscribe()
        stand.subscriber.hangs = True
        await stand.accept(event("hangs"))
        await stand.subscriber.until(1)
        stand.subscriber.hangs = False
        await stand.accept(event("passes"))
        await stand.subscriber.until(2)
        assert stand.subscriber.ids == ["hangs", "passes"]


async def test_delivery_to_an_unreachable_endpoint_is_retried():
    async with a_stand() as stand:
        async with a_subscriber() as gone:
            await stand.subscribe(endpoint=gone.url)
            port = int(gone.url.split(":")[2].split("/")[0])
        await stand.publish(event())
        assert stand.stats() == {"published": 1, "retried": 1, "pending": 1}
        async with a_subscriber(port) as back:
            await stand.after(10)
            assert back.ids == ["1"]


async def test_redirects_are_not_followed():
    async with a_stand() as stand:
        await stand.subscribe()
        stand.subscriber.answers.append(307)
        await stand.publish(event())
        assert stand.stats() == {"published": 1, "retried": 1, "pending": 1}


async def test_new_events_to_a_failing_endpoint_are_delayed_too():
    async with a_stand() as stand:
        await stand.subscribe()
        stand.subscriber.answers.extend([429] * 10)
        await stand.publish(*(event(f"failing {number}") for number in range(10)))
        await stand.publish(event("new"))
        await stand.after(59)
        assert "new" not in stand.subscriber.ids
        assert len(stand.subscriber.notifications) == 10, "retries are delayed as well"
        await stand.after(1)
        assert stand.stats() == {"published": 11, "retried": 10, "delivered": 11}
        await stand.publish(event("after the recovery"))
        assert stand.subscriber.ids[-1] == "after the recovery"


async def test_due_events_are_delayed_when_their_endpoint_begins_to_fail():
    async with a_stand() as stand:
        await stand.subscribe()
        stand.subscriber.answers.extend([500] * 1000)
        await stand.publish(*(event(str(number)) for number in range(500)))
        attempts = len(stand.subscriber.notifications)
        assert attempts < 500, "only the deliveries that were in flight when the delay began"
        await stand.after(59)
        assert len(stand.subscriber.notifications) == attempts


async def test_delayed_delivery_can_be_switched_off():
    async with a_stand(Faults(jitter=0, delayed_delivery=False)) as stand:
        await stand.subscribe()
        stand.subscriber.answers.extend([429] * 10)
        await stand.publish(*(event(str(number)) for number in range(10)))
        await stand.publish(event("new"))
        assert stand.subscriber.ids[-1] == "new"


async def test_jitter_is_bounded_and_repeatable():
    async def second_attempts(seed: int) -> list[str]:
        async with a_stand(Faults(jitter=0.5, seed=seed, delayed_delivery=False)) as stand:
            await stand.subscribe()
            stand.subscriber.answers.extend([500] * 20)
            for number in range(20):
                await stand.publish(event(str(number)))
            await stand.after(9.9)
            assert len(stand.subscriber.ids) == 20
            for _ in range(52):
                await stand.after(0.1)
            return stand.subscriber.ids[20:]

    first, again, another = [await second_attempts(seed) for seed in (1, 1, 2)]
    assert sorted(first, key=int) == [str(number) for number in range(20)]
    assert first == again != another
