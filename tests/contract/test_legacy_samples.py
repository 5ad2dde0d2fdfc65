"""A service written as the samples of the legacy platform are (contract A7.13), on an app of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from local.azurite import Azurite
from local.redis_server import RedisServer
from local.stack import Stack
from tests.conftest import IN_A_HURRY
from tests.contract.legacy_client import Style, TaskManager
from tests.contract.legacy_service import RESULT, LegacyService
from tests.contract.legacy_support import finished, task_of, upsert
from tests.scripted_backend import ScriptedBackend
from tests.waiting import PATIENCE_S, eventually

LEASE_S, SILENT_S, MAX_ATTEMPTS = 2, 7, 3
"""The service is silent for longer than its attempts would last with plain leases."""
STYLES: tuple[Style, ...] = ("python", "r")
TABLE = "completed - https://a.example.org/table.csv"


@pytest.fixture
def own_stack(
    tmp_path_factory: pytest.TempPathFactory, azurite: Azurite, backend: ScriptedBackend
) -> Iterator[Stack]:
    """An app whose legacy services are silent for longer than their lease. It has its own Redis, since another
    reconciler would be more patient."""
    lease = {"url": backend.url, "lease_s": LEASE_S}
    with (
        RedisServer(tmp_path_factory.mktemp("redis")) as redis,
        Stack(
            tmp_path_factory.mktemp("stack"),
            redis=redis,
            azurite=azurite,
            backends={f"/v1/legacy-{style}": lease for style in STYLES},
            with_model=False,
            settings=IN_A_HURRY | {"MAX_ATTEMPTS": str(MAX_ATTEMPTS)},
        ) as stack,
    ):
        yield stack


@dataclass
class Submitted:
    """A service, and by its API the tasks that were submitted to it."""

    service: LegacyService
    tasks: dict[str, str]


def served(app: Stack, backend: ScriptedBackend, http: httpx.Client, style: Style) -> LegacyService:
    urls = app.function_url("CacheConnectorUpsert"), app.function_url("CacheConnectorGet")
    service = LegacyService(TaskManager(http, *urls, style), SILENT_S, f"legacy-{style}")
    service.serve(
        backend,
        {
            "detect": service.detect,
            "classify": service.classify,
            "reject": service.reject,
            "first-tells": service.first_step("detect", "update_task_status"),
            "first-completes": service.first_step("classify", "complete_task"),
            "first-waits": service.first_step("second", "complete_task"),
            "second": service.classify,
        },
    )
    return service


def submitted(http: httpx.Client, backend: ScriptedBackend, service: LegacyService) -> Submitted:
    apis = ("detect", "classify", "reject", "first-tells", "first-completes", "first-waits")
    url = f"{backend.url}/v1/{service.organization}"
    tasks = {
        api: upsert(http, TaskId=str(uuid.uuid4()), Endpoint=f"{url}/{api}", Body="{}", PublishToGrid=True)["TaskId"]
        for api in apis
    }
    return Submitted(service, tasks)


@pytest.mark.slow
@pytest.mark.contract("A1.41", "A1.43", "A1.44", "A1.46", "A1.47", "A7.13")
def test_a_service_written_as_the_samples_are_loses_nothing(own_stack: Stack, backend: ScriptedBackend) -> None:
    """Both styles run at once: most of the time goes into waiting for ends that take effect later."""
    with own_stack.client() as app, httpx.Client(timeout=PATIENCE_S) as service_http:
        services = [served(own_stack, backend, service_http, style) for style in STYLES]
        for service in services:  # there is no free slot
            app.patch(f"/api/v1/queues/v1/{service.organization}/second", json={"Paused": True}).raise_for_status()
        each = [submitted(app, backend, service) for service in services]
        for its in each:
            first_waits = its.tasks["first-waits"]
            eventually(lambda id_=first_waits: task_of(app, id_)["Status"] == "completed - the first step")
            assert task_of(app, first_waits)["BackendStatus"] == "created"
            second = f"/api/v1/queues/v1/{its.service.organization}/second"
            app.patch(second, json={"Paused": False}).raise_for_status()
        for its in each:
            all_ended_right(app, its)


def all_ended_right(app: httpx.Client, its: Submitted) -> None:
    ends = {api: finished(app, id_) for api, id_ in its.tasks.items()}
    for api in ("detect", "first-tells"):
        assert (ends[api]["BackendStatus"], ends[api]["Status"]) == ("completed", f"completed - {RESULT}")
    assert (ends["reject"]["BackendStatus"], ends["reject"]["Status"]) == ("failed", "failed: the image is no image")
    for api in ("classify", "first-completes", "first-waits"):  # they complete twice
        assert ends[api]["BackendStatus"] == "completed"
        eventually(lambda api=api: task_of(app, its.tasks[api])["Status"] == TABLE)
    assert {"detect", "classify", "second"} <= {*its.service.runs}
