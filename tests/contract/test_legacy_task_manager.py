"""The legacy task managers (contract A7), in the manner of the Python and of the R package."""

from collections.abc import Iterator

import httpx
import pytest

from local.stack import Stack
from tests.contract.legacy_client import CallFailed, Style, TaskManager
from tests.contract.legacy_support import Endpoint, depth, kept_task, new_endpoint, stored
from tests.scripted_backend import ScriptedBackend
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="module", params=["python", "r"])
def tasks(request: pytest.FixtureRequest, stack: Stack) -> Iterator[TaskManager]:
    style: Style = request.param
    urls = stack.function_url("CacheConnectorUpsert"), stack.function_url("CacheConnectorGet")
    with httpx.Client(timeout=PATIENCE_S) as http:
        yield TaskManager(http, *urls, style)


@pytest.fixture
def endpoint(backend: ScriptedBackend) -> Endpoint:
    return new_endpoint(backend)


@pytest.mark.contract("A7.1")
def test_task_manager_finds_the_task_of_a_request(tasks: TaskManager, app: httpx.Client, endpoint: Endpoint) -> None:
    task = kept_task(app, endpoint)
    assert tasks.get_task_status(task["TaskId"]) == task


@pytest.mark.contract("A7.2")
def test_unknown_task_is_an_error_to_the_task_manager(tasks: TaskManager) -> None:
    with pytest.raises(CallFailed) as error:
        tasks.get_task_status("unknown-task")
    assert error.value.status == 204


@pytest.mark.contract("A7.3")
def test_updates_keep_the_endpoint_and_move_the_task_to_its_end(
    tasks: TaskManager, app: httpx.Client, endpoint: Endpoint
) -> None:
    task_id = kept_task(app, endpoint)["TaskId"]
    for status in ("running", "running - 50 %", "running - 99 %"):
        task = tasks.update_task_status(task_id, status)
        assert (task["Status"], task["BackendStatus"], task["Endpoint"]) == (status, "running", endpoint.url)
    assert depth(app, endpoint) == {"running": 1}
    task = tasks.complete_task(task_id, "completed - https://a.blob.core.windows.net/c/out.json?sig=x%2By%3D")
    assert task["Status"] == "completed - https://a.blob.core.windows.net/c/out.json?sig=x%2By%3D"
    assert (task["BackendStatus"], task["Endpoint"]) == ("completed", endpoint.url)
    assert tasks.get_task_status(task_id) == task
    assert depth(app, endpoint) == {"completed": 1}


@pytest.mark.contract("A7.4")
def test_failed_task_keeps_the_reason_of_the_model_service(
    tasks: TaskManager, app: httpx.Client, endpoint: Endpoint
) -> None:
    task_id = kept_task(app, endpoint)["TaskId"]
    tasks.update_task_status(task_id, "running")
    task = tasks.fail_task(task_id, "failed - the image is no image: 'ü\n'")
    assert (task["BackendStatus"], task["Status"]) == ("failed", "failed - the image is no image: 'ü\n'")
    assert depth(app, endpoint) == {"failed": 1}


@pytest.mark.contract("A7.5")
def test_task_may_complete_without_a_running_report(
    tasks: TaskManager, app: httpx.Client, endpoint: Endpoint
) -> None:
    task_id = kept_task(app, endpoint)["TaskId"]
    assert tasks.complete_task(task_id, "completed")["BackendStatus"] == "completed"


@pytest.mark.contract("A7.6")
def test_updates_never_publish_the_task(
    tasks: TaskManager, app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    waiting = kept_task(app, endpoint)["TaskId"]
    tasks.update_task_status(waiting, "running")
    tasks.complete_task(waiting, "completed")
    later = kept_task(app, endpoint)["TaskId"]
    tasks.add_pipeline_task(later, "test", "v1", endpoint.path.rpartition("/")[2], "published")
    assert backend.next_call(endpoint.path).body == b"published"
    assert backend.untaken(endpoint.path) == 0


@pytest.mark.contract("A7.7")
def test_pipeline_task_goes_to_another_api_of_the_same_host(
    tasks: TaskManager, app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    task_id = kept_task(app, endpoint)["TaskId"]
    tasks.update_task_status(task_id, "running")
    step = new_endpoint(backend)
    api = step.path.rpartition("/")[2]
    task = tasks.add_pipeline_task(task_id, "test", "v1", api, '{"step": 2}')
    assert (task["TaskId"], task["Endpoint"], task["BackendStatus"]) == (task_id, step.url, "created")
    call = backend.next_call(step.path)
    assert (call.task_id, call.body) == (task_id, b'{"step": 2}')
    assert depth(app, endpoint) == {}


@pytest.mark.contract("A7.8")
def test_pipeline_task_without_a_body_gets_the_original_body(
    tasks: TaskManager, app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    task_id = kept_task(app, endpoint, Body="the original")["TaskId"]
    step = new_endpoint(backend)
    tasks.add_pipeline_task(task_id, "test", "v1", step.path.rpartition("/")[2])
    assert backend.next_call(step.path).body == b"the original"


@pytest.mark.contract("A7.9")
def test_pipeline_task_to_an_unregistered_api_is_an_error_and_changes_nothing(
    tasks: TaskManager, app: httpx.Client, endpoint: Endpoint
) -> None:
    task = kept_task(app, endpoint)
    with pytest.raises(CallFailed) as error:
        tasks.add_pipeline_task(task["TaskId"], "nobody", "v1", "model", "{}")
    assert error.value.status == 400
    assert stored(app, task["TaskId"]) == task


@pytest.mark.contract("A7.10")
def test_adding_a_task_without_an_id_is_400(tasks: TaskManager) -> None:
    with pytest.raises(CallFailed) as error:
        tasks.add_task()
    assert error.value.status == 400


@pytest.mark.contract("A7.11")
def test_late_update_is_an_error_and_the_same_end_again_is_not(
    tasks: TaskManager, app: httpx.Client, endpoint: Endpoint
) -> None:
    task_id = kept_task(app, endpoint)["TaskId"]
    task = tasks.complete_task(task_id, "completed")
    assert tasks.complete_task(task_id, "completed") == task
    for call in (tasks.update_task_status, tasks.fail_task):
        with pytest.raises(CallFailed) as error:
            call(task_id, "late")
        assert error.value.status == 409
    assert stored(app, task_id) == task
