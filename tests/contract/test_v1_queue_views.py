"""What operators see of queues beside the counts (contract B9.70 to B9.77): idle queues, their backends, who changed
their settings, requests in flight; and answers that are sent only if they have changed. No reconciler runs."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest

from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from local.stack import Stack
from shared.dispatch.endpoint_bound import MOST_ENDPOINTS
from tests.contract.test_v1_queues import (
    NEVER,
    YEAR_S,
    ModelService,
    configure,
    endpoints_of,
    nothing_else_comes,
    queue,
    submit_all,
)
from tests.contract.v1_support import ISO_TIME, all_queues, assert_problem, keep, new_path, report, submit
from tests.scripted_backend import Answer, ScriptedBackend
from tests.waiting import eventually

GATEWAY_KEY = "the-key-of-the-gateway-0123456789"
ADA = {"X-Gateway-Key": GATEWAY_KEY, "X-Operator": "ada@example.org", "X-Operator-Roles": "operate"}
LISTED = "/v1/listed/segment"


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[Stack]:
    """Its Redis is its own: other tests' tasks would change the lists."""
    directory = tmp_path_factory.mktemp("views")
    registry: dict[str, Any] = {
        "/v1/test": backend.url,
        "/v1/listed": {"url": backend.url, "endpoints": [LISTED]},
        "/v1/unused": backend.url,
        "/v1/other": backend.url,
        "/v1/nobody": "http://127.0.0.1:9",
        "pipelines": {"/v1/whole": [LISTED, "/v1/test/then"]},
    }
    with (
        type(redis_server)(directory / "redis") as redis,
        Stack(
            directory,
            redis=redis,
            azurite=azurite,
            backends=registry,
            with_model=False,
            settings={
                "RECONCILER_SCHEDULE": NEVER,
                "RECONCILER_INTERVAL_S": str(YEAR_S),
                "GATEWAY_KEY": GATEWAY_KEY,
                "BACKOFF_BASE_S": "3600",
            },
        ) as stack,
    ):
        yield stack


