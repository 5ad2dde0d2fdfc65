"""How large bodies and results are sent to Blob Storage."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared.bodies import BodyStore
from shared.settings import INLINE_LIMIT_BYTES, Settings

LARGE = bytes(INLINE_LIMIT_BYTES + 1)


class Container:
    """Takes uploads, and ends none until it is told to."""

    def __init__(self) -> None:
        self.pieces: list[int] = []
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.released = asyncio.Event()
        self.fails = False

    async def upload_blob(self, name: str, data: bytes, *, overwrite: bool, max_concurrency: int) -> None:
        self.pieces.append(max_concurrency)
        self.begun.put_nowait(name)
        await self.released.wait()
        if self.fails:
            raise OSError("broken")

    async def close(self) -> None: ...


@pytest.fixture
async def container() -> Container:
    return Container()


@pytest.fixture
def bodies(container: Container, monkeypatch: pytest.MonkeyPatch) -> BodyStore:
    settings = Settings.from_env(
        {
            "REDIS_CONNECTION_STRING": "redis://127.0.0.1",
            "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
            "BACKENDS": '{"/v1": "https://models.example.org"}',
        }
    )
    store = BodyStore(settings)
    monkeypatch.setattr(store, "_container", container)
    return store


async def begin(bodies: BodyStore, container: Container, count: int) -> list[asyncio.Task[Any]]:
    """So many uploads that are all on their way."""
    uploads: list[asyncio.Task[Any]] = []
    for _ in range(count):
        uploads.append(asyncio.create_task(bodies.put("t", "image/tiff", LARGE)))
        await container.begun.get()
    return uploads


async def test_uploads_share_the_pieces_that_are_sent_at_a_time(bodies: BodyStore, container: Container) -> None:
    uploads = await begin(bodies, container, 16)
    assert container.pieces == [4, 2, *[1] * 14], "the more there are, the fewer of each"
    container.released.set()
    await asyncio.gather(*uploads)
    [last] = await begin(bodies, container, 1)
    await last
    assert container.pieces[-1] == 4, "an upload that is alone has all"


async def test_an_upload_that_fails_or_is_cancelled_gives_its_share_back(
    bodies: BodyStore, container: Container
) -> None:
    cancelled, failing = await begin(bodies, container, 2)
    cancelled.cancel()
    container.fails = True
    container.released.set()
    await asyncio.gather(cancelled, failing, return_exceptions=True)
    container.fails = False
    [last] = await begin(bodies, container, 1)
    await last
    assert container.pieces[-1] == 4
