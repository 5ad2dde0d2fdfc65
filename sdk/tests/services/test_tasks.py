"""What a service says to the backbone about the tasks that it has. A played backbone stands for the real one."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from urllib.parse import quote

import pytest
from service_process import Service, eventually, running, serving

from taskbackbone.testing import Call, PlayedBackbone, PlayedTask

CODE = """
from pathlib import Path

service = TaskService(cancel_grace_s=1, drain_s=1)

def wait_for(name, task=None):
    while not os.path.exists(name):
        if task: task.check()
        time.sleep(0.01)

@service.task("/count", content_types=["text/plain"])
def count(body: str, task: Task, *, least: int = 1) -> dict:
    task.progress(0.5, "counting")
    return {"words": sum(len(word) >= least for word in body.split())}

@service.task("/wait")
def wait(task: Task, *, tells: int = 0) -> str:
    for number in range(tells):
        task.progress(number / tells, f"step {number}")
    wait_for("go on", task)
    return "done"

@service.task("/nothing")
def nothing(task: Task) -> Result:
    return Result(None, status="done before: größer")

@service.task("/large")
def large(*, size: int) -> bytes:
    return b"x" * size

@service.task("/file")
def file(task: Task) -> Path:
    path = task.folder / "map.png"
    path.write_bytes(b"x" * 3_000_000)
    print("in", task.folder)
    return path

@service.task("/gone")
def gone(task: Task) -> Path:
    return task.folder / "nothing"

@service.task("/told")
def told(*, size: int) -> Result:
    return Result(b"a map", "image/png", "ü" * size)

@service.task("/fail")
def fail(*, text: str) -> None:
    raise Fail(text)

@service.task("/break", retry_on=[OSError])
def break_(*, name: str) -> None:
    raise {"ValueError": ValueError, "TimeoutError": TimeoutError, "SystemExit": SystemExit}[name]("a secret")

@service.task("/again")
def again() -> None:
    raise TryAgain(7, "the tiles are not there yet")

@service.task("/checkpoint")
def checkpoint(body: str, task: Task) -> str:
    if task.restored is None:
        task.checkpoint(body.encode() * 200_000)
        raise TryAgain(text="at the next attempt")
    return f"{len(task.restored)} bytes, attempt {task.attempt}"

@service.task("/first")
def first(task: Task) -> bytes:
    task.next("/second?least=1", {"from": "the first"}, query={"most": 2})
    return b"a map"

@service.task("/second")
def second(body: dict, task: Task, *, least: int, most: int) -> str:
    return f"{task.previous_result.decode()} {body['from']} {least} {most}"

@service.task("/draw")
def draw(body: bytes, task: Task, *, size: int) -> Result:
    task.next("/look")
    return Result(body * size, "image/png")

@service.task("/pass")
def pass_(task: Task, *, file: str = "") -> None:
    task.next("/look", Path(file) if file else None)

@service.task("/look")
def look(body: bytes, task: Task) -> dict:
    return {"bytes": len(body), "type": task.content_type, "attempt": task.attempt}

@service.task("/nowhere")
def nowhere(task: Task, *, path: str) -> None:
    task.next(path)

