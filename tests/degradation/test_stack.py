"""The whole app with its dependencies behind switches, and with little that it may have in hand."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from local.azurite import Azurite
from local.processes import free_port
from local.redis_server import RedisServer
from local.stack import TOPIC, Stack
from shared.settings import INLINE_LIMIT_BYTES
from tests.conftest import IN_A_HURRY
from tests.contract.part_b import assert_problem, complete_on_call, ended, new_path, submit, task_of
from tests.degradation.switch import Switch
from tests.scripted_backend import Answer, ScriptedBackend
from tests.waiting import eventually

MAX_IN_FLIGHT, MAX_WAITS, MAX_DISPATCHES = 8, 3, 1
LARGE = bytes(INLINE_LIMIT_BYTES + 1)
"""Of which one has room at a time, and a second one not."""


@dataclass
class Fragile:
    stack: Stack
    redis: Switch
    blobs: Switch
    grid: Switch


@pytest.fixture(scope="module")
def fragile(
    tmp_path_factory: pytest.TempPathFactory, azurite: Azurite, backend: ScriptedBackend
) -> Iterator[Fragile]:
    directory = tmp_path_factory.mktemp("fragile")
    with (
        RedisServer(directory / "redis") as redis,
        Switch(redis.port) as to_redis,
        Switch(azurite.blob_port) as to_blobs,
        Switch(free_port()) as to_grid,
        Stack(
            directory,
            redis=redis,
            azurite=azurite,
            backends={"/v1/test": backend.url},
            with_model=False,
            settings={
                **IN_A_HURRY,
                "DISPATCH_TIMEOUT_S": "20",
                "REDIS_CONNECTION_STRING": f"redis://127.0.0.1:{to_redis.port}",
                "AzureWebJobsStorage": azurite.connection_string.replace(str(azurite.blob_port), str(to_blobs.port)),
                "BLOB_CONTAINER": "fragile-stack",
                "EVENT_GRID_TOPIC_URI": f"http://127.0.0.1:{to_grid.port}/{TOPIC}/api/events",
                "MAX_IN_FLIGHT": str(MAX_IN_FLIGHT),
                "MAX_WAITS": str(MAX_WAITS),
                "MAX_DISPATCHES": str(MAX_DISPATCHES),
                "MAX_BODY_BYTES_IN_FLIGHT": str(2 * INLINE_LIMIT_BYTES),
            },
        ) as stack,
    ):
        to_grid.target_port = int(stack.event_grid_url.rsplit(":", 1)[1])
        yield Fragile(stack, to_redis, to_blobs, to_grid)


@pytest.fixture
def app(fragile: Fragile) -> Iterator[httpx.Client]:
    with fragile.stack.client() as client:
        yield client
    for switch in (fragile.redis, fragile.blobs, fragile.grid):
        switch.flow()
        switch.cut()


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as callers:
        yield callers


def keep(app: httpx.Client, backend: ScriptedBackend) -> str:
    """The id of a task that stands as it is."""
    response = app.post("/api/CacheConnectorUpsert", json={"Endpoint": backend.url + new_path()})
    return response.raise_for_status().json()["TaskId"]


def health(fragile: Fragile) -> tuple[int, str, str]:
    response = httpx.get(f"{fragile.stack.url}/api/v1/health", timeout=60)
    document = response.json()
    return response.status_code, document["Status"], document["Dependencies"]["Redis"]


async def ask_many(stack: Stack, path: str, count: int) -> set[tuple[int, bool]]:
    """The statuses of so many requests at once, and whether they say when to come back."""
    limits = httpx.Limits(max_connections=count)
    headers = {"x-functions-key": stack.key}
    async with httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=60, limits=limits) as app:
        responses = await asyncio.gather(*(app.get(path) for _ in range(count)))
    return {(response.status_code, int(response.headers.get("retry-after", 0)) > 0) for response in responses}


def test_with_a_silent_redis_every_request_is_503_and_health_says_so_and_all_comes_back_by_itself(
    app: httpx.Client, backend: ScriptedBackend, fragile: Fragile
) -> None:
    task_id = keep(app, backend)
    before = task_of(app, task_id)
    fragile.redis.silence()
    for _ in range(2):
        assert asyncio.run(ask_many(fragile.stack, f"/api/v1/tasks/{task_id}", 200)) == {(503, True)}
    assert health(fragile) == (503, "unavailable", "unavailable")
    fragile.redis.flow()
    eventually(lambda: health(fragile) == (200, "ok", "ok") or health(fragile)[1] == "degraded")
    eventually(lambda: app.get(f"/api/v1/tasks/{task_id}").status_code == 200)
    assert task_of(app, task_id) == before


def test_with_a_silent_event_grid_creates_succeed_and_run_when_it_is_back(
    app: httpx.Client, backend: ScriptedBackend, fragile: Fragile
) -> None:
    path = new_path()
    complete_on_call(fragile.stack, backend, path)
    fragile.grid.silence()
    responses = [submit(app, path) for _ in range(20)]
    assert {response.status_code for response in responses} == {202}
    fragile.grid.flow()
    for response in responses:
        assert ended(app, response.json()["TaskId"])["BackendStatus"] == "completed"


def test_waiting_callers_do_not_shut_out_others_and_who_has_no_room_to_wait_is_answered_at_once(
    app: httpx.Client, backend: ScriptedBackend, callers: ThreadPoolExecutor
) -> None:
    task_id = keep(app, backend)
    url = f"/api/v1/tasks/{task_id}"
    calls = [callers.submit(app.get, url, params={"wait": 60}) for _ in range(MAX_WAITS + 2)]
    answered = eventually(lambda: done if len(done := [call for call in calls if call.done()]) == 2 else None)
    assert [call.result().json()["BackendStatus"] for call in answered] == ["created"] * 2
    assert submit(app, new_path(), prefer="wait=60").status_code == 202
    assert sum(call.done() for call in calls) == 2
    report = {"TaskId": task_id, "BackendStatus": "completed"}
    assert app.post("/api/CacheConnectorUpsert", json=report).status_code == 200
    states = sorted(call.result().json()["BackendStatus"] for call in calls)
    assert states == ["completed"] * MAX_WAITS + ["created"] * 2


def test_beyond_the_requests_in_flight_the_answer_is_503_at_once_but_not_healths_nor_event_grids(
    app: httpx.Client, backend: ScriptedBackend, fragile: Fragile, callers: ThreadPoolExecutor
) -> None:
    task_id = keep(app, backend)
    fragile.redis.silence()  # so that all are held, the first until their time is up
    held = [callers.submit(app.get, f"/api/v1/tasks/{uuid.uuid4()}") for _ in range(MAX_IN_FLIGHT)]
    try:
        refused = eventually(
            lambda: response if "overloaded" in (response := app.get(f"/api/v1/tasks/{task_id}")).text else None
        )
        assert_problem(refused, 503, "overloaded")
        assert int(refused.headers["retry-after"]) > 0
        assert "overloaded" not in httpx.get(f"{fragile.stack.url}/api/v1/health", timeout=60).text
        event = {"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {"validationCode": "c"}}
        assert app.post("/api/BackendWebhook", json=[event]).json() == {"validationResponse": "c"}
    finally:
        fragile.redis.flow()
        fragile.redis.cut()
    for call in held:
        call.result()
    eventually(lambda: app.get(f"/api/v1/tasks/{task_id}").status_code == 200)


def test_large_bodies_that_have_no_room_are_503_at_once_and_small_ones_go_on(
    app: httpx.Client, backend: ScriptedBackend, fragile: Fragile, callers: ThreadPoolExecutor
) -> None:
    path = new_path()
    complete_on_call(fragile.stack, backend, path)
    fragile.blobs.silence()
    first: Future[httpx.Response] = callers.submit(submit, app, path, LARGE)
    refused = eventually(
        lambda: response if "overloaded" in (response := submit(app, path, LARGE)).text else None, within_s=60
    )
    assert_problem(refused, 503, "overloaded")
    assert int(refused.headers["retry-after"]) > 0
    assert submit(app, path, b"{}").status_code == 202
    fragile.blobs.flow()
    fragile.blobs.cut()
    first.result()
    response = eventually(lambda: sent if (sent := submit(app, path, LARGE)).status_code == 202 else None)
    assert ended(app, response.json()["TaskId"])["BackendStatus"] == "completed"


def test_a_task_that_no_dispatcher_is_free_for_goes_back_to_its_queue_and_is_dispatched_later(
    app: httpx.Client, backend: ScriptedBackend, fragile: Fragile
) -> None:
    busy, path = new_path(), new_path()
    let_go = threading.Event()
    backend.script(busy, Answer(hold=let_go))
    complete_on_call(fragile.stack, backend, path)
    first = submit(app, busy).json()["TaskId"]
    backend.next_call(busy)
    second = submit(app, path).json()["TaskId"]
    eventually(lambda: task_of(app, second)["Status"] == "Awaiting a free dispatcher")
    assert backend.untaken(path) == 0
    let_go.set()
    assert ended(app, second)["BackendStatus"] == "completed"
    assert task_of(app, first)["Attempt"] == 1
