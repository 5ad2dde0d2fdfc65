"""What the task manager sends, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict

import pytest
from task_management import distributed_api_task, held_tasks
from task_management.api_task import ApiTaskManager, TaskManager
from task_management.distributed_api_task import DistributedApiTaskManager
from task_management.held_tasks import Heart, Held, TaskId, holdings

from conftest import ScriptedBackbone, eventually


class Dispatch:
    """A request as the backbone sends it."""

    path = "/v1/org/api"
    base_url = "http://service.example.org/v1/org/api"

    def __init__(self, task_id: str, attempt: int = 1, **headers: str) -> None:
        self.headers = {"taskId": task_id, "X-Task-Attempt": str(attempt), **headers}


def add(scripted: ScriptedBackbone, task_id: str, attempt: int = 1, **headers: str) -> Dict[str, Any]:
    scripted.give(task_id, Attempt=attempt)
    return TaskManager().AddTask(Dispatch(task_id, attempt, **headers))


def test_a_dispatched_task_is_told_as_it_is_stored(scripted: ScriptedBackbone) -> None:
    task = add(scripted, "told")
    assert task == scripted.tasks["told"]
    assert json.loads(json.dumps(task["TaskId"])) == "told"


def test_a_report_is_one_call_and_names_the_attempt(scripted: ScriptedBackbone) -> None:
    task = add(scripted, "fenced", 3)
    scripted.calls.clear()
    told = TaskManager().UpdateTaskStatus(task["TaskId"], "running model")
    assert told["BackendStatus"] == "running"
    assert len(scripted.calls) == 1
    assert scripted.reports[0] == {
        "TaskId": "fenced",
        "Attempt": 3,
        "BackendStatus": "running",
        "Status": "running model",
        "PublishToGrid": False,
    }


@pytest.mark.parametrize(
    "written", [lambda task_id: task_id, str, "{}".format, lambda task_id: json.loads(json.dumps(task_id))]
)
def test_the_attempt_is_known_however_the_service_writes_the_id(scripted: ScriptedBackbone, written: Any) -> None:
    task = add(scripted, "written", 2)
    TaskManager().CompleteTask(written(task["TaskId"]), "completed")
    assert scripted.reports[-1]["Attempt"] == 2


def test_an_older_attempt_never_reports_for_a_newer_one(scripted: ScriptedBackbone) -> None:
    older = add(scripted, "twice", 1)["TaskId"]
    newer = add(scripted, "twice", 2)["TaskId"]
    manager = TaskManager()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(manager.UpdateTaskStatus, str(older), "of the older").result()
    manager.UpdateTaskStatus(str(newer), "of the newer")
    manager.UpdateTaskStatus("twice", "of either")
    assert [report["Attempt"] for report in scripted.reports] == [1, 2, 1]


def test_an_attempt_stays_known_to_its_id_when_the_task_has_ended(scripted: ScriptedBackbone) -> None:
    task = add(scripted, "ended", 4)
    manager = TaskManager()
    manager.CompleteTask(task["TaskId"], "completed")
    manager.CompleteTask(task["TaskId"], "completed - in other words")
    assert [report["Attempt"] for report in scripted.reports] == [4, 4]
    assert holdings.find(task["TaskId"]) is None


def test_a_conflict_returns_the_task_and_raises_nothing(scripted: ScriptedBackbone, caplog: Any) -> None:
    task = add(scripted, "cancelled")
    stored = {"TaskId": "cancelled", "Status": "Cancelled", "BackendStatus": "cancelled", "Attempt": 1}
    scripted.answers.append((409, {"status": 409, "Task": stored}))
    manager = TaskManager()
    assert manager.UpdateTaskStatus(task["TaskId"], "running")["BackendStatus"] == "cancelled"
    scripted.answers.append((409, {"status": 409, "Task": stored}))
    assert manager.CompleteTask(task["TaskId"], "completed") == stored
    assert "secret-key" not in caplog.text


@pytest.mark.parametrize("failure", [503, 500, 429, 408])
def test_a_report_is_repeated_until_it_is_answered(scripted: ScriptedBackbone, failure: int) -> None:
    task = add(scripted, "repeated")
    scripted.answers += [failure, failure]
    assert TaskManager().CompleteTask(task["TaskId"], "completed")["BackendStatus"] == "completed"
    assert len(scripted.reports) == 3


def test_a_backbone_that_cannot_be_reached_raises_nothing(scripted: ScriptedBackbone, monkeypatch: Any) -> None:
    task = add(scripted, "unheard")
    scripted.close()
    monkeypatch.setenv("AI4E_RETRY_FOR_S", "0.2")
    assert TaskManager().UpdateTaskStatus(task["TaskId"], "running") == {"TaskId": "unheard", "Status": "not found"}


def test_a_refused_report_raises_nothing_and_is_logged_without_its_key(
    scripted: ScriptedBackbone, caplog: Any
) -> None:
    task = add(scripted, "refused")
    scripted.answers.append((400, {"detail": "Status: too long"}))
    with caplog.at_level(logging.INFO):
        told = TaskManager().UpdateTaskStatus(task["TaskId"], "running")
    assert told == {"TaskId": "refused", "Status": "not found"}
    assert "Status: too long" in caplog.text
    assert "secret-key" not in caplog.text


def test_a_dispatch_is_taken_while_the_backbone_does_not_answer(scripted: ScriptedBackbone, monkeypatch: Any) -> None:
    scripted.by_path["/api/CacheConnectorGet"] = 503
    task = TaskManager().AddTask(Dispatch("early", 7))
    assert (task["TaskId"], task["Status"]) == ("early", "created")
    TaskManager().UpdateTaskStatus(task["TaskId"], "running")
    assert scripted.reports[-1]["Attempt"] == 7


def test_an_end_told_by_the_text_alone_is_left_to_the_backbone(scripted: ScriptedBackbone) -> None:
    """Nobody here knows whether it was the service's last word. The backbone waits, for reports without attempt."""
    task = add(scripted, "by-text")
    manager = TaskManager()
    manager.UpdateTaskStatus(task["TaskId"], "completed 1 of 10 tiles")
    manager.UpdateTaskStatus(task["TaskId"], "completed - see https://example.org")
    assert [("Attempt" in report, report["BackendStatus"]) for report in scripted.reports] == [
        (True, "running"),
        (False, "running"),
    ]


