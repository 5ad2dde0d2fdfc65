"""History of a task (contract B6) and numbers of a queue (B9)."""

from typing import Any

import httpx
import pytest

from local.stack import Stack
from tests.contract.v1_support import (
    ISO_TIME,
    all_queues,
    complete_on_call,
    ended,
    keep,
    new_path,
    next_step,
    report,
    submit,
    task_of,
)
from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.waiting import eventually

QUEUE_KEYS = {
    "EndpointPath",
    "Waiting",
    "Delayed",
    "Demand",
    "Dispatched",
    "Running",
    "Completed",
    "Failed",
    "Cancelled",
    "OldestWaitingSeconds",
    "OldestWaitingSince",
    "InFlight",
    "Slots",
    "Limit",
    "Rate",
    "Burst",
    "PerOwner",
    "Owners",
    "Paused",
    "Draining",
    "SettingsChanged",
    "Outage",
    "Backend",
}


def history(app: httpx.Client, task_id: str) -> list[dict[str, Any]]:
    document = app.get(f"/api/v1/tasks/{task_id}/history").raise_for_status().json()
    assert document.keys() == {"TaskId", "Events"}
    assert document["TaskId"] == task_id
    return document["Events"]


def queue(app: httpx.Client, path: str) -> dict[str, Any]:
    return app.get(f"/api/v1/queues{path}").raise_for_status().json()


