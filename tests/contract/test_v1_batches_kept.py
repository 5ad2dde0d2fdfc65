"""For how long a batch and its children are kept, and a batch that nobody seals (contract B17)."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from local.stack import Stack
from tests.conftest import IN_A_HURRY
from tests.contract.v1_support import new_path, report, submit, task_of
from tests.scripted_backend import ScriptedBackend
from tests.waiting import eventually


@pytest.fixture(scope="module")
def app(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[httpx.Client]:
    """An app that keeps finished tasks for two seconds, and batches in which nothing happens open for six. It has a
    Redis of its own: another app that is awake would attend to its batches, and keep them open for longer."""
    settings = {**IN_A_HURRY, "RETENTION_S": "2", "BATCH_IDLE_S": "6"}
    directory = tmp_path_factory.mktemp("kept")
    with (
        type(redis_server)(directory / "redis") as own_redis,
        Stack(
            directory,
            redis=own_redis,
            azurite=azurite,
            backends={"/v1/test": backend.url},
            with_model=False,
            settings=settings,
        ) as stack,
        stack.client() as client,
    ):
        yield client


@pytest.mark.contract("B17.26", "B17.27")
def test_children_are_kept_as_long_as_their_batch_which_is_sealed_when_nothing_happens(app: httpx.Client) -> None:
    path = new_path()
    batch_id = app.post("/api/v1/batches").json()["TaskId"]
    child = submit(app, path, Batch=batch_id).json()["TaskId"]
    alone = submit(app, path).json()["TaskId"]
    app.put(f"/api/v1/tasks/{child}/result", content=b"picture").raise_for_status()
    for task_id in (child, alone):
        report(app, TaskId=task_id, BackendStatus="completed", Status="completed")

    eventually(lambda: app.get(f"/api/v1/tasks/{alone}").status_code == 404)
    batch = eventually(lambda: found if (found := task_of(app, batch_id))["Sealed"] else None)
    assert batch
    assert (batch["BackendStatus"], batch["Total"]) == ("completed", 1)
    assert app.get(f"/api/v1/tasks/{child}/result").content == b"picture"
    eventually(lambda: app.get(f"/api/v1/tasks/{batch_id}").status_code == 404)
    eventually(lambda: app.get(f"/api/v1/tasks/{child}").status_code == 404)
