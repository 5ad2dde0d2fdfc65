"""What an owner may do on each route (contract B11), as docs/security.md says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest

from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from local.stack import Stack
from shared.store.keyed_ids import former_keyed_id
from tests.contract.v1_support import new_path
from tests.scripted_backend import ScriptedBackend

DOCS: Final = Path(__file__).parents[2] / "docs"
GATEWAY_KEY: Final = "the-key-of-the-gateway-0123456789"
PATHS: Final[dict[str, dict[str, Any]]] = json.loads((DOCS / "openapi.json").read_text())["paths"]
VERBS: Final = ("get", "head", "put", "post", "patch", "delete", "options")
ROUTES: Final = {
    operation["operationId"]: (verb.upper(), path)
    for path, operations in PATHS.items()
    for verb, operation in operations.items()
    if verb in VERBS
}


def allowed_by_operation() -> dict[str, str]:
    """The table of docs/security.md: what an owner may do by each operation."""
    section = (DOCS / "security.md").read_text().partition("### What an owner may do\n")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| (`.+`) \| (.+) \|$", section, re.MULTILINE)
    named = [(name, allowed) for names, allowed in rows for name in re.findall(r"`(\w+)`", names)]
    assert len(named) == len(dict(named))
    return dict(named)


ALLOWED: Final = allowed_by_operation()
FOR_ALL: Final = [name for name, allowed in ALLOWED.items() if allowed.startswith("nothing")]
OF_ONE_TASK: Final = [name for name, (_, path) in ROUTES.items() if "{id}" in path]


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[Stack]:
    with Stack(
        tmp_path_factory.mktemp("owners_by_route"),
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


@pytest.fixture(scope="module")
def of_alice(app: httpx.Client) -> tuple[str, str]:
    """A task and a batch of alice's."""
    task = app.post(f"/api/v1/submit{new_path()}", content=b"work", headers=as_owner("alice"))
    batch = app.post("/api/v1/batches", json={}, headers=as_owner("alice"))
    return task.json()["TaskId"], batch.json()["TaskId"]


def as_owner(owner: str) -> dict[str, str]:
    return {"X-Task-Owner": owner, "X-Gateway-Key": GATEWAY_KEY}


def call(
    app: httpx.Client, name: str, headers: dict[str, str], task_id: str = "no-such-task", path: str = "/v1/test/a"
) -> httpx.Response:
    verb, route = ROUTES[name]
    url = "/api" + route.replace("{id}", task_id).replace("{name}", "no-such-schedule").replace("/{path}", path)
    body: Any = {"Size": 1, "ContentType": "text/plain"} if name == "CreateUpload" else {}
    takes_body = verb in ("POST", "PUT", "PATCH")
    return app.request(verb, url, headers=headers, json=body if takes_body else None)


@pytest.mark.contract("B11.6")
def test_table_says_of_every_operation_what_an_owner_may_do() -> None:
    assert ALLOWED.keys() == ROUTES.keys()


@pytest.mark.contract("B11.10")
def test_gateway_has_owners_ask_for_nothing_that_is_not_for_them() -> None:
    """Calls of callers are in the name of an owner, those of operators are not (infra/apim/policies): for these the
    gateway has what is everybody's."""
    apis = json.loads((DOCS.parent / "infra" / "apim" / "apis.json").read_text())["apis"]
    named = {
        product: {operation["name"] for api in apis if api["product"] == product for operation in api["operations"]}
        & set(ROUTES)
        for product in ("callers", "operators")
    }
    assert named["callers"]
    assert not named["callers"] & set(FOR_ALL)
    assert named["operators"] & set(FOR_ALL)


@pytest.mark.contract("B11.6")
@pytest.mark.parametrize("key", [None, "wrong"])
@pytest.mark.parametrize("name", ROUTES)
def test_owner_without_the_gateway_key_is_refused_on_every_route(
    app: httpx.Client, name: str, key: str | None
) -> None:
    response = call(app, name, {"X-Task-Owner": "alice", **({"X-Gateway-Key": key} if key else {})})
    assert response.status_code == 403
    if ROUTES[name][0] != "HEAD":
        assert response.json()["type"] == "urn:task-backbone:problem:not-the-gateway"


@pytest.mark.contract("B11.10")
@pytest.mark.parametrize("name", ROUTES)
def test_what_belongs_to_all_and_only_that_is_not_for_owners(app: httpx.Client, name: str) -> None:
    response = call(app, name, as_owner("alice"))
    is_refused = response.status_code == 403
    assert is_refused == (name in FOR_ALL)
    if is_refused:
        assert response.json()["type"] == "urn:task-backbone:problem:not-for-owners"


@pytest.mark.contract("B11.10")
def test_owner_pauses_no_queue(app: httpx.Client) -> None:
    path = new_path()
    response = app.patch(f"/api/v1/queues{path}", json={"Paused": True}, headers=as_owner("alice"))
    assert response.status_code == 403
    assert app.patch(f"/api/v1/queues{path}", json={"Limit": 3}).json()["Paused"] is False


