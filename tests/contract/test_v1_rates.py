"""How often an endpoint gets a task at most, over HTTP (contract B25). No reconciler runs."""

from __future__ import annotations

import json
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
from shared.settings import Settings, SettingsError
from tests.contract.test_v1_metrics import scraped, value
from tests.contract.test_v1_queues import (
    GATEWAY_KEY,
    HOUR_S,
    NEVER,
    YEAR_S,
    ModelService,
    configure,
    has_dispatched,
    positions,
    queue,
    submit_all,
)
from tests.contract.v1_support import assert_problem, new_path, submit, task_of
from tests.scripted_backend import ScriptedBackend
from tests.waiting import eventually

BACKLOG = 6
NAMED = {"X-Operator": "ada", "X-Operator-Roles": "operate", "X-Gateway-Key": GATEWAY_KEY}


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("rates")
    with (
        type(redis_server)(directory / "redis") as redis,
        Stack(
            directory,
            redis=redis,
            azurite=azurite,
            backends={
                "/v1/test": backend.url,
                "/v1/rated": {"url": backend.url, "rate": "3/3600s", "burst": True},
            },
            with_model=False,
            settings={
                "RECONCILER_SCHEDULE": NEVER,
                "RECONCILER_INTERVAL_S": str(YEAR_S),
                "GATEWAY_KEY": GATEWAY_KEY,
                "MAX_BACKLOG": str(BACKLOG),
            },
        ) as stack,
        stack.client() as app,
    ):
        eventually(lambda: has_dispatched(app))
        yield stack


