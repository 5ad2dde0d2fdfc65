"""CacheConnectorGet (contract A2)."""

import httpx
import pytest

from tests.contract.legacy_support import GET, assert_problem, kept_task, new_endpoint, upsert
from tests.scripted_backend import ScriptedBackend


@pytest.mark.contract("A2.1")
@pytest.mark.parametrize("size", [10, 200_000], ids=["inline", "blob"])
def test_answer_is_the_stored_task_without_its_request_body(
    app: httpx.Client, backend: ScriptedBackend, size: int
) -> None:
    secret = "s3cr3t" + "x" * size
    endpoint = new_endpoint(backend)
    task = kept_task(app, endpoint, Body=secret, Status="created - waiting")
    response = app.get(GET, params={"taskId": task["TaskId"]})
    assert response.status_code == 200
    assert response.headers["Content-Type"].partition(";")[0] == "application/json"
    assert response.json() == task
    assert response.json()["Body"] is None
    assert "s3cr3t" not in response.text


@pytest.mark.contract("A2.2")
def test_every_update_is_visible_at_once(app: httpx.Client, backend: ScriptedBackend) -> None:
    task_id = kept_task(app, new_endpoint(backend))["TaskId"]
    for backend_status, status in [("running", "10 %"), ("running", "90 %"), ("completed", "completed - done")]:
        updated = upsert(app, TaskId=task_id, BackendStatus=backend_status, Status=status)
        assert app.get(GET, params={"taskId": task_id}).json() == updated
        assert (updated["BackendStatus"], updated["Status"]) == (backend_status, status)


@pytest.mark.contract("A2.3")
@pytest.mark.parametrize(
    "task_id",
    [
        *("0b1e6cf4-7d1c-4a8e-9c0e-3f7a2b9d5e61", "nil", "x" * 128, "x" * 129, "x" * 8_000),
        *(
            "../../etc/passwd",
            "a/b",
            "a b",
            "*",
            "a\0b",
            "\u202eksat",
            "größe",
            "a\r\nX-Injected: yes",
            "{04s}t:x",
            " ",
        ),
    ],
    ids=lambda task_id: ascii(task_id)[:30],
)
def test_unknown_id_is_204_with_an_empty_body(app: httpx.Client, task_id: str) -> None:
    response = app.get(GET, params={"taskId": task_id})
    assert response.status_code == 204
    assert response.content == b""


@pytest.mark.contract("A2.3")
def test_id_that_is_not_utf_8_is_204(app: httpx.Client) -> None:
    assert app.get(f"{GET}?taskId=%ff%fe%c0%af").status_code == 204


@pytest.mark.contract("A2.4")
@pytest.mark.parametrize("query", ["", "?taskId=", "?taskId", "?task=5", "?id=5"])
def test_request_without_task_id_is_refused(app: httpx.Client, query: str) -> None:
    assert_problem(app.get(GET + query), 400, "taskId")
