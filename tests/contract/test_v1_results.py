"""Results (contract B7): the output of a model, stored for the attempt that made it and returned unchanged."""

import gzip
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
    keep,
    new_path,
    next_step,
    pattern_bytes,
    report,
    submit,
    task_of,
)
from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.waiting import eventually

LARGE = pattern_bytes(INLINE_LIMIT_BYTES + 1)


@pytest.fixture
def task_id(app: httpx.Client, backend: ScriptedBackend) -> str:
    return keep(app, backend, Body="{}")


def put(app: httpx.Client, task_id: str, content: bytes = b"result", **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return app.put(f"/api/v1/tasks/{task_id}/result", content=content, headers=names)


def get(app: httpx.Client, task_id: str) -> httpx.Response:
    return app.get(f"/api/v1/tasks/{task_id}/result")


@pytest.mark.contract("B7.1")
@pytest.mark.parametrize("content", CONTENTS)
def test_result_comes_back_byte_for_byte_with_its_content_type(
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


@pytest.mark.contract("B7.2")
@pytest.mark.parametrize("data", [b"<script>alert(1)</script>", LARGE])
def test_browser_never_runs_a_result_as_content_of_the_app(data: bytes, app: httpx.Client, task_id: str) -> None:
    put(app, task_id, data, content_type="text/html")
    response = get(app, task_id)
    assert response.headers["content-type"] == "text/html"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"] == "sandbox"


@pytest.mark.contract("B7.2")
def test_result_names_its_task(app: httpx.Client, task_id: str) -> None:
    put(app, task_id)
    assert get(app, task_id).headers["taskid"] == task_id


@pytest.mark.contract("B7.1")
def test_result_without_a_content_type_is_an_octet_stream(app: httpx.Client, task_id: str) -> None:
    put(app, task_id, b"\x00")
    assert get(app, task_id).headers["content-type"] == "application/octet-stream"


@pytest.mark.contract("B7.3")
def test_task_without_a_result_is_404(app: httpx.Client, task_id: str) -> None:
    document = assert_problem(get(app, task_id), 404, "no-result")
    assert document["TaskId"] == task_id
    task = task_of(app, task_id)
    assert (task["ResultContentType"], task["ResultSize"]) == (None, None)


@pytest.mark.contract("B7.4")
@pytest.mark.parametrize("data", [b"small", LARGE])
def test_result_of_an_unknown_task_is_refused_and_not_stored(
    data: bytes, app: httpx.Client, azurite: Azurite
) -> None:
    assert_problem(put(app, UNKNOWN_ID, data), 404, "no-such-task")
    assert_problem(put(app, "a%20b", data), 404, "no-such-task")
    assert blob_sizes(azurite, UNKNOWN_ID) == []


@pytest.mark.contract("B7.5")
@pytest.mark.parametrize(("first", "second"), [(b"1", b"2"), (b"1", LARGE), (LARGE, b"2"), (LARGE, LARGE[::-1])])
def test_later_result_of_the_same_attempt_replaces_the_earlier(
    first: bytes, second: bytes, app: httpx.Client, task_id: str
) -> None:
    put(app, task_id, first, content_type="image/png", x_task_attempt="1")
    put(app, task_id, second, content_type="image/tiff", x_task_attempt="1")
    response = get(app, task_id)
    assert response.content == second
    assert response.headers["content-type"] == "image/tiff"


@pytest.mark.contract("B7.6")
def test_result_outlives_the_end_of_its_task(app: httpx.Client, task_id: str) -> None:
    put(app, task_id, b"kept")
    report(app, TaskId=task_id, BackendStatus="completed")
    assert get(app, task_id).content == b"kept"
    assert task_of(app, task_id)["ResultSize"] == 4


@pytest.mark.contract("B7.6")
@pytest.mark.parametrize("data", [b"late", LARGE])
@pytest.mark.parametrize("outcome", ["completed", "failed"])
def test_finished_task_refuses_a_result(
    outcome: str, data: bytes, app: httpx.Client, task_id: str, azurite: Azurite
) -> None:
    put(app, task_id, b"in time")
    report(app, TaskId=task_id, BackendStatus=outcome, Status="over")
    document = assert_problem(put(app, task_id, data), 409, "conflict")
    task = document["Task"]
    assert (task["TaskId"], task["BackendStatus"], task["Status"]) == (task_id, outcome, "over")
    assert get(app, task_id).content == b"in time"
    assert blob_sizes(azurite, task_id) == []


@pytest.mark.contract("B7.7")
@pytest.mark.parametrize("data", [b"stale", LARGE])
def test_result_of_an_older_attempt_is_refused(
    data: bytes, app: httpx.Client, task_id: str, azurite: Azurite
) -> None:
    next_step(app, task_id)
    document = assert_problem(put(app, task_id, data, x_task_attempt="1"), 409, "conflict")
    assert document["Task"]["TaskId"] == task_id
    assert document["Task"]["Attempt"] >= 2
    assert_problem(get(app, task_id), 404, "no-result")
    assert blob_sizes(azurite, task_id) == []


@pytest.mark.contract("B7.7")
def test_result_of_a_future_attempt_is_refused(app: httpx.Client, task_id: str) -> None:
    assert_problem(put(app, task_id, x_task_attempt="2"), 409, "conflict")
    assert_problem(get(app, task_id), 404, "no-result")


@pytest.mark.contract("B7.8")
@pytest.mark.parametrize("data", [b"small", LARGE])
def test_next_pipeline_step_finds_the_earlier_result_at_every_attempt(
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
    next_step(app, task_id)
    assert ended(app, task_id)["Attempt"] == 3
    assert found == [data, data]
    assert get(app, task_id).content == b"of the second step"


@pytest.mark.contract("B7.9")
def test_result_of_a_failed_attempt_is_removed_before_the_next(
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


@pytest.mark.contract("B7.10")
def test_storing_a_result_counts_as_an_update(app: httpx.Client, task_id: str) -> None:
    address = f"/api/v1/tasks/{task_id}"
    before = app.get(address).headers["etag"]
    stored = put(app, task_id)
    assert stored.headers["etag"] == app.get(address).headers["etag"] != before
    assert int(stored.headers["retry-after"]) >= 1


@pytest.mark.contract("B7.11")
@pytest.mark.parametrize("attempt", ["", "x", "-1", "1.0", "1e0", "0x1", "1 2", "9" * 10, "²".encode()])
def test_result_with_a_malformed_attempt_is_refused(attempt: Any, app: httpx.Client, task_id: str) -> None:
    response = app.put(f"/api/v1/tasks/{task_id}/result", content=b"x", headers={"X-Task-Attempt": attempt})
    assert_problem(response, 400, "invalid-request", field="X-Task-Attempt")
    assert_problem(get(app, task_id), 404, "no-result")


@pytest.mark.contract("B7.11")
@pytest.mark.parametrize("content_type", ["image/" + "x" * 255, "image/tïff".encode()])
def test_result_with_an_unusable_content_type_is_refused(content_type: Any, app: httpx.Client, task_id: str) -> None:
    response = app.put(f"/api/v1/tasks/{task_id}/result", content=b"x", headers={"Content-Type": content_type})
    assert_problem(response, 400, "invalid-request", field="Content-Type")


@pytest.mark.contract("B7.12")
@pytest.mark.parametrize("route", ["tasks/{id}/result", "Tasks/{id}/Result/"])
def test_result_route_has_only_put_get_and_head(route: str, app: httpx.Client, task_id: str) -> None:
    address = f"/api/v1/{route.format(id=task_id)}"
    assert [app.request(method, address).status_code for method in ("POST", "PATCH", "DELETE")] == [404] * 3


def raw(app: httpx.Client, task_id: str, method: str = "GET", **headers: str) -> tuple[httpx.Response, bytes]:
    """The answer with its bytes as they were sent: the client would decode them."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with app.stream(method, f"/api/v1/tasks/{task_id}/result", headers=names) as response:
        return response, b"".join(response.iter_raw())


PARTS = {
    "bytes=0-0": range(1),
    "bytes=2-4": range(2, 5),
    "bytes=5-": range(5, 100),
    "bytes=-3": range(97, 100),
    "bytes=90-500": range(90, 100),
    "bytes=-500": range(100),
    "BYTES = 7 - 9": range(7, 10),
}


@pytest.mark.contract("B7.33")
@pytest.mark.parametrize("asked", PARTS)
@pytest.mark.parametrize("repeated", [1, 1_000], ids=["inline", "blob"])
def test_range_gets_these_bytes_only(asked: str, repeated: int, app: httpx.Client, task_id: str) -> None:
    data = bytes(range(100)) * repeated
    put(app, task_id, data, content_type="image/tiff")
    part = PARTS[asked]
    if repeated > 1:  # the same distances from both ends
        start = part.start if part.start < 90 and asked != "bytes=-500" else len(data) - 100 + part.start
        part = range(start, len(data) if part.stop == 100 else start + len(part))
        asked = f"bytes={part.start}-{part.stop - 1}" if not asked.endswith("-") else asked
    response, content = raw(app, task_id, range=asked)
    assert response.status_code == 206
    assert content == data[part.start : part.stop]
    assert response.headers["content-range"] == f"bytes {part.start}-{part.stop - 1}/{len(data)}"
    assert response.headers["content-type"] == "image/tiff"
    assert response.headers["content-length"] == str(len(part))


@pytest.mark.contract("B7.33")
@pytest.mark.parametrize("asked", ["bytes=1-2,4-5", "bytes=4-2", "bytes=-", "bytes=a-b", "lines=1-2", "1-2", ""])
def test_range_that_the_app_does_not_know_gets_the_whole_result(asked: str, app: httpx.Client, task_id: str) -> None:
    put(app, task_id, b"whole")
    response, content = raw(app, task_id, range=asked)
    assert (response.status_code, content) == (200, b"whole")
    assert response.headers["accept-ranges"] == "bytes"
    assert "content-range" not in response.headers


@pytest.mark.contract("B7.33")
def test_the_end_of_an_empty_result_is_all_of_it(app: httpx.Client, task_id: str) -> None:
    put(app, task_id, b"")
    response, content = raw(app, task_id, range="bytes=-5")
    assert (response.status_code, content) == (200, b"")


@pytest.mark.contract("B7.34")
@pytest.mark.parametrize("data", [b"", b"small", LARGE], ids=["empty", "small", "large"])
def test_range_beyond_the_end_is_416(data: bytes, app: httpx.Client, task_id: str) -> None:
    put(app, task_id, data)
    for asked in (f"bytes={len(data)}-", f"bytes={len(data) + 5}-{len(data) + 9}", f"bytes=1{'0' * 30}-", "bytes=-0"):
        response = app.get(f"/api/v1/tasks/{task_id}/result", headers={"Range": asked})
        assert_problem(response, 416, "range-not-satisfiable")
        assert response.headers["content-range"] == f"bytes */{len(data)}"


@pytest.mark.contract("B7.35")
@pytest.mark.parametrize("data", [b"small", LARGE])
def test_etag_is_that_of_the_result(data: bytes, app: httpx.Client, task_id: str) -> None:
    put(app, task_id, data)
    first, _ = raw(app, task_id)
    etag = first.headers["etag"]
    report(app, TaskId=task_id, BackendStatus="running", Status="further on")
    assert raw(app, task_id)[0].headers["etag"] == etag, "the task has changed, and its result has not"
    unchanged, content = raw(app, task_id, if_none_match=etag)
    assert (unchanged.status_code, content) == (304, b"")
    assert raw(app, task_id, range="bytes=1-2", if_range=etag)[0].status_code == 206
    put(app, task_id, data[::-1])
    assert raw(app, task_id)[0].headers["etag"] != etag
    assert raw(app, task_id, if_none_match=etag)[1] == data[::-1]
    replaced, content = raw(app, task_id, range="bytes=1-2", if_range=etag)
    assert (replaced.status_code, content) == (200, data[::-1]), "a part of it does not fit to what the caller has"


@pytest.mark.contract("B7.36")
@pytest.mark.parametrize("data", [gzip.compress(b"words " * 40), gzip.compress(LARGE, 0)], ids=["inline", "blob"])
def test_content_encoding_comes_back_with_the_result(data: bytes, app: httpx.Client, task_id: str) -> None:
    put(app, task_id, data, content_type="application/json", content_encoding="gzip")
    response, content = raw(app, task_id)
    assert content == data
    assert (response.headers["content-encoding"], response.headers["content-type"]) == ("gzip", "application/json")
    assert raw(app, task_id, "HEAD")[0].headers["content-encoding"] == "gzip"
    put(app, task_id, b"plain", content_type="text/plain")
    assert "content-encoding" not in raw(app, task_id)[0].headers


@pytest.mark.contract("B7.36")
@pytest.mark.parametrize("encoding", ["gzip br", "gzip,", "a" * 256, "gzïp".encode()])
def test_result_with_an_unusable_content_encoding_is_refused(encoding: Any, app: httpx.Client, task_id: str) -> None:
    response = app.put(f"/api/v1/tasks/{task_id}/result", content=b"x", headers={"Content-Encoding": encoding})
    assert_problem(response, 400, "invalid-request", field="Content-Encoding")
    assert_problem(get(app, task_id), 404, "no-result")


@pytest.mark.contract("B7.63")
def test_a_result_that_is_replaced_leaves_no_blob(app: httpx.Client, task_id: str, azurite: Azurite) -> None:
    for size_bytes in (100_000, 200_000, 300_000):
        app.put(f"/api/v1/tasks/{task_id}/result", content=pattern_bytes(size_bytes)).raise_for_status()
    eventually(lambda: blob_sizes(azurite, task_id) == [300_000])
    app.put(f"/api/v1/tasks/{task_id}/result", content=b"small").raise_for_status()
    eventually(lambda: blob_sizes(azurite, task_id) == [])
    assert app.get(f"/api/v1/tasks/{task_id}/result").content == b"small"
