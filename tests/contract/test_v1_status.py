"""Status of a task (contract B2): cheap polling, and waiting for a change."""

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import azure.functions as func
import httpx
import pytest

from cache_manager.task_api import get_task
from local.redis_server import RedisCluster, RedisServer
from local.stack import NO_TLS, Stack
from shared.tasks.task import NewTask, State
from tests.cache_manager.process import Process
from tests.contract.v1_support import (
    ISO_TIME,
    TASK_KEYS,
    UNKNOWN_ID,
    assert_problem,
    keep,
    new_path,
    report,
    submit,
    task_of,
)
from tests.scripted_backend import ScriptedBackend
from tests.waiting import PATIENCE_S

Ask = Callable[..., Future[httpx.Response]]

SOONER_S = 50
"""Than a wait of a minute is over; and later than an overloaded machine needs to answer."""


@pytest.fixture
def ask(stack: Stack) -> Iterator[Ask]:
    """Asks for a task in a thread of its own, so that the test can change the task meanwhile."""
    with ThreadPoolExecutor(1) as thread, stack.client() as client:
        yield lambda task_id, **options: thread.submit(client.get, f"/api/v1/tasks/{task_id}", **options)


@pytest.fixture
def task_id(app: httpx.Client, backend: ScriptedBackend) -> str:
    return keep(app, backend)


def etag_of(app: httpx.Client, task_id: str) -> str:
    return app.get(f"/api/v1/tasks/{task_id}").headers["etag"]


