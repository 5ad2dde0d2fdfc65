"""A later version of the app may share a Redis with this one, while it is rolled out or rolled back. So every step
keeps what it does not know of a record, of an upload and of a queue (docs/upgrade.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from local.redis_server import RedisServer
from local.stack import ROOT
from shared.store.batch_steps import BatchSteps, ChildEnd
from shared.store.queue_steps import QueueEntry, QueueSteps
from shared.store.redis.client import RedisClient
from shared.store.redis.link import RedisLink
from shared.store.requeue import BackendAway
from shared.store.series import EndpointSeries
from shared.tasks.outcomes import SlotGrant
from shared.tasks.task import NewBatch, State, Task
from shared.tasks.told_slots import ToldSlots
from tests.shared.store.conftest import POLICY, Clock, LifeSteps, Store, StoreFactory, opener, store_at
from tests.shared.store.fleet import PATH, new_task
from tests.shared.store.later import LaterFields
from tests.shared.store.policies import store_policy
from tests.shared.store.steps import HELLO, Step, created, each_step
from tests.shared.store.test_batch_state_machine import BatchMachine
from tests.shared.store.test_state_machine import StoreMachine
from tests.shared.store.test_uploads_state_machine import UploadsMachine
from tests.shared.store.world import Server, World, nodes

LUA = ROOT / "shared" / "store" / "lua"


class NamingLink(RedisLink):
    """Remembers which scripts were run."""

    def __init__(self, opener: Callable[[], Awaitable[RedisClient]]) -> None:
        super().__init__(opener)
        self.names: set[str] = set()

    async def script(self, name: str, tag: str, *args: bytes | str) -> Any:
        self.names.add(name)
        return await super().script(name, tag, *args)

    async def combined(self, name: str, *args: bytes) -> Any | None:
        self.names.add(f"combined/{name}")
        return await super().combined(name, *args)


@each_step
async def test_a_step_keeps_what_it_does_not_know_of_a_record(
    open_store: StoreFactory, clock: Clock, redis_server: Server, step: Step
) -> None:
    store = open_store()
    with closing(LaterFields(redis_server)) as later:
        task = await step.prepare(store, clock)
        assert later.look() == []
        known = later.count("t")
        await step.take(store, task)
        assert later.look() == []
        if task and step.name not in ("withdraw", "withdraw before the start", "sweep that purges", "purge"):
            assert known == later.count("t") == 1


def keeping(machine: type[RuleBasedStateMachine]) -> type[RuleBasedStateMachine]:
    """The same machine on a Redis that a later version writes to as well."""

    class Keeping(cast("Any", machine)):
        def __init__(self, later: LaterFields, server: Server, *args: Any) -> None:
            super().__init__(server, *args)
            self.later = later
            later.forget()

        def run(self, step: Coroutine[Any, Any, Any]) -> Any:
            outcome = super().run(step)
            assert self.later.look() == []
            return outcome

    return Keeping


@pytest.mark.parametrize("machine", [StoreMachine, BatchMachine, UploadsMachine], ids=lambda each: each.__name__)
def test_no_interleaving_of_steps_loses_what_they_do_not_know(
    machine: type[RuleBasedStateMachine], redis_server: Server
) -> None:
    clock = Clock()
    with asyncio.Runner() as runner, closing(LaterFields(redis_server)) as later:
        stores: list[Store] = [
            store_at(redis_server.url, POLICY, clock, repeating=is_repeating) for is_repeating in (False, True)
        ]
        try:
            run_state_machine_as_test(
                cast("Any", partial(keeping(machine), later, redis_server, runner, *stores, clock)),
                settings=settings(
                    max_examples=10,
                    stateful_step_count=25,
                    deadline=None,
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
                ),
            )
        finally:
            for store in stores:
                runner.run(store.aclose())


async def test_each_step_of_a_queue_keeps_what_it_does_not_know(
    redis_url: str, redis_server: Server, clock: Clock
) -> None:
    link = NamingLink(opener(redis_url))
    queues = QueueSteps(link, store_policy(), lambda path: 4, clock)
    first, second, third, fourth, fifth = (new_task(f"t{number}", clock) for number in range(5))

    def again(task: Task) -> Task:
        return replace(task, attempt=task.attempt + 1)

    story: dict[str, Callable[[], Awaitable[object]]] = {
        "enqueue": lambda: queues.enqueue_new(QueueEntry.of(first)),
        "enqueue several": lambda: queues.enqueue([QueueEntry.of(task) for task in (second, third, fourth, fifth)]),
        "told": lambda: queues.tell(PATH, ToldSlots(3, "pod-1")),
        "accepted": lambda: queues.accepted(first),
        "refused": lambda: queues.refused(second, again(second), after_s=1),
        "failed": lambda: queues.failed(third),
        "away": lambda: queues.away(third, BackendAway("is away", PATH)),
        "return": lambda: queues.return_entry(fourth, again(fourth)),
        "released": lambda: queues.released(again(first), 1, None),
        "release": lambda: queues.release(PATH, SlotGrant.of(fifth), "", 1_000),
        "configure": lambda: queues.configure(PATH, {"paused": True, "limit": 3}),
        "configure back": lambda: queues.configure(PATH, {"paused": False, "limit": None}),
        "grant": lambda: queues.grant_free_slots(PATH),
        "held": lambda: queues.mark_held([QueueEntry.of(third)]),
        "note holders": lambda: queues.note_holders(PATH, {SlotGrant.of(third): ""}),
        "forget delayed": lambda: queues.forget_delayed(PATH, [(SlotGrant.of(third), "")]),
        "check later": lambda: queues.reschedule_check(PATH, {SlotGrant.of(third): 5}),
        "maintain": lambda: queues.maintain(PATH),
        "waiting": lambda: queues.waiting(PATH),
        "owners": lambda: queues.owners(PATH),
        "note the oldest": lambda: EndpointSeries(link, clock).note_oldest({PATH: 1_000}),
        "rebuilt": lambda: queues.mark_rebuilt(PATH, clock()),
        "status": lambda: queues.status(PATH, second),
    }
    is_configured = False
    with closing(LaterFields(redis_server)) as later:
        for name, step in story.items():
            await step()
            is_configured |= name == "configure"
            assert later.look() == [], name
            assert (later.count("q"), later.count("qs")) == (1, is_configured), name
            clock.advance(1)
    await link.aclose()
    scripts = {f"queue/{file.stem}" for file in (LUA / "queue").glob("*.lua")}
    unread = {"queue/held_paths", "queue/holds", "queue/paths_with_settings", "queue/series", "queue/series_paths"}
    assert scripts - link.names == {*unread, "queue/totals"}, "which write nothing of the kind"


async def test_a_step_of_a_task_and_its_queue_keeps_what_it_does_not_know(tmp_path: Path, clock: Clock) -> None:
    with RedisServer(tmp_path) as server, closing(LaterFields(server)) as later:  # a cluster takes no such step
        link = NamingLink(opener(server.url))
        queues = QueueSteps(link, store_policy(), lambda path: 4, clock)
        store = LifeSteps(link, POLICY, clock, queues)
        steps: list[Callable[[], Awaitable[object]]] = [
            lambda: store.create_and_enqueue(HELLO),
            lambda: store.claim_held("t1", 1),
            lambda: store.update("t1", state=State.RUNNING, status="running"),
            lambda: store.update("t1", state=State.COMPLETED, status="completed"),
        ]
        for step in steps:
            await step()
            assert later.look() == []
            assert (later.count("t"), later.count("q")) == (1, 1)
        batches = BatchSteps(link, POLICY, clock)
        await batches.create(NewBatch("b"))
        child = replace(HELLO, id="c1", batch="b")
        assert later.look() == []
        await store.create_child(child, batches.registration(child))
        assert later.look() == []
        await batches.report_ends("b", [ChildEnd("b", "c1", 1, State.COMPLETED)])
        assert later.look() == []
        assert (later.count("t"), later.count("q")) == (3, 1)
        await link.aclose()
    assert {f"combined/{file.stem}" for file in (LUA / "combined").glob("*.lua")} <= link.names


async def test_the_look_finds_a_field_that_was_lost(
    open_store: StoreFactory, clock: Clock, redis_server: Server
) -> None:
    store = open_store()
    with closing(LaterFields(redis_server)) as later:
        await created(store, clock)
        [raw] = World(redis_server).raw.values()
        later.look()
        for node in nodes(redis_server):
            with node.connect() as client:
                for key in client.scan_iter("*}t:t1"):
                    client.set(key, raw)
        assert [key.partition("}")[2] for key in later.look()] == ["t:t1"]
        assert later.look() == []
