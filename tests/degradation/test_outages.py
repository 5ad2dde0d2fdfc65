"""The whole app while a dependency is silent, and its recovery."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from local.azurite import Azurite
from local.stack import NO_TLS
from tests.contract.v1_support import complete_on_call, ended, new_path, submit, task_of
from tests.degradation.conftest import Fragile, fragile_stack
from tests.scripted_backend import ScriptedBackend
from tests.waiting import PATIENCE_S, eventually

MANY = 200


@pytest.fixture(scope="module")
def fragile(
    tmp_path_factory: pytest.TempPathFactory, azurite: Azurite, backend: ScriptedBackend
) -> Iterator[Fragile]:
    # A task's own calls may still be in flight after its end is visible: leave room for those too.
    settings = {"MAX_IN_FLIGHT": str(2 * MANY)}
    with fragile_stack(tmp_path_factory.mktemp("outages"), azurite, backend, settings) as fragile:
        yield fragile


@pytest.fixture
def app(fragile: Fragile) -> Iterator[httpx.Client]:
    with fragile.stack.client() as client:
        yield client
    fragile.restore()


def health(fragile: Fragile) -> tuple[int, str, str]:
    response = httpx.get(f"{fragile.stack.url}/api/v1/health", timeout=PATIENCE_S, verify=NO_TLS)
    document = response.json()
    return response.status_code, document["Status"], document["Dependencies"]["Redis"]


async def ask_many(fragile: Fragile, path: str) -> Counter[tuple[int, bool, bool]]:
    """Count the answers to many concurrent requests: status, whether it names the task store, has `Retry-After`."""
    limits = httpx.Limits(max_connections=MANY)
    headers = {"x-functions-key": fragile.stack.key}
    async with httpx.AsyncClient(
        base_url=fragile.stack.url, headers=headers, timeout=PATIENCE_S, verify=NO_TLS, limits=limits
    ) as app:
        responses = await asyncio.gather(*(app.get(path) for _ in range(MANY)))
    return Counter(
        (response.status_code, "The task store" in response.text, "retry-after" in response.headers)
        for response in responses
    )


def test_silent_redis_makes_every_request_503_until_it_answers_again(
    app: httpx.Client, backend: ScriptedBackend, fragile: Fragile
) -> None:
    path = new_path()
    complete_on_call(fragile.stack, backend, path)
    task_id = submit(app, path).json()["TaskId"]
    before = ended(app, task_id)
    fragile.redis.silence()
    for _ in range(2):
        assert asyncio.run(ask_many(fragile, f"/api/v1/tasks/{task_id}")) == {(503, True, True): MANY}
        eventually(lambda: health(fragile) == (503, "unavailable", "unavailable"))
    fragile.redis.flow()
    eventually(lambda: health(fragile)[::2] == (200, "ok"))
    eventually(lambda: app.get(f"/api/v1/tasks/{task_id}").status_code == 200)
    assert task_of(app, task_id) == before
    response = eventually(lambda: sent if (sent := submit(app, path)).status_code == 202 else None)
    assert ended(app, response.json()["TaskId"])["BackendStatus"] == "completed"


@pytest.mark.contract("B1.13")
def test_a_task_that_was_accepted_is_not_denied_when_redis_falls_silent_during_the_wait(
    app: httpx.Client, fragile: Fragile
) -> None:
    path = new_path()
    with ThreadPoolExecutor(1) as callers:
        waiting = callers.submit(submit, app, path, prefer="wait=5")
        [task] = eventually(lambda: app.get("/api/v1/tasks", params={"path": path}).json()["Tasks"])
        fragile.redis.silence()
        answer = waiting.result()
    fragile.redis.flow()
    assert answer.status_code == 202
    assert answer.json()["TaskId"] == task["TaskId"]
    assert answer.headers["location"].endswith(task["TaskId"])


def test_tasks_submitted_during_a_silent_event_grid_run_after_recovery(
    app: httpx.Client, backend: ScriptedBackend, fragile: Fragile
) -> None:
    path = new_path()
    complete_on_call(fragile.stack, backend, path)
    fragile.grid.silence()
    responses = [submit(app, path) for _ in range(50)]
    assert {response.status_code for response in responses} == {202}
    eventually(lambda: health(fragile) == (200, "degraded", "ok"))
    fragile.grid.flow()
    for response in responses:
        assert ended(app, response.json()["TaskId"])["BackendStatus"] == "completed"
    # The app learns the state of Event Grid from its last event. The tasks above may have needed none.
    eventually(lambda: submit(app, new_path()) and health(fragile) == (200, "ok", "ok"))
