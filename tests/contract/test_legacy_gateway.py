"""The legacy gateway (contract A8), and whole stories: legacy clients on both ends, this app between them."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from local.stack import Stack
from tests.contract.legacy_client import CallFailed, Gateway, Style, TaskManager
from tests.contract.legacy_support import Endpoint, depth, finished, new_endpoint
from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.waiting import PATIENCE_S, eventually


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=PATIENCE_S) as http:
        yield http


@pytest.fixture(scope="module")
def gateway(http: httpx.Client, stack: Stack, backend: ScriptedBackend) -> Gateway:
    return Gateway(http, *addresses(stack), backend.url)


@pytest.fixture
def endpoint(backend: ScriptedBackend) -> Endpoint:
    return new_endpoint(backend)


def addresses(stack: Stack) -> tuple[str, str]:
    return stack.function_url("CacheConnectorUpsert"), stack.function_url("CacheConnectorGet")


def api_of(endpoint: Endpoint) -> str:
    return endpoint.path.rpartition("/")[2]


@pytest.mark.contract("A8.1")
def test_asynchronous_operation_answers_the_new_task_and_dispatches_it(
    gateway: Gateway, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    task = gateway.make_task(endpoint.path, '{"a": "größe"}')
    assert (task["Status"], task["BackendStatus"], task["Endpoint"]) == ("created", "created", endpoint.url)
    call = backend.next_call(endpoint.path)
    assert (call.task_id, call.body) == (task["TaskId"], '{"a": "größe"}'.encode())


@pytest.mark.contract("A8.2")
def test_status_operation_answers_the_task(gateway: Gateway, backend: ScriptedBackend, endpoint: Endpoint) -> None:
    task = gateway.make_task(endpoint.path, "{}")
    backend.next_call(endpoint.path)
    answer = gateway.task_status(task["TaskId"])
    assert answer.status_code == 200
    assert {**answer.json(), "Timestamp": ""} == {**task, "Timestamp": ""}
    assert answer.json()["Timestamp"] >= task["Timestamp"]


@pytest.mark.contract("A8.2")
def test_status_operation_answers_204_for_an_unknown_task(gateway: Gateway) -> None:
    answer = gateway.task_status("unknown-task")
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.contract("A8.3")
def test_asynchronous_operation_without_a_body_is_refused(gateway: Gateway, endpoint: Endpoint) -> None:
    with pytest.raises(CallFailed) as error:
        gateway.make_task(endpoint.path, "")
    assert error.value.status == 400


@pytest.mark.contract("A8.4")
@pytest.mark.parametrize("style", ["python", "r"])
def test_gateway_and_legacy_model_service_complete_a_task(
    app: httpx.Client,
    http: httpx.Client,
    stack: Stack,
    gateway: Gateway,
    backend: ScriptedBackend,
    endpoint: Endpoint,
    style: Style,
) -> None:
    tasks = TaskManager(http, *addresses(stack), style)
    seen: list[str] = []
    go_on = threading.Event()

    def work(task_id: str) -> None:
        tasks.update_task_status(task_id, "running model")
        go_on.wait(PATIENCE_S)
        tasks.update_task_status(task_id, "running - 90 %")
        tasks.complete_task(task_id, "completed - https://results.example/out.json?sig=a%2Bb")

    def answer(call: Call) -> Answer | None:
        # The service reads the task id from the header, looks the task up, answers, and works on in a thread.
        seen.append(tasks.get_task_status(call.task_id)["Endpoint"])
        threading.Thread(target=work, args=[call.task_id], daemon=True).start()
        return None

    backend.react(endpoint.path, answer)
    task_id = gateway.make_task(endpoint.path, '{"image": 1}')["TaskId"]
    eventually(lambda: gateway.task_status(task_id).json()["Status"] == "running model")
    assert gateway.task_status(task_id).json()["BackendStatus"] == "running"
    assert depth(app, endpoint) == {"running": 1}
    go_on.set()
    finished(app, task_id)
    task = gateway.task_status(task_id).json()
    assert task["BackendStatus"] == "completed"
    assert task["Status"] == "completed - https://results.example/out.json?sig=a%2Bb"
    assert seen == [endpoint.url]
    assert depth(app, endpoint) == {"completed": 1}
    assert backend.next_call(endpoint.path).body == b'{"image": 1}'
    assert backend.untaken(endpoint.path) == 0


@pytest.mark.contract("A8.5")
def test_pipeline_of_two_legacy_services_completes_although_the_second_is_busy(
    app: httpx.Client,
    http: httpx.Client,
    stack: Stack,
    gateway: Gateway,
    backend: ScriptedBackend,
    endpoint: Endpoint,
) -> None:
    """A Python service detects, then an R service, busy at first, classifies and completes."""
    detector, classifier = (TaskManager(http, *addresses(stack), style) for style in ("python", "r"))
    second = new_endpoint(backend)
    refusals = iter([503, 429])
    seen_tasks: list[dict[str, Any]] = []

    def detect(call: Call) -> Answer | None:
        detector.update_task_status(call.task_id, "running detector")
        seen_tasks.append(detector.get_task_status(call.task_id))
        boxes = {"boxes": json.loads(call.body)["images"]}
        detector.add_pipeline_task(call.task_id, "test", "v1", api_of(second), json.dumps(boxes))
        return None

    def classify(call: Call) -> Answer | None:
        if (refused := next(refusals, None)) is not None:
            seen_tasks.append(classifier.get_task_status(call.task_id))
            return Answer(refused)
        classifier.update_task_status(call.task_id, "running classifier")
        classifier.complete_task(call.task_id, f"completed - {len(json.loads(call.body)['boxes'])} boxes")
        return None

    backend.react(endpoint.path, detect)
    backend.react(second.path, classify)
    task_id = gateway.make_task(endpoint.path, '{"images": ["a", "b"]}')["TaskId"]
    task = finished(app, task_id)
    assert (task["BackendStatus"], task["Status"]) == ("completed", "completed - 2 boxes")
    assert (task["TaskId"], task["Endpoint"], task["EndpointPath"]) == (task_id, second.path, second.path)
    statuses = [(each["BackendStatus"], each["Status"]) for each in seen_tasks]
    assert statuses == [
        ("running", "running detector"),
        ("created", "created"),
        ("created", "Awaiting service availability"),
    ]
    assert (depth(app, endpoint), depth(app, second)) == ({}, {"completed": 1})
    assert backend.next_call(endpoint.path)
    calls = [backend.next_call(second.path) for _ in range(3)]
    assert {call.body for call in calls} == {b'{"boxes": ["a", "b"]}'}
    assert backend.untaken(endpoint.path) == backend.untaken(second.path) == 0


@pytest.mark.contract("A8.6")
def test_caller_reads_the_reason_of_a_failed_task(
    app: httpx.Client,
    http: httpx.Client,
    stack: Stack,
    gateway: Gateway,
    backend: ScriptedBackend,
    endpoint: Endpoint,
) -> None:
    tasks = TaskManager(http, *addresses(stack), "r")

    def answer(call: Call) -> Answer | None:
        tasks.fail_task(call.task_id, "failed - the image cannot be read")
        return Answer(500)

    backend.react(endpoint.path, answer)
    task_id = gateway.make_task(endpoint.path, "{}")["TaskId"]
    finished(app, task_id)
    task = gateway.task_status(task_id).json()
    assert (task["BackendStatus"], task["Status"]) == ("failed", "failed - the image cannot be read")
    assert depth(app, endpoint) == {"failed": 1}


@pytest.mark.contract("A8.7")
def test_callers_of_the_gateway_never_see_a_key(stack: Stack, gateway: Gateway, endpoint: Endpoint) -> None:
    task = gateway.make_task(endpoint.path, "{}")
    assert stack.key not in gateway.task_status(task["TaskId"]).text
