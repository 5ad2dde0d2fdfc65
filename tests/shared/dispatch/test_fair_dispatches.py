"""A service that is slow to accept keeps no task of another waiting. The dispatcher and a real Redis take part."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterable
from typing import Any, cast

import pytest

from local.redis_server import RedisCluster, RedisServer
from shared.dispatch.backend_client import Accepted, Answer, ResultRoom
from shared.dispatch.dispatcher import Dispatched
from shared.dispatch.registry import Endpoint
from shared.services import Services
from shared.settings import Settings
from shared.store import RedisAddress, RedisLink, connect
from shared.tasks.outcomes import Created
from shared.tasks.task import Content, NewTask
from tests.cache_manager.process import KeepingPublisher
from tests.waiting import PATIENCE_S

MOST = 16


class SlowBackend:
    """Accepts what is below ``/slow`` only when it may, and all else at once."""

    def __init__(self) -> None:
        self.may_accept = asyncio.Event()
        self.held = 0
        self.is_full = asyncio.Event()

    async def post(
        self,
        endpoint: Endpoint,
        headers: dict[str, str],
        body: bytes | AsyncIterable[bytes],
        timeout_s: float,
        room: ResultRoom,
    ) -> Answer:
        if endpoint.path.startswith("/slow/"):
            self.held += 1
            if self.held == MOST:
                self.is_full.set()
            await self.may_accept.wait()
        return Accepted()

    async def aclose(self) -> None:
        return None


async def submit(services: Services, path: str) -> str:
    content = Content(content_type="text/plain", size_bytes=4)
    new = NewTask(uuid.uuid4().hex, path, 600, body=content, inline_body=b"body")
    assert isinstance(await services.store.create(new), Created)
    return new.id


@pytest.mark.parametrize(
    "backends",
    [
        pytest.param({"/slow": "https://slow.example.org", "/fast": "https://fast.example.org"}, id="two backends"),
        pytest.param({}, id="behind one gateway"),
    ],
)
async def test_a_slow_backend_leaves_others_their_share_of_the_dispatches(
    redis_server: RedisServer | RedisCluster, redis_url: str, backends: dict[str, str]
) -> None:
    settings = Settings.from_env(
        {
            "REDIS_CONNECTION_STRING": redis_url,
            "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
            "BACKENDS": json.dumps(backends),
            **({} if backends else {"BACKEND_BASE_URL": "https://gateway.example.org"}),
            "MAX_DISPATCHES": str(MOST),
        }
    )
    slow = SlowBackend()
    link = RedisLink(lambda: connect(RedisAddress.parse(redis_url), lambda: cast("Any", None)))
    services = Services.compose(settings, link=link, publisher=KeepingPublisher(), transport=slow)
    run = uuid.uuid4().hex
    try:
        ids = [await submit(services, f"/slow/one/of/its/{run}/{number}") for number in range(MOST + 1)]
        held = [asyncio.create_task(services.dispatcher.dispatch(task_id, None)) for task_id in ids[:MOST]]
        async with asyncio.timeout(PATIENCE_S):
            await slow.is_full.wait()  # One backend may have all of them.
        assert await services.dispatcher.dispatch(ids[MOST], None) == Dispatched.BUSY
        innocent = await submit(services, f"/fast/{run}")
        assert await services.dispatcher.dispatch(innocent, None) == Dispatched.ACCEPTED
        slow.may_accept.set()
        assert await asyncio.gather(*held) == [Dispatched.ACCEPTED] * MOST
    finally:
        await services.aclose()
