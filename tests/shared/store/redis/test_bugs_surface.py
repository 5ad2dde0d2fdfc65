"""A bug of ours surfaces as a bug, and an outage as an outage: neither is taken for the other, however busy the
machine."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from redis.asyncio import RedisCluster
from redis.exceptions import ClusterError

from shared import telemetry
from shared.store.redis import pipelining
from shared.store.redis.client import ClusterClient
from shared.store.redis.link import RedisLink
from shared.tasks.outcomes import Created
from shared.tasks.task import Content, NewTask
from tests.shared.store.conftest import Store, StoreFactory
from tests.shared.store.wire import Wire

MANY = 200


class Bug(Exception):
    """What no code here expects."""


def new_task(number: int) -> NewTask:
    return NewTask(f"t{number}", "/v1/a", 60, body=Content("text/plain", 5), inline_body=b"hello")


async def create_all(store: Store) -> list[object]:
    creates = (store.create(new_task(number)) for number in range(MANY))
    return await asyncio.gather(*creates, return_exceptions=True)


@pytest.mark.parametrize("bug", [Bug, AttributeError, TypeError, KeyError])
async def test_a_bug_in_a_batch_reaches_every_caller_and_the_log(
    open_store: StoreFactory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, bug: type[Exception]
) -> None:
    store = open_store()
    assert isinstance(await store.create(new_task(MANY)), Created)
    wire_form = pipelining._wire_form

    def broken(part: Any) -> bytes:
        raise bug

    monkeypatch.setattr(pipelining, "_wire_form", broken)
    assert {type(outcome) for outcome in await create_all(store)} == {bug}
    assert "a batch of commands failed" in caplog.text
    monkeypatch.setattr(pipelining, "_wire_form", wire_form)
    assert {type(outcome) for outcome in await create_all(store)} == {Created}, "the batches after it go on"


@pytest.mark.parametrize("bug", [Bug, AttributeError, TypeError])
async def test_a_bug_on_the_way_to_redis_is_no_outage(
    open_store: StoreFactory, monkeypatch: pytest.MonkeyPatch, bug: type[Exception]
) -> None:
    store = open_store()
    await store.ping()

    async def broken(self: RedisLink, *args: object) -> Any:
        raise bug

    monkeypatch.setattr(RedisLink, "_ask", broken)
    with pytest.raises(bug):
        await store.create(new_task(1))


async def test_an_interrupted_batch_is_logged_and_counted_and_its_steps_are_taken(
    open_store: StoreFactory, wire: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    counted: list[str] = []
    monkeypatch.setattr(telemetry, "batch_interrupted", counted.append)
    caplog.set_level(logging.INFO, "task_backbone")
    store = open_store(url=wire.url)
    assert isinstance(await store.create(new_task(0)), Created)
    wire.lose_answers = 1
    assert isinstance(await store.create(new_task(1)), Created)
    assert counted == ["ConnectionError"]
    assert "a batch of 1 commands was interrupted" in caplog.text


async def test_a_topology_that_is_not_known_is_an_outage_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    async def without_a_node(self: RedisCluster, *args: object, **options: object) -> Any:
        raise AttributeError("'NoneType' object has no attribute 'execute_command'")

    monkeypatch.setattr(RedisCluster, "execute_command", without_a_node)
    client = ClusterClient(host="127.0.0.1", port=1)
    with pytest.raises(ClusterError):
        await client.execute_command("GET", "t1")
