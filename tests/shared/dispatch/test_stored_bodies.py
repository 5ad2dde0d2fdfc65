"""The body that a task's record names must be there in its whole length, and be nothing else. The dispatcher, a real
Redis, a real Blob Storage and a model service take part."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from azure.storage.blob.aio import ContainerClient

from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from shared.bodies import BlobStream, BlobsUnavailable
from shared.dispatch.dispatcher import Dispatched
from shared.services import Services
from shared.settings import INLINE_LIMIT_BYTES, Settings
from shared.store import RedisAddress, RedisLink, connect
from shared.tasks import status_texts
from shared.tasks.outcomes import Applied, Claimed, Created, SlotGrant
from shared.tasks.task import Content, NewTask, State
from tests.cache_manager.process import KeepingPublisher
from tests.scripted_backend import Answer, Call, ScriptedBackend

LARGE = bytes(range(256)) * 1024
assert len(LARGE) > INLINE_LIMIT_BYTES


@dataclass
class World:
    services: Services
    container: ContainerClient
    path: str = field(default_factory=lambda: f"/v1/test/{uuid.uuid4().hex}")

    async def create(self, body: Content, inline_body: bytes = b"", task_id: str | None = None) -> str:
        new = NewTask(task_id or uuid.uuid4().hex, self.path, 600, body=body, inline_body=inline_body)
        assert isinstance(await self.services.store.create(new), Created)
        return new.id

    async def create_large(self, data: bytes = LARGE) -> tuple[str, str]:
        """Returns the task's id and its blob."""
        task_id = uuid.uuid4().hex
        content = await self.services.bodies.put(task_id, "image/tiff", data)
        assert content.blob
        return await self.create(content, task_id=task_id), content.blob

    async def outcome(self, task_id: str) -> tuple[Dispatched, State, str]:
        dispatched = await self.services.dispatcher.dispatch(task_id, None)
        task = await self.services.store.get(task_id)
        assert task is not None
        return dispatched, task.state, task.status

    async def outcome_of_next_try(self, task_id: str) -> tuple[Dispatched, State, str]:
        """The task has waited apart from its queue for long enough."""
        store = self.services.store
        task = await store.get(task_id)
        assert task is not None
        granted = await store.enqueue(task)
        assert granted.grants == [SlotGrant.of(task)]
        claimed = await store.claim_granted(granted, granted.grants[0])
        assert isinstance(claimed, Claimed)
        dispatched = await self.services.dispatcher._dispatch(claimed, "")
        task = await store.get(task_id)
        assert task is not None
        return dispatched, task.state, task.status


GONE = (Dispatched.FAILED, State.FAILED, status_texts.BODY_GONE)


@pytest.fixture
async def world(
    redis_server: RedisServer | RedisCluster, redis_url: str, azurite: Azurite, backend: ScriptedBackend
) -> AsyncIterator[World]:
    settings = Settings.model_validate(
        {
            "redis_connection_string": redis_url,
            "event_grid_topic_uri": "https://topic.example.org/api/events",
            "backend_base_url": backend.url,
            "allow_loopback_backends": True,
            "azurewebjobsstorage": azurite.connection_string,
            "blob_container": "stored-bodies",
            "max_body_bytes": 1_000_000,
        }
    )
    address = RedisAddress.parse(redis_url)
    link = RedisLink(lambda: connect(address, lambda: cast("Any", None)))
    services = Services.compose(settings, link=link, publisher=KeepingPublisher())
    async with ContainerClient.from_connection_string(azurite.connection_string, "stored-bodies") as container:
        yield World(services, container)
    await services.aclose()


async def test_a_task_with_its_whole_body_is_dispatched(world: World, backend: ScriptedBackend) -> None:
    task_id, _ = await world.create_large()
    assert (await world.outcome(task_id))[0] == Dispatched.ACCEPTED
    assert backend.next_call(world.path).body == LARGE


@pytest.mark.parametrize("left", [LARGE[:-1], LARGE[:10], b"", LARGE + b"x", None], ids=lambda left: str(left)[:9])
async def test_a_blob_of_another_length_fails_the_task_and_is_not_sent(
    left: bytes | None, world: World, backend: ScriptedBackend
) -> None:
    task_id, blob = await world.create_large()
    if left is None:
        await world.container.delete_blob(blob)
    else:
        await world.container.upload_blob(blob, left, overwrite=True)
    assert await world.outcome(task_id) == GONE
    assert backend.untaken(world.path) == 0


