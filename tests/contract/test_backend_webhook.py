"""BackendWebhook (contract A6): from Event Grid to the model service."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from azure.storage.blob import ContainerClient

from local.azurite import Azurite
from local.stack import Stack
from tests.conftest import IN_A_HURRY
from tests.contract.legacy_support import (
    DELIVERY,
    NOT_AN_OBJECT,
    TOPIC_ID,
    WEBHOOK,
    Endpoint,
    assert_problem,
    depth,
    finished,
    kept_task,
    new_endpoint,
    outside_urls,
    stored,
    trap,
    upsert,
)
from tests.scripted_backend import Answer, ScriptedBackend
from tests.waiting import PATIENCE_S, eventually

DISPATCH = "backbone.task.dispatch"
VALIDATION = "Microsoft.EventGrid.SubscriptionValidationEvent"
Event = dict[str, Any]


@pytest.fixture
def app(stack: Stack) -> Iterator[httpx.Client]:
    """A client that delivers as Event Grid does, for the app's own subscription."""
    with stack.client() as client:
        client.headers.update(DELIVERY)
        yield client


@pytest.fixture
def endpoint(backend: ScriptedBackend) -> Endpoint:
    return new_endpoint(backend)


def legacy_event(endpoint: Endpoint | str, task_id: str | None = None, data: Any = '{"a":1}') -> Event:
    """The event that the legacy platform published."""
    return {
        "topic": TOPIC_ID,
        "id": task_id or str(uuid.uuid4()),
        "eventType": "task",
        "subject": endpoint if isinstance(endpoint, str) else endpoint.url,
        "eventTime": "2026-11-22T10:12:44.1234567Z",
        "dataVersion": "1.0",
        "metadataVersion": "1",
        "data": data,
    }


def dispatch(task: Event | str, attempt: Any = 1) -> Event:
    """The event that this app publishes."""
    task_id = task if isinstance(task, str) else task["TaskId"]
    return {
        "topic": TOPIC_ID,
        "id": f"{task_id}.{attempt}",
        "eventType": DISPATCH,
        "subject": f"tasks/{task_id}",
        "eventTime": "2026-11-22T10:12:44.1234567Z",
        "dataVersion": "1.0",
        "data": {"TaskId": task_id, "Attempt": attempt},
    }


def cloud_event(task: Event, attempt: int = 1) -> Event:
    return {
        "specversion": "1.0",
        "id": f"{task['TaskId']}.{attempt}",
        "source": TOPIC_ID,
        "type": DISPATCH,
        "subject": f"tasks/{task['TaskId']}",
        "time": "2026-11-22T10:12:44Z",
        "datacontenttype": "application/json",
        "data": {"TaskId": task["TaskId"], "Attempt": attempt},
    }


def validation(data: Any) -> Event:
    """The event by which Event Grid validates a subscription."""
    return {"topic": TOPIC_ID, "id": "1", "eventType": VALIDATION, "data": data}


def deliver(app: httpx.Client, *events: Any) -> list[str]:
    """Deliver events in one array. Returns the outcome of each."""
    response = app.post(WEBHOOK, json=list(events))
    assert response.status_code == 200, response.text
    return response.json()["results"]


# Handshakes


