"""Uploads (contract B18): bodies and results that clients write to Blob Storage themselves; with a real Azurite."""

import base64
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from azure.storage.blob import BlobBlock, BlobClient, ContainerClient

from local.azurite import Azurite
from local.stack import NO_TLS, Stack
from tests.contract.v1_support import (
    INLINE_LIMIT_BYTES,
    UNKNOWN_ID,
    assert_problem,
    ended,
    new_path,
    pattern_bytes,
    report,
    submit,
    task_of,
)
from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.waiting import PATIENCE_S, eventually

LARGE = pattern_bytes(2 * INLINE_LIMIT_BYTES + 1)
SHA256 = hashlib.sha256(LARGE).hexdigest()
DIGEST = f"sha-256=:{base64.b64encode(hashlib.sha256(LARGE).digest()).decode()}:"


def reference_path() -> str:
    """An endpoint path of a backend that takes references."""
    return f"/v1/reference/{new_path().rpartition('/')[2]}"


def declare(app: httpx.Client, data: bytes = LARGE, content_type: str = "image/tiff", **more: Any) -> dict[str, Any]:
    headers = more.pop("headers", {})
    declared = {"Size": len(data), "ContentType": content_type, **more}
    response = app.post("/api/v1/uploads", json=declared, headers=headers)
    assert response.status_code == 201, response.text
    return response.json()


def write(url: str, data: bytes = LARGE, content_type: str = "image/tiff", **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {"x-ms-blob-type": "BlockBlob", "x-ms-blob-content-type": content_type, "x-ms-version": "2024-11-04"}
    return httpx.put(url, content=data, headers={**sent, **names}, verify=NO_TLS, timeout=60)


def uploaded(app: httpx.Client, data: bytes = LARGE, content_type: str = "image/tiff", **more: Any) -> str:
    """The id of an upload that has its bytes."""
    upload = declare(app, data, content_type, **more)
    assert write(upload["Url"], data, content_type).status_code == 201
    return upload["UploadId"]


def hand_in(app: httpx.Client, path: str, upload_id: str, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return app.post(f"/api/v1/submit{path}", headers={"X-Upload": upload_id, **names})


def read(url: str, **headers: str) -> httpx.Response:
    return httpx.get(url, headers=headers, verify=NO_TLS, timeout=60)


def blobs(azurite: Azurite, beginning: str) -> list[str]:
    with ContainerClient.from_connection_string(azurite.connection_string, "task-backbone") as container:
        return [blob.name for blob in container.list_blobs(name_starts_with=beginning, include=["snapshots"])]


@pytest.mark.contract("B18.1", "B18.2")
def test_an_upload_is_a_url_that_permits_to_write_one_blob(app: httpx.Client) -> None:
    response = app.post("/api/v1/uploads", json={"Size": 3, "ContentType": "text/plain"})
    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    upload = response.json()
    assert upload.keys() == {"UploadId", "Url", "ExpiresAt"}
    expires = datetime.fromisoformat(upload["ExpiresAt"])
    assert 80_000 < (expires - datetime.now(UTC)).total_seconds() <= 86_400
    signed = parse_qs(urlsplit(upload["Url"]).query)
    assert (signed["sp"], signed["sr"]) == (["cw"], ["b"])
    assert write(upload["Url"], b"abc", "text/plain").status_code == 201
    assert write(upload["Url"], b"xyz", "text/plain").status_code == 201
    assert read(upload["Url"]).status_code == 403
    assert httpx.delete(upload["Url"], verify=NO_TLS, timeout=PATIENCE_S).status_code == 403
    parts = urlsplit(upload["Url"])
    container = f"{parts.scheme}://{parts.netloc}{parts.path.rpartition('/')[0]}"
    listing = f"{container}?restype=container&comp=list&{parts.query}"
    assert httpx.get(listing, verify=NO_TLS, timeout=PATIENCE_S).status_code == 403
    other = f"{container}/u-{UNKNOWN_ID}?{parts.query}"
    assert write(other, b"abc", "text/plain").status_code == 403


@pytest.mark.contract("B18.3")
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"Size": -1}, "/Size"),
        ({"Size": "3"}, "/Size"),
        ({"Size": None}, "/Size"),
        ({"ContentType": "image/\u00fcff"}, "/ContentType"),
        ({"ContentType": ""}, "/ContentType"),
        ({"ContentEncoding": "gzip br"}, "/ContentEncoding"),
        ({"Sha256": "abc"}, "/Sha256"),
        ({"TaskId": "a b"}, "/TaskId"),
        ({"Sise": 3}, "/Sise"),
        ({"TaskId": UNKNOWN_ID}, "X-Task-Attempt"),
    ],
)
def test_a_bad_declaration_is_refused_by_name(change: dict[str, Any], field: str, app: httpx.Client) -> None:
    response = app.post("/api/v1/uploads", json={"Size": 3, "ContentType": "text/plain", **change})
    assert_problem(response, 400, "invalid-request", field=field)


