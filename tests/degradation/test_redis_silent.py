"""A silent Redis: it accepts connections and requests, and answers none or stops within an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from local.redis_server import RedisServer
from shared.store import TaskStore
from shared.store.redis import client as connection
from shared.store.redis import subscriptions
from shared.store.redis.link import StoreUnavailable
from shared.store.redis.partitions import PARTITIONS, partition
from shared.tasks.outcomes import Created, Existing
from shared.tasks.task import Content, NewTask, Task
from tests.degradation.conftest import SHORT_S, OpenStore
from tests.degradation.switch import Switch
from tests.patience import be_patient
from tests.shared.store.conftest import answered
from tests.shared.store.test_changes import anything, begun, new, report, soon
from tests.waiting import PATIENCE_S, until

MANY = 200
HANG_S = PATIENCE_S
"""Much longer than all calls together may take."""
TASK = NewTask("t1", "/v1/a", 60, body=Content("text/plain", 5), inline_body=b"hello")


@pytest.fixture
def store(open_store: OpenStore, switch: Switch, monkeypatch: pytest.MonkeyPatch) -> TaskStore:
    # A connection that was made before the silence keeps this timeout.
    monkeypatch.setattr(connection, "REPLY_TIMEOUT_S", 2 * SHORT_S)
    return open_store(switch.port)


@pytest.fixture
def silence(switch: Switch, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that silences Redis and lowers the timeout of calls to a second."""

    def silence(after_bytes: int = 0) -> None:
        be_patient(monkeypatch, SHORT_S)
        switch.silence(after_bytes)

    return silence


async def outcomes(calls: list[Awaitable[object]]) -> set[type]:
    async with asyncio.timeout(HANG_S):
        return {type(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)}


@pytest.mark.parametrize("after_bytes", [0, 3], ids=["no-answer", "half-an-answer"])
async def test_every_call_to_a_silent_redis_fails_and_leaves_no_asyncio_task(
    store: TaskStore, switch: Switch, silence: Callable[..., None], after_bytes: int
) -> None:
    assert isinstance(await store.create(TASK), Created)
    before = asyncio.all_tasks()
    silence(after_bytes)
    for _ in range(2):
        assert await outcomes([store.get("t1") for _ in range(MANY)]) == {StoreUnavailable}
    async with asyncio.timeout(HANG_S):
        while left := asyncio.all_tasks() - before:
            await asyncio.wait(left)
    switch.flow()
    assert await answered(lambda: store.get("t1"))
    assert {type(await answered(lambda: store.get("t1"))) for _ in range(MANY)} == {Task}


async def test_calls_do_not_wait_for_the_probe_of_a_silent_redis(
    store: TaskStore, switch: Switch, silence: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.create(TASK)
    silence()
    assert await outcomes([store.get("t1")]) == {StoreUnavailable}
    be_patient(monkeypatch, 10 * HANG_S)
    assert await outcomes([store.get("t1") for _ in range(MANY)]) == {StoreUnavailable}
    assert await outcomes([store.get("t1")]) == {StoreUnavailable}
    switch.cut()


async def test_one_answer_of_a_single_server_closes_the_circuit_of_all_partitions(
    store: TaskStore,
    server: RedisServer,
    switch: Switch,
    silence: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = [next(id_ for n in range(10_000) if partition(id_ := f"t{n}") == index) for index in range(PARTITIONS)]
    await store.create(TASK)
    silence()
    assert await outcomes([store.get(task_id) for task_id in ids]) == {StoreUnavailable}
    switch.flow()
    await answered(lambda: store.get("t1"))
    be_patient(monkeypatch)

    def get_calls() -> int:
        with server.connect() as client:
            return client.info("commandstats")["cmdstat_get"]["calls"]  # type: ignore[index]

    before = get_calls()
    assert await outcomes([store.get(task_id) for task_id in ids]) <= {Task, type(None)}
    assert get_calls() == before + PARTITIONS, "no partition had to probe by itself"


async def test_store_that_never_connected_reports_a_silent_redis_and_recovers(
    store: TaskStore, switch: Switch, silence: Callable[..., None]
) -> None:
    silence()
    calls: list[Awaitable[object]] = [store.get(f"t{number}") for number in range(MANY)]
    assert await outcomes(calls) == {StoreUnavailable}
    switch.flow()
    switch.cut()
    assert isinstance(await answered(lambda: store.create(TASK)), Created)


async def test_step_whose_reply_was_lost_has_been_applied(
    store: TaskStore, switch: Switch, silence: Callable[..., None]
) -> None:
    await store.ping()
    silence()
    assert await outcomes([store.create(TASK)]) == {StoreUnavailable}
    switch.flow()
    assert isinstance(await answered(lambda: store.create(TASK)), Existing)


async def test_lost_connection_is_replaced_without_an_error(
    store: TaskStore, switch: Switch, server: RedisServer
) -> None:
    await store.create(TASK)
    for _ in range(3):
        await asyncio.gather(*(store.get("t1") for _ in range(MANY)))
        switch.cut()
    assert await store.get("t1")


async def test_ping_of_a_silent_redis_fails_like_any_call(
    store: TaskStore, switch: Switch, silence: Callable[..., None]
) -> None:
    await store.ping()
    silence()
    assert await outcomes([store.ping() for _ in range(MANY)]) == {StoreUnavailable}
    switch.flow()
    await answered(store.ping)


async def test_a_wait_whose_connection_fell_silent_hears_of_the_change_over_another(
    store: TaskStore,
    open_store: OpenStore,
    switch: Switch,
    silence: Callable[..., None],
    server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subscriptions, "_SILENCE_S", SHORT_S)
    known = await new(store, "t1")
    wait = asyncio.ensure_future(store.wait(known, anything))
    await begun(server, "t1")
    other = open_store(server.port)
    silence()
    before = switch.accepted
    changed = await report(other, "t1", "on it")
    await until(lambda: switch.accepted > before)
    assert not wait.done()
    switch.flow()
    assert await soon(wait) == changed
