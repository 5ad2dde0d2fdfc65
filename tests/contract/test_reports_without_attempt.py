"""CacheConnectorUpsert (contract A1): reports without ``Attempt``, as legacy services send them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from local.azurite import Azurite
from local.redis_server import RedisServer
from local.stack import Stack
from tests.conftest import IN_A_HURRY
from tests.contract.legacy_client import Style, TaskManager
from tests.contract.legacy_service import RESULT, LegacyService
from tests.contract.legacy_support import Endpoint, depth, finished, kept_task, new_endpoint, stored, upsert
from tests.scripted_backend import Answer, ScriptedBackend
from tests.waiting import PATIENCE_S, eventually

LEASE_S, SILENT_S, MAX_ATTEMPTS = 2, 7, 3
"""The service is silent for longer than its attempts would last with plain leases."""


@pytest.fixture
def endpoint(backend: ScriptedBackend) -> Endpoint:
    return new_endpoint(backend)


def task_of(app: httpx.Client, task_id: str) -> dict[str, Any]:
    task = stored(app, task_id)
    assert task is not None
    return task


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


@pytest.mark.contract("A1.41", "A1.42")
def test_an_end_that_the_text_tells_takes_effect_unless_another_report_follows(
    app: httpx.Client, endpoint: Endpoint
) -> None:
    def told(*statuses: str) -> str:
        task_id = kept_task(app, endpoint)["TaskId"]
        for status in statuses:
            task = running(app, task_id, status)
            assert (task["BackendStatus"], task["Status"]) == ("running", status)
        return task_id

    progress = {
        status: told(status)
        for status in (
            "completed 3 of 10 tiles",
            "Completed download, running model",
            "Failed to open band 4, retrying",
        )
    }
    taken_back = told("completed - 3 of 10", "running - 4 of 10")
    completed, failed = told("completed - 3 of 10"), told("FAILED: no memory")
    assert depth(app, endpoint) == {"running": 6}

    for task_id, state, status in (
        (completed, "completed", "completed - 3 of 10"),
        (failed, "failed", "FAILED: no memory"),
    ):
        task = finished(app, task_id)
        assert (task["BackendStatus"], task["Status"]) == (state, status)
        assert history(app, task_id)[-1] == (state, status)
    for status, task_id in {**progress, "running - 4 of 10": taken_back}.items():
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
def test_an_end_is_kept_aside_while_the_next_step_was_not_heard_of(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    steps = [new_endpoint(backend) for _ in range(2)]
    task_ids = [handed_on(app, backend, endpoint, step) for step in steps]
    for step, task_id in zip(steps, task_ids, strict=True):
        backend.next_call(step.path)
        eventually(lambda step=step: depth(app, step) == {"dispatched": 1})
        task = upsert(app, TaskId=task_id, BackendStatus="completed", Status="the first step's end")
        assert (task["BackendStatus"], task["Status"]) == ("created", "the first step's end")
    heard_of, silent = task_ids
    assert running(app, heard_of, "second step")["BackendStatus"] == "running"

    assert finished(app, silent)["Status"] == "the first step's end"
    assert history(app, silent)[-1] == ("completed", "the first step's end")
    assert task_of(app, heard_of)["Status"] == "second step"
    task = upsert(app, TaskId=heard_of, BackendStatus="failed", Status="the second step's end")
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


@pytest.fixture(scope="module", params=["python", "r"])
def legacy(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[tuple[httpx.Client, LegacyService]]:
    """An app whose legacy service is silent for longer than its lease. It has its own Redis, since another
    reconciler would be more patient."""
    style: Style = request.param
    organization = f"legacy-{style}"
    with (
        RedisServer(tmp_path_factory.mktemp("redis")) as redis,
        Stack(
            tmp_path_factory.mktemp("stack"),
            redis=redis,
            azurite=azurite,
            backends={f"/v1/{organization}": {"url": backend.url, "lease_s": LEASE_S}},
            with_model=False,
            settings=IN_A_HURRY | {"MAX_ATTEMPTS": str(MAX_ATTEMPTS)},
        ) as stack,
        stack.client() as http,
        httpx.Client(timeout=PATIENCE_S) as service_http,
    ):
        urls = stack.function_url("CacheConnectorUpsert"), stack.function_url("CacheConnectorGet")
        yield http, LegacyService(TaskManager(service_http, *urls, style), SILENT_S, organization)


@pytest.mark.contract("A1.41", "A1.43", "A1.44", "A1.46", "A1.47", "A7.13")
def test_a_service_written_as_the_samples_are_loses_nothing(
    legacy: tuple[httpx.Client, LegacyService], backend: ScriptedBackend
) -> None:
    app, service = legacy
    apis = {
        "detect": service.detect,
        "classify": service.classify,
        "reject": service.reject,
        "first-tells": service.first_step("detect", "update_task_status"),
        "first-completes": service.first_step("classify", "complete_task"),
        "first-waits": service.first_step("second", "complete_task"),
        "second": service.classify,
    }
    service.serve(backend, apis)
    second = f"/v1/{service.organization}/second"
    app.patch(f"/api/v1/queues{second}", json={"Paused": True}).raise_for_status()  # there is no free slot
    tasks = {
        api: upsert(
            app,
            TaskId=str(uuid.uuid4()),
            Endpoint=f"{backend.url}/v1/{service.organization}/{api}",
            Body="{}",
            PublishToGrid=True,
        )["TaskId"]
        for api in apis
        if api != "second"
    }
    eventually(lambda: task_of(app, tasks["first-waits"])["Status"] == "completed - the first step")
    assert task_of(app, tasks["first-waits"])["BackendStatus"] == "created"
    app.patch(f"/api/v1/queues{second}", json={"Paused": False}).raise_for_status()

    table = "completed - https://a.example.org/table.csv"
    ends = {
        api: (task["BackendStatus"], task["Status"]) for api, id_ in tasks.items() if (task := finished(app, id_))
    }
    eventually(lambda: table == task_of(app, tasks["classify"])["Status"])  # completes twice
    assert ends["detect"] == ends["first-tells"] == ("completed", f"completed - {RESULT}")
    assert ends["reject"] == ("failed", "failed: the image is no image")
    for api in ("classify", "first-completes", "first-waits"):
        assert ends[api][0] == "completed"
        eventually(lambda api=api: task_of(app, tasks[api])["Status"] == table)
    assert {"detect", "classify", "second"} <= {*service.runs}