@pytest.mark.contract("B18.3")
@pytest.mark.parametrize("digest", ["abc", "g" * 64, "a" * 65, "a" * 64 + "\n"])
def test_a_bad_digest_is_refused_in_words(digest: str, app: httpx.Client) -> None:
    response = app.post("/api/v1/uploads", json={"Size": 3, "ContentType": "text/plain", "Sha256": digest})
    [error] = assert_problem(response, 400, "invalid-request", field="/Sha256")["errors"]
    assert error == {"pointer": "/Sha256", "detail": "64 hexadecimal digits are expected"}


@pytest.mark.contract("B18.3")
@pytest.mark.parametrize("size", [100 * 1024**3 + 1, 10**40])
def test_an_upload_that_is_too_large_is_refused(size: int, app: httpx.Client) -> None:
    body = json.dumps({"Size": size, "ContentType": "text/plain"})
    response = app.post("/api/v1/uploads", content=body)
    if size < 2**63:
        assert_problem(response, 413, "too-large")
    assert response.status_code in (400, 413)


@pytest.mark.contract("B18.5", "B18.12", "B18.14")
def test_an_uploaded_body_goes_to_a_backend_by_reference(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = reference_path()
    response = hand_in(app, f"{path}?classes=6", uploaded(app, Sha256=SHA256.upper()))
    assert response.status_code == 202
    assert response.json()["MaxUploadBytes"] == 100 * 1024**3
    call = backend.next_call(path)
    assert call.path == f"{path}?classes=6"
    assert call.body == b""
    assert call.headers["content-length"] == "0"
    assert call.headers["content-type"] == "image/tiff"
    assert "content-encoding" not in call.headers
    assert call.headers["x-task-body-length"] == str(len(LARGE))
    assert call.headers["repr-digest"] == DIGEST
    got = read(call.headers["x-task-body"])
    assert (got.status_code, got.content) == (200, LARGE)
    signed = parse_qs(urlsplit(call.headers["x-task-body"]).query)
    assert (signed["sp"], signed["sr"]) == (["r"], ["bs"])
    part = read(call.headers["x-task-body"], Range="bytes=5-9")
    assert (part.status_code, part.content) == (206, LARGE[5:10])


@pytest.mark.contract("B18.5", "B18.12")
def test_the_declared_encoding_is_that_of_the_body(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = reference_path()
    upload = declare(app, LARGE, "application/json", ContentEncoding="gzip")
    write(upload["Url"], LARGE, "application/json", x_ms_blob_content_encoding="gzip")
    # What the request itself says of its empty body does not count.
    response = hand_in(app, path, upload["UploadId"], content_type="text/plain", content_encoding="br")
    assert response.status_code == 202
    call = backend.next_call(path)
    assert (call.headers["content-type"], call.headers["content-encoding"]) == ("application/json", "gzip")
    assert "repr-digest" not in call.headers


@pytest.mark.contract("B18.12")
@pytest.mark.parametrize("size", [INLINE_LIMIT_BYTES, INLINE_LIMIT_BYTES + 1])
def test_a_body_that_came_with_its_request_goes_by_reference_if_it_is_a_blob(
    size: int, app: httpx.Client, backend: ScriptedBackend
) -> None:
    path, data = reference_path(), LARGE[:size]
    submit(app, path, data, content_type="image/tiff")
    call = backend.next_call(path)
    if size > INLINE_LIMIT_BYTES:
        assert call.body == b""
        assert read(call.headers["x-task-body"]).content == data
    else:
        assert call.body == data
        assert "x-task-body" not in call.headers


@pytest.mark.contract("B18.6")
def test_what_is_written_after_handing_in_changes_nothing(app: httpx.Client, backend: ScriptedBackend) -> None:
    path, upload = reference_path(), declare(app)
    write(upload["Url"])
    backend.script(path, Answer(status=500), Answer())
    task_id = hand_in(app, path, upload["UploadId"]).json()["TaskId"]
    first = backend.next_call(path)
    assert write(upload["Url"], LARGE[::-1]).status_code == 201
    second = backend.next_call(path)
    for call in (first, second):
        assert read(call.headers["x-task-body"]).content == LARGE
    assert app.get(f"/api/v1/tasks/{task_id}/body").content == LARGE


@pytest.mark.contract("B18.7")
@pytest.mark.parametrize("upload_id", [UNKNOWN_ID, "x", "a b", "../x", "%00", "x" * 200])
def test_an_unknown_upload_is_404(upload_id: str, app: httpx.Client) -> None:
    assert_problem(hand_in(app, new_path(), upload_id), 404, "unknown-upload")


@pytest.mark.contract("B18.7")
def test_an_upload_with_a_body_beside_it_is_refused(app: httpx.Client) -> None:
    response = app.post(f"/api/v1/submit{new_path()}", content=b"x", headers={"X-Upload": uploaded(app)})
    assert_problem(response, 400, "invalid-request", field="X-Upload")


@pytest.mark.contract("B18.7")
@pytest.mark.parametrize("operation", ["checkpoint", "next/v1/test/x"])
def test_only_a_submit_and_a_result_take_an_upload(operation: str, app: httpx.Client) -> None:
    method = "PUT" if operation == "checkpoint" else "POST"
    headers = {"X-Upload": UNKNOWN_ID, "X-Task-Attempt": "1"}
    response = app.request(method, f"/api/v1/tasks/{UNKNOWN_ID}/{operation}", headers=headers)
    assert_problem(response, 400, "invalid-request", field="X-Upload")


@pytest.mark.contract("B18.8")
def test_an_upload_is_for_one_task(app: httpx.Client) -> None:
    path, upload_id = reference_path(), uploaded(app)
    task_id = hand_in(app, path, upload_id).json()["TaskId"]
    for _ in range(2):
        problem = assert_problem(hand_in(app, path, upload_id), 409, "upload-used")
        assert problem["TaskId"] == task_id


@pytest.mark.contract("B18.8")
def test_of_concurrent_submits_of_one_upload_one_wins(
    app: httpx.Client, backend: ScriptedBackend, azurite: Azurite
) -> None:
    path, upload_id = reference_path(), uploaded(app)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: hand_in(app, path, upload_id), range(8)))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 7
    winner = next(answer.json()["TaskId"] for answer in answers if answer.status_code == 202)
    assert {answer.json()["TaskId"] for answer in answers} == {winner}
    assert read(backend.next_call(path).headers["x-task-body"]).content == LARGE
    report(app, TaskId=winner, BackendStatus="completed", Status="completed")
    assert app.delete(f"/api/v1/tasks/{winner}?purge=true").status_code == 204
    # Each taker made a snapshot, and perhaps made it twice, when an answer was lost: none outlives the blob.
    eventually(lambda: not blobs(azurite, f"u-{upload_id}"))


