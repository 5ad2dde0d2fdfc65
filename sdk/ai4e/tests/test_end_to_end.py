"""Services on the drop-in beside the real app: dispatched by it, killed, stopped, two pods and several processes."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from conftest import Backbone, Place, Service, ask, eventually

Start = Callable[..., Service]


@pytest.fixture
def place(backbone: Backbone) -> Place:
    return backbone.place()


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """A folder in which functions tell how far they have come, and wait for files."""
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def began(marks: Path) -> List[int]:
    """The processes in which a function began, once for each time."""
    return [int(mark.name[6:]) for mark in marks.glob("began-*") for _ in mark.read_text()]


@pytest.mark.parametrize("server", ["flask", "gunicorn", "gthread", "preload"])
def test_a_task_goes_through(backbone: Backbone, place: Place, start: Start, server: str) -> None:
    start("steps", place, backbone.variables, server=server, workers=2)
    tasks = [backbone.create(place, "/words", {"text": "to be or not to be", "n": number}) for number in range(10)]
    for task_id in tasks:
        task = backbone.ended(task_id)
        assert (task["BackendStatus"], task["Status"]) == ("completed", "completed - 6 words")
        events = [(event["State"], event.get("Status")) for event in backbone.history(task_id)]
        assert ("running", "running model") in events
        assert [state for state, _ in events].count("running") == 1


def test_the_service_of_the_page_does_what_it_says(backbone: Backbone, place: Place, start: Start) -> None:
    folder = Path(__file__).parents[1]
    code = (folder / "example" / "runserver.py").read_text()
    assert f"```python\n{code}```" in (folder / "README.md").read_text()
    start("example", place, backbone.variables)
    headers = {"x-functions-key": backbone.key, "Content-Type": "text/plain", "Prefer": "wait=60"}
    url = f"{backbone.url}/api/v1/submit{place.path}/count"
    status, task = ask("POST", url, b"to be or not to be", headers)
    assert (status, task["BackendStatus"], task["Status"]) == (200, "completed", "completed - 6 words")


def test_callers_of_the_service_itself_see_the_task(backbone: Backbone, place: Place, start: Start) -> None:
    service = start("steps", place, backbone.variables)
    task_id = backbone.create(place, "/words", {"text": "to be"})
    backbone.ended(task_id)
    _, told = ask("GET", f"{service.url}{place.path}/task/{task_id}")
    assert (told["TaskId"], told["Status"]) == (task_id, "completed - 2 words")


def test_a_direct_call_gets_a_task_of_the_backbone(backbone: Backbone, place: Place, start: Start) -> None:
    service = start("steps", place, backbone.variables)
    status, told = ask("POST", service.url + place.path + "/words", {"text": "to be"})
    assert status == 200
    assert backbone.ended(told.split(": ")[1])["Status"] == "completed - 2 words"


def test_a_failure_fails_the_task(backbone: Backbone, place: Place, start: Start) -> None:
    start("steps", place, backbone.variables)
    failed = backbone.ended(backbone.create(place, "/words", {"text": "", "error": "secret"}))
    assert (failed["BackendStatus"], failed["Status"]) == ("failed", "Task failed - try again")
    empty = backbone.ended(backbone.create(place, "/words", "no json"))
    assert empty["BackendStatus"] == "failed"


@pytest.mark.parametrize(("text", "state"), [("to be", "completed"), ("", "failed")])
def test_an_end_told_by_the_text_counts_at_once(
    backbone: Backbone, place: Place, start: Start, text: str, state: str
) -> None:
    start("steps", place, backbone.variables)
    task_id = backbone.create(place, "/by_text", {"text": text})
    assert backbone.ended(task_id)["BackendStatus"] == state
    # The backbone itself would wait for 30 s.
    assert backbone.history(task_id)[-1]["Reason"] == "report"


def test_a_pipeline_of_two_services(backbone: Backbone, start: Start) -> None:
    first, second = backbone.place(), backbone.place()
    start("steps", first, backbone.variables)
    start("steps", second, backbone.variables, server="gunicorn")
    task_id = backbone.create(first, "/split", {"next": second.path + "/words"})
    task = backbone.ended(task_id)
    assert (task["Status"], task["EndpointPath"]) == ("completed - 3 words", second.path + "/words")
    assert "this step is over" not in [event.get("Status") for event in backbone.history(task_id)]


def test_a_cancelled_task_is_told_to_its_function(
    backbone: Backbone, place: Place, start: Start, marks: Path
) -> None:
    start("steps", place, backbone.variables)
    task_id = backbone.create(place, "/words", {"text": "to be", "marks": str(marks), "until": "go"})
    eventually(lambda: began(marks))
    status, _ = backbone.call("DELETE", "/api/v1/tasks/" + task_id)
    assert status in (200, 204)
    (marks / "go").touch()
    eventually(lambda: (marks / "ended").exists() and (marks / "ended").read_text())
    assert json.loads((marks / "ended").read_text())["BackendStatus"] == "cancelled"
    assert backbone.task(task_id)["BackendStatus"] == "cancelled"
    assert backbone.ended(backbone.create(place, "/words", {"text": "to be"}))["BackendStatus"] == "completed"


@pytest.mark.parametrize("server", ["flask", "gunicorn"])
def test_a_killed_service_loses_no_task(backbone: Backbone, start: Start, marks: Path, server: str) -> None:
    place = backbone.place("/v1/brief")
    service = start("steps", place, backbone.variables, server=server)
    task_id = backbone.create(place, "/words", {"text": "to be", "marks": str(marks), "until": "go"})
    eventually(lambda: began(marks))
    service.kill()
    (marks / "go").touch()
    service.start(server)
    task = backbone.ended(task_id)
    assert (task["BackendStatus"], task["Attempt"]) == ("completed", 2)
    assert len(began(marks)) == 2


def test_a_function_that_runs_for_longer_than_the_lease_keeps_its_task(
    backbone: Backbone, start: Start, marks: Path
) -> None:
    place = backbone.place("/v1/brief")
    start("steps", place, backbone.variables)
    task_id = backbone.create(place, "/words", {"text": "to be", "marks": str(marks), "seconds": 12})
    task = backbone.ended(task_id)
    assert (task["BackendStatus"], task["Attempt"], len(began(marks))) == ("completed", 1, 1)


def test_an_attempt_whose_heartbeats_were_kept_back_changes_nothing(
    backbone: Backbone, start: Start, marks: Path
) -> None:
    """The first attempt keeps the interpreter to itself for longer than the lease, and then reports its end."""
    place = backbone.place("/v1/brief")
    start("steps", place, backbone.variables)
    task_id = backbone.create(place, "/words", {"text": "to be", "marks": str(marks), "keeps": 8})
    task = backbone.ended(task_id)
    assert (task["BackendStatus"], len(began(marks))) == ("completed", 2)
    ends = [event["Attempt"] for event in backbone.history(task_id) if event["State"] == "completed"]
    assert ends == [task["Attempt"]]


def test_two_pods_share_the_tasks(backbone: Backbone, place: Place, start: Start) -> None:
    """Each process is full with two. The backbone fills them, and no task fails."""
    start("steps", place, backbone.variables, server="gunicorn", workers=2)
    tasks = [backbone.create(place, "/words", {"text": "a b", "seconds": 0.05, "n": number}) for number in range(40)]
    states = Counter(backbone.ended(task_id)["Status"] for task_id in tasks)
    assert states == {"completed - 2 words": 40}


@pytest.mark.parametrize("server", ["flask", "gunicorn", "gthread", "preload"])
def test_a_service_that_is_stopped_gives_its_tasks_back(
    backbone: Backbone, start: Start, marks: Path, server: str
) -> None:
    place = backbone.place()  # its lease is a minute: nobody waits for that
    variables = {**backbone.variables, "AI4E_DRAIN_S": "0.5"}
    service = start("steps", place, variables, server=server)
    task_id = backbone.create(place, "/words", {"text": "to be", "marks": str(marks), "until": "go"})
    eventually(lambda: began(marks))
    assert service.terminate() == 0, service.log.read_text()
    assert backbone.task(task_id)["BackendStatus"] == "created"
    assert "release" in [event["Reason"] for event in backbone.history(task_id)]
    (marks / "go").touch()
    service.start(server)
    task = backbone.ended(task_id)
    assert (task["BackendStatus"], len(began(marks))) == ("completed", 2)


@pytest.mark.parametrize("server", ["flask", "gunicorn"])
def test_a_service_that_is_stopped_lets_its_functions_end(
    backbone: Backbone, place: Place, start: Start, marks: Path, server: str
) -> None:
    variables = {**backbone.variables, "AI4E_DRAIN_S": "60"}
    service = start("steps", place, variables, server=server)
    task_id = backbone.create(place, "/words", {"text": "to be", "marks": str(marks), "until": "go"})
    eventually(lambda: began(marks))
    os.kill(service.process.pid, signal.SIGTERM)

    def refuses() -> bool:
        try:
            return ask("POST", service.url + place.path + "/words", {"text": "one more"})[0] == 503
        except OSError:
            return True  # gunicorn has closed its door

    eventually(refuses)
    (marks / "go").touch()
    assert service.process.wait(60) == 0
    task = backbone.task(task_id)
    assert (task["BackendStatus"], task["Attempt"]) == ("completed", 1)


def test_requests_in_flight_are_counted(backbone: Backbone, place: Place, start: Start, marks: Path) -> None:
    start("steps", place, backbone.variables)

    def counted() -> Any:
        path = f"&cluster=tests&path={place.path}/words"
        return ask("GET", backbone.function("CurrentProcessingGet") + path)[1]

    task_id = backbone.create(place, "/words", {"text": "to be", "marks": str(marks), "until": "go"})
    eventually(lambda: counted() == 1)
    (marks / "go").touch()
    backbone.ended(task_id)
    eventually(lambda: counted() == 0)


def test_a_service_of_2019_with_its_own_endpoint(backbone: Backbone, place: Place, start: Start) -> None:
    start("own_flask", place, backbone.variables)
    assert backbone.ended(backbone.create(place, "", "to be"))["Status"] == "completed - 2 words"
    by_text = backbone.create(place, "", "by text")
    task = backbone.ended(by_text)  # after 30 s: only the backbone can tell
    assert (task["BackendStatus"], task["Status"]) == ("completed", "completed - by text")


def test_alone_all_processes_of_a_service_know_its_tasks(place: Place, start: Start, tmp_path: Path) -> None:
    variables: Dict[str, str] = {"LOCAL_BLOB_TEST_DIRECTORY": str(tmp_path)}
    service = start("steps", place, variables, server="gunicorn", workers=4)

    def begin() -> Any:
        status, told = ask("POST", service.url + place.path + "/words", {"text": "a b c"})
        return told.split(": ")[1] if status == 200 else None  # one of the processes may be full

    tasks = [eventually(begin) for _ in range(8)]

    def told(task_id: str) -> Any:
        return ask("GET", f"{service.url}{place.path}/task/{task_id}")[1]["Status"]

    def is_completed(task_id: str) -> bool:
        return told(task_id) == "completed - 3 words"

    for task_id in tasks:
        eventually(partial(is_completed, task_id), partial(told, task_id))
