"""A1: what CacheConnectorUpsert takes, and what it answers."""

import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
import pytest

from local.stack import Stack
from tests.contract.part_a import (
    GET,
    REPORT,
    REPORTED,
    UPSERT,
    WEBHOOK,
    Place,
    assert_problem,
    depth,
    kept_task,
    new_place,
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
def place(backend: ScriptedBackend) -> Place:
    return new_place(backend)


@pytest.mark.parametrize(("method", "path"), FUNCTIONS)
def test_every_function_of_the_contract_is_closed_without_its_key(stack: Stack, method: str, path: str) -> None:
    for address in (stack.url + path, f"{stack.url}{path}?code=", f"{stack.url}{path}?code={stack.key}x"):
        answer = httpx.request(method, address, content=b"{}", timeout=PATIENCE_S)
        assert answer.status_code == 401
        assert stack.key not in answer.text
    header = {"x-functions-key": "wrong"}
    answer = httpx.request(method, stack.url + path, headers=header, content=b"{}", timeout=PATIENCE_S)
    assert answer.status_code == 401


def test_the_key_comes_in_the_url_so_that_a_client_may_append_parameters(stack: Stack, place: Place) -> None:
    task = {"Endpoint": place.url}
    created = httpx.post(stack.function_url("CacheConnectorUpsert"), json=task, timeout=PATIENCE_S)
    assert created.status_code == 200
    address = f"{stack.function_url('CacheConnectorGet')}&taskId={created.json()['TaskId']}"
    found = httpx.get(address, timeout=PATIENCE_S)
    assert found.json() == created.json()


def test_the_answer_is_the_stored_task_with_all_the_keys_that_clients_know(app: httpx.Client, place: Place) -> None:
    response = app.post(UPSERT, json={"Endpoint": place.url, "Status": "created", "Body": "{}"})
    assert response.status_code == 200
    assert response.headers["Content-Type"].partition(";")[0] == "application/json"
    task = response.json()
    assert {key: type(task.get(key)) for key in LEGACY_KEYS} == LEGACY_KEYS
    assert task["Endpoint"] == place.url
    assert task["EndpointPath"] == place.path
    assert task["Status"] == "created"
    assert task["BackendStatus"] == "created"
    assert task["PublishToGrid"] is False
    assert stored(app, task["TaskId"]) == task


@pytest.mark.parametrize("with_id", [True, False], ids=["an update", "a create"])
@pytest.mark.parametrize("more", [[], [{"Status": "second"}], [5, None, "x"]], ids=["alone", "two objects", "junk"])
def test_an_array_counts_as_its_first_element(
    app: httpx.Client, place: Place, with_id: bool, more: list[Any]
) -> None:
    task = {"Endpoint": place.url, "Status": "first"}
    if with_id:
        task["TaskId"] = kept_task(app, place)["TaskId"]
    response = app.post(UPSERT, json=[task, *more])
    assert response.status_code == 200
    assert response.json()["Status"] == "first"
    assert sum(depth(app, place).values()) == 1


@pytest.mark.parametrize("change", [str.lower, str.upper, str.swapcase], ids=["lower", "upper", "swapped"])
def test_property_names_match_in_any_case(app: httpx.Client, backend: ScriptedBackend, change: Any) -> None:
    place = new_place(backend)
    members = {
        "TaskId": str(uuid.uuid4()),
        "Timestamp": "now",
        "Status": "hello",
        "BackendStatus": "created",
        "Endpoint": place.url,
        "Body": "the body",
        "PublishToGrid": True,
    }
    task = upsert(app, **{change(name): value for name, value in members.items()})
    assert (task["TaskId"], task["Status"]) == (members["TaskId"], "hello")
    assert backend.next_call(place.path).body == b"the body"


@pytest.mark.parametrize("again", ["Status", "STATUS"])
def test_of_a_property_given_twice_the_last_one_counts(app: httpx.Client, place: Place, again: str) -> None:
    content = f'{{"Status":"one","Endpoint":"{place.url}","{again}":"two"}}'
    assert app.post(UPSERT, content=content).json()["Status"] == "two"


def test_unknown_properties_are_ignored(app: httpx.Client, place: Place) -> None:
    task = upsert(
        app, Endpoint=place.url, EndpointPath="/v1/other", ETag='W/"1"', __proto__={"a": 1}, Attempts=[{}], Uuid="x"
    )
    assert task["EndpointPath"] == place.path


def test_a_byte_order_mark_is_no_part_of_the_body(app: httpx.Client, place: Place) -> None:
    content = b"\xef\xbb\xbf" + f'{{"Endpoint":"{place.url}"}}'.encode()
    assert app.post(UPSERT, content=content).status_code == 200


@pytest.mark.parametrize("content_type", ["application/json", "text/json; charset=utf-8", "text/plain", None])
def test_the_content_type_of_the_request_does_not_matter(
    app: httpx.Client, place: Place, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    content = f'{{"Endpoint":"{place.url}"}}'.encode()
    assert app.post(UPSERT, content=content, headers=headers).status_code == 200


# TaskId


@pytest.mark.parametrize("given", [{}, {"TaskId": None}, {"TaskId": ""}, {"TaskId": " \t"}], ids=str)
def test_without_an_id_a_task_with_a_new_uuid4_is_created(
    app: httpx.Client, place: Place, given: dict[str, Any]
) -> None:
    first, second = (upsert(app, Endpoint=place.url, **given)["TaskId"] for _ in range(2))
    assert first != second
    assert uuid.UUID(first).version == uuid.UUID(second).version == 4
    assert str(uuid.UUID(first)) == first


@pytest.mark.parametrize("length", [1, 128])
def test_an_id_that_is_not_known_is_created_with_that_id(app: httpx.Client, place: Place, length: int) -> None:
    task_id = (uuid.uuid4().hex + "_.-AZaz09" * 20)[:length] if length > 1 else "x"
    task = upsert(app, TaskId=task_id, Endpoint=place.url, BackendStatus="running", Status="first")
    assert task["TaskId"] == task_id
    again = upsert(app, TaskId=task_id, Endpoint=place.url, BackendStatus="running", Status="second")
    assert (again["TaskId"], again["Status"]) == (task_id, "second")


def test_an_id_that_many_create_at_once_is_one_task(app: httpx.Client, place: Place) -> None:
    task_id = str(uuid.uuid4())
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(
            lambda number: upsert(app, TaskId=task_id, Endpoint=place.url, Status=str(number)), range(24)
        )
        assert {answer["TaskId"] for answer in answers} == {task_id}
    assert depth(app, place) == {"waiting": 1}


@pytest.mark.parametrize("task_id", [".", "..", "-", "...", "COM1", "null", "0", "__proto__"])
def test_an_id_that_looks_like_something_else_is_only_an_id(app: httpx.Client, place: Place, task_id: str) -> None:
    large = "x" * 100_000  # goes to Blob Storage, where an id must not be a path
    if stored(app, task_id) is None:
        upsert(app, TaskId=task_id, Endpoint=place.url, Body=large)
    task = stored(app, task_id)
    assert task is not None
    assert task["TaskId"] == task_id


def test_an_id_is_told_apart_by_case(app: httpx.Client, place: Place) -> None:
    lower, upper = (f"{letter}-{uuid.uuid4()}" for letter in "aA")
    upper = "A" + lower[1:]
    upsert(app, TaskId=lower, Endpoint=place.url, Status="lower")
    assert stored(app, upper) is None


# Timestamp


def test_the_server_sets_the_timestamp_in_iso_8601_utc(app: httpx.Client, place: Place) -> None:
    task = upsert(app, Endpoint=place.url, Timestamp="11/22/2026 10:12:44 AM")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", task["Timestamp"])
    assert datetime.fromisoformat(task["Timestamp"]).utcoffset() is not None
    updated = upsert(app, TaskId=task["TaskId"], Timestamp="1999-01-01T00:00:00Z", Status="on")
    assert updated["Timestamp"] >= task["Timestamp"]


@pytest.mark.parametrize("timestamp", [None, 5, 1.5, True, [], {"a": 1}, "", "\u0000"], ids=repr)
def test_a_timestamp_of_any_kind_is_ignored(app: httpx.Client, place: Place, timestamp: Any) -> None:
    assert upsert(app, Endpoint=place.url, Timestamp=timestamp)["Timestamp"].endswith("Z")


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


@pytest.mark.parametrize("status", FREE_TEXT.values(), ids=FREE_TEXT)
def test_the_status_is_free_text_and_comes_back_as_it_was(app: httpx.Client, place: Place, status: str) -> None:
    task = upsert(app, Endpoint=place.url, Status=status)
    assert task["Status"] == status
    moved = upsert(app, TaskId=task["TaskId"], BackendStatus="running", Status=status)
    assert moved["Status"] == status
    found = stored(app, task["TaskId"])
    assert found is not None
    assert found["Status"] == status


def test_an_update_without_a_status_leaves_it(app: httpx.Client, place: Place) -> None:
    task = upsert(app, Endpoint=place.url, Status="stays")
    for nothing in ({}, {"Status": None}):
        assert upsert(app, TaskId=task["TaskId"], BackendStatus="running", **nothing)["Status"] == "stays"


# BackendStatus


@pytest.mark.parametrize("backend_status", ["created", "running", "completed", "failed"])
def test_a_task_can_be_created_in_each_backend_status(app: httpx.Client, place: Place, backend_status: str) -> None:
    task = upsert(app, Endpoint=place.url, BackendStatus=backend_status)
    assert task["BackendStatus"] == backend_status
    state = "waiting" if backend_status == "created" else backend_status
    assert depth(app, place) == {state: 1}


@pytest.mark.parametrize("backend_status", ["running", "completed", "failed"])
def test_an_update_takes_a_task_to_its_backend_status(app: httpx.Client, place: Place, backend_status: str) -> None:
    task_id = kept_task(app, place)["TaskId"]
    assert upsert(app, TaskId=task_id, BackendStatus=backend_status)["BackendStatus"] == backend_status
    assert depth(app, place) == {backend_status: 1}


# Endpoint


def test_the_endpoints_path_is_the_queues_name(app: httpx.Client, place: Place) -> None:
    kept_task(app, place)
    below = Place(place.path + "/detect", place.url + "/detect")
    assert kept_task(app, below)["EndpointPath"] == place.path + "/detect"
    assert depth(app, place) == depth(app, below) == {"waiting": 1}


def test_the_query_of_the_endpoint_is_called_but_is_no_part_of_the_queues_name(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    place = new_place(backend)
    url = place.url + "?threshold=0.5&classes=a%20b"
    task = upsert(app, Endpoint=url, Body="{}", PublishToGrid=True)
    assert (task["Endpoint"], task["EndpointPath"]) == (url, place.path)
    assert backend.next_call(place.path).path == f"{place.path}?threshold=0.5&classes=a%20b"


def test_scheme_and_host_may_be_in_capital_letters_and_what_is_called_is_the_registrys_url(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    place = new_place(backend)
    task = upsert(app, Endpoint=place.url.replace("http", "HTTP"), Body="{}", PublishToGrid=True)
    assert task["Endpoint"] == place.url
    assert backend.next_call(place.path).task_id == task["TaskId"]


def test_an_update_without_an_endpoint_keeps_the_stored_one(app: httpx.Client, place: Place) -> None:
    task_id = kept_task(app, place)["TaskId"]
    for nothing in ({}, {"Endpoint": None}, {"Endpoint": ""}, {"Endpoint": "  "}):
        task = upsert(app, TaskId=task_id, BackendStatus="running", Status="on", **nothing)
        assert (task["Endpoint"], task["EndpointPath"]) == (place.url, place.path)
    assert depth(app, place) == {"running": 1}


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


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_the_backend_gets_the_body_byte_for_byte_and_the_answers_never_show_it(
    app: httpx.Client, backend: ScriptedBackend, body: str
) -> None:
    place = new_place(backend)
    task = upsert(app, Endpoint=place.url, Body=body, PublishToGrid=True)
    call = backend.next_call(place.path)
    assert call.body == body.encode()
    assert call.task_id == task["TaskId"]
    assert call.headers["content-type"] == "application/json; charset=utf-8"
    assert task["Body"] is None
    response = app.get(GET, params={"taskId": task["TaskId"]})
    assert response.json()["Body"] is None


def test_an_update_with_a_body_replaces_the_kept_one(app: httpx.Client, backend: ScriptedBackend) -> None:
    place = new_place(backend)
    task_id = kept_task(app, place)["TaskId"]
    upsert(app, TaskId=task_id, Body="another")
    upsert(app, TaskId=task_id, PublishToGrid=True)
    assert backend.next_call(place.path).body == b"another"


# PublishToGrid


@pytest.mark.parametrize("publish", [True, "true", "True", "TRUE"], ids=repr)
def test_publish_to_grid_dispatches_the_task_now(app: httpx.Client, backend: ScriptedBackend, publish: Any) -> None:
    place = new_place(backend)
    task = upsert(app, Endpoint=place.url, Body="{}", PublishToGrid=publish)
    assert task["PublishToGrid"] is True
    assert backend.next_call(place.path).task_id == task["TaskId"]


@pytest.mark.parametrize("publish", [False, "false", "False", "FALSE", None, ""], ids=repr)
def test_without_it_a_task_is_only_kept(app: httpx.Client, backend: ScriptedBackend, publish: Any) -> None:
    place = new_place(backend)
    task = upsert(app, Endpoint=place.url, Body="{}", PublishToGrid=publish)
    assert task["PublishToGrid"] is False
    later = upsert(app, Endpoint=place.url, Body="{}", PublishToGrid=True)
    assert backend.next_call(place.path).task_id == later["TaskId"]
    assert backend.untaken(place.path) == 0
    assert upsert(app, TaskId=task["TaskId"], BackendStatus="running")["BackendStatus"] == "running"


def test_a_task_that_is_over_cannot_be_published(app: httpx.Client, place: Place) -> None:
    response = app.post(
        UPSERT, json={"Endpoint": place.url, "Body": "{}", "BackendStatus": "completed", "PublishToGrid": True}
    )
    assert_problem(response, 400, "/PublishToGrid")
    assert depth(app, place) == {}
