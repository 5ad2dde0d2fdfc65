"""CacheConnectorUpsert (contract A1.35 to A1.40): what legacy clients send in a form that only their parser knew."""

import json
from typing import Any

import httpx
import pytest

from local.azurite import Azurite
from tests.contract.legacy_support import (
    GET,
    UPSERT,
    Endpoint,
    assert_problem,
    depth,
    kept_task,
    new_endpoint,
    stored,
    upsert,
)
from tests.contract.v1_support import blob_sizes
from tests.scripted_backend import ScriptedBackend
from tests.waiting import eventually

LONG = "completed - " + json.dumps({"detections": ["größer"] * 12_000})
BEGINNING = 1_024


@pytest.fixture
def endpoint(backend: ScriptedBackend) -> Endpoint:
    return new_endpoint(backend)


# Numbers and booleans


@pytest.mark.contract("A1.35")
@pytest.mark.parametrize("written", ["5", "1.50", "-0", "1e400", "true", "false"])
def test_number_or_boolean_is_taken_as_the_text_that_stands_there(
    app: httpx.Client, backend: ScriptedBackend, written: str
) -> None:
    endpoint = new_endpoint(backend)
    content = f'{{"Endpoint": "{endpoint.url}", "Status": {written}, "Body": {written}, "PublishToGrid": 1}}'
    task = app.post(UPSERT, content=content).raise_for_status().json()
    assert (task["Status"], task["PublishToGrid"]) == (written, True)
    assert backend.next_call(endpoint.path).body == written.encode()


@pytest.mark.contract("A1.35")
def test_number_as_id_is_the_id_of_that_text(app: httpx.Client, endpoint: Endpoint) -> None:
    number = int(endpoint.path.rpartition("/")[2], 16)
    task = upsert(app, TaskId=number, Endpoint=endpoint.url, Status="by number")
    assert task["TaskId"] == str(number)
    assert upsert(app, TaskId=str(number), Status="by text")["Status"] == "by text"
    assert depth(app, endpoint) == {"waiting": 1}


@pytest.mark.contract("A1.14", "A1.15")
@pytest.mark.parametrize(("sent", "is_published"), [(1, True), (0.5, True), (0, False), (0.0, False)])
def test_number_publishes_unless_it_is_0(
    app: httpx.Client, endpoint: Endpoint, sent: float, is_published: bool
) -> None:
    assert upsert(app, Endpoint=endpoint.url, Body="{}", PublishToGrid=sent)["PublishToGrid"] is is_published


@pytest.mark.contract("A1.9")
@pytest.mark.parametrize("sent", ["Running", "RUNNING", " running\n"])
def test_backend_status_is_taken_in_any_case_and_with_blanks(
    app: httpx.Client, endpoint: Endpoint, sent: str
) -> None:
    assert upsert(app, Endpoint=endpoint.url, BackendStatus=sent)["BackendStatus"] == "running"
    assert depth(app, endpoint) == {"running": 1}


# An Endpoint that leads nowhere

NOWHERE = {
    "the task managers' fallback": "http://localhost",
    "a path": "/v1/test/model",
    "an unregistered host": "http://models.example.org/v1/test/model",
    "an unregistered path": "{backend}/v1/other/model",
    "a path that cannot be one": "{backend}/v1/test/%2e%2e/model",
    "no URL": "not found",
    "a boolean": False,
}


@pytest.mark.contract("A1.36")
@pytest.mark.parametrize("nowhere", NOWHERE.values(), ids=NOWHERE)
def test_report_with_an_endpoint_that_leads_nowhere_counts_and_leaves_the_endpoint(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, nowhere: Any
) -> None:
    named = nowhere.format(backend=backend.url) if isinstance(nowhere, str) else nowhere
    task_id = kept_task(app, endpoint)["TaskId"]
    for state in ("running", "completed"):
        task = upsert(app, TaskId=task_id, BackendStatus=state, Status=state, Endpoint=named, PublishToGrid=False)
        assert (task["BackendStatus"], task["Status"]) == (state, state)
        assert (task["Endpoint"], task["EndpointPath"]) == (endpoint.url, endpoint.path)
    assert depth(app, endpoint) == {"completed": 1}


