"""What callers can rely on at the gateway: by the local one, or by a real one if GATEWAY_URL and
GATEWAY_SUBSCRIPTION_KEY are set. GATEWAY_OTHER_SUBSCRIPTION_KEY is another caller's, GATEWAY_OPERATOR_KEY one of
the product for operators, and GATEWAY_ENDPOINT an endpoint that takes a text, if it is not that of the example.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from local.stack import ROOT
from tests.infra.gateway_under_test import (
    OF_CALLERS,
    OF_OPERATORS,
    OPERATIONS,
    PAGE_HEADERS,
    Gate,
    gateway_before,
    local_gate,
    real_gate,
    stack_behind,
)
from tests.scripted_backend import ScriptedBackend

TEXT = b"to be or not to be"
LEGACY_KEYS = ["TaskId", "Timestamp", "Status", "BackendStatus", "Endpoint", "Body", "PublishToGrid", "EndpointPath"]


@pytest.fixture(scope="module")
def gate(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, backend: ScriptedBackend
) -> Iterator[Gate]:
    real = real_gate()
    if real is not None:
        yield real
        return
    request.getfixturevalue("mono")
    redis: RedisServer | RedisCluster = request.getfixturevalue("redis_server")
    azurite: Azurite = request.getfixturevalue("azurite")
    directory: Path = tmp_path_factory.mktemp("gateway")
    with (
        stack_behind(directory, redis, azurite, backend) as stack,
        gateway_before(stack.url, directory, function_key=stack.key) as process,
    ):
        yield local_gate(process, stack.url, stack.key)


@pytest.fixture
def other(gate: Gate) -> str:
    """The key of another caller."""
    if gate.other_key is None:
        pytest.skip("GATEWAY_OTHER_SUBSCRIPTION_KEY is not set")
    return gate.other_key


@pytest.fixture
def operator(gate: Gate) -> str:
    if gate.operator_key is None:
        pytest.skip("GATEWAY_OPERATOR_KEY is not set")
    return gate.operator_key


def test_every_operation_of_callers_does_what_the_app_s_does(gate: Gate) -> None:
    gate.called.clear()

    submitted = gate.call("SubmitTask", rest=gate.endpoint, content=TEXT, headers={"Content-Type": "text/plain"})
    assert submitted.status_code == 202
    task = submitted.json()["TaskId"]
    assert submitted.headers["location"] == f"{gate.url}/api/v1/tasks/{task}"
    assert submitted.headers["operation-location"] == submitted.headers["location"]
    assert int(submitted.headers["retry-after"]) >= 1
    assert submitted.json()["Endpoint"] == gate.endpoint

    while (state := gate.call("GetTask", task=task, query="?wait=30")).json()["BackendStatus"] != "completed":
        assert state.status_code == 200
    head = gate.call("HeadTask", task=task)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["etag"] == state.headers["etag"]
    unchanged = gate.call("GetTask", task=task, headers={"If-None-Match": state.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")

    history = gate.call("GetTaskHistory", task=task)
    assert history.status_code == 200
    listed = gate.call("ListTasks", query="?limit=200")
    assert task in [one["TaskId"] for one in listed.json()["Tasks"]]

    result = gate.call("GetTaskResult", task=task)
    assert result.status_code == 200
    assert result.headers["taskid"] == task
    part = gate.call("GetTaskResult", task=task, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, result.content[2:5])
    assert part.headers["content-range"] == f"bytes 2-4/{len(result.content)}"
    behind = gate.call("GetTaskResult", task=task, headers={"Range": "bytes=1000000-"})
    assert behind.status_code == 416
    head = gate.call("HeadTaskResult", task=task)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(result.content)))
    body = gate.call("GetTaskBody", task=task)
    assert (body.status_code, body.content, body.headers["content-type"]) == (200, TEXT, "text/plain")
    head = gate.call("HeadTaskBody", task=task)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(TEXT)))

    assert gate.call("ReplayTask", task=task).status_code == 409
    assert gate.call("CancelTask", task=task).status_code == 409
    assert gate.call("CancelTask", task=task, query="?purge=true").status_code == 204
    assert gate.call("GetTask", task=task).status_code == 404

    batch = gate.call("CreateBatch")
    assert batch.status_code == 202
    assert batch.headers["location"] == f"{gate.url}/api/v1/tasks/{batch.json()['TaskId']}"
    assert batch.json()["TaskId"] in [one["TaskId"] for one in gate.call("ListBatches").json()["Batches"]]
    assert gate.call("SealBatch", task=batch.json()["TaskId"]).status_code == 200

    many = gate.call("SubmitMany", rest=gate.endpoint, content=b'{"Body": "to be"}\n{"Body": "or not to be"}')
    assert many.status_code == 202
    ids = [json.loads(line)["TaskId"] for line in many.text.splitlines()]
    waited = gate.call("WaitForTasks", json={"TaskIds": [*ids, task], "Seconds": 30, "Any": False}).json()
    assert {each["Task"]["TaskId"] for each in waited["Tasks"]} == {*ids}
    assert waited["Unknown"] == [task]

    for name in ("GetCallback", "ResendCallbacks"):
        assert gate.call(name).status_code == 404

    upload = gate.call("CreateUpload", json={"Size": 1, "ContentType": "text/plain"})
    assert upload.status_code in (201, 501)

    schedule = f"s-{uuid4().hex}"
    definition = {"Path": gate.endpoint, "Cron": "0 0 1 1 *", "Body": "x"}
    assert gate.call("PutSchedule", name=schedule, json=definition).status_code == 201
    for verb in ("GetSchedule", "PauseSchedule", "ResumeSchedule"):
        assert gate.call(verb, name=schedule).json()["Name"] == schedule
    run = gate.call("RunSchedule", name=schedule)
    assert run.headers["location"] == f"{gate.url}/api/v1/tasks/{run.json()['TaskId']}"
    assert schedule in [one["Name"] for one in gate.call("ListSchedules", query="?limit=200").json()["Schedules"]]
    assert gate.call("DeleteSchedule", name=schedule).status_code == 204

    assert gate.call("Health").status_code == 200
    assert gate.call("HeadHealth").status_code == 200
    below = gate.endpoint.removeprefix(gate.service)
    legacy = gate.call("LegacySubmitBelow", rest=below, content=b"{}")
    assert legacy.status_code == 200
    assert gate.call("LegacyStatus", task=legacy.json()["TaskId"]).status_code == 200
    assert gate.call("LegacySubmit", content=b"{}").status_code in (200, 404)  # the service itself may be no endpoint

    assert gate.called == set(OF_CALLERS)


def test_every_operation_of_operators_does_what_the_app_s_does(gate: Gate, operator: str) -> None:
    gate.called.clear()
    theirs = gate.submit()

    depths = gate.call("QueueDepths", operator, rest=gate.endpoint)
    assert (depths.status_code, depths.json()["EndpointPath"]) == (200, gate.endpoint)
    every = gate.call("AllQueueDepths", operator)
    assert gate.endpoint in [queue["EndpointPath"] for queue in every.json()["Queues"]]
    changed = gate.call("ConfigureQueue", operator, rest=gate.endpoint, json={"Paused": False})
    assert (changed.status_code, changed.json()["Paused"]) == (200, False)

    named = gate.call("operators/GetMe", operator).json()
    assert named["Name"]
    assert (named["Roles"], named["By"]) == (["read", "content", "operate"], "gateway")
    submitted = gate.call("operators/SubmitTask", operator, rest=gate.endpoint, content=TEXT)
    assert submitted.status_code == 202
    task = submitted.json()["TaskId"]
    assert submitted.headers["location"] == f"{gate.url}/operators/api/v1/tasks/{task}"
    while (
        state := gate.call("operators/GetTask", operator, task=task, query="?wait=30").json()["BackendStatus"]
    ) != "completed":
        assert state in ("created", "running")
    for name in ("HeadTask", "GetTaskHistory", "GetTaskBody", "HeadTaskBody", "GetTaskResult", "HeadTaskResult"):
        assert gate.call(f"operators/{name}", operator, task=task).status_code == 200
    for name in ("GetCheckpoint", "HeadCheckpoint"):
        assert gate.call(f"operators/{name}", operator, task=task).status_code == 404
    for name in ("CancelTask", "ReplayTask"):
        assert gate.call(f"operators/{name}", operator, task=task).status_code == 409
    listed = gate.call("operators/ListTasks", operator, query="?limit=200")
    assert {task, theirs} <= {one["TaskId"] for one in listed.json()["Tasks"]}
    batch = gate.call("operators/CreateBatch", operator).json()["TaskId"]
    assert gate.call("operators/SealBatch", operator, task=batch).status_code == 200
    for name in ("ListBatches", "AllQueueDepths", "ListRequests", "GetSeries", "GetMetrics", "Health", "HeadHealth"):
        assert gate.call(f"operators/{name}", operator).status_code == 200
    assert gate.call("operators/QueueDepths", operator, rest=gate.endpoint).status_code == 200
    changed = gate.call("operators/ConfigureQueue", operator, rest=gate.endpoint, json={"Draining": False})
    assert changed.json()["Draining"] is False
    written = gate.call("operators/GetAudit", operator).json()["Entries"]
    assert (named["Name"], gate.endpoint) in [(entry["Operator"], entry["Target"]) for entry in written]
    bulk = {"Action": "replay", "Path": gate.endpoint, "OperationId": str(uuid4()), "DryRun": True}
    bulk["CreatedBefore"] = submitted.json()["CreatedAt"]
    counted = gate.call("operators/Bulk", operator, json=bulk)
    assert counted.status_code == 200, counted.text
    many = gate.call("operators/SubmitMany", operator, rest=gate.endpoint, content=b"{}")
    assert many.status_code == 202
    waited = gate.call("operators/WaitForTasks", operator, json={"TaskIds": [many.json()["TaskId"]], "Seconds": 1})
    assert (waited.status_code, waited.json()["Unknown"]) == (200, [])
    schedule, query = f"s-{uuid4().hex}", "?owner=somebody"
    definition = {"Path": gate.endpoint, "Cron": "0 0 1 1 *", "Body": "x"}
    put = gate.call("operators/PutSchedule", operator, name=schedule, query=query, json=definition)
    assert put.status_code == 201
    for verb in ("GetSchedule", "PauseSchedule", "ResumeSchedule"):
        assert gate.call(f"operators/{verb}", operator, name=schedule, query=query).json()["Owner"] == "somebody"
    assert gate.call("operators/RunSchedule", operator, name=schedule, query=query).status_code == 202
    assert gate.call("operators/ListSchedules", operator, query=query).status_code == 200
    assert gate.call("operators/DeleteSchedule", operator, name=schedule, query=query).status_code == 204

    for name in ("GetCallback", "ResendCallbacks"):
        assert gate.call(f"operators/{name}", operator).status_code == 404

    upload = gate.call("operators/CreateUpload", operator, json={"Size": 1, "ContentType": "text/plain"})
    assert upload.status_code in (201, 501)

    assert gate.called - {"SubmitTask"} == set(OF_OPERATORS)


def test_the_console_s_page_is_for_anybody_and_nothing_beside_it(gate: Gate, operator: str) -> None:
    page = "/operators/api/console"
    index = gate.ask("GET", f"{page}/index.html", None, beside=PAGE_HEADERS)
    assert (index.status_code, index.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in index.headers["content-security-policy"]
    for file in re.findall(r'(?:src|href)="([\w.-]+\.(?:js|css))"', index.text):
        assert gate.ask("GET", f"{page}/{file}", None, beside=PAGE_HEADERS).status_code == 200
    for path in (
        "",
        "/",
        "/read/me",
        "/operate/me",
        "/session/me",
        "/..%2fv1%2fme",
        "/%2e%2e/v1/me",
        "/index.html/x",
    ):
        for key in (None, operator):
            answer = gate.ask("GET", f"{page}{path}", key, headers={"x-functions-key": "guessed"})
            assert answer.status_code in (401, 404), path
            assert "Roles" not in answer.text
    # What the page asks for, it asks with the operator's key.
    assert gate.ask("GET", "/operators/api/v1/me", operator).status_code == 200
    assert gate.ask("GET", "/operators/api/v1/me", None).status_code == 401


def test_a_legacy_caller_gets_the_json_of_the_former_platform(gate: Gate) -> None:
    submitted = gate.ask("POST", gate.endpoint, gate.key, content=b'{"text": "to be"}')

    assert submitted.status_code == 200
    assert list(submitted.json())[:8] == LEGACY_KEYS
    assert submitted.json()["Endpoint"] == f"{gate.url}{gate.endpoint}"
    task = submitted.json()["TaskId"]
    state = gate.call("LegacyStatus", task=task)
    assert state.status_code == 200
    assert list(state.json())[:8] == LEGACY_KEYS
    assert state.json()["TaskId"] == task
    assert state.json()["Endpoint"] == f"{gate.url}{gate.endpoint}"


def test_a_legacy_caller_gets_an_error_as_an_error(gate: Gate, other: str) -> None:
    unknown = gate.ask("POST", f"{gate.endpoint}/%2e%2e/x", gate.key, content=b"{}")
    assert unknown.status_code == 404
    nothing = gate.ask("POST", gate.endpoint, gate.key)
    assert nothing.status_code == 400
    task = gate.submit()
    assert gate.call("LegacyStatus", task="00000000-0000-4000-8000-000000000000").status_code == 204
    assert gate.call("LegacyStatus", other, task=task).status_code == 204


OF_A_TASK = (
    *("GetTask", "HeadTask", "GetTaskHistory", "GetTaskResult", "HeadTaskResult", "GetTaskBody", "HeadTaskBody"),
    *("CancelTask", "ReplayTask", "SealBatch"),
)


@pytest.mark.parametrize("operation", OF_A_TASK)
def test_another_caller_s_task_does_not_exist(gate: Gate, other: str, operation: str) -> None:
    task = gate.completed()

    assert gate.call(operation, other, task=task).status_code == 404
    assert gate.call("GetTask", task=task).json()["BackendStatus"] == "completed"


def test_no_list_shows_another_caller_s_tasks_and_batches(gate: Gate, other: str) -> None:
    task = gate.submit()
    batch = gate.call("CreateBatch").json()["TaskId"]

    tasks, batches = gate.call("ListTasks", other, query="?limit=200"), gate.call("ListBatches", other)

    assert task not in tasks.text
    assert batch not in batches.text


def test_a_caller_cannot_say_who_it_is(gate: Gate, other: str) -> None:
    task = gate.submit()
    owner = {"X-Task-Owner": "one", "X-Gateway-Key": "guessed-by-somebody"}

    assert gate.call("GetTask", other, task=task, headers=owner).status_code == 404
    assert gate.call("GetTask", task=task, headers=owner).status_code == 200


def test_a_cached_state_reaches_its_owner_only(gate: Gate, other: str) -> None:
    task = gate.call("SubmitTask", rest=gate.waiting, content=TEXT).json()["TaskId"]

    for _ in range(3):
        assert gate.call("GetTask", task=task).status_code == 200
        assert gate.call("GetTask", other, task=task).status_code == 404
        assert gate.call("LegacyStatus", other, task=task).status_code == 204


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
@pytest.mark.parametrize("key", [None, "wrong"])
def test_without_a_valid_key_nothing_is_answered(gate: Gate, operation: str, key: str | None) -> None:
    method, template = OPERATIONS[operation]
    path = (
        template.replace("{id}", "one")
        .replace("{name}", "one")
        .replace("/{service}", gate.service)
        .replace("/*", gate.endpoint)
    )

    answer = gate.ask(method, path, key)

    assert answer.status_code == 401
    assert "www-authenticate" in answer.headers


@pytest.mark.parametrize("operation", sorted(OF_OPERATORS))
def test_the_key_of_a_caller_opens_nothing_of_operators(gate: Gate, operation: str) -> None:
    assert gate.call(operation, task="one", rest=gate.endpoint).status_code == 401


def test_a_key_in_the_query_opens_too_and_goes_no_further(gate: Gate) -> None:
    task = gate.submit()

    answer = gate.ask("GET", f"/api/v1/tasks/{task}?subscription-key={gate.key}&code=guessed", None)

    assert answer.status_code == 200  # the app would answer 400 to a parameter that it does not know


OF_MODEL_SERVICES = [
    (method.upper(), "/api" + path.format(id="one", path="v1/words"))
    for path, operations in json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"].items()
    if path.startswith("/v1/")
    for method, operation in operations.items()
    if isinstance(operation, dict) and operation.get("operationId", "") not in {"", *OPERATIONS}
]
"""The v1 operations that no caller gets."""


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *OF_MODEL_SERVICES,
        ("POST", "/api/CacheConnectorUpsert"),
        ("GET", "/api/CacheConnectorGet?taskId=one"),
        ("POST", "/api/CurrentProcessingUpsert"),
        ("POST", "/api/BackendWebhook"),
        ("GET", "/admin/functions"),
        ("POST", "/runtime/webhooks/eventgrid"),
    ],
)
def test_what_is_for_model_services_and_azure_is_not_there(gate: Gate, method: str, path: str) -> None:
    assert gate.ask(method, path, gate.key).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/submit/../CacheConnectorUpsert",
        "/api/v1/submit/%2e%2e/%2e%2e/CacheConnectorUpsert",
        "/api/v1/submit/%252e./CacheConnectorUpsert",
        "/api/v1/submit/x%252F..%25252fCacheConnectorUpsert",
    ],
)
def test_dots_lead_out_of_no_operation(gate: Gate, path: str) -> None:
    target = urlsplit(gate.url)
    make = http.client.HTTPSConnection if target.scheme == "https" else http.client.HTTPConnection
    connection = make(target.netloc)
    connection.request("POST", path, body=b"{}", headers={"Ocp-Apim-Subscription-Key": gate.key})
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["detail"]) == (404, "No segment of a path has dots only.")
    connection.close()


@pytest.mark.parametrize("path", ["/api/v1/submit{endpoint}", "{endpoint}"])
def test_a_body_without_a_length_is_411(gate: Gate, path: str) -> None:
    answer = gate.ask("POST", path.format(endpoint=gate.endpoint), gate.key, content=iter([TEXT]))

    assert answer.status_code == 411
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 411


@pytest.mark.parametrize("path", ["/api/v1/submit{endpoint}", "{endpoint}"])
def test_a_body_that_is_too_large_is_413_before_it_is_sent(gate: Gate, path: str) -> None:
    most = gate.call("Health").json()["MaxBodyBytes"]
    target = urlsplit(gate.url)
    make = http.client.HTTPSConnection if target.scheme == "https" else http.client.HTTPConnection
    connection = make(target.netloc)
    connection.putrequest("POST", path.format(endpoint=gate.endpoint))
    connection.putheader("Ocp-Apim-Subscription-Key", gate.key)
    connection.putheader("Content-Length", str(most + 1))
    connection.endheaders()

    answer = connection.getresponse()

    assert answer.status == 413
    assert json.loads(answer.read())["status"] == 413
    connection.close()


def test_an_answer_names_its_trace_and_its_owner_nowhere(gate: Gate) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    answer = gate.call("SubmitTask", rest=gate.endpoint, content=TEXT, headers={"traceparent": trace})

    assert answer.status_code == 202
    assert not {name for name in answer.headers if name.startswith(("x-task", "traceparent", "request-"))}


def test_a_redirect_to_storage_is_the_one_url_that_is_not_the_gateway_s(gate: Gate) -> None:
    upload = gate.call("CreateUpload", json={"Size": len(TEXT), "ContentType": "text/plain"})
    if upload.status_code == 501:
        pytest.skip("the app offers no uploads")
    block = {"x-ms-blob-type": "BlockBlob", "x-ms-blob-content-type": "text/plain"}
    assert httpx.put(upload.json()["Url"], content=TEXT, headers=block, timeout=30).status_code == 201
    submitted = gate.call("SubmitTask", rest=gate.endpoint, headers={"X-Upload": upload.json()["UploadId"]})
    assert submitted.status_code == 202, submitted.text

    body = gate.call("GetTaskBody", task=submitted.json()["TaskId"], query="?link=1")

    assert body.status_code == 303
    assert not body.headers["location"].startswith(gate.url)
    assert "operation-location" not in body.headers
    assert httpx.get(body.headers["location"], timeout=30).content == TEXT
