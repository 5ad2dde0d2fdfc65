"""How a task flows when nothing fails: submit, dispatch, progress, result, next step."""

from __future__ import annotations

import random

import pytest

from shared.settings import INLINE_LIMIT_BYTES
from tests.end_to_end.backbone import Backbone
from tests.scripted_backend import Answer, ScriptedBackend


def _noise(size_bytes: int) -> bytes:
    return random.Random(size_bytes).randbytes(size_bytes)


@pytest.mark.parametrize(
    "size_bytes",
    [
        pytest.param(1, id="one byte"),
        pytest.param(INLINE_LIMIT_BYTES, id="the largest inline body"),
        pytest.param(INLINE_LIMIT_BYTES + 1, id="the smallest blob"),
        pytest.param(9_000_000, id="a blob of several blocks"),
    ],
)
def test_body_and_result_arrive_byte_for_byte(backbone: Backbone, backend: ScriptedBackend, size_bytes: int) -> None:
    path = f"/v1/test/bytes/{size_bytes}"
    body, result = _noise(size_bytes), _noise(size_bytes)[::-1]

    query = "?classes=5&name=a%20b"

    task_id = backbone.submit(path + query, body, "image/x-noise; depth=8")

    call = backend.next_call(path)
    assert (call.path, call.body) == (path + query, body)
    assert (call.task_id, call.attempt) == (task_id, 1)
    assert call.headers["content-type"] == "image/x-noise; depth=8"

    backbone.update(task_id, "running", "running model", Attempt=1).raise_for_status()
    stored = backbone.http.put(
        f"/api/v1/tasks/{task_id}/result",
        content=result,
        headers={"Content-Type": "image/x-map", "X-Task-Attempt": "1"},
    )
    assert stored.status_code == 200
    backbone.update(task_id, "completed", "completed - 5 classes", Attempt=1).raise_for_status()

    ended = backbone.ended(task_id)
    assert (ended["BackendStatus"], ended["Status"]) == ("completed", "completed - 5 classes")
    assert (ended["ResultContentType"], ended["ResultSize"]) == ("image/x-map", size_bytes)
    fetched = backbone.http.get(f"/api/v1/tasks/{task_id}/result")
    assert fetched.content == result
    assert fetched.headers["content-type"] == "image/x-map"
    assert backbone.transitions(task_id) == [("created", 1), ("dispatched", 1), ("running", 1), ("completed", 1)]
    assert backbone.depth(path) == {"Completed": 1}


def test_next_step_moves_the_task_and_its_count_to_the_next_endpoint(
    backbone: Backbone, backend: ScriptedBackend
) -> None:
    first, second, third = (f"/v1/test/pipeline/{step}" for step in ("detect", "classify", "report"))
    task_id = backbone.submit(first, b'{"picture":1}', "application/x-original")
    backend.next_call(first)
    backbone.update(task_id, "running").raise_for_status()
    assert (backbone.depth(first), backbone.depth(second)) == ({"Running": 1}, {})

    _next_step(backbone, backend.url + second, task_id, Body='{"boxes":[]}')
    call = backend.next_call(second)
    assert (call.task_id, call.attempt, call.body) == (task_id, 2, b'{"boxes":[]}')
    backbone.update(task_id, "running", Attempt=2).raise_for_status()
    assert (backbone.depth(first), backbone.depth(second)) == ({}, {"Running": 1})

    _next_step(backbone, backend.url + third, task_id)
    call = backend.next_call(third)
    assert (call.attempt, call.body) == (3, b'{"boxes":[]}'), "the stored body is sent again if the step brings none"
    backbone.update(task_id, "completed", Attempt=3).raise_for_status()
    assert (backbone.depth(first), backbone.depth(second), backbone.depth(third)) == ({}, {}, {"Completed": 1})
    assert backbone.task(task_id)["EndpointPath"] == third


def test_finished_pipeline_step_can_no_longer_change_the_task(backbone: Backbone, backend: ScriptedBackend) -> None:
    first, second = "/v1/test/next-step/1", "/v1/test/next-step/2"
    task_id = backbone.submit(first)
    backend.next_call(first)
    _next_step(backbone, backend.url + second, task_id, Body="{}", Attempt=1)
    backend.next_call(second)

    refused = backbone.update(task_id, "failed", "the first step crashed on its way out", Attempt=1)

    assert refused.status_code == 409
    assert refused.json()["Task"]["Attempt"] == 2
    assert (backbone.depth(first), backbone.depth(second)) == ({}, {"Dispatched": 1})
    backbone.complete(task_id)


def test_next_step_can_read_the_previous_result_even_at_its_second_attempt(
    backbone: Backbone, backend: ScriptedBackend
) -> None:
    first, second = "/v1/test/builds-on/1", "/v1/test/builds-on/2"
    backend.script(second, Answer(500), Answer(200))
    task_id = backbone.submit(first)
    backend.next_call(first)
    backbone.http.put(f"/api/v1/tasks/{task_id}/result", content=b"the map").raise_for_status()
    _next_step(backbone, backend.url + second, task_id, Body="{}", Attempt=1)
    for _ in range(2):
        backend.next_call(second)

    result = backbone.http.get(f"/api/v1/tasks/{task_id}/result")

    backbone.complete(task_id)
    assert (result.status_code, result.content) == (200, b"the map")


def _next_step(backbone: Backbone, endpoint: str, task_id: str, **members: object) -> None:
    answer = backbone.update(task_id, "created", "created", Endpoint=endpoint, PublishToGrid=True, **members)
    assert answer.status_code == 200, answer.text