@pytest.mark.contract("B18.9")
def test_the_same_key_gives_the_same_task(app: httpx.Client, backend: ScriptedBackend) -> None:
    path, upload_id = reference_path(), uploaded(app, Sha256=SHA256)
    first = hand_in(app, path, upload_id, idempotency_key="k").json()
    with ThreadPoolExecutor(4) as threads:
        again = list(threads.map(lambda _: hand_in(app, path, upload_id, idempotency_key="k"), range(4)))
    assert {(answer.status_code, answer.json()["TaskId"]) for answer in again} == {(202, first["TaskId"])}
    backend.next_call(path)
    assert backend.untaken(path) == 0


@pytest.mark.contract("B18.9")
def test_the_fingerprint_is_what_was_declared_and_not_the_upload(app: httpx.Client) -> None:
    path = reference_path()
    task_id = hand_in(app, path, uploaded(app, Sha256=SHA256), idempotency_key="k").json()["TaskId"]
    # Not even written: a caller that resumes need not write it again.
    same = declare(app, Sha256=SHA256)["UploadId"]
    assert hand_in(app, path, same, idempotency_key="k").json()["TaskId"] == task_id
    for other in (
        declare(app),
        declare(app, Sha256="0" * 64),
        declare(app, LARGE[:-1], Sha256=SHA256),
        declare(app, content_type="image/png", Sha256=SHA256),
        declare(app, ContentEncoding="gzip", Sha256=SHA256),
    ):
        answer = hand_in(app, path, other["UploadId"], idempotency_key="k")
        assert assert_problem(answer, 422, "idempotency-key-reused")["TaskId"] == task_id
    assert submit(app, path, LARGE, content_type="image/tiff", idempotency_key="k").status_code == 422


