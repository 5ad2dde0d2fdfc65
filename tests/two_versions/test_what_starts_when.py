"""What a newer version has been asked for that the older one does not know: when a task starts, and how often. The
older one, alone at work, loses none of it; what it does not do, the newer one does when it is back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from tests.contract.v1_support import report, submit, task_of
from tests.scripted_backend import ScriptedBackend
from tests.two_versions.conftest import Versions
from tests.two_versions.test_two_versions import path_of

pytestmark = pytest.mark.slow


@pytest.fixture
def alone(versions: Versions) -> Iterator[Versions]:
    """Both, and Event Grid delivers to the older one."""
    versions.deliver_to(versions.older)
    yield versions
    versions.start_all()
    versions.deliver_to(versions.newer)


def test_a_task_that_starts_later_does_so_when_the_newer_version_is_back(
    alone: Versions, backend: ScriptedBackend
) -> None:
    older, newer, path = alone.older, alone.newer, path_of()
    created = submit(newer.app, path, Start_After="4").json()
    newer.host.stop()
    assert task_of(older.app, created["TaskId"])["BackendStatus"] == "created"
    at_work = submit(older.app, path).json()["TaskId"]
    assert backend.next_call(path).task_id == at_work
    report(older.app, TaskId=at_work, BackendStatus="completed")
    newer.host.start()
    call = backend.next_call(path)
    assert call.task_id == created["TaskId"]
    assert time.time() >= _seconds(created["StartAt"])
    report(older.app, TaskId=call.task_id, BackendStatus="completed")
    assert task_of(newer.app, call.task_id)["BackendStatus"] == "completed"


def test_a_rate_is_kept_by_the_older_version_and_holds_in_the_newer(
    alone: Versions, backend: ScriptedBackend
) -> None:
    older, newer, path = alone.older, alone.newer, path_of()
    newer.app.patch(f"/api/v1/queues{path}", json={"Rate": "1/600s", "Burst": True}).raise_for_status()
    first, second = (submit(version.app, path).json()["TaskId"] for version in (newer, older))
    called = {backend.next_call(path).task_id, backend.next_call(path).task_id}
    assert called == {first, second}, "what the older one grants is not counted"
    older.app.patch(f"/api/v1/queues{path}", json={"Limit": 5}).raise_for_status()
    queue = newer.app.get(f"/api/v1/queues{path}").json()
    assert (queue["Rate"], queue["Limit"]) == ("1/600s", 5)
    for task_id in called:
        report(newer.app, TaskId=task_id, BackendStatus="completed")


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