@pytest.fixture
def app(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


@pytest.fixture
def path() -> str:
    return new_path()


@pytest.fixture
def rated_path() -> str:
    return f"/v1/rated/{uuid.uuid4().hex}"


@pytest.mark.contract("B25.1", "B25.2")
def test_a_service_gets_no_more_tasks_than_the_rate_says(
    app: httpx.Client, backend: ScriptedBackend, rated_path: str
) -> None:
    service = ModelService(backend, rated_path)
    task_ids = submit_all(app, rated_path, 5)
    service.until_working(3)
    service.finish_all(app, 3)
    assert positions(app, task_ids) == [None, None, None, 1, 2]
    assert (service.taken, queue(app, rated_path)["InFlight"]) == (task_ids[:3], 0)
    configure(app, rated_path, Rate="4/3600s")
    service.until_working(1)
    assert positions(app, task_ids[3:]) == [None, 1], "the grants of before count"


@pytest.mark.contract("B25.1")
def test_evenly_is_one_after_another(app: httpx.Client, backend: ScriptedBackend, path: str) -> None:
    service = ModelService(backend, path)
    configure(app, path, Rate="3/3600s")
    task_ids = submit_all(app, path, 3)
    service.until_working(1)
    service.finish_next(app)
    assert positions(app, task_ids) == [None, 1, 2]
    configure(app, path, Burst=True)
    service.until_working(2)


@pytest.mark.contract("B25.1")
def test_a_retry_counts(app: httpx.Client, backend: ScriptedBackend, rated_path: str) -> None:
    service = ModelService(backend, rated_path)
    first, *others = submit_all(app, rated_path, 2)
    service.until_working(2)
    assert app.post(f"/api/v1/tasks/{first}/release", headers={"X-Task-Attempt": "1"}).is_success
    service.forget(first)
    eventually(lambda: service.taken.count(first) == 2)
    [waiting] = submit_all(app, rated_path, 1)
    assert positions(app, [first, *others, waiting]) == [None, None, 1]


@pytest.mark.contract("B25.3")
@pytest.mark.parametrize("burst", [False, True], ids=["evenly", "burst"])
def test_a_task_goes_when_the_rate_allows_it_and_nobody_asks(
    app: httpx.Client, backend: ScriptedBackend, path: str, burst: bool
) -> None:
    service = ModelService(backend, path)
    configure(app, path, Rate="4/1s", Burst=burst)
    task_ids = submit_all(app, path, 6)
    eventually(lambda: len(service.taken) == 6)
    assert sorted(service.taken) == sorted(task_ids)


@pytest.mark.contract("B25.4")
def test_the_estimate_and_retry_after_know_the_rate(
    app: httpx.Client, backend: ScriptedBackend, rated_path: str
) -> None:
    service = ModelService(backend, rated_path)
    submit_all(app, rated_path, 3)
    service.until_working(3)
    service.finish_all(app, 3)
    answers = [submit(app, rated_path) for _ in range(BACKLOG)]
    for nth, answer in enumerate(answers):
        start_s = datetime.fromisoformat(answer.json()["EstimatedStart"]).timestamp() - time.time()
        assert HOUR_S * (nth // 3) + HOUR_S / 2 < start_s <= HOUR_S * (nth // 3 + 1)
        assert abs(int(answer.headers["retry-after"]) - start_s) < 60
    refused = submit(app, rated_path)
    assert_problem(refused, 429, "queue-full")
    assert HOUR_S / 2 < int(refused.headers["retry-after"]) <= HOUR_S


@pytest.mark.contract("B25.5", "B25.6")
def test_a_queue_tells_the_rate_that_applies_and_null_resets_it(
    app: httpx.Client, path: str, rated_path: str
) -> None:
    def rate(document: dict[str, Any], of: str) -> tuple[str | None, bool]:
        assert document == queue(app, of)
        return document["Rate"], document["Burst"]

    assert rate(queue(app, path), path) == (None, False)
    assert rate(configure(app, path, Rate="100/60s"), path) == ("100/60s", False)
    assert rate(configure(app, path, burst=True, Limit=3), path) == ("100/60s", True)
    assert rate(configure(app, path, Rate=None), path) == (None, False)
    assert rate(queue(app, rated_path), rated_path) == ("3/3600s", True)
    assert rate(configure(app, rated_path, Rate="7/1s", Burst=False), rated_path) == ("7/1s", False)
    assert rate(configure(app, rated_path, Rate=None, Burst=None), rated_path) == ("3/3600s", True)


@pytest.mark.contract("B25.5")
def test_a_queue_with_a_rate_of_its_own_alone_is_listed(app: httpx.Client, path: str) -> None:
    configure(app, path, Rate="7/1s")
    listed = app.get("/api/v1/queues/", params={"all": "true", "limit": "200"}).raise_for_status().json()["Queues"]
    assert {each["EndpointPath"]: each["Rate"] for each in listed}[path] == "7/1s"


@pytest.mark.contract("B25.7")
@pytest.mark.parametrize(
    "rate",
    [
        "",
        "fast",
        "100",
        "100/60",
        "0/60s",
        "10001/60s",
        "1/0s",
        "1/86401s",
        "1/0.5s",
        "-1/60s",
        "1/60s\n",
        100,
        [],
        {},
    ],
)
def test_what_is_no_rate_is_refused_and_changes_nothing(app: httpx.Client, path: str, rate: Any) -> None:
    before = configure(app, path, Rate="7/1s")
    answer = app.patch(f"/api/v1/queues{path}", json={"Rate": rate})
    assert_problem(answer, 400, "invalid-request", field="/Rate")
    assert queue(app, path) == before


@pytest.mark.contract("B25.7")
@pytest.mark.parametrize("entry", [{"rate": "fast"}, {"rate": "10001/1s"}, {"rate": 5}, {"burst": "very"}])
def test_an_app_whose_backend_has_no_such_rate_does_not_start(entry: dict[str, Any]) -> None:
    environment = {
        "REDIS_CONNECTION_STRING": "redis://127.0.0.1",
        "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
        "BACKENDS": json.dumps({"/v1": {"url": "https://models.example.org", **entry}}),
    }
    with pytest.raises(SettingsError, match="setting BACKENDS"):
        Settings.from_env(environment)


@pytest.mark.contract("B25.8")
def test_a_change_of_the_rate_is_on_record(app: httpx.Client, path: str) -> None:
    for settings in ({"Rate": "100/60s"}, {"Burst": True}, {"Burst": False}, {"Rate": None, "Burst": None}):
        app.patch(f"/api/v1/queues{path}", json=settings, headers=NAMED).raise_for_status()
    entries = app.get("/api/v1/audit", params={"limit": "200"}).raise_for_status().json()["Entries"]
    actions = [entry["Action"] for entry in entries if entry["Target"] == path]
    assert actions == ["no rate, evenly", "evenly", "burst", "rate 100/60s"]
    app.patch(f"/api/v1/queues{path}", json={"Rate": "1/1s"}, headers=NAMED).raise_for_status()
    assert app.get(f"/api/v1/queues{path}", headers=NAMED).json()["SettingsChanged"]["Operator"] == "ada"


@pytest.mark.contract("B25.9")
def test_metrics_tell_the_rate(app: httpx.Client, path: str) -> None:
    configure(app, path, Rate="90/60s", Paused=True)
    submit_all(app, path, 1)
    assert value(scraped(app), "backbone_queue_rate", path) == 1.5
    configure(app, path, Rate=None)
    metrics = scraped(app)
    known = metrics["backbone_queue_rate"].samples if "backbone_queue_rate" in metrics else []
    assert path not in {sample.labels["path"] for sample in known}


@pytest.mark.contract("B25.10")
@pytest.mark.parametrize(
    "kinds",
    [("q",), ("qr",), ("qs",), ("q", "qs", "qh"), ("q", "qr", "qs", "qh", "qo"), ("q", "qr", "qs", "qh", "qo", "qw")],
    ids=" ".join,
)
def test_keys_that_are_lost_let_no_window_have_more(
    app: httpx.Client, stack: Stack, backend: ScriptedBackend, path: str, kinds: tuple[str, ...]
) -> None:
    service = ModelService(backend, path)
    configure(app, path, Rate="3/3600s", Burst=True)
    task_ids = submit_all(app, path, 4)
    service.until_working(3)
    for server in stack.redis.nodes if isinstance(stack.redis, RedisCluster) else [stack.redis]:
        with server.connect() as client:
            for kind in kinds:
                for key in client.scan_iter(f"*}}{kind}:{path}*"):
                    client.delete(key)
    service.finish_all(app, 3)
    assert configure(app, path, Limit=50)["Rate"] == "3/3600s"
    assert task_of(app, task_ids[3])["QueuePosition"] == 1
