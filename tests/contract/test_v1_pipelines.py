"""Pipelines: one task through several endpoints (contract B16)."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pytest

from local.azurite import Azurite
from tests.conftest import NAMED_PIPELINE, NAMED_STEPS
from tests.contract.v1_support import (
    INLINE_LIMIT_BYTES,
    UNKNOWN_ID,
    all_queues,
    assert_problem,
    blob_sizes,
    ended,
    keep,
    new_path,
    pattern_bytes,
    report,
    submit,
    task_of,
)
from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.waiting import eventually

LARGE = pattern_bytes(INLINE_LIMIT_BYTES + 1)
Events = list[dict[str, Any]]


def history(app: httpx.Client, task_id: str) -> Events:
    return app.get(f"/api/v1/tasks/{task_id}/history").raise_for_status().json()["Events"]


def put_result(app: httpx.Client, call: Call, data: bytes, done: str | None = None, **headers: str) -> httpx.Response:
    complete = {} if done is None else {"X-Task-Complete": quote(done)}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    attempt = {"X-Task-Attempt": str(call.attempt)}
    return app.put(f"/api/v1/tasks/{call.task_id}/result", content=data, headers=attempt | complete | named)


def send_on(
    app: httpx.Client, task_id: str, path: str, content: bytes = b"", attempt: int | None = 1, **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    fence = {} if attempt is None else {"X-Task-Attempt": str(attempt)}
    return app.post(f"/api/v1/tasks/{task_id}/next{path}", content=content, headers=fence | named)


def counts(app: httpx.Client, *paths: str) -> list[dict[str, int]]:
    """What each endpoint counts, without the zeros."""
    states = ("Waiting", "Dispatched", "Running", "Completed", "Failed", "Cancelled")
    depths = [app.get(f"/api/v1/queues{path}").raise_for_status().json() for path in paths]
    return [{state: depth[state] for state in states if depth[state]} for depth in depths]


def stay_waiting(app: httpx.Client, path: str) -> None:
    app.patch(f"/api/v1/queues{path}", json={"Paused": True}).raise_for_status()


@pytest.mark.contract("B16.1", "B16.2", "B16.3", "B16.9", "B6.1", "B6.4")
def test_a_task_goes_through_its_pipeline_with_each_result_as_the_next_body(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    first, second, third = (new_path() for _ in range(3))
    last = third.replace("/v1/test", "/v1/foreign")
    backend.script(last, Answer(body=b"<map/>", headers={"Content-Type": "image/svg+xml"}))
    pipeline = f"{second}?x=1,2 , {third}/,{last}"
    submitted = submit(app, f"{first}?a=b", b"photo", Pipeline=pipeline, Content_Type="image/jpeg").json()
    assert (submitted["Step"], submitted["Steps"], submitted.get("Pipeline")) == (1, 4, None)

    call = backend.next_call(first)
    assert call.path == f"{first}?a=b"
    report(app, TaskId=call.task_id, Attempt=1, BackendStatus="running")
    assert counts(app, first, second) == [{"Running": 1}, {}]
    stay_waiting(app, second)
    answer = put_result(
        app, call, b"boxes", "completed - 3 ✓", Content_Type="text/x-boxes", Content_Encoding="x-none"
    )
    shown = answer.json()
    assert (shown["BackendStatus"], shown["Status"], shown["Step"]) == ("created", "created", 2)
    assert (shown["EndpointPath"], shown["Attempt"], shown["ResultSize"]) == (second, 2, None)
    assert counts(app, first, second) == [{}, {"Waiting": 1}]
    app.patch(f"/api/v1/queues{second}", json={"Paused": None}).raise_for_status()

    call = backend.next_call(second)
    assert call.path == f"{second}?x=1,2"
    assert (call.body, call.headers["content-type"], call.attempt) == (b"boxes", "text/x-boxes", 2)
    assert call.headers["content-encoding"] == "x-none"
    report(app, TaskId=call.task_id, Attempt=2, BackendStatus="completed", Status="completed")
    assert backend.next_call(third).body == b"boxes", "without a result, the body goes on"
    report(app, TaskId=call.task_id, BackendStatus="completed", Status="completed")

    task = ended(app, call.task_id)
    assert (task["BackendStatus"], task["EndpointPath"], task["Step"]) == ("completed", last, 4)
    assert app.get(f"/api/v1/tasks/{call.task_id}/result").content == b"<map/>"
    assert counts(app, first, second, third, last) == [{}, {}, {}, {"Completed": 1}]
    assert [(event["EndpointPath"], event["Reason"]) for event in history(app, call.task_id)] == [
        (first, "submit"),
        (first, "claim"),
        (first, "report"),
        (second, "next-step"),
        (second, "claim"),
        (third, "next-step"),
        (third, "claim"),
        (last, "next-step"),
        (last, "claim"),
        (last, "answer"),
    ]
    assert history(app, call.task_id)[3]["Status"] == "completed - 3 ✓"


@pytest.mark.contract("B16.4")
def test_a_pipeline_with_a_path_that_is_no_endpoint_is_refused_by_its_name(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    first, good = new_path(), new_path()
    for bad in ("/v2/nowhere", "/v1/listed/other", "/v1/test/../x"):
        problem = assert_problem(submit(app, first, Pipeline=f"{good}, {bad}"), 404, "unknown-endpoint")
        assert bad in problem["detail"]
    for text in ("", "v1/test/x", "https://models.example.org/v1/x", f"{good},", ", ".join([good] * 17)):
        assert_problem(submit(app, first, Pipeline=text), 400, "invalid-request", field="Pipeline")
    assert submit(app, first, Pipeline=", ".join([good] * 16)).json()["Steps"] == 17
    assert backend.next_call(first).body == b"{}"
    assert backend.untaken(first) == 0


@pytest.mark.contract("B16.5")
def test_the_pipeline_is_part_of_what_an_idempotency_key_stands_for(app: httpx.Client) -> None:
    first, second = new_path(), new_path()
    task_id = submit(app, first, Idempotency_Key="k", Pipeline=f"{second}?x=1").json()["TaskId"]
    again = submit(app, first, Idempotency_Key="k", Pipeline=f"{second}/?x=1")
    assert (again.status_code, again.json()["TaskId"]) == (202, task_id)
    for other in ({}, {"Pipeline": second}, {"Pipeline": f"{second}?x=1, {second}"}):
        problem = assert_problem(submit(app, first, Idempotency_Key="k", **other), 422, "idempotency-key-reused")
        assert "another body, query, type, pipeline or batch" in problem["detail"]


@pytest.mark.contract("B16.6", "B16.8", "B16.15")
def test_a_failed_step_is_replayed_with_its_own_body_and_keeps_owner_and_priority(
    app: httpx.Client, backend: ScriptedBackend, azurite: Azurite
) -> None:
    first, second = new_path(), new_path()
    submit(app, first, LARGE, Pipeline=second, Priority="8")
    call = backend.next_call(first)
    put_result(app, call, LARGE + b"1", Content_Type="image/tiff").raise_for_status()
    put_result(app, call, LARGE + b"12", "completed", Content_Type="image/tiff").raise_for_status()
    call = backend.next_call(second)
    assert call.body == LARGE + b"12"
    eventually(lambda: blob_sizes(azurite, call.task_id) == [len(LARGE) + 2])
    report(app, TaskId=call.task_id, Attempt=2, BackendStatus="failed", Status="failed")
    replayed = app.post(f"/api/v1/tasks/{call.task_id}/replay")
    assert (replayed.status_code, replayed.json()["Step"], replayed.json()["Priority"]) == (202, 2, 8)
    call = backend.next_call(second)
    assert (call.attempt, call.body, call.headers["content-type"]) == (3, LARGE + b"12", "image/tiff")
    assert backend.untaken(first) == 0
    put_result(app, call, b"small", "completed").raise_for_status()
    assert (task_of(app, call.task_id)["Step"], counts(app, first, second)) == (2, [{}, {"Completed": 1}])
    assert history(app, call.task_id)[-3]["Reason"] == "replay"


@pytest.mark.contract("B16.6", "B14.3")
def test_cancel_release_and_checkpoint_hold_in_each_step(app: httpx.Client, backend: ScriptedBackend) -> None:
    first, second, third = (new_path() for _ in range(3))
    submit(app, first, Pipeline=f"{second},{third}")
    call = backend.next_call(first)
    checkpoint = f"/api/v1/tasks/{call.task_id}/checkpoint"
    app.put(checkpoint, content=b"half", headers={"X-Task-Attempt": "1"}).raise_for_status()
    put_result(app, call, b"1", "completed").raise_for_status()
    backend.next_call(second)
    assert_problem(app.get(checkpoint), 404, "no-checkpoint")
    released = app.post(f"/api/v1/tasks/{call.task_id}/release", headers={"X-Task-Attempt": "2"})
    assert (released.status_code, released.json()["EndpointPath"], released.json()["Step"]) == (200, second, 2)
    call = backend.next_call(second)
    assert (call.attempt, call.body) == (3, b"1")
    assert history(app, call.task_id)[-2]["Reason"] == "release"
    app.delete(f"/api/v1/tasks/{call.task_id}").raise_for_status()
    refused = assert_problem(put_result(app, call, b"2", "completed"), 409, "conflict")
    assert refused["Task"]["BackendStatus"] == "cancelled"
    assert counts(app, first, second, third) == [{}, {"Cancelled": 1}, {}]


@pytest.mark.contract("B16.7")
def test_a_completion_that_leads_on_is_answered_the_same_when_it_is_repeated(
    app: httpx.Client, backend: ScriptedBackend, azurite: Azurite
) -> None:
    first, second = new_path(), new_path()
    submit(app, first, Pipeline=second)
    call = backend.next_call(first)
    for _ in range(3):
        again = put_result(app, call, LARGE, "completed")
        assert (again.status_code, again.json()["EndpointPath"], again.json()["Attempt"]) == (200, second, 2)
    assert_problem(put_result(app, call, LARGE + b"1", "completed"), 409, "conflict")
    assert_problem(put_result(app, call, LARGE), 409, "conflict")
    assert backend.next_call(second).body == LARGE
    eventually(lambda: blob_sizes(azurite, call.task_id) == [len(LARGE)])
    assert backend.untaken(second) == 0


@pytest.mark.contract("B16.10", "B16.11", "B16.13", "B16.14")
def test_a_service_sends_its_task_on_with_any_body_the_result_or_the_body_it_got(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    paths = [new_path() for _ in range(4)]
    submit(app, paths[0], b"photo", Content_Type="image/jpeg")
    task_id = backend.next_call(paths[0]).task_id
    nothing_yet = send_on(app, task_id, paths[1], X_Next_Body="result")
    assert "result" in assert_problem(nothing_yet, 409, "conflict")["detail"]

    given: list[tuple[str, bytes, dict[str, str], bytes, str]] = [
        (f"{paths[1]}/?x=1&code=k", b"\x00\xff", {"Content_Type": "image/x-raw"}, b"\x00\xff", "image/x-raw"),
        (paths[2], b"", {"X_Next_Body": "result"}, b"boxes", "text/x-boxes"),
        (paths[3], b"", {"X_Next_Body": "Current"}, b"boxes", "text/x-boxes"),
    ]
    for attempt, (path, content, headers, body, content_type) in enumerate(given, start=1):
        if "X_Next_Body" in headers and attempt == 2:
            result = {"X-Task-Attempt": "2", "Content-Type": "text/x-boxes"}
            app.put(f"/api/v1/tasks/{task_id}/result", content=b"boxes", headers=result).raise_for_status()
        for _ in range(2):  # once more, since the answer was lost
            answer = send_on(app, task_id, path, content, attempt, **headers)
            assert (answer.status_code, answer.json()["Attempt"]) == (200, attempt + 1), answer.text
            assert counts(app, *paths[:attempt]) == [{}] * attempt
        call = backend.next_call(paths[attempt])
        assert call.path == paths[attempt] + ("?x=1" if attempt == 1 else "")
        assert (call.attempt, call.body, call.headers["content-type"]) == (attempt + 1, body, content_type)
        again = send_on(app, task_id, path, content, attempt, **headers)
        assert (again.status_code, again.json()["Attempt"]) == (200, attempt + 1)
        assert_problem(send_on(app, task_id, path, b"other", attempt), 409, "conflict")
    assert task_of(app, task_id)["ResultSize"] is None
    assert sum(counts(app, paths[3])[0].values()) == 1


@pytest.mark.contract("B16.12")
def test_a_next_step_that_cannot_be_changes_nothing(app: httpx.Client, backend: ScriptedBackend) -> None:
    path, other = new_path(), new_path()
    submit(app, path)
    task_id = backend.next_call(path).task_id
    before = task_of(app, task_id)
    for unknown in ("/v2/nowhere", "/v1/listed/other", NAMED_PIPELINE):
        assert_problem(send_on(app, task_id, unknown), 400, "invalid-request", field="path")
    assert_problem(send_on(app, task_id, other, attempt=None), 400, "invalid-request", field="X-Task-Attempt")
    for bad in ("both", "given", ""):
        answer = send_on(app, task_id, other, X_Next_Body=bad)
        assert_problem(answer, 400, "invalid-request", field="X-Next-Body")
    with_body = send_on(app, task_id, other, b"body", X_Next_Body="current")
    assert_problem(with_body, 400, "invalid-request", field="X-Next-Body")
    assert_problem(send_on(app, task_id, other, attempt=2), 409, "conflict")
    assert_problem(send_on(app, UNKNOWN_ID, other), 404, "no-such-task")
    assert task_of(app, task_id) == before
    waiting, done = keep(app, backend), keep(app, backend, BackendStatus="completed")
    for refused in (waiting, done):
        assert_problem(send_on(app, refused, other), 409, "conflict")
    assert counts(app, path, other)[1] == {}


@pytest.mark.contract("B16.16", "B16.17")
def test_a_pipeline_with_a_name_is_an_endpoint_like_any_other(app: httpx.Client, backend: ScriptedBackend) -> None:
    detect, classify = NAMED_STEPS
    before = counts(app, NAMED_PIPELINE, detect, classify)
    backend.script(classify, Answer(body=b"classes"))
    submitted = submit(app, f"{NAMED_PIPELINE}?max=9", b"photo", Idempotency_Key=new_path())
    assert submitted.status_code == 202
    task = submitted.json()
    assert (task["Pipeline"], task["EndpointPath"], task["Step"], task["Steps"]) == (NAMED_PIPELINE, detect, 1, 2)
    call = backend.next_call(detect)
    assert call.path == f"{detect}?min=0.5&max=9"
    report(app, TaskId=call.task_id, Attempt=1, BackendStatus="running")
    assert counts(app, NAMED_PIPELINE)[0]["Running"] == 1
    listed = app.get("/api/v1/tasks", params={"path": NAMED_PIPELINE, "status": "running"}).json()["Tasks"]
    assert [each["TaskId"] for each in listed] == [call.task_id]
    everything = app.get("/api/v1/tasks", params={"status": "running"}).json()["Tasks"]
    assert [each["TaskId"] for each in everything].count(call.task_id) == 1
    assert {NAMED_PIPELINE, detect} <= all_queues(app).keys()
    put_result(app, call, b"boxes", "completed").raise_for_status()
    assert backend.next_call(classify).body == b"boxes"
    assert ended(app, call.task_id)["Status"] == "completed"
    completed = [count.get("Completed", 0) for count in before]
    after = [count.get("Completed", 0) for count in counts(app, NAMED_PIPELINE, detect, classify)]
    assert after == [completed[0] + 1, completed[1], completed[2] + 1]
    settings = app.patch(f"/api/v1/queues{NAMED_PIPELINE}", json={"Paused": True})
    assert "pipeline" in assert_problem(settings, 404, "unknown-endpoint")["detail"]
