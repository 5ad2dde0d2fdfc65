"""Promise: two versions of the app may share a Redis, so an upgrade and a rollback need no slot and no pause.

What one begins, the other ends; both work at once; the older one keeps what it does not know (docs/upgrade.md)."""

from __future__ import annotations

import hashlib
import itertools
import json
import uuid
from collections.abc import Callable
from contextlib import closing
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from local.redis_server import RedisCluster, RedisServer
from tests.contract.test_v1_batches import begin, child, children, counted, seal
from tests.contract.test_v1_pipelines import put_result
from tests.contract.test_v1_uploads import declare, read, uploaded, write
from tests.contract.v1_support import INLINE_LIMIT_BYTES, ended, pattern_bytes, report, submit, task_of
from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.shared.store.later import LaterFields
from tests.two_versions.conftest import KEY, PREVIOUS_KEY, Version, Versions
from tests.waiting import eventually

pytestmark = pytest.mark.slow

LARGE = pattern_bytes(2 * INLINE_LIMIT_BYTES + 1)
Pair = tuple[Version, Version]
Json = dict[str, Any]


def path_of(prefix: str = "/v1/test") -> str:
    """An endpoint path that no other test uses."""
    return f"{prefix}/{uuid.uuid4().hex}"


def history(app: httpx.Client, task_id: str) -> list[Json]:
    return app.get(f"/api/v1/tasks/{task_id}/history").raise_for_status().json()["Events"]


def looks_alike(pair: Pair, task_id: str) -> Json:
    """The task, which both versions show as the same."""
    one, other = (task_of(version.app, task_id) for version in pair)
    assert one == other
    one_history, other_history = ([as_older(event) for event in history(version.app, task_id)] for version in pair)
    assert one_history == other_history
    return one


def as_older(event: Json) -> Json:
    """An event as the older version tells it, which knows neither operators nor why a task has ended."""
    who = {"operator": "client"}.get(event["Who"], event["Who"])
    return {name: value for name, value in event.items() if name not in ("Operator", "EndReason")} | {"Who": who}


def result_of(pair: Pair, task_id: str) -> bytes:
    """The task's result, which both versions answer with."""
    one, other = (version.app.get(f"/api/v1/tasks/{task_id}/result", follow_redirects=True) for version in pair)
    assert (one.status_code, other.status_code) == (200, 200)
    assert one.content == other.content
    return one.content


def named(call: Call, **headers: str) -> dict[str, str]:
    return {"X-Task-Attempt": str(call.attempt), **{name.replace("_", "-"): value for name, value in headers.items()}}


def test_these_are_two_versions(versions: Versions) -> None:
    """The older one does not know the setting that came with the newer one."""
    headers = {"X-Task-Owner": "ada", "X-Gateway-Key": PREVIOUS_KEY}
    assert versions.older.app.get("/api/v1/tasks", headers=headers).status_code == 403
    assert versions.newer.app.get("/api/v1/tasks", headers=headers).status_code == 200


def in_flight(pair: Pair, path: str) -> str:
    """The requests in flight, which both versions count alike."""
    parameters = {"cluster": "", "path": path}
    one, other = (version.app.get("/api/CurrentProcessingGet", params=parameters).text for version in pair)
    assert one == other
    return one


def test_both_versions_count_the_requests_in_flight_at_named_instances(pair: Pair) -> None:
    first, second = (version.app for version in pair)

    def tell(app: httpx.Client, pod: str, change: int) -> None:
        body = {"ApiPath": path, "ServiceCluster": "", "Instance": pod, "IncrementBy": change}
        app.post("/api/CurrentProcessingUpsert", json=body).raise_for_status()

    path = path_of()
    for app, pod, change, count in (
        (first, "one", 2, "2"),
        (second, "one", -1, "1"),
        (first, "two", 3, "4"),
        (second, "two", -2, "2"),
        (first, "two", -1, "1"),
        (second, "three", 1, "2"),
        (first, "three", -1, "1"),
        (first, "one", -1, "0"),
        (second, "one", -1, "0"),
    ):
        tell(app, pod, change)
        assert in_flight(pair, path) == count, (pod, change)
    for number in range(40):  # more than lie in their counter
        tell((first, second)[number % 2], f"pod-{number}", 1)
        assert in_flight(pair, path) == str(number + 1)


