"""Body limits, outages of the dependencies, and health (contract B0 and B12)."""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from azure.storage.blob import ContainerClient

from local.azurite import Azurite
from local.processes import ChildProcess
from local.redis_server import RedisServer
from local.stack import NO_TLS, Stack
from tests.conftest import IN_A_HURRY
from tests.contract.v1_support import (
    INLINE_LIMIT_BYTES,
    UNKNOWN_ID,
    all_queues,
    assert_problem,
    complete_on_call,
    ended,
    keep,
    new_path,
    pattern_bytes,
    report,
    submit,
    task_of,
)
from tests.scripted_backend import Answer, ScriptedBackend
from tests.secrecy import planted
from tests.waiting import PATIENCE_S, eventually

MAX_BODY_BYTES = 100_000
PASSWORD = planted("redis-password")
LARGE = pattern_bytes(INLINE_LIMIT_BYTES + 1)
ALL_OK = {"Redis": "ok", "BlobStorage": "ok", "EventGrid": "ok", "Backends": "ok", "Eviction": "ok"}


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory, backend: ScriptedBackend) -> Iterator[Stack]:
    """A stack with its own parts, which a test may stop and start, and with a low body limit."""
    directory = tmp_path_factory.mktemp("fragile")
    with (
        RedisServer(directory / "redis", password=PASSWORD) as redis,
        Stack(
            directory,
            redis=redis,
            backends={"/v1/test": backend.url},
            with_model=False,
            settings=IN_A_HURRY | {"MAX_BODY_BYTES": str(MAX_BODY_BYTES), "MAX_WAITS": "1"},
        ) as stack,
    ):
        yield stack


@pytest.fixture
def app(fragile: Stack) -> Iterator[httpx.Client]:
    with fragile.client() as client:
        yield client


@contextmanager
def without(stack: Stack, part: object) -> Iterator[None]:
    """Stop *part*; at the end, start it and wait until the app has found it again."""
    assert isinstance(part, ChildProcess)
    part.stop()
    try:
        yield
    finally:
        part.start()
    if part is not stack.event_grid:  # the app finds it by its next event
        eventually(lambda: health(stack)[2].items() >= {"Redis": "ok", "BlobStorage": "ok"}.items())


def health(stack: Stack) -> tuple[int, str, dict[str, str]]:
    """The status code, status and dependencies of a health request without a key."""
    response = httpx.get(f"{stack.url}/api/v1/health", timeout=PATIENCE_S, verify=NO_TLS)
    assert response.headers["content-type"] == "application/json"
    assert_no_secrets(response, stack)
    document = response.json()
    assert document.keys() == {"Status", "Dependencies", "MaxBodyBytes", "MaxUploadBytes", "HostBodyBytes"}
    return response.status_code, document["Status"], document["Dependencies"]


def becomes(stack: Stack, *expected: object) -> bool:
    """Whether health reports what is expected in the end: an overloaded machine may delay an answer."""
    return eventually(lambda: health(stack) == expected)


def assert_no_secrets(response: httpx.Response, stack: Stack) -> None:
    assert isinstance(stack.redis, RedisServer)
    exposed = response.text + str(response.headers)
    for secret in (
        PASSWORD,
        stack.key,
        str(stack.redis.port),
        str(stack.azurite.blob_port),
        "devstoreaccount",
        "://",
    ):
        assert secret not in exposed


def publish_something(app: httpx.Client, backend: ScriptedBackend, stack: Stack) -> None:
    """Let the app learn the state of Event Grid."""

    def is_known() -> bool:
        path = new_path()
        complete_on_call(stack, backend, path)
        ended(app, submit(app, path).json()["TaskId"])
        return health(stack)[2]["EventGrid"] == "ok"

    eventually(is_known)


@pytest.mark.contract("B0.8")
def test_body_at_the_size_limit_is_accepted(app: httpx.Client, backend: ScriptedBackend) -> None:
    path, body = new_path(), pattern_bytes(MAX_BODY_BYTES)
    assert submit(app, path, body).status_code == 202
    assert backend.next_call(path).body == body