@pytest.mark.contract("B2.1")
def test_status_is_the_task_with_etag_and_retry_after(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    task_id = keep(app, backend, path, Status="on its way", BackendStatus="running")
    response = app.get(f"/api/v1/tasks/{task_id}")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["etag"].startswith('"')
    assert response.headers["cache-control"] == "no-cache"
    assert int(response.headers["retry-after"]) >= 1
    task = response.json()
    assert task.keys() == TASK_KEYS
    assert ISO_TIME.fullmatch(task["Timestamp"])
    assert ISO_TIME.fullmatch(task["CreatedAt"])
    assert (task["TaskId"], task["EndpointPath"]) == (task_id, path)
    assert (task["Status"], task["BackendStatus"]) == ("on its way", "running")


@pytest.mark.contract("B2.2")
@pytest.mark.parametrize("outcome", ["completed", "failed"])
def test_finished_task_has_no_retry_after(outcome: str, app: httpx.Client, task_id: str) -> None:
    report(app, TaskId=task_id, BackendStatus=outcome)
    response = app.get(f"/api/v1/tasks/{task_id}")
    assert response.json()["BackendStatus"] == outcome
    assert "retry-after" not in response.headers


@pytest.mark.contract("B2.3")
@pytest.mark.parametrize("route", ["", "/history", "/result"])
@pytest.mark.parametrize("task_id", [UNKNOWN_ID, "x" * 129, "a%20b", "..%2f", "%C3%A4", "{id}", "*"])
def test_unknown_task_is_404_whatever_its_id_looks_like(task_id: str, route: str, app: httpx.Client) -> None:
    document = assert_problem(app.get(f"/api/v1/tasks/{task_id}{route}"), 404, "no-such-task")
    assert task_id not in document["detail"]


@pytest.mark.contract("B2.4")
def test_every_change_has_its_own_etag(app: httpx.Client, task_id: str) -> None:
    etags = [etag_of(app, task_id)]
    for update in (
        {"Status": "10 %"},
        {"Status": "20 %"},
        {"BackendStatus": "running"},
        {"BackendStatus": "running"},  # a heartbeat: it changes the Timestamp
        {"BackendStatus": "completed"},
    ):
        report(app, TaskId=task_id, **update)
        etags.append(etag_of(app, task_id))
    assert len(set(etags)) == len(etags)


@pytest.mark.contract("B2.4")
def test_request_that_changes_nothing_keeps_the_etag(app: httpx.Client, task_id: str) -> None:
    report(app, TaskId=task_id, BackendStatus="completed", Status="done")
    before = etag_of(app, task_id)
    report(app, TaskId=task_id, BackendStatus="completed", Status="done")
    app.post("/api/CacheConnectorUpsert", json={"TaskId": task_id, "BackendStatus": "running"})
    app.put(f"/api/v1/tasks/{task_id}/result", content=b"late")
    app.get(f"/api/v1/tasks/{task_id}?wait=0.05")
    assert etag_of(app, task_id) == before


@pytest.mark.contract("B2.5")
@pytest.mark.parametrize("known", ["{0}", "W/{0}", '"other", {0}', '{0} , "other"', "*"])
def test_known_etag_is_304_without_a_body(known: str, app: httpx.Client, task_id: str) -> None:
    etag = etag_of(app, task_id)
    response = app.get(f"/api/v1/tasks/{task_id}", headers={"If-None-Match": known.format(etag)})
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == etag
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.contract("B2.5")
@pytest.mark.parametrize("known", ['"other"', '"a", "b"', "", '"', "nonsense"])
def test_unknown_etag_is_200(known: str, app: httpx.Client, task_id: str) -> None:
    response = app.get(f"/api/v1/tasks/{task_id}", headers={"If-None-Match": known})
    assert response.status_code == 200
    assert response.json()["TaskId"] == task_id


@pytest.mark.contract("B2.5")
def test_outdated_etag_is_200_with_the_new_one(app: httpx.Client, task_id: str) -> None:
    before = etag_of(app, task_id)
    report(app, TaskId=task_id, Status="further")
    response = app.get(f"/api/v1/tasks/{task_id}", headers={"If-None-Match": before})
    assert response.status_code == 200
    assert response.json()["Status"] == "further"
    assert response.headers["etag"] != before


@pytest.mark.contract("B2.6")
@pytest.mark.parametrize("known", ["{0}", "W/{0}", '{0}, "older"'])
def test_wait_with_an_etag_answers_at_the_next_change(known: str, app: httpx.Client, task_id: str, ask: Ask) -> None:
    etag = known.format(etag_of(app, task_id))
    answer = ask(task_id, params={"wait": 60}, headers={"If-None-Match": etag})
    for _ in range(5):
        task_of(app, task_id)  # gives the wait time to begin; the test holds either way
    report(app, TaskId=task_id, Status="further")
    response = answer.result(SOONER_S)
    assert response.status_code == 200
    assert response.json()["Status"] == "further"


@pytest.mark.contract("B2.6")
def test_wait_without_an_etag_answers_at_the_next_change(app: httpx.Client, task_id: str, ask: Ask) -> None:
    answer = ask(task_id, params={"wait": 60})
    updates = 0
    while not answer.done():
        updates += 1
        report(app, TaskId=task_id, Status=f"{updates}")
    assert answer.result().status_code == 200
    assert 1 <= int(answer.result().json()["Status"]) <= updates


@pytest.mark.contract("B2.6")
def test_wait_for_a_change_that_has_happened_answers_at_once(app: httpx.Client, task_id: str) -> None:
    before = etag_of(app, task_id)
    report(app, TaskId=task_id, Status="further")
    response = app.get(
        f"/api/v1/tasks/{task_id}", params={"wait": 60}, headers={"If-None-Match": before}, timeout=SOONER_S
    )
    assert response.status_code == 200
    assert response.json()["Status"] == "further"


@pytest.mark.contract("B2.65")
def test_a_heartbeat_ends_no_wait(app: httpx.Client, task_id: str, ask: Ask) -> None:
    report(app, TaskId=task_id, BackendStatus="running", Status="on it")
    etag = etag_of(app, task_id)
    answer = ask(task_id, params={"wait": 60}, headers={"If-None-Match": etag})
    for _ in range(5):
        assert app.post(f"/api/v1/tasks/{task_id}/heartbeat").status_code == 200
        report(app, TaskId=task_id, BackendStatus="running", Status="on it")
    assert etag_of(app, task_id) != etag
    report(app, TaskId=task_id, BackendStatus="completed", Status="done")
    # If the wait began after a heartbeat, it was answered at once.
    assert answer.result(SOONER_S).json()["Status"] in ("on it", "done")


@pytest.mark.contract("B2.7")
def test_wait_without_a_change_answers_the_task_as_it_is(app: httpx.Client, task_id: str) -> None:
    etag = etag_of(app, task_id)
    without = app.get(f"/api/v1/tasks/{task_id}", params={"wait": 0.1})
    assert (without.status_code, without.json()) == (200, task_of(app, task_id))
    known = app.get(f"/api/v1/tasks/{task_id}", params={"wait": 0.1}, headers={"If-None-Match": etag})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", etag)


@pytest.mark.contract("B2.8")
@pytest.mark.parametrize("wait", ["60", "999999"])
def test_wait_for_a_finished_task_answers_at_once(wait: str, app: httpx.Client, task_id: str) -> None:
    report(app, TaskId=task_id, BackendStatus="completed")
    etag = etag_of(app, task_id)
    address, query = f"/api/v1/tasks/{task_id}", {"wait": wait}
    assert app.get(address, params=query, timeout=SOONER_S).status_code == 200
    assert app.get(address, params=query, headers={"If-None-Match": etag}, timeout=SOONER_S).status_code == 304
    assert app.get(address, params=query, headers={"If-None-Match": '"old"'}, timeout=SOONER_S).status_code == 200


@pytest.mark.contract("B2.8")
@pytest.mark.parametrize("wait", ["0", "0.000", ""])
def test_wait_of_0_answers_at_once(wait: str, app: httpx.Client, task_id: str) -> None:
    assert app.get(f"/api/v1/tasks/{task_id}?wait={wait}", timeout=SOONER_S).json()["TaskId"] == task_id


@pytest.mark.contract("B2.9")
@pytest.mark.parametrize(
    "wait",
    ["-1", "soon", "1s", "1e3", "NaN", "Infinity", "0x10", "1,5", "%20", "%2B1", "1.2345", "9999999", "%D9%A3"],
)
def test_malformed_wait_is_refused_and_named(wait: str, app: httpx.Client, task_id: str) -> None:
    assert_problem(app.get(f"/api/v1/tasks/{task_id}?wait={wait}"), 400, "invalid-request", field="wait")


@pytest.mark.contract("B2.10")
def test_hundred_waiting_callers_all_get_the_change(app: httpx.Client, task_id: str, stack: Stack) -> None:
    etag = etag_of(app, task_id)

    def wait(client: httpx.Client) -> httpx.Response:
        return client.get(f"/api/v1/tasks/{task_id}", params={"wait": 60}, headers={"If-None-Match": etag})

    limits = httpx.Limits(max_connections=100)
    headers = {"x-functions-key": stack.key}
    with (
        httpx.Client(base_url=stack.url, headers=headers, timeout=PATIENCE_S, verify=NO_TLS, limits=limits) as client,
        ThreadPoolExecutor(100) as crowd,
    ):
        answers = [crowd.submit(wait, client) for _ in range(100)]
        report(app, TaskId=task_id, BackendStatus="completed", Status="done")
        assert {answer.result().json()["Status"] for answer in answers} == {"done"}


@pytest.mark.contract("B2.34")
@pytest.mark.parametrize(
    ("ran_s", "silent_s", "expected"), [(0, 0, 1), (0, 40, 4), (0, 3600, 30), (60, 0, 6), (60, 100, 16), (600, 0, 30)]
)
async def test_retry_after_grows_while_a_task_is_silent(
    ran_s: int, silent_s: int, expected: int, redis_server: RedisServer | RedisCluster
) -> None:
    now_ms = time.time_ns() // 1_000_000
    process = Process.start(redis_server.url, lambda: now_ms)
    path = new_path()
    new = NewTask(uuid.uuid4().hex, path, 600, state=State.RUNNING, dispatch_requested=False)
    await process.store.create(new)
    now_ms += ran_s * 1000
    await process.store.update(new.id, state=State.RUNNING, status="further on")
    now_ms += silent_s * 1000
    request = func.HttpRequest("GET", "http://127.0.0.1/api/v1/tasks/x", route_params={"id": new.id}, body=b"")
    answer = await get_task(request, process.services)
    await process.services.aclose()
    assert answer.status_code == 200
    assert answer.headers["Retry-After"] == str(expected)


@pytest.mark.contract("B2.35")
def test_task_in_a_paused_queue_says_to_ask_again_in_30_s(app: httpx.Client) -> None:
    path = new_path()
    app.patch(f"/api/v1/queues{path}", json={"Paused": True}).raise_for_status()
    submitted = submit(app, path)
    assert (submitted.status_code, submitted.headers["retry-after"]) == (202, "30")
    assert app.get(f"/api/v1/tasks/{submitted.json()['TaskId']}").headers["retry-after"] == "30"
    app.patch(f"/api/v1/queues{path}", json={"Paused": False}).raise_for_status()
    ended_or_not = app.get(f"/api/v1/tasks/{submitted.json()['TaskId']}").headers.get("retry-after")
    assert ended_or_not != "30"
