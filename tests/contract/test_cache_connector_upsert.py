"""CacheConnectorUpsert (contract A1): the keys of a task, and the answer. A0: the key of every legacy function."""

import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
import pytest

from local.stack import NO_TLS, Stack
from tests.contract.legacy_support import (
    GET,
    REPORT,
    REPORTED,
    UPSERT,
    WEBHOOK,
    Endpoint,
    assert_problem,
    depth,
    kept_task,
    new_endpoint,
    stored,
    upsert,
)
from tests.scripted_backend import ScriptedBackend
from tests.waiting import PATIENCE_S

LEGACY_KEYS = {
    "TaskId": str,
    "Timestamp": str,
    "Status": str,
    "BackendStatus": str,
    "Endpoint": str,
    "Body": type(None),
    "PublishToGrid": bool,
    "EndpointPath": str,
}
FUNCTIONS = [("POST", UPSERT), ("GET", GET), ("POST", REPORT), ("GET", REPORTED), ("POST", WEBHOOK)]


@pytest.fixture
def endpoint(backend: ScriptedBackend) -> Endpoint:
    return new_endpoint(backend)


@pytest.mark.contract("A0.1")
@pytest.mark.parametrize(("method", "path"), FUNCTIONS)
def test_every_legacy_function_requires_its_key(stack: Stack, method: str, path: str) -> None:
    for address in (stack.url + path, f"{stack.url}{path}?code=", f"{stack.url}{path}?code={stack.key}x"):
        answer = httpx.request(method, address, content=b"{}", timeout=PATIENCE_S, verify=NO_TLS)
        assert answer.status_code == 401
        assert stack.key not in answer.text
    header = {"x-functions-key": "wrong"}
    answer = httpx.request(method, stack.url + path, headers=header, content=b"{}", timeout=PATIENCE_S, verify=NO_TLS)
    assert answer.status_code == 401


@pytest.mark.contract("A0.2")
def test_key_in_the_url_lets_a_client_append_parameters(stack: Stack, endpoint: Endpoint) -> None:
    task = {"Endpoint": endpoint.url}
    created = httpx.post(stack.function_url("CacheConnectorUpsert"), json=task, timeout=PATIENCE_S, verify=NO_TLS)
    assert created.status_code == 200
    address = f"{stack.function_url('CacheConnectorGet')}&taskId={created.json()['TaskId']}"
    found = httpx.get(address, timeout=PATIENCE_S, verify=NO_TLS)
    assert found.json() == created.json()


@pytest.mark.contract("A1.4")
def test_answer_is_the_stored_task_with_all_legacy_keys(app: httpx.Client, endpoint: Endpoint) -> None:
    response = app.post(UPSERT, json={"Endpoint": endpoint.url, "Status": "created", "Body": "{}"})
    assert response.status_code == 200
    assert response.headers["Content-Type"].partition(";")[0] == "application/json"
    task = response.json()
    assert {key: type(task.get(key)) for key in LEGACY_KEYS} == LEGACY_KEYS
    assert task["Endpoint"] == endpoint.url
    assert task["EndpointPath"] == endpoint.path
    assert task["Status"] == "created"
    assert task["BackendStatus"] == "created"
    assert task["PublishToGrid"] is False
    assert stored(app, task["TaskId"]) == task


@pytest.mark.contract("A1.1")
@pytest.mark.parametrize("with_id", [True, False], ids=["an update", "a create"])
@pytest.mark.parametrize("more", [[], [{"Status": "second"}], [5, None, "x"]], ids=["alone", "two objects", "junk"])
def test_only_the_first_element_of_an_array_counts(
    app: httpx.Client, endpoint: Endpoint, with_id: bool, more: list[Any]
) -> None:
    task = {"Endpoint": endpoint.url, "Status": "first"}
    if with_id:
        task["TaskId"] = kept_task(app, endpoint)["TaskId"]
    response = app.post(UPSERT, json=[task, *more])
    assert response.status_code == 200
    assert response.json()["Status"] == "first"
    assert sum(depth(app, endpoint).values()) == 1


@pytest.mark.contract("A1.2")
@pytest.mark.parametrize("change", [str.lower, str.upper, str.swapcase], ids=["lower", "upper", "swapped"])
def test_keys_match_in_any_case(app: httpx.Client, backend: ScriptedBackend, change: Any) -> None:
    endpoint = new_endpoint(backend)
    members = {
        "TaskId": str(uuid.uuid4()),
        "Timestamp": "now",
        "Status": "hello",
        "BackendStatus": "created",
        "Endpoint": endpoint.url,
        "Body": "the body",
        "PublishToGrid": True,
    }
    task = upsert(app, **{change(name): value for name, value in members.items()})
    assert (task["TaskId"], task["Status"]) == (members["TaskId"], "hello")
    assert backend.next_call(endpoint.path).body == b"the body"


