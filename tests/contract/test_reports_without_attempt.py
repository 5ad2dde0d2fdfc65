"""CacheConnectorUpsert (contract A1): reports without ``Attempt``, as legacy services send them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.contract.legacy_support import Endpoint, depth, finished, kept_task, new_endpoint, task_of, upsert
from tests.scripted_backend import Answer, ScriptedBackend
from tests.waiting import eventually


@pytest.fixture
def endpoint(backend: ScriptedBackend) -> Endpoint:
    return new_endpoint(backend)


def running(app: httpx.Client, task_id: str, status: str) -> dict[str, Any]:
    return upsert(app, TaskId=task_id, BackendStatus="running", Status=status)


def history(app: httpx.Client, task_id: str) -> list[tuple[str, str]]:
    events = app.get(f"/api/v1/tasks/{task_id}/history").raise_for_status().json()["Events"]
    return [(event["State"], event["Status"]) for event in events]


def handed_on(app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, step: Endpoint) -> str:
    """A task whose first step has run and sent it to *step*."""
    task_id = upsert(app, Endpoint=endpoint.url, Body="first", PublishToGrid=True)["TaskId"]
    backend.next_call(endpoint.path)
    running(app, task_id, "first step")
    upsert(app, TaskId=task_id, Endpoint=step.url, BackendStatus="created", Body="second", PublishToGrid=True)
    return task_id


PROGRESS = ("completed 3 of 10 tiles", "Completed download, running model", "Failed to open band 4, retrying")


@dataclass
class Waiting:
    """Tasks some of which have an end that takes effect in 30 s. They are begun together, so that tests wait once.

    Attributes:
        progress: by their last text, those whose text tells no end.
        told: by the text, those whose text tells an end.
        silent, heard_of: handed on; the first step's end came, and of the second step nothing or a report.
    """

    progress: dict[str, str]
    told: dict[str, str]
    silent: str
    heard_of: str


@pytest.fixture(scope="module")
def waiting(app: httpx.Client, backend: ScriptedBackend) -> Waiting:
    endpoint = new_endpoint(backend)

    def told(*statuses: str) -> str:
        task_id = kept_task(app, endpoint)["TaskId"]
        for status in statuses:
            task = running(app, task_id, status)
            assert (task["BackendStatus"], task["Status"]) == ("running", status)
        return task_id

    progress = {status: told(status) for status in PROGRESS}
    progress["running - 4 of 10"] = told("completed - 3 of 10", "running - 4 of 10")
    ends = {status: told(status) for status in ("completed - 3 of 10", "FAILED: no memory")}
    assert depth(app, endpoint) == {"running": 6}

    steps = [new_endpoint(backend) for _ in range(2)]
    task_ids = [handed_on(app, backend, endpoint, step) for step in steps]
    for step, task_id in zip(steps, task_ids, strict=True):
        backend.next_call(step.path)
        eventually(lambda step=step: depth(app, step) == {"dispatched": 1})
        task = upsert(app, TaskId=task_id, BackendStatus="completed", Status="the first step's end")
        assert (task["BackendStatus"], task["Status"]) == ("created", "the first step's end")
    heard_of, silent = task_ids
    assert running(app, heard_of, "second step")["BackendStatus"] == "running"
    return Waiting(progress, ends, silent, heard_of)


@pytest.mark.contract("A1.41", "A1.42")
def test_an_end_that_the_text_tells_takes_effect_unless_another_report_follows(
    app: httpx.Client, waiting: Waiting
) -> None:
    for state, (status, task_id) in zip(("completed", "failed"), waiting.told.items(), strict=True):
        task = finished(app, task_id)
        assert (task["BackendStatus"], task["Status"]) == (state, status)
        assert history(app, task_id)[-1] == (state, status)
    for status, task_id in waiting.progress.items():
        task = task_of(app, task_id)
        assert (task["BackendStatus"], task["Status"]) == ("running", status)


@pytest.mark.contract("A1.43")
@pytest.mark.parametrize("state", ["running", "completed", "failed"])
def test_a_report_after_a_hand_on_changes_the_text_at_most_while_the_next_step_waits(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, state: str
) -> None:
    step = new_endpoint(backend)
    app.patch(f"/api/v1/queues{step.path}", json={"Paused": True}).raise_for_status()
    task_id = handed_on(app, backend, endpoint, step)
    task = upsert(app, TaskId=task_id, Endpoint=step.url, BackendStatus=state, Status="the first step's report")
    assert (task["BackendStatus"], task["Status"]) == ("created", "the first step's report")
    assert (depth(app, endpoint), depth(app, step)) == ({}, {"waiting": 1})

    app.patch(f"/api/v1/queues{step.path}", json={"Paused": False}).raise_for_status()
    assert backend.next_call(step.path).body == b"second"
    running(app, task_id, "second step")
    task = upsert(app, TaskId=task_id, BackendStatus="completed", Status="the second step's end")
    assert (task["BackendStatus"], task["Status"]) == ("completed", "the second step's end")


@pytest.mark.contract("A1.44")
def test_an_end_is_kept_aside_while_the_next_step_was_not_heard_of(app: httpx.Client, waiting: Waiting) -> None:
    assert finished(app, waiting.silent)["Status"] == "the first step's end"
    assert history(app, waiting.silent)[-1] == ("completed", "the first step's end")
    assert task_of(app, waiting.heard_of)["Status"] == "second step"
    task = upsert(app, TaskId=waiting.heard_of, BackendStatus="failed", Status="the second step's end")
    assert (task["BackendStatus"], task["Status"]) == ("failed", "the second step's end")


@pytest.mark.contract("A1.45")
@pytest.mark.parametrize("end", ["completed", "failed"])
def test_an_end_of_an_earlier_run_ends_the_task_while_a_newer_attempt_waits(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint, end: str
) -> None:
    backend.script(endpoint.path, Answer(503))
    task_id = upsert(app, Endpoint=endpoint.url, Body="{}", PublishToGrid=True)["TaskId"]
    eventually(lambda: app.get(f"/api/v1/tasks/{task_id}").json()["Attempt"] > 1)
    assert upsert(app, TaskId=task_id, BackendStatus=end, Status="the first run's")["BackendStatus"] == end
    assert depth(app, endpoint) == {end: 1}


@pytest.mark.contract("A1.47")
@pytest.mark.parametrize("end", ["completed", "failed"])
def test_the_same_end_again_replaces_the_text(app: httpx.Client, endpoint: Endpoint, end: str) -> None:
    task_id = kept_task(app, endpoint)["TaskId"]
    texts = [f"{end} - an image", f"{end} - a table", f"{end} - both"]
    for status in texts[:2]:
        task = upsert(app, TaskId=task_id, BackendStatus=end, Status=status)
        assert (task["BackendStatus"], task["Status"]) == (end, status)
    assert running(app, task_id, texts[2])["BackendStatus"] == end, "the text tells the same end"
    assert task_of(app, task_id)["Status"] == texts[2]
    assert history(app, task_id)[-3:] == [(end, status) for status in texts]
    assert depth(app, endpoint) == {end: 1}
