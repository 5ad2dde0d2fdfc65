"""Promise: a batch knows what has become of each of its tasks, whatever dies on the way."""

from __future__ import annotations

import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from local.azurite import Azurite
from local.processes import ChildProcess, free_port
from local.redis_server import RedisCluster, RedisServer
from local.stack import ROOT, Stack
from tests.end_to_end.backbone import Backbone
from tests.end_to_end.test_kill import SETTINGS
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.slow

PICTURES = 200
FIRST, SECOND, GATHER = "/v1/detect", "/v1/classify", "/v1/gather"
WITHIN_S = 5 * PATIENCE_S


class Models:
    """A model service for each step and for what follows, each in a process of its own."""

    def __init__(self, directory: Path, stack: Stack, ports: dict[str, int]) -> None:
        environment = {"PYTHONPATH": str(ROOT), "BACKBONE_URL": stack.url, "BACKBONE_KEY": stack.key}
        self.processes = {
            path: ChildProcess(
                f"the model service at {path}",
                [sys.executable, "-m", "tests.end_to_end.model_process", str(port), path],
                log_path=directory / f"{path.rpartition('/')[2]}.log",
                environment=environment,
            )
            for path, port in ports.items()
        }


@pytest.mark.parametrize("kind", [RedisServer, RedisCluster], ids=["a single server", "a cluster"])
@pytest.mark.parametrize("victim", ["model", "app"])
def test_two_hundred_pictures_go_through_a_pipeline_as_a_batch_though_a_process_is_killed(
    tmp_path: Path, azurite: Azurite, kind: type[RedisServer | RedisCluster], victim: str
) -> None:
    ports = {path: free_port() for path in (FIRST, SECOND, GATHER)}
    bodies = [b"picture %d" % number for number in range(PICTURES)]
    with ExitStack() as context:
        stack = Stack(
            tmp_path,
            redis=context.enter_context(kind(tmp_path / "redis")),
            azurite=azurite,
            settings=SETTINGS,
            backends={path: f"http://127.0.0.1:{port}" for path, port in ports.items()},
            with_model=False,
            time_scale=30,
        )
        models = Models(tmp_path, stack, ports)
        for model in models.processes.values():
            context.enter_context(model)
        context.enter_context(stack)
        http = context.enter_context(stack.client())
        backbone = Backbone(http)
        batch_id = http.post("/api/v1/batches", json={"Name": "pictures", "Then": GATHER}).json()["TaskId"]

        def submit(number: int) -> str:
            headers = {"Batch": batch_id, "Pipeline": SECOND, "Idempotency-Key": f"{kind.__name__} {number}"}

            def submitted() -> str | None:
                with stack.client() as client:
                    response = client.post(f"/api/v1/submit{FIRST}", content=bodies[number], headers=headers)
                return response.json()["TaskId"] if response.status_code == 202 else None

            return eventually(submitted) or ""

        with ThreadPoolExecutor(8) as pool:
            tasks = [*pool.map(submit, range(PICTURES))]
        http.post(f"/api/v1/batches/{batch_id}/seal").raise_for_status()
        backbone.until(batch_id, lambda batch: batch["Completed"] >= PICTURES // 4, WITHIN_S)
        process = models.processes[SECOND] if victim == "model" else stack.host
        process.kill()
        process.start()

        batch = backbone.ended(batch_id, WITHIN_S)
        assert (batch["BackendStatus"], batch["Status"], batch["Progress"]) == ("completed", "completed", 1)
        assert [batch[name] for name in ("Total", "Completed", "Failed", "Unfinished")] == [PICTURES, PICTURES, 0, 0]
        for task_id, body in zip(tasks, bodies, strict=True):
            ends = [event for event in backbone.history(task_id) if event["Reason"] in ("next-step", "report")]
            steps = [(event["EndpointPath"], event["State"]) for event in ends if event["State"] != "running"]
            assert steps == [(SECOND, "created"), (SECOND, "completed")], "each step has ended once"
            digest = hashlib.sha256(hashlib.sha256(body).digest()).digest()
            assert http.get(f"/api/v1/tasks/{task_id}/result").content == digest
        depths = [backbone.depth(path) for path in (FIRST, SECOND, GATHER)]
        assert depths == [{}, {"Completed": PICTURES}, {"Completed": 1}], "what follows ran once"
        children = _children(backbone, batch_id)
        assert sorted(task["TaskId"] for task in children) == sorted(tasks)
        then_id = batch["ThenTaskId"]
        assert backbone.task(then_id)["EndpointPath"] == GATHER
        manifest = [
            {
                "TaskId": task["TaskId"],
                "State": "completed",
                "Status": task["Status"],
                "Result": f"/api/v1/tasks/{task['TaskId']}/result",
            }
            for task in children[::-1]
        ]
        document = {"BatchId": batch_id, "Name": "pictures", "Tasks": manifest}
        body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        assert http.get(f"/api/v1/tasks/{batch_id}/result").content == hashlib.sha256(body).digest()


def _children(backbone: Backbone, batch_id: str) -> list[dict[str, Any]]:
    """All children, the last one first."""
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"batch": batch_id, "limit": 90}
    while True:
        page = backbone.http.get("/api/v1/tasks", params=query).raise_for_status().json()
        found += page["Tasks"]
        if page["NextCursor"] is None:
            return found
        query["cursor"] = page["NextCursor"]
