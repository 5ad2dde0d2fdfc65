"""Duplicate, lost and refused events, and publishes without an answer."""

from __future__ import annotations

import httpx

from local.stack import NO_TLS, Stack
from tests.end_to_end.backbone import Backbone
from tests.scripted_backend import ScriptedBackend
from tests.waiting import PATIENCE_S, eventually


def test_event_that_is_delivered_twice_is_dispatched_once(
    backbone: Backbone, backend: ScriptedBackend, faulty: Stack
) -> None:
    paths = [f"/v1/test/duplicate/{n}" for n in range(5)]  # in one queue, only the first task would need an event
    delivered = _stats(faulty)["delivered"]
    faulty.set_faults({"duplicate": {"probability": 1}})

    task_ids = [backbone.submit(path) for path in paths]

    assert [backend.next_call(path).task_id for path in paths] == task_ids
    _drain(faulty)
    assert _stats(faulty)["delivered"] >= delivered + len(task_ids)
    assert [backend.untaken(path) for path in paths] == [0] * 5
    for task_id in task_ids:
        assert backbone.transitions(task_id) == [("created", 1), ("dispatched", 1)]
        backbone.complete(task_id)


def test_tasks_are_dispatched_while_event_grid_delivers_nothing_and_health_says_so(
    backbone: Backbone, backend: ScriptedBackend, faulty: Stack
) -> None:
    path = "/v1/test/lost-delivery"
    faulty.set_faults({"loseDelivery": {"probability": 1}})
    for number in range(3):
        task_id = backbone.submit(f"{path}/{number}")
        assert backend.next_call(f"{path}/{number}").task_id == task_id
        assert backbone.transitions(task_id)[:2] == [("created", 1), ("dispatched", 1)], "the same attempt"
        backbone.complete(task_id)
        health = backbone.http.get("/api/v1/health").json()
        assert (health["Status"], health["Dependencies"]["EventGrid"]) == ("degraded", "unavailable")


def test_task_is_dispatched_at_once_although_event_grid_refuses_its_event(
    backbone: Backbone, backend: ScriptedBackend, faulty: Stack
) -> None:
    path = "/v1/test/refused-publish"
    faulty.set_faults({"refusePublish": {"probability": 1, "status": 503}})
    task_id = backbone.submit(path)
    assert backend.next_call(path).task_id == task_id
    backbone.complete(task_id)


def test_task_whose_publish_got_no_answer_is_dispatched_once(
    backbone: Backbone, backend: ScriptedBackend, faulty: Stack
) -> None:
    path = "/v1/test/lost-publish-response"
    faulty.set_faults({"losePublishResponse": {"probability": 1}})

    task_id = backbone.submit(path)

    assert backend.next_call(path).task_id == task_id
    faulty.set_faults({})
    _drain(faulty)
    assert backend.untaken(path) == 0
    backbone.complete(task_id)


def test_tasks_are_accepted_and_dispatched_while_event_grid_is_down(
    backbone: Backbone, backend: ScriptedBackend, stack: Stack
) -> None:
    path = "/v1/test/grid-away"
    stack.event_grid.stop()
    try:
        task_id = backbone.submit(path)
        eventually(lambda: backbone.http.get("/api/v1/health").json()["Dependencies"]["EventGrid"] == "unavailable")
        health = backbone.http.get("/api/v1/health")
        assert health.status_code == 200, "tasks are safe, so the app counts as up"
        assert health.json()["Status"] == "degraded"
        assert backend.next_call(path).task_id == task_id
        backbone.complete(task_id)
    finally:
        stack.event_grid.start()


def test_next_step_whose_event_was_lost_is_dispatched_after_its_deadline(
    backbone: Backbone, backend: ScriptedBackend, faulty: Stack
) -> None:
    first, second = "/v1/test/lost-next-step/1", "/v1/test/lost-next-step/2"
    task_id = backbone.submit(first)
    backend.next_call(first)
    faulty.set_faults({"loseDelivery": {"probability": 1}})
    next_step = backbone.update(task_id, "created", Endpoint=backend.url + second, PublishToGrid=True, Body="{}")
    assert next_step.status_code == 200
    assert backend.next_call(second).attempt == 2
    backbone.complete(task_id)


def _stats(stack: Stack) -> dict[str, int]:
    return (
        httpx.get(f"{stack.event_grid_url}/control/stats", timeout=PATIENCE_S, verify=NO_TLS)
        .raise_for_status()
        .json()
    )


def _drain(stack: Stack) -> None:
    """Wait until every due delivery has been answered."""
    address = f"{stack.event_grid_url}/control/drain"
    answer = httpx.post(address, json={"timeoutSeconds": PATIENCE_S}, timeout=2 * PATIENCE_S, verify=NO_TLS)
    assert answer.raise_for_status().json() == {"drained": True}
