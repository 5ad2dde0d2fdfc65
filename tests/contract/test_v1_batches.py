"""Batches: many tasks that are one thing to wait for, and the removal of tasks (contract B17)."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from local.stack import Stack
from shared.store import BatchSteps, RedisLink
from tests.conftest import IN_A_HURRY
from tests.contract.v1_support import (
    INLINE_LIMIT_BYTES,
    TASK_KEYS,
    UNKNOWN_ID,
    assert_problem,
    blob_sizes,
    ended,
    keep,
    new_path,
    pattern_bytes,
    report,
    submit,
    task_of,
)
from tests.scripted_backend import Answer, ScriptedBackend
from tests.shared.store.conftest import opener
from tests.shared.store.policies import store_policy
from tests.waiting import eventually

GATEWAY_KEY = "the-key-of-the-gateway-0123456789"
BATCH_KEYS = {"Name", "Sealed", "Total", "Completed", "Failed", "Cancelled", "Unfinished", "Then"}
LARGE = pattern_bytes(INLINE_LIMIT_BYTES + 1)
Json = dict[str, Any]


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[Stack]:
    """A stack that knows the key of a gateway."""
    with Stack(
        tmp_path_factory.mktemp("batches"),
        redis=redis_server,
        azurite=azurite,
        backends={"/v1/test": backend.url, "/v1/foreign": {"url": backend.url, "answer": "result"}},
        with_model=False,
        settings={**IN_A_HURRY, "GATEWAY_KEY": GATEWAY_KEY},
    ) as stack:
        yield stack


@pytest.fixture(scope="module")
def app(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


def as_owner(owner: str) -> dict[str, str]:
    return {"X-Task-Owner": owner, "X-Gateway-Key": GATEWAY_KEY}


def begin(app: httpx.Client, request: Json | None = None, **headers: str) -> str:
    """The id of a new batch."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    response = app.post("/api/v1/batches", json=request or {}, headers=names)
    assert response.status_code == 202, response.text
    return response.json()["TaskId"]


def child(app: httpx.Client, path: str, batch_id: str, content: bytes = b"{}", **headers: str) -> str:
    response = submit(app, path, content, Batch=batch_id, **headers)
    assert response.status_code == 202, response.text
    return response.json()["TaskId"]


def seal(app: httpx.Client, batch_id: str) -> Json:
    return app.post(f"/api/v1/batches/{batch_id}/seal").raise_for_status().json()


def counts(batch: Json) -> dict[str, int]:
    """Without the zeros."""
    return {name: batch[name] for name in ("Total", "Completed", "Failed", "Cancelled", "Unfinished") if batch[name]}


def counted(app: httpx.Client, batch_id: str, **expected: int) -> Json:
    """The batch once it counts so."""
    batch = eventually(lambda: found if counts(found := task_of(app, batch_id)) == expected else None)
    assert batch
    return batch


def children(app: httpx.Client, batch_id: str, **query: Any) -> list[str]:
    page = app.get("/api/v1/tasks", params={"batch": batch_id, **query}).raise_for_status().json()
    return [task["TaskId"] for task in page["Tasks"]]


def finish(app: httpx.Client, task_id: str, state: str = "completed") -> None:
    report(app, TaskId=task_id, BackendStatus=state, Status=state)


def answering_path() -> str:
    """A path whose answers are the results."""
    return new_path().replace("/v1/test", "/v1/foreign")


def history(app: httpx.Client, task_id: str) -> list[tuple[str, str, str]]:
    events = app.get(f"/api/v1/tasks/{task_id}/history").raise_for_status().json()["Events"]
    return [(event["State"], event["Who"], event["Reason"]) for event in events]