async def test_a_body_that_is_replaced_before_it_is_read_fails_nothing(
    world: World, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id, blob = await world.create_large()
    bodies, store, stream = world.services.bodies, world.services.store, world.services.bodies.stream

    async def stream_late(content: Content) -> BlobStream:
        other = await bodies.put(task_id, "image/tiff", LARGE[::-1])
        replaced = await store.update(task_id, state=None, status=None, body=other)
        assert isinstance(replaced, Applied)
        assert list(replaced.unnamed_blobs) == [blob]
        await world.container.delete_blob(blob)
        return await stream(content)

    with monkeypatch.context() as patch:
        patch.setattr(bodies, "stream", stream_late)
        assert await world.outcome(task_id) == (Dispatched.RETRIED, State.CREATED, status_texts.AWAITING_BODY)
    assert (await world.outcome_of_next_try(task_id))[0] == Dispatched.ACCEPTED
    assert backend.next_call(world.path).body == LARGE[::-1]


@pytest.mark.parametrize("kept", [b"", b"four", b"five more"])
async def test_an_inline_body_of_another_length_fails_the_task_and_is_not_sent(
    kept: bytes, world: World, backend: ScriptedBackend
) -> None:
    task_id = await world.create(Content("text/plain", 8), kept)
    assert await world.outcome(task_id) == GONE
    assert backend.untaken(world.path) == 0


async def test_a_body_that_becomes_short_on_the_way_fails_its_own_task_only(
    world: World, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing of it must not be made up from the next task's request."""
    first, blob = await world.create_large()
    stream = world.services.bodies.stream

    async def stream_half(content: Content) -> BlobStream:
        whole = await stream(content)
        half = (await anext(aiter(whole)))[: content.size_bytes // 2]
        return BlobStream(content.size_bytes, fake_download(half), never_again)

    with monkeypatch.context() as patch:
        patch.setattr(world.services.bodies, "stream", stream_half)
        dispatched, state, status = await world.outcome(first)
    assert (dispatched, state, status) == (Dispatched.RETRIED, State.CREATED, status_texts.AWAITING_BODY)

    second = await world.create(Content("text/plain", 4), b"next")
    assert (await world.outcome(second))[0] == Dispatched.ACCEPTED
    # The server may notice the end of the first connection after it has read the second request.
    bodies = {call.task_id: call.body for call in (backend.next_call(world.path) for _ in range(2))}
    assert bodies.keys() == {first, second}
    assert LARGE.startswith(bodies[first]), "the connection ends where the body breaks off"
    assert bodies[second] == b"next"

    await world.container.upload_blob(blob, LARGE[:-1], overwrite=True)
    assert await world.outcome_of_next_try(first) == GONE
    assert backend.untaken(world.path) == 0


async def test_a_stored_body_is_sent_again_where_a_redirect_adds_a_slash(
    world: World, backend: ScriptedBackend
) -> None:
    backend.script(world.path, Answer(308, {"Location": world.path + "/"}))
    task_id, _ = await world.create_large()
    assert (await world.outcome(task_id))[0] == Dispatched.ACCEPTED
    assert backend.next_call(world.path + "/").body == LARGE


@pytest.mark.parametrize("pieces", [[b"four"], [b"five more"], [b"four", b"five", b"x"], []])
async def test_a_stream_of_another_length_breaks_before_anybody_takes_it_for_whole(pieces: list[bytes]) -> None:
    stream = BlobStream(8, fake_download(*pieces), never_again)
    got = b""
    with pytest.raises(BlobsUnavailable):
        async for piece in stream:
            got += piece
    assert stream.is_broken
    assert len(got) <= 8


async def test_a_whole_stream_is_not_broken_and_can_be_read_again() -> None:
    async def open_again() -> Any:
        return fake_download(b"five", b"five")

    stream = BlobStream(8, fake_download(b"four", b"four"), open_again)
    assert [piece async for piece in stream] == [b"four", b"four"]
    assert [piece async for piece in stream] == [b"five", b"five"]
    assert not stream.is_broken


def fake_download(*pieces: bytes) -> Any:
    class Fake:
        async def chunks(self) -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

    return Fake()


async def never_again() -> Any:
    raise AssertionError("it was read once more")


@pytest.mark.contract("B15.6")
async def test_an_answer_whose_result_cannot_be_stored_is_worked_on_again(
    world: World, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.script(world.path, Answer(headers={"X-Task-Complete": "done"}, body=LARGE))
    task_id = await world.create(Content("text/plain", 4), b"body")

    async def fail(*_: object) -> Content:
        raise BlobsUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(world.services.bodies, "put", fail)
        assert await world.outcome(task_id) == (Dispatched.RETRIED, State.CREATED, status_texts.AWAITING_RESULT)
    task = await world.services.store.get(task_id)
    assert task is not None
    assert (task.failures, task.attempt) == (0, 2)
    assert await world.outcome_of_next_try(task_id) == (Dispatched.COMPLETED, State.COMPLETED, "done")


@pytest.mark.contract("B15.5")
async def test_an_answer_with_too_large_a_result_fails_the_task(world: World, backend: ScriptedBackend) -> None:
    limit_bytes = world.services.settings.largest_body_bytes
    headers = {"X-Task-Complete": "done"}
    backend.script(world.path, Answer(headers=headers, body=bytes(limit_bytes + 1)))
    task_id = await world.create(Content("text/plain", 4), b"body")
    expected = f"Failed - the backend answered with more than {limit_bytes} bytes."
    assert await world.outcome(task_id) == (Dispatched.FAILED, State.FAILED, expected)


async def test_an_answer_of_an_attempt_that_was_overtaken_leaves_no_blob(
    world: World, backend: ScriptedBackend
) -> None:
    task_id = await world.create(Content("text/plain", 4), b"body")
    loop = asyncio.get_running_loop()

    def cancel(_: Call) -> Answer:
        asyncio.run_coroutine_threadsafe(world.services.store.cancel(task_id), loop).result()
        return Answer(headers={"X-Task-Complete": "done"}, body=LARGE)

    backend.react(world.path, cancel)
    dispatched, state, _ = await world.outcome(task_id)
    assert (dispatched, state) == (Dispatched.COMPLETED, State.CANCELLED)
    names = [name async for name in world.container.list_blob_names(name_starts_with=f"t-{task_id}/")]
    assert names == []