Written = Callable[[str], object]


@pytest.mark.contract("B18.10")
@pytest.mark.parametrize(
    ("written", "named"),
    [
        (lambda url: None, "nothing was written"),
        (lambda url: write(url, LARGE[:-1]), "Size"),
        (lambda url: write(url, LARGE + b"x"), "Size"),
        (lambda url: write(url, content_type="image/png"), "ContentType"),
        (lambda url: write(url, x_ms_blob_content_encoding="gzip"), "ContentEncoding"),
    ],
    ids=["nothing", "too short", "too long", "another type", "another encoding"],
)
def test_what_was_written_must_be_what_was_declared(
    written: Written, named: str, app: httpx.Client, azurite: Azurite
) -> None:
    path, upload = reference_path(), declare(app)
    written(upload["Url"])
    for headers in ({}, {"idempotency_key": "k"}):
        problem = assert_problem(hand_in(app, path, upload["UploadId"], **headers), 409, "upload-mismatch")
        assert named in problem["detail"]
    assert app.get("/api/v1/tasks", params={"path": path}).json()["Tasks"] == []
    assert write(upload["Url"]).status_code == 201
    assert hand_in(app, path, upload["UploadId"]).status_code == 202, "it can be handed in once it is right"
    assert len(blobs(azurite, f"u-{upload['UploadId']}")) == 2, "no snapshot was left"


@pytest.mark.contract("B18.10")
def test_blocks_that_are_not_committed_are_nothing(app: httpx.Client) -> None:
    upload = declare(app)
    with BlobClient.from_blob_url(upload["Url"]) as blob:
        blob.stage_block("YQ==", LARGE)
        problem = assert_problem(hand_in(app, new_path(), upload["UploadId"]), 409, "upload-mismatch")
        blob.commit_block_list([BlobBlock("YQ==")])
    assert problem["detail"]


@pytest.mark.contract("B18.11")
def test_a_queue_that_refuses_the_task_leaves_the_upload_as_it_was(app: httpx.Client, azurite: Azurite) -> None:
    path, upload_id = reference_path(), uploaded(app)
    app.patch(f"/api/v1/queues{path}", json={"Draining": True}).raise_for_status()
    for headers in ({}, {"idempotency_key": "k"}):
        assert_problem(hand_in(app, path, upload_id, **headers), 503, "queue-draining")
    app.patch(f"/api/v1/queues{path}", json={"Draining": False}).raise_for_status()
    assert hand_in(app, path, upload_id).status_code == 202
    assert len(blobs(azurite, f"u-{upload_id}")) == 2


