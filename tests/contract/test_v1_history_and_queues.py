"""History and queue depths: what happened to one task, and where all of them stand."""

from typing import Any

import httpx
import pytest

from local.stack import Stack
from tests.contract.v1_support import ISO_TIME, complete_on_call, ended, hop, keep, new_path, report, submit, task_of
from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.waiting import eventually

QUEUE_KEYS = {
    "EndpointPath",
    "Waiting",
    "Dispatched",
    "Running",
    "Completed",
    "Failed",
    "Cancelled",
    "OldestWaitingSeconds",
    "InFlight",
    "Slots",
    "Limit",
    "Paused",
    "Draining",
}


def history(app: httpx.Client, task_id: str) -> list[dict[str, Any]]:
    document = app.get(f"/api/v1/tasks/{task_id}/history").raise_for_status().json()
    assert document.keys() == {"TaskId", "Events"}
    assert document["TaskId"] == task_id
    return document["Events"]


def queue(app: httpx.Client, path: str) -> dict[str, Any]:
    return app.get(f"/api/v1/queues{path}").raise_for_status().json()


def test_the_history_tells_time_status_attempt_and_cause_of_every_transition(
    app: httpx.Client, backend: ScriptedBackend, stack: Stack
) -> None:
    path = new_path()
    complete_on_call(stack, backend, path)
    task = ended(app, submit(app, path).json()["TaskId"])
    events = history(app, task["TaskId"])
    assert [(event["State"], event["Attempt"], event["Status"], event["Who"]) for event in events] == [
        ("created", 1, "created", "client"),
        ("dispatched", 1, "", "dispatcher"),
        ("running", 1, "on it", "client"),
        ("completed", 1, "done", "client"),
    ]
    assert all(event.keys() == {"Timestamp", "State", "Status", "Attempt", "Who"} for event in events)
    times = [event["Timestamp"] for event in events]
    assert all(ISO_TIME.fullmatch(time) for time in times)
    assert times == sorted(times)
    assert (times[0], times[-1]) == (task["CreatedAt"], task["Timestamp"])


def test_the_history_tells_of_attempts_that_failed(app: httpx.Client, backend: ScriptedBackend, stack: Stack) -> None:
    path = new_path()

    def reaction(call: Call) -> Answer:
        if call.attempt < 3:
            return Answer(status=(500, 429)[call.attempt - 1])
        with stack.client() as service:
            report(service, TaskId=call.task_id, BackendStatus="completed")
        return Answer()

    backend.react(path, reaction)
    task = ended(app, submit(app, path).json()["TaskId"])
    events = history(app, task["TaskId"])
    assert [(event["State"], event["Attempt"]) for event in events] == [
        ("created", 1),
        ("dispatched", 1),
        ("created", 2),
        ("dispatched", 2),
        ("created", 3),
        ("dispatched", 3),
        ("completed", 3),
    ]
    assert "500" in events[2]["Status"]
    assert events[4]["Status"] == "Awaiting service availability"


def test_reports_that_move_nothing_are_not_in_the_history(app: httpx.Client, backend: ScriptedBackend) -> None:
    task_id = keep(app, backend, BackendStatus="running")
    report(app, TaskId=task_id, Status="50 %")
    report(app, TaskId=task_id, BackendStatus="running")
    app.put(f"/api/v1/tasks/{task_id}/result", content=b"half")
    assert [event["State"] for event in history(app, task_id)] == ["running"]


def test_a_pipeline_hop_is_in_the_history_as_a_new_attempt(app: httpx.Client, backend: ScriptedBackend) -> None:
    task_id = keep(app, backend, BackendStatus="running", Body="{}")
    hop(app, task_id)
    assert [(event["State"], event["Attempt"]) for event in history(app, task_id)][:2] == [
        ("running", 1),
        ("created", 2),
    ]


