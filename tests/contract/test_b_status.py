"""Status: polling that costs little, and waiting that polls nothing."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest

from local.stack import Stack
from tests.contract.part_b import (
    ISO_TIME,
    TASK_KEYS,
    UNKNOWN_ID,
    assert_problem,
    keep,
    new_path,
    report,
    task_of,
)
from tests.scripted_backend import ScriptedBackend
from tests.waiting import PATIENCE_S

Ask = Callable[..., Future[httpx.Response]]

SOONER_S = 50
"""Than a wait of a minute is over; and later than an overloaded machine needs to answer."""


@pytest.fixture
def ask(stack: Stack) -> Iterator[Ask]:
    """Asks for a task in a thread of its own, so that something may happen meanwhile."""
    with ThreadPoolExecutor(1) as thread, stack.client() as client:
        yield lambda task_id, **options: thread.submit(client.get, f"/api/v1/tasks/{task_id}", **options)


@pytest.fixture
def task_id(app: httpx.Client, backend: ScriptedBackend) -> str:
    return keep(app, backend)


def etag_of(app: httpx.Client, task_id: str) -> str:
    return app.get(f"/api/v1/tasks/{task_id}").headers["etag"]


def test_the_status_is_the_task_with_its_etag_and_when_to_ask_again(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
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


@pytest.mark.parametrize("outcome", ["completed", "failed"])
def test_a_task_that_has_ended_is_not_to_be_asked_for_again(outcome: str, app: httpx.Client, task_id: str) -> None:
    report(app, TaskId=task_id, BackendStatus=outcome)
    response = app.get(f"/api/v1/tasks/{task_id}")
    assert response.json()["BackendStatus"] == outcome
    assert "retry-after" not in response.headers


@pytest.mark.parametrize("route", ["", "/history", "/result"])
@pytest.mark.parametrize("task_id", [UNKNOWN_ID, "x" * 129, "a%20b", "..%2f", "%00", "%C3%A4", "{id}", "*"])
def test_an_unknown_task_is_404_whatever_its_id_looks_like(task_id: str, route: str, app: httpx.Client) -> None:
    document = assert_problem(app.get(f"/api/v1/tasks/{task_id}{route}"), 404, "no-such-task")
    assert task_id not in document["detail"]


def test_every_change_has_an_etag_of_its_own(app: httpx.Client, task_id: str) -> None:
    etags = [etag_of(app, task_id)]
    for update in (
        {"Status": "10 %"},
        {"Status": "20 %"},
        {"BackendStatus": "running"},
        {"BackendStatus": "running"},  # a heartbeat: its Timestamp is another
        {"BackendStatus": "completed"},
    ):
        report(app, TaskId=task_id, **update)
        etags.append(etag_of(app, task_id))
    assert len(set(etags)) == len(etags)


def test_what_changes_nothing_keeps_the_etag(app: httpx.Client, task_id: str) -> None:
    report(app, TaskId=task_id, BackendStatus="completed", Status="done")
    before = etag_of(app, task_id)
    report(app, TaskId=task_id, BackendStatus="completed", Status="done")
    app.post("/api/CacheConnectorUpsert", json={"TaskId": task_id, "BackendStatus": "running"})
    app.put(f"/api/v1/tasks/{task_id}/result", content=b"late")
    app.get(f"/api/v1/tasks/{task_id}?wait=0.05")
    assert etag_of(app, task_id) == before


@pytest.mark.parametrize("known", ["{0}", "W/{0}", '"other", {0}', '{0} , "other"', "*"])
def test_a_task_that_is_as_the_caller_knows_it_is_304_without_a_body(
    known: str, app: httpx.Client, task_id: str
) -> None:
    etag = etag_of(app, task_id)
    response = app.get(f"/api/v1/tasks/{task_id}", headers={"If-None-Match": known.format(etag)})
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == etag
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("known", ['"other"', '"a", "b"', "", '"', "nonsense"])
def test_a_task_that_is_not_as_the_caller_knows_it_is_200(known: str, app: httpx.Client, task_id: str) -> None:
    response = app.get(f"/api/v1/tasks/{task_id}", headers={"If-None-Match": known})
    assert response.status_code == 200
    assert response.json()["TaskId"] == task_id


def test_an_etag_from_before_a_change_is_200_with_the_new_one(app: httpx.Client, task_id: str) -> None:
    before = etag_of(app, task_id)
    report(app, TaskId=task_id, Status="further")
    response = app.get(f"/api/v1/tasks/{task_id}", headers={"If-None-Match": before})
    assert response.status_code == 200
    assert response.json()["Status"] == "further"
    assert response.headers["etag"] != before


@pytest.mark.parametrize("known", ["{0}", "W/{0}", '{0}, "older"'])
def test_waiting_answers_at_the_next_change_of_what_the_caller_knows(
    known: str, app: httpx.Client, task_id: str, ask: Ask
) -> None:
    etag = known.format(etag_of(app, task_id))
    answer = ask(task_id, params={"wait": 60}, headers={"If-None-Match": etag})
    for _ in range(5):
        task_of(app, task_id)  # so that most likely it waits already; what must be holds either way
    report(app, TaskId=task_id, Status="further")
    response = answer.result(SOONER_S)
    assert response.status_code == 200
    assert response.json()["Status"] == "further"


def test_waiting_without_an_etag_answers_at_the_next_change(app: httpx.Client, task_id: str, ask: Ask) -> None:
    answer = ask(task_id, params={"wait": 60})
    updates = 0
    while not answer.done():
        updates += 1
        report(app, TaskId=task_id, Status=f"{updates}")
    assert answer.result().status_code == 200
    assert 1 <= int(answer.result().json()["Status"]) <= updates


def test_waiting_for_what_has_changed_already_answers_with_it(app: httpx.Client, task_id: str) -> None:
    before = etag_of(app, task_id)
    report(app, TaskId=task_id, Status="further")
    response = app.get(
        f"/api/v1/tasks/{task_id}", params={"wait": 60}, headers={"If-None-Match": before}, timeout=SOONER_S
    )
    assert response.status_code == 200
    assert response.json()["Status"] == "further"


def test_a_wait_that_is_over_answers_with_the_task_as_it_is(app: httpx.Client, task_id: str) -> None:
    etag = etag_of(app, task_id)
    without = app.get(f"/api/v1/tasks/{task_id}", params={"wait": 0.1})
    assert (without.status_code, without.json()) == (200, task_of(app, task_id))
    known = app.get(f"/api/v1/tasks/{task_id}", params={"wait": 0.1}, headers={"If-None-Match": etag})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", etag)


@pytest.mark.parametrize("wait", ["60", "999999"])
def test_nobody_waits_for_a_task_that_has_ended(wait: str, app: httpx.Client, task_id: str) -> None:
    report(app, TaskId=task_id, BackendStatus="completed")
    etag = etag_of(app, task_id)
    address, query = f"/api/v1/tasks/{task_id}", {"wait": wait}
    assert app.get(address, params=query, timeout=SOONER_S).status_code == 200
    assert app.get(address, params=query, headers={"If-None-Match": etag}, timeout=SOONER_S).status_code == 304
    assert app.get(address, params=query, headers={"If-None-Match": '"old"'}, timeout=SOONER_S).status_code == 200


@pytest.mark.parametrize("wait", ["0", "0.000", ""])
def test_no_wait_is_no_wait(wait: str, app: httpx.Client, task_id: str) -> None:
    assert app.get(f"/api/v1/tasks/{task_id}?wait={wait}", timeout=SOONER_S).json()["TaskId"] == task_id


@pytest.mark.parametrize(
    "wait",
    ["-1", "soon", "1s", "1e3", "NaN", "Infinity", "0x10", "1,5", "%20", "%2B1", "1.2345", "9999999", "%D9%A3"],
)
def test_a_wait_that_is_no_number_of_seconds_is_400_and_named(wait: str, app: httpx.Client, task_id: str) -> None:
    assert_problem(app.get(f"/api/v1/tasks/{task_id}?wait={wait}"), 400, "invalid-request", field="wait")


def test_a_hundred_who_wait_all_hear_of_the_change(app: httpx.Client, task_id: str, stack: Stack) -> None:
    etag = etag_of(app, task_id)

    def wait(client: httpx.Client) -> httpx.Response:
        return client.get(f"/api/v1/tasks/{task_id}", params={"wait": 60}, headers={"If-None-Match": etag})

    limits = httpx.Limits(max_connections=100)
    headers = {"x-functions-key": stack.key}
    with (
        httpx.Client(base_url=stack.url, headers=headers, timeout=PATIENCE_S, limits=limits) as client,
        ThreadPoolExecutor(100) as crowd,
    ):
        answers = [crowd.submit(wait, client) for _ in range(100)]
        report(app, TaskId=task_id, BackendStatus="completed", Status="done")
        assert {answer.result().json()["Status"] for answer in answers} == {"done"}
