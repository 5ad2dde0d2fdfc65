"""What model services say beside reports: heartbeats with progress, releases, checkpoints, answers with the result
(contract B5, B13 to B15)."""

import threading
import uuid
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from local.azurite import Azurite
from tests.contract.v1_support import (
    INLINE_LIMIT_BYTES,
    UNKNOWN_ID,
    assert_problem,
    blob_sizes,
    ended,
    keep,
    new_path,
    next_step,
    pattern_bytes,
    report,
    submit,
    task_of,
)
from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.waiting import eventually

LARGE = pattern_bytes(INLINE_LIMIT_BYTES + 1)


@pytest.fixture
def path() -> str:
    return new_path()


@pytest.fixture
def call(app: httpx.Client, backend: ScriptedBackend, path: str) -> Call:
    """The first dispatch of a task, which its model service has accepted."""
    submit(app, path)
    call = backend.next_call(path)
    report(app, TaskId=call.task_id, Attempt=1, BackendStatus="running", Status="running")
    return call


def release(app: httpx.Client, task_id: str, attempt: int | None = 1, **body: Any) -> httpx.Response:
    headers = {} if attempt is None else {"X-Task-Attempt": str(attempt)}
    return app.post(f"/api/v1/tasks/{task_id}/release", json=body, headers=headers)


def beat(app: httpx.Client, task_id: str, **body: Any) -> httpx.Response:
    return app.post(f"/api/v1/tasks/{task_id}/heartbeat", json=body)


def events_of(app: httpx.Client, task_id: str) -> list[dict[str, Any]]:
    return app.get(f"/api/v1/tasks/{task_id}/history").json()["Events"]


@pytest.mark.contract("B15.1")
def test_a_dispatch_and_the_view_say_how_long_the_service_may_be_silent(app: httpx.Client, call: Call) -> None:
    lease_s = float(call.headers["x-task-lease"])
    assert lease_s > 0
    assert task_of(app, call.task_id)["LeaseSeconds"] == lease_s


@pytest.mark.contract("B5.28", "B6.31")
def test_progress_and_text_of_a_heartbeat_are_shown(app: httpx.Client, call: Call) -> None:
    before = task_of(app, call.task_id)
    assert before["Progress"] is None
    assert "Progress" not in events_of(app, call.task_id)[-1]
    assert beat(app, call.task_id, Progress=0.25).json()["Progress"] == 0.25
    told = beat(app, call.task_id, progress=1, Status="nearly").json()
    assert (told["Progress"], told["Status"], told["BackendStatus"]) == (1, "nearly", "running")
    same = beat(app, call.task_id, Progress=None, Status=None).json()
    assert (same["Progress"], same["Status"]) == (1, "nearly")
    events = events_of(app, call.task_id)
    assert [event.get("Progress") for event in events] == [None] * (len(events) - 1) + [1]


@pytest.mark.contract("B5.28")
def test_progress_in_a_report_is_shown(app: httpx.Client, call: Call) -> None:
    assert report(app, TaskId=call.task_id, BackendStatus="running", Progress=0.5)["Progress"] == 0.5


@pytest.mark.contract("B5.28")
def test_a_wait_hears_of_progress(app: httpx.Client, call: Call) -> None:
    etag = app.get(f"/api/v1/tasks/{call.task_id}").headers["etag"]
    answers: list[httpx.Response] = []

    def wait() -> None:
        answers.append(app.get(f"/api/v1/tasks/{call.task_id}?wait=60", headers={"If-None-Match": etag}))

    waiting = threading.Thread(target=wait)
    waiting.start()
    beat(app, call.task_id, Progress=0.75)
    waiting.join()
    assert (answers[0].status_code, answers[0].json()["Progress"]) == (200, 0.75)


