"""The app's dependencies stop while tasks are in flight, and start again."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from local.azurite import Azurite
from local.redis_server import RedisServer
from local.stack import Stack
from shared.settings import INLINE_LIMIT_BYTES
from tests.conftest import IN_A_HURRY
from tests.end_to_end.backbone import Backbone
from tests.end_to_end.conftest import SOON_GIVEN_UP
from tests.scripted_backend import Answer, ScriptedBackend
from tests.waiting import eventually

MAX_ATTEMPTS = int(IN_A_HURRY["MAX_ATTEMPTS"])
LARGE = b"x" * (INLINE_LIMIT_BYTES + 1)


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def own_azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with Azurite(tmp_path_factory.mktemp("azurite")) as service:
        yield service


@pytest.fixture(scope="module")
def own_stack(
    tmp_path_factory: pytest.TempPathFactory, own_redis: RedisServer, own_azurite: Azurite, backend: ScriptedBackend
) -> Iterator[Stack]:
    """A stack whose parts no other test uses."""
    with Stack(
        tmp_path_factory.mktemp("stack"),
        redis=own_redis,
        azurite=own_azurite,
        backends={"/v1/test": backend.url},
        with_model=False,
        settings=IN_A_HURRY,
    ) as stack:
        yield stack


@pytest.fixture
def backbone(own_stack: Stack) -> Iterator[Backbone]:
    with own_stack.client() as http:
        yield Backbone(http)


def until_redis_is_found(backbone: Backbone) -> None:
    eventually(lambda: backbone.http.get("/api/v1/health").json()["Dependencies"]["Redis"] == "ok")


def test_tasks_survive_a_restart_of_redis(
    backbone: Backbone, backend: ScriptedBackend, own_stack: Stack, own_redis: RedisServer
) -> None:
    waiting, running, finished = (f"/v1/test/redis/{state}" for state in ("waiting", "running", "finished"))
    finished_id = backbone.submit(finished, b"finished")
    backbone.http.put(f"/api/v1/tasks/{finished_id}/result", content=b"result").raise_for_status()
    backbone.complete(finished_id)
    running_id = backbone.submit(running, b"running")
    backend.next_call(running)
    backbone.update(running_id, "running", Attempt=1).raise_for_status()
    own_stack.set_faults({"loseDelivery": {"probability": 1}})
    waiting_id = backbone.submit(waiting, b"waiting")

    own_redis.stop()
    unavailable = backbone.http.post(f"/api/v1/submit{waiting}", content=b"while it is away")
    assert unavailable.status_code == 503
    assert int(unavailable.headers["Retry-After"]) > 0
    assert unavailable.headers["content-type"] == "application/problem+json"
    assert backbone.http.get(f"/api/v1/tasks/{running_id}").status_code == 503
    eventually(lambda: backbone.http.get("/api/v1/health").status_code == 503)
    own_stack.set_faults({})
    own_redis.start()
    until_redis_is_found(backbone)

    call = backend.next_call(waiting)
    assert (call.task_id, call.body) == (waiting_id, b"waiting")
    backbone.complete(waiting_id)
    backbone.update(running_id, "completed", Attempt=1).raise_for_status()
    assert backbone.http.get(f"/api/v1/tasks/{finished_id}/result").content == b"result"
    assert [backbone.depth(path) for path in (waiting, running)] == [{"Completed": 1}] * 2
    until_redis_is_found(backbone)


def test_dispatch_in_flight_during_a_redis_outage_can_still_complete(
    backbone: Backbone, backend: ScriptedBackend, own_redis: RedisServer
) -> None:
    path = "/v1/test/redis/under-way"
    killed = threading.Event()
    backend.script(path, Answer(200, hold=killed))
    task_id = backbone.submit(path)
    backend.next_call(path)

    own_redis.kill()
    killed.set()
    assert backbone.http.get(f"/api/v1/tasks/{task_id}").status_code == 503
    own_redis.start()
    until_redis_is_found(backbone)

    update = backbone.update(task_id, "completed", Attempt=1)
    assert update.status_code == 200, "the backend accepted the task, even if the app could not record that"
    assert backbone.depth(path) == {"Completed": 1}


def test_large_tasks_wait_for_blob_storage_and_lose_no_attempt(
    backbone: Backbone, backend: ScriptedBackend, own_stack: Stack, own_azurite: Azurite
) -> None:
    large, small = "/v1/test/azurite/large", "/v1/test/azurite/small"
    own_stack.set_faults({"loseDelivery": {"probability": 1}})
    large_id = backbone.submit(large, LARGE)
    own_azurite.stop()
    own_stack.set_faults({})

    small_id = backbone.submit(small, b"small")
    assert backend.next_call(small).task_id == small_id
    refused = backbone.http.post(f"/api/v1/submit{large}", content=LARGE)
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    backbone.until(large_id, lambda task: task["Attempt"] > MAX_ATTEMPTS + 1)
    assert backend.untaken(large) == 0
    own_azurite.start()

    call = backend.next_call(large)
    assert (call.task_id, call.body) == (large_id, LARGE)
    statuses = {event["Status"] for event in backbone.history(large_id) if event["State"] == "created"}
    assert statuses == {"created", "Awaiting the request body"}
    for task_id in (small_id, large_id):
        backbone.complete(task_id)


def test_task_whose_backend_always_dies_fails_after_the_last_attempt(
    impatient: Backbone, backend: ScriptedBackend
) -> None:
    path, most = "/v1/test/brief/dies-each-time", int(SOON_GIVEN_UP["MAX_ATTEMPTS"])

    task_id = impatient.submit(path)
    assert backend.next_call(path).attempt == 1
    impatient.heartbeat(task_id, 1)  # of a service that sends heartbeats, silence means that it is dead

    ended = impatient.ended(task_id)
    silence = "the backend was not heard of for too long"
    assert ended["BackendStatus"] == "failed"
    assert ended["Status"] == f"Failed - {silence} (attempt {most} of {most})."
    assert [backend.next_call(path).attempt for _ in range(1, most)] == list(range(2, most + 1))


def test_restarted_host_dispatches_the_tasks_it_had_claimed_before_a_kill(
    impatient: Backbone, backend: ScriptedBackend, impatient_stack: Stack
) -> None:
    path = "/v1/test/host-killed"
    killed = threading.Event()
    backend.script(path, Answer(200, hold=killed), Answer(200))
    task_id = impatient.submit(path)
    assert backend.next_call(path).attempt == 1

    impatient_stack.host.kill()
    killed.set()
    impatient_stack.host.start()

    assert backend.next_call(path).attempt == 2
    with impatient_stack.client() as http:
        Backbone(http).update(task_id, "completed", Attempt=2).raise_for_status()
        assert Backbone(http).depth(path) == {"Completed": 1}
