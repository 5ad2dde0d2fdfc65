"""Deliveries of callbacks: at least once, in order for each task, and at nobody else's cost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice
from typing import Any

import pytest

from cache_manager.callback_schemas import MOST_BYTES, body_of
from shared.dispatch.callback_client import CallbackAnswer
from shared.dispatch.deliveries import FAILING_SHARE, FAILURES_TO_OPEN, FIRST_PROBE_S, Deliveries
from shared.services import Services
from shared.settings import Settings
from shared.store import RedisLink
from shared.store.callbacks import CLAIM_S, FIRST_PAUSE_S
from shared.store.redis.partitions import PARTITIONS, partition
from shared.tasks.callback import WantedCallback
from shared.tasks.outcomes import Applied, Claimed
from shared.tasks.task import Content, LongStatus, NewTask, State
from tests.cache_manager.process import POLICY, KeepingPublisher
from tests.cache_manager.timers import Timers
from tests.callback_receiver import TAKEN, Receiver, new_secret
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.test_cost import cost
from tests.shared.store.world import Server
from tests.waiting import PATIENCE_S, until

PATH = "/v1/test"
SECRET = new_secret()
EVENTS = ("completed", "failed", "cancelled")
NEW = NewTask(
    "t1",
    PATH,
    60,
    dispatch_requested=False,
    body=Content("text/plain", 5),
    inline_body=b"hello",
    callback=WantedCallback("up", EVENTS),
)
DOWN = CallbackAnswer("unreachable")
MOST_CALLS = 5
"""5 % of the default of MAX_DISPATCHES."""


def compose(url: str, clock: Clock, receiver: Any, names: Sequence[str] = ("up", "other"), **others: str) -> Services:
    callbacks = {name: {"url": f"https://{name}.example.org/hook", "secret_setting": "HOOK_SECRET"} for name in names}
    settings = Settings.from_env(
        {
            "REDIS_CONNECTION_STRING": url,
            "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
            "BACKENDS": '{"/v1": "https://models.example.org"}',
            "CALLBACKS": json.dumps(callbacks),
            "HOOK_SECRET": SECRET,
            **others,
        }
    )
    services = Services.compose(
        settings,
        link=RedisLink(opener(url)),
        publisher=KeepingPublisher(),
        callbacks=receiver,
        now_ms=clock,
        policy=POLICY,
    )
    services.deliveries.body_of = body_of
    return services


@pytest.fixture
def receiver(clock: Clock) -> Receiver:
    return Receiver(SECRET, now_ms=clock)


@pytest.fixture
async def services(redis_url: str, clock: Clock, receiver: Receiver) -> AsyncIterator[Services]:
    services = compose(redis_url, clock, receiver)
    yield services
    await services.aclose()


def with_timers(services: Services, receiver: Receiver, clock: Clock) -> tuple[Services, Timers]:
    """The process as it is, and the timers of its deliveries."""
    timers, dispatcher = Timers(), services.dispatcher
    deliveries = Deliveries(
        services.settings,
        services.destinations,
        services.store.callbacks,
        receiver,
        clock,
        dispatcher.start,
        timers,
    )
    deliveries.body_of = body_of
    dispatcher.note_callback = deliveries.note
    return replace(services, deliveries=deliveries), timers


async def settled(services: Services) -> None:
    """Until nothing goes on beside."""
    async with asyncio.timeout(PATIENCE_S):
        while background := [*services.dispatcher._background]:
            await asyncio.wait(background)


async def round_of(services: Services) -> None:
    await services.deliveries.round()
    await settled(services)


async def end(services: Services, task_id: str = "t1", state: State = State.COMPLETED, status: str = "done") -> None:
    """As a report ends a task: what follows from the step is done too."""
    outcome = await services.store.update(task_id, state=state, status=status)
    assert isinstance(outcome, Applied)
    await services.dispatcher.after_transition(outcome)


async def ended(services: Services, *task_ids: str, destination: str = "up") -> None:
    for task_id in task_ids:
        await services.store.create(replace(NEW, id=task_id, callback=WantedCallback(destination, EVENTS)))
        await end(services, task_id)


async def waiting(services: Services, destination: str = "up") -> int:
    return (await services.store.callbacks.state(destination)).waiting


async def test_the_process_that_ends_a_task_tells_of_it_at_once(services: Services, receiver: Receiver) -> None:
    await ended(services, "t1")
    await settled(services)
    [document] = receiver.documents
    assert (document["TaskId"], document["BackendStatus"], document["Callback"]) == ("t1", "completed", "up")
    assert receiver.urls == ["https://up.example.org/hook"]
    assert await waiting(services) == 0


async def test_what_a_process_leaves_over_another_finds(
    services: Services, redis_url: str, clock: Clock, receiver: Receiver
) -> None:
    """It dies between the end and the sending, and then between the sending and its record."""
    await services.store.create(NEW)
    await services.store.update("t1", state=State.COMPLETED, status="done")

    class Silent(Receiver):
        has_come = asyncio.Event()

        async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> CallbackAnswer:
            await super().post(url, headers, body)
            self.has_come.set()
            await asyncio.Event().wait()
            raise AssertionError

    silent = Silent(SECRET, now_ms=clock)
    dying = compose(redis_url, clock, silent)
    await dying.deliveries.round()
    async with asyncio.timeout(PATIENCE_S):
        await silent.has_come.wait()
    await dying.aclose()

    await round_of(services)
    assert receiver.calls == 0
    clock.advance(CLAIM_S)
    await round_of(services)
    assert receiver.got == silent.got
    assert await waiting(services) == 0


async def test_an_hour_without_the_destination_loses_nothing(
    services: Services, clock: Clock, receiver: Receiver
) -> None:
    receiver.answer = lambda: DOWN
    ids = [f"t{number}" for number in range(200)]
    for start in range(0, len(ids), 20):
        await ended(services, *ids[start : start + 20])
        clock.advance(1)
    for _ in range(720):
        clock.advance(5)
        await round_of(services)
    assert receiver.got == {}
    # What 200 waiting tasks cost in an hour: three tries, and then a probe a minute.
    assert receiver.calls <= 3 + MOST_CALLS + 12 + 60
    state = await services.store.callbacks.state("up")
    assert (state.waiting, state.last_answer) == (len(ids), "unreachable")
    assert state.failing_since_ms is not None

    receiver.answer = lambda: TAKEN
    for _ in range(60):
        clock.advance(60)
        await round_of(services)
    assert sorted(document["TaskId"] for document in receiver.documents) == sorted(ids)
    assert (receiver.forged, receiver.repeated) == (0, 0)
    assert (await services.store.callbacks.state("up")).failing_since_ms is None
    assert await waiting(services) == 0


async def test_what_goes_on_beside_a_dead_destination_costs_the_same_however_much_waits(
    services: Services, receiver: Receiver, redis_server: Server
) -> None:
    receiver.answer = lambda: DOWN
    numbers = count()

    async def go_on() -> None:
        """Tasks from their creation to their end, all of a partition, and a round."""
        ids = (f"beside{number}" for number in numbers)
        for task_id in islice((each for each in ids if partition(each) == 7), 10):
            await services.store.create(replace(NEW, id=task_id, callback=None, dispatch_requested=True))
            assert isinstance(await services.store.claim(task_id, 1), Claimed)
            await end(services, task_id)
        await round_of(services)

    # So many that some wait in each partition.
    await ended(services, *(f"few{number}" for number in range(100)))
    await settled(services)
    calls = receiver.calls
    assert calls == FAILURES_TO_OPEN
    await go_on()  # loads the scripts
    few = await cost(redis_server, go_on)
    await ended(services, *(f"many{number}" for number in range(300)))
    assert await cost(redis_server, go_on) == few
    assert few["evalsha"] >= 3 * 10 + PARTITIONS
    assert receiver.calls == calls
    assert await waiting(services) == 400


async def test_a_silent_destination_has_few_calls_and_holds_up_nobody(
    services: Services, redis_url: str, clock: Clock
) -> None:
    class Hanging(Receiver):
        """One destination never answers, the other does."""

        in_flight = most_in_flight = 0
        has_come, is_full = asyncio.Event(), asyncio.Event()

        async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> CallbackAnswer:
            if "other" in url:
                self.has_come.set()
                return await super().post(url, headers, body)
            self.in_flight += 1
            self.most_in_flight = max(self.in_flight, self.most_in_flight)
            if self.in_flight == MOST_CALLS:
                self.is_full.set()
            await asyncio.Event().wait()
            raise AssertionError

    hanging = Hanging(SECRET, now_ms=clock)
    process = compose(redis_url, clock, hanging)
    await ended(process, *(f"t{number}" for number in range(50)))
    await ended(process, "other", destination="other")
    await process.deliveries.round()
    async with asyncio.timeout(PATIENCE_S):
        await hanging.has_come.wait()
        await hanging.is_full.wait()
    assert hanging.most_in_flight == MOST_CALLS
    await process.aclose()


DEAD = [f"dead{number}" for number in range(10)]


async def test_ten_dead_destinations_for_an_hour_do_not_slow_the_eleventh(
    services: Services, redis_url: str, clock: Clock
) -> None:
    class MostlyDead(Receiver):
        """Ten destinations keep each call waiting, and answer none; the eleventh fails now and then, and is back at
        once."""

        hanging = most_hanging = dead_calls = 0
        may_end = asyncio.Event()

        async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> CallbackAnswer:
            if "dead" not in url:
                return await super().post(url, headers, body)
            self.dead_calls += 1
            self.hanging += 1
            self.most_hanging = max(self.most_hanging, self.hanging)
            await self.may_end.wait()
            self.hanging -= 1
            return CallbackAnswer("timeout")

    receiver = MostlyDead(SECRET, now_ms=clock)
    process = compose(redis_url, clock, receiver, ["up", *DEAD], MAX_DISPATCHES="20")
    for destination in DEAD:
        await ended(process, *(f"{destination}-{number}" for number in range(15)), destination=destination)
    await until(lambda: receiver.hanging == len(DEAD))  # 5 % each
    receiver.may_end.set()
    await settled(process)
    receiver.most_hanging = receiver.dead_calls = 0
    for minute in range(60):
        receiver.may_end.clear()
        clock.advance(60)
        await process.deliveries.round()
        await until(lambda: receiver.hanging == 20 // FAILING_SHARE)
        receiver.answer = lambda: CallbackAnswer("500")
        await ended(process, f"up-{minute}")
        await until(lambda told=2 * minute + 1: receiver.calls == told)
        receiver.answer = lambda: TAKEN
        clock.advance(FIRST_PAUSE_S)
        await process.deliveries.round()
        await until(lambda told=minute + 1: len(receiver.got) == told)
        receiver.may_end.set()
        await settled(process)
    assert receiver.most_hanging == 20 // FAILING_SHARE
    assert receiver.dead_calls == 60 * len(DEAD), "a probe a minute for each"
    await process.aclose()


async def test_what_failed_is_told_again_at_its_moment_and_not_by_the_next_round(
    services: Services, clock: Clock, receiver: Receiver
) -> None:
    process, timers = with_timers(services, receiver, clock)
    await process.deliveries.round()
    assert timers.set == [], "nothing is to be told"
    receiver.answer = lambda: CallbackAnswer("500")
    await ended(process, "t1")
    await settled(process)
    [in_s] = [seconds for seconds, _, _ in timers.set]
    assert 0 < in_s <= FIRST_PAUSE_S
    receiver.answer = lambda: TAKEN
    clock.advance(in_s)
    await timers.go_off()
    await settled(process)
    assert [document["TaskId"] for document in receiver.documents] == ["t1"]
    assert timers.set == [], "nothing is left"


async def test_what_is_to_be_told_in_a_while_a_round_has_a_process_wake_for(
    services: Services, clock: Clock, receiver: Receiver
) -> None:
    process, timers = with_timers(services, receiver, clock)
    receiver.answer = lambda: CallbackAnswer("500", retry_after_s=40)
    await ended(process, "t1")
    await settled(process)
    assert timers.set == [], "by then, others may have their turn"
    clock.advance(35)
    await process.deliveries.round()
    [in_s] = [seconds for seconds, _, _ in timers.set]
    assert in_s == 5
    receiver.answer = lambda: TAKEN
    clock.advance(in_s)
    await timers.go_off()
    await settled(process)
    assert len(receiver.got) == 1


async def test_a_destination_that_fails_is_probed_at_its_moment(
    services: Services, clock: Clock, receiver: Receiver
) -> None:
    process, timers = with_timers(services, receiver, clock)
    receiver.answer = lambda: DOWN
    await ended(process, *(f"t{number}" for number in range(FAILURES_TO_OPEN + 2)))
    await settled(process)
    calls = receiver.calls
    assert calls == FAILURES_TO_OPEN
    receiver.answer = lambda: TAKEN
    [(probe_s, probe)] = [(seconds, work) for seconds, name, work in timers.set if "probe" in name]
    assert probe_s == FIRST_PROBE_S
    await probe()
    assert receiver.calls == calls, "it is not its moment yet"
    clock.advance(probe_s)
    await timers.go_off()
    await settled(process)
    assert len(receiver.got) == FAILURES_TO_OPEN + 2
    assert await waiting(process) == 0


async def test_a_destination_that_wants_a_pause_gets_it_for_all(
    services: Services, clock: Clock, receiver: Receiver
) -> None:
    receiver.answer = lambda: CallbackAnswer("429", retry_after_s=600, is_throttled=True)
    await ended(services, "t1")
    await settled(services)
    await ended(services, "t2", "t3")
    clock.advance(599)
    await round_of(services)
    assert receiver.calls == 1
    receiver.answer = lambda: TAKEN
    clock.advance(1)
    await round_of(services)
    assert len(receiver.got) == 3


async def test_a_message_that_is_not_taken_holds_up_no_other(
    services: Services, clock: Clock, receiver: Receiver
) -> None:
    class Picky(Receiver):
        async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> CallbackAnswer:
            if json.loads(body)["TaskId"] == "poison":
                return CallbackAnswer("422")
            return await super().post(url, headers, body)

    picky = Picky(SECRET, now_ms=clock)
    services.deliveries._transport = picky
    await ended(services, "poison", *(f"t{number}" for number in range(30)))
    for _ in range(100):
        clock.advance(5)
        await round_of(services)
    assert len(picky.got) == 30
    assert await waiting(services) == 1


async def test_ends_of_a_task_come_in_order_and_as_they_were(
    services: Services, clock: Clock, receiver: Receiver
) -> None:
    receiver.answer = lambda: DOWN
    await services.store.create(NEW)
    await end(services, state=State.FAILED, status="no memory")
    await settled(services)
    await services.store.replay("t1")
    clock.advance(1)
    await end(services, status="done at last")
    await settled(services)
    receiver.answer = lambda: TAKEN
    for _ in range(10):
        clock.advance(60)
        await round_of(services)
    told = [(each["BackendStatus"], each["Status"], each["Attempt"]) for each in receiver.documents]
    assert told == [("failed", "no memory", 1), ("completed", "done at last", 2)]


async def test_a_task_of_a_destination_that_is_not_set_any_more_waits(services: Services, receiver: Receiver) -> None:
    await ended(services, "t1", destination="former")
    await round_of(services)
    assert receiver.calls == 0
    assert await waiting(services, "former") == 1


async def test_a_message_has_at_most_so_many_bytes(services: Services) -> None:
    await services.store.create(NEW)
    await services.store.update("t1", state=State.COMPLETED, status='"\\ö' * 20_000)
    task = await services.store.get("t1")
    assert task is not None
    assert task.callback is not None
    body = body_of(task, task.callback.waiting[0])
    document = json.loads(body)
    assert MOST_BYTES - 100 < len(body) <= MOST_BYTES
    assert document["Cut"] == ["Status"]
    assert len(document["Status"]) > 2_000
    long = replace(task, status="the beginning", long_status=LongStatus(100_000, "t1/status", "digest"))
    assert json.loads(body_of(long, task.callback.waiting[0]))["Cut"] == ["Status"]
    assert "Cut" not in json.loads(body_of(replace(task, status="short"), task.callback.waiting[0]))