@pytest.mark.contract("A1.49")
@pytest.mark.parametrize("again", ["Status", "STATUS"])
def test_a_key_that_stands_twice_is_refused(app: httpx.Client, endpoint: Endpoint, again: str) -> None:
    content = f'{{"Status":"one","Endpoint":"{endpoint.url}","{again}":"two"}}'
    response = app.post(UPSERT, content=content)
    assert response.status_code == 400
    assert [error["pointer"] for error in response.json()["errors"]] == ["/Status"]


@pytest.mark.contract("A1.2")
def test_unknown_keys_are_ignored(app: httpx.Client, endpoint: Endpoint) -> None:
    task = upsert(
        app,
        Endpoint=endpoint.url,
        EndpointPath="/v1/other",
        ETag='W/"1"',
        __proto__={"a": 1},
        Attempts=[{}],
        Uuid="x",
    )
    assert task["EndpointPath"] == endpoint.path


@pytest.mark.contract("A1.3")
def test_byte_order_mark_is_skipped(app: httpx.Client, endpoint: Endpoint) -> None:
    content = b"\xef\xbb\xbf" + f'{{"Endpoint":"{endpoint.url}"}}'.encode()
    assert app.post(UPSERT, content=content).status_code == 200


@pytest.mark.contract("A1.3")
@pytest.mark.parametrize("content_type", ["application/json", "text/json; charset=utf-8", "text/plain", None])
def test_request_content_type_does_not_matter(
    app: httpx.Client, endpoint: Endpoint, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    content = f'{{"Endpoint":"{endpoint.url}"}}'.encode()
    assert app.post(UPSERT, content=content, headers=headers).status_code == 200


# TaskId


@pytest.mark.contract("A1.5")
@pytest.mark.parametrize("given", [{}, {"TaskId": None}, {"TaskId": ""}, {"TaskId": " \t"}], ids=str)
def test_create_without_id_gets_a_new_uuid4(app: httpx.Client, endpoint: Endpoint, given: dict[str, Any]) -> None:
    first, second = (upsert(app, Endpoint=endpoint.url, **given)["TaskId"] for _ in range(2))
    assert first != second
    assert uuid.UUID(first).version == uuid.UUID(second).version == 4
    assert str(uuid.UUID(first)) == first


@pytest.mark.contract("A1.6")
@pytest.mark.parametrize("length", [1, 128])
def test_unknown_id_is_created_with_that_id(app: httpx.Client, endpoint: Endpoint, length: int) -> None:
    task_id = (uuid.uuid4().hex + "_.-AZaz09" * 20)[:length] if length > 1 else "x"
    task = upsert(app, TaskId=task_id, Endpoint=endpoint.url, BackendStatus="running", Status="first")
    assert task["TaskId"] == task_id
    again = upsert(app, TaskId=task_id, Endpoint=endpoint.url, BackendStatus="running", Status="second")
    assert (again["TaskId"], again["Status"]) == (task_id, "second")


@pytest.mark.contract("A1.6")
def test_concurrent_creates_of_one_id_make_one_task(app: httpx.Client, endpoint: Endpoint) -> None:
    task_id = str(uuid.uuid4())
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(
            lambda number: upsert(app, TaskId=task_id, Endpoint=endpoint.url, Status=str(number)), range(24)
        )
        assert {answer["TaskId"] for answer in answers} == {task_id}
    assert depth(app, endpoint) == {"waiting": 1}


@pytest.mark.contract("A1.6")
@pytest.mark.parametrize("task_id", [".", "..", "-", "...", "COM1", "null", "0", "__proto__"])
def test_id_with_a_special_meaning_elsewhere_is_only_an_id(
    app: httpx.Client, endpoint: Endpoint, task_id: str
) -> None:
    large = "x" * 100_000  # stored in Blob Storage, where an id must not act as a path
    if stored(app, task_id) is None:
        upsert(app, TaskId=task_id, Endpoint=endpoint.url, Body=large)
    task = stored(app, task_id)
    assert task is not None
    assert task["TaskId"] == task_id


@pytest.mark.contract("A1.6")
def test_ids_are_case_sensitive(app: httpx.Client, endpoint: Endpoint) -> None:
    lower, upper = (f"{letter}-{uuid.uuid4()}" for letter in "aA")
    upper = "A" + lower[1:]
    upsert(app, TaskId=lower, Endpoint=endpoint.url, Status="lower")
    assert stored(app, upper) is None


# Timestamp


@pytest.mark.contract("A1.7")
def test_app_sets_the_timestamp_in_iso_8601_utc(app: httpx.Client, endpoint: Endpoint) -> None:
    task = upsert(app, Endpoint=endpoint.url, Timestamp="11/22/2026 10:12:44 AM")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", task["Timestamp"])
    assert datetime.fromisoformat(task["Timestamp"]).utcoffset() is not None
    updated = upsert(app, TaskId=task["TaskId"], Timestamp="1999-01-01T00:00:00Z", Status="on")
    assert updated["Timestamp"] >= task["Timestamp"]


@pytest.mark.contract("A1.7")
@pytest.mark.parametrize("timestamp", [None, 5, 1.5, True, [], {"a": 1}, "", "\u0000"], ids=repr)
def test_timestamp_of_any_kind_is_ignored(app: httpx.Client, endpoint: Endpoint, timestamp: Any) -> None:
    assert upsert(app, Endpoint=endpoint.url, Timestamp=timestamp)["Timestamp"].endswith("Z")


# Status

FREE_TEXT = {
    "a signed URL": "completed - https://a.blob.core.windows.net/c/b?sv=2020&sig=a%2Bb%3D&se=2026-11-22T00%3A00%3A00Z",
    "JSON": '{"detections": [1, 2], "text": "a \\"quoted\\" word"}',
    "nothing": "",
    "blanks": "   ",
    "a NUL": "a\0b",
    "line breaks": "one\r\nSet-Cookie: two\n\n",
    "control characters": "\x01\x1b[31mred\x7f",
    "right to left": "\u202eevil\u202c \u05e9\u05dc\u05d5\u05dd",
    "an emoji": "\U0001f418 done",
    "a line separator": "a\u2028b\u2029c",
    "not a character": "\ufffe\uffff",
    "markup": "<script>alert(1)</script>",
    "as long as it may be": "ü" * 65_536,
}


@pytest.mark.contract("A1.8")
@pytest.mark.parametrize("status", FREE_TEXT.values(), ids=FREE_TEXT)
def test_status_is_free_text_and_comes_back_unchanged(app: httpx.Client, endpoint: Endpoint, status: str) -> None:
    task = upsert(app, Endpoint=endpoint.url, Status=status)
    assert task["Status"] == status
    moved = upsert(app, TaskId=task["TaskId"], BackendStatus="running", Status=status)
    assert moved["Status"] == status
    found = stored(app, task["TaskId"])
    assert found is not None
    assert found["Status"] == status


@pytest.mark.contract("A1.8")
def test_update_without_status_keeps_the_stored_text(app: httpx.Client, endpoint: Endpoint) -> None:
    task = upsert(app, Endpoint=endpoint.url, Status="stays")
    for nothing in ({}, {"Status": None}):
        assert upsert(app, TaskId=task["TaskId"], BackendStatus="running", **nothing)["Status"] == "stays"


# BackendStatus


@pytest.mark.contract("A1.9")
@pytest.mark.parametrize("backend_status", ["created", "running", "completed", "failed"])
def test_task_can_be_created_in_each_backend_status(
    app: httpx.Client, endpoint: Endpoint, backend_status: str
) -> None:
    task = upsert(app, Endpoint=endpoint.url, BackendStatus=backend_status)
    assert task["BackendStatus"] == backend_status
    state = "waiting" if backend_status == "created" else backend_status
    assert depth(app, endpoint) == {state: 1}


@pytest.mark.contract("A1.9")
@pytest.mark.parametrize("backend_status", ["running", "completed", "failed"])
def test_update_moves_the_task_to_its_backend_status(
    app: httpx.Client, endpoint: Endpoint, backend_status: str
) -> None:
    task_id = kept_task(app, endpoint)["TaskId"]
    assert upsert(app, TaskId=task_id, BackendStatus=backend_status)["BackendStatus"] == backend_status
    assert depth(app, endpoint) == {backend_status: 1}


# Endpoint


@pytest.mark.contract("A1.10")
def test_endpoint_path_names_the_queue(app: httpx.Client, endpoint: Endpoint) -> None:
    kept_task(app, endpoint)
    below = Endpoint(endpoint.path + "/detect", endpoint.url + "/detect")
    assert kept_task(app, below)["EndpointPath"] == endpoint.path + "/detect"
    assert depth(app, endpoint) == depth(app, below) == {"waiting": 1}


@pytest.mark.contract("A1.10")
def test_endpoint_query_is_called_but_does_not_name_the_queue(app: httpx.Client, backend: ScriptedBackend) -> None:
    endpoint = new_endpoint(backend)
    url = endpoint.url + "?threshold=0.5&classes=a%20b"
    task = upsert(app, Endpoint=url, Body="{}", PublishToGrid=True)
    assert (task["Endpoint"], task["EndpointPath"]) == (url, endpoint.path)
    assert backend.next_call(endpoint.path).path == f"{endpoint.path}?threshold=0.5&classes=a%20b"


@pytest.mark.contract("A1.10")
def test_app_calls_the_registered_url_however_the_client_writes_it(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    endpoint = new_endpoint(backend)
    task = upsert(app, Endpoint=endpoint.url.replace("http", "HTTP"), Body="{}", PublishToGrid=True)
    assert task["Endpoint"] == endpoint.url
    assert backend.next_call(endpoint.path).task_id == task["TaskId"]


@pytest.mark.contract("A1.11")
def test_update_without_endpoint_keeps_the_stored_one(app: httpx.Client, endpoint: Endpoint) -> None:
    task_id = kept_task(app, endpoint)["TaskId"]
    for nothing in ({}, {"Endpoint": None}, {"Endpoint": ""}, {"Endpoint": "  "}):
        task = upsert(app, TaskId=task_id, BackendStatus="running", Status="on", **nothing)
        assert (task["Endpoint"], task["EndpointPath"]) == (endpoint.url, endpoint.path)
    assert depth(app, endpoint) == {"running": 1}


# Body

BODIES = {
    "JSON": '{"images": ["https://a/b?c=d"], "n": 1.0}',
    "JSON with blanks": '{ "a" :\n 1 }\n',
    "not JSON": "a=b&c=d",
    "one blank": " ",
    "a NUL": "a\0b",
    "line breaks": "a\r\nb\nc",
    "an emoji": "\U0001f418",
    "right to left": "\u202eabc",
    "a byte order mark": "\ufeff{}",
    "10,000 characters": "x" * 10_000,
    "the most that is kept inline": "x" * 65_536,
    "too much to be inline": "ü" * 65_536,
    "3 MB": "0123456789" * 300_000,
}


@pytest.mark.contract("A1.13")
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_backend_gets_the_body_byte_for_byte_and_answers_never_show_it(
    app: httpx.Client, backend: ScriptedBackend, body: str
) -> None:
    endpoint = new_endpoint(backend)
    task = upsert(app, Endpoint=endpoint.url, Body=body, PublishToGrid=True)
    call = backend.next_call(endpoint.path)
    assert call.body == body.encode()
    assert call.task_id == task["TaskId"]
    assert call.headers["content-type"] == "application/json; charset=utf-8"
    assert task["Body"] is None
    response = app.get(GET, params={"taskId": task["TaskId"]})
    assert response.json()["Body"] is None


@pytest.mark.contract("A1.13")
def test_update_with_a_body_replaces_the_kept_one(app: httpx.Client, backend: ScriptedBackend) -> None:
    endpoint = new_endpoint(backend)
    task_id = kept_task(app, endpoint)["TaskId"]
    upsert(app, TaskId=task_id, Body="another")
    upsert(app, TaskId=task_id, PublishToGrid=True)
    assert backend.next_call(endpoint.path).body == b"another"


# PublishToGrid


@pytest.mark.contract("A1.14")
@pytest.mark.parametrize("publish", [True, "true", "True", "TRUE"], ids=repr)
def test_publish_to_grid_dispatches_the_task(app: httpx.Client, backend: ScriptedBackend, publish: Any) -> None:
    endpoint = new_endpoint(backend)
    task = upsert(app, Endpoint=endpoint.url, Body="{}", PublishToGrid=publish)
    assert task["PublishToGrid"] is True
    assert backend.next_call(endpoint.path).task_id == task["TaskId"]


@pytest.mark.contract("A1.15")
@pytest.mark.parametrize("publish", [False, "false", "False", "FALSE", None, ""], ids=repr)
def test_task_without_publish_to_grid_is_kept_and_not_dispatched(
    app: httpx.Client, backend: ScriptedBackend, publish: Any
) -> None:
    endpoint = new_endpoint(backend)
    task = upsert(app, Endpoint=endpoint.url, Body="{}", PublishToGrid=publish)
    assert task["PublishToGrid"] is False
    later = upsert(app, Endpoint=endpoint.url, Body="{}", PublishToGrid=True)
    assert backend.next_call(endpoint.path).task_id == later["TaskId"]
    assert backend.untaken(endpoint.path) == 0
    assert upsert(app, TaskId=task["TaskId"], BackendStatus="running")["BackendStatus"] == "running"


@pytest.mark.contract("A1.16")
def test_publishing_a_finished_task_is_refused(app: httpx.Client, endpoint: Endpoint) -> None:
    response = app.post(
        UPSERT, json={"Endpoint": endpoint.url, "Body": "{}", "BackendStatus": "completed", "PublishToGrid": True}
    )
    assert_problem(response, 400, "/PublishToGrid")
    assert depth(app, endpoint) == {}