@pytest.mark.parametrize("body", [b"work", LARGE], ids=["inline", "a blob"])
def test_a_task_goes_on_in_the_other_version_at_each_step(pair: Pair, backend: ScriptedBackend, body: bytes) -> None:
    (first, second), path = pair, path_of()
    task_id = submit(first.app, path, body, Content_Type="image/tiff", Priority="7").json()["TaskId"]
    call = backend.next_call(path)
    assert (call.task_id, call.attempt, call.body) == (task_id, 1, body)
    report(second.app, TaskId=task_id, Attempt=1, BackendStatus="running", Status="on it")
    beat = first.app.post(f"/api/v1/tasks/{task_id}/heartbeat", headers=named(call), json={"Progress": 0.5})
    assert beat.status_code == 200
    assert looks_alike(pair, task_id)["Progress"] == 0.5
    kept = second.app.put(f"/api/v1/tasks/{task_id}/checkpoint", content=b"epoch 1", headers=named(call))
    assert kept.is_success
    assert first.app.get(f"/api/v1/tasks/{task_id}/checkpoint", headers=named(call)).content == b"epoch 1"

    released = first.app.post(f"/api/v1/tasks/{task_id}/release", headers=named(call))
    assert released.status_code == 200
    again = backend.next_call(path)
    assert (again.attempt, again.body) == (2, body)
    assert second.app.get(f"/api/v1/tasks/{task_id}/checkpoint", headers=named(again)).content == b"epoch 1"
    stale = second.app.post("/api/CacheConnectorUpsert", json={"TaskId": task_id, "Attempt": 1, "Status": "late"})
    assert stale.status_code == 409

    assert put_result(second.app, again, body[::-1]).is_success
    assert put_result(first.app, again, body[::-1], "completed").is_success
    task = looks_alike(pair, task_id)
    assert (task["BackendStatus"], task["Attempt"], task["Priority"]) == ("completed", 2, 7)
    assert result_of(pair, task_id) == body[::-1]
    repeated = report(second.app, TaskId=task_id, Attempt=2, BackendStatus="completed", Status="completed")
    assert repeated["BackendStatus"] == "completed"
    assert second.app.delete(f"/api/v1/tasks/{task_id}", params={"purge": "true"}).is_success
    assert [version.app.get(f"/api/v1/tasks/{task_id}").status_code for version in pair] == [404, 404]


def test_a_submit_that_is_repeated_in_the_other_version_is_the_same_task(pair: Pair) -> None:
    (first, second), path = pair, path_of()
    headers = {"Idempotency-Key": "same", "X-Task-Owner": "ada", "X-Gateway-Key": KEY}
    one, other = (version.app.post(f"/api/v1/submit{path}", content=b"work", headers=headers) for version in pair)
    assert one.json()["TaskId"] == other.json()["TaskId"]
    eve = {"X-Task-Owner": "eve", "X-Gateway-Key": KEY}
    assert second.app.get(f"/api/v1/tasks/{one.json()['TaskId']}", headers=eve).status_code == 404
    differing = second.app.post(f"/api/v1/submit{path}", content=b"other work", headers=headers)
    assert differing.status_code == first.app.post(f"/api/v1/submit{path}", content=b"3", headers=headers).status_code
    assert differing.status_code == 422