@pytest.mark.contract("B17.1", "B17.2", "B17.5", "B17.6", "B17.7")
def test_a_batch_ends_once_it_is_sealed_and_all_its_children_have_ended(app: httpx.Client) -> None:
    path = new_path()
    response = app.post("/api/v1/batches", json={"name": "scenes"})
    batch = response.json()
    batch_id = batch["TaskId"]
    assert response.headers["location"].endswith(f"/api/v1/tasks/{batch_id}")
    assert batch.keys() == TASK_KEYS | BATCH_KEYS | {"MaxBodyBytes", "MaxUploadBytes"}
    assert (batch["Name"], batch["Sealed"], batch["Progress"], batch["Then"]) == ("scenes", False, None, None)
    assert (batch["BackendStatus"], batch["PublishToGrid"], counts(batch)) == ("created", False, {})
    first = submit(app, path, Batch=batch_id).json()
    assert first["Batch"] == batch_id
    second = child(app, path, batch_id)
    assert counts(task_of(app, batch_id)) == {"Total": 2, "Unfinished": 2}

    finish(app, first["TaskId"])
    running = counted(app, batch_id, Total=2, Completed=1, Unfinished=1)
    assert (running["BackendStatus"], running["Progress"]) == ("running", 0.5)
    finish(app, second)
    assert counted(app, batch_id, Total=2, Completed=2)["BackendStatus"] == "running"
    sealed = seal(app, batch_id)
    assert (sealed["BackendStatus"], sealed["Status"], sealed["Sealed"]) == ("completed", "completed", True)
    assert seal(app, batch_id) == sealed == task_of(app, batch_id)
    assert history(app, batch_id) == [
        ("created", "client", "submit"),
        ("running", "reconciler", "children"),
        ("completed", "reconciler", "children"),
    ]
    assert app.post("/api/v1/batches").json()["Name"] is None


@pytest.mark.contract("B17.6")
def test_a_batch_with_children_that_failed_or_were_cancelled_has_failed(app: httpx.Client) -> None:
    path, batch_id = new_path(), begin(app)
    done, failed, cancelled = (child(app, path, batch_id) for _ in range(3))
    seal(app, batch_id)
    finish(app, failed, "failed")
    app.delete(f"/api/v1/tasks/{cancelled}").raise_for_status()
    finish(app, done)
    batch = counted(app, batch_id, Total=3, Completed=1, Failed=1, Cancelled=1)
    assert batch["BackendStatus"] == "failed"
    assert batch["Status"] == "failed - 1 of 3 failed, 1 of 3 cancelled"


@pytest.mark.contract("B17.7")
def test_the_children_are_listed_and_the_list_can_be_filtered(app: httpx.Client) -> None:
    path, other, batch_id = new_path(), new_path(), begin(app)
    first, second, third = child(app, path, batch_id), child(app, other, batch_id), child(app, path, batch_id)
    finish(app, first)
    assert children(app, batch_id) == [third, second, first]
    assert children(app, batch_id, path=path) == [third, first]
    assert children(app, batch_id, status="completed") == [first]
    page = app.get("/api/v1/tasks", params={"batch": batch_id, "limit": 2}).json()
    assert [task["TaskId"] for task in page["Tasks"]] == [third, second]
    assert children(app, batch_id, limit=2, cursor=page["NextCursor"]) == [first]
    for unknown in (UNKNOWN_ID, first, "not an id"):
        assert_problem(app.get("/api/v1/tasks", params={"batch": unknown}), 404, "unknown-batch")


@pytest.mark.contract("B17.3", "B17.4", "B17.6")
def test_a_child_of_what_takes_no_children_is_refused_and_not_there(app: httpx.Client) -> None:
    path, batch_id = new_path(), begin(app)
    task_id = child(app, path, batch_id)
    for unknown in (UNKNOWN_ID, task_id, "not an id", ""):
        assert_problem(submit(app, path, Batch=unknown), 404, "unknown-batch")
        if unknown:
            assert_problem(app.post(f"/api/v1/batches/{quote(unknown)}/seal"), 404, unknown_kind(unknown))
    seal(app, batch_id)
    assert_problem(submit(app, path, Batch=batch_id), 409, "batch-sealed")
    cancelled = begin(app)
    app.delete(f"/api/v1/tasks/{cancelled}").raise_for_status()
    assert_problem(submit(app, path, Batch=cancelled), 409, "batch-sealed")
    assert counts(task_of(app, batch_id))["Total"] == 1
    listed = app.get("/api/v1/tasks", params={"path": path}).json()["Tasks"]
    assert [task["TaskId"] for task in listed] == [task_id]