@pytest.mark.contract("B0.8")
@pytest.mark.parametrize("surplus_bytes", [1, 2_000_000])
def test_body_over_the_size_limit_is_413_and_creates_no_task(surplus_bytes: int, app: httpx.Client) -> None:
    path = new_path()
    document = assert_problem(submit(app, path, bytes(MAX_BODY_BYTES + surplus_bytes)), 413, "too-large")
    assert str(MAX_BODY_BYTES) in document["detail"]
    assert path not in all_queues(app)


@pytest.mark.contract("B0.8")
def test_result_over_the_size_limit_is_413_and_keeps_the_earlier_result(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    address = f"/api/v1/tasks/{keep(app, backend)}/result"
    assert app.put(address, content=pattern_bytes(MAX_BODY_BYTES)).status_code == 200
    assert_problem(app.put(address, content=bytes(MAX_BODY_BYTES + 1)), 413, "too-large")
    assert app.get(address).content == pattern_bytes(MAX_BODY_BYTES)


@pytest.mark.contract("B12.1")
def test_health_is_ok_when_all_dependencies_answer(
    app: httpx.Client, backend: ScriptedBackend, fragile: Stack
) -> None:
    publish_something(app, backend, fragile)
    assert becomes(fragile, 200, "ok", ALL_OK)


@pytest.mark.contract("B1.44", "B12.26")
def test_health_and_accepted_submits_say_what_the_limits_to_bodies_are(app: httpx.Client) -> None:
    document = app.get("/api/v1/health").json()
    assert document["MaxBodyBytes"] == MAX_BODY_BYTES
    assert document["HostBodyBytes"] == 400 * 100 * 1024**2, "as host.json and the Functions host allow"
    assert submit(app, new_path()).json()["MaxBodyBytes"] == MAX_BODY_BYTES


@pytest.mark.contract("B12.2")
def test_health_is_503_while_redis_is_down(app: httpx.Client, backend: ScriptedBackend, fragile: Stack) -> None:
    publish_something(app, backend, fragile)
    with without(fragile, fragile.redis):
        assert becomes(
            fragile,
            503,
            "unavailable",
            ALL_OK | {"Redis": "unavailable", "Backends": "unknown", "Eviction": "unknown"},
        )
    assert becomes(fragile, 200, "ok", ALL_OK)


@pytest.mark.contract("B12.3")
def test_health_is_degraded_while_blob_storage_is_down(
    app: httpx.Client, backend: ScriptedBackend, fragile: Stack
) -> None:
    publish_something(app, backend, fragile)
    with without(fragile, fragile.azurite):
        assert becomes(fragile, 200, "degraded", ALL_OK | {"BlobStorage": "unavailable"})
    assert becomes(fragile, 200, "ok", ALL_OK)


@pytest.mark.contract("B12.4")
def test_health_is_degraded_while_event_grid_is_down_and_tasks_run(
    app: httpx.Client, backend: ScriptedBackend, fragile: Stack
) -> None:
    path = new_path()
    complete_on_call(fragile, backend, path)
    with without(fragile, fragile.event_grid):
        response = submit(app, path, b"{}", idempotency_key="k")
        assert response.status_code == 202
        assert response.json()["BackendStatus"] == "created"
        assert becomes(fragile, 200, "degraded", ALL_OK | {"EventGrid": "unavailable"})
        assert ended(app, response.json()["TaskId"])["BackendStatus"] == "completed"
    publish_something(app, backend, fragile)
    assert becomes(fragile, 200, "ok", ALL_OK)


@pytest.mark.contract("B12.6")
def test_health_is_degraded_while_events_stay_unclaimed_and_tasks_run(
    app: httpx.Client, backend: ScriptedBackend, fragile: Stack
) -> None:
    fragile.set_faults({"loseDelivery": {}})
    try:
        for _ in range(3):
            path = new_path()
            complete_on_call(fragile, backend, path)
            assert ended(app, submit(app, path).json()["TaskId"])["BackendStatus"] == "completed"
            assert becomes(fragile, 200, "degraded", ALL_OK | {"EventGrid": "unavailable"})
    finally:
        fragile.set_faults({})
    publish_something(app, backend, fragile)
    assert becomes(fragile, 200, "ok", ALL_OK)


REQUESTS: dict[str, Callable[[httpx.Client, str], httpx.Response]] = {
    "submit": lambda app, task_id: submit(app, new_path()),
    "submit and wait": lambda app, task_id: submit(app, new_path(), prefer="wait=5"),
    "status": lambda app, task_id: app.get(f"/api/v1/tasks/{task_id}"),
    "wait": lambda app, task_id: app.get(f"/api/v1/tasks/{task_id}?wait=5"),
    "history": lambda app, task_id: app.get(f"/api/v1/tasks/{task_id}/history"),
    "result": lambda app, task_id: app.get(f"/api/v1/tasks/{task_id}/result"),
    "put result": lambda app, task_id: app.put(f"/api/v1/tasks/{task_id}/result", content=b"x"),
    "queue": lambda app, task_id: app.get("/api/v1/queues/v1/test"),
    "queues": lambda app, task_id: app.get("/api/v1/queues"),
}


@pytest.mark.contract("B0.4")
def test_every_request_is_503_and_changes_nothing_while_redis_is_down(
    app: httpx.Client, backend: ScriptedBackend, fragile: Stack
) -> None:
    task_id = keep(app, backend)
    before = task_of(app, task_id)
    with without(fragile, fragile.redis):
        for request in REQUESTS.values():
            response = request(app, task_id)
            assert_problem(response, 503, "unavailable")
            assert int(response.headers["retry-after"]) >= 1
            assert_no_secrets(response, fragile)
    assert task_of(app, task_id) == before


@pytest.mark.contract("B0.5")
def test_bad_requests_get_the_same_4xx_while_redis_is_down(app: httpx.Client, fragile: Stack) -> None:
    with without(fragile, fragile.redis):
        assert_problem(submit(app, "/v1/unheard-of"), 404, "unknown-endpoint")
        assert_problem(submit(app, new_path(), bytes(MAX_BODY_BYTES + 1)), 413, "too-large")
        assert_problem(submit(app, new_path(), idempotency_key=""), 400, "invalid-request", field="Idempotency-Key")


@pytest.mark.contract("A1.34", "A1.38", "B0.6")
def test_large_bodies_are_503_and_small_ones_accepted_while_blob_storage_is_down(
    app: httpx.Client, backend: ScriptedBackend, fragile: Stack
) -> None:
    small, large = keep(app, backend), keep(app, backend)
    app.put(f"/api/v1/tasks/{large}/result", content=LARGE).raise_for_status()
    long_status = "y" * len(LARGE)
    long = keep(app, backend, Status=long_status)
    with without(fragile, fragile.azurite):
        publish_something(app, backend, fragile)
        assert app.put(f"/api/v1/tasks/{small}/result", content=b"small").status_code == 200
        assert app.get(f"/api/v1/tasks/{small}/result").content == b"small"

        path = new_path()
        for response in (
            submit(app, path, LARGE),
            app.put(f"/api/v1/tasks/{small}/result", content=LARGE),
            app.get(f"/api/v1/tasks/{large}/result"),
            app.post("/api/CacheConnectorUpsert", json={"Endpoint": backend.url + path, "Body": "x" * len(LARGE)}),
            app.post("/api/CacheConnectorUpsert", json={"TaskId": small, "Status": long_status}),
            app.get("/api/CacheConnectorGet", params={"taskId": long}),
            app.get(f"/api/v1/tasks/{long}"),
        ):
            assert_problem(response, 503, "unavailable")
            assert int(response.headers["retry-after"]) >= 1
            assert_no_secrets(response, fragile)
        assert app.get(f"/api/v1/queues{path}").json()["Waiting"] == 0
        assert app.get(f"/api/v1/tasks/{small}/result").content == b"small"
        assert task_of(app, large)["ResultSize"] == len(LARGE)
        report(app, TaskId=large, BackendStatus="completed")
        # The report counts, whatever the app can show.
        assert report(app, TaskId=long, BackendStatus="completed")["Status"] == long_status[:1_024]
    assert task_of(app, long)["Status"] == long_status
    assert app.get(f"/api/v1/tasks/{large}/result").content == LARGE


@pytest.mark.contract("B0.7")
def test_large_task_waits_for_blob_storage_before_its_dispatch(
    app: httpx.Client, backend: ScriptedBackend, fragile: Stack
) -> None:
    path = new_path()
    complete_on_call(fragile, backend, path)
    fragile.event_grid.stop()
    try:
        task_id = submit(app, path, LARGE).json()["TaskId"]
        with without(fragile, fragile.azurite):
            fragile.event_grid.start()
            status = ""
            while status != "Awaiting the request body":
                task = app.get(f"/api/v1/tasks/{task_id}?wait=30").json()
                status = task["Status"]
                assert task["BackendStatus"] in ("created", "dispatched"), "it waits, or an attempt is under way"
    finally:
        if not fragile.event_grid.is_running:
            fragile.event_grid.start()
    assert ended(app, task_id)["BackendStatus"] == "completed"
    assert backend.next_call(path).body == LARGE


@pytest.mark.contract("B15.6")
def test_an_answer_with_a_large_result_waits_for_blob_storage(
    app: httpx.Client, backend: ScriptedBackend, fragile: Stack
) -> None:
    path = new_path()
    backend.script(path, Answer(headers={"X-Task-Complete": ""}, body=LARGE))
    with without(fragile, fragile.azurite):
        task_id = submit(app, path).json()["TaskId"]
        eventually(lambda: task_of(app, task_id)["Status"] == "Awaiting room for the result")
        assert task_of(app, task_id)["BackendStatus"] == "created"
    assert ended(app, task_id)["BackendStatus"] == "completed"
    assert app.get(f"/api/v1/tasks/{task_id}/result").content == LARGE


@pytest.mark.contract("B15.5")
def test_an_answer_with_too_large_a_result_fails_the_task(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    backend.script(path, Answer(headers={"X-Task-Complete": ""}, body=bytes(MAX_BODY_BYTES + 1)))
    task = ended(app, submit(app, path).json()["TaskId"])
    expected = f"Failed - the backend answered with more than {MAX_BODY_BYTES} bytes."
    assert (task["BackendStatus"], task["Status"], task["Attempt"]) == ("failed", expected, 1)


@pytest.mark.contract("B0.9")
@pytest.mark.parametrize("left", [None, LARGE[:-1], LARGE + b"x"], ids=["gone", "shorter", "longer"])
def test_task_whose_stored_body_is_not_what_it_was_fails(
    left: bytes | None, app: httpx.Client, backend: ScriptedBackend, fragile: Stack
) -> None:
    path = new_path()
    app.patch(f"/api/v1/queues{path}", json={"Paused": True}).raise_for_status()
    task_id = submit(app, path, LARGE).json()["TaskId"]
    with ContainerClient.from_connection_string(fragile.azurite.connection_string, "task-backbone") as container:
        [blob] = container.list_blob_names(name_starts_with=f"t-{task_id}/")
        container.delete_blob(blob) if left is None else container.upload_blob(blob, left, overwrite=True)
    app.patch(f"/api/v1/queues{path}", json={"Paused": False}).raise_for_status()
    task = ended(app, task_id)
    assert (task["BackendStatus"], task["Status"]) == ("failed", "Failed - the request body is gone.")
    assert backend.untaken(path) == 0


@pytest.mark.contract("B2.64")
def test_over_max_waits_the_oldest_wait_is_answered(app: httpx.Client, backend: ScriptedBackend) -> None:
    task_id = keep(app, backend)

    def wait() -> Future[httpx.Response]:
        return threads.submit(app.get, f"/api/v1/tasks/{task_id}", params={"wait": 60})

    with ThreadPoolExecutor(2) as threads:
        waits = [wait(), wait()]
        [cut] = eventually(lambda: [each for each in waits if each.done()])
        assert (cut.result().status_code, cut.result().json()["BackendStatus"]) == (200, "created")
        assert int(cut.result().headers["retry-after"]) >= 1
        report(app, TaskId=task_id, BackendStatus="completed")
        assert sorted(each.result().json()["BackendStatus"] for each in waits) == ["completed", "created"]


@pytest.mark.contract("B15.14")
@pytest.mark.parametrize("fast", ["/v1/fast", "/v1/slow/fast"], ids=["with its own entry", "behind the same one"])
def test_a_service_that_is_slow_to_take_its_tasks_leaves_others_their_share(
    fast: str, tmp_path: Path, azurite: Azurite
) -> None:
    taken = threading.Event()
    with (
        ScriptedBackend() as backend,
        Stack(
            tmp_path / "stack",
            backends={"/v1/slow": backend.url, "/v1/fast": backend.url},
            with_model=False,
            azurite=azurite,
            settings={"MAX_DISPATCHES": "32"},
        ) as stack,
        stack.client() as app,
    ):
        slow = [f"/v1/slow/slow/{number}" for number in range(50)]  # as many as it may have, and more
        for path in slow:
            backend.script(path, Answer(hold=taken, headers={"X-Task-Complete": ""}))
        backend.script(fast, Answer(headers={"X-Task-Complete": ""}))
        try:
            submitted = [submit(app, path).json()["TaskId"] for path in slow]
            full = "Awaiting a free dispatcher"
            eventually(lambda: full in [task_of(app, task_id)["Status"] for task_id in submitted])
            assert ended(app, submit(app, fast).json()["TaskId"])["BackendStatus"] == "completed"
            assert not any(task_of(app, task_id)["BackendStatus"] == "completed" for task_id in submitted)
        finally:
            taken.set()


@pytest.mark.contract("B28.17", "B28.28")
def test_without_redis_many_tasks_are_neither_taken_nor_waited_for(app: httpx.Client, fragile: Stack) -> None:
    path = new_path()
    lines = b"".join(b'{"Body": %d, "IdempotencyKey": "k%d"}\n' % (number, number) for number in range(60))
    request = {"TaskIds": [UNKNOWN_ID], "Seconds": 1}
    with without(fragile, fragile.redis):
        refused = app.post(f"/api/v1/submit-many{path}", content=lines, timeout=PATIENCE_S)
        document = assert_problem(refused, 503, "unavailable")
        assert [outcome["StatusCode"] for outcome in document["Outcomes"]] == [503] * 60
        assert int(refused.headers["retry-after"]) == document["Outcomes"][0]["RetryAfterSeconds"]
        assert_problem(app.post("/api/v1/tasks/wait", json=request), 503, "unavailable")
    taken = [
        app.post(f"/api/v1/submit-many{path}", content=lines, timeout=PATIENCE_S).raise_for_status().text
        for _ in range(2)
    ]
    assert taken[0].count('"StatusCode":202') == 60
    assert len(set(re.findall('"TaskId":"[^"]*"', taken[0]))) == 60
    assert re.findall('"TaskId":"[^"]*"', taken[0]) == re.findall('"TaskId":"[^"]*"', taken[1])


@pytest.mark.contract("B28.16")
def test_without_blob_storage_only_large_lines_are_refused(app: httpx.Client, fragile: Stack) -> None:
    lines = b'{"Body": 1}\n{"Body": "%b"}\n{"Body": 2}\n' % (b"x" * (INLINE_LIMIT_BYTES + 1))
    with without(fragile, fragile.azurite):
        answer = app.post(f"/api/v1/submit-many{new_path()}", content=lines, timeout=PATIENCE_S).raise_for_status()
    assert re.findall('"StatusCode":([0-9]+)', answer.text) == ["202", "503", "202"]


@pytest.mark.contract("B28.28")
def test_a_wait_for_many_goes_on_while_redis_is_silent(
    app: httpx.Client, backend: ScriptedBackend, fragile: Stack
) -> None:
    task_id = keep(app, backend)
    request = {"TaskIds": [task_id], "Seconds": 60, "Known": {}}
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(app.post, "/api/v1/tasks/wait", json=request, timeout=PATIENCE_S)
        with without(fragile, fragile.redis):
            pass
        report(app, TaskId=task_id, BackendStatus="completed", Status="done")
        answer = wait.result(PATIENCE_S)
    # It may have met the silence as it began.
    assert answer.status_code == 503 or [each["Task"]["TaskId"] for each in answer.json()["Tasks"]] == [task_id]
