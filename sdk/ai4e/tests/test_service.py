"""``APIService`` in one process, with the backbone played: what a request meets, and what its function gets."""

from __future__ import annotations

import importlib
import json
import signal
import threading
from typing import Any, Callable, Dict, List

import flask
import pytest
from task_management import api_task

from conftest import ScriptedBackbone, eventually

PREFIX = "/v1/my_api/tasker"


class Log:
    """Remembers what a service logs."""

    def __init__(self) -> None:
        self.exceptions: List[Any] = []
        self.metrics: List[Any] = []

    def log_exception(self, message: Any, taskId: Any = None) -> None:
        self.exceptions.append((message, taskId))

    def track_metric(self, name: str, value: float) -> None:
        self.metrics.append((name, value))


class Made:
    """A service with its app."""

    def __init__(self) -> None:
        self.log = Log()
        self.app = flask.Flask("service")
        with self.app.app_context():
            self.service = importlib.import_module("ai4e_service").APIService(self.app, self.log)
        self.manager = self.service.api_task_manager

    def post(self, path: str, document: Any = None, task_id: str = "", attempt: int = 1, **options: Any) -> Any:
        headers = {"taskId": task_id, "X-Task-Attempt": str(attempt), "X-Task-Lease": "60"} if task_id else {}
        headers.update(options.pop("headers", {}))
        options.setdefault("data", json.dumps(document))
        options.setdefault("content_type", "application/json")
        return self.app.test_client().post(PREFIX + path, headers=headers, **options)


@pytest.fixture
def make(monkeypatch: Any, tmp_path: Any) -> Any:
    """Makes a service; the test's process has its old handlers of signals again at the end."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setenv("API_PREFIX", PREFIX)
    monkeypatch.setattr(api_task, "LOCAL_BLOB_TEST_DIRECTORY", str(tmp_path))
    yield Made
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def made(make: Callable[[], Made], scripted: ScriptedBackbone) -> Made:
    return make()


class Gate:
    """A function that waits until it may go on."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.may_end = threading.Event()
        self.arguments: List[Dict[str, Any]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.arguments.append(kwargs)
        self.began.release()
        assert self.may_end.wait(60)
        return self.then(**kwargs)

    def then(self, **kwargs: Any) -> Any:
        return None


def ended(made: Made) -> bool:
    return not any(made.service.func_request_counts.values())


def test_a_function_gets_what_the_images_gave_it(made: Made, scripted: ScriptedBackbone) -> None:
    got: List[Any] = []

    @made.service.api_async_func(
        api_path="/example",
        methods=["POST"],
        request_processing_function=lambda request: {"data": request.get_json()},
        maximum_concurrent_requests=3,
        content_types=["application/json"],
        content_max_length=1000,
        trace_name="post:example",
    )
    def default_post(*args: Any, **kwargs: Any) -> None:
        body = kwargs["request"].get_data()  # the original gave a request that could not be used here
        got.append((kwargs["taskId"], kwargs["data"], kwargs["api_path"], body, kwargs["func"]))
        made.manager.CompleteTask(kwargs["taskId"], "completed")

    scripted.give("example", Attempt=2)
    answer = made.post("/example", {"a": 1}, "example", 2)
    assert (answer.status_code, answer.get_data(as_text=True)) == (200, "TaskId: example")
    eventually(lambda: scripted.tasks["example"]["BackendStatus"] == "completed")
    assert got[0][:4] == ("example", {"a": 1}, "/example", b'{"a": 1}')
    assert callable(default_post)
    eventually(lambda: ended(made))


@pytest.mark.parametrize("most", [1, 2])
def test_limits_hold_below_a_prefix(made: Made, scripted: ScriptedBackbone, most: int) -> None:
    """The original counted by one key and looked by another, so its limits never held below a prefix."""
    gate = Gate()
    made.service.api_async_func("/limited", ["POST"], maximum_concurrent_requests=most)(gate_function(gate))
    for number in range(most):
        scripted.give(f"limited-{number}")
        answer = made.post("/limited", {}, f"limited-{number}")
        assert (answer.status_code, answer.headers["X-Task-Slots"]) == (200, str(most))
    refused = made.post("/limited", {}, "one-more")
    assert refused.status_code == 503
    assert refused.headers["X-Task-Instance"] == answer.headers["X-Task-Instance"]
    gate.may_end.set()
    eventually(lambda: ended(made))
    assert made.post("/limited", {}, "one-more").status_code == 200


def gate_function(gate: Gate) -> Callable[..., Any]:
    def gated(*args: Any, **kwargs: Any) -> Any:
        return gate(*args, **kwargs)

    return gated


def test_a_limit_holds_for_requests_at_the_same_moment(made: Made, scripted: ScriptedBackbone) -> None:
    gate = Gate()
    made.service.api_async_func("/rush", ["POST"], maximum_concurrent_requests=3)(gate_function(gate))
    statuses: List[int] = []
    threads = [
        threading.Thread(target=lambda n=number: statuses.append(made.post("/rush", {}, f"rush-{n}").status_code))
        for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (statuses.count(200), statuses.count(503)) == (3, 9)
    gate.may_end.set()
    eventually(lambda: ended(made))


def test_limits_hold_for_paths_with_parameters_and_synchronous_functions(make: Any) -> None:
    made = make()
    gate = Gate()

    @made.service.api_sync_func("/echo/<string:text>", ["GET"], maximum_concurrent_requests=1)
    def echo(*args: Any, **kwargs: Any) -> str:
        gate(*args, **kwargs)
        return "Echo: " + kwargs["text"]

    client = made.app.test_client()
    answers: List[Any] = []
    first = threading.Thread(target=lambda: answers.append(client.get(PREFIX + "/echo/one")))
    first.start()
    assert gate.began.acquire(timeout=60)
    assert made.app.test_client().get(PREFIX + "/echo/two").status_code == 503
    gate.may_end.set()
    first.join()
    assert answers[0].get_data(as_text=True) == "Echo: one"
    assert made.app.test_client().get(PREFIX + "/echo/three").get_data(as_text=True) == "Echo: three"
    refusals = [value for name, value in made.log.metrics if name.startswith("REJECTED_STATE" + PREFIX + "/echo")]
    assert refusals == [0, 1, 0]


def test_a_function_without_a_limit_takes_any_number(made: Made, scripted: ScriptedBackbone) -> None:
    """The original compared with None, and answered 500."""
    gate = Gate()
    made.service.api_async_func("/unlimited", ["POST"])(gate_function(gate))
    for number in range(5):
        answer = made.post("/unlimited", {}, f"unlimited-{number}")
        assert answer.status_code == 200
        assert "X-Task-Slots" not in answer.headers
    gate.may_end.set()
    eventually(lambda: ended(made))


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),  # as the backbone dispatches what a gateway sent
        ("Application/JSON", 200),
        ("text/plain", 401),
        ("", 401),
    ],
)
def test_content_types_are_compared_without_their_parameters(make: Any, content_type: str, status: int) -> None:
    made = make()
    made.service.api_sync_func("/typed", ["POST"], content_types=["application/json"])(lambda **kwargs: "taken")
    assert made.post("/typed", {}, content_type=content_type).status_code == status


