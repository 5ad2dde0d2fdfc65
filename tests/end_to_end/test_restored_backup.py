"""Redis is restored from a backup (docs/operations.md): what was done since is done again, and nothing is stuck."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from local.azurite import Azurite
from local.redis_server import RedisServer
from local.stack import Stack
from shared.settings import INLINE_LIMIT_BYTES
from tests.conftest import IN_A_HURRY
from tests.contract.test_v1_pipelines import put_result
from tests.end_to_end.backbone import Backbone
from tests.scripted_backend import ScriptedBackend
from tests.waiting import eventually

pytestmark = pytest.mark.slow

LARGE = b"x" * (INLINE_LIMIT_BYTES + 1)


def test_a_restored_redis_goes_on_from_where_it_was(
    tmp_path: Path, azurite: Azurite, backend: ScriptedBackend
) -> None:
    data, backup = tmp_path / "redis", tmp_path / "backup"
    waits, runs, ends = "/v1/test/restored/waits", "/v1/brief/restored", "/v1/test/restored/ends"
    with (
        RedisServer(data) as redis,
        Stack(
            tmp_path / "stack",
            redis=redis,
            azurite=azurite,
            backends={"/v1/test": backend.url, "/v1/brief": {"url": backend.url, "lease_s": 3}},
            with_model=False,
            settings={**IN_A_HURRY, "BLOB_CONTAINER": "restored"},
        ) as stack,
        stack.client() as app,
    ):
        backbone = Backbone(app)

        def counts(path: str) -> list[str]:
            queue = app.get(f"/api/v1/queues{path}").raise_for_status().json()
            return [name for name in ("Waiting", "InFlight", "Running", "Failed", "Completed") if queue[name]]

        def end(path: str, result: bytes) -> str:
            task_id = backbone.submit(path)
            put_result(app, backend.next_call(path), result, "completed").raise_for_status()
            return task_id

        app.patch(f"/api/v1/queues{waits}", json={"Paused": True}).raise_for_status()
        waiting = backbone.submit(waits)
        finished, purged = end(ends, b"small"), end(ends, LARGE)
        running = backbone.submit(runs)
        before = backend.next_call(runs)

        stack.host.stop()
        redis.stop()
        shutil.copytree(data, backup)
        redis.start()
        stack.host.start()

        app.patch(f"/api/v1/queues{waits}", json={"Paused": None}).raise_for_status()
        put_result(app, backend.next_call(waits), b"first", "completed").raise_for_status()
        again = backend.next_call(runs)
        assert (again.task_id, again.attempt) == (running, 2)
        put_result(app, again, b"done", "completed").raise_for_status()
        app.delete(f"/api/v1/tasks/{purged}", params={"purge": "true"}).raise_for_status()
        key = {"Idempotency-Key": "since"}
        since = app.post(f"/api/v1/submit{ends}", content=b"work", headers=key).json()["TaskId"]
        put_result(app, backend.next_call(ends), b"lost", "completed").raise_for_status()

        stack.host.stop()
        redis.stop()
        shutil.rmtree(data)
        shutil.copytree(backup, data)
        redis.start()
        stack.host.start()

        assert app.get(f"/api/v1/tasks/{since}").status_code == 404
        submitted = app.post(f"/api/v1/submit{ends}", content=b"work", headers=key)
        assert submitted.status_code == 202
        put_result(app, backend.next_call(ends), b"again", "completed").raise_for_status()

        assert app.get(f"/api/v1/tasks/{finished}/result").content == b"small"
        assert backbone.task(purged)["BackendStatus"] == "completed"
        assert app.get(f"/api/v1/tasks/{purged}/result").status_code == 404

        assert backbone.task(waiting)["BackendStatus"] == "created"
        assert app.get(f"/api/v1/queues{waits}").json()["Paused"] is True
        app.patch(f"/api/v1/queues{waits}", json={"Paused": None}).raise_for_status()
        call = backend.next_call(waits)
        assert (call.task_id, call.attempt) == (waiting, 1)
        put_result(app, call, b"second", "completed").raise_for_status()
        assert app.get(f"/api/v1/tasks/{waiting}/result").content == b"second"

        call = backend.next_call(runs)
        assert (call.task_id, call.attempt) == (running, 2)
        assert put_result(app, before, b"late", "completed").status_code == 409
        put_result(app, call, b"done", "completed").raise_for_status()
        for path in (waits, runs, ends):
            eventually(lambda path=path: set(counts(path)) <= {"Completed"})
        assert submitted.json()["TaskId"] == since