@pytest.mark.contract("B11.1")
@pytest.mark.parametrize("nth", [0, 1], ids=["task", "batch"])
@pytest.mark.parametrize("name", OF_ONE_TASK)
def test_what_is_anothers_looks_like_what_is_not_there(
    app: httpx.Client, of_alice: tuple[str, str], name: str, nth: int
) -> None:
    bob = as_owner("bob") | {"X-Task-Attempt": "1"}
    if name in ("PutTaskResult", "PutCheckpoint"):
        bob["Content-Type"] = "text/plain"
    theirs, unknown = call(app, name, bob, of_alice[nth]), call(app, name, bob)
    assert (theirs.status_code, theirs.content) == (unknown.status_code, unknown.content)
    assert theirs.status_code == 404


@pytest.mark.contract("B11.1")
@pytest.mark.parametrize("nth", [0, 1], ids=["task", "batch"])
def test_ids_that_a_request_names_elsewhere_tell_nothing_either(
    app: httpx.Client, of_alice: tuple[str, str], nth: int
) -> None:
    bob = as_owner("bob")

    def answers(task_id: str) -> list[tuple[int, str]]:
        upload = {"Size": 1, "ContentType": "text/plain", "TaskId": task_id}
        responses = [
            app.delete(f"/api/v1/tasks/{task_id}?purge=true", headers=bob),
            app.get("/api/v1/tasks", params={"batch": task_id}, headers=bob),
            app.get("/api/CacheConnectorGet", params={"taskId": task_id}, headers=bob),
            app.post("/api/v1/heartbeats", json={"Heartbeats": [{"TaskId": task_id, "Attempt": 1}]}, headers=bob),
            app.post("/api/v1/submit/v1/test/x", content=b"x", headers=bob | {"Batch": task_id}),
            app.post("/api/v1/uploads", json=upload, headers=bob | {"X-Task-Attempt": "1"}),
        ]
        return [(response.status_code, response.text.replace(task_id, "")) for response in responses]

    assert answers(of_alice[nth]) == answers("an-unused-id")


@pytest.mark.contract("B11.11")
@pytest.mark.parametrize("nth", [0, 1], ids=["task", "batch"])
@pytest.mark.parametrize("members", [{}, {"BackendStatus": "completed"}, {"Body": "x", "PublishToGrid": True}])
def test_upsert_does_not_tell_which_ids_others_have(
    app: httpx.Client, of_alice: tuple[str, str], backend: ScriptedBackend, members: dict[str, Any], nth: int
) -> None:
    theirs, free = (
        app.post(
            "/api/CacheConnectorUpsert",
            json={"TaskId": task_id, "Endpoint": f"{backend.url}/v1/test/a", **members},
            headers=as_owner("bob"),
        )
        for task_id in (of_alice[nth], "a-free-id")
    )
    assert theirs.status_code == free.status_code == 404
    assert theirs.content == free.content
    assert app.get("/api/v1/tasks/a-free-id").status_code == 404


@pytest.mark.contract("B11.11")
def test_without_an_owner_a_task_has_the_id_that_its_creator_chose(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    task_id = f"chosen{new_path().replace('/', '-')}"
    created = app.post("/api/CacheConnectorUpsert", json={"TaskId": task_id, "Endpoint": backend.url + new_path()})
    assert (created.status_code, created.json()["TaskId"]) == (200, task_id)


@pytest.mark.contract("B11.12")
@pytest.mark.parametrize("taker", [{}, as_owner("mallory")], ids=["without an owner", "an owner"])
@pytest.mark.parametrize("victim", [{}, as_owner("alice")], ids=["of nobody", "of alice"])
@pytest.mark.parametrize("verb", ["submit", "batches"])
def test_nobody_takes_the_id_of_anothers_key_in_advance(
    app: httpx.Client, backend: ScriptedBackend, taker: dict[str, str], victim: dict[str, str], verb: str
) -> None:
    path, key = new_path(), uuid4().hex
    scope, url = (path, f"/api/v1/submit{path}") if verb == "submit" else ("batches", "/api/v1/batches")
    computed = former_keyed_id(victim.get("X-Task-Owner", ""), scope, key)
    taken = {"TaskId": computed, "Endpoint": f"{backend.url}/v1/test/taken", "BackendStatus": "completed"}
    is_taken = app.post("/api/CacheConnectorUpsert", json=taken, headers=taker).status_code == 200
    assert is_taken == (not taker)
    headers = victim | {"Idempotency-Key": key}
    first, again = (app.post(url, json={}, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["TaskId"] == again.json()["TaskId"]
    # While an earlier version may be at work on the same Redis, it is its id, unless somebody else has that.
    assert not is_taken or first.json()["TaskId"] != computed
