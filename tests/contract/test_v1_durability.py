"""A deployment with ``DURABILITY``, whose Redis has no replica (contract B0.60 to B0.62)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local.redis_server import RedisServer
from local.stack import Stack
from tests.conftest import IN_A_HURRY
from tests.contract.v1_support import assert_problem, new_path, report, submit, task_of
from tests.scripted_backend import ScriptedBackend
from tests.waiting import eventually


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("primary") / "redis") as server:
        yield server


@pytest.fixture(scope="module")
def app(
    tmp_path_factory: pytest.TempPathFactory, primary: RedisServer, backend: ScriptedBackend
) -> Iterator[httpx.Client]:
    with (
        Stack(
            tmp_path_factory.mktemp("stack"),
            redis=primary,
            backends={"/v1/test": backend.url},
            with_model=False,
            settings=IN_A_HURRY | {"DURABILITY": "replica"},
        ) as stack,
        stack.client() as client,
    ):
        yield client


def with_a_replica(primary: RedisServer, directory: Path) -> RedisServer:
    """A server that is to be started, and to follow the *primary*."""
    return RedisServer(directory, extra_arguments=("--replicaof", f"127.0.0.1 {primary.port}"))


def assert_unacknowledged(response: httpx.Response) -> None:
    assert_problem(response, 503, "unavailable")
    assert int(response.headers["Retry-After"]) > 0


@pytest.mark.contract("B0.60")
def test_what_is_not_acknowledged_is_answered_503_and_goes_on(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    assert_unacknowledged(submit(app, path))
    task_id = backend.next_call(path).task_id
    assert task_id is not None
    response = app.post("/api/CacheConnectorUpsert", json={"TaskId": task_id, "BackendStatus": "completed"})
    assert_unacknowledged(response)
    assert task_of(app, task_id)["BackendStatus"] == "completed"


@pytest.mark.contract("B0.61")
def test_a_repetition_finds_what_was_kept(
    app: httpx.Client, backend: ScriptedBackend, primary: RedisServer, tmp_path: Path
) -> None:
    path = new_path()
    for _ in range(2):  # the second finds the task, and is acknowledged as little
        assert_unacknowledged(submit(app, path, Idempotency_Key=path))
    task_id = backend.next_call(path).task_id
    with with_a_replica(primary, tmp_path / "replica"):

        def acknowledged() -> httpx.Response | None:
            response = submit(app, path, Idempotency_Key=path)
            return None if response.status_code == 503 else response

        response = eventually(acknowledged)
        assert response is not None
        assert response.json()["TaskId"] == task_id
        assert report(app, TaskId=task_id, BackendStatus="completed")["BackendStatus"] == "completed"
    assert backend.untaken(path) == 0


@pytest.mark.contract("B0.62")
def test_reads_and_refusals_wait_for_nothing(app: httpx.Client) -> None:
    assert app.get("/api/v1/tasks").status_code == 200
    assert app.delete("/api/v1/tasks/unknown").status_code == 404
    assert_problem(submit(app, "/v1/elsewhere"), 404, "unknown-endpoint")
