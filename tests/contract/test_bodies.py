"""JSON bodies within bounds, and answers that no cache keeps."""

from __future__ import annotations

import httpx
import pytest

from tests.contract.legacy_support import UPSERT, Endpoint, new_endpoint
from tests.scripted_backend import ScriptedBackend


@pytest.fixture
def endpoint(backend: ScriptedBackend) -> Endpoint:
    return new_endpoint(backend)


@pytest.mark.contract("A1.50")
@pytest.mark.parametrize(
    "bomb",
    [b"[" + b"[]," * 700_000 + b"[]]", b"[" * 1_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000],
    ids=["lists", "levels", "objects", "closed"],
)
def test_a_body_of_too_many_values_or_levels_is_refused(app: httpx.Client, bomb: bytes) -> None:
    response = app.post(UPSERT, content=bomb)
    assert response.status_code == 400
    assert [error["pointer"] for error in response.json()["errors"]] == [""]


@pytest.mark.contract("B0.54")
@pytest.mark.parametrize(
    ("method", "path", "most_bytes"),
    [
        ("PATCH", "v1/queues{path}", 64 * 1024),
        ("POST", "v1/batches", 64 * 1024),
        ("POST", "v1/uploads", 64 * 1024),
        ("POST", "v1/tasks/x/heartbeat", 64 * 1024),
        ("POST", "v1/heartbeats", 3 * 1024 * 1024),
        ("POST", "CurrentProcessingUpsert", 2 * 1024 * 1024),
    ],
)
def test_a_body_that_can_be_small_is_refused_if_it_is_large(
    app: httpx.Client, endpoint: Endpoint, method: str, path: str, most_bytes: int
) -> None:
    url = "/api/" + path.format(path=endpoint.path)
    response = app.request(method, url, content=b"[" * (most_bytes + 1))
    assert (response.status_code, response.json()["type"]) == (413, "urn:task-backbone:problem:too-large")
    assert app.request(method, url, content=b"[" * most_bytes).status_code == 400


@pytest.mark.contract("B0.55")
def test_a_member_that_stands_twice_is_refused(app: httpx.Client, endpoint: Endpoint) -> None:
    for body in (b'{"Paused":true,"paused":false}', b'{"Paused":true,"Paused":true}'):
        response = app.patch(f"/api/v1/queues{endpoint.path}", content=body)
        assert response.status_code == 400
        assert [error["pointer"] for error in response.json()["errors"]] == ["/Paused"]


@pytest.mark.contract("B0.56")
@pytest.mark.parametrize(
    "path",
    [
        "v1/tasks/{id}/history",
        "v1/tasks/{id}/result",
        "v1/tasks/{id}/body",
        "v1/tasks",
        "v1/batches",
        "v1/queues",
        "v1/health",
        "v1/tasks/unknown",
        "CacheConnectorGet?taskId={id}",
        "CacheConnectorGet?taskId=unknown",
        "CurrentProcessingGet?cluster=none&path=none",
    ],
)
def test_no_cache_keeps_an_answer(app: httpx.Client, endpoint: Endpoint, path: str) -> None:
    task_id = app.post(f"/api/v1/submit{endpoint.path}", content=b"{}").json()["TaskId"]
    app.put(f"/api/v1/tasks/{task_id}/result", content=b"{}").raise_for_status()
    response = app.get("/api/" + path.format(id=task_id))
    # A list has an ETag, by which it may be asked for again. Nobody keeps contents.
    is_list = path in {"v1/tasks", "v1/batches", "v1/queues"}
    assert response.headers["cache-control"] == ("no-cache" if is_list else "no-store")
