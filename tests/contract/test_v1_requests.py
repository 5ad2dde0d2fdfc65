"""What holds for every operation of the v1 API: names that it knows, and what its answers show (contract B0)."""

from __future__ import annotations

import httpx
import pytest

from tests.contract.v1_support import assert_problem, keep, new_path, report, submit, task_of
from tests.scripted_backend import ScriptedBackend


@pytest.mark.contract("B0.50")
@pytest.mark.parametrize(
    ("method", "target", "name", "hint"),
    [
        ("GET", "/tasks?Status=failed", "Status", "did you mean status?"),
        ("GET", "/tasks?state=failed", "state", "did you mean status?"),
        ("GET", "/tasks?limit=5&Limit=1", "Limit", "did you mean limit?"),
        ("GET", "/tasks?statuses", "statuses", "did you mean status?"),
        (
            "GET",
            "/tasks?foo=",
            "foo",
            "this request takes path, status, batch, since, until, q, owner, attempts, limit, cursor",
        ),
        ("GET", "/tasks/{id}?Wait=5", "Wait", "did you mean wait?"),
        ("GET", "/tasks/{id}/history?limit=1", "limit", "this request takes none"),
        ("GET", "/tasks/{id}/result?download=1", "download", "this request takes link"),
        ("PUT", "/tasks/{id}/result?attempt=1", "attempt", "this request takes none"),
        ("POST", "/tasks/{id}/heartbeat?attempt=1", "attempt", "this request takes none"),
        ("POST", "/tasks/{id}/replay?force=1", "force", "this request takes none"),
        ("DELETE", "/tasks/{id}?force=1", "force", "this request takes purge"),
        ("GET", "/queues?path=/v1/test", "path", "this request takes limit, cursor, all"),
        ("GET", "/queues{path}?state=created", "state", "this request takes limit, cursor, all"),
        ("PATCH", "/queues{path}?Paused=true", "Paused", "this request takes none"),
    ],
)
def test_unknown_query_parameter_is_refused_with_the_nearest_name(
    method: str, target: str, name: str, hint: str, app: httpx.Client, backend: ScriptedBackend
) -> None:
    path = new_path()
    task_id = keep(app, backend, path)
    before = task_of(app, task_id)
    response = app.request(method, "/api/v1" + target.format(id=task_id, path=path), content=b"{}")
    document = assert_problem(response, 400, "invalid-request", field=name)
    assert document["errors"][0]["detail"] == f"there is no such query parameter; {hint}"
    assert task_of(app, task_id) == before


@pytest.mark.contract("B0.50")
def test_key_of_the_functions_host_is_no_unknown_parameter(app: httpx.Client) -> None:
    key = app.headers["x-functions-key"]
    for query in (f"code={key}", f"CODE={key}", f"code={key}&clientId=default&limit=1"):
        assert app.get(f"/api/v1/tasks?{query}").status_code == 200


@pytest.mark.contract("B0.50")
def test_submit_and_health_take_any_parameter(app: httpx.Client) -> None:
    assert app.post(f"/api/v1/submit{new_path()}?Status=failed").status_code == 202
    assert app.get("/api/v1/health?probe=1").status_code == 200


@pytest.mark.contract("B0.51")
def test_conflict_shows_the_task_by_itself_and_no_name_twice_in_any_case(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    task_id = keep(app, backend, BackendStatus="completed")
    shown = task_of(app, task_id)
    address = f"/api/v1/tasks/{task_id}"
    for response in (
        app.delete(address),
        app.post(f"{address}/replay"),
        app.post(f"{address}/heartbeat"),
        app.put(f"{address}/result", content=b"late"),
    ):
        document = assert_problem(response, 409, "conflict")
        assert document["Task"] == shown
        names = [name.lower() for name in document]
        assert len(set(names)) == len(names)


@pytest.mark.contract("B0.52", "A1.4")
def test_only_legacy_answers_show_the_url_of_the_model_service(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    task_id = submit(app, f"{path}?scene=7").json()["TaskId"]
    address = f"/api/v1/tasks/{task_id}"
    answers = [
        submit(app, path),
        app.get(address),
        app.get("/api/v1/tasks", params={"path": path}),
        app.put(f"{address}/result", content=b"result"),
        app.delete(address),
        app.post(f"{address}/heartbeat"),
        app.get(f"{address}/history"),
        app.get(f"/api/v1/queues{path}"),
    ]
    for response in answers:
        assert response.status_code in (200, 202, 409), response.text
        assert backend.url not in response.text
        assert backend.url.removeprefix("http://") not in response.text
    assert answers[1].json()["Endpoint"] == path
    legacy = app.get("/api/CacheConnectorGet", params={"taskId": task_id}).json()
    assert legacy["Endpoint"] == f"{backend.url}{path}?scene=7"
    conflict = app.post("/api/CacheConnectorUpsert", json={"TaskId": task_id, "BackendStatus": "running"}).json()
    assert conflict["Task"]["Endpoint"] == f"{backend.url}{path}?scene=7"
    kept = report(app, Endpoint=backend.url + path)
    assert kept["Endpoint"] == backend.url + path
