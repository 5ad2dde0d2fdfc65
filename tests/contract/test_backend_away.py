"""A model service that is away, or not registered, and comes back: no task is lost, and none loses an attempt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from local.azurite import Azurite
from local.processes import free_port
from local.redis_server import RedisServer
from local.stack import NO_TLS, Stack
from tests.conftest import IN_A_HURRY
from tests.end_to_end.backbone import Backbone
from tests.scripted_backend import Answer, ScriptedBackend
from tests.waiting import PATIENCE_S, eventually

PREFIX = "/v1/away"
PORT = free_port()
REGISTRY = {PREFIX: f"http://127.0.0.1:{PORT}"}
AWAITING = "Awaiting service availability"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, azurite: Azurite) -> Iterator[Stack]:
    """A stack of its own: a test changes its registry. Nothing listens at first."""
    directory = tmp_path_factory.mktemp("away")
    with (
        RedisServer(directory / "redis") as redis,
        Stack(
            directory,
            redis=redis,
            azurite=azurite,
            backends=REGISTRY,
            with_model=False,
            settings=IN_A_HURRY | {"DISPATCH_TIMEOUT_S": "5"},
        ) as stack,
    ):
        yield stack


@pytest.fixture
def backbone(stack: Stack) -> Iterator[Backbone]:
    with stack.client() as http:
        yield Backbone(http)


def queue(backbone: Backbone, path: str) -> dict[str, Any]:
    return backbone.http.get(f"/api/v1/queues{path}").raise_for_status().json()


def health(stack: Stack) -> tuple[str, str]:
    document = httpx.get(f"{stack.url}/api/v1/health", timeout=PATIENCE_S, verify=NO_TLS).raise_for_status().json()
    return document["Status"], document["Dependencies"]["Backends"]


def restart_with(stack: Stack, registry: dict[str, str]) -> None:
    stack.host.environment["BACKENDS"] = json.dumps(registry)
    stack.host.restart()


def complete_all(backbone: Backbone, backend: ScriptedBackend, path: str, task_ids: list[str]) -> None:
    """Complete the tasks as a service does that takes all of them. It keeps no connection: one would outlive it."""
    backend.script(path, Answer(200, {"Connection": "close"}))
    left = {*task_ids}
    while left:
        call = backend.next_call(path)
        status = backbone.update(call.task_id, "completed", Attempt=call.attempt).status_code
        if status == 409:  # the answer came after DISPATCH_TIMEOUT_S, and another attempt is under way
            continue
        assert status == 200
        left.discard(call.task_id)
    for task_id in task_ids:
        assert backbone.task(task_id)["BackendStatus"] == "completed"


def assert_held(stack: Stack, backbone: Backbone, path: str, task_ids: list[str], cause: str) -> None:
    """The queue, health and every task say for what they wait; the single-task calls of both APIs do."""
    status = f"{AWAITING}: {cause}"
    assert eventually(lambda: (queue(backbone, path)["Outage"] or {}).get("Cause") == cause)
    eventually(lambda: health(stack) == ("degraded", "unavailable"))
    # The app has tried each, and more often than any may fail.
    tries = 2 * len(task_ids) + int(IN_A_HURRY["MAX_ATTEMPTS"])
    assert eventually(lambda: sum(backbone.task(each)["Attempt"] for each in task_ids) > len(task_ids) + tries)
    for task_id in task_ids:

        def waits(task_id: str = task_id) -> bool:
            legacy = backbone.http.get("/api/CacheConnectorGet", params={"taskId": task_id}).json()
            task = backbone.task(task_id)
            if task["Status"] == "created":  # in the moment of a try
                return False
            return (task["Status"], legacy["BackendStatus"]) == (status, "created")

        assert eventually(waits)
    depth = backbone.depth(path)  # of one moment: a try moves a task to and fro
    assert depth["Waiting"] + depth.get("Dispatched", 0) == len(task_ids)


@pytest.mark.contract("B9.16", "B12.5")
def test_tasks_wait_for_a_service_that_is_gone_and_go_on_when_it_is_back(stack: Stack, backbone: Backbone) -> None:
    path = f"{PREFIX}/gone"
    task_ids = [backbone.submit(path) for _ in range(8)]
    assert_held(stack, backbone, path, task_ids, "the backend could not be reached")

    with ScriptedBackend(PORT) as backend:
        complete_all(backbone, backend, path, task_ids)
    assert queue(backbone, path)["Outage"] is None
    assert eventually(lambda: health(stack) == ("ok", "ok"))


@pytest.mark.contract("A6.27", "B9.57")
def test_a_missing_registry_entry_holds_the_queue_until_it_is_back(stack: Stack, backbone: Backbone) -> None:
    path = f"{PREFIX}/unregistered"
    task_ids = [backbone.submit(path) for _ in range(8)]
    restart_with(stack, {"/v1/elsewhere": "http://models.invalid"})
    assert_held(stack, backbone, path, task_ids, "no backend is registered for this path")

    with ScriptedBackend(PORT) as backend:
        restart_with(stack, REGISTRY)
        complete_all(backbone, backend, path, task_ids)


@pytest.mark.contract("B9.16")
def test_tasks_wait_for_a_name_that_dns_does_not_know(stack: Stack, backbone: Backbone) -> None:
    path = f"{PREFIX}/nameless"
    restart_with(stack, {PREFIX: "http://models.invalid"})
    task_ids = [backbone.submit(path) for _ in range(3)]
    assert_held(stack, backbone, path, task_ids, "the backend could not be reached")

    with ScriptedBackend(PORT) as backend:
        restart_with(stack, REGISTRY)
        complete_all(backbone, backend, path, task_ids)


@pytest.mark.contract("A6.28")
def test_a_mistyped_path_fails_after_three_tries(stack: Stack, backbone: Backbone) -> None:
    known, mistyped = f"{PREFIX}/segment", f"{PREFIX}/segmnt"
    with ScriptedBackend(PORT) as backend:
        backend.script(mistyped, Answer(404))
        first = backbone.submit(known)
        complete_all(backbone, backend, known, [first])
        ended = backbone.ended(backbone.submit(mistyped))
        assert ended["Status"] == "Failed - the backend answers 404 at this path, and serves others."
        assert [backend.next_call(mistyped).attempt for _ in range(3)] == [1, 2, 3]
        assert backend.untaken(mistyped) == 0
    assert queue(backbone, mistyped)["Outage"] is None