@pytest.fixture
def app(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


@pytest.fixture
def path() -> str:
    return new_path()


def every_queue(app: httpx.Client, limit: int = 200) -> dict[str, dict[str, Any]]:
    """All queues by their paths, idle ones too."""
    found: dict[str, dict[str, Any]] = {}
    cursor: str | None = ""
    while cursor is not None:
        params = {"all": "true", "limit": str(limit), "cursor": cursor}
        page = app.get("/api/v1/queues/", params=params).raise_for_status().json()
        assert len(page["Queues"]) <= limit
        assert not found.keys() & {each["EndpointPath"] for each in page["Queues"]}
        found |= {each["EndpointPath"]: each for each in page["Queues"]}
        cursor = page["NextCursor"]
    return found


def lose(stack: Stack, path: str, *kinds: str) -> None:
    """Delete keys of the queue of this path."""
    servers = stack.redis.nodes if isinstance(stack.redis, RedisCluster) else [stack.redis]
    for server in servers:
        with server.connect() as client:
            for key in [*client.scan_iter()]:
                kind, _, name = key.partition("}")[2].partition(":")
                if kind in kinds and name.partition(" ")[0] == path:
                    client.delete(key)


# -- Idle queues


@pytest.mark.contract("B9.70")
def test_idle_queues_are_listed_if_they_have_settings_or_are_registered(app: httpx.Client, path: str) -> None:
    configure(app, path, Paused=True)
    assert path not in all_queues(app)
    found = every_queue(app)
    assert [*found] == sorted(found)
    assert {LISTED, "/v1/unused", "/v1/whole", path} <= found.keys()
    assert not {"/v1/listed", "/v1/test"} & found.keys(), "the one is no endpoint, the other has endpoints below it"
    assert found[path] == queue(app, path)
    assert (found[path]["Paused"], found[path]["Demand"]) == (True, 0)
    configure(app, path, Paused=None)
    assert path not in every_queue(app)


@pytest.mark.contract("B9.70")
def test_the_list_of_all_queues_is_paged_as_the_other(app: httpx.Client, path: str) -> None:
    for number in range(3):
        configure(app, f"{path}/{number}", Limit=number + 1)
    submit_all(app, f"{path}/0", 1)
    everything = every_queue(app)
    assert [*every_queue(app, 1)] == [*everything]
    assert [each for each in everything if each.startswith(path)] == [f"{path}/{number}" for number in range(3)]
    for no in ("0", "false"):
        listed = app.get("/api/v1/queues", params={"all": no, "cursor": path}).json()["Queues"]
        assert [each["EndpointPath"] for each in listed if each["EndpointPath"].startswith(path)] == [f"{path}/0"]
    assert_problem(app.get("/api/v1/queues", params={"all": "yes"}), 400, "invalid-request", field="all")
    assert_problem(app.get(f"/api/v1/queues{path}", params={"all": "1"}), 400, "invalid-request", field="all")


# -- Conditional requests


@pytest.mark.contract("B9.71")
def test_queues_that_have_not_changed_are_not_sent_again(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    configure(app, path, Paused=True)
    submit_all(app, path, 1)
    before = queue(app, path)
    lists = ("/api/v1/queues/", "/api/v1/queues/?all=true", "/api/console/read/queues/?all=true")
    for url in (f"/api/v1/queues{path}", *lists):
        first = app.get(url)
        etag = first.headers["etag"]
        assert etag.startswith('W/"'), "ages grow while nothing happens"
        eventually(lambda: queue(app, path)["OldestWaitingSeconds"] > before["OldestWaitingSeconds"] + 0.05)
        for known in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
            again = app.get(url, headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
            assert "content-type" not in again.headers
        submit_all(app, path, 1)
        changed = app.get(url, headers={"If-None-Match": etag})
        assert changed.status_code == 200
        assert changed.headers["etag"] != etag
    since = queue(app, path)["OldestWaitingSince"]
    assert since == before["OldestWaitingSince"]


@pytest.mark.contract("B9.71")
def test_each_change_of_a_queue_has_its_own_etag(app: httpx.Client, backend: ScriptedBackend, path: str) -> None:
    def etag() -> str:
        return app.get(f"/api/v1/queues{path}").headers["etag"]

    etags = [etag()]
    changes = [
        lambda: configure(app, path, Limit=3),
        lambda: configure(app, path, Paused=True),
        lambda: keep(app, backend, path),
        lambda: configure(app, path, Paused=None, Draining=True),
        lambda: configure(app, path, Draining=None, Limit=None),
    ]
    for change in changes:
        change()
        assert etag() == etag()
        etags.append(etag())
    assert len({*etags}) == len(etags)


@pytest.mark.contract("B9.77")
def test_lists_of_tasks_and_batches_and_series_that_have_not_changed_are_not_sent_again(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    task_id = keep(app, backend, path)
    batch = app.post("/api/v1/batches", json={"Name": "scenes"}).json()["TaskId"]
    changes = {
        f"/api/v1/tasks?path={path}": lambda: report(app, TaskId=task_id, BackendStatus="running", Status="on it"),
        "/api/v1/batches": lambda: app.post(f"/api/v1/batches/{batch}/seal").raise_for_status(),
    }
    for url, change in changes.items():
        etag = app.get(url).headers["etag"]
        assert etag.startswith('"')
        again = app.get(url, headers={"If-None-Match": etag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        change()
        changed = app.get(url, headers={"If-None-Match": etag})
        assert (changed.status_code, changed.headers["etag"] != etag) == (200, True)
    past = {"path": path, "from": "2026-01-31T12:00:00Z", "to": "2026-01-31T14:00:00Z"}
    etag = app.get("/api/v1/series", params=past).headers["etag"]
    again = app.get("/api/v1/series", params=past, headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b""), "what was is over"


# -- Backends


def state(app: httpx.Client, path: str) -> str:
    return queue(app, path)["Backend"]["State"]


@pytest.mark.contract("B9.72")
def test_a_backend_is_up_once_it_has_accepted_a_task_at_any_path(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    other = f"/v1/other/{uuid.uuid4().hex}"
    unheard = {"State": "unknown", "Until": None, "MeanSeconds": None}
    assert queue(app, "/v1/unused")["Backend"] == unheard
    assert queue(app, "/v1/whole")["Backend"] == unheard, "a pipeline has no backend of its own"
    assert state(app, f"{other}/quiet") == "unknown"
    [task_id] = submit_all(app, other, 1)
    eventually(lambda: state(app, other) == "up")
    assert state(app, f"{other}/quiet") == "up"
    report(app, TaskId=task_id, BackendStatus="completed")
    assert queue(app, other)["Backend"]["MeanSeconds"] > 0


@pytest.mark.contract("B9.72")
def test_a_backend_is_full_while_tasks_wait_that_it_refuses(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    service = ModelService(backend, path, slots=1, busy=Answer(status=503, headers={"Retry-After": "3600"}))
    submit_all(app, path, 3)
    eventually(lambda: state(app, path) == "full")
    service.finish_all(app, 2)
    service.until_working(1)
    eventually(lambda: state(app, path) == "up")


@pytest.mark.contract("B9.72")
def test_a_backend_that_is_away_is_down_until_it_is_tried_again(app: httpx.Client) -> None:
    path = f"/v1/nobody/{uuid.uuid4().hex}"
    before_s = time.time()
    submit_all(app, path, 2)
    eventually(lambda: state(app, path) == "down")
    shown = queue(app, path)
    assert shown["Outage"] is not None
    until_s = datetime.fromisoformat(shown["Backend"]["Until"]).timestamp()
    assert before_s + 3_500 < until_s < time.time() + 3_700
    configure(app, path, Paused=True)  # so that nothing tries it any more


@pytest.mark.contract("B9.72")
def test_a_path_that_no_entry_has_is_unregistered(app: httpx.Client) -> None:
    assert state(app, "/v1/listed/mistyped") == "unregistered"
    assert state(app, LISTED) != "unregistered"


# -- Requests in flight


@pytest.mark.contract("B9.73")
def test_all_counters_of_requests_in_flight_are_listed(app: httpx.Client) -> None:
    def told(path: str, cluster: str = "", **more: Any) -> None:
        body = {"ApiPath": path, "ServiceCluster": cluster, **more}
        app.post("/api/CurrentProcessingUpsert", json=body).raise_for_status()

    before = datetime.now().astimezone()
    told("/v1/a", "aks west", IncrementBy=3)
    told("/v1/a", IncrementBy=1, Instance="pod", IntervalSeconds=60)
    told("/v1/b", IncrementBy=0)
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = app.get("/api/v1/requests", params={"limit": "1", "cursor": cursor}).raise_for_status().json()
        assert page.keys() == {"Counters", "NextCursor"}
        found += page["Counters"]
        cursor = page["NextCursor"]
    counts = {(each["Cluster"], each["Path"]): each["Count"] for each in found}
    assert counts == {("aks west", "/v1/a"): 3, ("", "/v1/a"): 1, ("", "/v1/b"): 0}
    assert len(counts) == len(found)
    for each in found:
        assert ISO_TIME.fullmatch(each["UpdatedAt"])
        assert abs((datetime.fromisoformat(each["UpdatedAt"]) - before).total_seconds()) < 60
    etag = app.get("/api/v1/requests").headers["etag"]
    assert app.get("/api/v1/requests", headers={"If-None-Match": etag}).status_code == 304
    for bad in ({"limit": "0"}, {"cursor": "no place"}):
        assert_problem(app.get("/api/v1/requests", params=bad), 400, "invalid-request", field=next(iter(bad)))


# -- Settings


@pytest.mark.contract("B9.74")
@pytest.mark.parametrize("lost", [("qs",), ("q",), ("q", "qs", "qo", "qh", "qi")], ids="+".join)
def test_settings_outlast_the_loss_of_the_queue_s_keys(
    app: httpx.Client, backend: ScriptedBackend, path: str, stack: Stack, lost: tuple[str, ...]
) -> None:
    configure(app, path, Paused=True, Limit=2)
    submit_all(app, path, 2)
    lose(stack, path, *lost)
    submit_all(app, path, 1)
    shown = queue(app, path)
    assert (shown["Paused"], shown["Limit"]) == (True, 2)
    nothing_else_comes(app, backend, path)
    assert path in every_queue(app)
    configure(app, path, Paused=False)
    backend.next_call(path)
    lose(stack, path, "q", "qs")
    assert (queue(app, path)["Paused"], queue(app, path)["Limit"]) == (False, 2)


@pytest.mark.contract("B9.75")
def test_settings_of_new_paths_count_among_the_endpoints_of_a_backend(
    app: httpx.Client, stack: Stack, path: str
) -> None:
    configure(app, path, Limit=3)
    full = {f"{path}/full/{number}": time.time() * 1000 for number in range(MOST_ENDPOINTS)}
    with endpoints_of(stack, "/v1/test", full):
        refused = app.patch(f"/api/v1/queues{path}/new", json={"Paused": True})
        assert_problem(refused, 429, "too-many-endpoints")
        assert queue(app, f"{path}/new")["Paused"] is False
        assert configure(app, path, Limit=None)["Limit"] is None, "what it has can be set, and reset"


@pytest.mark.contract("B9.76")
def test_an_operator_is_told_who_changed_the_settings(app: httpx.Client, path: str) -> None:
    assert queue(app, path)["SettingsChanged"] is None
    answer = app.patch(f"/api/v1/queues{path}", json={"Paused": True}, headers=ADA).raise_for_status().json()
    changed = answer["SettingsChanged"]
    assert changed["Operator"] == "ada@example.org"
    assert ISO_TIME.fullmatch(changed["At"])
    shown = app.get(f"/api/v1/queues{path}", headers=ADA).json()["SettingsChanged"]
    assert shown == changed
    assert queue(app, path)["SettingsChanged"] == changed | {"Operator": None}, "anybody else is not told the name"
    assert configure(app, path, Limit=3)["SettingsChanged"]["Operator"] is None
    params = {"all": "true", "cursor": path[:-1]}
    listed = app.get("/api/v1/queues/", headers=ADA, params=params).raise_for_status().json()["Queues"]
    [found] = [each["SettingsChanged"] for each in listed if each["EndpointPath"] == path]
    assert found["Operator"] is None, "a key's holder changed them last, whom nobody knows"


@pytest.mark.contract("B9.76")
def test_settings_are_not_shown_as_changed_once_they_are_reset(app: httpx.Client, path: str) -> None:
    submit(app, path)
    configure(app, path, Draining=True)
    assert queue(app, path)["SettingsChanged"] is not None
    assert configure(app, path, Draining=False)["SettingsChanged"] is None
