"""Owners (contract B11): the app believes only the gateway, and an owner reaches only own tasks."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from local.stack import Stack
from shared.store.queries import LIST_READ_LIMIT, PAGE_BYTES
from shared.store.redis.partitions import partition
from tests.contract.v1_support import new_path, report
from tests.scripted_backend import ScriptedBackend

GATEWAY_KEY = "the-key-of-the-gateway-0123456789"


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[Stack]:
    """A stack that knows the key of a gateway."""
    with Stack(
        tmp_path_factory.mktemp("owners"),
        redis=redis_server,
        azurite=azurite,
        backends={"/v1/test": backend.url},
        with_model=False,
        settings={"GATEWAY_KEY": GATEWAY_KEY},
    ) as stack:
        yield stack


@pytest.fixture(scope="module")
def app(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


def as_owner(owner: str) -> dict[str, str]:
    return {"X-Task-Owner": owner, "X-Gateway-Key": GATEWAY_KEY}


def submit(app: httpx.Client, path: str, **headers: str) -> str:
    response = app.post(f"/api/v1/submit{path}", content=b"work", headers=headers)
    assert response.status_code == 202, response.text
    return response.json()["TaskId"]


REQUESTS = [
    ("GET", ""),
    ("GET", "?wait=1"),
    ("GET", "/history"),
    ("GET", "/result"),
    ("PUT", "/result"),
    ("POST", "/heartbeat"),
    ("POST", "/replay"),
    ("DELETE", ""),
    ("POST", "/next/v1/test/other"),
]


@pytest.mark.contract("B11.1")
@pytest.mark.parametrize(("method", "action"), REQUESTS)
def test_task_of_another_owner_is_404_like_an_unknown_one(app: httpx.Client, method: str, action: str) -> None:
    task_id = submit(app, new_path(), **as_owner("alice"))
    before = app.get(f"/api/v1/tasks/{task_id}", headers=as_owner("alice")).headers["ETag"]
    bob = as_owner("bob") | ({"X-Task-Attempt": "1"} if action.startswith("/next") else {})
    theirs = app.request(method, f"/api/v1/tasks/{task_id}{action}", headers=bob)
    unknown = app.request(method, f"/api/v1/tasks/no-such-task{action}", headers=bob)
    assert theirs.status_code == unknown.status_code == 404
    assert theirs.json() == unknown.json()
    after = app.get(f"/api/v1/tasks/{task_id}", headers=as_owner("alice")).headers["ETag"]
    # The task may be dispatched meanwhile; the requests of bob must leave no trace.
    history = app.get(f"/api/v1/tasks/{task_id}/history", headers=as_owner("alice")).json()["Events"]
    assert {event["State"] for event in history} <= {"created", "dispatched"}
    assert before.partition("-")[0] == after.partition("-")[0]


@pytest.mark.contract("B11.2")
def test_owner_reads_and_cancels_own_tasks(app: httpx.Client) -> None:
    task_id = submit(app, new_path(), **as_owner("alice"))
    assert app.get(f"/api/v1/tasks/{task_id}", headers=as_owner("alice")).status_code == 200
    assert app.delete(f"/api/v1/tasks/{task_id}", headers=as_owner("alice")).status_code == 200


@pytest.mark.contract("B16.15")
def test_owner_keeps_a_task_in_each_step_of_its_pipeline(app: httpx.Client, backend: ScriptedBackend) -> None:
    first, second = new_path(), new_path()
    task_id = submit(app, first, **as_owner("alice"), Pipeline=second)
    backend.next_call(first)
    report(app, TaskId=task_id, Attempt=1, BackendStatus="completed")
    backend.next_call(second)
    for owner, status in (("alice", 200), ("bob", 404)):
        assert app.get(f"/api/v1/tasks/{task_id}", headers=as_owner(owner)).status_code == status


@pytest.mark.contract("B11.3")
def test_list_of_an_owner_holds_only_own_tasks(app: httpx.Client) -> None:
    path = new_path()
    tasks = {owner: [submit(app, path, **as_owner(owner)) for _ in range(4)] for owner in ("alice", "bob")}
    nobodys = submit(app, path)
    for owner, task_ids in tasks.items():
        page = app.get("/api/v1/tasks", params={"path": path}, headers=as_owner(owner)).json()
        assert sorted(task["TaskId"] for task in page["Tasks"]) == sorted(task_ids)
    page = app.get("/api/v1/tasks", params={"path": path}).json()
    assert {task["TaskId"] for task in page["Tasks"]} == {nobodys, *tasks["alice"], *tasks["bob"]}


@pytest.mark.contract("B8.47")
def test_the_cursor_of_a_list_names_no_task_of_another_owner(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    mine = submit(app, path, **as_owner("alice"))
    theirs = [
        name for name in (f"{path.rpartition('/')[2]}-{number}" for number in range(9_000)) if not partition(name)
    ]
    theirs = theirs[: LIST_READ_LIMIT + 5]
    for task_id in theirs:
        body = {"TaskId": task_id, "Endpoint": backend.url + path}
        app.post("/api/CacheConnectorUpsert", json=body).raise_for_status()
    pages = [app.get("/api/v1/tasks", params={"path": path}, headers=as_owner("alice")).json()]
    while (cursor := pages[-1]["NextCursor"]) is not None:
        assert not any(task_id in cursor for task_id in theirs)
        query = {"path": path, "cursor": cursor}
        pages.append(app.get("/api/v1/tasks", params=query, headers=as_owner("alice")).json())
    assert len(pages) > 1
    assert [task["TaskId"] for page in pages for task in page["Tasks"]] == [mine]


@pytest.mark.contract("B8.47")
def test_a_forged_cursor_shows_own_tasks_only(app: httpx.Client) -> None:
    path = new_path()
    mine, theirs = submit(app, path, **as_owner("alice")), submit(app, path, **as_owner("bob"))
    for task_id, shown in ((theirs, [mine]), ("-", [mine]), (mine, [mine])):
        query = {"path": path, "cursor": f"ffffffffffff-{task_id}"}
        page = app.get("/api/v1/tasks", params=query, headers=as_owner("alice")).json()
        assert [task["TaskId"] for task in page["Tasks"]] == shown
        assert page["NextCursor"] is None


@pytest.mark.contract("B8.48")
def test_a_page_of_long_status_texts_ends_early(app: httpx.Client) -> None:
    path = new_path()
    ids = [submit(app, path, **as_owner("alice")) for _ in range(40)]
    for task_id in ids:
        body = {"TaskId": task_id, "Status": "x" * 65_000, "BackendStatus": "running", "Endpoint": path}
        app.post("/api/CacheConnectorUpsert", json=body, headers=as_owner("alice")).raise_for_status()
    query: dict[str, str] = {"path": path, "limit": "200"}
    listed: list[str] = []
    while True:
        answer = app.get("/api/v1/tasks", params=query, headers=as_owner("alice")).raise_for_status()
        assert len(answer.content) < PAGE_BYTES * 1.1
        page = answer.json()
        listed += [task["TaskId"] for task in page["Tasks"]]
        assert all(task["Status"] == "x" * 65_000 for task in page["Tasks"])
        if page["NextCursor"] is None:
            break
        query["cursor"] = page["NextCursor"]
    assert sorted(listed) == sorted(ids)


@pytest.mark.contract("B11.4")
def test_legacy_functions_keep_owners_apart(app: httpx.Client, backend: ScriptedBackend) -> None:
    created = app.post(
        "/api/CacheConnectorUpsert", json={"Endpoint": backend.url + new_path()}, headers=as_owner("alice")
    ).json()
    query = {"taskId": created["TaskId"]}
    assert app.get("/api/CacheConnectorGet", params=query, headers=as_owner("alice")).json() == created
    assert app.get("/api/CacheConnectorGet", params=query, headers=as_owner("bob")).status_code == 204
    update = {"TaskId": created["TaskId"], "BackendStatus": "completed", "Endpoint": created["Endpoint"]}
    assert app.post("/api/CacheConnectorUpsert", json=update, headers=as_owner("bob")).status_code == 404
    assert app.get("/api/CacheConnectorGet", params=query).json() == created


@pytest.mark.contract("B11.5")
def test_model_service_without_an_owner_updates_any_task(app: httpx.Client) -> None:
    task_id = submit(app, new_path(), **as_owner("alice"))
    assert report(app, TaskId=task_id, BackendStatus="completed")["BackendStatus"] == "completed"


@pytest.mark.contract("B11.6")
@pytest.mark.parametrize("key", [None, "", "wrong", GATEWAY_KEY + "x", GATEWAY_KEY[:-1]])
def test_owner_without_the_gateway_key_is_refused(app: httpx.Client, key: str | None) -> None:
    headers = {"X-Task-Owner": "alice", **({} if key is None else {"X-Gateway-Key": key})}
    for method, url in (
        ("POST", f"/api/v1/submit{new_path()}"),
        ("GET", "/api/v1/tasks"),
        ("GET", "/api/v1/tasks/x"),
        ("GET", "/api/CacheConnectorGet?taskId=x"),
    ):
        response = app.request(method, url, headers=headers)
        assert response.status_code == 403
        assert response.json()["type"] == "urn:task-backbone:problem:not-the-gateway"
        assert GATEWAY_KEY not in response.text


@pytest.mark.contract("B11.7")
@pytest.mark.parametrize("owner", ["", "a b", "x" * 129, "\u00fc"])
def test_malformed_owner_is_refused(app: httpx.Client, owner: str) -> None:
    headers = {"X-Task-Owner": owner.encode(), "X-Gateway-Key": GATEWAY_KEY.encode()}
    response = app.get("/api/v1/tasks", headers={name.encode(): value for name, value in headers.items()})
    assert response.status_code == 400


@pytest.mark.contract("B11.8")
def test_idempotency_keys_of_two_owners_are_apart(app: httpx.Client) -> None:
    path, key = new_path(), {"Idempotency-Key": "same"}
    alice = submit(app, path, **as_owner("alice"), **key)
    assert submit(app, path, **as_owner("alice"), **key) == alice
    assert submit(app, path, **as_owner("bob"), **key) != alice


@pytest.mark.contract("B15.12")
def test_an_owner_tells_nothing_of_a_model_service(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    task_id = submit(app, path, **as_owner("ada"))
    backend.next_call(path)
    told = {"X-Task-Slots": "50", "X-Task-Instance": "a"}
    app.post(f"/api/v1/tasks/{task_id}/heartbeat", headers=as_owner("ada") | told).raise_for_status()
    assert app.get(f"/api/v1/queues{path}").json()["Slots"] == 1