@pytest.mark.contract("B5.28")
@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b'{"Progress": 1.1}', "/Progress"),
        (b'{"Progress": -0.1}', "/Progress"),
        (b'{"Progress": "half"}', "/Progress"),
        (b'{"Progress": NaN}', ""),
        (b'{"Status": 5}', "/Status"),
        (b'{"Progres": 0.5}', "/Progres"),
        (b"half", ""),
    ],
)
def test_a_bad_heartbeat_is_refused_by_the_name_of_the_member(
    app: httpx.Client, call: Call, body: bytes, pointer: str
) -> None:
    before = task_of(app, call.task_id)
    response = app.post(f"/api/v1/tasks/{call.task_id}/heartbeat", content=body)
    assert_problem(response, 400, "invalid-request", field=pointer)
    assert task_of(app, call.task_id) == before


@pytest.mark.contract("B5.28")
@pytest.mark.parametrize("progress", [1.1, -1, "much", [0.5]])
def test_a_bad_progress_in_a_report_is_refused(app: httpx.Client, call: Call, progress: Any) -> None:
    update = {"TaskId": call.task_id, "BackendStatus": "running", "Progress": progress}
    response = app.post("/api/CacheConnectorUpsert", json=update)
    assert_problem(response, 400, "invalid-request", field="/Progress")


@pytest.mark.contract("B5.29")
def test_each_of_several_heartbeats_has_its_own_outcome(
    app: httpx.Client, backend: ScriptedBackend, call: Call
) -> None:
    done = keep(app, backend, BackendStatus="completed")
    waiting = keep(app, backend)
    beats = [
        {"TaskId": call.task_id, "Attempt": 1, "Progress": 0.5, "Status": "half"},
        {"TaskId": call.task_id, "Attempt": 2},
        {"TaskId": done},
        {"TaskId": UNKNOWN_ID},
        {"taskid": waiting, "progress": None},
    ]
    response = app.post("/api/v1/heartbeats", json={"Heartbeats": beats})
    assert response.status_code == 200
    assert response.json() == {
        "Outcomes": [
            {"TaskId": call.task_id, "StatusCode": 200, "BackendStatus": "running", "Attempt": 1},
            {"TaskId": call.task_id, "StatusCode": 409, "BackendStatus": "running", "Attempt": 1},
            {"TaskId": done, "StatusCode": 409, "BackendStatus": "completed", "Attempt": 1},
            {"TaskId": UNKNOWN_ID, "StatusCode": 404, "BackendStatus": None, "Attempt": None},
            {"TaskId": waiting, "StatusCode": 409, "BackendStatus": "created", "Attempt": 1},
        ]
    }
    task = task_of(app, call.task_id)
    assert (task["Progress"], task["Status"]) == (0.5, "half")


@pytest.mark.contract("B5.30")
def test_bad_heartbeats_are_refused_as_a_whole(app: httpx.Client, call: Call) -> None:
    before = task_of(app, call.task_id)
    good = {"TaskId": call.task_id, "Progress": 0.9}
    for beats, pointers in (
        ([], ["/Heartbeats"]),
        ([good] * 201, ["/Heartbeats"]),
        ([good, {"TaskId": "no id!"}, {"Progress": 2}], ["/Heartbeats/1/TaskId", "/Heartbeats/2/TaskId"]),
    ):
        response = app.post("/api/v1/heartbeats", json={"Heartbeats": beats})
        assert response.status_code == 400
        assert {*pointers} <= {error["pointer"] for error in response.json()["errors"]}
    assert_problem(app.post("/api/v1/heartbeats", json=[good]), 400, "invalid-request", field="")
    assert task_of(app, call.task_id) == before


@pytest.mark.contract("B13.1", "B13.9")
def test_a_released_task_comes_again_at_once(
    app: httpx.Client, backend: ScriptedBackend, call: Call, path: str
) -> None:
    released = release(app, call.task_id, Status="the service is stopping")
    assert released.status_code == 200
    task = released.json()
    assert (task["BackendStatus"], task["Attempt"], task["Status"]) == ("created", 2, "the service is stopping")
    again = backend.next_call(path)
    assert (again.task_id, again.attempt, again.body) == (call.task_id, 2, call.body)
    stopped = [event for event in events_of(app, call.task_id) if event["Status"] == "the service is stopping"]
    assert [(event["State"], event["Attempt"], event["Who"]) for event in stopped] == [("created", 2, "client")]