def test_a_body_that_is_too_long_is_refused_with_a_reason(make: Any) -> None:
    made = make()
    made.service.api_sync_func("/small", ["POST"], content_max_length=10)(lambda **kwargs: "taken")
    assert made.post("/small", data="0123456789").status_code == 200
    answer = made.post("/small", data="0123456789a")
    assert answer.status_code == 413
    assert answer.get_json()["detail"] == "Request content too large (11). Must be smaller than: 10"


def test_a_refused_request_takes_no_slot(make: Any) -> None:
    made = make()
    made.service.api_sync_func(
        "/once", ["POST"], maximum_concurrent_requests=1, content_types=["text/plain"], content_max_length=5
    )(lambda **kwargs: "taken")
    for _ in range(3):
        assert made.post("/once", {}).status_code == 401
        assert made.post("/once", data="too long", content_type="text/plain").status_code == 413
        assert made.app.test_client().open(PREFIX + "/once", method="OPTIONS").status_code == 200
        assert made.post("/once", data="short", content_type="text/plain").status_code == 200
    assert ended(made)


def test_a_request_whose_processing_fails_frees_its_slot(made: Made) -> None:
    def process(request: Any) -> Any:
        flask.abort(400)

    made.service.api_async_func("/bad", ["POST"], process, maximum_concurrent_requests=1)(lambda **kwargs: None)
    for _ in range(3):
        assert made.post("/bad", {}, "bad").status_code == 400


def test_an_exception_fails_the_task_and_its_text_stays_in_the_log(made: Made, scripted: ScriptedBackbone) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ValueError("the password is 1234")

    made.service.api_async_func("/broken", ["POST"], maximum_concurrent_requests=1)(broken)
    scripted.give("broken")
    assert made.post("/broken", {}, "broken").status_code == 200
    eventually(lambda: scripted.tasks["broken"]["BackendStatus"] == "failed")
    assert scripted.tasks["broken"]["Status"] == "Task failed - try again"
    eventually(lambda: ended(made))
    [(message, task_id)] = made.log.exceptions
    assert "the password is 1234" in message
    assert task_id == "broken"


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt, flask.Flask])
def test_whatever_a_function_raises_fails_its_task(made: Made, scripted: ScriptedBackbone, raised: Any) -> None:
    def stop(*args: Any, **kwargs: Any) -> None:
        flask.abort(404) if raised is flask.Flask else exec("raise raised", {"raised": raised})

    made.service.api_async_func("/stops", ["POST"])(stop)
    scripted.give("stops")
    made.post("/stops", {}, "stops")
    eventually(lambda: scripted.tasks["stops"]["BackendStatus"] == "failed")
    eventually(lambda: ended(made))


