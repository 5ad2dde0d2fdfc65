"""A task that has expired when its slot comes to be used: it ends, and the slot goes to the next one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.dispatch.backend_client import Accepted, Answer
from shared.dispatch.dispatcher import Dispatched
from shared.dispatch.registry import Endpoint
from shared.tasks.end_reason import EndReason
from shared.tasks.outcomes import Created, SlotGrant
from shared.tasks.task import Content, NewTask, State
from shared.tasks.timing import Moment, Timing
from tests.cache_manager.process import Process
from tests.shared.store.conftest import Clock

PATH = "/v1/test"


class CountingBackend:
    def __init__(self) -> None:
        self.calls = 0

    async def post(
        self, endpoint: Endpoint, headers: dict[str, str], body: object, timeout_s: float, room: object
    ) -> Answer:
        self.calls += 1
        return Accepted()

    async def aclose(self) -> None:
        return


@pytest.fixture
def backend() -> CountingBackend:
    return CountingBackend()


@pytest.fixture
async def process(redis_url: str, clock: Clock, backend: CountingBackend) -> AsyncIterator[Process]:
    process = Process.start(redis_url, clock, transport=backend)
    yield process
    await process.link.aclose()


async def submit(process: Process, task_id: str, expires_in_ms: int | None = None) -> None:
    new = NewTask(
        task_id,
        PATH,
        lease_s=600,
        body=Content("text/plain", 2),
        inline_body=b"hi",
        timing=Timing(expiry=None if expires_in_ms is None else Moment("create", expires_in_ms)),
    )
    assert isinstance(await process.store.create(new), Created)


async def state_of(process: Process, task_id: str) -> tuple[State, EndReason | None]:
    task = await process.store.get(task_id)
    assert task is not None
    return task.state, task.history[-1].end


async def test_the_event_of_an_expired_task_ends_it_and_its_slot_goes_on(
    process: Process, clock: Clock, backend: CountingBackend
) -> None:
    await process.queues.configure(PATH, {"limit": 1})
    await submit(process, "soon", 5_000)
    await submit(process, "next")
    assert process.take_granted() == []
    clock.advance(5)
    assert await process.dispatcher.dispatch("soon", 1) is Dispatched.DROPPED
    assert await state_of(process, "soon") == (State.FAILED, EndReason.EXPIRED)
    assert [grant for _, grant in process.take_granted()] == [SlotGrant("next", 1)]
    assert backend.calls == 0
    assert await process.dispatcher.dispatch("soon", 1) is Dispatched.DROPPED, "a second event changes nothing"
    assert process.take_granted() == []


async def test_the_event_of_a_task_that_expired_in_its_queue_ends_it(
    process: Process, clock: Clock, backend: CountingBackend
) -> None:
    await process.queues.configure(PATH, {"paused": True})
    await submit(process, "soon", 5_000)
    clock.advance(5)
    await process.dispatcher.dispatch("soon", None)
    assert await state_of(process, "soon") == (State.FAILED, EndReason.EXPIRED)
    assert (await process.queues.status(PATH)).waiting == 0
    assert backend.calls == 0


async def test_its_event_in_time_sends_it(process: Process, clock: Clock, backend: CountingBackend) -> None:
    await submit(process, "soon", 5_000)
    clock.advance(4.999)
    assert await process.dispatcher.dispatch("soon", 1) is Dispatched.ACCEPTED
    clock.advance(60)
    assert (await state_of(process, "soon"), backend.calls) == ((State.DISPATCHED, None), 1)
