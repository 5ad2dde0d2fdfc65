"""Tasks of a service in R: what becomes of what the model does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import httpx
import pytest
from taskbackbone import TaskClient

from local.stack import Stack
from tests.r.conftest import LEASE_S, Place, Pod
from tests.telemetry.ingestion_double import IngestionDouble, Item
from tests.waiting import PATIENCE_S, eventually

TABLE = b'[{"name":"a","value":1.5},{"name":"b","value":null}]'


@pytest.fixture(scope="module")
def shared(
    house: Stack, places: list[Place], ingestion: IngestionDouble, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Pod, Place]]:
    """A service for tests that break nothing."""
    place = places.pop()
    environment = {
        "BACKBONE_URL": house.url,
        "BACKBONE_KEY": house.key,
        "SLOTS": "2",
        "SERVICE_STORAGE": house.azurite.url,
        "APPLICATIONINSIGHTS_CONNECTION_STRING": ingestion.connection_string,
        "SERVICE_OWNER": "somebody",
        "SERVICE_MODEL_FRAMEOWRK_VERSION": "R 4",
    }
    with Pod(tmp_path_factory.mktemp("shared"), place, environment) as pod:
        yield pod, place


@pytest.fixture(scope="module")
def ingestion() -> Iterator[IngestionDouble]:
    with IngestionDouble() as double:
        yield double


def test_the_model_works_in_a_process_of_its_own_and_the_server_stays_free(
    pod: Pod, place: Place, caller: TaskClient
) -> None:
    task = caller.submit(f"{place.path}/work", query={"seconds": 4})
    [child] = eventually(lambda: pod.pids_of(task.id))
    assert httpx.get(f"{pod.url}/readyz", timeout=PATIENCE_S).text == "ready"
    assert task.refresh().state in ("created", "running")
    assert task.result(PATIENCE_S).json() == {"seconds": 4, "pid": child}
    assert child != pod.pid


def test_a_model_that_says_nothing_for_two_leases_keeps_its_task(pod: Pod, place: Place, caller: TaskClient) -> None:
    task = caller.submit(f"{place.path}/work", query={"seconds": 2 * LEASE_S})
    task.wait(PATIENCE_S)
    assert (task.state, task.attempt) == ("completed", 1)
    assert len(pod.pids_of(task.id)) == 1


@pytest.mark.parametrize(
    ("kind", "state", "status", "content_type", "body"),
    [
        ("fail", "failed", "failed - the picture is black", None, None),
        ("error", "failed", "failed - an error in R; see the service's log", None, None),
        ("nothing", "completed", "completed", None, None),
        ("bytes", "completed", "completed", "application/octet-stream", bytes(range(256))),
        ("text", "completed", "completed", "text/plain; charset=utf-8", "café".encode()),
        (
            "table",
            "completed",
            "completed",
            "application/json",
            b'[{"name":"a","value":1.5},{"name":"b","value":null}]',
        ),
        ("file", "completed", "completed - one picture", "image/tiff", bytes(range(1, 101))),
        ("large", "completed", "completed", "application/octet-stream", b"\7" * 3_000_000),
        ("lost", "failed", "failed - an error in R; see the service's log", None, None),
        ("told", "completed", "completed - by its text", None, None),
        ("complete", "completed", "completed - by hand", None, None),
        ("failtask", "failed", "failed - by hand", None, None),
        ("words", "completed", "completed", None, None),
    ],
)
def test_a_task_ends_as_its_model_says(
    shared: tuple[Pod, Place],
    caller: TaskClient,
    app: httpx.Client,
    kind: str,
    state: str,
    status: str,
    content_type: str | None,
    body: bytes | None,
) -> None:
    _, place = shared
    task = caller.submit(f"{place.path}/ends/{kind}")
    task.wait(PATIENCE_S)
    assert (task.state, task.status, task.attempt) == (state, status, 1)
    answer = app.get(f"/api/v1/tasks/{task.id}/result")
    if body is None:
        assert answer.status_code == 404
    else:
        assert (answer.headers["content-type"], answer.content) == (content_type, body)


def test_the_log_says_what_went_wrong_and_neither_the_models_source_nor_its_arguments(
    shared: tuple[Pod, Place], caller: TaskClient
) -> None:
    pod, place = shared
    task = caller.submit(f"{place.path}/ends/error")
    task.wait(PATIENCE_S)
    [line] = [line for line in pod.trace("service.log").splitlines() if task.id in line and "Error" in line]
    assert line.endswith(f"task {task.id}: <simpleError in model(argument_1, argument_2): a secret of the model>")


def test_the_model_knows_its_task_and_what_its_file_has_defined(
    shared: tuple[Pod, Place], caller: TaskClient
) -> None:
    _, place = shared
    task = caller.submit(f"{place.path}/ends/context")
    assert task.result(PATIENCE_S).json() == {"task": task.id, "attempt": 1, "helper": "The Title"}


def test_a_result_that_is_too_large_for_the_app_goes_to_blob_storage(
    shared: tuple[Pod, Place], caller: TaskClient, app: httpx.Client
) -> None:
    _, place = shared
    task = caller.submit(f"{place.path}/ends/huge")
    task.wait(PATIENCE_S)
    assert (task.state, task.status, task.attempt) == ("completed", "completed - one scene", 1)
    answer = app.get(f"/api/v1/tasks/{task.id}/result?link=1")
    assert answer.status_code == 303
    assert httpx.get(answer.headers["location"], timeout=PATIENCE_S).content == b"\7" * 12_000_000
    assert answer.headers["repr-digest"].startswith("sha-256=:")


@pytest.mark.parametrize("size", [0, 5, 300_000])
def test_a_model_gets_the_body_as_a_file(shared: tuple[Pod, Place], caller: TaskClient, size: int) -> None:
    _, place = shared
    body = bytes(number % 256 for number in range(size))
    task = caller.submit(f"{place.path}/body", body)
    assert task.result(PATIENCE_S).json() == {"bytes": size, "md5": hashlib.md5(body).hexdigest()}


def test_a_legacy_handler_works_by_itself_and_ends_its_task_by_the_text(
    shared: tuple[Pod, Place], caller: TaskClient
) -> None:
    pod, place = shared
    task = caller.submit(f"{place.path}/legacy", {"run_id": "seven"})
    task.wait(PATIENCE_S)
    assert (task.state, task.status) == ("completed", "completed - seven")
    assert pod.trace(f"{task.id}.legacy").strip() == "completed"


def test_a_body_of_a_pipelines_step_arrives(shared: tuple[Pod, Place], caller: TaskClient) -> None:
    pod, place = shared
    task = caller.submit(f"{place.path}/on/v1/r/{place.name}")
    task.wait(PATIENCE_S)
    assert (task.state, task.status) == ("completed", 'completed - {"boxes":3}')
    assert eventually(lambda: pod.trace(f"{task.id}.sent")).strip() == "created"
    assert [event["EndpointPath"] for event in task.history()][-1] == place.path


def test_a_script_that_ends_has_sent_its_lines(ingestion: IngestionDouble, r: Callable[..., str]) -> None:
    code = "for (number in 1:150) log_info(paste('of a script', number))"
    r(code, APPLICATIONINSIGHTS_CONNECTION_STRING=ingestion.connection_string, BACKBONE_URL="")
    sent = {each.data["message"] for each in ingestion.items("Message")}
    assert {f"of a script {number}" for number in range(1, 151)} <= sent


def test_log_lines_go_to_application_insights(
    shared: tuple[Pod, Place], caller: TaskClient, ingestion: IngestionDouble
) -> None:
    _, place = shared
    task = caller.submit(f"{place.path}/logs")
    assert task.result(PATIENCE_S).text() == "logged"
    severities = {
        "a debug line": "Verbose",
        "an info line": "Information",
        "a warning": "Warning",
        "an error line": "Error",
        "an exception": "Critical",
    }

    def lines_by_text() -> dict[str, Item]:
        return {each.data["message"]: each for each in ingestion.items("Message")}

    eventually(lambda: severities.keys() <= lines_by_text().keys())
    lines = lines_by_text()
    assert {text: lines[text].data["severityLevel"] for text in severities} == severities
    assert lines["an info line"].properties["task_id"] == task.id
    assert lines["an info line"].properties["tile"] == "7"
    assert lines["an info line"].properties["service_owner"] == "somebody"
    assert lines["an info line"].properties["service_model_framework_version"] == "R 4"
    assert "task_id" not in lines["an exception"].properties
    assert lines["an exception"].operation_id == lines["a warning"].operation_id
