"""Nothing is left of a task after its retention."""

from __future__ import annotations

import httpx
import pytest
from azure.storage.blob import BlobServiceClient

from local.azurite import Azurite
from local.redis_server import RedisServer
from local.stack import Stack
from shared.settings import INLINE_LIMIT_BYTES
from tests.conftest import IN_A_HURRY
from tests.end_to_end.backbone import Backbone
from tests.scripted_backend import ScriptedBackend
from tests.waiting import eventually

LARGE = b"x" * (INLINE_LIMIT_BYTES + 1)


def test_purge_removes_record_body_result_blobs_and_count(
    tmp_path_factory: pytest.TempPathFactory, azurite: Azurite, backend: ScriptedBackend
) -> None:
    container = "retention"
    settings = {**IN_A_HURRY, "RETENTION_S": "1", "BLOB_CONTAINER": container}
    with (
        RedisServer(tmp_path_factory.mktemp("redis")) as redis,
        Stack(
            tmp_path_factory.mktemp("stack"),
            redis=redis,
            azurite=azurite,
            backends={"/v1/test": backend.url},
            with_model=False,
            settings=settings,
        ) as stack,
        stack.client() as http,
        BlobServiceClient.from_connection_string(azurite.connection_string) as blobs,
        redis.connect() as redis_client,
    ):
        backbone = Backbone(http)
        first, second = "/v1/test/retention/1", "/v1/test/retention/2"
        ids = [backbone.submit(first, body) for body in (b"small", LARGE)]
        for task_id in ids:
            backend.next_call(first)
            next_step = backbone.update(
                task_id, "created", Endpoint=backend.url + second, PublishToGrid=True, Body=LARGE.decode()
            )
            assert next_step.status_code == 200
            backend.next_call(second)
            http.put(f"/api/v1/tasks/{task_id}/result", content=LARGE).raise_for_status()
        running = backbone.submit(first, LARGE)
        backend.next_call(first)
        assert _blob_count(blobs, container) == 5, "the first body of the second task was replaced"
        for task_id in ids:
            backbone.complete(task_id)

        eventually(lambda: all(http.get(f"/api/v1/tasks/{task_id}").status_code == 404 for task_id in ids))

        eventually(lambda: _blob_count(blobs, container) == 1)
        assert backbone.depth(second) == {}
        assert backbone.task(running)["BackendStatus"] == "created", "an unfinished task stays"
        backbone.complete(running)
        eventually(lambda: _blob_count(blobs, container) == 0)
        _run_and_delete_a_schedule(http, backend, backbone, first)
        eventually(lambda: _blob_count(blobs, container) == 0)
        # The queues keep what they have learned after their tasks are purged, and that the backend answers is known.
        # An endpoint makes room when another one needs it. What happened is told for ninety days, of minutes that
        # are over. The reconciler, its clock among the deadlines, and the secret of keyed ids go on.
        kept = {"q", "answers", "due", "endpoints", "keyed", "reconciler"}
        series = {"s1", "s10", "s60", "sum", "series", "series_bytes"}
        eventually(lambda: {key.split("}")[1].split(":")[0] for key in redis_client.scan_iter()} - series == kept)
        assert http.get("/api/v1/queues/").json() == {"Queues": [], "NextCursor": None}


def _run_and_delete_a_schedule(http: httpx.Client, backend: ScriptedBackend, backbone: Backbone, path: str) -> None:
    """One with a body in Blob Storage, of which each task has a copy. It leaves nothing, and nor do its tasks."""
    schedule = {"Path": path, "Cron": "* * * * * *", "Body": LARGE.decode()}
    http.put("/api/v1/schedules/retained", json=schedule).raise_for_status()
    task_id = backend.next_call(path).task_id
    http.delete("/api/v1/schedules/retained").raise_for_status()
    backbone.complete(task_id)
    eventually(lambda: http.get(f"/api/v1/tasks/{task_id}").status_code == 404)


def _blob_count(blobs: BlobServiceClient, container: str) -> int:
    return sum(1 for _ in blobs.get_container_client(container).list_blob_names())
