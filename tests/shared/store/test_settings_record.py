"""An operator's settings of a queue outlast the loss of its keys: a record has them too. And an older version of the
app, which knows nothing of the record, may change them all the while."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgpack
import pytest
import redis
from redis.exceptions import ResponseError

from shared.store.queries import Queries
from shared.store.queue_steps import QueueSteps
from shared.store.redis.link import RedisLink
from shared.store.series import EndpointSeries
from tests.shared.store.conftest import Clock, RepeatingLink, opener
from tests.shared.store.fleet import PATH, new_task
from tests.shared.store.test_queues import POLICY, enqueue, tasks
from tests.shared.store.world import Server, nodes, tag_of

TAG = "{" + tag_of(PATH) + "}"
SETTINGS, RECORD, STATE = f"{TAG}qs:{PATH}", f"{TAG}settings", f"{TAG}q:{PATH}"
OF_QUEUE = tuple(f"{TAG}{kind}:{PATH}" for kind in ("q", "qs", "qo", "qh", "qi"))
Spoil = Callable[[Any, str], None]


@pytest.fixture(params=[RedisLink, RepeatingLink], ids=["once", "repeated"])
async def link(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[RedisLink]:
    link = request.param(opener(redis_url))
    yield link
    await link.aclose()


@pytest.fixture
def queues(link: RedisLink, clock: Clock) -> QueueSteps:
    return QueueSteps(link, POLICY, lambda path: 8, clock)


def on_its_node(server: Server, key: str, do: Callable[[Any], Any]) -> Any:
    """What *do* returns for a client of the node that has the *key*."""
    for node in nodes(server):
        with redis.Redis(port=node.port) as client:
            try:
                client.type(key)
            except ResponseError:  # another one has it
                continue
            return do(client)
    raise AssertionError("no node has it")


def delete(client: Any, key: str) -> None:
    client.delete(key)


def overwrite(client: Any, key: str) -> None:
    client.delete(key)
    client.xadd(key, {"somebody": "else"})


def scribble(client: Any, key: str) -> None:
    client.set(key, b"\xc1 somebody else's")


def spoil(server: Server, how: Spoil, *keys: str) -> None:
    for key in keys:
        on_its_node(server, key, lambda client, key=key: how(client, key))


def written(server: Server) -> tuple[Any, Any]:
    """The settings and their record, as they lie in Redis."""

    def read(client: Any) -> tuple[Any, Any]:
        found, record = client.get(SETTINGS), client.hget(RECORD, PATH)
        return found and msgpack.unpackb(found), record and msgpack.unpackb(record)

    return on_its_node(server, SETTINGS, read)


def changed_by_older(server: Server, **changes: Any) -> None:
    """As the scripts of a version change settings that knows nothing of their record."""

    def change(client: Any) -> None:
        raw = client.get(SETTINGS)
        settings = msgpack.unpackb(raw) if raw else {}
        settings = {name: value for name, value in (settings | changes).items() if value}
        if settings:
            client.set(SETTINGS, msgpack.packb(settings))
        else:
            client.delete(SETTINGS)

    on_its_node(server, SETTINGS, change)


async def settings(queues: QueueSteps) -> tuple[bool, bool, int | None]:
    status = await queues.status(PATH)
    return status.paused, status.draining, status.limit


LOSSES = {
    "the settings": (SETTINGS,),
    "the state": (STATE,),
    "both": (SETTINGS, STATE),
    "all but the tasks": OF_QUEUE,
}


@pytest.mark.parametrize("how", [delete, overwrite, scribble])
@pytest.mark.parametrize("lost", LOSSES.values(), ids=LOSSES)
async def test_a_queue_is_paused_whatever_keys_it_has_lost(
    link: RedisLink, queues: QueueSteps, clock: Clock, redis_server: Server, lost: tuple[str, ...], how: Spoil
) -> None:
    await queues.configure(PATH, {"paused": True, "limit": 3}, by="ada")
    waiting = tasks(3, clock)
    await enqueue(queues, *waiting)
    await queues.maintain(PATH)
    before = written(redis_server)
    spoil(redis_server, how, *(key for key in lost if how is delete or key in (SETTINGS, STATE)))

    assert await settings(queues) == (True, False, 3), "at once, and not after a round"
    totals = (await EndpointSeries(link).totals([PATH]))[PATH]
    assert (totals.paused, totals.limit) == (True, 3), "as Prometheus is told"
    assert await enqueue(queues, new_task("late", clock)) == []
    assert (await queues.grant_free_slots(PATH)).grants == []
    assert (await queues.maintain(PATH)).granted.grants == []
    assert written(redis_server) == before
    status = await queues.status(PATH)
    assert (status.settings_by, status.settings_at_ms) == ("ada", before[0]["at"])
    await queues.configure(PATH, {"paused": False})
    assert (await queues.status(PATH)).holding == 1, "a probe"
    assert await settings(queues) == (False, False, 3)


async def test_a_look_at_what_was_lost_writes_nothing(queues: QueueSteps, redis_server: Server) -> None:
    await queues.configure(PATH, {"paused": True})
    spoil(redis_server, delete, SETTINGS, STATE)
    assert await settings(queues) == (True, False, 8)
    assert written(redis_server)[0] is None
    assert on_its_node(redis_server, STATE, lambda client: client.exists(STATE)) == 0


@pytest.mark.parametrize("how", [delete, overwrite, scribble])
async def test_a_record_that_was_lost_is_written_again(
    queues: QueueSteps, clock: Clock, redis_server: Server, how: Spoil
) -> None:
    await queues.configure(PATH, {"draining": True}, by="ada")
    before = written(redis_server)
    spoil(redis_server, how, RECORD)
    await enqueue(queues, *tasks(1, clock))
    await queues.maintain(PATH)
    assert written(redis_server) == before
    spoil(redis_server, how, RECORD)
    await queues.configure(PATH, {"limit": 5})
    spoil(redis_server, delete, SETTINGS)
    assert await settings(queues) == (False, True, 5)


async def test_settings_that_are_all_reset_leave_nothing(queues: QueueSteps, redis_server: Server) -> None:
    await queues.configure(PATH, {"paused": True, "limit": 5}, by="ada")
    await queues.configure(PATH, {"paused": False})
    assert written(redis_server)[1]["limit"] == 5
    await queues.configure(PATH, {"limit": None, "draining": False})
    assert written(redis_server) == (None, None)
    spoil(redis_server, delete, STATE)
    assert await settings(queues) == (False, False, 8)
    assert (await queues.status(PATH)).settings_at_ms is None


async def test_the_status_says_who_changed_the_settings_last(queues: QueueSteps, clock: Clock) -> None:
    async def last() -> tuple[str | None, int | None]:
        status = await queues.status(PATH)
        return status.settings_by, status.settings_at_ms

    assert await last() == (None, None)
    await queues.configure(PATH, {"paused": True}, by="ada")
    began = clock()
    assert await last() == ("ada", began)
    clock.advance(60)
    await queues.configure(PATH, {}, by="bob")
    assert await last() == ("ada", began), "nothing was changed"
    await queues.configure(PATH, {"limit": 3})
    assert await last() == (None, began + 60_000), "by a key, whose holder nobody knows"


async def test_what_an_older_version_sets_and_resets_holds(
    queues: QueueSteps, clock: Clock, redis_server: Server
) -> None:
    await queues.configure(PATH, {"paused": True}, by="ada")
    changed_by_older(redis_server, paused=False, limit=2)
    assert await settings(queues) == (False, False, 2)
    await enqueue(queues, *tasks(3, clock))
    await queues.maintain(PATH)
    spoil(redis_server, delete, SETTINGS)
    assert await settings(queues) == (False, False, 2)
    assert (await queues.status(PATH)).settings_by is None, "it does not say who"
    await queues.maintain(PATH)
    changed_by_older(redis_server, limit=False)
    assert await settings(queues) == (False, False, 8)
    await queues.maintain(PATH)
    assert written(redis_server) == (None, None)


async def test_a_reset_by_an_older_version_is_no_loss(queues: QueueSteps, redis_server: Server) -> None:
    await queues.configure(PATH, {"paused": True})
    changed_by_older(redis_server, paused=False)
    spoil(redis_server, delete, STATE)
    assert await settings(queues) == (False, False, 8)


async def test_settings_of_an_older_version_get_a_record(
    queues: QueueSteps, clock: Clock, redis_server: Server
) -> None:
    changed_by_older(redis_server, paused=True)
    await enqueue(queues, *tasks(1, clock))
    assert written(redis_server)[1] is None
    changed_by_older(redis_server, paused=False)
    assert await settings(queues) == (False, False, 8)
    changed_by_older(redis_server, paused=True)
    await queues.maintain(PATH)
    spoil(redis_server, delete, SETTINGS, STATE)
    assert await settings(queues) == (True, False, 8)


async def test_a_queue_that_an_older_version_made_anew_gets_its_settings_back(
    queues: QueueSteps, clock: Clock, redis_server: Server
) -> None:
    await queues.configure(PATH, {"paused": True})
    on_its_node(
        redis_server, STATE, lambda client: client.set(STATE, msgpack.packb({"l": 0, "v": 0, "w": 0, "t": 1}))
    )
    spoil(redis_server, delete, SETTINGS)
    assert (await queues.maintain(PATH)).granted.grants == []
    assert await enqueue(queues, *tasks(1, clock)) == []


async def test_paths_with_settings_are_known_though_nothing_is_there(link: RedisLink, queues: QueueSteps) -> None:
    queries = Queries(link)
    assert await queries.paths_with_settings() == set()
    await queues.configure(PATH, {"paused": True})
    await queues.configure("/v1/b", {"limit": 3})
    assert await queries.paths_with_settings() == {PATH, "/v1/b"}
    await queues.configure(PATH, {"paused": None})
    assert await queries.paths_with_settings() == {"/v1/b"}


async def test_a_list_of_paths_waits_for_no_mending(
    link: RedisLink, queues: QueueSteps, redis_server: Server
) -> None:
    await queues.configure(PATH, {"paused": True})
    spoil(redis_server, overwrite, RECORD)
    assert await Queries(link).paths_with_settings() == set()


async def test_a_resumed_queue_grants_what_waited(queues: QueueSteps, clock: Clock, redis_server: Server) -> None:
    await queues.configure(PATH, {"paused": True})
    await enqueue(queues, *tasks(2, clock))
    spoil(redis_server, delete, SETTINGS)
    await queues.configure(PATH, {"paused": False})
    assert (await queues.status(PATH)).holding == 1
    assert written(redis_server) == (None, None)