@pytest.mark.contract("B18.13")
def test_a_backend_without_references_gets_a_normal_body(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    hand_in(app, path, uploaded(app, Sha256=SHA256))
    call = backend.next_call(path)
    assert (call.body, call.headers["content-type"]) == (LARGE, "image/tiff")
    assert "x-task-body" not in call.headers


@pytest.mark.contract("B18.13")
def test_no_backend_gets_more_than_it_takes(app: httpx.Client) -> None:
    huge = {"Size": 200 * 1024**2, "ContentType": "image/tiff"}
    upload_id = app.post("/api/v1/uploads", json=huge).json()["UploadId"]
    path, step = new_path(), reference_path()
    problem = assert_problem(hand_in(app, path, upload_id), 409, "no-reference")
    assert path in problem["detail"]
    problem = assert_problem(hand_in(app, step, upload_id, pipeline=path), 409, "no-reference")
    assert path in problem["detail"]
    assert_problem(hand_in(app, step, upload_id), 409, "upload-mismatch")  # nothing was written to it


def at_work(app: httpx.Client, backend: ScriptedBackend) -> Call:
    """The dispatch of a new task."""
    path = reference_path()
    submit(app, path).raise_for_status()
    return backend.next_call(path)


def result_upload(app: httpx.Client, call: Call, data: bytes = LARGE, **more: Any) -> str:
    attempt = {"X-Task-Attempt": str(call.attempt)}
    return uploaded(app, data, TaskId=call.task_id, headers=attempt, **more)


def put_result(app: httpx.Client, call: Call, upload_id: str, **headers: str) -> httpx.Response:
    sent = {"x_task_attempt": str(call.attempt), "x_upload": upload_id, **headers}
    names = {name.replace("_", "-"): value for name, value in sent.items()}
    return app.put(f"/api/v1/tasks/{call.task_id}/result", headers=names)


@pytest.mark.contract("B18.14", "B18.15", "B18.18")
def test_a_result_is_uploaded_and_read_by_a_link(app: httpx.Client, backend: ScriptedBackend) -> None:
    call = at_work(app, backend)
    upload_id = result_upload(app, call, Sha256=SHA256)
    stored = put_result(app, call, upload_id)
    assert stored.status_code == 200
    task = stored.json()
    assert (task["ResultContentType"], task["ResultSize"]) == ("image/tiff", len(LARGE))
    assert put_result(app, call, upload_id, x_task_complete="well%20done").json()["Status"] == "well done"
    address = f"/api/v1/tasks/{call.task_id}/result"
    for method in ("GET", "HEAD"):
        link = app.request(method, address, params={"link": "1"})
        assert link.status_code == 303
        assert link.content == b""
        assert link.headers["repr-digest"] == DIGEST
        assert link.headers["cache-control"] == "no-store"
        assert link.headers["taskid"] == call.task_id
    got = read(link.headers["location"])
    assert (got.status_code, got.content) == (200, LARGE)
    assert read(link.headers["location"], Range="bytes=7-8").content == LARGE[7:9]
    whole = app.get(address)
    assert (whole.status_code, whole.content, whole.headers["repr-digest"]) == (200, LARGE, DIGEST)
    assert app.get(address, params={"link": "0"}).status_code == 200


@pytest.mark.contract("B18.15")
def test_a_result_that_is_handed_in_again_is_the_same(app: httpx.Client, backend: ScriptedBackend) -> None:
    call = at_work(app, backend)
    attempt = {"X-Task-Attempt": str(call.attempt)}
    upload = declare(app, TaskId=call.task_id, headers=attempt)
    write(upload["Url"])
    assert put_result(app, call, upload["UploadId"], x_task_complete="").json()["BackendStatus"] == "completed"
    write(upload["Url"], LARGE[::-1])
    for _ in range(2):
        again = put_result(app, call, upload["UploadId"], x_task_complete="")
        assert (again.status_code, again.json()["BackendStatus"]) == (200, "completed")
    assert app.get(f"/api/v1/tasks/{call.task_id}/result").content == LARGE


@pytest.mark.contract("B18.16")
def test_an_upload_is_for_the_result_of_one_attempt(app: httpx.Client, backend: ScriptedBackend) -> None:
    call, other = at_work(app, backend), at_work(app, backend)
    upload_id = result_upload(app, call)
    assert_problem(put_result(app, other, upload_id), 409, "upload-used")
    assert_problem(hand_in(app, reference_path(), upload_id), 409, "upload-used")
    assert_problem(put_result(app, call, uploaded(app)), 409, "upload-used")
    assert_problem(put_result(app, call, upload_id, x_task_attempt="2"), 409, "upload-used")
    response = app.put(f"/api/v1/tasks/{call.task_id}/result", headers={"X-Upload": upload_id})
    assert_problem(response, 400, "invalid-request", field="X-Task-Attempt")
    assert_problem(put_result(app, call, UNKNOWN_ID), 404, "unknown-upload")
    assert put_result(app, call, upload_id).status_code == 200


@pytest.mark.contract("B18.16")
def test_an_attempt_that_is_over_has_no_result(app: httpx.Client, backend: ScriptedBackend, azurite: Azurite) -> None:
    call = at_work(app, backend)
    upload_id = result_upload(app, call)
    app.delete(f"/api/v1/tasks/{call.task_id}").raise_for_status()
    assert_problem(put_result(app, call, upload_id), 409, "conflict")
    eventually(lambda: blobs(azurite, f"t-{call.task_id}/") == [])
    declared = {"Size": 1, "ContentType": "text/plain", "TaskId": call.task_id}
    for attempt in (call.attempt, call.attempt + 1):
        late = app.post("/api/v1/uploads", json=declared, headers={"X-Task-Attempt": str(attempt)})
        assert assert_problem(late, 409, "conflict")["Task"]["TaskId"] == call.task_id
    unknown = app.post("/api/v1/uploads", json=declared | {"TaskId": UNKNOWN_ID}, headers={"X-Task-Attempt": "1"})
    assert_problem(unknown, 404, "no-such-task")


@pytest.mark.contract("B18.17")
def test_an_uploaded_result_is_the_body_of_the_next_step(
    app: httpx.Client, backend: ScriptedBackend, azurite: Azurite
) -> None:
    first, second = reference_path(), reference_path()
    submit(app, first, pipeline=second)
    call = backend.next_call(first)
    upload_id = result_upload(app, call, Sha256=SHA256)
    again = [put_result(app, call, upload_id, x_task_complete="") for _ in range(2)]
    assert [answer.status_code for answer in again] == [200, 200]
    step = backend.next_call(second)
    assert step.headers["repr-digest"] == DIGEST
    assert read(step.headers["x-task-body"]).content == LARGE
    assert app.get(f"/api/v1/tasks/{call.task_id}/body").content == LARGE
    app.put(
        f"/api/v1/tasks/{call.task_id}/result",
        content=b"small",
        headers={"X-Task-Attempt": str(step.attempt), "X-Task-Complete": ""},
    ).raise_for_status()
    assert ended(app, call.task_id)["Step"] == 2
    assert app.get(f"/api/v1/tasks/{call.task_id}/result").content == b"small"
    assert read(step.headers["x-task-body"]).content == LARGE, "a body is kept as long as its task"
    assert blobs(azurite, f"t-{call.task_id}/")


@pytest.mark.contract("B18.17")
def test_a_result_that_replaces_another_deletes_its_blob(
    app: httpx.Client, backend: ScriptedBackend, azurite: Azurite
) -> None:
    call = at_work(app, backend)
    first, second = result_upload(app, call), result_upload(app, call, LARGE[::-1])
    put_result(app, call, first).raise_for_status()
    put_result(app, call, second).raise_for_status()
    eventually(lambda: {name.rpartition("u-")[2] for name in blobs(azurite, f"t-{call.task_id}/")} == {second})
    assert app.get(f"/api/v1/tasks/{call.task_id}/result").content == LARGE[::-1]


@pytest.mark.contract("B18.18")
def test_a_link_to_what_is_no_blob_is_the_content_itself(app: httpx.Client, backend: ScriptedBackend) -> None:
    call = at_work(app, backend)
    address = f"/api/v1/tasks/{call.task_id}/result"
    app.put(address, content=b"small", headers={"X-Task-Attempt": "1"}).raise_for_status()
    answer = app.get(address, params={"link": "1"})
    assert (answer.status_code, answer.content) == (200, b"small")
    app.put(address, content=LARGE, headers={"X-Task-Attempt": "1", "Content-Type": "a/b"}).raise_for_status()
    link = app.get(address, params={"link": "1"})
    assert link.status_code == 303
    got = read(link.headers["location"])
    assert (got.content, "repr-digest" in link.headers) == (LARGE, False)
    assert_problem(app.get(address, params={"link": "yes"}), 400, "invalid-request", field="link")
    unchanged = app.get(address, params={"link": "1"}, headers={"If-None-Match": link.headers["etag"]})
    assert unchanged.status_code == 304


@pytest.mark.contract("B18.20")
def test_the_body_of_a_task_can_be_read_like_a_result(app: httpx.Client, backend: ScriptedBackend) -> None:
    for data, headers in ((b"small body", {}), (LARGE, {})):
        task_id = submit(app, new_path(), data, content_type="image/tiff", **headers).json()["TaskId"]
        address = f"/api/v1/tasks/{task_id}/body"
        whole = app.get(address)
        assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, data, "image/tiff")
        assert whole.headers["accept-ranges"] == "bytes"
        assert whole.headers["x-content-type-options"] == "nosniff"
        part = app.get(address, headers={"Range": "bytes=2-4", "If-Range": whole.headers["etag"]})
        assert (part.status_code, part.content) == (206, data[2:5])
        assert part.headers["content-range"] == f"bytes 2-4/{len(data)}"
        other = app.get(address, headers={"Range": "bytes=2-4", "If-Range": '"another"'})
        assert (other.status_code, other.content) == (200, data)
        beyond = app.get(address, headers={"Range": f"bytes={len(data)}-"})
        assert_problem(beyond, 416, "range-not-satisfiable")
        assert beyond.headers["content-range"] == f"bytes */{len(data)}"
        assert app.get(address, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
        head = app.head(address)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(data)))
    tracked = app.post("/api/CacheConnectorUpsert", json={"Endpoint": f"{backend.url}{new_path()}"}).json()
    missing = app.get(f"/api/v1/tasks/{tracked['TaskId']}/body")
    assert assert_problem(missing, 404, "no-body")["TaskId"] == tracked["TaskId"]
    assert_problem(app.get(f"/api/v1/tasks/{UNKNOWN_ID}/body"), 404, "no-such-task")