def unknown_kind(text: str) -> str:
    return "no-such-task" if " " in text else "unknown-batch"


@pytest.mark.contract("B17.4")
def test_a_batch_takes_ten_thousand_children(app: httpx.Client, redis_server: RedisServer | RedisCluster) -> None:
    path, batch_id = new_path(), begin(app)

    async def register(first: int, last: int) -> None:
        link = RedisLink(opener(redis_server.url))
        steps = BatchSteps(link, store_policy())
        await asyncio.gather(*(steps.register(batch_id, f"c{number}", "") for number in range(first, last)))
        await link.aclose()

    for first in range(0, 9_999, 1_111):
        asyncio.run(register(first, first + 1_111))
    child(app, path, batch_id)
    assert_problem(submit(app, path, Batch=batch_id), 409, "batch-full")
    assert counts(task_of(app, batch_id)) == {"Total": 10_000, "Unfinished": 10_000}


@pytest.mark.contract("B17.8")
def test_an_empty_batch_is_completed_when_it_is_sealed(app: httpx.Client, backend: ScriptedBackend) -> None:
    assert seal(app, begin(app))["BackendStatus"] == "completed"
    gather = answering_path()
    batch_id = begin(app, {"Then": gather})
    seal(app, batch_id)
    assert json.loads(backend.next_call(gather).body) == {"BatchId": batch_id, "Name": None, "Tasks": []}
    assert ended(app, batch_id)["BackendStatus"] == "completed"


