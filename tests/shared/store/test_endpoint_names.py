"""The endpoints of a backend that takes any path: how many, and which make room for others. And the paths that cost
timers nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from shared.dispatch import endpoint_bound
from shared.dispatch.endpoint_bound import EndpointBound, TooManyEndpoints
from shared.dispatch.registry import Backend, Endpoint
from shared.store.endpoint_names import AHEAD_S, UNASKED_S, EndpointNames
from shared.store.queries import Queries
from shared.store.queue_steps import QueueSteps
from shared.store.redis.link import RedisLink, StoreUnavailable
from shared.tasks.task import Content, NewTask, State
from tests.shared.store.conftest import POLICY, Clock, Store, StoreFactory, opener
from tests.shared.store.world import Server, World, nodes

ANY = Backend("/v1/any", "https://models.example.org", 60)
LISTED = replace(ANY, prefix="/v1/listed", endpoints=frozenset(("/v1/listed/a", "/v1/listed/b")))
HELLO = NewTask("t1", "/v1/any/a", 60, body=Content("text/plain", 2), inline_body=b"hi")


@pytest.fixture
async def names(redis_url: str, clock: Clock) -> AsyncIterator[EndpointNames]:
    link = RedisLink(opener(redis_url))
    yield EndpointNames(link, Queries(link, clock), clock)
    await link.aclose()


async def test_a_backend_has_no_more_endpoints_than_it_may(names: EndpointNames) -> None:
    assert [await names.admit("/v1/any", f"/v1/any/{name}", 3) for name in "abcd"] == [True, True, True, False]
    assert await names.admit("/v1/any", "/v1/any/b", 3)
    assert await names.admit("/v1/other", "/v1/other/d", 3)


async def test_an_endpoint_without_tasks_makes_room_when_nobody_asks_for_it(
    names: EndpointNames, open_store: StoreFactory, clock: Clock
) -> None:
    for name in "abc":
        await names.admit("/v1/any", f"/v1/any/{name}", 3)
    await open_store().create(HELLO)
    clock.advance(UNASKED_S - 1)
    assert await names.admit("/v1/any", "/v1/any/b", 3)
    assert await names.forget_unused("/v1/any") == 0
    clock.advance(1)
    assert await names.forget_unused("/v1/any") == 1, "c alone: a has a task, and somebody has asked for b"
    assert [await names.admit("/v1/any", f"/v1/any/{name}", 3) for name in "deab"] == [True, False, True, True]


async def test_an_endpoint_for_which_an_operator_has_set_something_makes_no_room(
    redis_url: str, names: EndpointNames, clock: Clock
) -> None:
    link = RedisLink(opener(redis_url))
    queues = QueueSteps(link, POLICY)
    await names.admit("/v1/any", "/v1/any/set", 1)
    await queues.configure("/v1/any/set", {"paused": True})
    clock.advance(UNASKED_S)
    assert await names.forget_unused("/v1/any") == 0
    assert not await names.admit("/v1/any", "/v1/any/other", 1)
    await queues.configure("/v1/any/set", {"paused": False})
    assert await names.forget_unused("/v1/any") == 1
    await link.aclose()


async def test_an_endpoint_that_is_asked_for_meanwhile_makes_no_room(redis_url: str, clock: Clock) -> None:
    link = RedisLink(opener(redis_url))

    class SlowQueries(Queries):
        async def paths(self, *, has_open: bool = False) -> set[str]:
            found = await super().paths(has_open=has_open)
            assert await names.admit("/v1/any", "/v1/any/a", 1)
            return found

    names = EndpointNames(link, SlowQueries(link, clock), clock)
    assert await names.admit("/v1/any", "/v1/any/a", 1)
    clock.advance(UNASKED_S)
    assert await names.forget_unused("/v1/any") == 0
    await link.aclose()


async def test_an_endpoint_to_which_a_task_goes_later_makes_no_room_until_a_day_has_passed(
    names: EndpointNames, clock: Clock
) -> None:
    assert await names.admit("/v1/any", "/v1/any/later", 2, later=True)
    assert await names.admit("/v1/any", "/v1/any/now", 2)
    assert await names.admit("/v1/any", "/v1/any/later", 2), "which makes it no sooner"
    clock.advance(UNASKED_S)
    assert await names.forget_unused("/v1/any") == 1
    assert await names.admit("/v1/any", "/v1/any/now", 2)
    clock.advance(AHEAD_S)
    assert await names.forget_unused("/v1/any") == 2


class CountingNames(EndpointNames):
    asked: int = 0
    is_down: bool = False

    async def admit(self, prefix: str, path: str, most: int, *, later: bool = False) -> bool:
        self.asked += 1
        if self.is_down:
            raise StoreUnavailable("down")
        return await super().admit(prefix, path, most, later=later)


async def test_the_steps_behind_the_first_one_are_taken_as_later_ones(redis_url: str, clock: Clock) -> None:
    link = RedisLink(opener(redis_url))
    names = CountingNames(link, Queries(link, clock), clock)
    bound = EndpointBound(names)
    await bound.admit(Endpoint(ANY, "/v1/any/first"), Endpoint(ANY, "/v1/any/second"))
    await bound.admit_later(Endpoint(ANY, "/v1/any/then"))
    await bound.admit(Endpoint(ANY, "/v1/any/second"))
    assert names.asked == 4, "that it goes there later says nothing of now"
    clock.advance(UNASKED_S)
    assert await names.forget_unused("/v1/any") == 1
    await link.aclose()


async def test_a_process_asks_once_for_what_it_knows(
    redis_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_bound, "MOST_ENDPOINTS", 2)
    link = RedisLink(opener(redis_url))
    names = CountingNames(link, Queries(link, clock), clock)
    bound = EndpointBound(names)
    for _ in range(5):
        await bound.admit(Endpoint(ANY, "/v1/any/a"), Endpoint(ANY, "/v1/any/b"))
    assert names.asked == 2
    await bound.admit(Endpoint(ANY, "/v1/any"), Endpoint(LISTED, "/v1/listed/a"), Endpoint(LISTED, "/v1/listed/b"))
    assert names.asked == 2, "an operator has named these"
    with pytest.raises(TooManyEndpoints, match="/v1/any/c"):
        await bound.admit(Endpoint(ANY, "/v1/any/a"), Endpoint(ANY, "/v1/any/c"))
    clock.advance(UNASKED_S)
    with pytest.raises(TooManyEndpoints):
        await bound.admit(Endpoint(ANY, "/v1/any/c"))  # it has looked for room just now
    await EndpointBound(names).admit(Endpoint(ANY, "/v1/any/c"))
    names.is_down = True
    await bound.admit(Endpoint(ANY, "/v1/any/d"))
    await link.aclose()


async def end(store: Store, task_id: str) -> None:
    await store.update(task_id, state=State.COMPLETED, status="completed")


async def test_paths_whose_tasks_have_ended_cost_timers_nothing(
    open_store: StoreFactory, redis_server: Server
) -> None:
    store = open_store()
    for number in range(5):
        await store.create(replace(HELLO, id=f"t{number}", path=f"/v1/any/{number}"))
    for number in range(4):
        await end(store, f"t{number}")
    every = {f"/v1/any/{number}" for number in range(5)}
    assert await store.queries.paths(has_open=True) == every, "nobody has looked"
    await store.queries.set_ended_paths_aside()
    assert await store.queries.paths(has_open=True) == {"/v1/any/4"}
    assert await store.queries.paths() == every == (await store.queries.depths()).keys()
    World(redis_server).assert_consistent()
    await store.create(replace(HELLO, id="t5", path="/v1/any/0"))
    assert await store.queries.set_ended_paths_aside() == {"/v1/any/0", "/v1/any/4"}
    await end(store, "t4")
    await end(store, "t5")
    assert await store.queries.set_ended_paths_aside() == set()
    for number in range(6):
        await store.purge([f"t{number}"])
    assert await store.queries.paths() == set()
    World(redis_server).assert_consistent()


async def test_a_task_that_begins_again_brings_its_path_back(open_store: StoreFactory) -> None:
    store = open_store()
    await store.create(HELLO)
    await store.update("t1", state=State.FAILED, status="failed")
    assert await store.queries.set_ended_paths_aside() == set()
    await store.replay("t1")
    assert await store.queries.paths(has_open=True) == {HELLO.path}


async def test_what_an_earlier_version_does_not_note_is_found(open_store: StoreFactory, redis_server: Server) -> None:
    """It knows nothing of the paths aside: it replays a task there, or removes the last one."""
    store = open_store()
    await store.create(HELLO)
    for node in nodes(redis_server):
        with node.connect() as client:
            for key in [*client.scan_iter("*}paths")]:
                client.sadd(key.replace("paths", "ended_paths"), "/v1/any/a", "/v1/any/gone")
                client.delete(key)
    assert await store.queries.set_ended_paths_aside() == {HELLO.path}
    assert await store.queries.paths() == await store.queries.paths(has_open=True) == {HELLO.path}