def test_a_legacy_task_goes_on_in_the_other_version(pair: Pair, backend: ScriptedBackend) -> None:
    (first, second), path = pair, path_of()
    new = {"Endpoint": backend.url + path, "Status": "created", "PublishToGrid": True, "Body": "work"}
    task_id = report(first.app, **new)["TaskId"]
    assert backend.next_call(path).task_id == task_id
    report(second.app, TaskId=task_id, Status="running", BackendStatus="running")
    following = path_of()
    step = {"Endpoint": backend.url + following, "PublishToGrid": True, "Body": "more work", "Status": "created"}
    report(first.app, TaskId=task_id, BackendStatus="created", **step)
    assert backend.next_call(following).body == b"more work"
    report(second.app, TaskId=task_id, Status="completed - fine", BackendStatus="completed")
    one, other = (version.app.get("/api/CacheConnectorGet", params={"taskId": task_id}).json() for version in pair)
    assert one == other
    assert one["Status"] == "completed - fine"


def test_tasks_of_both_versions_wait_in_one_queue(pair: Pair, backend: ScriptedBackend) -> None:
    (first, second), path = pair, path_of("/v1/single")
    tasks = [submit(version.app, path).json()["TaskId"] for version in (first, second) * 3]
    calls = [backend.next_call(path)]
    assert calls[0].task_id == tasks[0]
    positions = [[task_of(version.app, task_id)["QueuePosition"] for task_id in tasks[1:]] for version in pair]
    assert positions == [[1, 2, 3, 4, 5]] * 2
    for version in (second, first) * 3:
        report(version.app, TaskId=calls[-1].task_id, Attempt=1, BackendStatus="completed")
        if len(calls) < len(tasks):
            calls.append(backend.next_call(path))
    assert [call.task_id for call in calls] == tasks
    one, other = (version.app.get(f"/api/v1/queues{path}").raise_for_status().json() for version in pair)
    both = one.keys() & other.keys()
    assert {name: one[name] for name in both} == {name: other[name] for name in both}
    assert (one["Completed"], one["InFlight"], one["Waiting"]) == (6, 0, 0)


def test_a_pause_by_one_version_holds_in_the_other(pair: Pair, backend: ScriptedBackend) -> None:
    (first, second), path = pair, path_of()
    first.app.patch(f"/api/v1/queues{path}", json={"Paused": True, "Limit": 5}).raise_for_status()
    task_id = submit(second.app, path).json()["TaskId"]
    queue = second.app.get(f"/api/v1/queues{path}").json()
    assert (queue["Paused"], queue["Limit"], queue["Waiting"]) == (True, 5, 1)
    second.app.patch(f"/api/v1/queues{path}", json={"Paused": None, "Limit": None}).raise_for_status()
    assert backend.next_call(path).task_id == task_id
    report(first.app, TaskId=task_id, BackendStatus="completed")


def lose(server: RedisServer | RedisCluster, *names: str) -> None:
    """Delete the keys of these names, without their tags."""
    for node in server.nodes if isinstance(server, RedisCluster) else [server]:
        with node.connect() as client:
            for key in [*client.scan_iter()]:
                if key.partition("}")[2] in names:
                    client.delete(key)


def test_settings_that_are_lost_are_as_either_version_has_left_them(
    versions: Versions, redis_of_two: RedisServer | RedisCluster
) -> None:
    """The newer one restores them from their record, of which the older one knows nothing."""
    older, newer, path = versions.older.app, versions.newer.app, path_of()

    def shown(app: httpx.Client) -> tuple[bool, int | None]:
        queue = app.get(f"/api/v1/queues{path}").raise_for_status().json()
        return queue["Paused"], queue["Limit"]

    newer.patch(f"/api/v1/queues{path}", json={"Paused": True, "Limit": 5}).raise_for_status()
    assert shown(older) == shown(newer) == (True, 5)
    lose(redis_of_two, f"qs:{path}")
    assert shown(newer) == (True, 5)
    newer.patch(f"/api/v1/queues{path}", json={}).raise_for_status()
    assert shown(older) == (True, 5)
    older.patch(f"/api/v1/queues{path}", json={"Paused": None, "Limit": None}).raise_for_status()
    lose(redis_of_two, f"q:{path}")
    assert shown(older) == shown(newer) == (False, None), "what was reset is not taken for lost"


