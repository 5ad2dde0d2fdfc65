"""What a newer version has been asked for that the older one does not know: when a task runs, how often, again, and
who hears of it. The older one, alone at work, loses none of it; what it does not do, the newer one does when it is
back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from local.redis_server import RedisCluster, RedisServer
from shared.store.redis.partitions import tag_of
from tests.contract.v1_support import ended, report, submit, task_of
from tests.scripted_backend import ScriptedBackend
from tests.shared.store.world import nodes
from tests.two_versions.conftest import DESTINATION, HOOK, Version, Versions
from tests.two_versions.test_two_versions import path_of
from tests.waiting import eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def alone(versions: Versions) -> Iterator[Versions]:
    """Both, and Event Grid delivers to the older one."""
    versions.deliver_to(versions.older)
    yield versions
    versions.start_all()
    versions.deliver_to(versions.newer)


def test_a_task_that_starts_later_does_so_when_the_newer_version_is_back(
    alone: Versions, backend: ScriptedBackend
) -> None:
    older, newer, path = alone.older, alone.newer, path_of()
    created = submit(newer.app, path, Start_After="4").json()
    newer.host.stop()
    assert task_of(older.app, created["TaskId"])["BackendStatus"] == "created"
    at_work = submit(older.app, path).json()["TaskId"]
    assert backend.next_call(path).task_id == at_work
    report(older.app, TaskId=at_work, BackendStatus="completed")
    newer.host.start()
    call = backend.next_call(path)
    assert call.task_id == created["TaskId"]
    assert time.time() >= _seconds(created["StartAt"])
    report(older.app, TaskId=call.task_id, BackendStatus="completed")
    assert task_of(newer.app, call.task_id)["BackendStatus"] == "completed"


def test_a_task_whose_time_has_come_is_started_by_the_older_version(
    alone: Versions, backend: ScriptedBackend
) -> None:
    older, newer, path = alone.older, alone.newer, path_of()
    created = submit(newer.app, path, Start_After="10").json()
    newer.host.stop()
    call = backend.next_call(path)
    assert call.task_id == created["TaskId"]
    assert time.time() >= _seconds(created["StartAt"])
    report(older.app, TaskId=call.task_id, Attempt=1, BackendStatus="completed")
    newer.host.start()
    eventually(lambda: delayed(newer, path) == 0)
    assert task_of(newer.app, call.task_id)["BackendStatus"] == "completed"


def test_a_task_that_starts_later_is_cancelled_by_the_older_version(alone: Versions) -> None:
    older, newer, path = alone.older, alone.newer, path_of()
    task_id = submit(newer.app, path, Start_After="600").json()["TaskId"]
    assert older.app.delete(f"/api/v1/tasks/{task_id}").is_success
    assert ended(newer.app, task_id)["BackendStatus"] == "cancelled"
    hand_over(alone)
    eventually(lambda: delayed(newer, path) == 0)


def test_what_expires_or_runs_for_too_long_ends_when_the_newer_version_is_back(
    alone: Versions, backend: ScriptedBackend
) -> None:
    older, newer, path, other = alone.older, alone.newer, path_of(), path_of()
    older.app.patch(f"/api/v1/queues{path}", json={"Paused": True}).raise_for_status()
    waiting = submit(newer.app, path, Start_Before="1").json()["TaskId"]
    running = submit(newer.app, other, Max_Run="1").json()["TaskId"]
    assert backend.next_call(other).attempt == 1
    newer.host.stop()
    report(older.app, TaskId=running, BackendStatus="running", Status="on it")
    assert task_of(older.app, waiting)["BackendStatus"] == "created"
    hand_over(alone)
    assert ended(newer.app, waiting)["Status"].startswith("Failed - it expired")
    # The older one has given it a whole lease. The newer one looks at the time again when it hears of it.
    report(newer.app, TaskId=running, Attempt=1, BackendStatus="running", Status="still on it")
    again = backend.next_call(other)
    assert (again.task_id, again.attempt) == (running, 2)
    report(newer.app, TaskId=running, Attempt=2, BackendStatus="completed")
    assert task_of(newer.app, running)["BackendStatus"] == "completed"


def test_a_rate_is_kept_by_the_older_version_and_holds_in_the_newer(
    alone: Versions, backend: ScriptedBackend
) -> None:
    older, newer, path = alone.older, alone.newer, path_of()
    newer.app.patch(f"/api/v1/queues{path}", json={"Rate": "1/600s", "Burst": True}).raise_for_status()
    first, second = (submit(version.app, path).json()["TaskId"] for version in (newer, older))
    called = {backend.next_call(path).task_id, backend.next_call(path).task_id}
    assert called == {first, second}, "what the older one grants is not counted"
    older.app.patch(f"/api/v1/queues{path}", json={"Limit": 5}).raise_for_status()
    queue = newer.app.get(f"/api/v1/queues{path}").json()
    assert (queue["Rate"], queue["Limit"]) == ("1/600s", 5)
    for task_id in called:
        report(newer.app, TaskId=task_id, BackendStatus="completed")


def test_a_schedule_waits_for_the_newer_version_and_makes_up_for_what_it_says(
    alone: Versions, backend: ScriptedBackend
) -> None:
    older, newer, path, name = alone.older, alone.newer, path_of(), path_of().rpartition("/")[2]
    asked = {"Path": path, "Cron": "* * * * * *", "Overlap": "queue", "CatchUp": "all"}
    newer.app.put(f"/api/v1/schedules/{name}", json=asked).raise_for_status()
    first = backend.next_call(path)
    newer.host.stop()
    report(older.app, TaskId=first.task_id, BackendStatus="completed")
    at_work = submit(older.app, path_of()).json()["TaskId"]
    report(older.app, TaskId=at_work, BackendStatus="completed")
    newer.host.start()
    schedule = newer.app.get(f"/api/v1/schedules/{name}").raise_for_status().json()
    newer.app.post(f"/api/v1/schedules/{name}/pause").raise_for_status()
    assert schedule["Name"] == name

    def due_s() -> list[float]:
        runs = newer.app.get(f"/api/v1/schedules/{name}").json()["Runs"]
        return sorted(_seconds(run["Due"]) for run in runs if run["Outcome"] == "started")

    found = eventually(lambda: times if len(times := due_s()) > 1 else [])
    assert found == [found[0] + number for number in range(len(found))], "one is missing, or is there twice"
    newer.app.delete(f"/api/v1/schedules/{name}").raise_for_status()


def test_a_callback_is_made_by_the_newer_version_for_an_end_in_the_older(
    alone: Versions, redis_of_two: RedisServer | RedisCluster, backend: ScriptedBackend
) -> None:
    older, newer, path = alone.older, alone.newer, path_of()
    task_id = submit(newer.app, path, Callback=DESTINATION).json()["TaskId"]
    backend.next_call(path)
    newer.host.stop()
    report(older.app, TaskId=task_id, Attempt=1, BackendStatus="completed", Status="completed")
    hand_over(alone)
    look_at_callback_of(redis_of_two, task_id)
    told = json.loads(backend.next_call(HOOK).body)
    assert (told["TaskId"], told["BackendStatus"]) == (task_id, "completed")


def hand_over(versions: Versions) -> None:
    """The newer version is back, and the older one is gone: of both, either may have the reconciler's rounds."""
    if not versions.newer.host.is_running:
        versions.newer.host.start()
    versions.deliver_to(versions.newer)
    versions.older.host.stop()


def look_at_callback_of(server: RedisServer | RedisCluster, task_id: str) -> None:
    """The app looks whether anything of a callback was lost an hour after the task was created. Let that be now."""
    key = f"{tag_of(task_id)}owed"
    for node in nodes(server):
        with node.connect() as client:
            if client.exists(f"{tag_of(task_id)}t:{task_id}"):
                assert client.zadd(key, {task_id: 0}, xx=True, ch=True) == 1
                return
    raise AssertionError(f"no node has {task_id}")


def delayed(version: Version, path: str) -> int:
    return version.app.get(f"/api/v1/queues{path}").raise_for_status().json()["Delayed"]


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