@pytest.mark.contract("B13.1")
def test_a_queue_forgets_the_slot_of_a_released_task(app: httpx.Client, call: Call, path: str) -> None:
    app.patch(f"/api/v1/queues{path}", json={"Paused": True})
    before = app.get(f"/api/v1/queues{path}").json()
    release(app, call.task_id)
    after = app.get(f"/api/v1/queues{path}").json()
    assert (before["Slots"] - after["Slots"], after["InFlight"], after["Waiting"]) == (1, 0, 1)


@pytest.mark.contract("B13.2")
def test_a_task_that_is_released_for_a_while_is_not_dispatched_before(
    app: httpx.Client, backend: ScriptedBackend, call: Call, path: str
) -> None:
    assert release(app, call.task_id, RetryAfterSeconds=600).json()["BackendStatus"] == "created"
    submit(app, path)
    assert backend.next_call(path).task_id != call.task_id
    assert backend.untaken(path) == 0


@pytest.mark.contract("B13.4")
def test_a_task_that_failed_waits_as_long_as_its_backend_says(
    app: httpx.Client, backend: ScriptedBackend, call: Call, path: str
) -> None:
    release(app, call.task_id, Failed=True, RetryAfterSeconds=600)
    submit(app, path)
    assert backend.next_call(path).task_id != call.task_id
    assert backend.untaken(path) == 0


@pytest.mark.contract("B13.4", "B13.9")
def test_failures_that_are_released_count_up_to_the_end(
    app: httpx.Client, backend: ScriptedBackend, call: Call, path: str
) -> None:
    for attempt in range(1, 7):
        assert release(app, call.task_id, attempt, Failed=True).json()["BackendStatus"] == "created"
        assert backend.next_call(path).attempt == attempt + 1
    last = release(app, call.task_id, 7, Failed=True, Status="Failed - out of memory").json()
    assert (last["BackendStatus"], last["Attempt"]) == ("failed", 7)
    assert last["Status"] == "Failed - out of memory (attempt 7 of 7)"


@pytest.mark.contract("B13.5")
def test_a_repeated_release_is_answered_as_the_first(
    app: httpx.Client, backend: ScriptedBackend, call: Call, path: str
) -> None:
    release(app, call.task_id)
    assert backend.next_call(path).attempt == 2
    assert release(app, call.task_id).status_code == 200
    report(app, TaskId=call.task_id, Attempt=2, BackendStatus="completed")
    assert release(app, call.task_id).json()["BackendStatus"] == "completed"


@pytest.mark.contract("B13.6", "B13.8")
def test_only_the_current_attempt_of_a_dispatched_task_is_released(
    app: httpx.Client, backend: ScriptedBackend, call: Call
) -> None:
    for attempt in (0, 2):
        response = release(app, call.task_id, attempt)
        assert_problem(response, 409, "conflict")
        assert response.json()["Task"]["TaskId"] == call.task_id
    for state in ("created", "running", "completed"):
        assert_problem(release(app, keep(app, backend, BackendStatus=state)), 409, "conflict")
    assert_problem(release(app, UNKNOWN_ID), 404, "no-such-task")


@pytest.mark.contract("B13.7")
def test_a_bad_release_is_refused_by_the_name_of_what_is_bad(app: httpx.Client, call: Call) -> None:
    response = release(app, call.task_id, None)
    assert_problem(response, 400, "invalid-request", field="X-Task-Attempt")
    for body, pointer in (
        ({"Failed": "yes"}, "/Failed"),
        ({"RetryAfterSeconds": -1}, "/RetryAfterSeconds"),
        ({"RetryAfterSeconds": 86_401}, "/RetryAfterSeconds"),
        ({"Status": "x" * 1_025}, "/Status"),
        ({"Fail": True}, "/Fail"),
    ):
        response = release(app, call.task_id, **body)
        assert_problem(response, 400, "invalid-request", field=pointer)
    assert task_of(app, call.task_id)["Attempt"] == 1
    nulls = {"Failed": None, "RetryAfterSeconds": None, "Status": None}
    assert release(app, call.task_id, **nulls).json()["Attempt"] == 2