def test_an_exception_after_the_end_leaves_the_end(made: Made, scripted: ScriptedBackbone) -> None:
    def late(*args: Any, **kwargs: Any) -> None:
        made.manager.CompleteTask(kwargs["taskId"], "completed - all of it")
        raise ValueError("too late")

    made.service.api_async_func("/late", ["POST"])(late)
    scripted.give("late")
    made.post("/late", {}, "late")
    eventually(lambda: made.log.exceptions)
    eventually(lambda: not made.service._runs.all())
    assert scripted.tasks["late"]["Status"] == "completed - all of it"
    assert len(scripted.reports) == 1


def test_exceptions_of_synchronous_functions_are_500_and_aborts_are_themselves(make: Any) -> None:
    made = make()

    def broken(*args: Any, **kwargs: Any) -> None:
        flask.abort(404) if kwargs["text"] == "missing" else exec("raise ValueError('no')")

    made.service.api_sync_func("/sync/<text>", ["GET"], maximum_concurrent_requests=1)(broken)
    for _ in range(2):
        assert made.app.test_client().get(PREFIX + "/sync/missing").status_code == 404
        assert made.app.test_client().get(PREFIX + "/sync/broken").status_code == 500
    assert len(made.log.exceptions) == 4


def test_the_same_attempt_once_more_runs_once_even_if_the_service_is_full(
    made: Made, scripted: ScriptedBackbone
) -> None:
    gate = Gate()
    made.service.api_async_func("/twice", ["POST"], maximum_concurrent_requests=1)(gate_function(gate))
    scripted.give("come-twice")
    assert made.post("/twice", {}, "come-twice", 3).status_code == 200
    again = made.post("/twice", {}, "come-twice", 3)
    assert (again.status_code, again.get_data(as_text=True)) == (200, "TaskId: come-twice")
    assert made.post("/twice", {}, "come-twice", 4).status_code == 503
    gate.may_end.set()
    eventually(lambda: ended(made))
    assert len(gate.arguments) == 1


def test_a_slot_is_free_before_the_end_of_its_task_is_reported(made: Made, scripted: ScriptedBackbone) -> None:
    seen: List[int] = []

    def answer(path: str, query: str, document: Any) -> Any:
        if path.endswith("Upsert") and document["BackendStatus"] == "completed":
            seen.append(made.post("/next", {}, "the-next").status_code)
        return scripted.usual_answer(path, query, document)

    scripted.answer = answer
    scripted.give("the-first")
    made.service.api_async_func("/next", ["POST"], maximum_concurrent_requests=1)(
        lambda *args, **kwargs: (
            made.manager.CompleteTask(kwargs["taskId"], "completed") if kwargs["taskId"] == "the-first" else None
        )
    )
    made.post("/next", {}, "the-first")
    eventually(lambda: seen)
    assert seen == [200]


def test_functions_of_one_path_by_several_methods(make: Any) -> None:
    made = make()
    made.service.api_sync_func("/both", ["GET"])(lambda **kwargs: "got")
    made.service.api_sync_func("/both", ["POST"])(lambda **kwargs: "posted")
    assert made.app.test_client().get(PREFIX + "/both").get_data() == b"got"
    assert made.post("/both").get_data() == b"posted"


def test_without_a_prefix(make: Any, monkeypatch: Any) -> None:
    monkeypatch.delenv("API_PREFIX")
    made = make()
    made.service.api_sync_func("/plain", ["GET"])(lambda **kwargs: "plain")
    assert made.app.test_client().get("/").get_data() == b"Health check OK"
    assert made.app.test_client().get("/plain").get_data() == b"plain"


def test_alone_a_service_keeps_its_tasks_itself(make: Any) -> None:
    made = make()

    def example(*args: Any, **kwargs: Any) -> None:
        made.manager.UpdateTaskStatus(kwargs["taskId"], "running model")
        made.manager.CompleteTask(kwargs["taskId"], "completed")

    made.service.api_async_func("/example", ["POST"], maximum_concurrent_requests=1)(example)
    task_id = made.post("/example", {}).get_data(as_text=True).split(": ")[1]

    def told() -> Any:
        return made.app.test_client().get(PREFIX + "/task/" + task_id).get_json()

    eventually(lambda: told()["Status"] == "completed")
    assert sorted(told()) == ["Endpoint", "Status", "TaskId", "Timestamp"]
    assert told()["Endpoint"] == PREFIX + "/example"
    missing = made.app.test_client().get(PREFIX + "/task/none").get_json()
    assert (missing["TaskId"], missing["Status"]) == ("none", "Not found.")
    with pytest.raises(ValueError, match="Decorate your endpoint"):
        made.manager.UpdateTaskStatus("none", "running")


