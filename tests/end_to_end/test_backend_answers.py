"""The answers of a model service to a dispatch, and what follows for the task."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise

import pytest

from local.stack import Stack
from tests.conftest import IN_A_HURRY
from tests.end_to_end.backbone import Backbone
from tests.scripted_backend import Answer, ScriptedBackend

MAX_ATTEMPTS = int(IN_A_HURRY["MAX_ATTEMPTS"])
BUSY = "Awaiting service availability"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def hold() -> Iterator[threading.Event]:
    """The event that a hanging backend waits for; it is set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("status", [429, 503])
def test_task_is_dispatched_again_until_a_busy_backend_accepts_it(
    backbone: Backbone, backend: ScriptedBackend, status: int
) -> None:
    path = f"/v1/test/busy/{status}"
    refusals = MAX_ATTEMPTS  # were they failures, the task would have failed
    backend.script(path, *[Answer(status)] * refusals, Answer(200))

    task_id = backbone.submit(path, b"the same body each time")

    attempts = range(1, refusals + 2)
    for attempt in attempts:
        call = backend.next_call(path)
        assert (call.attempt, call.body) == (attempt, b"the same body each time")
    backbone.complete(task_id)
    history = backbone.history(task_id)
    assert [event["Attempt"] for event in history if event["State"] == "dispatched"] == list(attempts)
    assert {event["Status"] for event in history if event["State"] == "created"} == {"created", BUSY}


def test_status_shows_that_a_task_waits_for_a_busy_backend(backbone: Backbone, backend: ScriptedBackend) -> None:
    path = "/v1/test/busy/seen"
    backend.script(path, Answer(503, {"Retry-After": "3600"}))
    task_id = backbone.submit(path)

    task = backbone.until(task_id, lambda task: task["Status"] == BUSY)
    assert (task["BackendStatus"], task["Attempt"]) == ("created", 2)
    assert backbone.depth(path) == {"Waiting": 1}
    assert backend.next_call(path).attempt == 1


def test_retry_after_of_a_busy_backend_is_respected(backbone: Backbone, backend: ScriptedBackend) -> None:
    path = "/v1/test/busy/retry-after"
    backend.script(path, Answer(503, {"Retry-After": "2"}), Answer(429, {"Retry-After": "0"}), Answer(200))

    task_id = backbone.submit(path)

    assert [backend.next_call(path).attempt for _ in range(3)] == [1, 2, 3]
    backbone.complete(task_id)
    parked, again = next(
        (_time(one), _time(other))
        for one, other in pairwise(backbone.history(task_id))
        if one["Status"] == BUSY and other["State"] == "dispatched"
    )
    assert (again - parked).total_seconds() >= 2


def test_busy_answers_do_not_count_as_failed_attempts(backbone: Backbone, backend: ScriptedBackend) -> None:
    path = "/v1/test/busy/then-failing"
    backend.script(path, Answer(503), Answer(500), Answer(429), Answer(500))  # and so on

    task_id = backbone.submit(path)

    ended = backbone.ended(task_id)
    assert ended["BackendStatus"] == "failed"
    assert ended["Status"] == f"Failed - the backend answered 500 (attempt {MAX_ATTEMPTS} of {MAX_ATTEMPTS})."
    attempts = list(range(1, MAX_ATTEMPTS + 3))
    assert [backend.next_call(path).attempt for _ in attempts] == attempts
    assert backend.untaken(path) == 0


@pytest.mark.parametrize(
    ("status", "text"),
    [(408, "Retrying - "), (500, "Retrying - "), (502, f"{BUSY}: "), (504, f"{BUSY}: ")],
)
def test_transient_failure_is_retried(backbone: Backbone, backend: ScriptedBackend, status: int, text: str) -> None:
    path = f"/v1/test/passing/{status}"
    backend.script(path, Answer(status, body=b"internal: db01.corp refused root"), Answer(202))

    task_id = backbone.submit(path)

    assert [backend.next_call(path).attempt for _ in range(2)] == [1, 2]
    backbone.complete(task_id)
    history = backbone.history(task_id)
    assert f"{text}the backend answered {status}" in [event["Status"] for event in history]
    assert "db01" not in str(history)


def test_dropped_connection_is_retried(backbone: Backbone, backend: ScriptedBackend) -> None:
    path = "/v1/test/passing/hang-up"
    backend.script(path, Answer(hang_up=True), Answer(200))

    task_id = backbone.submit(path)

    assert [backend.next_call(path).attempt for _ in range(2)] == [1, 2]
    backbone.complete(task_id)


def test_hanging_backend_times_out_and_is_called_again(
    impatient: Backbone, backend: ScriptedBackend, hold: threading.Event
) -> None:
    path = "/v1/test/passing/hanging"
    backend.script(path, Answer(hold=hold), Answer(200))

    task_id = impatient.submit(path)

    assert [backend.next_call(path).attempt for _ in range(2)] == [1, 2]
    impatient.complete(task_id)
    assert f"{BUSY}: the backend did not answer in time" in [e["Status"] for e in impatient.history(task_id)]


