"""Health costs next to nothing (contract B12): it needs no key, so anybody may ask as often as they like."""

import asyncio
import json

import pytest

from cache_manager.health import FRESH_S, Dependencies, Health, LatestHealth
from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from shared.settings import Settings
from tests.in_process import InProcessApp

HEALTHY = Health(
    status="ok",
    dependencies=Dependencies(redis="ok", blob_storage="ok", event_grid="ok", backends="ok"),
    max_body_bytes=1,
    max_upload_bytes=1,
    host_body_bytes=None,
)


class Looks:
    """Counts the looks. Each waits until it is let through."""

    def __init__(self) -> None:
        self.count = 0
        self.now_s = 100.0
        self.let_through = asyncio.Event()

    async def look(self) -> Health:
        self.count += 1
        await self.let_through.wait()
        return HEALTHY


@pytest.mark.contract("B12.27")
async def test_calls_of_the_same_second_share_one_look() -> None:
    looks = Looks()
    latest = LatestHealth(looks.look, lambda: looks.now_s)
    calls = [asyncio.ensure_future(latest.get()) for _ in range(50)]
    await asyncio.sleep(0)
    looks.now_s += 2 * FRESH_S  # a look under way is shared, however long it takes
    calls.append(asyncio.ensure_future(latest.get()))
    looks.let_through.set()
    assert await asyncio.gather(*calls) == [HEALTHY] * 51
    assert looks.count == 1
    looks.now_s += FRESH_S * 0.9
    await latest.get()
    assert looks.count == 1
    looks.now_s += FRESH_S * 0.2
    await latest.get()
    assert looks.count == 2


@pytest.mark.contract("B12.27")
async def test_caller_that_goes_away_takes_the_answer_from_no_other() -> None:
    looks = Looks()
    latest = LatestHealth(looks.look, lambda: looks.now_s)
    gone, stays = asyncio.ensure_future(latest.get()), asyncio.ensure_future(latest.get())
    await asyncio.sleep(0)
    gone.cancel()
    looks.let_through.set()
    assert await stays == HEALTHY
    assert looks.count == 1


@pytest.mark.contract("B12.27")
async def test_calls_at_once_ask_each_dependency_once(
    redis_server: RedisServer | RedisCluster, azurite: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {
        "REDIS_CONNECTION_STRING": redis_server.url,
        "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
        "BACKENDS": '{"/v1": "https://models.example.org"}',
        "AzureWebJobsStorage": azurite.connection_string,
    }
    app = InProcessApp(Settings.from_env(environ))
    services = app.services.current()
    asked: list[str] = []
    for name, ping in (("Redis", services.store.ping), ("Blob Storage", services.bodies.ping)):

        async def counted(name: str = name, ping: object = ping) -> None:
            asked.append(name)
            await ping()  # type: ignore[operator]

        monkeypatch.setattr(services.store if name == "Redis" else services.bodies, "ping", counted)
    answers = await asyncio.gather(*(app.call("Health", "GET") for _ in range(20)))
    await services.aclose()
    assert {answer.status_code for answer in answers} == {200}
    assert {json.loads(answer.get_body())["Dependencies"]["Redis"] for answer in answers} == {"ok"}
    assert sorted(asked) == ["Blob Storage", "Redis"]
