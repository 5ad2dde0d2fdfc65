"""A1, last rows: what clients get while Redis or Event Grid is away. The stack that is broken here is its own."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import httpx
import pytest

from local.azurite import Azurite
from local.redis_server import RedisServer
from local.stack import Stack
from tests.conftest import IN_A_HURRY
from tests.contract.part_a import (
    DELIVERY,
    GET,
    REPORT,
    REPORTED,
    TOPIC_ID,
    UPSERT,
    WEBHOOK,
    Place,
    assert_problem,
    finished,
    kept_task,
    new_place,
    stored,
    upsert,
)
from tests.scripted_backend import ScriptedBackend
from tests.waiting import PATIENCE_S, eventually

T = TypeVar("T")

MAX_BODY_BYTES = 200_000
MAX_ATTEMPTS = 3


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
            "REPUBLISH_S": "1",
            "MAX_ATTEMPTS": str(MAX_ATTEMPTS),
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
    eventually(lambda: httpx.get(address, timeout=PATIENCE_S).json()["Dependencies"]["Redis"] == "ok")


def reconciled_until(stack: Stack, condition: Callable[[], T]) -> T:
    """The first true value of *condition*, for which the reconciler is run again and again, and then no more."""

    def value() -> T:
        if not (found := condition()):
            stack.run_function("Reconciler")
        return found

    return eventually(value, every_s=0.2)


@pytest.fixture
def place(backend: ScriptedBackend) -> Place:
    return new_place(backend)


CALLS: dict[str, Callable[[httpx.Client, Place], httpx.Response]] = {
    "create": lambda app, place: app.post(UPSERT, json={"Endpoint": place.url, "Body": "{}", "PublishToGrid": True}),
    "update": lambda app, place: app.post(UPSERT, json={"TaskId": "a", "BackendStatus": "running"}),
    "get": lambda app, place: app.get(GET, params={"taskId": "a"}),
    "report": lambda app, place: app.post(REPORT, json={"ApiPath": "/a", "ServiceCluster": "c", "IncrementBy": 1}),
    "reported": lambda app, place: app.get(REPORTED, params={"cluster": "c", "path": "/a"}),
    "dispatch": lambda app, place: app.post(
        WEBHOOK,
        json=[{"topic": TOPIC_ID, "eventType": "backbone.task.dispatch", "data": {"TaskId": "a", "Attempt": 1}}],
        headers=DELIVERY,
    ),
    "classic event": lambda app, place: app.post(
        WEBHOOK,
        json=[{"topic": TOPIC_ID, "id": "a", "eventType": "task", "subject": place.url, "data": "{}"}],
        headers=DELIVERY,
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.usefixtures("without_redis")
def test_without_redis_the_answer_is_503_and_when_to_come_back(
    fragile: Stack, fragile_app: httpx.Client, place: Place, call: Callable[[httpx.Client, Place], httpx.Response]
) -> None:
    response = call(fragile_app, place)
    assert_problem(response, 503)
    assert int(response.headers["Retry-After"]) > 0
    assert fragile.redis.url.removeprefix("redis://") not in response.text


@pytest.mark.usefixtures("without_redis")
def test_without_redis_a_delivery_comes_again_even_if_one_of_its_events_never_will_do(
    fragile_app: httpx.Client,
) -> None:
    dispatch = {"topic": TOPIC_ID, "eventType": "backbone.task.dispatch", "data": {"TaskId": "a", "Attempt": 1}}
    response = fragile_app.post(WEBHOOK, json=[dispatch, {"topic": TOPIC_ID, "eventType": "other"}], headers=DELIVERY)
    assert assert_problem(response, 503)["results"] == ["unavailable", "invalid"]


@pytest.mark.usefixtures("without_redis")
def test_without_redis_a_bad_request_is_still_told_as_one(fragile_app: httpx.Client) -> None:
    assert_problem(fragile_app.post(UPSERT, json={"Status": 5}), 400, "/Status")
    assert_problem(fragile_app.get(GET), 400, "taskId")


def test_when_redis_is_back_everything_goes_on(
    fragile: Stack, fragile_app: httpx.Client, backend: ScriptedBackend, place: Place
) -> None:
    task = kept_task(fragile_app, place)
    assert isinstance(fragile.redis, RedisServer)
    fragile.redis.stop()
    try:
        assert_problem(fragile_app.get(GET, params={"taskId": task["TaskId"]}), 503)
    finally:
        fragile.redis.start()
    until_redis_is_found(fragile)
    assert stored(fragile_app, task["TaskId"]) == task
    new = upsert(fragile_app, Endpoint=place.url, Body="after", PublishToGrid=True)
    reconciled_until(fragile, lambda: backend.untaken(place.path))
    call = backend.next_call(place.path)
    assert (call.task_id, call.body) == (new["TaskId"], b"after")
    upsert(fragile_app, TaskId=new["TaskId"], BackendStatus="completed")


@pytest.fixture
def event_grid_refuses(fragile: Stack) -> Iterator[Callable[[dict[str, Any]], None]]:
    # 501 is none of the answers that the publisher itself tries again.
    yield lambda more: fragile.set_faults({"refusePublish": {"status": 501, **more}})
    fragile.set_faults({})


def created_while_refused(app: httpx.Client, place: Place) -> str:
    task = upsert(app, Endpoint=place.url, Status="created", BackendStatus="created", Body="{}", PublishToGrid=True)
    assert (task["BackendStatus"], task["Status"], task["PublishToGrid"]) == ("created", "created", True)
    return task["TaskId"]


def test_a_task_that_event_grid_takes_at_the_last_attempt_has_not_failed(
    fragile_app: httpx.Client,
    backend: ScriptedBackend,
    place: Place,
    event_grid_refuses: Callable[[dict[str, Any]], None],
    fragile: Stack,
) -> None:
    def published() -> int:
        address = f"{fragile.event_grid_url}/control/stats"
        return httpx.get(address, timeout=PATIENCE_S).raise_for_status().json()["published"]

    before = published()
    event_grid_refuses({"next": MAX_ATTEMPTS - 1})
    task_id = created_while_refused(fragile_app, place)
    reconciled_until(fragile, lambda: published() > before)
    assert backend.next_call(place.path).task_id == task_id
    upsert(fragile_app, TaskId=task_id, BackendStatus="completed", Status="completed")


def test_a_task_that_event_grid_never_takes_fails_after_the_last_attempt_and_says_so(
    fragile_app: httpx.Client,
    backend: ScriptedBackend,
    place: Place,
    event_grid_refuses: Callable[[dict[str, Any]], None],
    fragile: Stack,
) -> None:
    event_grid_refuses({})
    task_id = created_while_refused(fragile_app, place)
    reconciled_until(fragile, lambda: (stored(fragile_app, task_id) or {})["BackendStatus"] != "created")
    task = finished(fragile_app, task_id)
    assert task["BackendStatus"] == "failed"
    assert task["Status"] == "Failed - unable to send to backend service."
    assert backend.untaken(place.path) == 0


def test_a_body_over_the_size_limit_is_refused(fragile_app: httpx.Client, place: Place) -> None:
    fits = kept_task(fragile_app, place, Body="x" * MAX_BODY_BYTES)
    for request in ({"Endpoint": place.url}, {"TaskId": fits["TaskId"]}):
        response = fragile_app.post(UPSERT, json={**request, "Body": "x" * (MAX_BODY_BYTES + 1)})
        assert_problem(response, 413)
    assert stored(fragile_app, fits["TaskId"]) == fits
