"""Results: what a model made, kept for the attempt that made it and given back as it was."""

from typing import Any

import httpx
import pytest

from local.azurite import Azurite
from local.stack import Stack
from tests.contract.v1_support import (
    CONTENTS,
    INLINE_LIMIT_BYTES,
    TASK_KEYS,
    UNKNOWN_ID,
    assert_problem,
    blob_sizes,
    ended,
    hop,
    keep,
    new_path,
    pattern_bytes,
    report,
    submit,
    task_of,
)
from tests.scripted_backend import Answer, Call, ScriptedBackend

LARGE = pattern_bytes(INLINE_LIMIT_BYTES + 1)


@pytest.fixture
def task_id(app: httpx.Client, backend: ScriptedBackend) -> str:
    return keep(app, backend, Body="{}")


def put(app: httpx.Client, task_id: str, content: bytes = b"result", **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return app.put(f"/api/v1/tasks/{task_id}/result", content=content, headers=names)


def get(app: httpx.Client, task_id: str) -> httpx.Response:
    return app.get(f"/api/v1/tasks/{task_id}/result")


@pytest.mark.parametrize("content", CONTENTS)
def test_a_result_comes_back_byte_for_byte_with_its_content_type(
    content: str, app: httpx.Client, task_id: str, azurite: Azurite
) -> None:
    content_type, data = CONTENTS[content]
    stored = put(app, task_id, data, content_type=content_type)
    assert stored.status_code == 200
    task = stored.json()
    assert task.keys() == TASK_KEYS
    assert (task["TaskId"], task["ResultContentType"], task["ResultSize"]) == (task_id, content_type, len(data))
    assert task_of(app, task_id) == task
    response = get(app, task_id)
    assert response.status_code == 200
    assert response.content == data
    assert response.headers["content-type"] == content_type
    assert blob_sizes(azurite, task_id) == ([len(data)] if len(data) > INLINE_LIMIT_BYTES else [])


@pytest.mark.parametrize("data", [b"<script>alert(1)</script>", LARGE])
def test_no_browser_runs_a_result_in_the_name_of_the_app(data: bytes, app: httpx.Client, task_id: str) -> None:
    put(app, task_id, data, content_type="text/html")
    response = get(app, task_id)
    assert response.headers["content-type"] == "text/html"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"] == "sandbox"


def test_a_result_says_whose_it_is(app: httpx.Client, task_id: str) -> None:
    put(app, task_id)
    assert get(app, task_id).headers["taskid"] == task_id


def test_a_result_without_a_content_type_is_bytes(app: httpx.Client, task_id: str) -> None:
    put(app, task_id, b"\x00")
    assert get(app, task_id).headers["content-type"] == "application/octet-stream"


def test_before_there_is_a_result_it_is_404(app: httpx.Client, task_id: str) -> None:
    document = assert_problem(get(app, task_id), 404, "no-result")
    assert document["TaskId"] == task_id
    task = task_of(app, task_id)
    assert (task["ResultContentType"], task["ResultSize"]) == (None, None)


@pytest.mark.parametrize("data", [b"small", LARGE])
def test_a_task_that_is_not_known_takes_no_result(data: bytes, app: httpx.Client, azurite: Azurite) -> None:
    assert_problem(put(app, UNKNOWN_ID, data), 404, "no-such-task")
    assert_problem(put(app, "a%20b", data), 404, "no-such-task")
    assert blob_sizes(azurite, UNKNOWN_ID) == []


@pytest.mark.parametrize(("first", "second"), [(b"1", b"2"), (b"1", LARGE), (LARGE, b"2"), (LARGE, LARGE[::-1])])
def test_a_later_result_of_the_same_attempt_replaces_the_one_before(
    first: bytes, second: bytes, app: httpx.Client, task_id: str
) -> None:
    put(app, task_id, first, content_type="image/png", x_task_attempt="1")
    put(app, task_id, second, content_type="image/tiff", x_task_attempt="1")
    response = get(app, task_id)
    assert response.content == second
    assert response.headers["content-type"] == "image/tiff"


def test_a_result_outlives_the_tasks_end(app: httpx.Client, task_id: str) -> None:
    put(app, task_id, b"kept")
    report(app, TaskId=task_id, BackendStatus="completed")
    assert get(app, task_id).content == b"kept"
    assert task_of(app, task_id)["ResultSize"] == 4


@pytest.mark.parametrize("data", [b"late", LARGE])
@pytest.mark.parametrize("outcome", ["completed", "failed"])
def test_a_task_that_has_ended_takes_no_other_result(
    outcome: str, data: bytes, app: httpx.Client, task_id: str, azurite: Azurite
) -> None:
    put(app, task_id, b"in time")
    report(app, TaskId=task_id, BackendStatus=outcome, Status="over")
    document = assert_problem(put(app, task_id, data), 409, "conflict")
    assert (document["TaskId"], document["BackendStatus"], document["Status"]) == (task_id, outcome, "over")
    assert get(app, task_id).content == b"in time"
    assert blob_sizes(azurite, task_id) == []


@pytest.mark.parametrize("data", [b"stale", LARGE])
def test_a_result_of_an_attempt_that_is_over_is_refused(
    data: bytes, app: httpx.Client, task_id: str, azurite: Azurite
) -> None:
    hop(app, task_id)
    document = assert_problem(put(app, task_id, data, x_task_attempt="1"), 409, "conflict")
    assert document["TaskId"] == task_id
    assert document["Attempt"] >= 2
    assert_problem(get(app, task_id), 404, "no-result")
    assert blob_sizes(azurite, task_id) == []


def test_a_result_of_an_attempt_that_has_not_come_yet_is_refused(app: httpx.Client, task_id: str) -> None:
    assert_problem(put(app, task_id, x_task_attempt="2"), 409, "conflict")
    assert_problem(get(app, task_id), 404, "no-result")


@pytest.mark.parametrize("data", [b"small", LARGE])
def test_the_next_step_of_a_pipeline_finds_the_result_of_the_one_before_however_often_it_is_tried(
    data: bytes, app: httpx.Client, backend: ScriptedBackend, stack: Stack
) -> None:
    path = new_path()
    task_id = keep(app, backend, path, Body="{}")
    put(app, task_id, data, x_task_attempt="1")
    found: list[bytes] = []

    def reaction(call: Call) -> Answer:
        with stack.client() as service:
            found.append(get(service, task_id).content)
            if call.attempt == 2:
                return Answer(status=500)
            put(service, task_id, b"of the second step", x_task_attempt=str(call.attempt))
            report(service, TaskId=task_id, BackendStatus="completed", Attempt=call.attempt)
            return Answer()

    backend.react(path, reaction)
    hop(app, task_id)
    assert ended(app, task_id)["Attempt"] == 3
    assert found == [data, data]
    assert get(app, task_id).content == b"of the second step"


def test_what_a_failed_attempt_stored_is_gone_when_the_next_one_begins(
    app: httpx.Client, backend: ScriptedBackend, stack: Stack
) -> None:
    path = new_path()
    seen: list[int] = []

    def reaction(call: Call) -> Answer:
        with stack.client() as service:
            seen.append(get(service, call.task_id).status_code)
            stored = put(service, call.task_id, b"of %d" % call.attempt, x_task_attempt=str(call.attempt))
            seen.append(stored.status_code)
            if call.attempt == 1:
                return Answer(status=500)
            report(service, TaskId=call.task_id, BackendStatus="completed", Attempt=call.attempt)
            return Answer()

    backend.react(path, reaction)
    task = ended(app, submit(app, path).json()["TaskId"])
    assert (task["BackendStatus"], task["Attempt"]) == ("completed", 2)
    assert seen == [404, 200, 404, 200]
    assert get(app, task["TaskId"]).content == b"of 2"


def test_a_result_counts_as_an_update(app: httpx.Client, task_id: str) -> None:
    address = f"/api/v1/tasks/{task_id}"
    before = app.get(address).headers["etag"]
    stored = put(app, task_id)
    assert stored.headers["etag"] == app.get(address).headers["etag"] != before
    assert int(stored.headers["retry-after"]) >= 1


@pytest.mark.parametrize("attempt", ["", "x", "-1", "1.0", "1e0", "0x1", "1 2", "9" * 10, "²".encode()])
def test_an_attempt_that_is_no_number_is_400_and_named(attempt: Any, app: httpx.Client, task_id: str) -> None:
    response = app.put(f"/api/v1/tasks/{task_id}/result", content=b"x", headers={"X-Task-Attempt": attempt})
    assert_problem(response, 400, "invalid-request", field="X-Task-Attempt")
    assert_problem(get(app, task_id), 404, "no-result")


@pytest.mark.parametrize("content_type", ["image/" + "x" * 255, "image/tïff".encode()])
def test_a_content_type_that_cannot_be_given_back_is_400_and_named(
    content_type: Any, app: httpx.Client, task_id: str
) -> None:
    response = app.put(f"/api/v1/tasks/{task_id}/result", content=b"x", headers={"Content-Type": content_type})
    assert_problem(response, 400, "invalid-request", field="Content-Type")


@pytest.mark.parametrize("route", ["tasks/{id}/result", "Tasks/{id}/Result/"])
def test_there_is_no_method_but_put_and_get(route: str, app: httpx.Client, task_id: str) -> None:
    address = f"/api/v1/{route.format(id=task_id)}"
    assert [app.request(method, address).status_code for method in ("POST", "PATCH", "DELETE")] == [404] * 3
