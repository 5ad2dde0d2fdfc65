"""The app in Microsoft's own worker code, which is what Azure runs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from local.azurite import Azurite
from local.redis_server import RedisServer
from tests.real_worker.worker import RealWorker, find_python, prepared_python
from tests.scripted_backend import Answer, ScriptedBackend
from tests.test_bindings import SNAPSHOT
from tests.waiting import eventually

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def worker(
    tmp_path_factory: pytest.TempPathFactory, azurite: Azurite, backend: ScriptedBackend
) -> Iterator[RealWorker]:
    base = find_python()
    if base is None:
        pytest.skip("the worker of Azure Functions needs CPython 3.13, which is neither on PATH nor under pyenv")
    python = prepared_python(base)
    directory = tmp_path_factory.mktemp("real-worker")
    with RedisServer(directory / "redis") as redis:
        settings = {
            "REDIS_CONNECTION_STRING": redis.url,
            "EVENT_GRID_TOPIC_URI": f"{backend.url}/real-worker-topic/api/events",
            "EVENT_GRID_KEY": "a key",
            "BACKENDS": json.dumps({"/v1/test": backend.url}),
            "ALLOW_LOOPBACK_BACKENDS": "true",
            "AzureWebJobsStorage": azurite.connection_string,
            "BLOB_CONTAINER": "real-worker",
            "RECONCILER_INTERVAL_S": "0.5",
            "BACKOFF_BASE_S": "0.05",
        }
        with RealWorker(python, settings, directory / "worker.log") as worker, redis.connect() as client:
            eventually(lambda: [*client.scan_iter("*reconciler")])  # before any invocation
            yield worker


def test_the_worker_indexes_and_loads_every_function_with_the_bindings_of_the_snapshot(worker: RealWorker) -> None:
    assert "error" not in worker.indexed, worker.indexed["stack_trace"]
    snapshot = json.loads(SNAPSHOT.read_text())
    assert sorted(worker.indexed["loaded"]) == sorted(snapshot)
    by_name = {
        name: sorted(bindings, key=lambda binding: binding["name"])
        for name, bindings in worker.indexed["bindings"].items()
    }
    assert by_name == snapshot


def test_a_task_goes_from_submit_to_completion_in_the_worker(worker: RealWorker, backend: ScriptedBackend) -> None:
    path = "/v1/test/real-worker"

    submitted = worker.http(
        "SubmitTask",
        "POST",
        f"v1/submit{path}?size=3",
        params={"path": path.lstrip("/")},
        body=b"\x00\xff pixels",
        headers={"Content-Type": "image/x-raw"},
    )
    assert submitted.status == 202
    task_id = submitted.json["TaskId"]
    assert submitted.headers["location"].endswith(f"/api/v1/tasks/{task_id}")

    events = backend.next_call("/real-worker-topic/api/events")
    assert events.headers["aeg-sas-key"] == "a key"
    dispatched = worker.http("BackendWebhook", "POST", "BackendWebhook", body=events.body)
    assert (dispatched.status, dispatched.json) == (200, {"results": ["accepted"]})
    call = backend.next_call(path)
    assert (call.path, call.task_id, call.attempt) == (f"{path}?size=3", task_id, 1)
    assert (call.body, call.headers["content-type"]) == (b"\x00\xff pixels", "image/x-raw")

    running = {"TaskId": task_id, "Status": "running model", "BackendStatus": "running", "PublishToGrid": False}
    updated = worker.http("CacheConnectorUpsert", "POST", "CacheConnectorUpsert", body=running)
    assert (updated.status, updated.json["BackendStatus"]) == (200, "running")

    stored = worker.http(
        "PutTaskResult",
        "PUT",
        f"v1/tasks/{task_id}/result",
        params={"id": task_id},
        body=b"\x00" * 100_000,
        headers={"Content-Type": "image/png", "X-Task-Attempt": "1"},
    )
    assert stored.status == 200
    completed = {**running, "Status": "completed", "BackendStatus": "completed"}
    assert worker.http("CacheConnectorUpsert", "POST", "CacheConnectorUpsert", body=completed).status == 200

    task = worker.http("GetTask", "GET", f"v1/tasks/{task_id}", params={"id": task_id})
    assert (task.status, task.json["Status"], task.json["BackendStatus"]) == (200, "completed", "completed")
    unchanged = worker.http(
        "GetTask",
        "GET",
        f"v1/tasks/{task_id}",
        params={"id": task_id},
        headers={"If-None-Match": task.headers["etag"]},
    )
    assert (unchanged.status, unchanged.body) == (304, b"")
    result = worker.http("GetTaskResult", "GET", f"v1/tasks/{task_id}/result", params={"id": task_id})
    assert (result.body, result.headers["content-type"]) == (b"\x00" * 100_000, "image/png")
    history = worker.http("GetTaskHistory", "GET", f"v1/tasks/{task_id}/history", params={"id": task_id})
    assert history.status == 200
    old = worker.http("CacheConnectorGet", "GET", f"CacheConnectorGet?taskId={task_id}")
    assert (old.status, old.json["TaskId"]) == (200, task_id)
    assert worker.http("CacheConnectorGet", "GET", "CacheConnectorGet?taskId=unknown").status == 204

    depth = worker.http("QueueDepths", "GET", f"v1/queues{path}", params={"path": path.lstrip("/")})
    assert depth.json["Completed"] == 1


def test_event_grids_handshake_is_answered_in_the_worker(worker: RealWorker) -> None:
    event = {
        "id": "1",
        "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
        "subject": "",
        "eventTime": "2026-11-22T10:12:44Z",
        "dataVersion": "1",
        "data": {"validationCode": "512d38b6"},
    }
    answer = worker.http("BackendWebhook", "POST", "BackendWebhook", body=json.dumps([event]))
    assert (answer.status, answer.json) == (200, {"validationResponse": "512d38b6"})


def test_reports_are_counted_in_the_worker(worker: RealWorker) -> None:
    report = {"ApiPath": "/v1/test/reported", "ServiceCluster": "aks", "IncrementBy": 2}
    assert worker.http("CurrentProcessingUpsert", "POST", "CurrentProcessingUpsert", body=report).status == 200
    query = "cluster=aks&path=%2Fv1%2Ftest%2Freported"
    assert worker.http("CurrentProcessingGet", "GET", f"CurrentProcessingGet?{query}").body == b"2"


def test_the_worker_takes_up_what_is_overdue_outside_of_an_invocation(
    worker: RealWorker, backend: ScriptedBackend
) -> None:
    path = "/v1/test/real-worker-overdue"
    backend.script(path, Answer(500))
    worker.http("SubmitTask", "POST", f"v1/submit{path}", params={"path": path.lstrip("/")}, body=b"pixels")
    events = backend.next_call("/real-worker-topic/api/events")
    assert worker.http("BackendWebhook", "POST", "BackendWebhook", body=events.body).json == {"results": ["retried"]}
    assert backend.next_call(path).attempt == 1
    assert backend.next_call(path).attempt == 2, "no call and no timer led to it"


@pytest.mark.parametrize("name", ["Reconciler", "TaskQueueLogger", "TaskProcessLogger"])
def test_a_timer_runs_in_the_worker(worker: RealWorker, name: str) -> None:
    worker.timer(name)


def test_the_app_is_healthy_in_the_worker(worker: RealWorker) -> None:
    health = worker.http("Health", "GET", "v1/health")
    assert health.status == 200
    assert health.json["Dependencies"]["Redis"] == "ok"
    assert health.json["Dependencies"]["BlobStorage"] == "ok"


def test_a_problem_is_problem_json_in_the_worker(worker: RealWorker) -> None:
    answer = worker.http("CacheConnectorUpsert", "POST", "CacheConnectorUpsert", body="{}")
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