@pytest.mark.contract("A1.36", "A1.28")
@pytest.mark.parametrize("nowhere", NOWHERE.values(), ids=NOWHERE)
def test_next_step_and_new_task_with_an_endpoint_that_leads_nowhere_are_refused(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, nowhere: Any
) -> None:
    named = nowhere.format(backend=backend.url) if isinstance(nowhere, str) else nowhere
    task = kept_task(app, endpoint)
    step = {"TaskId": task["TaskId"], "BackendStatus": "created", "Body": "x", "PublishToGrid": True}
    unknown = {"TaskId": task["TaskId"] + ".unknown", "BackendStatus": "running"}
    for request in (step, unknown, {}):
        assert_problem(app.post(UPSERT, json={**request, "Endpoint": named}), 400, "/Endpoint")
    assert stored(app, task["TaskId"]) == task
    assert stored(app, unknown["TaskId"]) is None
    assert backend.untaken(endpoint.path) == 0


# A long Status


@pytest.mark.contract("A1.37")
def test_long_status_comes_back_whole_from_each_call_for_one_task(
    app: httpx.Client, endpoint: Endpoint, azurite: Azurite
) -> None:
    task_id = kept_task(app, endpoint)["TaskId"]
    assert len(LONG) > 65_536
    assert upsert(app, TaskId=task_id, BackendStatus="completed", Status=LONG)["Status"] == LONG
    assert app.get(GET, params={"taskId": task_id}).json()["Status"] == LONG
    assert app.get(f"/api/v1/tasks/{task_id}").json()["Status"] == LONG
    assert app.get(f"/api/v1/tasks/{task_id}", params={"wait": 1}).json()["Status"] == LONG
    assert blob_sizes(azurite, task_id) == [len(LONG.encode())]


@pytest.mark.contract("A1.37")
def test_list_and_history_have_the_beginning_of_a_long_status(app: httpx.Client, endpoint: Endpoint) -> None:
    task_id = upsert(app, Endpoint=endpoint.url, BackendStatus="failed", Status=LONG)["TaskId"]
    (listed,) = app.get("/api/v1/tasks", params={"path": endpoint.path}).json()["Tasks"]
    assert listed["Status"] == LONG[:BEGINNING]
    (event,) = app.get(f"/api/v1/tasks/{task_id}/history").json()["Events"]
    assert event["Status"] == LONG[:200]


@pytest.mark.contract("A1.37")
@pytest.mark.parametrize("text", ["ü", "x", "\U0001f30d", '"\\\n\0\u2028'], ids=ascii)
def test_status_of_several_megabytes_is_taken(app: httpx.Client, endpoint: Endpoint, text: str) -> None:
    status = text * 500_000
    task_id = upsert(app, Endpoint=endpoint.url, Status=status)["TaskId"]
    assert app.get(GET, params={"taskId": task_id}).json()["Status"] == status


@pytest.mark.contract("A1.37", "A1.8")
def test_update_without_status_keeps_a_long_one_and_another_text_replaces_it(
    app: httpx.Client, endpoint: Endpoint, azurite: Azurite
) -> None:
    task_id = upsert(app, Endpoint=endpoint.url, Status=LONG)["TaskId"]
    assert upsert(app, TaskId=task_id, BackendStatus="running")["Status"] == LONG
    assert app.post(f"/api/v1/tasks/{task_id}/heartbeat").status_code == 200
    assert upsert(app, TaskId=task_id, Status=LONG + "!")["Status"] == LONG + "!"
    eventually(lambda: blob_sizes(azurite, task_id) == [len((LONG + "!").encode())])
    assert upsert(app, TaskId=task_id, Status="short")["Status"] == "short"
    assert app.get(GET, params={"taskId": task_id}).json()["Status"] == "short"
    eventually(lambda: blob_sizes(azurite, task_id) == [])


@pytest.mark.contract("A1.37")
def test_cancelling_drops_a_long_status(app: httpx.Client, endpoint: Endpoint, azurite: Azurite) -> None:
    task_id = upsert(app, Endpoint=endpoint.url, Status=LONG)["TaskId"]
    assert app.delete(f"/api/v1/tasks/{task_id}").json()["Status"] == "Cancelled"
    assert app.get(GET, params={"taskId": task_id}).json()["Status"] == "Cancelled"
    eventually(lambda: blob_sizes(azurite, task_id) == [])


@pytest.mark.contract("A1.37")
def test_replay_drops_a_long_status(app: httpx.Client, backend: ScriptedBackend, azurite: Azurite) -> None:
    endpoint = new_endpoint(backend)
    task_id = kept_task(app, endpoint, BackendStatus="failed", Status=LONG)["TaskId"]
    assert app.post(f"/api/v1/tasks/{task_id}/replay").json()["Status"] == "created"
    eventually(lambda: blob_sizes(azurite, task_id) == [])


