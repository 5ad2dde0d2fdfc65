"""The server's clock was set back, keys are gone, or somebody else wrote into them: the rounds mend them, by what the
records say. One server, and several."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from cache_manager.reconciler import reconcile
from shared.store import RedisLink
from shared.store.batch_steps import LOOK_S
from shared.store.queries import Listing
from shared.store.redis.link import StoreUnavailable
from shared.store.redis.partitions import pack
from shared.store.request_counts import RequestReport
from shared.tasks.outcomes import Applied, Claimed, SlotGrant
from shared.tasks.task import Content, NewBatch, NewTask, PipelineStep, State, Task, ThenTask
from shared.tasks.told_slots import ToldSlots
from shared.tasks.uploads import NewUpload
from tests.cache_manager.process import POLICY, REPUBLISH_S, Process
from tests.cache_manager.test_batches import LinkToSeveralServers, seal, settled
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.world import Server, World, nodes

PATH, NEXT, LEASE_S, BACK_S = "/v1/test", "/v1/next", 60, 600
TASK = NewTask("t", PATH, lease_s=LEASE_S, body=Content("text/plain", 2), inline_body=b"hi")
STEPS = (PipelineStep(PATH, "", LEASE_S), PipelineStep(NEXT, "", LEASE_S))


@pytest.fixture(params=[RedisLink, LinkToSeveralServers], ids=["one server", "several"])
async def process(request: pytest.FixtureRequest, redis_url: str, clock: Clock) -> AsyncIterator[Process]:
    process = Process.start(redis_url, clock, link=request.param(opener(redis_url)))
    yield process
    await process.dispatcher.aclose()
    await process.services.store.aclose()


def each_key(server: Server, pattern: str, do: Callable[[Any, str], None]) -> int:
    """How many keys there were whose name without the tag matches."""
    count = 0
    for node in nodes(server):
        with node.connect() as client:
            for key in [*client.scan_iter("{*")]:
                name = key.decode() if isinstance(key, bytes) else key
                if re.fullmatch(pattern, name.partition("}")[2]):
                    do(client, name)
                    count += 1
    return count


def delete(client: Any, key: str) -> None:
    client.delete(key)


def overwrite(client: Any, key: str) -> None:
    """With what no key of the app is."""
    client.delete(key)
    client.xadd(key, {"somebody": "else"})


def scribble(client: Any, key: str) -> None:
    client.set(key, b"\xc1 somebody else's", keepttl=True)


async def claimed(process: Process, task_id: str = "t") -> Task:
    claim = await process.store.claim(task_id, 1)
    if isinstance(claim, Claimed):
        return claim.task
    return await known(process, task_id)  # its slot was granted and claimed in the step before


async def rounds(process: Process, clock: Clock, *, seconds: float = 0, count: int = 2) -> None:
    for _ in range(count):
        clock.advance(seconds / count)
        with suppress(StoreUnavailable):
            await process.store.mending.after_failures()
        await reconcile(process.services)


async def known(process: Process, task_id: str = "t") -> Task:
    task = await process.store.get(task_id)
    assert task
    return task


@pytest.mark.parametrize("came_to", [State.DISPATCHED, State.RUNNING])
async def test_a_lease_that_began_before_the_clock_was_set_back_ends_in_time(
    process: Process, clock: Clock, redis_server: Server, came_to: State
) -> None:
    await process.store.create(TASK)
    await reconcile(process.services)
    task = await claimed(process)
    if came_to is State.RUNNING:
        await process.store.accept(task)
        await process.store.update("t", state=State.RUNNING, status="running", attempt=1)
    clock.advance(-BACK_S)
    await rounds(process, clock)
    assert (await known(process)).attempt == 1
    await rounds(process, clock, seconds=LEASE_S + 1)
    assert (await known(process)).attempt == 2
    World(redis_server).assert_consistent()


async def test_a_round_takes_up_what_is_overdue_though_nothing_can_be_mended(
    process: Process, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable() -> None:
        raise StoreUnavailable("a node is away")

    monkeypatch.setattr(process.store.mending, "tend", unavailable)
    await process.store.create(TASK)
    task = await claimed(process)
    await process.store.accept(task)
    clock.advance(LEASE_S + 1)
    await reconcile(process.services)
    assert (await known(process)).attempt == 2


async def test_a_lease_that_began_since_is_not_cut_short(process: Process, clock: Clock) -> None:
    await process.store.create(TASK)
    await reconcile(process.services)
    clock.advance(-BACK_S)
    task = await claimed(process)
    await process.store.accept(task)
    clock.advance(LEASE_S / 2)
    await process.store.heartbeat("t", attempt=1)
    await rounds(process, clock, seconds=LEASE_S - 1)
    assert (await known(process)).attempt == 1
    await rounds(process, clock, seconds=2)
    assert (await known(process)).attempt == 2


async def test_a_second_step_back_is_noticed_like_the_first(process: Process, clock: Clock) -> None:
    await process.store.create(TASK)
    await reconcile(process.services)
    for attempt in (1, 2):
        claim = await process.store.claim("t", attempt)
        assert isinstance(claim, Claimed)
        clock.advance(-BACK_S)
        await rounds(process, clock, seconds=2 * LEASE_S)
        assert (await known(process)).attempt == attempt + 1


async def test_an_end_that_was_put_off_takes_effect_in_time(process: Process, clock: Clock) -> None:
    await process.store.create(TASK)
    await reconcile(process.services)
    await process.store.accept(await claimed(process))
    await process.store.update("t", state=None, told=State.COMPLETED, status="completed")
    clock.advance(-BACK_S)
    await rounds(process, clock)
    await rounds(process, clock, seconds=31)
    assert (await known(process)).state is State.COMPLETED


async def test_a_slot_is_checked_in_time_though_the_clock_was_set_back(process: Process, clock: Clock) -> None:
    """Its process died before it claimed the task."""
    await process.queues.configure(PATH, {"limit": 1})
    await process.store.create(replace(TASK, id="t1"))
    await process.store.create(replace(TASK, id="t2"))
    await rounds(process, clock)
    process.take_granted()
    clock.advance(-BACK_S)
    await rounds(process, clock, seconds=2 * REPUBLISH_S, count=4)
    assert SlotGrant("t1", 1) in process.published.attempts or await process.backend_accepts_all()


async def test_a_lost_end_of_a_child_is_reported_though_the_clock_was_set_back(
    process: Process, clock: Clock, redis_server: Server
) -> None:
    await process.store.batches.create(NewBatch("b", "scenes"))
    await process.store.create(replace(TASK, batch="b"))
    await reconcile(process.services)
    await process.steps.cancel("t")  # its process dies before it reports that
    assert World(redis_server).ends
    clock.advance(-BACK_S)
    await rounds(process, clock, seconds=15)
    await process.dispatcher.aclose()
    await rounds(process, clock, seconds=15)
    assert not World(redis_server).ends


@pytest.mark.parametrize("lose", [delete, overwrite, scribble])
async def test_lost_deadlines_are_set_anew(
    process: Process, clock: Clock, redis_server: Server, lose: Callable[[Any, str], None]
) -> None:
    for task_id in ("silent", "ended"):
        await process.store.create(replace(TASK, id=task_id))
        task = await claimed(process, task_id)
        await process.store.accept(task)
    await process.store.update("ended", state=State.COMPLETED, status="completed", attempt=1)
    await process.store.uploads.create(NewUpload("u", "blob", 1, "text/plain"), 60)
    await reconcile(process.services)
    assert each_key(redis_server, "due", lose)
    await rounds(process, clock)
    await rounds(process, clock, seconds=LEASE_S + 1)
    assert (await known(process, "silent")).attempt == 2
    assert (await known(process, "ended")).state is State.COMPLETED
    World(redis_server).assert_consistent()
    assert "u/u" in World(redis_server).due_s
    await rounds(process, clock, seconds=POLICY.retention_s)
    assert await process.store.get("ended") is None


async def test_a_task_that_no_index_has_is_listed_and_counted_again(
    process: Process, clock: Clock, redis_server: Server
) -> None:
    await process.queues.configure(PATH, {"paused": True})
    for task_id in ("t1", "t2"):
        await process.store.create(replace(TASK, id=task_id))
    await reconcile(process.services)
    each_key(redis_server, "z:.*|paths|ended_paths", delete)
    await rounds(process, clock, seconds=2 * REPUBLISH_S)
    assert (await process.queues.depths())[PATH].created == 2
    assert {task.id for task in (await process.store.page(Listing(10))).tasks} == {"t1", "t2"}
    World(redis_server).assert_consistent()


async def report(process: Process, instances: int) -> int:
    """Report a request in flight at each of so many instances, and one more by nobody; the count."""
    named = [RequestReport("c", PATH, 1, f"i{number}", 60) for number in range(instances)]
    return (await process.services.request_counts.report_all([*named, RequestReport("c", PATH, 1)]))[-1]


async def everything(process: Process, clock: Clock) -> None:
    """Have a key of each kind."""
    store = process.store
    for number in range(6):
        await store.create(replace(TASK, id=f"t{number}", steps=STEPS, owner="alice"))
    await store.accept(await claimed(process, "t0"))
    await store.accept(await claimed(process, "t1"))
    await store.update("t1", state=State.RUNNING, status="running", attempt=1)
    await process.steps.put_checkpoint("t1", Content("text/plain", 1), b"c", attempt=1)
    await process.steps.put_result("t1", Content("text/plain", 1), b"r", attempt=1)
    await process.queues.tell(PATH, ToldSlots(1, "pod"))
    await process.queues.configure(PATH, {"limit": 2})
    then = ThenTask(PATH, "", (PipelineStep(PATH, "", 600),))
    await store.batches.create(NewBatch("b", "scenes", then=then))
    await store.create(replace(TASK, id="child", batch="b"))
    await store.cancel("child")
    await store.uploads.create(NewUpload("u", "blob", 1, "text/plain"), 3600)
    await store.endpoint_names.admit("/v1", PATH, 10)
    await store.keyed_ids.id_of("", "task", "key")
    await report(process, 40)
    await store.heartbeat("t0", attempt=1)
    await store.rounds.begin()
    await reconcile(process.services)


@pytest.mark.parametrize("spoil", [overwrite, scribble, delete])
@pytest.mark.parametrize(
    "kind",
    [
        *("t", "b", "r", "k", "n", "u", "q", "qs", "qo", "qw", "qh", "qi", "qr", "z", "c"),
        *("ends", "due", "paths", "ended_paths", "fenced", "queues", "outages", "keyed", "reconciler", "endpoints"),
        *("requests", "settings"),
    ],
)
async def test_no_call_fails_for_long_whatever_somebody_else_wrote(
    process: Process, clock: Clock, redis_server: Server, kind: str, spoil: Callable[[Any, str], None]
) -> None:
    await everything(process, clock)
    each_key(redis_server, rf"{kind}(:.*)?", spoil)
    with suppress(Exception):
        await process.store.create(replace(TASK, id="meanwhile"))
    for _ in range(4):
        clock.advance(REPUBLISH_S)
        with suppress(Exception):
            await process.store.mending.after_failures()
        with suppress(Exception):
            await reconcile(process.services)
        process.store.mending._not_before_s = 0
    await reconcile(process.services)
    if kind not in ("b", "r", "k", "n", "u", "c"):  # which nothing can bring back
        World(redis_server).assert_consistent()
    await process.store.create(replace(TASK, id="later", owner="alice"))
    await report(process, 40)
    await process.services.request_counts.count("c", PATH)
    await process.queues.depths()
    await process.queues.status(PATH)
    await process.store.page(Listing(10))
    await process.store.uploads.create(NewUpload("later", "blob", 1, "text/plain"), 3600)
    await process.store.batches.create(NewBatch("later-batch", "scenes"))
    for task_id in ("t0", "t1", "t2", "b", "child", "later"):
        await process.store.get(task_id)
        await process.store.heartbeat(task_id, attempt=1)
    assert isinstance(await process.store.cancel("later"), Applied)


@pytest.mark.parametrize("lose", [delete, overwrite, scribble])
async def test_a_batch_that_has_lost_its_list_of_children_ends(
    process: Process, clock: Clock, redis_server: Server, lose: Callable[[Any, str], None]
) -> None:
    await process.queues.configure(PATH, {"paused": True})
    await process.store.batches.create(NewBatch("b", "scenes"))
    for child in ("c1", "c2"):
        await process.store.create(replace(TASK, id=child, batch="b"))
    await seal(process)
    assert each_key(redis_server, "c:b", lose)
    with suppress(StoreUnavailable):
        await process.store.cancel("c1")
    await settled(process)
    for _ in range(3):
        await rounds(process, clock, seconds=2 * LOOK_S)
        await settled(process)
    batch = await known(process, "b")
    assert (batch.state, batch.status) == (State.FAILED, "failed - 2 of 2 failed")


@pytest.mark.parametrize("lose", [delete, overwrite, scribble])
async def test_a_task_whose_next_steps_are_lost_fails_and_says_so(
    process: Process, clock: Clock, redis_server: Server, lose: Callable[[Any, str], None]
) -> None:
    await process.store.create(replace(TASK, steps=STEPS))
    await process.store.accept(await claimed(process))
    assert each_key(redis_server, "n:t", lose)
    with suppress(StoreUnavailable):
        await process.store.update("t", state=State.COMPLETED, status="completed", attempt=1)
    await rounds(process, clock)
    await process.store.update("t", state=State.COMPLETED, status="completed", attempt=1)
    task = await known(process)
    assert (task.state, task.status) == (State.FAILED, "Failed - the next steps of its pipeline were lost.")


WHOLE_STATE = {"l": 0, "v": 0, "w": 0, "t": 0}


@pytest.mark.parametrize(
    "garbage",
    [{"f": 5}, {"f": ["x"]}, {"P": [1, 2]}, {"Q": 7, "p": "t.1"}, {"b": "x"}, {"O": []}, {"s": {}}, {"q": "x"}],
    ids=repr,
)
async def test_a_queue_whose_state_cannot_be_is_rebuilt_and_holds_up_no_other(
    process: Process, clock: Clock, redis_server: Server, garbage: dict[str, Any]
) -> None:
    for path in (PATH, NEXT):
        await process.queues.configure(path, {"paused": True})
        for number in range(2):
            await process.store.create(replace(TASK, id=f"{path}{number}", path=path))
    await reconcile(process.services)  # the first one mends
    each_key(redis_server, f"q:{PATH}", lambda client, key: client.set(key, pack({**WHOLE_STATE, **garbage})))
    each_key(redis_server, f"qs:{PATH}|qo:{NEXT}|qw:{NEXT} ", delete)
    clock.advance(4 * REPUBLISH_S)
    await reconcile(process.services)
    assert (await process.queues.status(NEXT)).waiting == 2
    with suppress(Exception):
        await process.store.create(replace(TASK, id="later"))
    process.store.mending._not_before_s = 0
    await rounds(process, clock, seconds=8 * REPUBLISH_S)
    await process.store.create(replace(TASK, id="later"))
    status = await process.queues.status(PATH)
    assert status.waiting + status.holding == 3


@pytest.mark.parametrize("garbage", [{"limit": "x"}, {"paused": []}, {"limit": 1, "by": 5}], ids=repr)
@pytest.mark.parametrize("kind", ["qs", "settings", "qs|settings"])
async def test_settings_that_cannot_be_are_as_their_record_says(
    process: Process, clock: Clock, redis_server: Server, garbage: Any, kind: str
) -> None:
    await process.queues.configure(PATH, {"paused": True, "limit": 2})
    await process.store.create(TASK)
    await reconcile(process.services)

    def spoil(client: Any, key: str) -> None:
        packed = pack({"": garbage})[2:]
        if key.endswith("settings"):
            client.hset(key, PATH, packed)
        else:
            client.set(key, packed)

    assert each_key(redis_server, rf"({kind})(:.*)?", spoil)
    with suppress(Exception):
        await process.store.create(replace(TASK, id="meanwhile"))
    process.link.has_met_foreign_keys = True  # as a step that fails notes
    await rounds(process, clock)
    status = await process.queues.status(PATH)
    known_from_the_other = kind != "qs|settings"
    assert status.paused is known_from_the_other
    assert (status.limit == 2) is known_from_the_other
    await process.store.create(replace(TASK, id="later"))
    await process.queues.configure(PATH, {"paused": True})
    assert (await process.queues.status(PATH)).paused


@pytest.mark.parametrize("instances", [0, 3, 40])
@pytest.mark.parametrize("garbage", [b"garbage", b"\x80", b"\x93\x01\x02\x03", b"\x93\x01\x90\x81\xa1i\x91\x01"])
async def test_a_counter_that_is_none_is_lost(
    process: Process, clock: Clock, redis_server: Server, garbage: bytes, instances: int
) -> None:
    await report(process, instances)

    def spoil(client: Any, key: str) -> None:
        for field in client.hkeys(key):
            client.hset(key, field, garbage)

    assert each_key(redis_server, "requests:shares:.*" if instances > 32 else "requests", spoil)
    clock.advance(61)  # after which shares lapse
    with suppress(Exception):
        await report(process, instances)
    await rounds(process, clock)
    assert await process.services.request_counts.count("c", PATH) is None
    assert await report(process, instances) == instances + 1


async def test_a_call_that_meets_a_foreign_key_is_unavailable_until_the_next_round(
    process: Process, clock: Clock, redis_server: Server
) -> None:
    await process.store.create(TASK)
    await reconcile(process.services)
    each_key(redis_server, "z:.*:created", overwrite)
    with pytest.raises(StoreUnavailable, match="will be removed"):
        await process.store.cancel("t")
    await rounds(process, clock)
    assert isinstance(await process.store.cancel("t"), Applied)
    World(redis_server).assert_consistent()


async def test_deadlines_are_looked_at_closely_only_if_there_is_a_reason(
    process: Process, clock: Clock, redis_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    await process.store.create(TASK)
    await reconcile(process.services)
    caplog.clear()
    caplog.set_level("INFO")
    for seconds in (1, 30, -4, 4000):  # servers' clocks differ by some seconds
        clock.advance(seconds)
        await reconcile(process.services)
    assert not caplog.records
    clock.advance(-BACK_S)
    await reconcile(process.services)
    assert "Redis' clock was set back" in caplog.text


async def test_what_was_set_long_ago_is_left_alone(process: Process, clock: Clock, redis_server: Server) -> None:
    """However many wait, they are not all looked at at once."""
    await process.queues.configure(PATH, {"paused": True})
    await process.store.create(TASK)
    for _ in range(20):
        await rounds(process, clock, seconds=BACK_S)
    before = World(redis_server).due_s["t"]
    clock.advance(-BACK_S)
    await rounds(process, clock)
    assert World(redis_server).due_s["t"] == before


async def test_nothing_is_written_of_what_was_never_used(process: Process, redis_server: Server) -> None:
    await reconcile(process.services)
    assert each_key(redis_server, ".*", lambda client, key: None) == 0
