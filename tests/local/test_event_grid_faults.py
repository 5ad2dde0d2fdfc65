"""The fault switches, and delivery at least once despite them."""

from typing import Any

import pytest

from local.event_grid.faults import DelaySwitch, Faults, ReorderSwitch, Switch
from tests.local.event_grid_stand import WAIT_S, a_client, a_stand, assert_is_error, event

FAULTS = "/control/faults"


def events(count: int) -> list[dict[str, Any]]:
    return [event(str(number)) for number in range(count)]


async def test_duplicate_switch_delivers_every_event_twice():
    async with a_stand(Faults(duplicate=Switch())) as stand:
        await stand.subscribe()
        await stand.publish(*events(3))
        assert sorted(stand.subscriber.ids) == ["0", "0", "1", "1", "2", "2"]
        assert {request.delivery_count for request in stand.subscriber.notifications} == {0}
        assert stand.stats() == {"published": 3, "delivered": 3}


async def test_fault_switch_applies_to_the_next_n_requests():
    async with a_stand(Faults(duplicate=Switch(next=2))) as stand:
        await stand.subscribe()
        await stand.publish(*events(5))
        assert len(stand.subscriber.ids) == 7


async def test_fault_switch_follows_its_probability_and_repeats_for_the_same_seed():
    async def duplicated(seed: int) -> list[str]:
        async with a_stand(Faults(duplicate=Switch(probability=0.3), seed=seed)) as stand:
            await stand.subscribe()
            for number in range(100):
                await stand.publish(event(str(number)))
            ids = stand.subscriber.ids
            return [event_id for event_id in dict.fromkeys(ids) if ids.count(event_id) == 2]

    first, again, another = [await duplicated(seed) for seed in (1, 1, 2)]
    assert first == again != another
    assert 10 < len(first) < 60


async def test_reorder_switch_changes_the_order_of_deliveries():
    async with a_stand(Faults(reorder=ReorderSwitch(window_seconds=60), seed=1)) as stand:
        await stand.subscribe()
        await stand.publish(*events(20))
        assert stand.subscriber.ids == []
        for _ in range(60):
            await stand.after(1)
        assert stand.subscriber.ids != sorted(stand.subscriber.ids, key=int)
        assert sorted(stand.subscriber.ids, key=int) == [str(number) for number in range(20)]


async def test_delay_switch_delays_deliveries():
    async with a_stand(Faults(delay=DelaySwitch(seconds=30))) as stand:
        await stand.subscribe()
        await stand.publish(event())
        await stand.after(29)
        assert stand.subscriber.ids == []
        await stand.after(1)
        assert stand.subscriber.ids == ["1"]


async def test_lose_delivery_switch_loses_events_silently():
    async with a_stand(Faults(lose_delivery=Switch(next=2))) as stand:
        await stand.subscribe()
        await stand.publish(*events(5))
        assert sorted(stand.subscriber.ids) == ["2", "3", "4"]
        assert stand.stats() == {"published": 5, "delivered": 3, "lost": 2}


async def test_lose_response_switch_causes_a_retry():
    async with a_stand(Faults(lose_response=Switch(next=1), jitter=0)) as stand:
        await stand.subscribe()
        await stand.publish(event())
        assert stand.stats() == {"published": 1, "retried": 1, "pending": 1}
        await stand.after(10)
        assert stand.subscriber.ids == ["1", "1"]
        assert stand.stats() == {"published": 1, "retried": 1, "delivered": 1}


async def test_probation_without_a_dead_letter_container_drops_events():
    async with a_stand(Faults(probation=Switch(next=1))) as stand:
        await stand.subscribe()
        await stand.publish(event())
        assert stand.subscriber.ids == []
        assert stand.stats() == {"published": 1, "dropped": 1}


@pytest.mark.parametrize(("status", "code"), [(500, "InternalServerError"), (503, "ServiceUnavailable")])
async def test_refuse_publish_switch_refuses_publishes(status: int, code: str):
    async with a_client() as (client, stand):
        assert (await client.post(FAULTS, json={"refusePublish": {"status": status, "next": 1}})).status_code == 204
        assert_is_error(await client.publish([event()]), status, code)
        assert (await client.publish([event()])).status_code == 200
        assert stand.stats() == {"published": 1}


async def test_an_empty_object_turns_all_switches_off():
    async with a_client() as (client, stand):
        await client.post(FAULTS, json={"loseDelivery": {}, "jitter": 0, "delayedDelivery": False})
        assert stand.emulator.faults.lose_delivery == Switch()
        await client.post(FAULTS, json={})
        assert stand.emulator.faults.model_dump() == Faults().model_dump()


@pytest.mark.parametrize(
    "faults",
    [{"unknown": {}}, {"duplicate": {"probability": 2}}, {"duplicate": True}, {"delay": {}}, {"jitter": -1}],
    ids=str,
)
async def test_invalid_fault_switches_are_400(faults: dict[str, Any]):
    async with a_client() as (client, stand):
        assert_is_error(await client.post(FAULTS, json=faults), 400, "BadRequest")
        assert stand.emulator.faults.model_dump() == Faults(jitter=0).model_dump()


async def test_clock_is_advanced_and_deliveries_are_drained_over_http():
    async with a_client() as (client, stand):
        await stand.subscribe()
        stand.subscriber.answers.append(500)
        await client.publish([event()])
        assert (await client.post("/control/drain")).json() == {"drained": True}
        before_s = stand.clock.now()
        advanced = await client.post("/control/clock/advance", json={"seconds": 10})
        assert advanced.json() == {"now": before_s + 10}
        assert (await client.post("/control/drain", json={"timeoutSeconds": WAIT_S})).json() == {"drained": True}
        stats = (await client.get("/control/stats")).json()
        assert stats == {
            "published": 1,
            "delivered": 1,
            "retried": 1,
            "dropped": 0,
            "deadLettered": 0,
            "lost": 0,
            "pending": 0,
        }


async def test_drain_of_a_hanging_delivery_times_out():
    async with a_client() as (client, stand):
        await stand.subscribe()
        stand.subscriber.hangs = True
        await client.publish([event()])
        assert (await client.post("/control/drain", json={"timeoutSeconds": 0.05})).json() == {"drained": False}


@pytest.mark.parametrize("seed", range(5))
async def test_every_event_is_delivered_at_least_once_despite_faults(seed: int):
    some = Switch(probability=0.3)
    faults = Faults(
        seed=seed,
        duplicate=some,
        lose_response=some,
        reorder=ReorderSwitch(probability=0.5, window_seconds=20),
        delay=DelaySwitch(probability=0.2, seconds=100),
    )
    async with a_stand(faults) as stand:
        await stand.subscribe()
        stand.subscriber.answers.extend([500, 200, 503, 429] * 10)
        await stand.publish(*events(100))
        for _ in range(48):
            await stand.after(1800)
        assert set(stand.subscriber.ids) == {str(number) for number in range(100)}
        stats = stand.stats()
        assert (stats["published"], stats["delivered"]) == (100, 100)
        assert "pending" not in stats