@pytest.mark.contract("A1.24")
def test_same_end_with_a_long_status_again_is_200_and_leaves_nothing_behind(
    app: httpx.Client, endpoint: Endpoint, azurite: Azurite
) -> None:
    task_id = upsert(app, Endpoint=endpoint.url, BackendStatus="completed", Status=LONG)["TaskId"]
    assert upsert(app, TaskId=task_id, BackendStatus="completed", Status=LONG)["Status"] == LONG
    assert blob_sizes(azurite, task_id) == [len(LONG.encode())]


@pytest.mark.contract("A1.23")
@pytest.mark.parametrize(
    "other", [LONG[:-1] + "!", LONG[:BEGINNING], "completed"], ids=["long", "beginning", "short"]
)
def test_end_with_another_status_than_a_long_one_is_not_taken_for_the_same(
    app: httpx.Client, endpoint: Endpoint, azurite: Azurite, other: str
) -> None:
    task_id = upsert(app, Endpoint=endpoint.url, BackendStatus="completed", Status=LONG)["TaskId"]
    response = app.post(UPSERT, json={"TaskId": task_id, "BackendStatus": "completed", "Status": other})
    kept = other if response.status_code == 200 else LONG
    assert app.get(GET, params={"taskId": task_id}).json()["Status"] == kept
    sizes = [len(kept.encode())] if len(kept) > 65_536 else []
    eventually(lambda: blob_sizes(azurite, task_id) == sizes)


@pytest.mark.contract("A1.29", "A1.37")
def test_refused_request_with_a_long_status_leaves_nothing_behind(
    app: httpx.Client, endpoint: Endpoint, azurite: Azurite
) -> None:
    task = kept_task(app, endpoint)
    stale = {"TaskId": task["TaskId"], "Attempt": 7, "Status": LONG}
    assert app.post(UPSERT, json=stale).status_code == 409
    unknown = {"TaskId": task["TaskId"] + ".unknown", "Status": LONG}
    assert_problem(app.post(UPSERT, json=unknown), 400, "/Endpoint")
    assert blob_sizes(azurite, task["TaskId"]) == blob_sizes(azurite, unknown["TaskId"]) == []
    assert stored(app, task["TaskId"]) == task


# One endpoint, one queue


@pytest.mark.contract("A1.39")
@pytest.mark.parametrize("end", ["/", "?a=1", "/?a=1"])
def test_slash_at_the_end_of_an_endpoint_does_not_count(app: httpx.Client, endpoint: Endpoint, end: str) -> None:
    assert kept_task(app, Endpoint(endpoint.path, endpoint.url + end))["EndpointPath"] == endpoint.path


@pytest.mark.contract("A1.39")
@pytest.mark.parametrize("written", ["/caf%C3%A9", "/caf%c3%a9", "/café", "/%63af%c3%A9/"])
def test_endpoint_is_called_and_counted_by_one_path_however_it_is_escaped(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, written: str
) -> None:
    path = endpoint.path + "/caf%C3%A9"
    url = endpoint.url + written + '?box={1|2}&place=café&quote="%22'
    task = upsert(app, Endpoint=url, Body="{}", PublishToGrid=True)
    assert task["EndpointPath"] == path
    assert task["Endpoint"] == backend.url + path + "?box=%7B1%7C2%7D&place=caf%C3%A9&quote=%22%22"
    assert backend.next_call(path).path == task["Endpoint"].removeprefix(backend.url)
    echoed = upsert(app, TaskId=task["TaskId"], BackendStatus="completed", Endpoint=task["Endpoint"])
    assert (echoed["Endpoint"], echoed["EndpointPath"]) == (task["Endpoint"], path)


@pytest.mark.contract("A1.40")
def test_endpoint_that_its_backend_does_not_list_is_refused(app: httpx.Client, backend: ScriptedBackend) -> None:
    assert upsert(app, Endpoint=f"{backend.url}/v1/listed/model/")["EndpointPath"] == "/v1/listed/model"
    response = app.post(UPSERT, json={"Endpoint": f"{backend.url}/v1/listed/other"})
    assert_problem(response, 400, "/Endpoint")
    assert "listed" not in response.text