@pytest.mark.contract("B6.1")
def test_history_lists_time_status_attempt_and_actor_of_every_transition(
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
    keys = {"Timestamp", "State", "Status", "Attempt", "Who", "EndpointPath", "Reason"}
    assert all(event.keys() == keys for event in events[:-1])
    assert events[-1].keys() == keys | {"EndReason"}
    assert {event["EndpointPath"] for event in events} == {path}
    assert [event["Reason"] for event in events] == ["submit", "claim", "report", "report"]
    times = [event["Timestamp"] for event in events]
    assert all(ISO_TIME.fullmatch(time) for time in times)
    assert times == sorted(times)
    assert (times[0], times[-1]) == (task["CreatedAt"], task["Timestamp"])


@pytest.mark.contract("B6.2")
def test_history_lists_failed_attempts(app: httpx.Client, backend: ScriptedBackend, stack: Stack) -> None:
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


@pytest.mark.contract("B6.3")
def test_reports_that_change_no_state_are_not_in_the_history(app: httpx.Client, backend: ScriptedBackend) -> None:
    task_id = keep(app, backend, BackendStatus="running")
    report(app, TaskId=task_id, Status="50 %")
    report(app, TaskId=task_id, BackendStatus="running")
    app.put(f"/api/v1/tasks/{task_id}/result", content=b"half")
    assert [event["State"] for event in history(app, task_id)] == ["running"]


@pytest.mark.contract("B6.4")
def test_pipeline_step_is_a_new_attempt_in_the_history(app: httpx.Client, backend: ScriptedBackend) -> None:
    task_id = keep(app, backend, BackendStatus="running", Body="{}")
    next_step(app, task_id)
    assert [(event["State"], event["Attempt"]) for event in history(app, task_id)][:2] == [
        ("running", 1),
        ("created", 2),
    ]


@pytest.mark.contract("B6.5")
def test_long_history_keeps_its_beginning_and_its_end(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    task_id = keep(app, backend, path, Status="0")
    for step in range(1, 41):
        report(app, TaskId=task_id, Endpoint=f"{backend.url}{path}/{step % 2}", Status=str(step))
    statuses = [event["Status"] for event in history(app, task_id)]
    assert statuses == ["0", *(str(step) for step in range(10, 41))]


@pytest.mark.contract("B9.1")
def test_queue_numbers_equal_the_states_of_its_tasks(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    states = ["created"] * 4 + ["running"] * 3 + ["completed"] * 2 + ["failed"]
    ids = [keep(app, backend, path, BackendStatus=state) for state in states]
    # Some tasks were created in another state or on another path.
    moved = [keep(app, backend, path) for _ in range(3)]
    for task_id, state in zip(moved, ("running", "completed", "failed"), strict=True):
        report(app, TaskId=task_id, BackendStatus=state)
    elsewhere = keep(app, backend, path)
    report(app, TaskId=elsewhere, Endpoint=f"{backend.url}{path}/next")

    shown = [task_of(app, task_id)["BackendStatus"] for task_id in [*ids, *moved]]
    counted = queue(app, path)
    assert counted.keys() == QUEUE_KEYS
    assert counted["EndpointPath"] == path
    assert {
        "created": counted["Waiting"],
        "running": counted["Running"],
        "completed": counted["Completed"],
        "failed": counted["Failed"],
    } == {state: shown.count(state) for state in ("created", "running", "completed", "failed")}
    assert (counted["Waiting"], counted["Running"], counted["Completed"], counted["Failed"]) == (4, 4, 3, 2)
    assert (counted["Dispatched"], counted["Cancelled"]) == (0, 0)
    assert queue(app, f"{path}/next")["Waiting"] == 1

    everywhere = all_queues(app)
    assert everywhere[path] | {"OldestWaitingSeconds": 0} == counted | {"OldestWaitingSeconds": 0}
    assert everywhere[f"{path}/next"]["Waiting"] == 1
    assert list(everywhere) == sorted(everywhere)


@pytest.mark.contract("B9.2")
def test_accepted_task_without_a_report_counts_as_dispatched(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    submit(app, path)
    eventually(lambda: queue(app, path)["Dispatched"] == 1)


@pytest.mark.contract("B9.47")
def test_demand_counts_each_unfinished_task_once(app: httpx.Client, backend: ScriptedBackend, stack: Stack) -> None:
    path, unclaimed = new_path(), new_path()
    submit(app, path)
    accepted = eventually(lambda: (queue(app, path)["Dispatched"] == 1) and queue(app, path))
    assert (accepted["Waiting"], accepted["Running"], accepted["Demand"]) == (0, 0, 1), "it reports late"
    for state in ("running", "created", "created", "completed", "failed"):
        keep(app, backend, path, BackendStatus=state)
    assert queue(app, path)["Demand"] == 4

    stack.set_faults({"loseDelivery": {"probability": 1}})
    try:
        task_id = submit(app, unclaimed).json()["TaskId"]
        on_its_way = queue(app, unclaimed)
        assert (on_its_way["Waiting"], on_its_way["InFlight"], on_its_way["Demand"]) == (1, 1, 1)
    finally:
        stack.set_faults({})
    assert app.delete(f"/api/v1/tasks/{task_id}").status_code == 200
    assert queue(app, unclaimed)["Demand"] == 0


@pytest.mark.contract("B9.3")
def test_oldest_waiting_age_grows_while_a_task_waits_and_is_0_otherwise(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    path = new_path()
    first, second = keep(app, backend, path), keep(app, backend, path)
    older = eventually(lambda: queue(app, path)["OldestWaitingSeconds"])
    assert eventually(lambda: queue(app, path)["OldestWaitingSeconds"] > older)
    report(app, TaskId=first, BackendStatus="running")
    report(app, TaskId=second, BackendStatus="running")
    assert queue(app, path)["OldestWaitingSeconds"] == 0


@pytest.mark.contract("B9.4")
@pytest.mark.parametrize(
    "path",
    [
        "/v1/test",
        "/v1/listed",
        "/v1/test/a/b/c/d/e/f",
        "/v1%2Ftest%2fa/b",
        "/v1/test/x:created",
        "/v1/test/%C3%BCber",
        "/v1/test/a%20b",
    ],
)
def test_registered_queue_without_tasks_shows_zeros(path: str, app: httpx.Client) -> None:
    unused = new_path().rpartition("/")[2]
    counted = queue(app, f"{path}/{unused}")
    assert counted.keys() == QUEUE_KEYS
    assert counted["EndpointPath"].endswith(f"/{unused}")
    assert (counted["Limit"], counted["Paused"], counted["Draining"]) == (None, False, False)
    no_numbers = {
        "EndpointPath",
        "OldestWaitingSince",
        "Limit",
        "Rate",
        "Burst",
        "PerOwner",
        "Owners",
        "Paused",
        "Draining",
        "SettingsChanged",
        "Outage",
    }
    numbers = [counted[name] for name in QUEUE_KEYS - no_numbers - {"Backend"}]
    assert set(numbers) == {0}
    assert all(type(number) in (int, float) for number in numbers)


@pytest.mark.contract("B9.4")
def test_reading_a_queue_without_tasks_does_not_create_it(app: httpx.Client) -> None:
    path = new_path()
    queue(app, path)
    assert path not in all_queues(app)


@pytest.mark.contract("B9.5")
@pytest.mark.parametrize("route", ["/api/v1/queues", "/api/v1/queues/"])
def test_empty_path_lists_all_queues(route: str, app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    keep(app, backend, path)
    document = app.get(route, params={"limit": 200}).raise_for_status().json()
    assert document.keys() == {"Queues", "NextCursor"}
    assert all(each.keys() == QUEUE_KEYS for each in document["Queues"])
    assert [each["Waiting"] for each in document["Queues"] if each["EndpointPath"] == path] == [1]