def test_a_new_task_is_made_at_the_requests_url(scripted: ScriptedBackbone) -> None:
    request = Dispatch("")
    del request.headers["taskId"]
    task = TaskManager().AddTask(request)
    assert task["TaskId"] == "made"
    assert scripted.reports[0]["Endpoint"] == request.base_url
    assert scripted.reports[0]["PublishToGrid"] is False
    TaskManager().UpdateTaskStatus(task["TaskId"], "running")
    assert "Attempt" not in scripted.reports[-1]


def test_a_task_that_cannot_be_made_is_told_as_ever(scripted: ScriptedBackbone) -> None:
    scripted.answers.append(400)
    assert DistributedApiTaskManager().AddTask() == {"TaskId": "-1", "Status": "error"}


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ("text", "text"),
        (b"caf\xc3\xa9", "caf\xe9"),
        ({"boxes": []}, '{"boxes": []}'),
        (None, None),
    ],
)
def test_a_step_is_one_call_with_the_scheme_and_host_of_the_task(
    scripted: ScriptedBackbone, body: Any, sent: Any
) -> None:
    task = add(scripted, "step", 2)
    scripted.calls.clear()
    manager = TaskManager()
    manager.AddPipelineTask(task["TaskId"], "org", "v1", "next", body)
    assert len(scripted.calls) == 1
    report = scripted.reports[0]
    assert (report["Endpoint"], report["Body"]) == ("http://backend.example.org/v1/org/next", sent)
    assert (report["Attempt"], report["BackendStatus"], report["PublishToGrid"]) == (2, "created", True)
    manager.UpdateTaskStatus(task["TaskId"], "this step is over")
    assert scripted.reports[-1]["Attempt"] == 2  # which the backbone refuses


def test_a_step_of_a_task_that_is_not_known_asks_for_it(scripted: ScriptedBackbone) -> None:
    scripted.give("elsewhere")
    assert TaskManager().AddPipelineTask("elsewhere", "org", "v1", "next", "{}")["TaskId"] == "elsewhere"
    assert TaskManager().AddPipelineTask("nowhere", "org", "v1", "next", "{}") == {"TaskId": "-1", "Status": "error"}