def test_alone_and_where_nothing_can_be_written_tasks_are_in_memory(
    make: Any, monkeypatch: Any, tmp_path: Any, caplog: Any
) -> None:
    monkeypatch.setattr(api_task, "LOCAL_BLOB_TEST_DIRECTORY", str(tmp_path / "missing"))
    manager = make().manager
    task = manager.AddTask(None)
    manager.UpdateTaskStatus(task["TaskId"], {"any": "thing"})
    assert manager.GetTaskStatus(task["TaskId"])["Status"] == {"any": "thing"}
    assert caplog.text.count("kept in memory") == 1


def test_alone_a_pipeline_calls_its_next_service(make: Any, scripted: ScriptedBackbone, monkeypatch: Any) -> None:
    monkeypatch.delenv("CACHE_CONNECTOR_UPSERT_URI")
    manager = make().manager
    task = manager.AddTask(None)
    told = manager.AddPipelineTask(task["TaskId"], "org", "v1", "next", '{"a": 1}')
    assert told == manager.GetTaskStatus(task["TaskId"])["Status"]
    assert told.endswith("the next service is: v1/org/next")
    monkeypatch.setenv("LOCAL_NEXT_API_HOST_IN_PIPELINE", scripted.url)
    assert manager.AddPipelineTask(task["TaskId"], "org", "v1", "next", {"a": 1}) == 200
    assert scripted.of("/v1/org/next") == [{"a": 1}]


# Requests in flight


@pytest.fixture
def counted(scripted: ScriptedBackbone, monkeypatch: Any) -> ScriptedBackbone:
    monkeypatch.setenv("CURRENT_PROCESSING_UPSERT_URI", scripted.url + "/api/CurrentProcessingUpsert?code=secret-key")
    monkeypatch.setenv("SERVICE_CLUSTER", "aks-1")
    return scripted


def in_flight(scripted: ScriptedBackbone) -> int:
    reports = [each for batch in scripted.of("/api/CurrentProcessingUpsert") for each in batch]
    return sum(each["IncrementBy"] - each["DecrementBy"] for each in reports)


@pytest.mark.parametrize("told", [None, "False", "registry.example.org/image"])
def test_requests_are_counted(make: Any, counted: ScriptedBackbone, monkeypatch: Any, told: Any) -> None:
    """The original compared a text with False, and never counted."""
    if told is not None:
        monkeypatch.setenv("DISABLE_CURRENT_REQUEST_METRIC", told)
    made = make()
    gate = Gate()
    made.service.api_async_func("/counted", ["POST"])(gate_function(gate))
    for number in range(2):
        counted.give(f"counted-{number}")
        made.post("/counted", {}, f"counted-{number}")
    eventually(lambda: in_flight(counted) == 2)
    gate.may_end.set()
    eventually(lambda: in_flight(counted) == 0)
    report = counted.of("/api/CurrentProcessingUpsert")[0][0]
    assert (report["ApiPath"], report["ServiceCluster"]) == (PREFIX + "/counted", "aks-1")
    assert report["Instance"]
    assert report["IntervalSeconds"] == 60


def test_a_count_whose_answer_was_lost_begins_anew(make: Any, counted: ScriptedBackbone) -> None:
    made = make()
    gate = Gate()
    made.service.api_async_func("/lost", ["POST"])(gate_function(gate))
    counted.by_path["/api/CurrentProcessingUpsert"] = 503
    counted.give("lost-count")
    made.post("/lost", {}, "lost-count")
    eventually(lambda: counted.of("/api/CurrentProcessingUpsert"))
    del counted.by_path["/api/CurrentProcessingUpsert"]
    eventually(lambda: len(counted.of("/api/CurrentProcessingUpsert")) >= 2)
    first, second = [batch[0] for batch in counted.of("/api/CurrentProcessingUpsert")][:2]
    assert first["Instance"] != second["Instance"]
    assert second["IncrementBy"] == 1
    gate.may_end.set()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DISABLE_CURRENT_REQUEST_METRIC", "True"),
        ("CURRENT_PROCESSING_UPSERT_URI", "registry.example.org/image"),  # as a chart of the platform has it
    ],
)
def test_requests_are_not_counted(
    make: Any, counted: ScriptedBackbone, monkeypatch: Any, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    made = make()
    before = {thread.ident for thread in threading.enumerate()}
    made.service.api_sync_func("/quiet", ["GET"])(lambda **kwargs: "quiet")
    assert made.app.test_client().get(PREFIX + "/quiet").status_code == 200
    assert {thread.ident for thread in threading.enumerate()} == before
    assert counted.of("/api/CurrentProcessingUpsert") == []
