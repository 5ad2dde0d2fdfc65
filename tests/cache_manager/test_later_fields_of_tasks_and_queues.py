"""As tests/shared/store/test_later_fields.py, for tasks and their queues together: the scripts that take both in one
step lose nothing that they do not know, whatever happens in between."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from local.redis_server import RedisCluster
from shared.store import store
from tests.cache_manager.process import Process
from tests.cache_manager.test_queue_state_machine import Backend, QueueMachine, WatchedLink, Witness
from tests.shared.store.conftest import Clock
from tests.shared.store.later import LaterFields
from tests.shared.store.world import Server

pytestmark = pytest.mark.slow


class KeepingLink(WatchedLink):
    """Looks before and after each script whether it loses anything: between two of them, this test loses keys."""

    def __init__(self, server: Server, clock: Clock, witness: Witness, later: LaterFields) -> None:
        super().__init__(server, clock, witness)
        self._later = later
        self._one_at_a_time = asyncio.Lock()
        self.names: set[str] = set()

    async def script(self, name: str, tag: str, *args: bytes | str) -> Any:
        async with self._one_at_a_time:
            self._begin(name)
            try:
                return await super().script(name, tag, *args)
            finally:
                assert self._later.look() == [], name

    async def combined(self, name: str, *args: bytes) -> Any | None:
        async with self._one_at_a_time:
            self._begin(f"combined/{name}")
            try:
                return await super().combined(name, *args)
            finally:
                assert self._later.look() == [], name

    def _begin(self, name: str) -> None:
        self.names.add(name)
        self._later.forget()
        self._later.look()


def test_no_step_of_tasks_and_queues_loses_what_it_does_not_know(
    redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_RECORD_PAUSES_S", ())
    clock, witness = Clock(), Witness(redis_server)
    with asyncio.Runner() as runner, closing(LaterFields(redis_server)) as later:
        link = KeepingLink(redis_server, clock, witness, later)
        backend = Backend()
        process = Process.start(redis_server.url, clock, link=link, transport=backend)
        try:
            run_state_machine_as_test(
                cast("Any", lambda: QueueMachine(redis_server, runner, process, backend, witness, clock)),
                settings=settings(
                    max_examples=20,
                    stateful_step_count=15,
                    deadline=None,
                    derandomize=True,
                    suppress_health_check=[HealthCheck.too_slow],
                ),
            )
        finally:
            runner.run(process.services.dispatcher.aclose())
            runner.run(link.aclose())
            witness.close()
    if not isinstance(redis_server, RedisCluster):
        assert {"combined/create_and_enqueue", "combined/apply_and_release"} <= link.names
