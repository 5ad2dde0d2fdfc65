"""Many tasks that are created together: each has the outcome that it would have alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import pytest
from redis.exceptions import MovedError

from local.redis_server import RedisCluster
from shared.store import CreateOutcome, RedisLink, StoreUnavailable, TaskStore
from shared.store.task_steps import record_key
from shared.tasks.outcomes import BatchRefused, Created, Draining, Existing, Full
from shared.tasks.task import Content, NewBatch, NewTask, State
from tests.shared.store.conftest import Clock, RepeatingLink, opener
from tests.shared.store.policies import store_policy
from tests.shared.store.wire import Wire
from tests.shared.store.world import Server, nodes

PATH = "/v1/org/model"
BACKLOG = 30
BODY = b"body"
Opened = Callable[..., TaskStore]


@pytest.fixture
async def open_tasks(redis_url: str, clock: Clock) -> AsyncIterator[Opened]:
    """Opens stores of an empty Redis whose queues hold few tasks, and whose backend has one slot."""
    stores: list[TaskStore] = []

    def open_tasks(url: str = redis_url, *, repeating: bool = False) -> TaskStore:
        link = (RepeatingLink if repeating else RedisLink)(opener(url))
        stores.append(TaskStore(link, store_policy(max_backlog=BACKLOG), lambda path: 1, clock))
        return stores[-1]

    yield open_tasks
    for store in stores:
        await store.aclose()


@pytest.fixture(params=[False, True], ids=["once", "each-script-twice"])
def tasks(request: pytest.FixtureRequest, open_tasks: Opened) -> TaskStore:
    return open_tasks(repeating=request.param)


def new(task_id: str, path: str = PATH, batch: str = "", fingerprint: str = "") -> NewTask:
    content = Content("text/plain", len(BODY))
    return NewTask(task_id, path, 60, body=content, inline_body=BODY, batch=batch, fingerprint=fingerprint)


def news(count: int, **options: str) -> list[NewTask]:
    return [new(f"t{number}", **options) for number in range(count)]


async def create_each(tasks: TaskStore, news: Sequence[NewTask]) -> list[CreateOutcome]:
    creation = tasks.creation_of(news)
    await creation.send()
    return [*creation.outcomes()]


def granted(outcomes: Sequence[object]) -> list[str]:
    return [
        grant.task_id
        for outcome in outcomes
        if isinstance(outcome, (Created, Existing))
        for each in outcome.granted
        for grant in each.grants
    ]


async def test_each_is_created_and_they_wait_in_their_order(tasks: TaskStore, redis_server: Server) -> None:
    outcomes = await create_each(tasks, news(20))
    assert [outcome.task.id for outcome in outcomes if isinstance(outcome, Created)] == [f"t{n}" for n in range(20)]
    # On a cluster, a repetition does not tell again what the first try was granted.
    assert len(granted(outcomes)) == 1 or isinstance(redis_server, RedisCluster)
    for outcome in outcomes:
        assert isinstance(outcome, Created)
        assert await tasks.get(outcome.task.id) == outcome.task
        assert await tasks.inline_body(outcome.task.id) == BODY
    if not isinstance(redis_server, RedisCluster):
        waiting = [
            outcome.position.ahead for outcome in outcomes if isinstance(outcome, Created) and outcome.position
        ]
        assert waiting == [*range(19)]


async def test_what_is_there_already_is_told(tasks: TaskStore) -> None:
    await tasks.create(new("t1", fingerprint="f"))
    outcomes = await create_each(tasks, news(3))
    assert [type(outcome) for outcome in outcomes] == [Created, Existing, Created]
    assert isinstance(outcomes[1], Existing)
    assert outcomes[1].task.fingerprint == "f"


async def test_a_full_queue_takes_the_first_ones(tasks: TaskStore, redis_server: Server) -> None:
    outcomes = await create_each(tasks, news(BACKLOG + 5))
    kinds = [type(outcome) for outcome in outcomes]
    assert (kinds.count(Created), kinds.count(Full)) == (BACKLOG + 1, 4)  # one has the slot
    if not isinstance(redis_server, RedisCluster):
        assert kinds == [Created] * (BACKLOG + 1) + [Full] * 4
    for number, kind in enumerate(kinds):
        assert (await tasks.get(f"t{number}") is None) == (kind is Full)


async def test_a_draining_queue_takes_none(tasks: TaskStore) -> None:
    await tasks.queues.configure(PATH, {"draining": True}, by=None)
    outcomes = await create_each(tasks, news(3))
    assert [type(outcome) for outcome in outcomes] == [Draining] * 3


async def test_children_are_registered_at_their_batch(tasks: TaskStore) -> None:
    await tasks.batches.create(NewBatch("b"))
    outcomes = await create_each(tasks, news(5, batch="b"))
    assert [type(outcome) for outcome in outcomes] == [Created] * 5
    batch = await tasks.get("b")
    assert batch is not None
    assert batch.children is not None
    assert batch.children.total == 5
    await tasks.batches.seal("b", None)
    refused = await create_each(tasks, [new("late", batch="b"), new("t0", batch="b")])
    assert refused[0] == BatchRefused("sealed")
    assert isinstance(refused[1], Existing) or refused[1] == BatchRefused("sealed")


async def test_a_key_that_somebody_else_has_written_fails_its_task_alone(
    tasks: TaskStore, redis_server: Server
) -> None:
    key = record_key("t1")
    for node in nodes(redis_server):
        with node.connect() as client, suppress(MovedError):  # another node has the slot
            client.rpush(key, "not a record")
    outcomes = await create_each(tasks, news(3))
    assert [type(outcome) for outcome in outcomes] == [Created, StoreUnavailable, Created]


async def test_an_id_whose_former_task_is_being_removed_fails_alone(tasks: TaskStore) -> None:
    with_blob = replace(new("t1"), body=Content("text/plain", 5, "a blob"), inline_body=b"")
    await tasks.create(replace(with_blob, state=State.COMPLETED, dispatch_requested=False))
    await tasks.batches.erase(["t1"])
    outcomes = await create_each(tasks, news(3))
    assert [type(outcome) for outcome in outcomes] == [Created, StoreUnavailable, Created]


async def test_on_one_server_they_are_one_command(open_tasks: Opened, wire: Wire, redis_server: Server) -> None:
    if isinstance(redis_server, RedisCluster):
        pytest.skip("a cluster has a task and its queue on two nodes")
    tasks = open_tasks(wire.url)
    await create_each(tasks, news(1))
    wire.commands.clear()
    await create_each(tasks, [new(f"n{number}") for number in range(20)])
    assert len(wire.scripts) == 1


@pytest.mark.parametrize("lost", ["request", "answer"])
async def test_a_lost_command_is_repeated_and_creates_nothing_twice(
    lost: str, open_tasks: Opened, wire: Wire, redis_server: Server
) -> None:
    tasks = open_tasks(wire.url)
    await create_each(tasks, news(2, path="/v1/org/other"))
    wire.lose_requests, wire.lose_answers = int(lost == "request"), int(lost == "answer")
    outcomes = await create_each(tasks, [new(f"n{number}") for number in range(10)])
    assert (wire.lose_requests, wire.lose_answers) == (0, 0)
    assert [type(outcome) for outcome in outcomes] == [Created] * 10
    assert len(granted(outcomes)) == 1


async def test_without_redis_none_is_known_to_be_stored(open_tasks: Opened) -> None:
    tasks = open_tasks("redis://127.0.0.1:1")
    outcomes = await create_each(tasks, news(5))
    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
