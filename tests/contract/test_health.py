"""Health costs next to nothing (contract B12): it needs no key, so anybody may ask as often as they like."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from cache_manager.health import FRESH_S, Dependencies, Health, LatestHealth, look
from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from shared.settings import Settings
from shared.store.eviction import ASKED_AGAIN_S, Eviction
from shared.store.redis import link
from tests.in_process import InProcessApp

HEALTHY = Health(
    status="ok",
    dependencies=Dependencies(redis="ok", blob_storage="ok", event_grid="ok", backends="ok", eviction="ok"),
    max_body_bytes=1,
    max_upload_bytes=1,
    host_body_bytes=None,
)


def _app(redis_server: RedisServer | RedisCluster, azurite: Azurite) -> InProcessApp:
    environ = {
        "REDIS_CONNECTION_STRING": redis_server.url,
        "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
        "BACKENDS": '{"/v1": "https://models.example.org"}',
        "AzureWebJobsStorage": azurite.connection_string,
    }
    return InProcessApp(Settings.from_env(environ))


async def _found(redis_server: RedisServer | RedisCluster, azurite: Azurite) -> dict[str, Any]:
    """What a process that has just started says."""
    services = _app(redis_server, azurite).services.current()
    found = await look(services)
    await services.aclose()
    return found.model_dump(by_alias=True)


@contextmanager
def _clients(redis_server: RedisServer | RedisCluster) -> Iterator[list[Redis]]:
    nodes = redis_server.nodes if isinstance(redis_server, RedisCluster) else [redis_server]
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Redis.from_url(node.url))) for node in nodes]


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
    app = _app(redis_server, azurite)
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


@pytest.mark.contract("B12.28")
@pytest.mark.parametrize("maxmemory", [0, 1 << 40])
async def test_policy_that_deletes_tasks_shows(
    redis_server: RedisServer | RedisCluster, azurite: Azurite, caplog: pytest.LogCaptureFixture, maxmemory: int
) -> None:
    with _clients(redis_server) as clients:
        last = clients[-1]  # of a cluster, one primary alone
        try:
            last.config_set("maxmemory", maxmemory)
            last.config_set("maxmemory-policy", "allkeys-lru")
            found = await _found(redis_server, azurite)
            last.config_set("maxmemory-policy", "noeviction")
            mended = await _found(redis_server, azurite)
        finally:
            last.config_set("maxmemory-policy", "noeviction")
            last.config_set("maxmemory", 0)
    assert (found["Status"], found["Dependencies"]["Eviction"]) == ("degraded", "unsafe")
    assert "allkeys-lru" in caplog.text
    assert mended["Dependencies"]["Eviction"] == "ok"


@pytest.mark.contract("B12.28")
async def test_policy_that_redis_does_not_tell_is_no_fault(
    redis_server: RedisServer | RedisCluster, azurite: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(client: object) -> None:
        raise NoPermissionError("NOPERM this user has no permissions to run the 'info' command")

    monkeypatch.setattr(link, "eviction_policies", refused)
    found = await _found(redis_server, azurite)
    assert found["Dependencies"]["Redis"] == "ok"
    assert found["Dependencies"]["Eviction"] == "unknown"


class Policies:
    """What Redis says of its policies, and how often it was asked."""

    def __init__(self) -> None:
        self.said = frozenset({"noeviction"})
        self.asked = 0
        self.now_s = 100.0

    async def eviction_policies(self) -> frozenset[str]:
        self.asked += 1
        return self.said


@pytest.mark.contract("B12.28")
async def test_policy_is_asked_once_a_minute() -> None:
    policies = Policies()
    eviction = Eviction(policies, lambda: policies.now_s)
    assert [await eviction.state() for _ in range(3)] == ["ok"] * 3
    assert policies.asked == 1
    policies.said = frozenset({"noeviction", "volatile-ttl"})
    policies.now_s += ASKED_AGAIN_S
    assert await eviction.state() == "unsafe"
    assert policies.asked == 2