def test_hanging_backend_blocks_no_other_endpoint(
    backbone: Backbone, backend: ScriptedBackend, hold: threading.Event
) -> None:
    hanging, healthy = "/v1/test/hanging-one", "/v1/test/healthy-one"
    backend.script(hanging, Answer(hold=hold))
    held = [backbone.submit(hanging) for _ in range(10)]
    backend.next_call(hanging)

    task_id = backbone.submit(healthy)

    assert backend.next_call(healthy).task_id == task_id
    backbone.complete(task_id)
    hold.set()
    for each in held:
        backbone.update(each, "completed")


@pytest.mark.parametrize("status", [400, 401, 403, 409, 410, 413, 422])
def test_rejection_fails_the_task_with_the_reason(backbone: Backbone, backend: ScriptedBackend, status: int) -> None:
    path = f"/v1/test/refusing/{status}"
    backend.script(path, Answer(status, JSON, b'{"detail": "must be one of image/jpeg, image/png"}'))

    task_id = backbone.submit(path)

    ended = backbone.ended(task_id)
    reason = f"Failed - the backend answered {status}: must be one of image/jpeg, image/png."
    assert (ended["BackendStatus"], ended["Status"]) == ("failed", reason)
    assert backbone.transitions(task_id) == [("created", 1), ("dispatched", 1), ("failed", 1)]
    backend.next_call(path)
    assert backend.untaken(path) == 0


@pytest.mark.parametrize("status", [302, 307])
def test_redirect_fails_the_task_and_reveals_only_the_status_code(
    backbone: Backbone, backend: ScriptedBackend, status: int
) -> None:
    path, elsewhere = f"/v1/test/refusing/{status}", f"/v1/test/elsewhere/{status}"
    backend.script(path, Answer(status, JSON | {"Location": backend.url + elsewhere}, b'"password=hunter2"'))

    task_id = backbone.submit(path)

    ended = backbone.ended(task_id)
    assert (ended["BackendStatus"], ended["Status"]) == ("failed", f"Failed - the backend answered {status}.")
    assert "hunter2" not in str(ended) + str(backbone.history(task_id))
    backend.next_call(path)
    assert (backend.untaken(path), backend.untaken(elsewhere)) == (0, 0)


def test_log_has_a_line_for_each_refusal_retry_and_failure(
    backbone: Backbone, backend: ScriptedBackend, stack: Stack
) -> None:
    path = "/v1/test/logged"
    backend.script(
        path,
        Answer(503, JSON, b'{"detail": "both GPUs are taken"}'),
        Answer(500, {"Content-Type": "text/plain"}, b"Traceback:\n  no such file"),
        Answer(404, JSON, b'{"detail": "no such model"}'),
        Answer(hang_up=True),
        Answer(422, JSON, b'{"detail": "too many bands"}'),
    )

    task_id = backbone.submit(path)
    backbone.ended(task_id)

    lines = [line for line in stack.host.log_path.read_text().splitlines() if task_id in line]
    assert [line.partition(f"task {task_id} at ")[2] for line in lines] == [
        f"{path}, attempt 1: the backend answered 503: both GPUs are taken",
        f"{path}, attempt 2: the backend answered 500: Traceback: no such file",
        f"{path}, attempt 3: the backend answered 404: no such model",
        f"{path}, attempt 4: the backend could not be reached",
        f"{path}, attempt 5: the backend answered 422: too many bands",
    ]
    history = [event["Status"] for event in backbone.history(task_id)]
    assert "Retrying - the backend answered 500" in history
    assert "Retrying - the backend answered 404: no such model" in history
    assert "Traceback" not in str(history)


def test_late_reports_of_an_expired_attempt_are_refused(
    impatient: Backbone, impatient_stack: Stack, backend: ScriptedBackend
) -> None:
    path = "/v1/test/brief/died"
    task_id = impatient.submit(path)
    assert backend.next_call(path).attempt == 1
    impatient.update(task_id, "running", "half way", Attempt=1)

    assert backend.next_call(path).attempt == 2, "the lease has ended"
    late_update = impatient.update(task_id, "completed", "done after all", Attempt=1)
    late_result = impatient.http.put(
        f"/api/v1/tasks/{task_id}/result", content=b"late", headers={"X-Task-Attempt": "1"}
    )

    assert (late_update.status_code, late_result.status_code) == (409, 409)
    assert late_update.headers["content-type"] == "application/problem+json"
    assert late_update.json()["Task"]["TaskId"] == task_id
    assert late_update.json()["Task"]["Attempt"] >= 2
    after = impatient.task(task_id)
    assert after["BackendStatus"] != "completed"
    assert after["ResultSize"] is None
    impatient.complete_as_current(task_id)
    assert impatient.task(task_id)["BackendStatus"] == "completed"
    dispatched = [attempt for state, attempt in impatient.transitions(task_id) if state == "dispatched"]
    assert dispatched == sorted(set(dispatched))
    assert dispatched[:2] == [1, 2]
    log = impatient_stack.host.log_path.read_text()
    assert f"task {task_id} at {path}, attempt 2: Retrying - the backend was not heard of for too long" in log


def _time(event: dict[str, str]) -> datetime:
    return datetime.fromisoformat(event["Timestamp"])