@pytest.mark.contract("B17.9", "B17.10")
def test_the_then_task_gets_the_list_of_the_children_and_its_result_is_the_batchs(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    path, silent, gather = answering_path(), new_path(), answering_path()
    backend.script(path, Answer(headers={"Content-Type": "text/plain"}, body=b"picture"))
    backend.script(gather, Answer(headers={"Content-Type": "text/html"}, body=b"<map/>"))
    batch_id = begin(app, {"Then": f"{gather}/?a=1", "Name": "b"}, Priority="7")
    assert task_of(app, batch_id)["Then"] == f"{gather}?a=1"
    done, failed = child(app, path, batch_id), child(app, silent, batch_id)
    ended(app, done)
    finish(app, failed, "failed")
    assert_problem(app.get(f"/api/v1/tasks/{batch_id}/result"), 404, "no-result")
    assert "ThenTaskId" not in seal(app, batch_id)

    call = backend.next_call(gather)
    assert (call.path, call.headers["content-type"]) == (f"{gather}?a=1", "application/json")
    assert json.loads(call.body) == {
        "BatchId": batch_id,
        "Name": "b",
        "Tasks": [
            {"TaskId": done, "State": "completed", "Status": "completed", "Result": f"/api/v1/tasks/{done}/result"},
            {"TaskId": failed, "State": "failed", "Status": "failed", "Result": None},
        ],
    }
    batch = ended(app, batch_id)
    assert (batch["BackendStatus"], batch["Status"]) == ("failed", "failed - 1 of 2 failed")
    assert (batch["ThenTaskId"], counts(batch)) == (call.task_id, {"Total": 2, "Completed": 1, "Failed": 1})
    then = task_of(app, call.task_id)
    assert (then["Batch"], then["Priority"]) == (batch_id, 7)
    assert children(app, batch_id) == [failed, done]
    result = app.get(f"/api/v1/tasks/{batch_id}/result")
    assert (result.content, result.headers["content-type"]) == (b"<map/>", "text/html")
    assert_problem(app.get(f"/api/v1/tasks/{batch_id}/body"), 404, "no-body")
    assert backend.untaken(gather) == 0


@pytest.mark.contract("B17.9")
def test_a_batch_whose_then_task_fails_has_failed(app: httpx.Client, backend: ScriptedBackend) -> None:
    gather = answering_path()
    backend.script(gather, Answer(status=422))
    batch_id = begin(app, {"Then": gather})
    finish(app, child(app, new_path(), batch_id))
    seal(app, batch_id)
    assert ended(app, batch_id)["Status"] == "failed - Then failed"


@pytest.mark.contract("B17.11")
def test_a_wait_for_a_batch_is_answered_as_its_children_end(app: httpx.Client, stack: Stack) -> None:
    path, batch_id = new_path(), begin(app)
    tasks = [child(app, path, batch_id) for _ in range(2)]
    seen = app.get(f"/api/v1/tasks/{batch_id}").headers["etag"]
    with ThreadPoolExecutor() as pool, stack.client() as other:

        def wait() -> Json:
            query = {"wait": 60}
            response = other.get(f"/api/v1/tasks/{batch_id}", params=query, headers={"If-None-Match": seen})
            return response.raise_for_status().json()

        waiting = pool.submit(wait)
        finish(app, tasks[0])
        assert waiting.result()["Progress"] == 0.5
        seen = app.get(f"/api/v1/tasks/{batch_id}").headers["etag"]
        waiting = pool.submit(wait)
        seal(app, batch_id)
        assert waiting.result()["Sealed"]
        seen = app.get(f"/api/v1/tasks/{batch_id}").headers["etag"]
        waiting = pool.submit(wait)
        finish(app, tasks[1])
        assert waiting.result()["BackendStatus"] == "completed"


@pytest.mark.contract("B17.12")
def test_a_batch_begins_once_for_each_idempotency_key(app: httpx.Client) -> None:
    path, key = new_path(), {"Idempotency_Key": new_path()}
    request = {"Name": "b", "Then": path}
    batch_id = begin(app, request, **key)
    seal(app, batch_id)
    assert begin(app, {**request, "Then": f"{path}/"}, **key) == batch_id
    for other in ({}, {"Name": "b"}, {"Name": "c", "Then": path}):
        response = app.post("/api/v1/batches", json=other, headers={"Idempotency-Key": key["Idempotency_Key"]})
        assert_problem(response, 422, "idempotency-key-reused")


@pytest.mark.contract("B17.13")
def test_a_child_that_is_submitted_again_counts_once(app: httpx.Client) -> None:
    path, batch_id = new_path(), begin(app)
    task_id = child(app, path, batch_id, Idempotency_Key="k")
    assert child(app, path, batch_id, Idempotency_Key="k") == task_id
    with ThreadPoolExecutor(8) as pool:
        again = {*pool.map(lambda _: child(app, path, batch_id, Idempotency_Key="n"), range(8))}
    assert len(again) == 1
    assert counts(task_of(app, batch_id)) == {"Total": 2, "Unfinished": 2}
    assert_problem(submit(app, path, Idempotency_Key="k"), 422, "idempotency-key-reused")
    assert_problem(submit(app, path, Idempotency_Key="k", Batch=begin(app)), 422, "idempotency-key-reused")
    seal(app, batch_id)
    finish(app, task_id)
    assert child(app, path, batch_id, Idempotency_Key="k") == task_id
    assert_problem(submit(app, path, Batch=batch_id, Idempotency_Key="new"), 409, "batch-sealed")
    finish(app, *again)
    assert counted(app, batch_id, Total=2, Completed=2)["BackendStatus"] == "completed"


@pytest.mark.contract("B17.14")
def test_a_cancelled_batch_cancels_what_is_left_of_it(app: httpx.Client, backend: ScriptedBackend) -> None:
    path, gather = new_path(), new_path()
    batch_id = begin(app, {"Then": gather})
    done, running, waiting = child(app, path, batch_id), child(app, path, batch_id), child(app, path, batch_id)
    finish(app, done)
    report(app, TaskId=running, BackendStatus="running", Status="on it")
    counted(app, batch_id, Total=3, Completed=1, Unfinished=2)
    cancelled = app.delete(f"/api/v1/tasks/{batch_id}").raise_for_status().json()
    assert (cancelled["BackendStatus"], cancelled["Status"], cancelled["Sealed"]) == ("cancelled", "Cancelled", True)
    counted(app, batch_id, Total=3, Completed=1, Cancelled=2)
    assert {task_of(app, task_id)["BackendStatus"] for task_id in (running, waiting)} == {"cancelled"}
    assert task_of(app, done)["BackendStatus"] == "completed"
    update = {"TaskId": running, "BackendStatus": "completed"}
    assert_problem(app.post("/api/CacheConnectorUpsert", json=update), 409, "conflict")
    assert app.delete(f"/api/v1/tasks/{batch_id}").status_code == 200
    assert_problem(app.post(f"/api/v1/tasks/{batch_id}/replay"), 409, "conflict")
    assert history(app, batch_id)[-1] == ("cancelled", "client", "cancel")
    assert backend.untaken(gather) == 0
    finished = begin(app)
    seal(app, finished)
    problem = assert_problem(app.delete(f"/api/v1/tasks/{finished}"), 409, "conflict")
    assert problem["Task"]["Total"] == 0


@pytest.mark.contract("B17.14")
def test_a_cancelled_batch_cancels_its_then_task(app: httpx.Client, backend: ScriptedBackend) -> None:
    gather = new_path()
    batch_id = begin(app, {"Then": gather})
    seal(app, batch_id)
    then_id = backend.next_call(gather).task_id
    app.delete(f"/api/v1/tasks/{batch_id}").raise_for_status()
    assert ended(app, then_id)["BackendStatus"] == "cancelled"
    assert task_of(app, batch_id)["BackendStatus"] == "cancelled"


@pytest.mark.contract("B17.15")
def test_a_replay_of_a_failed_batch_replays_its_failed_children_and_then_gathers_anew(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    path, gather = new_path(), answering_path()
    batch_id = begin(app, {"Then": gather})
    done, *failed = (child(app, path, batch_id) for _ in range(3))
    assert_problem(app.post(f"/api/v1/tasks/{batch_id}/replay"), 409, "conflict")
    finish(app, done)
    for task_id in failed:
        finish(app, task_id, "failed")
    seal(app, batch_id)
    first = ended(app, batch_id)
    assert first["Status"] == "failed - 2 of 3 failed"
    replayed = app.post(f"/api/v1/tasks/{batch_id}/replay")
    assert (replayed.status_code, replayed.json()["BackendStatus"], replayed.json()["Attempt"]) == (202, "running", 2)
    counted(app, batch_id, Total=3, Completed=1, Unfinished=2)
    assert [task_of(app, task_id)["Attempt"] for task_id in (done, *failed)] == [1, 2, 2]
    for task_id in failed:
        finish(app, task_id)
    second = ended(app, batch_id)
    assert (second["BackendStatus"], second["Status"]) == ("completed", "completed")
    assert second["ThenTaskId"] != first["ThenTaskId"]
    calls = [backend.next_call(gather) for _ in range(2)]
    assert [call.task_id for call in calls] == [first["ThenTaskId"], second["ThenTaskId"]]
    states = [[task["State"] for task in json.loads(call.body)["Tasks"]] for call in calls]
    assert states == [["completed", "failed", "failed"], ["completed"] * 3]
    assert_problem(app.post(f"/api/v1/tasks/{batch_id}/replay"), 409, "conflict")
    assert history(app, batch_id)[2:5] == [
        ("failed", "reconciler", "children"),
        ("running", "client", "replay"),
        ("completed", "reconciler", "children"),
    ]


@pytest.mark.contract("B17.15")
def test_a_replay_of_a_batch_of_which_only_the_then_task_failed_begins_that_anew(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    gather = answering_path()
    backend.script(gather, Answer(status=422), Answer(body=b"map"))
    batch_id = begin(app, {"Then": gather})
    finish(app, child(app, new_path(), batch_id))
    seal(app, batch_id)
    ended(app, batch_id)
    assert app.post(f"/api/v1/tasks/{batch_id}/replay").status_code == 202
    assert ended(app, batch_id)["BackendStatus"] == "completed"
    assert app.get(f"/api/v1/tasks/{batch_id}/result").content == b"map"


@pytest.mark.contract("B17.16")
def test_a_child_that_is_replayed_alone_is_waited_for_again(app: httpx.Client) -> None:
    path, batch_id = new_path(), begin(app)
    failed, other = child(app, path, batch_id), child(app, path, batch_id)
    seal(app, batch_id)
    finish(app, failed, "failed")
    counted(app, batch_id, Total=2, Failed=1, Unfinished=1)
    app.post(f"/api/v1/tasks/{failed}/replay").raise_for_status()
    counted(app, batch_id, Total=2, Unfinished=2)
    finish(app, other)
    assert counted(app, batch_id, Total=2, Completed=1, Unfinished=1)["BackendStatus"] == "running"
    finish(app, failed)
    assert counted(app, batch_id, Total=2, Completed=2)["BackendStatus"] == "completed"


@pytest.mark.contract("B17.17")
def test_a_bad_batch_does_not_begin(app: httpx.Client) -> None:
    for then in ("/v2/nowhere", "v1/test/x", "https://models.example.org/v1/x", "/v1/test/../x"):
        problem = assert_problem(app.post("/api/v1/batches", json={"Then": then}), 404, "unknown-endpoint")
        assert then in problem["detail"]
    for bad, field in (({"Name": "x" * 201}, "/Name"), ({"Then": 1}, "/Then"), ({"Next": "x"}, "/Next")):
        assert_problem(app.post("/api/v1/batches", json=bad), 400, "invalid-request", field=field)
    assert_problem(app.post("/api/v1/batches", content=b"["), 400, "invalid-request", field="")


@pytest.mark.contract("B17.18", "B17.19")
def test_batches_are_listed_apart_from_tasks_and_in_no_count(app: httpx.Client) -> None:
    owner = as_owner("lister")
    ids: list[str] = []
    for _ in range(3):
        ids.insert(0, app.post("/api/v1/batches", headers=owner).json()["TaskId"])
    page = app.get("/api/v1/batches", params={"limit": 2}, headers=owner).json()
    assert [batch["TaskId"] for batch in page["Batches"]] == ids[:2]
    rest = app.get("/api/v1/batches", params={"cursor": page["NextCursor"]}, headers=owner).json()
    assert ([batch["TaskId"] for batch in rest["Batches"]], rest["NextCursor"]) == (ids[2:], None)
    assert app.get("/api/v1/tasks", headers=owner).json()["Tasks"] == []
    path = new_path()
    app.patch(f"/api/v1/queues{path}", json={"Paused": True}).raise_for_status()
    app.post(f"/api/v1/submit{path}", headers={"Batch": ids[0], **owner}).raise_for_status()
    assert len(app.get("/api/v1/tasks", headers=owner).json()["Tasks"]) == 1
    assert app.get(f"/api/v1/queues{path}").json()["Waiting"] == 1
    queues = app.get("/api/v1/queues/").json()["Queues"]
    assert [queue for queue in queues if not queue["EndpointPath"].startswith("/")] == []


@pytest.mark.contract("B17.20")
def test_no_model_service_can_change_a_batch(app: httpx.Client, stack: Stack, backend: ScriptedBackend) -> None:
    path, batch_id = new_path(), begin(app)
    before = task_of(app, batch_id)
    task = f"/api/v1/tasks/{batch_id}"
    attempt = {"X-Task-Attempt": "1"}
    requests = [
        app.post("/api/CacheConnectorUpsert", json={"TaskId": batch_id, "BackendStatus": "completed"}),
        app.post(
            "/api/CacheConnectorUpsert",
            json={"TaskId": batch_id, "PublishToGrid": True, "Body": "x", "Endpoint": backend.url + path},
        ),
        app.put(f"{task}/result", content=b"x", headers=attempt),
        app.put(f"{task}/checkpoint", content=b"x", headers=attempt),
        app.post(f"{task}/heartbeat", headers=attempt),
        app.post(f"{task}/release", headers=attempt),
        app.post(f"{task}/next{path}", content=b"x", headers=attempt),
    ]
    for response in requests:
        assert assert_problem(response, 409, "conflict")["Task"]["TaskId"] == batch_id
    event = {
        "id": batch_id,
        "eventType": "backbone.dispatch",
        "subject": path,
        "eventTime": "2026-11-22T10:12:44Z",
        "dataVersion": "1",
        "data": {"taskId": batch_id, "attempt": 1},
    }
    app.post("/api/BackendWebhook", json=[event], headers={"aeg-event-type": "Notification"})
    assert task_of(app, batch_id) == before
    assert app.get("/api/CacheConnectorGet", params={"taskId": batch_id}).json()["TaskId"] == batch_id


@pytest.mark.contract("B17.3", "B17.21")
def test_a_batch_is_one_owners(app: httpx.Client) -> None:
    path, alice, bob = new_path(), as_owner("alice"), as_owner("bob")
    batch_id = app.post("/api/v1/batches", headers=alice).json()["TaskId"]
    task = f"/api/v1/tasks/{batch_id}"
    for response in (
        app.post(f"/api/v1/submit{path}", headers={"Batch": batch_id, **bob}),
        submit(app, path, Batch=batch_id),
        app.post(f"/api/v1/batches/{batch_id}/seal", headers=bob),
        app.get("/api/v1/tasks", params={"batch": batch_id}, headers=bob),
    ):
        assert_problem(response, 404, "unknown-batch")
    for response in (
        app.get(task, headers=bob),
        app.get(f"{task}/history", headers=bob),
        app.get(f"{task}/result", headers=bob),
        app.delete(task, headers=bob),
        app.delete(task, params={"purge": "true"}, headers=bob),
        app.post(f"{task}/replay", headers=bob),
    ):
        assert_problem(response, 404, "no-such-task")
    assert app.get("/api/v1/batches", headers=bob).json()["Batches"] == []
    task_id = app.post(f"/api/v1/submit{path}", headers={"Batch": batch_id, **alice}).json()["TaskId"]
    assert app.get("/api/v1/tasks", params={"batch": batch_id}, headers=alice).json()["Tasks"][0]["TaskId"] == task_id
    assert app.post(f"/api/v1/batches/{batch_id}/seal", headers=alice).status_code == 200
    finish(app, task_id)
    eventually(lambda: task_of(app, batch_id)["BackendStatus"] == "completed")
    for purged in (task_id, batch_id):
        response = app.delete(f"/api/v1/tasks/{purged}", params={"purge": "true"}, headers=bob)
        assert_problem(response, 404, "no-such-task")
    assert app.delete(task, params={"purge": "true"}, headers=alice).status_code == 204


def gone(app: httpx.Client, task_id: str) -> bool:
    task = f"/api/v1/tasks/{task_id}"
    kinds = [app.get(url).status_code for url in (task, f"{task}/history", f"{task}/result", f"{task}/checkpoint")]
    return kinds == [404] * 4 and app.get("/api/CacheConnectorGet", params={"taskId": task_id}).status_code == 204


@pytest.mark.contract("B17.22")
@pytest.mark.parametrize("content", [b"small", LARGE], ids=["in Redis", "in Blob Storage"])
def test_a_finished_task_is_removed_at_once(
    app: httpx.Client, backend: ScriptedBackend, azurite: Azurite, content: bytes
) -> None:
    path = new_path()
    task_id = submit(app, path, content, Idempotency_Key="k").json()["TaskId"]
    backend.next_call(path)
    app.put(f"/api/v1/tasks/{task_id}/result", content=content).raise_for_status()
    finish(app, task_id, "failed")
    response = app.delete(f"/api/v1/tasks/{task_id}", params={"purge": "true"})
    assert (response.status_code, response.content) == (204, b"")
    assert gone(app, task_id)
    assert blob_sizes(azurite, task_id) == []
    assert app.get("/api/v1/tasks", params={"path": path}).json()["Tasks"] == []
    assert app.get(f"/api/v1/queues{path}").json()["Failed"] == 0
    for response in (
        app.delete(f"/api/v1/tasks/{task_id}", params={"purge": "true"}),
        app.delete(f"/api/v1/tasks/{task_id}"),
        app.post(f"/api/v1/tasks/{task_id}/replay"),
    ):
        assert_problem(response, 404, "no-such-task")
    assert submit(app, path, b"another", Idempotency_Key="k").status_code == 202


@pytest.mark.contract("B17.23")
def test_a_finished_batch_is_removed_with_its_children(
    app: httpx.Client, backend: ScriptedBackend, azurite: Azurite
) -> None:
    path, gather = new_path(), answering_path()
    backend.script(gather, Answer(body=LARGE))
    batch_id = begin(app, {"Then": gather})
    tasks = [child(app, path, batch_id, content) for content in (b"small", LARGE)]
    for task_id in tasks:
        backend.next_call(path)
        finish(app, task_id)
    seal(app, batch_id)
    then_id = ended(app, batch_id)["ThenTaskId"]
    assert app.delete(f"/api/v1/tasks/{batch_id}", params={"purge": "true"}).status_code == 204
    for task_id in (batch_id, *tasks, then_id):
        assert gone(app, task_id)
    for task_id in (tasks[1], then_id):
        eventually(lambda gone=task_id: blob_sizes(azurite, gone) == [])
    assert_problem(submit(app, path, Batch=batch_id), 404, "unknown-batch")
    assert batch_id not in [batch["TaskId"] for batch in app.get("/api/v1/batches").json()["Batches"]]


@pytest.mark.contract("B17.24")
def test_what_has_not_ended_is_not_removed(app: httpx.Client, backend: ScriptedBackend) -> None:
    path, batch_id = new_path(), begin(app)
    task_id = child(app, path, batch_id)
    for unfinished in (task_id, batch_id):
        response = app.delete(f"/api/v1/tasks/{unfinished}", params={"purge": "true"})
        assert assert_problem(response, 409, "conflict")["Task"]["TaskId"] == unfinished
    for bad in ("yes", "2"):
        response = app.delete(f"/api/v1/tasks/{task_id}", params={"purge": bad})
        assert_problem(response, 400, "invalid-request", field="purge")
    assert task_of(app, task_id)["BackendStatus"] == "created"
    assert app.delete(f"/api/v1/tasks/{task_id}", params={"purge": "false"}).json()["BackendStatus"] == "cancelled"
    kept = keep(app, backend)
    assert_problem(app.delete(f"/api/v1/tasks/{kept}", params={"purge": "true"}), 409, "conflict")


@pytest.mark.contract("B17.25")
def test_a_child_that_its_queue_refuses_is_not_counted(app: httpx.Client) -> None:
    path, batch_id = new_path(), begin(app)
    app.patch(f"/api/v1/queues{path}", json={"Draining": True}).raise_for_status()
    assert_problem(submit(app, path, Batch=batch_id, Idempotency_Key="k"), 503, "queue-draining")
    assert counts(task_of(app, batch_id)) == {}
    app.patch(f"/api/v1/queues{path}", json={"Draining": False}).raise_for_status()
    child(app, path, batch_id, Idempotency_Key="k")
    assert counts(task_of(app, batch_id)) == {"Total": 1, "Unfinished": 1}


@pytest.mark.contract("B17.4", "B17.6")
def test_what_is_submitted_while_a_batch_is_sealed_counts_or_is_refused(app: httpx.Client, stack: Stack) -> None:
    path, batch_id, ready = new_path(), begin(app), threading.Barrier(9)

    def register(_: int) -> list[int]:
        with stack.client() as client:
            ready.wait()
            return [submit(client, path, Batch=batch_id).status_code for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(register, range(8))
        ready.wait()
        total = seal(app, batch_id)["Total"]
        statuses = [status for some in answers for status in some]
    assert {*statuses} <= {202, 409}
    assert statuses.count(202) == total == task_of(app, batch_id)["Total"] == len(children(app, batch_id))
