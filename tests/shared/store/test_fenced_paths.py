"""The endpoints whose services fence their reports are noted once a day in each partition, and forgotten at last."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from shared.store import StoreUnavailable, fenced_paths
from shared.store.fenced_paths import KEPT_S, FencedPaths
from shared.store.redis.link import RedisLink
from shared.store.redis.partitions import PARTITIONS
from tests.shared.store.conftest import Clock, StoreFactory
from tests.shared.store.world import Server, World

DAY_S = 86_400


class CountingLink:
    """Passes scripts on to *link*, unless it is away."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self.is_away = False
        self.count = 0

    async def script(self, name: str, tag: str, *args: bytes | str) -> Any:
        self.count += 1
        if self.is_away:
            raise StoreUnavailable("ConnectionError")
        return await self._link.script(name, tag, *args)


class Notes:
    def __init__(self, link: RedisLink, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.link = CountingLink(link)
        self.clock = clock
        self._paths = FencedPaths(self.link, clock)  # type: ignore[arg-type]
        monkeypatch.setattr(fenced_paths, "time", SimpleNamespace(monotonic=lambda: clock.ms / 1000))

    async def note(self, path: str) -> int:
        """Note a path. Returns how many scripts that ran."""
        before = self.link.count
        self._paths.note(path)
        await asyncio.gather(*self._paths._notes)
        return self.link.count - before


@pytest.fixture
def notes(open_store: StoreFactory, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Notes:
    return Notes(open_store().link, clock, monkeypatch)


async def test_a_path_is_noted_in_each_partition_once_a_day(notes: Notes, redis_server: Server) -> None:
    assert await notes.note("/v1/a") == PARTITIONS
    assert await notes.note("/v1/a") == 0
    assert await notes.note("/v1/b") == PARTITIONS
    assert [*World(redis_server).fenced.values()] == [{"/v1/a", "/v1/b"}] * PARTITIONS
    notes.clock.advance(DAY_S)
    assert await notes.note("/v1/a") == PARTITIONS


async def test_a_path_that_is_not_noted_any_more_is_forgotten(notes: Notes, redis_server: Server) -> None:
    await notes.note("/v1/a")
    notes.clock.advance(KEPT_S - 1)
    await notes.note("/v1/b")
    assert [*World(redis_server).fenced.values()] == [{"/v1/a", "/v1/b"}] * PARTITIONS
    notes.clock.advance(1)
    await notes.note("/v1/c")
    assert [*World(redis_server).fenced.values()] == [{"/v1/b", "/v1/c"}] * PARTITIONS


async def test_what_could_not_be_noted_is_noted_a_minute_later(notes: Notes, redis_server: Server) -> None:
    notes.link.is_away = True
    await notes.note("/v1/a")
    notes.link.is_away = False
    assert await notes.note("/v1/a") == 0, "a node that is away is not asked at each report"
    notes.clock.advance(60)
    assert await notes.note("/v1/a") == PARTITIONS
    assert len(World(redis_server).fenced) == PARTITIONS


async def test_a_process_keeps_a_limited_number_of_paths_in_mind(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fenced_paths, "_MOST_PATHS", 2)
    for path in ("/v1/a", "/v1/b", "/v1/c"):
        assert await notes.note(path) == PARTITIONS
    assert await notes.note("/v1/c") == 0
    assert await notes.note("/v1/a") == PARTITIONS