def test_a_failed_task_is_replayed_and_cancelled_by_the_other_version(pair: Pair, backend: ScriptedBackend) -> None:
    (first, second), path = pair, path_of()
    backend.script(path, Answer(400, {"Content-Type": "text/plain"}, b"no such band"), Answer())
    task_id = submit(first.app, path).json()["TaskId"]
    failed = ended(second.app, task_id)
    assert "no such band" in failed["Status"]
    assert second.app.post(f"/api/v1/tasks/{task_id}/replay").status_code == 202
    calls = [backend.next_call(path), backend.next_call(path)]
    assert [call.attempt for call in calls] == [1, 2]
    assert first.app.delete(f"/api/v1/tasks/{task_id}").status_code == 200
    assert looks_alike(pair, task_id)["BackendStatus"] == "cancelled"


def test_what_an_operator_did_in_the_newer_version_is_read_and_gone_on_with_by_the_older(
    pair: Pair, versions: Versions, backend: ScriptedBackend
) -> None:
    path, ada = path_of(), {"X-Operator": "ada", "X-Operator-Roles": "operate", "X-Gateway-Key": KEY}
    backend.script(path, Answer(400), Answer(), Answer())
    task_id = submit(pair[0].app, path).json()["TaskId"]
    ended(pair[1].app, task_id)
    asked = {"Action": "replay", "Path": path, "OperationId": "op-1"}
    answer = versions.newer.app.post("/api/v1/bulk", json=asked, headers=ada).raise_for_status().json()
    assert answer["Done"] == 1
    assert [backend.next_call(path).attempt for _ in range(2)] == [1, 2]
    report(versions.older.app, TaskId=task_id, Attempt=2, BackendStatus="failed")
    assert looks_alike(pair, task_id)["BackendStatus"] == "failed"
    # The older version has kept by which operation it was replayed.
    answer = versions.newer.app.post("/api/v1/bulk", json=asked, headers=ada).raise_for_status().json()
    assert answer["Refused"] == [{"TaskId": task_id, "Why": "done"}]
    assert versions.older.app.post(f"/api/v1/tasks/{task_id}/replay").status_code == 202
    assert backend.next_call(path).attempt == 3
    versions.newer.app.delete(f"/api/v1/tasks/{task_id}", headers=ada).raise_for_status()
    assert looks_alike(pair, task_id)["BackendStatus"] == "cancelled"
    told = [event.get("Operator") for event in history(versions.newer.app, task_id)]
    assert told == [None] * len(told)


def test_a_pipeline_takes_each_step_in_another_version(pair: Pair, backend: ScriptedBackend) -> None:
    first, second = pair
    paths = [path_of() for _ in range(4)]
    task_id = submit(first.app, paths[0], b"photo", Pipeline=", ".join(paths[1:])).json()["TaskId"]
    data = b"photo"
    for version, path in zip((second, first, second, first), paths, strict=True):
        call = backend.next_call(path)
        assert (call.task_id, call.body) == (task_id, data)
        data += b"+"
        assert put_result(version.app, call, data, "completed").is_success
    task = looks_alike(pair, task_id)
    assert (task["BackendStatus"], task["Step"], task["Steps"]) == ("completed", 4, 4)
    assert result_of(pair, task_id) == b"photo++++"


def test_a_batch_of_one_version_gets_children_and_its_end_from_both(pair: Pair, backend: ScriptedBackend) -> None:
    (first, second), path, gather = pair, path_of(), path_of()
    batch_id = begin(first.app, {"Name": "scenes", "Then": gather})
    tasks = [child(version.app, path, batch_id) for version in (second, first, second)]
    for version, task_id in zip((first, second, first), tasks, strict=True):
        report(version.app, TaskId=task_id, BackendStatus="completed", Status="completed")
    for version in pair:
        counted(version.app, batch_id, Total=3, Completed=3)
        assert sorted(children(version.app, batch_id)) == sorted(tasks)
    seal(second.app, batch_id)
    then = backend.next_call(gather)
    assert [task["TaskId"] for task in json.loads(then.body)["Tasks"]] == tasks
    assert put_result(first.app, then, b"<map/>", "completed").is_success
    assert ended(second.app, batch_id)["BackendStatus"] == "completed"
    assert looks_alike(pair, batch_id)["ThenTaskId"] == then.task_id
    assert result_of(pair, batch_id) == b"<map/>"


