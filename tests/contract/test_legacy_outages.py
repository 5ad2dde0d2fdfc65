"""The legacy functions while Redis or Event Grid is down (contract A0, A1, A6). The broken stack is its own."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from local.azurite import Azurite
from local.redis_server import RedisServer
from local.stack import Stack
from tests.conftest import IN_A_HURRY
from tests.contract.legacy_support import (
    DELIVERY,
    GET,
    REPORT,
    REPORTED,
    TOPIC_ID,
    UPSERT,
    WEBHOOK,
    Endpoint,
    assert_problem,
    finished,
    kept_task,
    new_endpoint,
    stored,
    upsert,
)
from tests.scripted_backend import ScriptedBackend

MAX_BODY_BYTES = 200_000


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory, azurite: Azurite, backend: ScriptedBackend) -> Iterator[Stack]:
    with Stack(
        tmp_path_factory.mktemp("fragile"),
        azurite=azurite,
        backends={"/v1/test": backend.url},
        with_model=False,
        settings={
            **IN_A_HURRY,
            "REPUBLISH_S": "0.2",
            "MAX_BODY_BYTES": str(MAX_BODY_BYTES),
            "BLOB_CONTAINER": "fragile",
        },
    ) as stack:
        yield stack


@pytest.fixture
def fragile_app(fragile: Stack) -> Iterator[httpx.Client]:
    with fragile.client() as client:
        yield client


@pytest.fixture
def without_redis(fragile: Stack) -> Iterator[None]:
    assert isinstance(fragile.redis, RedisServer)
    fragile.redis.kill()
    yield
    if not fragile.redis.is_running:
        fragile.redis.start()


@pytest.fixture
def endpoint(backend: ScriptedBackend) -> Endpoint:
    return new_endpoint(backend)


CALLS: dict[str, Callable[[httpx.Client, Endpoint], httpx.Response]] = {
    "create": lambda app, endpoint: app.post(
        UPSERT, json={"Endpoint": endpoint.url, "Body": "{}", "PublishToGrid": True}
    ),
    "update": lambda app, endpoint: app.post(UPSERT, json={"TaskId": "a", "BackendStatus": "running"}),
    "get": lambda app, endpoint: app.get(GET, params={"taskId": "a"}),
    "report": lambda app, endpoint: app.post(REPORT, json={"ApiPath": "/a", "ServiceCluster": "c", "IncrementBy": 1}),
    "reported": lambda app, endpoint: app.get(REPORTED, params={"cluster": "c", "path": "/a"}),
    "dispatch": lambda app, endpoint: app.post(
        WEBHOOK,
        json=[{"topic": TOPIC_ID, "eventType": "backbone.task.dispatch", "data": {"TaskId": "a", "Attempt": 1}}],
        headers=DELIVERY,
    ),
    "legacy event": lambda app, endpoint: app.post(
        WEBHOOK,
        json=[{"topic": TOPIC_ID, "id": "a", "eventType": "task", "subject": endpoint.url, "data": "{}"}],
        headers=DELIVERY,
    ),
}


@pytest.mark.contract("A0.3")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.usefixtures("without_redis")
def test_every_legacy_function_answers_503_with_retry_after_while_redis_is_down(
    fragile: Stack,
    fragile_app: httpx.Client,
    endpoint: Endpoint,
    call: Callable[[httpx.Client, Endpoint], httpx.Response],
) -> None:
    response = call(fragile_app, endpoint)
    assert_problem(response, 503)
    assert int(response.headers["Retry-After"]) > 0
    assert fragile.redis.url.removeprefix("redis://") not in response.text


@pytest.mark.contract("A6.26")
@pytest.mark.usefixtures("without_redis")
def test_delivery_with_an_invalid_event_is_retried_while_redis_is_down(
    fragile_app: httpx.Client,
) -> None:
    dispatch = {"topic": TOPIC_ID, "eventType": "backbone.task.dispatch", "data": {"TaskId": "a", "Attempt": 1}}
    response = fragile_app.post(WEBHOOK, json=[dispatch, {"topic": TOPIC_ID, "eventType": "other"}], headers=DELIVERY)
    assert assert_problem(response, 503)["results"] == ["unavailable", "invalid"]


@pytest.mark.contract("A0.4")
@pytest.mark.usefixtures("without_redis")
def test_bad_request_is_still_refused_while_redis_is_down(fragile_app: httpx.Client) -> None:
    assert_problem(fragile_app.post(UPSERT, json={"Status": 5}), 400, "/Status")
    assert_problem(fragile_app.get(GET), 400, "taskId")


@pytest.mark.contract("A0.5")
def test_tasks_survive_a_redis_outage_and_new_ones_are_dispatched(
    fragile: Stack, fragile_app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    task = kept_task(fragile_app, endpoint)
    assert isinstance(fragile.redis, RedisServer)
    fragile.redis.stop()
    try:
        assert_problem(fragile_app.get(GET, params={"taskId": task["TaskId"]}), 503)
    finally:
        fragile.redis.start()
    assert stored(fragile_app, task["TaskId"]) == task
    new = upsert(fragile_app, Endpoint=endpoint.url, Body="after", PublishToGrid=True)
    call = backend.next_call(endpoint.path)
    assert (call.task_id, call.body) == (new["TaskId"], b"after")
    upsert(fragile_app, TaskId=new["TaskId"], BackendStatus="completed")


@pytest.fixture
def event_grid_refuses(fragile: Stack) -> Iterator[Callable[[dict[str, Any]], None]]:
    # The publisher's own retries do not cover 501.
    yield lambda more: fragile.set_faults({"refusePublish": {"status": 501, **more}})
    fragile.set_faults({})


def created_while_refused(app: httpx.Client, endpoint: Endpoint) -> str:
    task = upsert(
        app, Endpoint=endpoint.url, Status="created", BackendStatus="created", Body="{}", PublishToGrid=True
    )
    assert (task["BackendStatus"], task["Status"], task["PublishToGrid"]) == ("created", "created", True)
    return task["TaskId"]


@pytest.mark.contract("A1.33")
def test_task_published_at_the_last_attempt_is_dispatched(
    fragile_app: httpx.Client,
    backend: ScriptedBackend,
    endpoint: Endpoint,
    event_grid_refuses: Callable[[dict[str, Any]], None],
) -> None:
    event_grid_refuses({"next": int(IN_A_HURRY["MAX_ATTEMPTS"]) - 1})
    task_id = created_while_refused(fragile_app, endpoint)
    assert backend.next_call(endpoint.path).task_id == task_id
    upsert(fragile_app, TaskId=task_id, BackendStatus="completed", Status="completed")


@pytest.mark.contract("A1.33")
def test_task_that_cannot_be_published_fails_after_the_last_attempt(
    fragile_app: httpx.Client,
    backend: ScriptedBackend,
    endpoint: Endpoint,
    event_grid_refuses: Callable[[dict[str, Any]], None],
) -> None:
    event_grid_refuses({})
    task = finished(fragile_app, created_while_refused(fragile_app, endpoint))
    assert task["BackendStatus"] == "failed"
    assert task["Status"] == "Failed - unable to send to backend service."
    assert backend.untaken(endpoint.path) == 0


@pytest.mark.contract("A1.30")
def test_body_over_the_size_limit_is_refused(fragile_app: httpx.Client, endpoint: Endpoint) -> None:
    fits = kept_task(fragile_app, endpoint, Body="x" * MAX_BODY_BYTES)
    for request in ({"Endpoint": endpoint.url}, {"TaskId": fits["TaskId"]}):
        response = fragile_app.post(UPSERT, json={**request, "Body": "x" * (MAX_BODY_BYTES + 1)})
        assert_problem(response, 413)
    assert stored(fragile_app, fits["TaskId"]) == fits