def test_a_task_is_asked_for(scripted: ScriptedBackbone) -> None:
    scripted.give("known")
    assert TaskManager().GetTaskStatus("known")["Endpoint"] == "http://backend.example.org/v1/org/api"
    assert TaskManager().GetTaskStatus("unknown") == {"TaskId": "unknown", "Status": "not found"}


def test_the_methods_for_event_loops_return_json(scripted: ScriptedBackbone) -> None:
    scripted.give("loop")
    manager = DistributedApiTaskManager()
    loop = asyncio.new_event_loop()
    try:
        assert json.loads(loop.run_until_complete(manager.GetTaskStatusAsync("loop")))["TaskId"] == "loop"
        url = "http://backend.example.org/v1/org/next"
        assert json.loads(loop.run_until_complete(manager.AddPipelineTaskAsync("loop", url, "{}")))["Endpoint"] == url
    finally:
        loop.close()


# Heartbeats


@pytest.fixture
def heart(monkeypatch: Any) -> Heart:
    """A heart of the test's own."""
    heart = Heart()
    monkeypatch.setattr(distributed_api_task, "heart", heart)
    return heart


def run(task_id: Any, **options: Any) -> Held:
    options.setdefault("free_slot", lambda: None)
    held = DistributedApiTaskManager().run(task_id, **{"slots": 2, **options})
    assert held is not None
    return held


def beats(scripted: ScriptedBackbone, task_id: str) -> int:
    return sum(each["TaskId"] == task_id for told in scripted.of("/api/v1/heartbeats") for each in told["Heartbeats"])


def test_leases_are_renewed_while_the_function_runs_all_in_one_call(scripted: ScriptedBackbone, heart: Any) -> None:
    tasks = [add(scripted, f"beat-{number}", **{"X-Task-Lease": "1"})["TaskId"] for number in range(3)]
    held = [run(task_id) for task_id in tasks]
    eventually(lambda: beats(scripted, "beat-2") >= 2)
    assert any(len(told["Heartbeats"]) > 1 for told in scripted.of("/api/v1/heartbeats"))
    for each in held:
        DistributedApiTaskManager().drop(each)
    assert all("x-task-slots" in headers for _, path, headers, _ in scripted.calls if path == "/api/v1/heartbeats")


def test_heartbeats_go_on_while_the_function_computes_in_python(scripted: ScriptedBackbone, heart: Any) -> None:
    held = run(add(scripted, "busy", **{"X-Task-Lease": "1"})["TaskId"])
    total, seen = 0, 0
    while seen < 2:  # nothing in here waits for anything
        total += sum(range(1000))
        seen = beats(scripted, "busy")
    DistributedApiTaskManager().drop(held)


def test_a_heartbeat_that_is_refused_is_the_last_one(scripted: ScriptedBackbone, heart: Any) -> None:
    held = run(add(scripted, "lost", **{"X-Task-Lease": "1"})["TaskId"])
    outcome = {"TaskId": "lost", "StatusCode": 409, "BackendStatus": "cancelled"}
    scripted.by_path["/api/v1/heartbeats"] = (200, {"Outcomes": [outcome]})
    eventually(lambda: held.is_gone)
    assert TaskManager().UpdateTaskStatus(held.id, "running")["BackendStatus"] == "cancelled"
    assert scripted.reports == []


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_key_of_one_function_renews_leases_by_reports(
    scripted: ScriptedBackbone, heart: Any, status: int, caplog: Any
) -> None:
    scripted.by_path["/api/v1/heartbeats"] = status
    held = run(add(scripted, "one-key", **{"X-Task-Lease": "1"})["TaskId"])
    eventually(lambda: len(scripted.reports) >= 2)
    DistributedApiTaskManager().drop(held)
    assert scripted.reports[0] == {"TaskId": "one-key", "Attempt": 1, "BackendStatus": "running"}
    assert len(scripted.of("/api/v1/heartbeats")) == 1
    assert caplog.text.count("take a key of the host") == 1