def test_a_batch_is_cancelled_and_replayed_by_the_other_version(pair: Pair, backend: ScriptedBackend) -> None:
    (first, second), path = pair, path_of()
    batch_id = begin(first.app)
    one, other = (child(version.app, path, batch_id) for version in pair)
    seal(first.app, batch_id)
    report(second.app, TaskId=one, BackendStatus="failed", Status="failed")
    report(first.app, TaskId=other, BackendStatus="completed", Status="completed")
    assert ended(first.app, batch_id)["BackendStatus"] == "failed"
    assert second.app.post(f"/api/v1/tasks/{batch_id}/replay").status_code == 202
    eventually(lambda: task_of(first.app, one)["BackendStatus"] != "failed")
    assert first.app.delete(f"/api/v1/tasks/{batch_id}").is_success
    eventually(lambda: task_of(second.app, one)["BackendStatus"] == "cancelled")
    batch = eventually(lambda: found if (found := task_of(second.app, batch_id))["Cancelled"] == 1 else None)
    assert batch
    assert (batch["Completed"], batch["Cancelled"]) == (1, 1)


def test_an_upload_to_one_version_is_handed_in_at_the_other(pair: Pair, backend: ScriptedBackend) -> None:
    (first, second), path = pair, path_of("/v1/reference")
    upload_id = uploaded(first.app, LARGE, "image/tiff", Sha256=hashlib.sha256(LARGE).hexdigest())
    handed = second.app.post(f"/api/v1/submit{path}", headers={"X-Upload": upload_id})
    assert handed.status_code == 202, handed.text
    task_id = handed.json()["TaskId"]
    call = backend.next_call(path)
    assert read(call.headers["x-task-body"]).content == LARGE
    taken = first.app.post(f"/api/v1/submit{path_of()}", headers={"X-Upload": upload_id})
    assert taken.status_code == 409

    result = declare(second.app, LARGE[::-1], "image/tiff", TaskId=task_id, headers=named(call))
    assert write(result["Url"], LARGE[::-1], "image/tiff").status_code == 201
    stored = first.app.put(
        f"/api/v1/tasks/{task_id}/result",
        headers=named(call, X_Upload=result["UploadId"], X_Task_Complete=quote("completed")),
    )
    assert stored.is_success, stored.text
    assert looks_alike(pair, task_id)["BackendStatus"] == "completed"
    assert result_of(pair, task_id) == LARGE[::-1]


def test_a_version_takes_over_from_the_other_that_was_killed(
    pair: Pair, versions: Versions, backend: ScriptedBackend
) -> None:
    (first, second), path = pair, path_of("/v1/brief")
    versions.deliver_to(first)
    task_id = submit(first.app, path).json()["TaskId"]
    assert backend.next_call(path).attempt == 1
    versions.deliver_to(second)
    first.host.kill()
    again = backend.next_call(path)
    assert (again.task_id, again.attempt) == (task_id, 2)
    assert put_result(second.app, again, b"done", f"{again.attempt}").status_code == 200
    first.host.start()
    late = first.app.post("/api/CacheConnectorUpsert", json={"TaskId": task_id, "Attempt": 1, "Status": "late"})
    assert late.status_code == 409
    assert looks_alike(pair, task_id)["BackendStatus"] == "completed"


