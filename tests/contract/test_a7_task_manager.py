"""A7: what the existing model services call, in the manner of both of their packages."""

from collections.abc import Iterator

import httpx
import pytest

from local.stack import Stack
from tests.contract.legacy_client import CallFailed, Style, TaskManager
from tests.contract.part_a import Place, depth, kept_task, new_place, stored
from tests.scripted_backend import ScriptedBackend
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="module", params=["python", "r"])
def tasks(request: pytest.FixtureRequest, stack: Stack) -> Iterator[TaskManager]:
    style: Style = request.param
    urls = stack.function_url("CacheConnectorUpsert"), stack.function_url("CacheConnectorGet")
    with httpx.Client(timeout=PATIENCE_S) as http:
        yield TaskManager(http, *urls, style)


@pytest.fixture
def place(backend: ScriptedBackend) -> Place:
    return new_place(backend)


def test_the_task_that_a_request_names_is_found(tasks: TaskManager, app: httpx.Client, place: Place) -> None:
    task = kept_task(app, place)
    assert tasks.get_task_status(task["TaskId"]) == task


def test_a_task_that_nobody_knows_is_an_error(tasks: TaskManager) -> None:
    with pytest.raises(CallFailed) as error:
        tasks.get_task_status("nobody-knows-it")
    assert error.value.status == 204


def test_updates_keep_the_endpoint_and_take_the_task_through_its_life(
    tasks: TaskManager, app: httpx.Client, place: Place
) -> None:
    task_id = kept_task(app, place)["TaskId"]
    for status in ("running", "running - 50 %", "running - 99 %"):
        task = tasks.update_task_status(task_id, status)
        assert (task["Status"], task["BackendStatus"], task["Endpoint"]) == (status, "running", place.url)
    assert depth(app, place) == {"running": 1}
    task = tasks.complete_task(task_id, "completed - https://a.blob.core.windows.net/c/out.json?sig=x%2By%3D")
    assert task["Status"] == "completed - https://a.blob.core.windows.net/c/out.json?sig=x%2By%3D"
    assert (task["BackendStatus"], task["Endpoint"]) == ("completed", place.url)
    assert tasks.get_task_status(task_id) == task
    assert depth(app, place) == {"completed": 1}


def test_a_failed_task_tells_why(tasks: TaskManager, app: httpx.Client, place: Place) -> None:
    task_id = kept_task(app, place)["TaskId"]
    tasks.update_task_status(task_id, "running")
    task = tasks.fail_task(task_id, "failed - the image is no image: 'ü\n'")
    assert (task["BackendStatus"], task["Status"]) == ("failed", "failed - the image is no image: 'ü\n'")
    assert depth(app, place) == {"failed": 1}


def test_a_task_may_end_without_having_been_reported_as_running(
    tasks: TaskManager, app: httpx.Client, place: Place
) -> None:
    task_id = kept_task(app, place)["TaskId"]
    assert tasks.complete_task(task_id, "completed")["BackendStatus"] == "completed"


def test_updates_never_publish_the_task(
    tasks: TaskManager, app: httpx.Client, backend: ScriptedBackend, place: Place
) -> None:
    waiting = kept_task(app, place)["TaskId"]
    tasks.update_task_status(waiting, "running")
    tasks.complete_task(waiting, "completed")
    later = kept_task(app, place)["TaskId"]
    tasks.add_pipeline_task(later, "test", "v1", place.path.rpartition("/")[2], "published")
    assert backend.next_call(place.path).body == b"published"
    assert backend.untaken(place.path) == 0


def test_a_pipeline_task_goes_to_another_api_of_the_same_host(
    tasks: TaskManager, app: httpx.Client, backend: ScriptedBackend, place: Place
) -> None:
    task_id = kept_task(app, place)["TaskId"]
    tasks.update_task_status(task_id, "running")
    step = new_place(backend)
    api = step.path.rpartition("/")[2]
    task = tasks.add_pipeline_task(task_id, "test", "v1", api, '{"step": 2}')
    assert (task["TaskId"], task["Endpoint"], task["BackendStatus"]) == (task_id, step.url, "created")
    call = backend.next_call(step.path)
    assert (call.task_id, call.body) == (task_id, b'{"step": 2}')
    assert depth(app, place) == {}


def test_a_pipeline_task_without_a_body_gets_the_original_one(
    tasks: TaskManager, app: httpx.Client, backend: ScriptedBackend, place: Place
) -> None:
    task_id = kept_task(app, place, Body="the original")["TaskId"]
    step = new_place(backend)
    tasks.add_pipeline_task(task_id, "test", "v1", step.path.rpartition("/")[2])
    assert backend.next_call(step.path).body == b"the original"


def test_a_pipeline_task_for_an_api_that_is_not_registered_is_an_error_and_changes_nothing(
    tasks: TaskManager, app: httpx.Client, place: Place
) -> None:
    task = kept_task(app, place)
    with pytest.raises(CallFailed) as error:
        tasks.add_pipeline_task(task["TaskId"], "nobody", "v1", "model", "{}")
    assert error.value.status == 400
    assert stored(app, task["TaskId"]) == task


def test_adding_a_task_without_an_id_posts_no_body_and_always_got_400(tasks: TaskManager) -> None:
    with pytest.raises(CallFailed) as error:
        tasks.add_task()
    assert error.value.status == 400


def test_an_update_of_a_finished_task_is_an_error_and_the_same_end_again_is_none(
    tasks: TaskManager, app: httpx.Client, place: Place
) -> None:
    task_id = kept_task(app, place)["TaskId"]
    task = tasks.complete_task(task_id, "completed")
    assert tasks.complete_task(task_id, "completed") == task
    for call in (tasks.update_task_status, tasks.fail_task):
        with pytest.raises(CallFailed) as error:
            call(task_id, "late")
        assert error.value.status == 409
    assert stored(app, task_id) == task