@pytest.mark.contract("B18.21")
def test_a_replay_has_the_same_body(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = reference_path()
    backend.script(path, Answer(status=422), Answer())
    task_id = hand_in(app, path, uploaded(app)).json()["TaskId"]
    backend.next_call(path)
    assert ended(app, task_id)["BackendStatus"] == "failed"
    app.post(f"/api/v1/tasks/{task_id}/replay").raise_for_status()
    assert read(backend.next_call(path).headers["x-task-body"]).content == LARGE


@pytest.mark.contract("B18.24")
def test_no_answer_but_that_of_the_upload_and_the_link_has_a_url(
    app: httpx.Client, backend: ScriptedBackend, stack: Stack
) -> None:
    path = reference_path()
    backend.script(path, Answer(status=500, headers={"Content-Type": "text/plain"}, body=b"no"), Answer())
    upload = declare(app, LARGE, "image/tiff")
    assert write(upload["Url"], LARGE, "image/tiff").status_code == 201
    task_id = hand_in(app, path, upload["UploadId"]).json()["TaskId"]
    urls = [upload["Url"]]
    urls += [backend.next_call(path).headers["x-task-body"] for _ in range(2)]
    shown = [task_of(app, task_id), app.get(f"/api/v1/tasks/{task_id}/history").json()]
    shown += [app.get("/api/v1/tasks", params={"path": path}).json(), app.get("/api/v1/health").json()]
    assert "sig=" not in json.dumps(shown)
    printed = b"".join(file.read_bytes() for file in Path(stack.directory).rglob("*.log"))
    assert printed
    # Other tests of this app have model services that put URLs into the texts of their own answers.
    signatures = [parse_qs(urlsplit(url).query)["sig"][0] for url in urls]
    assert not [text for text in signatures if text.encode() in printed or quote(text, safe="").encode() in printed]


@pytest.mark.contract("B18.25")
def test_health_tells_how_much_can_be_uploaded(app: httpx.Client) -> None:
    assert app.get("/api/v1/health").json()["MaxUploadBytes"] == 100 * 1024**3