service.run()
"""


@pytest.fixture
def served(tmp_path: Path) -> Generator[tuple[PlayedBackbone, Service], None, None]:
    with serving(tmp_path, CODE) as both:
        yield both


def kinds(task: PlayedTask) -> list[str]:
    return [call.kind for call in task.calls]


def told(call: Call) -> dict[str, object]:
    return json.loads(call.body)


def beats_of(backbone: PlayedBackbone, task: PlayedTask) -> list[dict[str, object]]:
    calls = [call for call in task.calls if call.kind == "heartbeat"]
    return [beat for call in calls for beat in told(call)["Heartbeats"] if beat["TaskId"] == task.id]


def test_a_brief_task_costs_one_call(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, service = served
    task = backbone.submit("/count", "to be or not to be", query="least=3").wait()

    assert (task.state, task.status, task.json()) == ("completed", "completed", {"words": 1})
    assert kinds(task) == ["result"]
    call = task.calls[0]
    assert call.headers["x-task-slots"] == "1"
    assert call.headers["x-task-instance"] == task.answers[0].headers["x-task-instance"]
    assert call.headers["x-task-attempt"] == "1"
    assert call.headers["content-type"] == "application/json"
    assert task.answers[0].status == 202
    assert service.metrics()['taskbackbone_ended_total{outcome="completed"}'] == 1


def test_reports_continue_the_trace_of_their_task(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, _ = served
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    task = backbone.submit("/count", "a", traceparent=parent).wait()

    assert [call.headers["traceparent"] for call in task.calls] == [parent]


def test_a_longer_task_is_reported_running_and_tells_its_progress_in_heartbeats(
    served: tuple[PlayedBackbone, Service], tmp_path: Path
) -> None:
    backbone, _ = served
    task = backbone.submit("/wait", query="tells=500")

    task.until(lambda task: task.status == "running - step 499")
    (tmp_path / "go on").touch()
    task.wait()

    assert (task.state, task.result and task.result.data) == ("completed", b"done")
    running = [told(call) for call in task.calls if call.kind == "report"]
    assert [report["BackendStatus"] for report in running] == ["running"]
    assert running[0]["Status"] == "running - step 499"
    assert running[0]["Progress"] == pytest.approx(0.998)


def test_a_task_without_a_result_is_completed_with_a_report(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, _ = served
    task = backbone.submit("/nothing").wait()

    assert (task.state, task.status, task.result) == ("completed", "completed - done before: größer", None)
    assert kinds(task) == ["report"]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("there is nothing to see", "failed - there is nothing to see"),
        ("Failed: no picture", "Failed: no picture"),
        ("", "failed"),
    ],
)
def test_a_task_that_fails_has_the_functions_own_words(
    served: tuple[PlayedBackbone, Service], text: str, status: str
) -> None:
    backbone, _ = served
    task = backbone.submit("/fail", query="text=" + text.replace(" ", "%20")).wait()

    assert (task.state, task.status) == ("failed", status)
    assert kinds(task) == ["report"]


@pytest.mark.parametrize("name", ["ValueError", "SystemExit"])
def test_any_other_exception_fails_the_task_and_is_in_the_log_alone(
    served: tuple[PlayedBackbone, Service], name: str
) -> None:
    backbone, service = served
    task = backbone.submit("/break", query=f"name={name}").wait()

    assert (task.state, task.status) == ("failed", f"failed - {name}; see the service's log")
    assert f"[task {task.id}, attempt 1]: the attempt failed" in service.log
    assert f"{name}: a secret" in service.log
    assert len(service.workers()) == 1


def test_an_exception_of_retry_on_is_a_counted_release(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, _ = served
    task = backbone.submit("/break", query="name=TimeoutError").until(lambda task: task.attempt == 2)

    assert told(task.calls[0]) == {"Failed": True, "Status": "TimeoutError; see the service's log"}
    assert task.failures == 1


def test_try_again_is_a_counted_release_with_its_pause(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, _ = served
    task = backbone.submit("/again").until(lambda task: task.attempt == 2)

    expected = {"Failed": True, "RetryAfterSeconds": 7, "Status": "the tiles are not there yet"}
    assert told(task.calls[0]) == expected


def test_bad_input_fails_the_task_with_the_reason(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, _ = served

    unknown = backbone.submit("/count", "a", query="most=3").wait()
    picture = backbone.submit("/count", b"\xff", content_type="image/png").wait()

    assert (unknown.state, unknown.status) == ("failed", "failed - most is no parameter of this task")
    assert picture.state == "failed"
    assert "The body must be text/plain" in picture.status
    assert kinds(picture) == []


def test_a_checkpoint_is_there_for_the_next_attempt(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, _ = served
    task = backbone.submit("/checkpoint", "seven b").wait()

    assert task.result is not None
    assert task.result.data == b"1400000 bytes, attempt 2"
    # What takes longer than a second, as it may on a loaded machine, is reported as running besides.
    calls = [kind for kind in kinds(task) if kind != "report"]
    assert calls == ["lookup", "checkpoint", "release", "lookup", "result"]


def test_a_step_sends_its_task_on_with_its_result(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, _ = served
    task = backbone.submit("/first").wait()

    assert task.result is not None
    assert task.result.data == b"a map the first 1 2"
    assert task.attempt == 2
    assert kinds(task) == ["result", "next", "lookup", "result"]


def test_what_a_function_returns_is_the_body_of_the_next_one(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, _ = served
    task = backbone.submit("/draw", b"abc", query="size=1000000").wait()

    assert task.json() == {"bytes": 3_000_000, "type": "image/png", "attempt": 2}
    assert task.calls[1].headers["x-next-body"] == "result"


def test_a_function_that_returns_nothing_passes_its_body_on(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, _ = served
    task = backbone.submit("/pass", b"abc", content_type="image/x-any").wait()

    assert task.json() == {"bytes": 3, "type": "image/x-any", "attempt": 2}
    assert kinds(task) == ["next", "result"]


def test_a_file_goes_on_as_the_next_body(served: tuple[PlayedBackbone, Service], tmp_path: Path) -> None:
    backbone, _ = served
    (tmp_path / "a file.txt").write_bytes(b"x" * 2_000_000)
    task = backbone.submit("/pass", query="file=a%20file.txt").wait()

    assert task.json() == {"bytes": 2_000_000, "type": "text/plain", "attempt": 2}


def test_a_next_step_that_was_taken_is_not_taken_twice(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, _ = served
    lost: list[Call] = []

    def lose_one(call: Call) -> None:
        if call.kind == "next" and not lost:
            lost.append(call)
            raise ConnectionError("the answer is lost")

    backbone.on_applied = lose_one
    task = backbone.submit("/pass", b"abc").wait()
    backbone.until(lambda: kinds(task).count("next") == 2)

    assert [call.status for call in task.calls if call.kind == "next"] == [200, 200]
    assert task.attempt == 2


@pytest.mark.parametrize("path", ["/v1/../other", "/look?code=1"])
def test_a_path_that_cannot_be_is_an_error_of_the_function(served: tuple[PlayedBackbone, Service], path: str) -> None:
    backbone, _ = served
    task = backbone.submit("/nowhere", query=f"path={quote(path)}").wait()

    assert (task.state, task.status) == ("failed", "failed - ValueError; see the service's log")


def test_a_next_step_that_is_refused_fails_the_task(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, _ = served
    backbone.fault = lambda call: 400 if "/next/" in call.path else None
    task = backbone.submit("/nowhere", query="path=/v9/nothing").wait()

    assert task.state == "failed"
    assert task.status.startswith("failed - the backbone refused the next step")


def test_a_file_is_sent_as_the_result_and_its_folder_removed(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, service = served
    task = backbone.submit("/file").wait()

    assert task.result is not None
    assert (len(task.result.data), task.result.content_type) == (3_000_000, "image/png")
    folder = Path(service.log.partition("in /")[2].partition("\n")[0])
    eventually(lambda: not Path("/", folder).exists(), "its folder is still there")


def test_a_file_that_is_not_there_fails_the_task(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, service = served
    task = backbone.submit("/gone").wait()

    assert (task.state, task.status) == ("failed", "failed - FileNotFoundError; see the service's log")
    assert "which is not there" in service.log


@pytest.mark.parametrize(("size", "calls"), [(600, ["result"]), (700, ["result", "report"])])
def test_a_status_text_that_no_header_holds_comes_with_a_report(
    served: tuple[PlayedBackbone, Service], size: int, calls: list[str]
) -> None:
    backbone, _ = served
    task = backbone.submit("/told", query=f"size={size}").wait()

    assert (task.state, task.status) == ("completed", "completed - " + "ü" * size)
    assert task.result is not None
    assert task.result.data == b"a map"
    assert kinds(task) == calls


def test_a_result_that_the_backbone_does_not_take_fails_the_task_in_words(tmp_path: Path) -> None:
    with serving(tmp_path, CODE, max_body_bytes=2_000_000, max_upload_bytes=0) as (backbone, _):
        small = backbone.submit("/large", query="size=2000000").wait()
        large = backbone.submit("/large", query="size=2000001").wait()

        assert small.state == "completed"
        assert large.state == "failed"
        assert large.status == (
            "failed - the result is too large: 2,000,001 bytes are more than the 2,000,000 that the backbone takes"
        )
        assert [call.kind for call in backbone.calls].count("health") == 1
        assert kinds(large) == ["report"]


def test_a_result_that_is_refused_fails_the_task(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, _ = served
    backbone.fault = lambda call: 413 if call.path.endswith("/result") else None

    task = backbone.submit("/count", "a").wait()

    assert task.state == "failed"
    assert task.status.startswith("failed - the backbone refused the result")


def test_the_same_attempt_again_is_answered_200_and_not_run_twice(
    served: tuple[PlayedBackbone, Service], tmp_path: Path
) -> None:
    backbone, service = served
    task = backbone.submit("/wait").until(lambda task: task.state == "running")

    assert task.dispatch_again().status == 200
    (tmp_path / "go on").touch()
    task.wait()
    assert task.dispatch_again().status == 200
    assert service.metrics()['taskbackbone_accepted_total{kind="task"}'] == 1


def test_a_full_service_answers_503_and_tells_what_it_holds(
    served: tuple[PlayedBackbone, Service], tmp_path: Path
) -> None:
    backbone, service = served
    backbone.submit("/wait").until(lambda task: task.state == "running")

    answer = service.dispatch("/count", "another", body=b"a")

    assert (answer.status, answer.headers["x-task-slots"]) == (503, "1")
    assert "retry-after" not in answer.headers
    (tmp_path / "go on").touch()


def test_a_newer_attempt_stops_the_older_one(served: tuple[PlayedBackbone, Service]) -> None:
    _, service = served
    assert service.dispatch("/wait", "a-task", 1).status == 202
    eventually(lambda: service.metrics()["taskbackbone_running"] == 1, "it does not run")

    assert service.dispatch("/wait", "a-task", 2).status in (202, 503)
    eventually(lambda: service.metrics()['taskbackbone_ended_total{outcome="stopped"}'] == 1, "attempt 1 goes on")
    assert service.dispatch("/wait", "a-task", 1).status == 200  # late, and of no interest any more


def test_a_legacy_dispatch_without_attempt_and_lease_is_worked_on(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, service = served
    backbone.service_url = ""
    task = backbone.submit("/count", "a b")
    answer = service.ask("POST", "/count", b"a b", {"taskId": task.id, "Content-Type": "text/plain"})

    assert answer.status == 202
    task.wait()
    assert (task.state, task.json()) == ("completed", {"words": 2})
    assert "x-task-attempt" not in task.calls[-1].headers


@pytest.mark.parametrize(
    "headers", [{"taskId": "a/b"}, {"taskId": "a", "X-Task-Attempt": "x"}, {"taskId": "a", "X-Task-Lease": "x"}]
)
def test_a_malformed_dispatch_is_answered_400_and_takes_no_slot(
    served: tuple[PlayedBackbone, Service], headers: dict[str, str]
) -> None:
    _, service = served

    assert service.call("/count", b"a", **headers).status == 400
    assert service.call("/count", b"a").status == 200


def test_the_end_is_repeated_until_the_backbone_is_back(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, service = served
    backbone.fail_next(2, 503)
    task = backbone.submit("/count", "a").wait()

    assert task.state == "completed"
    assert [call.status for call in backbone.calls] == [503, 503, 200]
    eventually(lambda: service.metrics()["taskbackbone_reports_retried_total"] == 1, "no retry is counted")


def test_the_end_is_repeated_when_its_answer_was_lost(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, _ = served
    backbone.fail_next(1, 0)

    task = backbone.submit("/count", "a").wait()

    assert (task.state, task.attempt) == ("completed", 1)


def test_an_end_that_is_refused_is_logged_and_dropped(served: tuple[PlayedBackbone, Service]) -> None:
    backbone, service = served
    backbone.fail_next(1, 403)

    task = backbone.submit("/count", "a")

    service.until_log(f"the end of task {task.id}, attempt 1 was not taken: 403")
    assert [call.status for call in backbone.calls] == [403]
    eventually(lambda: service.metrics()["taskbackbone_running"] == 0, "its slot is not free")


def test_a_service_that_knows_no_backbone_takes_no_tasks(tmp_path: Path) -> None:
    with running(tmp_path, CODE) as service:
        assert service.dispatch("/count", "a-task", body=b"a").status == 503
        assert service.call("/count", b"a").status == 200
        assert "BACKBONE_URL is not set" in service.log


def test_direct_calls_in_flight_are_counted_if_the_service_has_a_cluster(tmp_path: Path) -> None:
    with serving(tmp_path, CODE, environment={"SERVICE_CLUSTER": "aks-1"}) as (backbone, service):
        key = "aks-1", "/wait"
        service.call("/count", b"a")
        assert service.dispatch("/wait", "a-task").status == 202
        eventually(lambda: ("aks-1", "/count") in backbone.api.in_flight, "nothing is counted")
        assert key not in backbone.api.in_flight  # a task is no direct call
    with serving(tmp_path, CODE, environment={"SERVICE_CLUSTER": "aks-1"}) as (backbone, service):
        from threading import Thread

        caller = Thread(target=service.call, args=("/wait",))
        caller.start()
        eventually(lambda: backbone.api.in_flight.get(key) == 1, "the call is not counted")
        service.stop()
        caller.join()
        assert backbone.api.in_flight[key] == 0
