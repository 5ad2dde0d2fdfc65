"""A schedule that is due each second while a fault strikes: each due time makes one task and no more, or what is kept
of the schedule says why it made none."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Self

import httpx
import redis

from cache_manager.schedule_runs import LONGEST_PAUSE_S
from shared.http.times import ms_of
from shared.store import RedisLink, TaskStore
from shared.store.redis.partitions import tag_of, unpack
from tests.faults.model_service import MODERN, last_status
from tests.faults.rig import Rig
from tests.shared.store.conftest import opener
from tests.shared.store.policies import store_policy
from tests.waiting import PATIENCE_S, eventually

PATH: Final = f"{MODERN}/scheduled"
_LOOK_PAUSE_S: Final = 0.1
_CATCH_UP_S: Final = LONGEST_PAUSE_S + PATIENCE_S
"""Within which a run that could not be started during the fault is tried again, and those that wait behind it."""


class EachSecond:
    """Within its context, a schedule of its own is due each second, until :meth:`finish`."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._name = f"each-second-{uuid.uuid4().hex}"
        self._body = json.dumps({"token": self._name})
        self._first_ms = self._last_ms = 0
        self._generations: set[str] = set()
        self._runs: dict[int, tuple[str, str]] = {}
        """What was last seen of each due time: what has become of it, and why."""
        self._over = threading.Event()
        self._looker = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        with self._rig.client() as app:
            definition = {
                "Path": PATH,
                "Body": self._body,
                "Cron": "* * * * * *",
                "Overlap": "queue",
                "CatchUp": "all",
            }
            put = app.put(f"/api/v1/schedules/{self._name}", json=definition).raise_for_status()
            self._first_ms = ms_of(put.json()["NextTime"])
        self._looker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._looker.join()
        with suppress(httpx.TransportError), self._rig.stack.client() as app:
            app.delete(f"/api/v1/schedules/{self._name}")

    def finish(self) -> None:
        """Let it be due no more, and return when the last run is started.

        Raises:
            AssertionError: that does not come to be.
        """
        self._last_ms = self._now_ms() // 1000 * 1000
        # To pause it gives up what waits behind a run that could not be started during the fault.
        eventually(self._is_up_to_date, within_s=_CATCH_UP_S)
        eventually(self._is_paused)
        eventually(lambda: not (self._record() or {}).get("p"), within_s=_CATCH_UP_S)
        self._note(self._record())

    def wrong(self, records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        """What is wrong with the tasks that it made."""
        due = range(self._first_ms, max([self._last_ms, *self._runs]) + 1, 1000)
        ids = asyncio.run(self._task_ids(due))
        made = {task_id for task_id, rec in records.items() if rec["p"] == PATH}
        for task_id in made - {*ids.values()}:
            yield f"no due time of the schedule made {task_id}"
        for task_id in made:
            rec = records[task_id]
            if rec["s"] == "completed" and rec["x"] != last_status(PATH, self._body.encode()):
                yield f"{task_id} did not get the body of the schedule"
        for due_ms, task_id in ids.items():
            what, why = self._runs.get(due_ms, ("", ""))
            if task_id not in made and task_id not in self._rig.deleted and not (what == "skipped" and why):
                yield f"the schedule made no task at {due_ms} ms: {what or 'nobody has seen to it'}"

    async def _task_ids(self, due: Sequence[int]) -> dict[int, str]:
        """The tasks that are to be."""
        store = TaskStore(RedisLink(opener(self._rig.redis.url)), store_policy())
        [generation] = self._generations
        scope = f"schedules\n{self._name}\n{generation}"
        try:
            return {due_ms: await store.keyed_ids.unguessable_id_of("", scope, str(due_ms)) for due_ms in due}
        finally:
            await store.aclose()

    def _is_up_to_date(self) -> bool:
        """Whether it has been seen to at each due time so far."""
        with suppress(httpx.TransportError), self._rig.stack.client() as app:
            known = app.get(f"/api/v1/schedules/{self._name}")
            if known.status_code == 200:
                return ms_of(known.json()["NextTime"]) > self._last_ms
            return known.status_code == 404
        return False

    def _is_paused(self) -> bool:
        with suppress(httpx.TransportError), self._rig.stack.client() as app:
            # One that is not known any more has made tasks for the times before, or is found not to have.
            return app.post(f"/api/v1/schedules/{self._name}/pause").status_code in (200, 404)
        return False

    def _look(self) -> None:
        while not self._over.wait(_LOOK_PAUSE_S):
            self._note(self._record())

    def _note(self, record: Mapping[str, Any] | None) -> None:
        if record is not None:
            self._generations.add(record["g"])
            # An empty list is an empty map, too.
            self._runs |= {run["t"]: (run["o"], run.get("y", "")) for run in [*record["r"]]}

    def _record(self) -> Mapping[str, Any] | None:
        """As Redis has it; None if that cannot be reached, or has none."""
        for node in self._rig.redis_nodes:
            with suppress(redis.RedisError), redis.Redis(port=node.port, socket_timeout=PATIENCE_S) as client:
                raw: Any = client.get(f"{tag_of('')}schedule: {self._name}")
                if raw is not None:
                    return unpack(raw)
        return None

    def _now_ms(self) -> int:
        """By the clock of Redis which is most behind."""
        clocks: list[int] = []
        for node in self._rig.redis_nodes:
            with node.connect() as client:
                seconds, micros = client.time()
                clocks.append(seconds * 1000 + micros // 1000)
        return min(clocks)
