"""A8, and the stories: existing clients on both ends, and this app between them."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from local.stack import Stack
from tests.contract.legacy_client import CallFailed, Gateway, Style, TaskManager
from tests.contract.part_a import Place, depth, finished, new_place
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
def place(backend: ScriptedBackend) -> Place:
    return new_place(backend)


def addresses(stack: Stack) -> tuple[str, str]:
    return stack.function_url("CacheConnectorUpsert"), stack.function_url("CacheConnectorGet")


def api_of(place: Place) -> str:
    return place.path.rpartition("/")[2]


def test_the_asynchronous_operation_answers_with_the_new_task_and_dispatches_it(
    gateway: Gateway, backend: ScriptedBackend, place: Place
) -> None:
    task = gateway.make_task(place.path, '{"a": "größe"}')
    assert (task["Status"], task["BackendStatus"], task["Endpoint"]) == ("created", "created", place.url)
    call = backend.next_call(place.path)
    assert (call.task_id, call.body) == (task["TaskId"], '{"a": "größe"}'.encode())


def test_the_status_operation_tells_the_task(gateway: Gateway, backend: ScriptedBackend, place: Place) -> None:
    task = gateway.make_task(place.path, "{}")
    backend.next_call(place.path)
    answer = gateway.task_status(task["TaskId"])
    assert answer.status_code == 200
    assert {**answer.json(), "Timestamp": ""} == {**task, "Timestamp": ""}
    assert answer.json()["Timestamp"] >= task["Timestamp"]


def test_the_status_operation_has_nothing_to_tell_of_a_task_that_nobody_knows(gateway: Gateway) -> None:
    answer = gateway.task_status("nobody-knows-it")
    assert (answer.status_code, answer.content) == (204, b"")


def test_a_request_without_a_body_is_refused_at_the_gateway(gateway: Gateway, place: Place) -> None:
    with pytest.raises(CallFailed) as error:
        gateway.make_task(place.path, "")
    assert error.value.status == 400


@pytest.mark.parametrize("style", ["python", "r"])
def test_a_task_lives_its_whole_life_between_a_gateway_and_a_model_service(
    app: httpx.Client,
    http: httpx.Client,
    stack: Stack,
    gateway: Gateway,
    backend: ScriptedBackend,
    place: Place,
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
        # The service knows its tasks by the header, looks each up, and works on after it has answered.
        seen.append(tasks.get_task_status(call.task_id)["Endpoint"])
        threading.Thread(target=work, args=[call.task_id], daemon=True).start()
        return None

    backend.react(place.path, answer)
    task_id = gateway.make_task(place.path, '{"image": 1}')["TaskId"]
    eventually(lambda: gateway.task_status(task_id).json()["Status"] == "running model")
    assert gateway.task_status(task_id).json()["BackendStatus"] == "running"
    assert depth(app, place) == {"running": 1}
    go_on.set()
    finished(app, task_id)
    task = gateway.task_status(task_id).json()
    assert task["BackendStatus"] == "completed"
    assert task["Status"] == "completed - https://results.example/out.json?sig=a%2Bb"
    assert seen == [place.url]
    assert depth(app, place) == {"completed": 1}
    assert backend.next_call(place.path).body == b'{"image": 1}'
    assert backend.untaken(place.path) == 0


def test_a_pipeline_of_two_services_and_a_full_one_between_them(
    app: httpx.Client, http: httpx.Client, stack: Stack, gateway: Gateway, backend: ScriptedBackend, place: Place
) -> None:
    """A Python service detects, hands on to an R service that is full at first, which classifies and completes."""
    detector, classifier = (TaskManager(http, *addresses(stack), style) for style in ("python", "r"))
    second = new_place(backend)
    refusals = iter([503, 429])
    told: list[dict[str, Any]] = []

    def detect(call: Call) -> Answer | None:
        detector.update_task_status(call.task_id, "running detector")
        told.append(detector.get_task_status(call.task_id))
        boxes = {"boxes": json.loads(call.body)["images"]}
        detector.add_pipeline_task(call.task_id, "test", "v1", api_of(second), json.dumps(boxes))
        return None

    def classify(call: Call) -> Answer | None:
        if (refused := next(refusals, None)) is not None:
            told.append(classifier.get_task_status(call.task_id))
            return Answer(refused)
        classifier.update_task_status(call.task_id, "running classifier")
        classifier.complete_task(call.task_id, f"completed - {len(json.loads(call.body)['boxes'])} boxes")
        return None

    backend.react(place.path, detect)
    backend.react(second.path, classify)
    task_id = gateway.make_task(place.path, '{"images": ["a", "b"]}')["TaskId"]
    task = finished(app, task_id)
    assert (task["BackendStatus"], task["Status"]) == ("completed", "completed - 2 boxes")
    assert (task["TaskId"], task["Endpoint"], task["EndpointPath"]) == (task_id, second.url, second.path)
    statuses = [(each["BackendStatus"], each["Status"]) for each in told]
    assert statuses == [
        ("running", "running detector"),
        ("created", "created"),
        ("created", "Awaiting service availability"),
    ]
    assert (depth(app, place), depth(app, second)) == ({}, {"completed": 1})
    assert backend.next_call(place.path)
    calls = [backend.next_call(second.path) for _ in range(3)]
    assert {call.body for call in calls} == {b'{"boxes": ["a", "b"]}'}
    assert backend.untaken(place.path) == backend.untaken(second.path) == 0


def test_a_service_that_fails_its_task_leaves_its_words_for_the_caller(
    app: httpx.Client, http: httpx.Client, stack: Stack, gateway: Gateway, backend: ScriptedBackend, place: Place
) -> None:
    tasks = TaskManager(http, *addresses(stack), "r")

    def answer(call: Call) -> Answer | None:
        tasks.fail_task(call.task_id, "failed - the image cannot be read")
        return Answer(500)

    backend.react(place.path, answer)
    task_id = gateway.make_task(place.path, "{}")["TaskId"]
    finished(app, task_id)
    task = gateway.task_status(task_id).json()
    assert (task["BackendStatus"], task["Status"]) == ("failed", "failed - the image cannot be read")
    assert depth(app, place) == {"failed": 1}


def test_the_gateways_users_never_see_a_key(stack: Stack, gateway: Gateway, place: Place) -> None:
    task = gateway.make_task(place.path, "{}")
    assert stack.key not in gateway.task_status(task["TaskId"]).text