def test_of_a_very_long_history_the_beginning_and_the_end_are_kept(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    path = new_path()
    task_id = keep(app, backend, path, Status="0")
    for step in range(1, 41):
        report(app, TaskId=task_id, Endpoint=f"{backend.url}{path}/{step % 2}", Status=str(step))
    statuses = [event["Status"] for event in history(app, task_id)]
    assert statuses == ["0", *(str(step) for step in range(10, 41))]


def test_a_queues_numbers_are_those_of_its_tasks_states(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    states = ["created"] * 4 + ["running"] * 3 + ["completed"] * 2 + ["failed"]
    ids = [keep(app, backend, path, BackendStatus=state) for state in states]
    # Not all were born where they stand.
    moved = [keep(app, backend, path) for _ in range(3)]
    for task_id, state in zip(moved, ("running", "completed", "failed"), strict=True):
        report(app, TaskId=task_id, BackendStatus=state)
    elsewhere = keep(app, backend, path)
    report(app, TaskId=elsewhere, Endpoint=f"{backend.url}{path}/next")

    told = [task_of(app, task_id)["BackendStatus"] for task_id in [*ids, *moved]]
    counted = queue(app, path)
    assert counted.keys() == QUEUE_KEYS
    assert counted["EndpointPath"] == path
    assert {
        "created": counted["Waiting"],
        "running": counted["Running"],
        "completed": counted["Completed"],
        "failed": counted["Failed"],
    } == {state: told.count(state) for state in ("created", "running", "completed", "failed")}
    assert (counted["Waiting"], counted["Running"], counted["Completed"], counted["Failed"]) == (4, 4, 3, 2)
    assert (counted["Dispatched"], counted["Cancelled"]) == (0, 0)
    assert queue(app, f"{path}/next")["Waiting"] == 1

    everywhere = {each["EndpointPath"]: each for each in app.get("/api/v1/queues").json()["Queues"]}
    assert everywhere[path] | {"OldestWaitingSeconds": 0} == counted | {"OldestWaitingSeconds": 0}
    assert everywhere[f"{path}/next"]["Waiting"] == 1
    assert list(everywhere) == sorted(everywhere)


def test_a_task_that_was_handed_over_but_not_reported_on_counts_as_dispatched(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    path = new_path()
    submit(app, path)
    eventually(lambda: queue(app, path)["Dispatched"] == 1)


def test_the_oldest_waiting_age_grows_while_something_waits_and_is_0_when_nothing_does(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    path = new_path()
    first, second = keep(app, backend, path), keep(app, backend, path)
    older = eventually(lambda: queue(app, path)["OldestWaitingSeconds"])
    assert eventually(lambda: queue(app, path)["OldestWaitingSeconds"] > older)
    report(app, TaskId=first, BackendStatus="running")
    report(app, TaskId=second, BackendStatus="running")
    assert queue(app, path)["OldestWaitingSeconds"] == 0


@pytest.mark.parametrize(
    "path",
    [
        "/v1/unheard-of",
        "/v1/test",
        "/x",
        "/a/b/c/d/e/f",
        "/v1/test/x:created",
        "/%C3%BCber",
        "/a%20b",
        "/" + "x" * 2000,
    ],
)
def test_an_unknown_queue_has_zeros_for_all_numbers(path: str, app: httpx.Client) -> None:
    counted = queue(app, f"{path}/{new_path().rpartition('/')[2]}")
    assert counted.keys() == QUEUE_KEYS
    assert (counted["Limit"], counted["Paused"], counted["Draining"]) == (None, False, False)
    numbers = [counted[name] for name in QUEUE_KEYS - {"EndpointPath", "Limit", "Paused", "Draining"}]
    assert set(numbers) == {0}
    assert all(type(number) in (int, float) for number in numbers)


def test_an_unknown_queue_is_not_made_by_asking_for_it(app: httpx.Client) -> None:
    path = new_path()
    queue(app, path)
    assert path not in [each["EndpointPath"] for each in app.get("/api/v1/queues").json()["Queues"]]


@pytest.mark.parametrize("route", ["/api/v1/queues", "/api/v1/queues/"])
def test_the_empty_path_means_all_queues(route: str, app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    keep(app, backend, path)
    document = app.get(route).raise_for_status().json()
    assert document.keys() == {"Queues"}
    assert all(each.keys() == QUEUE_KEYS for each in document["Queues"])
    assert [each["Waiting"] for each in document["Queues"] if each["EndpointPath"] == path] == [1]
