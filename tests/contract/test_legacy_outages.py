"""The legacy functions while Redis or Event Grid is down (contract A0, A1, A6). The broken stack is its own."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx
import pytest

from local.azurite import Azurite
from local.redis_server import RedisServer
from local.stack import NO_TLS, Stack
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
    kept_task,
    new_endpoint,
    stored,
    upsert,
)
from tests.scripted_backend import ScriptedBackend
from tests.waiting import PATIENCE_S, eventually

T = TypeVar("T")

MAX_BODY_BYTES = 200_000


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory, azurite: Azurite, backend: ScriptedBackend) -> Iterator[Stack]:
    """Its reconciler, which gives a task up in time, runs only when a test has it run."""
    with Stack(
        tmp_path_factory.mktemp("fragile"),
        azurite=azurite,
        backends={"/v1/test": backend.url},
        with_model=False,
        settings={
            **IN_A_HURRY,
            "RECONCILER_SCHEDULE": "0 0 0 1 1 *",
            "RECONCILER_INTERVAL_S": str(365 * 86_400),
            "REPUBLISH_S": "1",
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
    fragile.redis.start()
    until_redis_is_found(fragile)


def until_redis_is_found(stack: Stack) -> None:
    address = f"{stack.url}/api/v1/health"
    eventually(lambda: httpx.get(address, timeout=PATIENCE_S, verify=NO_TLS).json()["Dependencies"]["Redis"] == "ok")


def reconciled_until(stack: Stack, condition: Callable[[], T]) -> T:
    """The first true value of *condition*, for which the reconciler is run again and again, and then no more."""

    def value() -> T:
        if not (found := condition()):
            stack.run_function("Reconciler")
        return found

    return eventually(value, every_s=0.2)


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
    assert_problem(fragile_app.post(UPSERT, json={"Status": [5]}), 400, "/Status")
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
    until_redis_is_found(fragile)
    assert stored(fragile_app, task["TaskId"]) == task
    new = upsert(fragile_app, Endpoint=endpoint.url, Body="after", PublishToGrid=True)
    reconciled_until(fragile, lambda: backend.untaken(endpoint.path))
    call = backend.next_call(endpoint.path)
    assert (call.task_id, call.body) == (new["TaskId"], b"after")
    upsert(fragile_app, TaskId=new["TaskId"], BackendStatus="completed")


@pytest.mark.contract("A1.30")
@pytest.mark.parametrize("name", ["Body", "Status"])
def test_body_or_status_over_the_size_limit_is_refused(
    fragile_app: httpx.Client, endpoint: Endpoint, name: str
) -> None:
    fits = kept_task(fragile_app, endpoint, **{name: "x" * MAX_BODY_BYTES})
    for request in ({"Endpoint": endpoint.url}, {"TaskId": fits["TaskId"]}):
        response = fragile_app.post(UPSERT, json={**request, name: "x" * (MAX_BODY_BYTES + 1)})
        assert_problem(response, 413)
    assert stored(fragile_app, fits["TaskId"]) == fits