class Traffic:
    """Callers and a model service throughout a deployment: each phase reports on what the phase before has begun."""

    def __init__(self, versions: Versions, backend: ScriptedBackend) -> None:
        self._versions = versions
        self._arrived: list[Call] = []
        self._paths = [path_of() for _ in range(3)]
        self._expected: dict[str, bytes] = {}
        self._batches: list[tuple[str, set[str]]] = []
        for path in self._paths:
            backend.react(path, self._take)

    def phase(self, *up: Version, then: Callable[[], None] | None = None) -> None:
        """Submit at the versions that are up, report there on what had come before, and bring about what follows
        while all that was begun is with the model service."""
        at = itertools.cycle(up)
        before, self._arrived = self._arrived, []
        for call in before:
            self._finish(next(at), call)
        self._seal(up)
        single, second, _ = self._paths
        for _ in range(10):
            self._expect(submit(next(at).app, single, b"work"), b"work+")
        for _ in range(5):
            self._expect(submit(next(at).app, single, b"work", Pipeline=second), b"work++")
        batch_id = begin(next(at).app, {"Then": self._paths[2]})
        tasks = {child(next(at).app, single, batch_id, b"work") for _ in range(5)}
        self._expected |= dict.fromkeys(tasks, b"work+")
        self._batches.append((batch_id, tasks))
        eventually(lambda: not self._waiting(up[0]))
        if then is not None:
            then()

    def drain(self, *up: Version) -> None:
        """Report until all has ended, and look at what came of it."""
        at = itertools.cycle(up)

        def done() -> bool:
            before, self._arrived = self._arrived, []
            for call in before:
                self._finish(next(at), call)
            self._seal(up)
            batches = [batch_id for batch_id, _ in self._batches]
            return all(task_of(up[0].app, task_id)["BackendStatus"] == "completed" for task_id in batches) and all(
                task_of(up[0].app, task_id)["BackendStatus"] == "completed" for task_id in self._expected
            )

        eventually(done)
        for version in up:
            results = {
                task_id: version.app.get(f"/api/v1/tasks/{task_id}/result").content for task_id in self._expected
            }
            assert results == self._expected
            for batch_id, tasks in self._batches:
                batch = task_of(version.app, batch_id)
                assert (batch["Total"], batch["Completed"]) == (len(tasks), len(tasks))
                assert set(children(version.app, batch_id)) == tasks
            for path in self._paths:
                queue = version.app.get(f"/api/v1/queues{path}").json()
                assert (queue["Waiting"], queue["InFlight"], queue["Failed"]) == (0, 0, 0)

    def _take(self, call: Call) -> None:
        self._arrived.append(call)

    def _expect(self, response: httpx.Response, result: bytes) -> None:
        assert response.status_code == 202, response.text
        self._expected[response.json()["TaskId"]] = result

    def _finish(self, version: Version, call: Call) -> None:
        answer = put_result(version.app, call, call.body + b"+", "completed")
        # A version that is stopped may take the record of an acceptance with it: then there is a newer attempt.
        assert answer.status_code in (200, 201, 204, 409), answer.text

    def _seal(self, up: tuple[Version, ...]) -> None:
        for (batch_id, _), version in zip(self._batches, itertools.cycle(up), strict=False):
            seal(version.app, batch_id)

    def _waiting(self, version: Version) -> list[str]:
        listed = (
            version.app.get("/api/v1/tasks", params={"path": path, "status": "created"}).json()["Tasks"]
            for path in self._paths
        )
        return [task["TaskId"] for tasks in listed for task in tasks]


def test_an_upgrade_and_a_rollback_lose_nothing(versions: Versions, backend: ScriptedBackend) -> None:
    older, newer = versions.older, versions.newer
    traffic = Traffic(versions, backend)
    newer.host.stop()
    versions.deliver_to(older)
    traffic.phase(older, then=newer.host.start)
    traffic.phase(older, newer, then=lambda: versions.deliver_to(newer))
    traffic.phase(newer, older)
    older.host.stop()
    traffic.phase(newer)
    older.host.start()
    traffic.phase(older, newer, then=lambda: versions.deliver_to(older))
    newer.host.stop()
    traffic.phase(older)
    newer.host.start()
    traffic.drain(older, newer)


