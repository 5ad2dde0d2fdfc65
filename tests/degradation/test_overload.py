"""An app with low limits, under more load than they allow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest

from local.azurite import Azurite
from local.stack import NO_TLS, SUBSCRIPTION
from shared.settings import INLINE_LIMIT_BYTES
from tests.contract.v1_support import assert_problem, complete_on_call, ended, new_path, submit, task_of
from tests.degradation.conftest import Fragile, fragile_stack
from tests.scripted_backend import Answer, ScriptedBackend
from tests.waiting import PATIENCE_S, eventually

MAX_IN_FLIGHT, MAX_WAITS = 3, 2
LARGE = bytes(INLINE_LIMIT_BYTES + 1)
"""There is room for one such body at a time."""

Call = Future[httpx.Response]


@pytest.fixture(scope="module")
def fragile(
    tmp_path_factory: pytest.TempPathFactory, azurite: Azurite, backend: ScriptedBackend
) -> Iterator[Fragile]:
    settings = {
        "MAX_IN_FLIGHT": str(MAX_IN_FLIGHT),
        "MAX_WAITS": str(MAX_WAITS),
        "MAX_DISPATCHES": "1",
        "MAX_BODY_BYTES_IN_FLIGHT": str(2 * INLINE_LIMIT_BYTES),
    }
    with fragile_stack(tmp_path_factory.mktemp("overload"), azurite, backend, settings) as fragile:
        yield fragile


@pytest.fixture
def app(fragile: Fragile) -> Iterator[httpx.Client]:
    with fragile.stack.client() as client:
        yield client


@pytest.fixture
def at_once(fragile: Fragile) -> Iterator[Callable[..., Call]]:
    """A function that makes a call in a thread of its own."""
    with ThreadPoolExecutor(20) as callers:
        yield callers.submit
        fragile.restore()
    # Leave a healthy app to the next test: health asks each dependency that has failed.
    eventually(lambda: reachability(fragile) == {"ok"})


def reachability(fragile: Fragile) -> set[str]:
    """The states of the dependencies that the app can ping; Event Grid is not one of them."""
    health = httpx.get(f"{fragile.stack.url}/api/v1/health", timeout=PATIENCE_S, verify=NO_TLS).json()
    return {health["Dependencies"][name] for name in ("Redis", "BlobStorage")}


def is_refused(call: Call) -> bool:
    """Whether the call was refused because the app is overloaded."""
    if call.result().status_code != 503 or not call.result().json()["type"].endswith(":overloaded"):
        return False
    assert_problem(call.result(), 503, "overloaded")
    assert int(call.result().headers["retry-after"]) > 0
    return True


def until_refused_beside_one_held(at_once: Callable[..., Call], *call: object) -> None:
    """Make the *call* until it is refused while a dependency holds up another like it.

    The app gives up the held call in time; then another one replaces it.
    """
    held: list[Call] = []

    def refused() -> bool:
        if all(each.done() for each in held):
            held.append(at_once(*call))
        return is_refused(at_once(*call))

    eventually(refused)


def keep(app: httpx.Client, backend: ScriptedBackend) -> str:
    """The id of a new task that is not dispatched."""
    response = app.post("/api/CacheConnectorUpsert", json={"Endpoint": backend.url + new_path()})
    return response.raise_for_status().json()["TaskId"]


def report_completed(app: httpx.Client, task_id: str) -> httpx.Response:
    return app.post("/api/CacheConnectorUpsert", json={"TaskId": task_id, "BackendStatus": "completed"})


def test_beyond_the_limit_the_oldest_wait_is_answered_and_the_new_one_waits(
    app: httpx.Client, backend: ScriptedBackend, at_once: Callable[..., Call]
) -> None:
    task_id = keep(app, backend)
    submitted = at_once(submit, app, new_path(), prefer="wait=60")
    waits = [submitted]
    for count in range(MAX_WAITS + 2):
        # Each begins when the one before has taken its place, as its cut of an older one shows.
        eventually(lambda count=count: sum(wait.done() for wait in waits) == max(0, count + 1 - MAX_WAITS))
        waits.append(at_once(app.get, f"/api/v1/tasks/{task_id}", params={"wait": 60}))
    eventually(lambda: sum(wait.done() for wait in waits) == len(waits) - MAX_WAITS)
    assert submitted.result().status_code == 202
    assert "preference-applied" not in submitted.result().headers
    cut = [wait.result() for wait in waits if wait.done() and wait is not submitted]
    assert [answer.json()["BackendStatus"] for answer in cut] == ["created"] * len(cut)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in cut)
    # Nobody is cut for a wait of no time.
    assert submit(app, new_path(), prefer="wait=0").headers["preference-applied"] == "wait=0"
    assert report_completed(app, task_id).status_code == 200
    states = sorted(wait.result().json()["BackendStatus"] for wait in waits if wait is not submitted)
    assert states == ["completed"] * MAX_WAITS + ["created"] * len(cut)


def test_overloaded_app_answers_503_except_to_health_and_event_grid(
    app: httpx.Client, backend: ScriptedBackend, fragile: Fragile, at_once: Callable[..., Call]
) -> None:
    task_id = keep(app, backend)
    calls = [at_once(app.get, f"/api/v1/tasks/{task_id}", params={"wait": 60}) for _ in range(MAX_WAITS + 1)]
    # One had to make room: the others wait by now.
    [answered] = eventually(lambda: [call for call in calls if call.done()])
    assert answered.result().status_code == 200
    waits = [call for call in calls if call is not answered]
    fragile.blobs.silence()
    held: list[Call] = []

    def refused_beside_one_more() -> bool:
        if all(call.done() for call in held):
            held.append(at_once(submit, app, new_path(), LARGE))
        return is_refused(at_once(app.get, "/api/v1/queues"))

    eventually(refused_beside_one_more)
    address = f"{fragile.stack.url}/api/v1/health"
    eventually(lambda: httpx.get(address, timeout=PATIENCE_S, verify=NO_TLS).json()["Status"] == "degraded")
    origin = {"WebHook-Request-Origin": "eventgrid.azure.net", "aeg-subscription-name": SUBSCRIPTION}
    assert app.options("/api/BackendWebhook", headers=origin).status_code == 200
    fragile.restore()
    for call in held:
        call.result()
    assert report_completed(app, task_id).status_code == 200
    assert [wait.result().status_code for wait in waits] == [200] * MAX_WAITS


def test_large_bodies_without_room_are_503_while_small_ones_are_accepted(
    app: httpx.Client, backend: ScriptedBackend, fragile: Fragile, at_once: Callable[..., Call]
) -> None:
    path = new_path()
    complete_on_call(fragile.stack, backend, path)
    fragile.blobs.silence()
    until_refused_beside_one_held(at_once, submit, app, path, LARGE)
    assert submit(app, path, b"{}").status_code == 202
    fragile.restore()
    response = eventually(lambda: sent if (sent := submit(app, path, LARGE)).status_code == 202 else None)
    assert ended(app, response.json()["TaskId"])["BackendStatus"] == "completed"


def test_submit_of_a_large_body_is_answered_at_once_despite_a_wait_preference(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    for _ in range(2):
        path = new_path()
        # An earlier dispatch may still hold the room for a moment.
        [sent] = eventually(
            lambda path=path: [sent for sent in (submit(app, path, LARGE, prefer="wait=60"),) if sent.is_success]
        )
        assert (sent.status_code, sent.headers.get("preference-applied")) == (202, None)
        assert report_completed(app, sent.json()["TaskId"]).status_code == 200


def test_large_result_without_room_is_503_while_a_small_one_is_served(
    app: httpx.Client, backend: ScriptedBackend, fragile: Fragile, at_once: Callable[..., Call]
) -> None:
    large, small = keep(app, backend), keep(app, backend)
    # A dispatch of an earlier test may still hold the room for a moment.
    eventually(lambda: app.put(f"/api/v1/tasks/{large}/result", content=LARGE).status_code == 200)
    app.put(f"/api/v1/tasks/{small}/result", content=b"small").raise_for_status()
    fragile.blobs.silence()
    until_refused_beside_one_held(at_once, app.get, f"/api/v1/tasks/{large}/result")
    assert app.get(f"/api/v1/tasks/{small}/result").content == b"small"
    fragile.restore()
    eventually(lambda: app.get(f"/api/v1/tasks/{large}/result").content == LARGE)


@pytest.mark.parametrize("body", [b"{}", LARGE], ids=["no-dispatcher", "no-room-for-its-body"])
def test_task_without_room_for_its_dispatch_returns_to_its_queue(
    app: httpx.Client, backend: ScriptedBackend, fragile: Fragile, body: bytes
) -> None:
    busy, path = new_path(), new_path()
    release = threading.Event()
    backend.script(busy, Answer(hold=release))
    complete_on_call(fragile.stack, backend, path)
    # An earlier dispatch may still hold the room for a moment.
    [sent] = eventually(lambda: [sent for sent in (submit(app, busy, body),) if sent.is_success])
    first = sent.json()["TaskId"]
    attempt = backend.next_call(busy).attempt
    second = submit(app, path).json()["TaskId"]
    eventually(lambda: task_of(app, second)["Status"] == "Awaiting a free dispatcher")
    assert backend.untaken(path) == 0
    release.set()
    assert ended(app, second)["BackendStatus"] == "completed"
    assert task_of(app, first)["Attempt"] == attempt
    report_completed(app, first)
