"""What a task's end leads to for its destination, in Redis: it is written with the end, kept until the destination
has taken it, and sent by one process at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import redis

from shared.store import Callbacks, ClaimedCallback
from shared.store.callbacks import CLAIM_S, LONGEST_PAUSE_S
from shared.store.mending import Mending
from shared.store.redis.partitions import partition
from shared.tasks.callback import WantedCallback
from shared.tasks.end_reason import EndReason
from shared.tasks.outcomes import Applied
from shared.tasks.task import NewBatch, State, Task
from tests.shared.store.conftest import POLICY, Clock, Store, StoreFactory
from tests.shared.store.steps import HELLO, PIPELINE, RESULT, claim, known, sweep_all
from tests.shared.store.world import Server, World, nodes

ENDS = WantedCallback("ends", ("completed", "failed", "cancelled"))
ALL = WantedCallback("ends", ("completed", "failed", "cancelled", "progress"))
TOLD = replace(HELLO, callback=ENDS)
DAY_S = 86_400
_AS_IT_WAS_CREATED = """
local rec = cmsgpack.unpack(redis.call('GET', KEYS[1]))
rec.J = { d = rec.J.d, w = rec.J.w, n = 0 }
redis.call('SET', KEYS[1], cmsgpack.pack(rec))
"""
"""What a former version leaves of a callback when it ends the task."""


async def sent(store: Store, task_id: str = "t1") -> ClaimedCallback:
    claimed, _ = await store.callbacks.claim("ends", task_id)
    assert claimed is not None
    return claimed


async def nothing_is_due(callbacks: Callbacks) -> bool:
    return await callbacks.look_everywhere(["ends"]) == {}


async def ended(store: Store, state: State = State.COMPLETED, task_id: str = "t1") -> Task:
    await store.create(replace(TOLD, id=task_id))
    outcome = await store.update(task_id, state=state, status="said so")
    assert isinstance(outcome, Applied)
    return outcome.task


def found(server: Server, name: str) -> tuple[Any, bytes]:
    """A key by its name without the tag, and the client of the node that has it."""
    for node in nodes(server):
        client = cast("Any", redis.Redis(port=node.port))
        for key in client.scan_iter():
            if key.partition(b"}")[2] == name.encode():
                return client, key
    raise AssertionError(f"there is no {name}")


def lose_calls(server: Server) -> None:
    client, key = found(server, "calls:ends")
    client.delete(key)


def events(task: Task) -> list[str]:
    assert task.callback is not None
    return [message.event for message in task.callback.waiting]


@pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED])
async def test_an_end_is_told_from_the_step_that_ends_the_task(store: Store, state: State) -> None:
    task = await ended(store, state)
    assert events(task) == [state.value]
    assert await store.callbacks.look_everywhere(["ends", "others"]) == {"ends": {partition("t1")}}
    assert await store.callbacks.due("ends", partition("t1"), 10) == ["t1"]
    claimed = await sent(store)
    assert (claimed.message.event, claimed.message.attempt, claimed.task.status) == (state.value, 1, "said so")
    assert await store.callbacks.record(claimed, "delivered", "200") is None
    callback = (await known(store)).callback
    assert callback is not None
    assert callback.waiting == ()
    [settled] = callback.settled
    assert (settled.message.event, settled.what, settled.tries, settled.answer) == (
        state.value,
        "delivered",
        1,
        "200",
    )
    assert await nothing_is_due(store.callbacks)


async def test_what_is_not_wanted_is_not_told(store: Store) -> None:
    await store.create(replace(TOLD, callback=WantedCallback("ends", ("failed",))))
    await store.update("t1", state=State.COMPLETED, status="completed")
    assert events(await known(store)) == []
    assert await nothing_is_due(store.callbacks)


async def test_every_way_to_end_is_told(store: Store, clock: Clock) -> None:
    for task_id in ("cancelled", "rejected", "silent", "told", "late"):
        await store.create(replace(TOLD, id=task_id))
    await store.cancel("cancelled")
    await store.fail_dispatch(await claim(store, "rejected"), status="Failed.", reason=EndReason.REJECTED)
    await store.complete(await claim(store, "late"), RESULT, b"png", status="completed")
    for _ in range(3):
        await claim(store, "silent")
        clock.advance(60)
        await sweep_all(store)
    await claim(store, "told")
    await store.update("told", state=State.RUNNING, status="completed", told=State.COMPLETED)
    clock.advance(31)
    await sweep_all(store)
    found = {task_id: events(await known(store, task_id)) for task_id in ("cancelled", "rejected", "silent", "late")}
    assert found == {
        "cancelled": ["cancelled"],
        "rejected": ["failed"],
        "silent": ["failed"],
        "late": ["completed"],
    }
    assert events(await known(store, "told")) == ["completed"]


async def test_only_the_last_step_of_a_pipeline_is_an_end(store: Store) -> None:
    await store.create(replace(PIPELINE, callback=ENDS))
    for attempt in (1, 2):
        await claim(store)
        await store.put_result("t1", RESULT, b"png", attempt=attempt, completed="done")
        assert events(await known(store)) == []
    await claim(store)
    await store.put_result("t1", RESULT, b"png", attempt=3, completed="done")
    assert events(await known(store)) == ["completed"]


async def test_a_batch_tells_its_own_end(store: Store) -> None:
    await store.batches.create(NewBatch("b1", callback=ENDS))
    await store.batches.cancel("b1", None, None)
    assert events(await known(store, "b1")) == ["cancelled"]
    assert (await sent(store, "b1")).task.children is not None


async def test_one_process_sends_a_message_at_a_time(open_store: StoreFactory, clock: Clock) -> None:
    first, second = open_store(), open_store()
    await ended(first)
    claimed = await sent(first)
    assert await second.callbacks.claim("ends", "t1") == (None, False)
    assert await nothing_is_due(second.callbacks)
    clock.advance(CLAIM_S)
    again = await sent(second)
    assert again.message == claimed.message
    # Both are told: at least once. What came late counts, and changes nothing twice.
    assert await first.callbacks.record(claimed, "delivered", "200") is None
    assert await second.callbacks.record(again, "retry", "500") is None
    callback = (await known(first)).callback
    assert callback is not None
    assert [each.what for each in callback.settled] == ["delivered"]
    assert await nothing_is_due(first.callbacks)


async def test_a_failure_after_anothers_claim_changes_nothing(open_store: StoreFactory, clock: Clock) -> None:
    first, second = open_store(), open_store()
    await ended(first)
    claimed = await sent(first)
    clock.advance(CLAIM_S)
    again = await sent(second)
    assert await first.callbacks.record(claimed, "retry", "timeout") is None
    assert await second.callbacks.record(again, "delivered", "200") is None


async def test_pauses_grow_and_the_id_stays_for_a_day(store: Store, clock: Clock) -> None:
    task = await ended(store)
    began_ms, numbers, pauses = clock(), set[int](), list[float]()
    while events(await known(store)):
        assert len(pauses) <= 70
        claimed, is_given_up = await store.callbacks.claim("ends", "t1")
        if claimed is None:
            assert is_given_up or store.is_repeating
            break
        numbers.add(claimed.message.number)
        in_s = await store.callbacks.record(claimed, "retry", "503")
        assert in_s is not None
        pauses.append(in_s)
        clock.advance(in_s)
    assert numbers == {1}
    assert 2.5 <= pauses[0] <= 5
    assert all(pause <= LONGEST_PAUSE_S for pause in pauses)
    assert len(pauses) >= 24
    assert clock() == began_ms + DAY_S * 1000
    callback = (await known(store)).callback
    assert callback is not None
    [settled] = callback.settled
    assert (settled.what, settled.answer, settled.tries) == ("given up", "503", len(pauses))
    assert await nothing_is_due(store.callbacks)
    state = await store.callbacks.state("ends")
    assert (state.waiting, state.given_up) == (0, 1)
    assert task.callback is not None


async def test_a_destination_says_when_it_wants_to_be_tried_again(store: Store, clock: Clock) -> None:
    await ended(store)
    in_s = await store.callbacks.record(await sent(store), "retry", "429", least_s=120)
    assert in_s is not None
    assert in_s >= 120


async def test_a_destination_that_is_gone_is_not_tried_again(store: Store) -> None:
    await ended(store)
    assert await store.callbacks.record(await sent(store), "gone", "410") is None
    assert await nothing_is_due(store.callbacks)
    assert (await store.callbacks.state("ends")).given_up == 1


async def test_a_task_is_kept_until_its_destination_knows_its_end(store: Store, clock: Clock) -> None:
    await ended(store)
    clock.advance(1000)
    assert await sweep_all(store) == []
    assert events(await known(store)) == ["completed"]
    await store.callbacks.record(await sent(store), "delivered", "200")
    clock.advance(DAY_S)
    await sweep_all(store)
    assert await store.get("t1") is None


async def test_a_task_is_removed_after_a_day_whatever_its_destination_does(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await ended(store)
    clock.advance(1000)
    assert await sweep_all(store) == []
    clock.advance(DAY_S - 1000)
    await sweep_all(store)
    assert await store.get("t1") is None
    assert World(redis_server).callbacks == {}


async def test_ends_of_a_task_that_begins_again_are_told_in_order(store: Store, clock: Clock) -> None:
    await ended(store, State.FAILED)
    claimed = await sent(store)
    await store.replay("t1")
    await store.update("t1", state=State.COMPLETED, status="completed at last")
    assert events(await known(store)) == ["failed", "completed"]
    in_s = await store.callbacks.record(claimed, "retry", "500")
    assert in_s is not None
    clock.advance(in_s)
    again = await sent(store)
    assert again.message == claimed.message
    assert await store.callbacks.record(again, "delivered", "200") == 0
    last = await sent(store)
    assert (last.message.event, last.message.attempt, last.message.number) == ("completed", 2, 2)
    assert await store.callbacks.record(last, "delivered", "200") is None


async def test_not_more_ends_wait_than_a_record_bears(store: Store) -> None:
    await ended(store, State.FAILED)
    for _ in range(30):
        await store.replay("t1")
        await store.update("t1", state=State.FAILED, status="again")
    callback = (await known(store)).callback
    assert callback is not None
    numbers = [message.number for message in callback.waiting]
    assert len(numbers) == 16
    assert (numbers[0], numbers[-1]) == (1, 31)
    assert numbers == sorted(numbers)


async def test_progress_is_told_as_it_is_and_once_a_second_at_most(store: Store, clock: Clock) -> None:
    await store.create(replace(HELLO, callback=ALL))
    await claim(store)
    for percent in (1, 2, 3):
        await store.heartbeat("t1", attempt=1, progress=percent / 100)
    first = await sent(store)
    assert (first.message.event, first.task.progress) == ("progress", 0.03)
    await store.heartbeat("t1", attempt=1, progress=0.04)
    in_s = await store.callbacks.record(first, "delivered", "200")
    assert in_s == 1
    assert (await store.callbacks.claim("ends", "t1"))[0] is None
    clock.advance(in_s)
    second = await sent(store)
    assert second.message.number > first.message.number
    # The end takes its place.
    await store.update("t1", state=State.COMPLETED, status="completed")
    assert events(await known(store)) == ["completed"]
    assert await store.callbacks.record(second, "delivered", "200") == 0
    assert (await sent(store)).message.event == "completed"


async def test_a_process_wakes_for_what_is_to_be_told_soon(store: Store, clock: Clock) -> None:
    woken: list[tuple[int, float]] = []
    store.callbacks.wake = lambda number, in_s: woken.append((number, in_s))
    await store.create(replace(HELLO, callback=ALL))
    await claim(store)
    await store.heartbeat("t1", attempt=1, progress=0.1)
    await store.callbacks.record(await sent(store), "delivered", "200")
    clock.advance(0.4)
    await store.heartbeat("t1", attempt=1, progress=0.2)
    assert woken == []
    assert await store.callbacks.claim("ends", "t1") == (None, False)
    assert set(woken) == {(partition("t1"), 0.6)}
    assert await store.callbacks.look_in(partition("t1"), ["ends"]) == []
    clock.advance(0.6)
    assert await store.callbacks.look_in(partition("t1"), ["ends"]) == ["ends"]
    await ended(store, task_id="t2")
    woken.clear()
    in_s = await store.callbacks.record(await sent(store, "t2"), "retry", "500")
    assert set(woken) == {(partition("t2"), in_s)}
    woken.clear()
    await store.callbacks.record(await sent(store), "retry", "500", least_s=60)
    assert woken == [], "a later round has somebody wake for that"
    await store.callbacks.look_everywhere(["ends"])
    assert set(woken) == {(partition("t2"), in_s)}


async def test_what_is_due_hides_nothing_that_is_due_soon(store: Store, clock: Clock) -> None:
    woken: list[tuple[int, float]] = []
    number, *_ = [each for each in range(16) if partition(f"t{each}") == partition("t1") and each != 1]
    await ended(store)
    in_s = await store.callbacks.record(await sent(store), "retry", "500")
    await ended(store, task_id=f"t{number}")
    store.callbacks.wake = lambda number, in_s: woken.append((number, in_s))
    assert await store.callbacks.look_everywhere(["ends"]) == {"ends": {partition("t1")}}
    assert set(woken) == {(partition("t1"), in_s)}


async def test_the_same_progress_again_is_not_told(store: Store) -> None:
    await store.create(replace(HELLO, callback=ALL))
    await claim(store)
    await store.heartbeat("t1", attempt=1, progress=0.5)
    await store.callbacks.record(await sent(store), "delivered", "200")
    await store.heartbeat("t1", attempt=1, progress=0.5)
    assert events(await known(store)) == []


async def test_progress_does_not_press_a_destination_that_fails(store: Store, clock: Clock) -> None:
    await store.create(replace(HELLO, callback=ALL))
    await claim(store)
    await store.heartbeat("t1", attempt=1, progress=0.1)
    in_s = await store.callbacks.record(await sent(store), "retry", "500")
    assert in_s is not None
    await store.heartbeat("t1", attempt=1, progress=0.2)
    assert await nothing_is_due(store.callbacks)
    clock.advance(in_s)
    assert (await sent(store)).task.progress == 0.2


async def test_what_was_given_up_is_told_again_when_somebody_asks(store: Store, clock: Clock) -> None:
    for number in range(5):
        await ended(store, task_id=f"t{number}")
        await store.callbacks.record(await sent(store, f"t{number}"), "gone", "410")
        clock.advance(10)
    count = await store.callbacks.resend_given_up("ends", clock() - 25_000)
    assert count == (0 if store.is_repeating else 2)
    assert await store.callbacks.resend_given_up("ends") == (0 if store.is_repeating else 3)
    state = await store.callbacks.state("ends")
    assert (state.waiting, state.given_up) == (5, 0)
    claimed = await sent(store, "t0")
    assert claimed.message.number == 1
    assert await store.callbacks.record(claimed, "delivered", "200") is None


async def test_one_task_is_told_again_with_the_same_id(store: Store) -> None:
    await ended(store)
    claimed = await sent(store)
    await store.callbacks.record(claimed, "delivered", "200")
    assert await store.callbacks.resend("ends", "t1") == 1
    again = await sent(store)
    assert again.message.number == claimed.message.number
    assert await store.callbacks.resend("ends", "unknown") is None
    assert await store.callbacks.resend("others", "t1") is None
    assert await store.callbacks.resend("ends", "t1", owner="mallory") is None
    await store.create(replace(TOLD, id="t2"))
    assert await store.callbacks.resend("ends", "t2") == 0


async def test_who_may_not_see_a_task_keeps_nobody_from_telling_it_again(store: Store) -> None:
    await ended(store)
    await store.callbacks.record(await sent(store), "gone", "410")
    assert await store.callbacks.resend("ends", "t1", owner="mallory") is None
    assert (await store.callbacks.state("ends")).given_up == 1
    assert await store.callbacks.resend_given_up("ends") == (0 if store.is_repeating else 1)
    assert (await sent(store)).message.event == "completed"


async def test_an_end_of_a_former_version_is_found(store: Store, clock: Clock, redis_server: Server) -> None:
    """It knows no callbacks: it keeps what the record has of one, and tells nobody."""
    await ended(store)
    client, key = found(redis_server, "t:t1")
    client.eval(_AS_IT_WAS_CREATED, 1, key)
    lose_calls(redis_server)
    assert await nothing_is_due(store.callbacks)
    clock.advance(3600)
    await store.callbacks.look_everywhere(["ends"])
    assert events(await known(store)) == ["completed"]
    assert not await nothing_is_due(store.callbacks)


async def test_a_lost_index_entry_is_found(store: Store, clock: Clock, redis_server: Server) -> None:
    await ended(store)
    lose_calls(redis_server)
    clock.advance(3600)
    await store.callbacks.look_everywhere(["ends"])
    assert (await sent(store)).message.event == "completed"


async def test_nothing_is_left_of_a_task_that_is_removed(store: Store, clock: Clock, redis_server: Server) -> None:
    await ended(store)
    await store.callbacks.record(await sent(store), "delivered", "200")
    clock.advance(1000)
    await sweep_all(store)
    assert await store.get("t1") is None
    assert World(redis_server).callbacks == {}


async def test_the_state_of_a_destination_is_what_it_answered_last(store: Store, clock: Clock) -> None:
    before = await store.callbacks.state("ends")
    assert (before.last_answer, before.failing_since_ms) == (None, None)
    await store.callbacks.note("ends", "500", ok=False)
    since_ms = clock()
    clock.advance(60)
    await store.callbacks.note("ends", "timeout", ok=False)
    state = await store.callbacks.state("ends")
    assert (state.last_answer, state.last_tried_ms, state.failing_since_ms) == ("timeout", clock(), since_ms)
    await store.callbacks.note("ends", "200", ok=True)
    state = await store.callbacks.state("ends")
    assert (state.last_answer, state.failing_since_ms) == ("200", None)


@pytest.mark.parametrize("back_s", [600, 2 * DAY_S], ids=["a little", "by days"])
async def test_a_clock_that_was_set_back_delays_nothing(back_s: int, store: Store, clock: Clock) -> None:
    mending = Mending(store.link, POLICY, clock)
    await ended(store)
    await sent(store)
    await mending.tend()
    clock.advance(-back_s)
    await mending.tend()
    assert (await sent(store)).message.number == 1
