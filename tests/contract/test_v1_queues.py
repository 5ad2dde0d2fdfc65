"""Queues over HTTP (contract B9, B10) and waiting in them (B2). No reconciler runs: only reports move tasks."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any, cast
from urllib.parse import unquote

import httpx
import pytest
from azure.storage.blob import ContainerClient
from redis import Redis
from redis.exceptions import ResponseError

from local.azurite import Azurite
from local.processes import ChildProcess
from local.redis_server import RedisCluster, RedisServer
from local.stack import Stack
from shared.dispatch.endpoint_bound import MOST_ENDPOINTS
from shared.store.redis.partitions import tag_of
from tests.contract.v1_support import (
    INLINE_LIMIT_BYTES,
    ISO_TIME,
    TASK_KEYS,
    all_queues,
    assert_problem,
    complete_on_call,
    ended,
    new_path,
    next_step,
    pattern_bytes,
    raw_request,
    report,
    submit,
    task_of,
)
from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.waiting import eventually

GATEWAY_KEY = "the-key-of-the-gateway-0123456789"
BACKLOG = 12
LIMIT = 2
NEVER = "0 0 0 1 1 *"
YEAR_S = 365 * 86_400
CONTAINER = f"queues-{uuid.uuid4().hex}"
LARGE = pattern_bytes(INLINE_LIMIT_BYTES + 1)
HOUR_S = 3600


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[Stack]:
    """A stack whose reconciler never runs. Its Redis is its own, so that no other reconciler maintains its queues."""
    directory = tmp_path_factory.mktemp("queues")
    with (
        type(redis_server)(directory / "redis") as redis,
        Stack(
            directory,
            redis=redis,
            azurite=azurite,
            backends={"/v1/test": backend.url, "/v1/limited": {"url": backend.url, "limit": LIMIT}},
            with_model=False,
            settings={
                "RECONCILER_SCHEDULE": NEVER,
                "RECONCILER_INTERVAL_S": str(YEAR_S),
                "GATEWAY_KEY": GATEWAY_KEY,
                "MAX_BACKLOG": str(BACKLOG),
                "BLOB_CONTAINER": CONTAINER,
            },
        ) as stack,
        stack.client() as app,
    ):
        eventually(lambda: has_dispatched(app))
        yield stack


def has_dispatched(app: httpx.Client) -> bool:
    """The app loads its Event Grid client with its first event, which may come too late then; nobody repeats it."""
    path = new_path()
    submit(app, path)
    if (
        app.get("/api/v1/health").json()["Dependencies"]["EventGrid"] != "ok"
    ):  # it was untried, or still is, or too late
        return False
    return eventually(lambda: queue(app, path)["Dispatched"] == 1)


@pytest.fixture
def app(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


@pytest.fixture
def path() -> str:
    return new_path()


class ModelService:
    """Has a number of slots, and answers busy when all are held."""

    def __init__(self, backend: ScriptedBackend, path: str, slots: int = 1000, busy: Answer | None = None) -> None:
        self.slots = slots
        self.most = 0
        """The most tasks it ever had at a time."""
        self.taken: list[str] = []
        """In the order in which they came."""
        self.refused: list[str] = []
        self._working: list[str] = []
        self._busy = busy or Answer(status=503)
        self._lock = threading.Lock()
        backend.react(path, self._answer)

    def working(self) -> list[str]:
        with self._lock:
            return list(self._working)

    def until_working(self, count: int) -> list[str]:
        """The tasks it works on, once there are *count* of them."""
        return eventually(lambda: working if len(working := self.working()) == count else None) or []

    def forget(self, task_id: str) -> None:
        with self._lock:
            self._working.remove(task_id)

    def finish(self, app: httpx.Client, task_id: str) -> None:
        self.forget(task_id)
        report(app, TaskId=task_id, BackendStatus="completed")

    def finish_next(self, app: httpx.Client) -> str:
        """Finish the task that it has had longest, once there is one. Returns its id."""
        task_id = eventually(self.working)[0]
        self.finish(app, task_id)
        return task_id

    def finish_all(self, app: httpx.Client, count: int) -> list[str]:
        return [self.finish_next(app) for _ in range(count)]

    def _answer(self, call: Call) -> Answer | None:
        with self._lock:
            if len(self._working) >= self.slots:
                self.refused.append(call.task_id)
                return self._busy
            self._working.append(call.task_id)
            self.taken.append(call.task_id)
            self.most = max(self.most, len(self._working))
            return None


def refused_and_known(app: httpx.Client, service: ModelService, path: str) -> int:
    """How often the service has refused, once the app knows that it is full. An answer that comes late may have cost
    another try."""
    eventually(lambda: service.refused and queue(app, path)["InFlight"] == service.slots)
    return len(service.refused)


def configure(app: httpx.Client, path: str, **settings: Any) -> dict[str, Any]:
    response = app.patch(f"/api/v1/queues{path}", json=settings)
    assert response.status_code == 200, response.text
    return response.json()


def queue(app: httpx.Client, path: str) -> dict[str, Any]:
    return app.get(f"/api/v1/queues{path}").raise_for_status().json()


def task_id_of(response: httpx.Response) -> str:
    assert response.status_code == 202, response.text
    return response.json()["TaskId"]


def submit_all(app: httpx.Client, path: str, count: int, **headers: str) -> list[str]:
    return [task_id_of(submit(app, path, **headers)) for _ in range(count)]


def positions(app: httpx.Client, task_ids: Iterable[str]) -> list[int | None]:
    return [task_of(app, task_id).get("QueuePosition") for task_id in task_ids]


def as_owner(owner: str) -> dict[str, str]:
    return {"X-Task-Owner": owner, "X-Gateway-Key": GATEWAY_KEY}


def nothing_else_comes(app: httpx.Client, backend: ScriptedBackend, path: str) -> None:
    """Asserts that *path* was not called while a later task reached its model service."""
    other = new_path()
    task_id = task_id_of(submit(app, other))
    assert backend.next_call(other).task_id == task_id
    assert backend.untaken(path) == 0


def contents(stack: Stack, path: str) -> set[str]:
    """All tasks, all blobs, and whatever names *path*: other queues go on, with what earlier tests left in them."""
    servers = stack.redis.nodes if isinstance(stack.redis, RedisCluster) else [stack.redis]
    found: set[str] = set()
    for server in servers:
        with server.connect() as client:
            for key in client.scan_iter():
                kind, _, name = key.partition("}")[2].partition(":")
                if kind == "t" or path in name.split(":") or path in named_in(client, key):
                    found.add(key)
    with ContainerClient.from_connection_string(stack.azurite.connection_string, CONTAINER) as container:
        found.update(f"blob {blob.name}" for blob in (container.list_blobs() if container.exists() else ()))
    return found


@contextmanager
def endpoints_of(stack: Stack, prefix: str, asked_ms: dict[str, float]) -> Iterator[None]:
    """A backend has these endpoints, too, for a while."""
    key = f"{tag_of(prefix)}endpoints:{prefix}"
    servers = stack.redis.nodes if isinstance(stack.redis, RedisCluster) else [stack.redis]
    for server in servers:
        with server.connect() as client:
            try:
                client.zadd(key, cast("Any", asked_ms))
            except ResponseError:  # another node has it
                continue
            try:
                yield
            finally:
                client.zrem(key, *asked_ms)
            return
    raise AssertionError("no node has the key")


def named_in(client: Redis, key: str) -> Iterable[str]:
    """The members of a set or the fields of a hash."""
    match client.type(key):
        case "set":
            return client.smembers(key)
        case "zset":
            return client.zrange(key, 0, -1)
        case "hash":
            return client.hkeys(key)
        case _:
            return ()


# -- PATCH


@pytest.mark.contract("B9.8")
@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", ""),
        (b" ", ""),
        (b"null", ""),
        (b"5", ""),
        (b'"Paused"', ""),
        (b"[]", ""),
        (b'[{"Paused": true}]', ""),
        (b"{", ""),
        (b"{} {}", ""),
        (b'{"Limit": NaN}', ""),
        (b'{"\xff": 1}', ""),
        (b'{"Paused": 1}', "/Paused"),
        (b'{"Paused": "true"}', "/Paused"),
        (b'{"Paused": []}', "/Paused"),
        (b'{"Draining": 0}', "/Draining"),
        (b'{"Draining": "no"}', "/Draining"),
        (b'{"Limit": 0}', "/Limit"),
        (b'{"Limit": -1}', "/Limit"),
        (b'{"Limit": 1.5}', "/Limit"),
        (b'{"Limit": "3"}', "/Limit"),
        (b'{"Limit": true}', "/Limit"),
        (b'{"Limit": 1000001}', "/Limit"),
        (b'{"Limit": 1e400}', "/Limit"),
        (b'{"Limit": 99999999999999999999999999}', "/Limit"),
        (b'{"Limit": {"Value": 3}}', "/Limit"),
        (b'{"Limit": 3, "Slots": 3}', "/Slots"),
        (b'{"EndpointPath": "/v1/test"}', "/EndpointPath"),
    ],
)
def test_bad_queue_setting_is_refused_and_changes_nothing(
    body: bytes, field: str, app: httpx.Client, path: str
) -> None:
    before = configure(app, path, Limit=7)
    assert_problem(app.patch(f"/api/v1/queues{path}", content=body), 400, "invalid-request", field=field)
    assert queue(app, path) == before


@pytest.mark.contract("B9.8")
def test_one_answer_names_every_bad_setting_and_repeats_no_value(app: httpx.Client, path: str) -> None:
    wrong = {"Paused": "hunter 2", "Draining": "hunter 2", "Limit": "hunter 2"}
    response = app.patch(f"/api/v1/queues{path}", json=wrong)
    assert response.status_code == 400
    assert [error["pointer"] for error in response.json()["errors"]] == ["/Paused", "/Draining", "/Limit"]
    assert "hunter" not in response.text


@pytest.mark.contract("B9.9")
@pytest.mark.parametrize(
    "path",
    ["", "/", "/v1/unheard-of", "/v1/testing", "/v1/test/../x", "/v1/test/a%3Bb", "/v1/test/a%5Cb"],
)
def test_settings_of_an_unregistered_path_are_404(path: str, app: httpx.Client) -> None:
    assert_problem(app.patch(f"/api/v1/queues{path}", json={"Paused": True}), 404, "unknown-endpoint")


@pytest.mark.contract("B9.57")
@pytest.mark.parametrize(
    "path",
    [
        "/v1/unheard-of",
        "/v1",
        "/v1/testing",
        "/v1%2Funheard-of",
        "/garbage!",
        "/v1/test/a%5Cb",
        "/v1/test/" + "x" * 2000,
        "/%C3%BCber",
    ],
)
def test_queue_that_nobody_knows_is_404(path: str, app: httpx.Client, stack: Stack) -> None:
    before = contents(stack, unquote(path))
    assert_problem(app.get(f"/api/v1/queues{path}"), 404, "unknown-endpoint")
    assert contents(stack, unquote(path)) == before


@pytest.mark.contract("B9.4")
def test_reading_a_queue_writes_nothing(app: httpx.Client, path: str, stack: Stack) -> None:
    before = contents(stack, path)
    queue(app, path)
    assert contents(stack, path) == before


@pytest.mark.contract("B9.58")
def test_names_of_settings_match_in_any_case_and_all_may_be_null(app: httpx.Client, path: str) -> None:
    assert configure(app, path, paused=True, LIMIT=3)["Paused"] is True
    reset = configure(app, path, Paused=None, draining=None, limit=None)
    assert (reset["Paused"], reset["Draining"], reset["Limit"]) == (False, False, None)


@pytest.mark.contract("B9.8")
def test_unknown_setting_is_answered_with_the_nearest(app: httpx.Client, path: str) -> None:
    document = assert_problem(
        app.patch(f"/api/v1/queues{path}", json={"Pause": True}), 400, "invalid-request", field="/Pause"
    )
    assert document["detail"] == "Pause: there is no such member; did you mean Paused?"


@pytest.mark.contract("B9.8")
@pytest.mark.parametrize(("name", "pointer"), [("a/b~c", "/a~1b~0c"), ("", "/"), ("x" * 200, f"/{'x' * 100}")])
def test_the_pointer_to_an_unknown_setting_is_one_of_json(
    name: str, pointer: str, app: httpx.Client, path: str
) -> None:
    assert_problem(app.patch(f"/api/v1/queues{path}", json={name: 1}), 400, "invalid-request", field=pointer)


@pytest.mark.contract("B9.8")
def test_the_first_twenty_of_many_unknown_names_are_told(app: httpx.Client, path: str) -> None:
    names = {f"setting{number}": number for number in range(1000)}
    for answer in (
        app.patch(f"/api/v1/queues{path}", json=names),
        app.get("/api/v1/tasks", params=dict([*names.items()][:100])),
    ):
        assert (answer.status_code, len(answer.json()["errors"])) == (400, 20)


@pytest.mark.contract("B9.59")
def test_settings_of_a_mere_prefix_are_refused_with_the_names_of_the_endpoints(app: httpx.Client, path: str) -> None:
    for below in ("/a", "/b/c"):
        submit_all(app, path + below, 1)
    document = assert_problem(app.patch(f"/api/v1/queues{path}", json={"Paused": True}), 404, "unknown-endpoint")
    assert f"{path}/a, {path}/b/c" in document["detail"]
    assert queue(app, path)["Paused"] is False

    submit_all(app, path, 1)
    assert configure(app, path, Paused=True)["Paused"] is True, "tasks go there now"


@pytest.mark.contract("B9.59")
def test_settings_that_a_path_has_can_be_changed_whatever_lies_below_it(app: httpx.Client, path: str) -> None:
    configure(app, path, Paused=True)
    submit_all(app, f"{path}/below", 1)
    assert configure(app, path, Limit=3)["Paused"] is True
    assert configure(app, path, Paused=None)["Limit"] == 3


@pytest.mark.contract("B9.6")
def test_setting_stays_until_it_is_changed_and_null_resets_it(app: httpx.Client, path: str) -> None:
    def settings(document: dict[str, Any]) -> tuple[Any, Any, Any]:
        assert document == queue(app, path)
        return document["Limit"], document["Paused"], document["Draining"]

    assert settings(configure(app, path, Limit=3)) == (3, False, False)
    assert settings(configure(app, path, Paused=True)) == (3, True, False)
    assert settings(configure(app, path)) == (3, True, False)
    assert settings(configure(app, path, Draining=True, Limit=1_000_000)) == (1_000_000, True, True)
    assert settings(configure(app, path, Limit=None, Draining=None)) == (None, True, False)
    assert settings(configure(app, path, Paused=False)) == (None, False, False)


@pytest.mark.contract("B9.7")
def test_settings_belong_to_one_path_and_show_in_the_list_of_queues(app: httpx.Client, path: str) -> None:
    configure(app, path, Paused=True, Limit=4)
    submit_all(app, path, 1)
    submit_all(app, f"{path}/more", 1)
    everywhere = all_queues(app)
    assert (everywhere[path]["Paused"], everywhere[path]["Limit"]) == (True, 4)
    assert (everywhere[f"{path}/more"]["Paused"], everywhere[f"{path}/more"]["Limit"]) == (False, None)


@pytest.mark.contract("B9.60")
def test_the_list_of_queues_has_pages(app: httpx.Client, path: str) -> None:
    paths = [f"{path}/{number}" for number in range(5)]
    for each in paths:
        submit_all(app, each, 1)
    found: list[str] = []
    query = {"limit": "2", "cursor": path}
    while True:
        page = app.get("/api/v1/queues", params=query).raise_for_status().json()
        assert len(page["Queues"]) <= 2
        found += [each["EndpointPath"] for each in page["Queues"]]
        if page["NextCursor"] is None or not page["NextCursor"].startswith(path + "/"):
            break
        query["cursor"] = page["NextCursor"]
    assert [each for each in found if each.startswith(path + "/")] == paths
    for bad in ({"limit": "0"}, {"limit": "201"}, {"limit": "x"}, {"cursor": "no path"}, {"cursor": "/a//b"}):
        assert_problem(app.get("/api/v1/queues", params=bad), 400, "invalid-request", field=next(iter(bad)))
    for name in ("limit", "cursor"):
        assert_problem(app.get(f"/api/v1/queues{path}", params={name: "1"}), 400, "invalid-request", field=name)


@pytest.mark.contract("B9.61")
def test_a_backend_has_a_bound_of_endpoints(
    app: httpx.Client, backend: ScriptedBackend, stack: Stack, path: str
) -> None:
    [task_id] = submit_all(app, path, 1)
    full = {f"{path}/full/{number}": time.time() * 1000 for number in range(MOST_ENDPOINTS)}
    with endpoints_of(stack, "/v1/test", full):
        refused = app.post(f"/api/v1/submit{path}/new", content=b"{}")
        assert_problem(refused, 429, "too-many-endpoints")
        assert int(refused.headers["Retry-After"]) > 0
        assert_problem(
            app.post(f"/api/v1/submit{path}", content=b"{}", headers={"Pipeline": f"{path}/next"}),
            429,
            "too-many-endpoints",
        )
        assert_problem(app.post("/api/v1/batches", json={"Then": f"{path}/then"}), 429, "too-many-endpoints")
        onward = app.post(
            f"/api/v1/tasks/{task_id}/next{path}/onward", content=b"{}", headers={"X-Task-Attempt": "1"}
        )
        assert_problem(onward, 429, "too-many-endpoints")
        legacy = {"Endpoint": f"{backend.url}{path}/legacy", "Body": "{}", "PublishToGrid": True}
        assert_problem(app.post("/api/CacheConnectorUpsert", json=legacy), 400, "invalid-request", field="/Endpoint")
        submit_all(app, path, 1)
        submit_all(app, f"{path}/full/7", 1)


@pytest.mark.contract("B1.21", "A1.39")
@pytest.mark.parametrize(
    "written",
    [
        lambda path: path + "/",
        lambda path: path + "%2F",
        lambda path: path.replace("/v1/", "/%761/"),
        lambda path: path.replace("/v1/test/", "/v1%2Ftest%2f"),
    ],
    ids=["a slash", "an escaped slash", "an escaped letter", "escaped slashes inside"],
)
def test_no_way_to_write_a_path_passes_by_a_pause(
    app: httpx.Client, backend: ScriptedBackend, stack: Stack, path: str, written: Callable[[str], str]
) -> None:
    other = written(path)
    status, _, _ = raw_request(stack, "PATCH", f"/api/v1/queues{other}", body=b'{"Paused": true}')
    assert status == 200
    assert queue(app, path)["Paused"] is True
    for submitted in (path, other):
        status, _, _ = raw_request(stack, "POST", f"/api/v1/submit{submitted}", body=b"{}")
        assert status == 202
    for end in ("", "/"):
        report(app, Endpoint=backend.url + path + end, Body="{}", PublishToGrid=True)
    nothing_else_comes(app, backend, path)
    assert queue(app, path)["Waiting"] == 4
    assert backend.untaken(path + "/") == 0


# -- Pause, drain, limit


@pytest.mark.contract("B9.10")
def test_paused_queue_accepts_tasks_and_dispatches_them_when_resumed(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    service = ModelService(backend, path)
    configure(app, path, Paused=True)
    task_ids = submit_all(app, path, 3)
    nothing_else_comes(app, backend, path)
    held = queue(app, path)
    assert (held["Waiting"], held["InFlight"], held["Dispatched"]) == (3, 0, 0)

    configure(app, path, Paused=False)

    service.until_working(3)
    assert service.taken == task_ids, "in the order in which they came"
    eventually(lambda: queue(app, path)["Dispatched"] == 3)
    resumed = queue(app, path)
    assert (resumed["Waiting"], resumed["InFlight"], resumed["Slots"]) == (0, 3, 3)


@pytest.mark.contract("B9.10")
def test_running_task_of_a_paused_queue_finishes_and_its_slot_stays_free(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    service = ModelService(backend, path, slots=1)
    configure(app, path, Limit=1)
    first, second = submit_all(app, path, 2)
    service.until_working(1)
    configure(app, path, Paused=True)
    backend.next_call(path)
    service.finish(app, first)
    assert ended(app, first)["BackendStatus"] == "completed"
    nothing_else_comes(app, backend, path)
    configure(app, path, Paused=False)
    assert backend.next_call(path).task_id == second


@pytest.mark.contract("B9.11", "A1.31")
def test_draining_queue_refuses_new_tasks_and_finishes_the_waiting_ones(
    app: httpx.Client, backend: ScriptedBackend, path: str, stack: Stack
) -> None:
    service = ModelService(backend, path)
    configure(app, path, Limit=1)
    task_ids = submit_all(app, path, 2)
    task_ids.append(task_id_of(submit(app, path, LARGE, idempotency_key="known")))
    configure(app, path, Draining=True)

    eventually(lambda: queue(app, path)["Dispatched"] == 1)
    before = contents(stack, path)
    for content in (b"{}", LARGE):
        refused = submit(app, path, content, idempotency_key="another")
        assert_problem(refused, 503, "queue-draining")
        assert int(refused.headers["retry-after"]) > 0
    legacy = {"Endpoint": backend.url + path, "Body": "work", "PublishToGrid": True}
    assert_problem(app.post("/api/CacheConnectorUpsert", json=legacy), 503, "queue-draining")
    assert contents(stack, path) == before, "a submit that was refused left something behind"
    again = submit(app, path, LARGE, idempotency_key="known")
    assert task_id_of(again) == task_ids[2], "a repeated submit gives the known task"

    assert service.finish_all(app, 3) == task_ids
    configure(app, path, Draining=False)
    assert task_id_of(submit(app, path)) == service.until_working(1)[0]


@pytest.mark.contract("B9.11")
def test_draining_queue_accepts_pipeline_steps_of_known_tasks(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    service, before = ModelService(backend, path), new_path()
    task_id = task_id_of(submit(app, before))
    backend.next_call(before)
    configure(app, path, Draining=True)
    report(
        app,
        TaskId=task_id,
        Endpoint=backend.url + path,
        BackendStatus="created",
        PublishToGrid=True,
        Body="next",
    )
    assert service.until_working(1) == [task_id]


@pytest.mark.contract("B9.12")
def test_limit_is_never_exceeded_and_a_higher_one_applies_at_once(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    service = ModelService(backend, path)
    configure(app, path, Limit=2)
    submit_all(app, path, 10)
    service.until_working(2)
    service.finish_all(app, 3)
    service.until_working(2)
    assert (service.most, queue(app, path)["InFlight"]) == (2, 2)

    configure(app, path, Limit=4)
    service.until_working(4)
    configure(app, path, Limit=1)
    service.finish_all(app, 3)
    assert len(service.working()) == 1
    dispatched = len(service.taken)
    service.finish_all(app, 1)
    service.until_working(1)
    assert len(service.taken) == dispatched + 1
    configure(app, path, Limit=None)
    service.until_working(3)
    assert service.most == 4


@pytest.mark.contract("B9.12")
def test_registered_limit_applies_unless_the_queue_has_its_own(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = f"/v1/limited/{uuid.uuid4().hex}"
    service = ModelService(backend, path)
    submit_all(app, path, 6)
    service.until_working(LIMIT)
    assert queue(app, path)["Limit"] == LIMIT
    configure(app, path, Limit=3)
    service.until_working(3)
    configure(app, path, Limit=None)
    assert queue(app, path)["Limit"] == LIMIT
    service.finish_all(app, 6)
    assert service.most == 3


# -- Slots


# After the second answer the queue does not probe for an hour: only a report can bring the next task.
@pytest.mark.contract("B10.1")
@pytest.mark.parametrize("busy", [Answer(status=503), Answer(status=429, headers={"Retry-After": str(HOUR_S)})])
def test_report_of_an_end_grants_the_freed_slot_at_once(
    busy: Answer, app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    service = ModelService(backend, path, slots=3, busy=busy)
    task_ids = submit_all(app, path, 8)
    finished: list[str] = []
    if "Retry-After" in busy.headers:
        known_refusals = refused_and_known(app, service, path)
    for _ in range(12):
        finished.append(service.finish_next(app))
        task_ids += submit_all(app, path, 1)
    finished += service.finish_all(app, 8)
    assert len(task_ids) == 20
    assert sorted(finished) == sorted(task_ids)
    assert {task_of(app, task_id)["BackendStatus"] for task_id in task_ids} == {"completed"}
    assert service.most == 3
    if "Retry-After" in busy.headers:
        assert len(service.refused) == known_refusals
    waiting_task = queue(app, path)
    assert (waiting_task["Waiting"], waiting_task["InFlight"], waiting_task["Completed"]) == (0, 0, 20)


@pytest.mark.contract("B10.2")
def test_backend_with_more_room_than_estimated_is_filled_without_a_report(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    service = ModelService(backend, path)
    submit_all(app, path, 9)
    service.until_working(9)


@pytest.mark.contract("B10.3")
def test_refused_task_is_dispatched_again_as_soon_as_there_is_room(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    backend.script(path, Answer(status=503), Answer(status=429), Answer(status=503), Answer())
    task_id = task_id_of(submit(app, path))
    assert [backend.next_call(path).attempt for _ in range(4)] == [1, 2, 3, 4]
    report(app, TaskId=task_id, BackendStatus="completed")
    task = task_of(app, task_id)
    assert (task["BackendStatus"], task["Attempt"]) == ("completed", 4)


@pytest.mark.contract("B10.4")
def test_retry_after_delays_probes_and_nothing_else(app: httpx.Client, backend: ScriptedBackend, path: str) -> None:
    busy = Answer(status=503, headers={"Retry-After": str(HOUR_S)})
    service = ModelService(backend, path, slots=1, busy=busy)
    first, second, third = submit_all(app, path, 3)
    known_refusals = refused_and_known(app, service, path)
    assert (service.working(), service.refused[0]) == ([first], second)
    assert service.finish_all(app, 3) == [first, second, third], "refused, the second kept its place"
    assert len(service.refused) == known_refusals, "and nobody else was refused"


@pytest.mark.contract("B10.5")
def test_every_kind_of_end_grants_the_slot_to_the_next_task(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    service, elsewhere = ModelService(backend, path), ModelService(backend, f"{path}/next")
    configure(app, path, Limit=1)
    failed, cancelled, moved_on, completed, last = submit_all(app, path, 5)
    for task_id, end in (
        (failed, lambda: report(app, TaskId=failed, BackendStatus="failed")),
        (cancelled, lambda: app.delete(f"/api/v1/tasks/{cancelled}").raise_for_status()),
        (
            moved_on,
            lambda: report(
                app,
                TaskId=moved_on,
                Endpoint=f"{backend.url}{path}/next",
                BackendStatus="created",
                PublishToGrid=True,
            ),
        ),
        (completed, lambda: report(app, TaskId=completed, BackendStatus="completed")),
    ):
        eventually(lambda task_id=task_id: service.taken[-1:] == [task_id])
        end()
    eventually(lambda: service.taken[-1] == last)
    assert service.taken == [failed, cancelled, moved_on, completed, last]
    assert elsewhere.until_working(1) == [moved_on]
    assert (queue(app, path)["InFlight"], queue(app, f"{path}/next")["InFlight"]) == (1, 1)


@pytest.mark.contract("B10.6")
def test_step_to_its_own_queue_waits_behind_the_others(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    configure(app, path, Limit=1)
    first, second = submit_all(app, path, 2)
    assert backend.next_call(path).task_id == first
    next_step(app, first)
    assert backend.next_call(path).task_id == second
    assert task_of(app, first)["QueuePosition"] == 1
    report(app, TaskId=second, BackendStatus="completed")
    again = backend.next_call(path)
    assert (again.task_id, again.attempt, again.body) == (first, 2, b"again")


@pytest.mark.contract("B10.5")
def test_permanent_refusal_grants_the_slot_to_the_next_task(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    backend.script(path, Answer(status=400))
    configure(app, path, Limit=1)
    for task_id in submit_all(app, path, 6):
        assert ended(app, task_id)["BackendStatus"] == "failed"
    assert queue(app, path)["InFlight"] == 0


@pytest.mark.contract("B10.7")
def test_model_service_may_report_the_end_before_it_answers_the_dispatch(
    app: httpx.Client, backend: ScriptedBackend, path: str, stack: Stack
) -> None:
    complete_on_call(stack, backend, path)
    configure(app, path, Limit=1)
    for task_id in submit_all(app, path, 10):
        task = ended(app, task_id)
        assert (task["BackendStatus"], task["Attempt"]) == ("completed", 1)
    eventually(lambda: queue(app, path)["InFlight"] == 0)
    assert [backend.next_call(path).attempt for _ in range(10)] == [1] * 10
    assert backend.untaken(path) == 0


@pytest.mark.contract("B10.8")
def test_freed_slots_are_granted_while_event_grid_is_down(
    app: httpx.Client, backend: ScriptedBackend, path: str, stack: Stack
) -> None:
    service = ModelService(backend, path)
    configure(app, path, Limit=1)
    task_ids = submit_all(app, path, 3)
    service.until_working(1)
    assert isinstance(stack.event_grid, ChildProcess)
    stack.event_grid.stop()
    try:
        task_ids += submit_all(app, path, 2)
        assert service.finish_all(app, 5) == task_ids
    finally:
        stack.event_grid.start()


# -- Order


@pytest.mark.contract("B1.20")
@pytest.mark.parametrize("said", ["0", "3", "9"])
def test_answers_show_the_priority(said: str, app: httpx.Client, path: str) -> None:
    configure(app, path, Paused=True)
    response = submit(app, path, priority=said)
    assert response.json()["Priority"] == int(said)
    assert task_of(app, task_id_of(response))["Priority"] == int(said)


@pytest.mark.contract("B1.20")
@pytest.mark.parametrize("said", [None, "u=1", "u=5, i", "i", "u=0,i=?0"])
def test_priority_is_5_when_absent_or_sent_by_a_browser(said: str | None, app: httpx.Client, path: str) -> None:
    headers = {} if said is None else {"priority": said}
    assert submit(app, path, **headers).json()["Priority"] == 5


@pytest.mark.contract("B1.20")
@pytest.mark.parametrize("said", ["", "10", "-1", "5.0", "seven", "5,5", "0x1", "u", "~j<u@>V", "u=9", "5, i"])
def test_malformed_priority_is_refused(said: str, app: httpx.Client, path: str) -> None:
    assert_problem(submit(app, path, priority=said), 400, "invalid-request", field="Priority")


@pytest.mark.contract("B10.9", "A1.17")
def test_higher_priority_goes_first_and_then_the_older_task(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    service = ModelService(backend, path)
    configure(app, path, Paused=True, Limit=1)
    came = {priority: submit_all(app, path, 2, priority=priority) for priority in ("3", "9", "0")}
    usual = submit_all(app, path, 1)
    legacy = {"Endpoint": backend.url + path, "Body": "x", "PublishToGrid": True}
    urgent = report(app, **legacy, Priority=9)["TaskId"]
    as_text = report(app, **legacy, Priority="4")["TaskId"]
    configure(app, path, Paused=False)
    expected = [*came["9"], urgent, *usual, as_text, *came["3"], *came["0"]]
    assert service.finish_all(app, len(expected)) == expected


@pytest.mark.contract("B10.10")
def test_many_tasks_of_one_owner_do_not_delay_the_few_of_another(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    service = ModelService(backend, path)
    configure(app, path, Paused=True, Limit=1)
    many = submit_all(app, path, 8, **as_owner("anna"))
    few = submit_all(app, path, 2, **as_owner("boris"))
    configure(app, path, Paused=False)
    order = service.finish_all(app, 10)
    assert [task_id for task_id in order if task_id in many] == many
    assert [task_id for task_id in order if task_id in few] == few
    assert order.index(few[0]) <= 1, "after one of the other's at most"
    assert order.index(few[1]) <= 3


# -- Position and estimate


@pytest.mark.contract("B2.11")
def test_queue_position_equals_the_order_of_dispatch(app: httpx.Client, backend: ScriptedBackend, path: str) -> None:
    service = ModelService(backend, path)
    configure(app, path, Paused=True, Limit=1)
    task_ids: list[str] = []
    for owner, priority in (("anna", "5"), ("anna", "9"), ("boris", "0"), ("anna", "5"), ("boris", "7"), ("", "5")):
        headers = as_owner(owner) if owner else {}
        task_ids += submit_all(app, path, 2, priority=priority, **headers)
    shown = dict(zip(task_ids, positions(app, task_ids), strict=True))
    assert sorted(position or 0 for position in shown.values()) == list(range(1, 13))

    configure(app, path, Paused=False)

    order = service.finish_all(app, len(task_ids))
    assert [shown[task_id] for task_id in order] == list(range(1, 13))


@pytest.mark.contract("B2.11")
def test_queue_position_counts_down_and_disappears_at_dispatch(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    service = ModelService(backend, path)
    configure(app, path, Limit=1)
    assert "QueuePosition" not in submit(app, path).json(), "it does not wait"
    service.until_working(1)
    answers = [submit(app, path) for _ in range(4)]
    assert [answer.json()["QueuePosition"] for answer in answers] == [1, 2, 3, 4]
    task_ids = [task_id_of(answer) for answer in answers]
    for left in range(4, 0, -1):
        assert positions(app, task_ids) == [None] * (4 - left) + list(range(1, left + 1))
        service.finish_next(app)
        service.until_working(1)
    assert positions(app, task_ids) == [None] * 4
    assert task_of(app, service.finish_next(app)).keys() == TASK_KEYS


@pytest.mark.contract("B2.11", "B3.1")
def test_cancelled_task_gives_its_position_to_the_next(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    service = ModelService(backend, path)
    configure(app, path, Paused=True, Limit=1)
    first, second, third = submit_all(app, path, 3)
    cancelled = app.delete(f"/api/v1/tasks/{first}").raise_for_status().json()
    assert cancelled.keys() == TASK_KEYS
    assert positions(app, [first, second, third]) == [None, 1, 2]
    configure(app, path, Paused=False)
    assert service.finish_all(app, 2) == [second, third]
    assert backend.untaken(path) == 2, "the cancelled one was never dispatched"


@pytest.mark.contract("B2.12")
def test_start_is_estimated_once_a_task_has_finished_there(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    service = ModelService(backend, path)
    configure(app, path, Limit=1)
    task_ids = submit_all(app, path, 6)
    service.until_working(1)
    assert "EstimatedStart" not in task_of(app, task_ids[1]), "no task was ever finished here"
    eventually(lambda: queue(app, path)["OldestWaitingSeconds"] > 1)
    service.finish_next(app)
    service.until_working(1)

    waits: list[int] = []
    for position, task_id in enumerate(task_ids[2:], 1):
        before_s = time.time()
        answer = app.get(f"/api/v1/tasks/{task_id}")
        after_s = time.time()
        task = answer.json()
        assert task["QueuePosition"] == position
        assert ISO_TIME.fullmatch(task["EstimatedStart"])
        start_s = datetime.fromisoformat(task["EstimatedStart"]).timestamp()
        waits.append(int(answer.headers["retry-after"]))
        # Whole seconds, rounded up: Retry-After and the estimate are the same.
        assert before_s + waits[-1] - 1.01 <= start_s <= after_s + waits[-1] + 0.01
        assert start_s >= before_s + position, "every task before it takes more than a second"
    assert waits == sorted(waits)
    assert waits[-1] > waits[0]
    answer = submit(app, path)
    assert (answer.json()["QueuePosition"], "EstimatedStart" in answer.json()) == (5, True)
    assert int(answer.headers["retry-after"]) >= waits[-1]

    configure(app, path, Paused=True)
    task = task_of(app, task_ids[-1])
    assert (task["QueuePosition"], "EstimatedStart" in task) == (4, False), (
        "the app cannot know when the queue is resumed"
    )


@pytest.mark.contract("B2.13")
def test_etag_is_weak_while_the_answer_shows_a_position(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    configure(app, path, Paused=True)
    response = submit(app, path)
    url, etag = f"/api/v1/tasks/{task_id_of(response)}", response.headers["etag"]
    assert etag.startswith('W/"')
    assert app.get(url).headers["etag"] == etag
    for known in (etag, etag.removeprefix("W/"), f'"other", {etag}'):
        unchanged = app.get(url, headers={"If-None-Match": known})
        assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
        assert int(unchanged.headers["retry-after"]) > 0

    configure(app, path, Paused=False)
    backend.next_call(path)

    changed = eventually(
        lambda: answer if (answer := app.get(url, headers={"If-None-Match": etag})).status_code == 200 else None
    )
    assert changed is not None
    assert changed.headers["etag"].startswith('"')
    assert "QueuePosition" not in changed.json()


@pytest.mark.contract("B2.13")
def test_change_of_position_does_not_end_a_wait(
    app: httpx.Client, backend: ScriptedBackend, path: str, stack: Stack
) -> None:
    service = ModelService(backend, path)
    configure(app, path, Limit=1)
    _, _, third = submit_all(app, path, 3)
    etag = app.get(f"/api/v1/tasks/{third}").headers["etag"]

    def wait() -> httpx.Response:
        with stack.client() as client:
            return client.get(f"/api/v1/tasks/{third}", params={"wait": 30}, headers={"If-None-Match": etag})

    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(wait)
        service.finish_next(app)
        service.until_working(1)
        assert positions(app, [third]) == [1]
        service.finish_next(app)
        answer = waiting.result()
    assert answer.status_code == 200
    assert "QueuePosition" not in answer.json()
    assert answer.headers["etag"].startswith('"')


@pytest.mark.contract("A7.12")
def test_legacy_clients_see_no_position_in_a_waiting_task(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    service = ModelService(backend, path)
    configure(app, path, Limit=1)
    new = {"Endpoint": backend.url + path, "Status": "created", "BackendStatus": "created", "PublishToGrid": True}
    tasks = [report(app, **new, Body=f"{number}") for number in range(3)]
    assert all(task.keys() == TASK_KEYS for task in tasks)
    for task in tasks:
        service.until_working(1)
        # The calls of a legacy task manager.
        known = app.get("/api/CacheConnectorGet", params={"taskId": task["TaskId"]})
        assert known.status_code == 200
        assert known.json().keys() == TASK_KEYS
        for state in ("running", "completed"):
            update = {"TaskId": task["TaskId"], "Endpoint": known.json()["Endpoint"], "PublishToGrid": False}
            report(app, **update, Status=state, BackendStatus=state)
        service.forget(task["TaskId"])
    assert service.taken == [task["TaskId"] for task in tasks]


# -- The backlog


def fill(app: httpx.Client, path: str) -> list[str]:
    configure(app, path, Paused=True)
    return submit_all(app, path, BACKLOG)


@pytest.mark.contract("B9.13", "A1.31")
def test_full_queue_refuses_a_submit_and_keeps_nothing_of_it(
    app: httpx.Client, backend: ScriptedBackend, path: str, stack: Stack
) -> None:
    fill(app, path)
    before = contents(stack, path)
    requests: list[tuple[bytes, dict[str, str]]] = [(b"{}", {}), (LARGE, {}), (b"{}", {"idempotency_key": "k"})]
    for content, headers in requests:
        refused = submit(app, path, content, **headers)
        assert_problem(refused, 429, "queue-full")
        assert int(refused.headers["retry-after"]) > 0
    legacy = {"Endpoint": backend.url + path, "Body": "x" * (INLINE_LIMIT_BYTES + 1), "PublishToGrid": True}
    assert_problem(app.post("/api/CacheConnectorUpsert", json=legacy), 429, "queue-full")
    assert contents(stack, path) == before, "a submit that was refused left something behind"
    assert queue(app, path)["Waiting"] == BACKLOG
    assert task_id_of(submit(app, new_path())), "only this queue is full"


@pytest.mark.contract("B9.14")
def test_full_queue_still_answers_repeated_submits(app: httpx.Client, path: str) -> None:
    configure(app, path, Paused=True)
    first = submit(app, path, b"body", idempotency_key="k")
    submit_all(app, path, BACKLOG - 1)
    assert_problem(submit(app, path), 429, "queue-full")
    again = submit(app, path, b"body", idempotency_key="k")
    assert task_id_of(again) == task_id_of(first)
    assert_problem(submit(app, path, b"other", idempotency_key="k"), 422, "idempotency-key-reused")
    assert queue(app, path)["Waiting"] == BACKLOG


@pytest.mark.contract("B9.14")
def test_dispatched_or_cancelled_task_makes_room_in_a_full_queue(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    task_ids = fill(app, path)
    app.delete(f"/api/v1/tasks/{task_ids[3]}").raise_for_status()
    assert task_id_of(submit(app, path))
    assert_problem(submit(app, path), 429, "queue-full")
    configure(app, path, Paused=False, Limit=1)
    backend.next_call(path)
    assert task_id_of(submit(app, path))
    assert_problem(submit(app, path), 429, "queue-full")


@pytest.mark.contract("B9.13")
def test_full_queue_estimates_when_there_will_be_room(app: httpx.Client, backend: ScriptedBackend, path: str) -> None:
    service = ModelService(backend, path)
    configure(app, path, Limit=1)
    submit_all(app, path, BACKLOG)
    service.until_working(1)
    eventually(lambda: queue(app, path)["OldestWaitingSeconds"] > 1)
    service.finish_next(app)
    service.until_working(1)
    waiting = submit_all(app, path, 2)
    next_one = eventually(lambda: [each for each in service_order(app, path) if each not in service.taken])[0]
    before = app.get(f"/api/v1/tasks/{next_one}")
    refused = submit(app, path)
    assert_problem(refused, 429, "queue-full")
    waiting_task = app.get(f"/api/v1/tasks/{next_one}")
    assert waiting_task.json()["QueuePosition"] == 1
    # The longer the present one takes, the later the next one starts.
    assert room_in_s(before) <= room_in_s(refused) <= room_in_s(waiting_task), "room is when the next one starts"
    assert room_in_s(refused) > 1
    assert positions(app, waiting) == [BACKLOG - 1, BACKLOG]


def room_in_s(response: httpx.Response) -> int:
    return int(response.headers["retry-after"])


def service_order(app: httpx.Client, path: str) -> list[str]:
    """All tasks of a path, oldest first."""
    tasks = app.get("/api/v1/tasks", params={"path": path}).raise_for_status().json()["Tasks"]
    return [task["TaskId"] for task in reversed(tasks)]


@pytest.mark.contract("B9.15")
def test_acknowledged_task_is_never_withdrawn_by_a_full_queue(app: httpx.Client, path: str, stack: Stack) -> None:
    fill(app, path)
    acknowledged = 0
    with ThreadPoolExecutor(4) as crowd:
        for number in range(40):
            key = {"idempotency_key": str(number)}
            answers = list(crowd.map(lambda _, key=key: submit(app, path, LARGE, **key), range(4)))
            assert {answer.status_code for answer in answers} <= {202, 429}
            accepted = {answer.json()["TaskId"] for answer in answers if answer.status_code == 202}
            assert len(accepted) <= 1
            for task_id in accepted:
                acknowledged += 1
                assert task_of(app, task_id)["BackendStatus"] == "created"