@pytest.mark.contract("A6.1")
def test_validation_event_is_answered_with_its_code(app: httpx.Client) -> None:
    event = {
        "id": str(uuid.uuid4()),
        "topic": TOPIC_ID,
        "subject": "",
        "eventType": VALIDATION,
        "eventTime": "2026-11-22T10:12:44Z",
        "dataVersion": "2",
        "data": {"validationCode": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6", "validationUrl": "https://rp.example/v"},
    }
    response = app.post(WEBHOOK, json=[event], headers={"aeg-event-type": "SubscriptionValidation"})
    assert response.status_code == 200
    assert response.headers["Content-Type"].partition(";")[0] == "application/json"
    assert response.json() == {"validationResponse": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6"}


@pytest.mark.contract("A6.1")
def test_validation_url_is_never_called(app: httpx.Client) -> None:
    with trap() as trapped:
        data = {"validationCode": "code", "validationUrl": f"http://{trapped}/validate"}
        response = app.post(WEBHOOK, json=[validation(data)])
        assert response.json() == {"validationResponse": "code"}


@pytest.mark.contract("A6.3")
@pytest.mark.parametrize(
    "data",
    [None, {}, {"validationCode": None}, {"validationCode": 5}, {"validationCode": ""}, [], "code", 5],
    ids=repr,
)
def test_validation_event_without_a_code_is_refused(app: httpx.Client, data: Any) -> None:
    assert_problem(app.post(WEBHOOK, json=[validation(data)]), 400, "/0")


@pytest.mark.contract("A6.3")
def test_handshake_among_events_is_refused_and_the_events_are_handled(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    handshake = validation({"validationCode": "code"})
    task = kept_task(app, endpoint)
    assert_problem(app.post(WEBHOOK, json=[handshake, dispatch(task)]), 400, "/0")
    assert backend.next_call(endpoint.path).task_id == task["TaskId"]


@pytest.mark.contract("A6.2")
def test_cloud_events_handshake_is_answered(app: httpx.Client) -> None:
    response = app.options(WEBHOOK, headers={"WebHook-Request-Origin": "eventgrid.azure.net"})
    assert response.status_code == 200
    assert response.headers["WebHook-Allowed-Origin"] == "eventgrid.azure.net"
    assert response.headers["WebHook-Allowed-Rate"]


@pytest.mark.contract("A6.2")
def test_cloud_events_handshake_needs_an_origin(app: httpx.Client) -> None:
    assert_problem(app.options(WEBHOOK), 400, "WebHook-Request-Origin")


@pytest.mark.contract("A6.4")
def test_handshakes_require_the_key(stack: Stack) -> None:
    headers = {"WebHook-Request-Origin": "eventgrid.azure.net"}
    assert httpx.options(stack.url + WEBHOOK, headers=headers, timeout=PATIENCE_S).status_code == 401
    event = {"id": "1", "eventType": VALIDATION, "data": {"validationCode": "code"}}
    response = httpx.post(f"{stack.url}{WEBHOOK}?code=wrong", json=[event], timeout=PATIENCE_S)
    assert response.status_code == 401
    assert "code" not in response.text


# Dispatching


@pytest.mark.contract("A6.4")
def test_delivery_with_a_wrong_key_dispatches_nothing(
    app: httpx.Client, stack: Stack, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    task = kept_task(app, endpoint)
    for address in (stack.url + WEBHOOK, f"{stack.url}{WEBHOOK}?code=wrong"):
        response = httpx.post(address, json=[dispatch(task), legacy_event(endpoint)], timeout=PATIENCE_S)
        assert response.status_code == 401
    assert stored(app, task["TaskId"]) == task
    assert backend.untaken(endpoint.path) == 0


@pytest.mark.contract("A6.7")
def test_dispatch_posts_the_body_to_the_endpoint_with_the_task_id(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    task = kept_task(app, endpoint, Body='{"image": "größe"}')
    assert deliver(app, dispatch(task)) == ["accepted"]
    call = backend.next_call(endpoint.path)
    assert (call.task_id, call.path, call.body) == (task["TaskId"], endpoint.path, '{"image": "größe"}'.encode())
    assert call.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.contract("A6.8")
@pytest.mark.parametrize("as_batch", [False, True], ids=["one object", "a batch"])
def test_dispatch_event_may_be_a_cloud_event(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, as_batch: bool
) -> None:
    event = cloud_event(kept_task(app, endpoint))
    response = app.post(
        WEBHOOK,
        content=json.dumps([event] if as_batch else event),
        headers={"Content-Type": f"application/cloudevents{'-batch' * as_batch}+json"},
    )
    assert response.status_code == 200, response.text
    assert backend.next_call(endpoint.path).task_id == event["data"]["TaskId"]


@pytest.mark.contract("A6.9")
def test_every_event_of_a_batch_is_handled(app: httpx.Client, backend: ScriptedBackend) -> None:
    endpoints = [new_endpoint(backend) for _ in range(6)]
    tasks = [kept_task(app, endpoint, Body=str(number)) for number, endpoint in enumerate(endpoints[:5])]
    loose = legacy_event(endpoints[5], data="loose")
    assert deliver(app, *map(dispatch, tasks), loose) == ["accepted"] * 6
    calls = [backend.next_call(endpoint.path) for endpoint in endpoints]
    expected = {task["TaskId"]: str(number).encode() for number, task in enumerate(tasks)} | {loose["id"]: b"loose"}
    assert {call.task_id: call.body for call in calls} == expected
    assert sum(backend.untaken(endpoint.path) for endpoint in endpoints) == 0


@pytest.mark.contract("A6.50")
@pytest.mark.parametrize("setting", [{"Paused": True}, {"Limit": 1}], ids=str)
def test_an_event_passes_neither_pause_nor_limit(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, setting: dict[str, Any]
) -> None:
    first, second = (kept_task(app, endpoint, Body=str(number)) for number in range(2))
    queue = f"/api/v1/queues{endpoint.path}"
    backend.script(endpoint.path, *[Answer(200)] * 2)
    if "Limit" in setting:
        assert deliver(app, dispatch(first)) == ["accepted"]
        assert backend.next_call(endpoint.path).task_id == first["TaskId"]
    app.patch(queue, json=setting).raise_for_status()
    assert deliver(app, dispatch(second), cloud_event(second)) == ["waiting"] * 2
    assert (app.get(queue).json()["Waiting"], backend.untaken(endpoint.path)) == (2 - ("Limit" in setting), 0)
    app.patch(queue, json={"Paused": False, "Limit": None}).raise_for_status()
    assert backend.next_call(endpoint.path).task_id == second["TaskId"]


@pytest.mark.contract("A6.10")
def test_duplicate_event_is_dropped(app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint) -> None:
    task = kept_task(app, endpoint)
    assert deliver(app, dispatch(task)) == ["accepted"]
    assert deliver(app, dispatch(task)) == ["dropped"]
    assert deliver(app, cloud_event(task)) == ["dropped"]
    assert deliver(app, legacy_event(endpoint, task["TaskId"])) == ["dropped"]
    assert backend.next_call(endpoint.path)
    assert backend.untaken(endpoint.path) == 0


@pytest.mark.contract("A6.10")
def test_one_of_several_duplicates_in_a_batch_is_dispatched(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    task = kept_task(app, endpoint)
    assert sorted(deliver(app, *[dispatch(task)] * 20)) == ["accepted"] + ["dropped"] * 19
    assert backend.next_call(endpoint.path)
    assert backend.untaken(endpoint.path) == 0


@pytest.mark.contract("A6.11")
@pytest.mark.parametrize("attempt", [2, 3, 999_999_999])
def test_event_of_another_attempt_is_dropped(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, attempt: int
) -> None:
    task = kept_task(app, endpoint)
    assert deliver(app, dispatch(task, attempt)) == ["dropped"]
    assert stored(app, task["TaskId"]) == task
    assert backend.untaken(endpoint.path) == 0


@pytest.mark.contract("A6.11")
@pytest.mark.parametrize("final", ["running", "completed", "failed"])
def test_event_for_a_task_that_no_longer_waits_is_dropped(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, final: str
) -> None:
    task = kept_task(app, endpoint, BackendStatus=final)
    assert deliver(app, dispatch(task), legacy_event(endpoint, task["TaskId"])) == ["dropped", "dropped"]
    assert stored(app, task["TaskId"]) == task
    assert backend.untaken(endpoint.path) == 0


@pytest.mark.contract("A6.11")
def test_event_for_an_unknown_task_is_dropped(app: httpx.Client) -> None:
    task_id = str(uuid.uuid4())
    assert deliver(app, dispatch(task_id)) == ["dropped"]
    assert stored(app, task_id) is None


# Event Grid gets 200 whatever the backend answers


@pytest.mark.contract("A6.12")
@pytest.mark.parametrize("status", [429, 503])
def test_busy_backend_makes_the_task_wait_and_event_grid_gets_200(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, status: int
) -> None:
    backend.script(endpoint.path, Answer(status, {"Retry-After": "3600"}))
    task = kept_task(app, endpoint)
    assert deliver(app, dispatch(task)) == ["busy"]
    waiting = stored(app, task["TaskId"])
    assert waiting is not None
    assert (waiting["BackendStatus"], waiting["Status"]) == ("created", "Awaiting service availability")
    assert depth(app, endpoint) == {"waiting": 1}


@pytest.mark.contract("A6.13")
def test_backend_with_room_again_gets_the_waiting_task(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    backend.script(endpoint.path, Answer(429), Answer(503), Answer(200))
    task = upsert(app, Endpoint=endpoint.url, Body="again", PublishToGrid=True)
    calls = [backend.next_call(endpoint.path) for _ in range(3)]
    assert [(call.task_id, call.body) for call in calls] == [(task["TaskId"], b"again")] * 3
    assert eventually(lambda: depth(app, endpoint) == {"dispatched": 1})


@pytest.mark.contract("A6.14")
@pytest.mark.parametrize("status", [301, 307, 400, 401, 403, 405, 409, 410, 413, 422])
def test_permanent_refusal_fails_the_task_and_names_the_status(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, status: int
) -> None:
    with trap() as trapped:
        headers = {"Location": f"http://{trapped}/elsewhere"}
        backend.script(endpoint.path, Answer(status, headers, b"a secret of the backend"))
        task = kept_task(app, endpoint)
        assert deliver(app, dispatch(task)) == ["failed"]
    failed = stored(app, task["TaskId"])
    assert failed is not None
    assert failed["BackendStatus"] == "failed"
    assert str(status) in failed["Status"]
    assert "secret" not in failed["Status"]


@pytest.mark.contract("A6.15")
@pytest.mark.parametrize(
    "answer", [Answer(404), Answer(408), Answer(500), Answer(502), Answer(hang_up=True)], ids=str
)
def test_temporary_failure_is_retried(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, answer: Answer
) -> None:
    backend.script(endpoint.path, answer, Answer(200))
    task = upsert(app, Endpoint=endpoint.url, Body="again", PublishToGrid=True)
    assert [backend.next_call(endpoint.path).task_id for _ in range(2)] == [task["TaskId"]] * 2
    assert eventually(lambda: depth(app, endpoint) == {"dispatched": 1})


@pytest.mark.contract("A6.16")
def test_backend_that_keeps_failing_fails_the_task_after_the_last_attempt(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    backend.script(endpoint.path, Answer(500))
    task = upsert(app, Endpoint=endpoint.url, Body="{}", PublishToGrid=True)
    failed = finished(app, task["TaskId"])
    assert failed["BackendStatus"] == "failed"
    assert "500" in failed["Status"]
    assert backend.untaken(endpoint.path) == int(IN_A_HURRY["MAX_ATTEMPTS"])


# The event of the legacy platform


@pytest.mark.contract("A6.18")
@pytest.mark.parametrize(
    ("data", "body"),
    [
        ('{"a": "größe",\n "b": [1.0]}', '{"a": "größe",\n "b": [1.0]}'),
        ("not JSON", "not JSON"),
        ('"quoted"', '"quoted"'),
        (" ", " "),
        ("x" * 200_000, "x" * 200_000),
        ("a\0b\r\n\u202e\U0001f418", "a\0b\r\n\u202e\U0001f418"),
    ],
    ids=["JSON", "text", "a quoted string", "a blank", "200,000 characters", "odd characters"],
)
def test_content_of_string_data_is_posted(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, data: str, body: str
) -> None:
    event = legacy_event(endpoint, data=data)
    assert deliver(app, event) == ["accepted"]
    call = backend.next_call(endpoint.path)
    assert (call.task_id, call.body) == (event["id"], body.encode())
    assert call.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.contract("A6.18")
@pytest.mark.parametrize("data", [{"a": {"b": [1, None, "größe"]}}, [1, 2], 5, True, False, 0, {}, []], ids=repr)
def test_other_data_is_posted_as_json(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, data: Any
) -> None:
    assert deliver(app, legacy_event(endpoint, data=data)) == ["accepted"]
    assert json.loads(backend.next_call(endpoint.path).body) == data


@pytest.mark.contract("A6.19")
def test_unknown_task_of_a_legacy_event_is_created_and_dispatched(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    event = legacy_event(endpoint)
    deliver(app, event)
    backend.next_call(endpoint.path)
    task = stored(app, event["id"])
    assert task is not None
    assert (task["Endpoint"], task["EndpointPath"], task["BackendStatus"]) == (endpoint.url, endpoint.path, "created")
    assert upsert(app, TaskId=event["id"], BackendStatus="completed", Status="done")["BackendStatus"] == "completed"
    assert depth(app, endpoint) == {"completed": 1}


@pytest.mark.contract("A6.19")
def test_unknown_task_of_a_legacy_event_waits_for_a_busy_backend(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    backend.script(endpoint.path, Answer(503), Answer(200))
    event = legacy_event(endpoint, data="kept")
    assert deliver(app, event) == ["busy"]
    assert [backend.next_call(endpoint.path).body for _ in range(2)] == [b"kept", b"kept"]


@pytest.mark.contract("A6.20")
@pytest.mark.parametrize("data", ["", None, "another body", "x" * 200_000], ids=["empty", "null", "other", "large"])
def test_legacy_event_dispatches_a_known_task_with_its_stored_body(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, data: Any
) -> None:
    task = kept_task(app, endpoint, Body="its own")
    assert deliver(app, legacy_event(endpoint, task["TaskId"], data)) == ["accepted"]
    call = backend.next_call(endpoint.path)
    assert (call.task_id, call.body) == (task["TaskId"], b"its own")
    assert depth(app, endpoint) == {"dispatched": 1}


@pytest.mark.contract("A6.20")
def test_large_body_of_a_legacy_event_for_a_known_task_is_not_stored(
    app: httpx.Client, azurite: Azurite, endpoint: Endpoint
) -> None:
    task = kept_task(app, endpoint)
    deliver(app, legacy_event(endpoint, task["TaskId"], "x" * 200_000))
    with ContainerClient.from_connection_string(azurite.connection_string, "task-backbone") as container:
        assert [name for name in container.list_blob_names() if task["TaskId"] in name] == []


@pytest.mark.contract("A6.20")
def test_legacy_event_dispatches_a_known_task_to_its_stored_endpoint(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    other = new_endpoint(backend)
    task = kept_task(app, endpoint)
    deliver(app, legacy_event(other, task["TaskId"]))
    assert backend.next_call(endpoint.path).task_id == task["TaskId"]
    assert backend.untaken(other.path) == 0


@pytest.mark.contract("A6.21")
@pytest.mark.parametrize("data", ["", None], ids=["empty", "null"])
def test_legacy_event_for_an_unknown_task_without_data_is_refused(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, data: Any
) -> None:
    event = legacy_event(endpoint, data=data)
    assert_problem(app.post(WEBHOOK, json=[event]), 400)
    assert stored(app, event["id"]) is None
    assert backend.untaken(endpoint.path) == 0


@pytest.mark.contract("A6.22")
def test_duplicate_legacy_events_for_an_unknown_task_are_dispatched_once(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    event = legacy_event(endpoint)
    outcomes = deliver(app, event, event, event)
    assert sorted(outcomes)[0] == "accepted"
    assert set(sorted(outcomes)[1:]) <= {"dropped", "waiting"}, "it depends on how far the first one is"
    assert deliver(app, event) == ["dropped"]
    assert backend.next_call(endpoint.path).task_id == event["id"]
    assert backend.untaken(endpoint.path) == 0


@pytest.mark.contract("A6.23")
def test_subject_outside_the_registry_is_refused_and_nothing_is_called(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    accepted: list[str] = []
    registered = backend.url.removeprefix("http://")
    with trap() as trapped:
        for what, url in outside_urls(registered, trapped, endpoint.path).items():
            for data in ("{}", ""):
                event = legacy_event(url, data=data)
                response = app.post(WEBHOOK, json=[event])
                if response.status_code != 400 or stored(app, event["id"]) is not None:
                    accepted.append(f"{what}: {response.status_code}")
                else:
                    document = assert_problem(response, 400, "/0")
                    assert "subject" in document["errors"][0]["detail"]
    assert accepted == []
    assert backend.untaken(endpoint.path) == 0


# Topic and subscription

FOREIGN_TOPICS = [
    pytest.param(TOPIC_ID + "-2", id="a name that begins like it"),
    pytest.param(TOPIC_ID.rpartition("/")[0], id="a name that it begins with"),
    pytest.param(f" {TOPIC_ID}", id="a blank before it"),
    pytest.param("", id="an empty text"),
    pytest.param(None, id="null"),
    pytest.param([TOPIC_ID], id="no text"),
]


@pytest.mark.contract("A6.5")
@pytest.mark.parametrize("topic", FOREIGN_TOPICS)
@pytest.mark.parametrize("schema", ["dispatch", "legacy", "cloud event"])
def test_event_of_another_topic_is_refused(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, topic: Any, schema: str
) -> None:
    task = kept_task(app, endpoint)
    event = {
        "dispatch": dispatch(task) | {"topic": topic},
        "legacy": legacy_event(endpoint) | {"topic": topic},
        "cloud event": cloud_event(task) | {"source": topic, "topic": TOPIC_ID},
    }[schema]
    document = assert_problem(app.post(WEBHOOK, json=[event]), 400, "/0")
    assert "topic" in document["errors"][0]["detail"]
    assert stored(app, task["TaskId"]) == task
    assert schema != "legacy" or stored(app, event["id"]) is None
    assert backend.untaken(endpoint.path) == 0


@pytest.mark.contract("A6.5")
def test_event_without_a_topic_is_refused(app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint) -> None:
    event = dispatch(kept_task(app, endpoint))
    del event["topic"]
    assert_problem(app.post(WEBHOOK, json=[event]), 400, "/0")
    assert backend.untaken(endpoint.path) == 0


@pytest.mark.contract("A6.5")
def test_topic_id_matches_in_any_case(app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint) -> None:
    assert deliver(app, dispatch(kept_task(app, endpoint)) | {"topic": TOPIC_ID.upper()}) == ["accepted"]
    assert deliver(app, cloud_event(kept_task(app, endpoint)) | {"source": TOPIC_ID.lower()}) == ["accepted"]
    assert backend.untaken(endpoint.path) == 2


@pytest.mark.contract("A6.5")
def test_handshake_of_another_topic_is_refused(app: httpx.Client) -> None:
    response = app.post(WEBHOOK, json=[validation({"validationCode": "sesame"}) | {"topic": "/subscriptions/evil"}])
    assert_problem(response, 400, "/0")
    assert "sesame" not in response.text


@pytest.mark.contract("A6.6")
@pytest.mark.parametrize("name", ["", "another", "backend-webhook-2", "backend"])
def test_delivery_of_another_subscription_is_refused(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, name: str
) -> None:
    task = kept_task(app, endpoint)
    headers = {"aeg-subscription-name": name}
    assert_problem(app.post(WEBHOOK, json=[dispatch(task)], headers=headers), 403)
    response = app.post(WEBHOOK, json=[validation({"validationCode": "sesame"})], headers=headers)
    assert_problem(response, 403)
    assert "sesame" not in response.text
    assert stored(app, task["TaskId"]) == task
    assert backend.untaken(endpoint.path) == 0


@pytest.mark.contract("A6.6")
def test_delivery_without_a_subscription_is_refused(app: httpx.Client, endpoint: Endpoint) -> None:
    task = kept_task(app, endpoint)
    del app.headers["aeg-subscription-name"]
    assert_problem(app.post(WEBHOOK, json=[dispatch(task)]), 403)
    assert stored(app, task["TaskId"]) == task


@pytest.mark.contract("A6.6")
@pytest.mark.parametrize("content", [b"not JSON", b"[" * 100_000])
def test_delivery_of_another_subscription_is_not_read(app: httpx.Client, content: bytes) -> None:
    assert_problem(app.post(WEBHOOK, content=content, headers={"aeg-subscription-name": "another"}), 403)


# Malformed deliveries

NO_EVENTS: dict[str, Any] = {
    "an empty object": {},
    "a number": 5,
    "a string": "event",
    "null": None,
    "an array": [],
    "no type": {"id": "1", "subject": "s", "data": {}},
    "a type that is no text": {"id": "1", "eventType": 5, "data": {}},
    "an unknown type": {"id": "1", "eventType": "Microsoft.Storage.BlobCreated", "data": {}},
    "a type in capital letters": {"id": "1", "eventType": "TASK", "subject": "s", "data": ""},
    "an unknown cloud event": {"specversion": "1.0", "type": "com.example.other", "id": "1", "data": {}},
    "a cloud event with the other schema's type": {"specversion": "1.0", "eventType": DISPATCH, "data": {}},
    "a dispatch without data": {"id": "1", "eventType": DISPATCH},
    "a dispatch with a text": {"id": "1", "eventType": DISPATCH, "data": "task"},
    "a dispatch with an array": {"id": "1", "eventType": DISPATCH, "data": [{"TaskId": "a", "Attempt": 1}]},
    "a dispatch without an id": {"id": "1", "eventType": DISPATCH, "data": {"Attempt": 1}},
    "a dispatch with an id that is no text": {"id": "1", "eventType": DISPATCH, "data": {"TaskId": 5, "Attempt": 1}},
    "a dispatch with a path for an id": {"eventType": DISPATCH, "data": {"TaskId": "../a", "Attempt": 1}},
    "a dispatch with a long id": {"eventType": DISPATCH, "data": {"TaskId": "x" * 10_000, "Attempt": 1}},
    **{
        f"a dispatch with attempt {attempt!r}": {"eventType": DISPATCH, "data": {"TaskId": "a", "Attempt": attempt}}
        for attempt in (None, 0, -1, 1.0, 1.5, True, "1", [], {}, 10**9, 2**53 + 1, 2**63, 2**64, 10**40)
    },
    **{
        f"a task with id {task_id!r:.20}": {"id": task_id, "eventType": "task", "subject": "http://x/", "data": "{}"}
        for task_id in (None, 5, "", "a/b", "../a", "a\r\nX-Injected: yes", "a\0b", "x" * 129, [], {})
    },
    **{
        f"a task with subject {subject!r}": {"id": "a", "eventType": "task", "subject": subject, "data": "{}"}
        for subject in (None, 5, "", [], {}, "text")
    },
}


@pytest.mark.contract("A6.24")
@pytest.mark.parametrize("event", NO_EVENTS.values(), ids=NO_EVENTS)
def test_malformed_event_is_refused_so_that_event_grid_stops_retrying(app: httpx.Client, event: Any) -> None:
    if isinstance(event, dict):
        event = {"source" if "specversion" in event else "topic": TOPIC_ID, **event}
    document = assert_problem(app.post(WEBHOOK, json=[event]), 400, "/0")
    assert document["results"] == ["invalid"]
    assert "topic" not in document["errors"][0]["detail"]


@pytest.mark.contract("A6.17")
@pytest.mark.parametrize(
    "traceparent", [5, None, [], {}, "", "00-zz", "x" * 10_000, "a\r\nX-Injected: yes"], ids=ascii
)
def test_malformed_trace_context_does_not_stop_the_dispatch(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, traceparent: Any
) -> None:
    task = kept_task(app, endpoint)
    event = dispatch(task)
    event["data"]["traceparent"] = traceparent
    assert deliver(app, event) == ["accepted"]
    call = backend.next_call(endpoint.path)
    assert call.task_id == task["TaskId"]
    assert "x-injected" not in call.headers


@pytest.mark.contract("A6.24")
def test_bad_events_of_a_batch_are_named_and_the_others_are_handled(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    task = kept_task(app, endpoint)
    other = {"topic": TOPIC_ID, "eventType": "other"}
    response = app.post(
        WEBHOOK, json=[5, dispatch(task), other, legacy_event("http://example.org/x"), dispatch(task, 2)]
    )
    document = assert_problem(response, 400, "/0", "/2", "/3")
    assert document["results"] == ["invalid", "accepted", "invalid", "invalid", "dropped"]
    assert backend.next_call(endpoint.path).task_id == task["TaskId"]


# A single JSON object is not in this table: it may be a cloud event.
@pytest.mark.contract("A6.25")
@pytest.mark.parametrize("content", NOT_AN_OBJECT.values(), ids=NOT_AN_OBJECT)
def test_delivery_without_events_is_refused(app: httpx.Client, content: bytes) -> None:
    assert_problem(app.post(WEBHOOK, content=content), 400)


@pytest.mark.contract("A6.25")
def test_delivery_of_more_than_5000_events_is_refused(app: httpx.Client) -> None:
    assert_problem(app.post(WEBHOOK, content=b"[" + b"5," * 5_000 + b"5]"), 400, "")


@pytest.mark.contract("A6.25")
@pytest.mark.parametrize("many", [b"[" + b"[]," * 50_000 + b"[]]", b",".join([b"[" + b"0," * 45_000 + b"0]"] * 5)])
def test_delivery_of_too_many_values_is_refused(app: httpx.Client, endpoint: Endpoint, many: bytes) -> None:
    event = legacy_event(endpoint, data="{}")
    assert_problem(app.post(WEBHOOK, content=b"[" + json.dumps(event).encode() + b"," + many + b"]"), 400, "")
    assert stored(app, event["id"]) is None


@pytest.mark.contract("A6.51")
def test_an_event_with_a_repeated_name_is_refused(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    task, other = kept_task(app, endpoint), kept_task(app, endpoint)
    own, legacy = json.dumps(dispatch(task)), json.dumps(legacy_event(endpoint))
    events = [
        own.replace('"Attempt"', f'"taskid": "{other["TaskId"]}", "Attempt"'),
        own.replace('"eventType"', '"eventType": "task", "eventType"'),
        legacy.replace('"subject"', '"Subject": "https://models.example.org/v1/a", "subject"'),
        json.dumps(dispatch(task)),
    ]
    document = assert_problem(app.post(WEBHOOK, content=f"[{','.join(events)}]"), 400, "/0", "/1", "/2")
    assert document["results"] == ["invalid"] * 3 + ["accepted"]
    assert backend.next_call(endpoint.path).task_id == task["TaskId"]


@pytest.mark.contract("A6.25")
def test_delivery_over_1_5_mib_is_refused(app: httpx.Client, endpoint: Endpoint) -> None:
    event = legacy_event(endpoint, data="x" * 2_000_000)
    assert_problem(app.post(WEBHOOK, json=[event]), 400, "")
    assert stored(app, event["id"]) is None