@pytest.mark.contract("B13.1")
def test_a_release_needs_no_body(app: httpx.Client, call: Call) -> None:
    response = app.post(f"/api/v1/tasks/{call.task_id}/release", headers={"X-Task-Attempt": "1"})
    assert (response.status_code, response.json()["Attempt"]) == (200, 2)


def put_checkpoint(app: httpx.Client, task_id: str, data: bytes, attempt: int = 1, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return app.put(
        f"/api/v1/tasks/{task_id}/checkpoint", content=data, headers={"X-Task-Attempt": str(attempt), **names}
    )


def get_checkpoint(app: httpx.Client, task_id: str, **headers: str) -> httpx.Response:
    return app.get(f"/api/v1/tasks/{task_id}/checkpoint", headers=headers)


@pytest.mark.contract("B14.1", "B14.2")
@pytest.mark.parametrize("data", [b"", b"epoch 7", LARGE], ids=["empty", "small", "large"])
def test_the_next_attempt_finds_the_checkpoint(
    app: httpx.Client, backend: ScriptedBackend, call: Call, path: str, data: bytes, azurite: Azurite
) -> None:
    assert put_checkpoint(app, call.task_id, data, content_type="application/x-weights").status_code == 200
    release(app, call.task_id)
    assert backend.next_call(path).attempt == 2
    release(app, call.task_id, 2, Failed=True)
    assert backend.next_call(path).attempt == 3
    found = get_checkpoint(app, call.task_id)
    assert (found.status_code, found.content) == (200, data)
    assert found.headers["content-type"] == "application/x-weights"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert get_checkpoint(app, call.task_id, **{"If-None-Match": found.headers["etag"]}).status_code == 304
    assert app.head(f"/api/v1/tasks/{call.task_id}/checkpoint").headers["content-length"] == str(len(data))
    assert blob_sizes(azurite, call.task_id) == ([len(data)] if data is LARGE else [])


@pytest.mark.contract("B14.3")
@pytest.mark.parametrize("data", [b"epoch 7", LARGE], ids=["small", "large"])
@pytest.mark.parametrize("how", ["end", "next step"])
def test_a_checkpoint_goes_with_the_step_or_the_task(
    app: httpx.Client, call: Call, data: bytes, how: str, azurite: Azurite
) -> None:
    put_checkpoint(app, call.task_id, data)
    if how == "end":
        report(app, TaskId=call.task_id, Attempt=1, BackendStatus="completed")
    else:
        next_step(app, call.task_id)
    assert_problem(get_checkpoint(app, call.task_id), 404, "no-checkpoint")
    eventually(lambda: blob_sizes(azurite, call.task_id) == [])
    if how == "end":
        assert_problem(put_checkpoint(app, call.task_id, data), 409, "conflict")
        assert blob_sizes(azurite, call.task_id) == []


@pytest.mark.contract("B14.4", "B14.5", "B14.6")
def test_a_checkpoint_is_of_the_current_attempt_and_the_last_one_counts(
    app: httpx.Client, call: Call, azurite: Azurite
) -> None:
    missing = get_checkpoint(app, call.task_id)
    assert_problem(missing, 404, "no-checkpoint")
    assert missing.json()["TaskId"] == call.task_id
    assert_problem(get_checkpoint(app, UNKNOWN_ID), 404, "no-such-task")
    assert_problem(put_checkpoint(app, call.task_id, b"late", attempt=2), 409, "conflict")
    for data in (LARGE, LARGE[1:] + b"2", b"small"):
        put_checkpoint(app, call.task_id, data)
        assert get_checkpoint(app, call.task_id).content == data
    assert get_checkpoint(app, call.task_id, Range="bytes=1-2").content == b"ma"
    eventually(lambda: blob_sizes(azurite, call.task_id) == [])


def put_result(app: httpx.Client, task_id: str, data: bytes, complete: str) -> httpx.Response:
    headers = {"X-Task-Attempt": "1", "X-Task-Complete": complete, "Content-Type": "text/plain"}
    return app.put(f"/api/v1/tasks/{task_id}/result", content=data, headers=headers)


@pytest.mark.contract("B7.64", "B7.65")
@pytest.mark.parametrize("data", [b"six", LARGE], ids=["small", "large"])
def test_a_result_completes_its_task_in_the_same_step(
    app: httpx.Client, call: Call, data: bytes, azurite: Azurite
) -> None:
    text = "completed - sechs Wörter, 100 %"
    task = put_result(app, call.task_id, data, quote(text)).json()
    assert (task["BackendStatus"], task["Status"], task["ResultSize"]) == ("completed", text, len(data))
    assert app.get(f"/api/v1/tasks/{call.task_id}/result").content == data
    again = put_result(app, call.task_id, data, quote(text))
    assert (again.status_code, again.json()) == (200, task)
    assert_problem(put_result(app, call.task_id, data, "another"), 409, "conflict")
    assert_problem(put_result(app, call.task_id, data + b"!", quote(text)), 409, "conflict")
    assert app.get(f"/api/v1/tasks/{call.task_id}/result").content == data
    assert blob_sizes(azurite, call.task_id) == ([len(data)] if data is LARGE else [])


@pytest.mark.contract("B7.64")
def test_a_completion_without_a_text_says_completed(app: httpx.Client, call: Call) -> None:
    response = put_result(app, call.task_id, b"six", "%ff")
    assert_problem(response, 400, "invalid-request", field="X-Task-Complete")
    assert task_of(app, call.task_id)["BackendStatus"] == "running"
    assert put_result(app, call.task_id, b"six", "").json()["Status"] == "completed"


@pytest.mark.contract("B15.2")
@pytest.mark.parametrize("data", [b"", b'{"words": 6}', LARGE], ids=["empty", "small", "large"])
def test_an_answer_with_the_result_completes_the_task(
    app: httpx.Client, backend: ScriptedBackend, path: str, data: bytes
) -> None:
    headers = {
        "X-Task-Complete": quote("fertig: 6 Wörter"),
        "Content-Type": "application/json",
        "Content-Encoding": "gzip",
    }
    backend.script(path, Answer(headers=headers, body=data))
    task = ended(app, submit(app, path).json()["TaskId"])
    assert (task["BackendStatus"], task["Status"], task["Attempt"]) == ("completed", "fertig: 6 Wörter", 1)
    with app.stream("GET", f"/api/v1/tasks/{task['TaskId']}/result") as result:
        assert (b"".join(result.iter_raw()), result.headers["content-type"]) == (data, "application/json")
        assert result.headers["content-encoding"] == "gzip"
    assert [event["State"] for event in events_of(app, task["TaskId"])] == ["created", "dispatched", "completed"]
    queue = app.get(f"/api/v1/queues{path}").json()
    assert (queue["InFlight"], queue["Slots"], queue["Completed"]) == (0, 1, 1)


@pytest.mark.contract("B15.2")
def test_the_next_task_follows_an_answer_with_the_result(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    backend.script(path, Answer(headers={"X-Task-Complete": ""}, body=b"done"))
    tasks = [submit(app, path).json()["TaskId"] for _ in range(20)]
    assert {ended(app, task_id)["Status"] for task_id in tasks} == {"completed"}


@pytest.mark.contract("B15.2")
@pytest.mark.parametrize(
    "headers",
    [{"X-Task-Complete": "%ff"}, {"X-Task-Complete": "", "Content-Type": "\xfcmlaut"}],
    ids=["text", "type"],
)
def test_odd_headers_of_such_an_answer_do_no_harm(
    app: httpx.Client, backend: ScriptedBackend, path: str, headers: dict[str, str]
) -> None:
    backend.script(path, Answer(headers=headers, body=b"done"))
    task = ended(app, submit(app, path).json()["TaskId"])
    assert (task["Status"], task["ResultContentType"]) == ("completed", "application/octet-stream")


@pytest.mark.contract("B15.2")
def test_such_an_answer_of_a_cancelled_task_leaves_nothing_behind(
    app: httpx.Client, backend: ScriptedBackend, path: str, azurite: Azurite
) -> None:
    hold = threading.Event()
    backend.script(path, Answer(headers={"X-Task-Complete": ""}, body=LARGE, hold=hold))
    task_id = submit(app, path).json()["TaskId"]
    backend.next_call(path)
    app.delete(f"/api/v1/tasks/{task_id}").raise_for_status()
    hold.set()
    backend.script(path, Answer())
    submit(app, path)
    backend.next_call(path)
    eventually(lambda: blob_sizes(azurite, task_id) == [])
    assert task_of(app, task_id)["BackendStatus"] == "cancelled"
    assert task_of(app, task_id)["ResultSize"] is None


@pytest.mark.contract("B13.3")
def test_the_twentieth_release_in_a_row_counts(
    app: httpx.Client, backend: ScriptedBackend, call: Call, path: str
) -> None:
    for attempt in range(1, 20):
        release(app, call.task_id, attempt)
        assert backend.next_call(path).attempt == attempt + 1
    for attempt in range(20, 26):
        assert release(app, call.task_id, attempt).json()["BackendStatus"] == "created"
        assert backend.next_call(path).attempt == attempt + 1
    assert release(app, call.task_id, 26).json()["BackendStatus"] == "failed"


@pytest.mark.contract("B15.3")
def test_each_answer_of_a_foreign_server_is_the_result(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = f"/v1/foreign/{uuid.uuid4().hex}"
    backend.script(path, Answer(201, {"Content-Type": "text/plain"}, b"a cat"))
    task = ended(app, submit(app, path).json()["TaskId"])
    assert (task["BackendStatus"], task["Status"]) == ("completed", "completed")
    result = app.get(f"/api/v1/tasks/{task['TaskId']}/result")
    assert (result.content, result.headers["content-type"]) == (b"a cat", "text/plain")


@pytest.mark.contract("B15.7")
def test_a_foreign_server_has_its_own_word_for_busy(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = f"/v1/foreign/{uuid.uuid4().hex}"
    backend.script(path, Answer(409), Answer(body=b"a cat"))
    task = ended(app, submit(app, path).json()["TaskId"])
    assert (task["BackendStatus"], task["Attempt"]) == ("completed", 2)
    assert "Awaiting service availability" in [event["Status"] for event in events_of(app, task["TaskId"])]


@pytest.mark.contract("B15.4")
def test_an_answer_that_breaks_off_counts_and_the_task_is_tried_again(
    app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    headers = {"X-Task-Complete": ""}
    backend.script(
        path, Answer(headers=headers, body=b"a ca", break_off=True), Answer(headers=headers, body=b"a cat")
    )
    task = ended(app, submit(app, path).json()["TaskId"])
    assert (task["BackendStatus"], task["Attempt"]) == ("completed", 2)
    assert app.get(f"/api/v1/tasks/{task['TaskId']}/result").content == b"a cat"
    retried = "Retrying - the backend broke off its answer"
    assert retried in [event["Status"] for event in events_of(app, task["TaskId"])]


@pytest.mark.contract("B15.13")
@pytest.mark.parametrize(
    "endless", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"]
)
def test_endless_interim_answers_count_and_the_task_is_tried_again(
    endless: bytes, app: httpx.Client, backend: ScriptedBackend, path: str
) -> None:
    backend.script(path, Answer(endless=endless), Answer(headers={"X-Task-Complete": ""}, body=b"a cat"))
    task = ended(app, submit(app, path).json()["TaskId"])
    assert (task["BackendStatus"], task["Attempt"]) == ("completed", 2)
    retried = "Retrying - the backend sent an answer that does not end"
    assert retried in [event["Status"] for event in events_of(app, task["TaskId"])]