def test_heartbeats_survive_an_outage(scripted: ScriptedBackbone, heart: Any) -> None:
    scripted.by_path["/api/v1/heartbeats"] = 503
    held = run(add(scripted, "outage", **{"X-Task-Lease": "1"})["TaskId"])
    eventually(lambda: beats(scripted, "outage") >= 2)
    del scripted.by_path["/api/v1/heartbeats"]
    before = beats(scripted, "outage")
    eventually(lambda: beats(scripted, "outage") > before + 1)
    assert not held.is_gone
    DistributedApiTaskManager().drop(held)


def test_a_function_that_is_silent_for_too_long_is_taken_for_hung(
    scripted: ScriptedBackbone, heart: Any, monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setenv("AI4E_MAX_SILENCE_S", "0")
    held = run(add(scripted, "hung", **{"X-Task-Lease": "1"})["TaskId"])
    eventually(lambda: "hung: nothing was reported" in caplog.text)
    assert beats(scripted, "hung") == 0
    DistributedApiTaskManager().drop(held)


def test_the_slot_is_free_before_the_end_is_reported(scripted: ScriptedBackbone, heart: Any) -> None:
    order = []
    held = run(add(scripted, "order")["TaskId"], free_slot=lambda: order.append(len(scripted.reports)))
    TaskManager().UpdateTaskStatus(held.id, "running")
    TaskManager().CompleteTask(held.id, "completed")
    assert order == [1]


@pytest.mark.parametrize(("text", "end"), [("completed - see URL", "completed"), ("failed: no text", "failed")])
def test_an_end_told_by_text_is_reported_when_the_function_has_returned(
    scripted: ScriptedBackbone, heart: Any, text: str, end: str
) -> None:
    held = run(add(scripted, "told-end")["TaskId"])
    TaskManager().UpdateTaskStatus(held.id, text)
    assert scripted.reports[-1]["BackendStatus"] == "running"
    DistributedApiTaskManager().ran(held)
    last = scripted.reports[-1]
    assert (last["Status"], last["BackendStatus"], last["Attempt"]) == (text, end, 1)


def test_a_function_that_returns_without_an_end_is_warned_of(
    scripted: ScriptedBackbone, heart: Any, caplog: Any
) -> None:
    held = run(add(scripted, "endless")["TaskId"])
    TaskManager().UpdateTaskStatus(held.id, "tile 7")
    DistributedApiTaskManager().ran(held)
    assert len(scripted.reports) == 1
    assert "neither completed nor failed" in caplog.text


def test_tasks_are_given_back_with_their_attempts(scripted: ScriptedBackbone, heart: Any) -> None:
    dispatched = run(add(scripted, "given-back", 5)["TaskId"])
    said = run(add(scripted, "said", 2)["TaskId"])
    TaskManager().UpdateTaskStatus(said.id, "completed")
    made = run(DistributedApiTaskManager().AddTask()["TaskId"])
    DistributedApiTaskManager().give_back([dispatched, said, made], "the service is stopping")
    [release] = [(headers, told) for _, path, headers, told in scripted.calls if path.endswith("/given-back/release")]
    assert (release[0]["x-task-attempt"], release[0]["x-task-slots"]) == ("5", "0")
    assert scripted.tasks["said"]["BackendStatus"] == "completed"
    assert scripted.tasks["made"]["Status"] == "failed - the service is stopping"


def test_ids_of_tasks_are_text() -> None:
    task_id = held_tasks.task_id_of("an id", 3)
    assert isinstance(str(task_id), TaskId)
    assert {task_id: 1}["an id"] == 1
    assert task_id == "an id"


def test_the_first_manager_of_2019_has_a_resource(scripted: ScriptedBackbone) -> None:
    flask = pytest.importorskip("flask")
    restful = pytest.importorskip("flask_restful")
    scripted.give("4711-a")
    for api in (lambda app: app, restful.Api):
        app = flask.Flask("first")
        ApiTaskManager(api(app), "/v1/pfx")
        told = app.test_client().get("/v1/pfx/task/4711-a").get_json()
        assert told["TaskId"] == "4711-a"
        assert told["Endpoint"] == "http://backend.example.org/v1/org/api"


def test_threads_share_what_is_held(scripted: ScriptedBackbone) -> None:
    task = add(scripted, "threads", 6)
    thread = threading.Thread(target=TaskManager().CompleteTask, args=("threads", "completed"))
    thread.start()
    thread.join()
    assert task["TaskId"].attempt == scripted.reports[-1]["Attempt"] == 6