def test_the_older_version_keeps_the_fields_that_it_does_not_know(
    versions: Versions, redis_of_two: RedisServer | RedisCluster, backend: ScriptedBackend
) -> None:
    older, newer = versions.older, versions.newer
    path, following, gather = (path_of() for _ in range(3))
    with closing(LaterFields(redis_of_two)) as later:
        upload_id = uploaded(newer.app, LARGE)
        batch_id = begin(newer.app, {"Then": gather})
        newer.app.patch(f"/api/v1/queues{path}", json={"Paused": True}).raise_for_status()
        task_id = submit(newer.app, path, b"work", Pipeline=following, Batch=batch_id).json()["TaskId"]
        versions.deliver_to(older)
        newer.host.stop()
        later.look()
        assert all(later.count(kind) for kind in ("t", "u", "q", "qs"))

        def step(response: httpx.Response) -> httpx.Response:
            assert response.is_success, response.text
            assert later.look() == []
            return response

        app = older.app
        step(app.patch(f"/api/v1/queues{path}", json={"Paused": None}))
        call = backend.next_call(path)
        step(app.post("/api/CacheConnectorUpsert", json={"TaskId": task_id, "BackendStatus": "running"}))
        step(app.post(f"/api/v1/tasks/{task_id}/heartbeat", headers=named(call), json={"Progress": 0.5}))
        step(app.put(f"/api/v1/tasks/{task_id}/checkpoint", content=b"kept", headers=named(call)))
        step(app.post(f"/api/v1/tasks/{task_id}/release", headers=named(call)))
        call = backend.next_call(path)
        step(put_result(app, call, b"boxes", "completed"))
        call = backend.next_call(following)
        assert call.body == b"boxes"
        failed = {"TaskId": task_id, "Attempt": call.attempt, "BackendStatus": "failed", "Status": "failed"}
        step(app.post("/api/CacheConnectorUpsert", json=failed))
        step(app.post(f"/api/v1/tasks/{task_id}/replay"))
        call = backend.next_call(following)
        step(put_result(app, call, b"labels", "completed"))
        step(app.post(f"/api/v1/batches/{batch_id}/seal"))
        then = backend.next_call(gather)
        step(put_result(app, then, b"<map/>", "completed"))
        ended(app, batch_id)
        reference = path_of("/v1/reference")
        step(app.post(f"/api/v1/submit{reference}", headers={"X-Upload": upload_id}))
        handed = backend.next_call(reference)
        step(app.delete(f"/api/v1/tasks/{handed.task_id}"))
        assert later.look() == []


def test_what_the_newer_version_has_counted_stays_while_the_older_one_works_too(
    versions: Versions, backend: ScriptedBackend
) -> None:
    """The older one knows no series: it carries on what lies in the queue's state, and counts nothing."""
    path = path_of()

    def work(version: Version) -> None:
        task_id = submit(version.app, path).json()["TaskId"]
        backend.next_call(path)
        report(version.app, TaskId=task_id, Attempt=1, BackendStatus="completed", Status="completed")

    def counted() -> tuple[int, int]:
        document = versions.newer.app.get("/api/v1/series", params={"path": path}).raise_for_status().json()
        [series] = document["Series"]
        created, completed = (sum(count or 0 for count in series[name]) for name in ("Created", "Completed"))
        return created, completed

    work(versions.newer)
    before = eventually(lambda: (found := counted()) == (1, 1) and found)
    for _ in range(3):
        work(versions.older)
    assert counted() >= before
    work(versions.newer)
    eventually(lambda: counted() >= (2, 2))
    metrics = versions.newer.app.get("/api/v1/metrics").raise_for_status()
    assert f'backbone_tasks{{path="{path}",state="completed"}} 5' in metrics.text
