"""A Blob Storage that accepts requests and does not answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

import pytest

from local.azurite import Azurite
from shared import blobs
from shared import bodies as bodies_module
from shared.bodies import BlobsUnavailable, BodyStore
from shared.settings import INLINE_LIMIT_BYTES, Settings
from shared.store.record_codec import new_task
from shared.tasks.task import NewTask
from tests.degradation.conftest import SHORT_S
from tests.degradation.switch import Switch
from tests.waiting import PATIENCE_S

HANG_S = PATIENCE_S
LARGE = bytes(INLINE_LIMIT_BYTES + 1)


@pytest.fixture
def switch(azurite: Azurite) -> Iterator[Switch]:
    with Switch(azurite.blob_port) as switch:
        yield switch


def be_patient(monkeypatch: pytest.MonkeyPatch, seconds: float = PATIENCE_S) -> None:
    monkeypatch.setattr(bodies_module, "CALL_TIMEOUT_S", seconds)
    monkeypatch.setattr(blobs, "PIECE_TIMEOUT_S", seconds)


@pytest.fixture
def silence(switch: Switch, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function that silences Blob Storage and lowers the timeout of calls to a second."""

    def silence() -> None:
        be_patient(monkeypatch, SHORT_S)
        switch.silence()

    return silence


@pytest.fixture
async def bodies(switch: Switch, azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BodyStore]:
    be_patient(monkeypatch)
    monkeypatch.setattr(bodies_module, "_PATIENCE_S", 0.1)
    bodies = BodyStore(
        Settings.from_env(
            {
                "REDIS_CONNECTION_STRING": "redis://127.0.0.1",
                "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
                "BACKENDS": '{"/v1": "https://models.example.org"}',
                "BLOB_CONTAINER": "degradation",
                "AzureWebJobsStorage": azurite.connection_string.replace(str(azurite.blob_port), str(switch.port)),
            }
        )
    )
    yield bodies
    await bodies.aclose()


async def test_interrupted_blob_stream_raises_and_is_marked_broken(
    bodies: BodyStore, switch: Switch, silence: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(6 * 1024 * 1024)  # enough for a second piece
    content = await bodies.put("t1", "image/tiff", data)
    stream = await bodies.stream(content)
    silence()
    got = bytearray()
    async with asyncio.timeout(HANG_S):
        with pytest.raises(BlobsUnavailable):
            async for piece in stream:
                got += piece
    assert stream.is_broken
    assert 0 < len(got) < len(data)
    assert data.startswith(got)

    be_patient(monkeypatch)
    switch.flow()
    switch.cut()
    whole = await bodies.stream(content)
    assert b"".join([piece async for piece in whole]) == data
    assert not whole.is_broken


async def test_silent_blob_storage_fails_large_bodies_only(bodies: BodyStore, silence: Callable[[], None]) -> None:
    content = await bodies.put("t1", "image/tiff", LARGE)
    silence()
    async with asyncio.timeout(HANG_S):
        for call in (
            lambda: bodies.put("t1", "image/tiff", LARGE),
            lambda: bodies.read(content),
            lambda: bodies.delete_all(new_task(NewTask("t1", "/v1/a", 60), 0)),
            bodies.ping,
        ):
            with pytest.raises(BlobsUnavailable):
                await call()
        assert (await bodies.put("t1", "text/plain", b"small")).blob is None


async def test_calls_do_not_wait_for_a_probe_and_recover_with_blob_storage(
    bodies: BodyStore, switch: Switch, silence: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    await bodies.put("t1", "image/tiff", LARGE)
    silence()
    with pytest.raises(BlobsUnavailable):
        await bodies.ping()
    be_patient(monkeypatch, 10 * HANG_S)
    async with asyncio.timeout(HANG_S):
        calls = (bodies.put("t1", "image/tiff", LARGE) for _ in range(50))
        refused = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in refused} == {BlobsUnavailable}
        switch.flow()
        switch.cut()
        while True:
            with suppress(BlobsUnavailable):
                content = await bodies.put("t1", "image/tiff", LARGE)
                break
        assert await bodies.read(content) == LARGE
