"""docs/openapi.json is generated from the app, and the app does what it says (contract B0; Schemathesis)."""

import json
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jsonschema_rs
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.generation.feedback import NO_FEEDBACK
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cache_manager.many_api import NDJSON
from local.event_grid.schema import topic_id
from local.stack import NO_TLS, ROOT, SUBSCRIPTION, TOPIC, Stack
from tests.conftest import DESTINATION
from tests.scripted_backend import Answer, ScriptedBackend
from tests.waiting import PATIENCE_S

COMMITTED = ROOT / "docs" / "openapi.json"
DOCUMENT: dict[str, Any] = json.loads(COMMITTED.read_text())
API = schemathesis.openapi.from_path(COMMITTED)
OPERATIONS = {
    operation.definition.raw["operationId"]: operation
    for operation in (result.ok() for result in API.get_all_operations())
}
ANSWERS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

# What the fuzzed requests must reach at least, or they would have tested nothing.
REACHED = {
    "SubmitTask": {200, 202, 404},
    "SubmitMany": {202, 400},
    "WaitForTasks": {200},
    "GetTask": {200, 304, 404},
    "HeadTask": {200, 404},
    "CancelTask": {200, 404, 409},
    "ReplayTask": {202, 404, 409},
    "TaskHeartbeat": {200, 404, 409},
    "ListTasks": {200},
    "CreateBatch": {202, 404},
    "ListBatches": {200},
    "SealBatch": {200, 404},
    "GetTaskHistory": {200, 404},
    "PutTaskResult": {200, 404, 409},
    "GetTaskResult": {200, 404},
    "PutCheckpoint": {200, 404, 409},
    "GetCheckpoint": {200, 404},
    "HeadCheckpoint": {200, 404},
    "TaskHeartbeats": {200},
    "ReleaseTask": {404, 409},
    "NextStep": {400, 404, 409},
    "HeadTaskResult": {200, 404},
    "GetTaskBody": {200, 404},
    "HeadTaskBody": {200, 404},
    "PutSchedule": {200, 400},
    "GetSchedule": {200, 404},
    "DeleteSchedule": {204, 404},
    "PauseSchedule": {200, 404},
    "ResumeSchedule": {200, 404},
    "RunSchedule": {202, 404},
    "ListSchedules": {200},
    "CreateUpload": {201},
    "AllQueueDepths": {200},
    "QueueDepths": {200},
    "GetSeries": {200},
    "GetMetrics": {200},
    "ConfigureQueue": {200, 404},
    "ListRequests": {200},
    "Bulk": {200, 400},
    "GetCallback": {200, 404},
    "ResendCallbacks": {200, 404},
    "GetAudit": {200},
    "Health": {200},
    "HeadHealth": {200},
    "GetMe": {200},
    "CacheConnectorUpsert": {200, 400},
    "CacheConnectorGet": {200, 204},
    "CurrentProcessingUpsert": {200},
    "CurrentProcessingGet": {200, 204},
    "CurrentProcessingGetByPost": {200, 204},
    "BackendWebhook": {200},
    "BackendWebhookHandshake": {200},
}

# Operations that can tell bad input from good: the others take any text or bytes.
REFUSING = {
    "SubmitTask",
    "WaitForTasks",
    "GetTask",
    "TaskHeartbeat",
    "TaskHeartbeats",
    "ReleaseTask",
    "CreateUpload",
    "PutSchedule",
    "CreateBatch",
    "PutCheckpoint",
    "PutTaskResult",
    "ConfigureQueue",
    "Bulk",
    "ResendCallbacks",
    "CacheConnectorUpsert",
    "CurrentProcessingUpsert",
    "BackendWebhook",
}


@schemathesis.serializer(NDJSON, "multipart/mixed")
def as_it_is(context: schemathesis.SerializationContext, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


class Ground:
    """A running app with tasks of its own for the fuzzed requests to hit."""

    def __init__(self, stack: Stack, backend: ScriptedBackend) -> None:
        self.base_url = f"{stack.url}/api"
        self.key = {"x-functions-key": stack.key, "aeg-subscription-name": SUBSCRIPTION}
        self.path = f"v1/test/{uuid.uuid4().hex}"
        self.endpoint = f"{backend.url}/{self.path}"
        self.session = requests.Session()
        # A refused task has ended at once: nothing is left behind that would be tried again.
        backend.script(f"/{self.path}", Answer(status=400))
        with stack.client() as app:
            self.open = _kept(app, self.endpoint)
            self.ended = _kept(app, self.endpoint)
            self.cancelled = _kept(app, self.endpoint)
            app.delete(f"/api/v1/tasks/{self.cancelled}").raise_for_status()
            self.schedule = {"Path": f"/{self.path}", "Cron": "0 0 1 1 *"}
            app.put("/api/v1/schedules/fuzzed", json=self.schedule).raise_for_status()
            self.batch = app.post("/api/v1/batches").raise_for_status().json()["TaskId"]
            self.running = _kept(app, self.endpoint, BackendStatus="running")
            self.failed = _kept(app, self.endpoint, BackendStatus="failed", Body='"work"')
            app.put(f"/api/v1/tasks/{self.ended}/result", content=b"result").raise_for_status()
            done = {"TaskId": self.ended, "BackendStatus": "completed"}
            app.post("/api/CacheConnectorUpsert", json=done).raise_for_status()
            app.post(
                "/api/CurrentProcessingUpsert",
                json={"ApiPath": self.path, "ServiceCluster": "west", "IncrementBy": 1},
            ).raise_for_status()

    def lead(self, case: schemathesis.Case, turn: int) -> None:
        """Turn what was generated to what exists, in two of three cases."""
        third = turn % 3
        at_hand = {
            "CancelTask": self.cancelled,
            "ReplayTask": self.failed,
            "SealBatch": self.batch,
            **dict.fromkeys(("TaskHeartbeat", "PutCheckpoint", "GetCheckpoint", "HeadCheckpoint"), self.running),
            **dict.fromkeys(("GetTaskBody", "HeadTaskBody"), self.failed),
        }
        operation = str(case.operation.definition.raw["operationId"])
        known_id = (at_hand.get(operation, self.open), self.ended, None)[third]
        if "id" in case.path_parameters and known_id:
            case.path_parameters["id"] = known_id
        if "taskId" in case.query and known_id:
            case.query["taskId"] = known_id
        if "path" in case.path_parameters and (third < 2 or operation == "NextStep"):
            # Not the queue that the other requests' tasks stand in: a paused one would have them wait.
            case.path_parameters["path"] = self.path + ("/configured" if operation == "ConfigureQueue" else "")
        if {"cluster", "path"} <= case.query.keys() and third < 2:
            case.query |= {"cluster": "west", "path": self.path}
        if case.path == "/v1/submit/{path}" and third == 1:
            case.headers["Prefer"] = "wait=30"
            case.headers.pop("Idempotency-Key", None)
        if third < 2:
            case.headers.pop("Pipeline", None)
            case.headers.pop("Callback", None)
            case.headers.pop("X-Upload", None)
            case.headers.pop("Batch", None)
            case.query.pop("batch", None)
            case.query.pop("purge", None)  # other requests need the task
            if operation == "CreateBatch" and isinstance(case.body, dict):
                case.body.pop("Then", None)
        if "name" in case.path_parameters and third < 2:
            case.query.pop("owner", None)
            is_schedule = "/schedules/" in case.path
            schedule = "deleted" if operation == "DeleteSchedule" else "fuzzed"
            case.path_parameters["name"] = schedule if is_schedule else DESTINATION
        if operation == "PutSchedule":
            if third == 0 and isinstance(case.body, dict):
                case.body = {**self.schedule, "Body": case.body.get("Body")}
            elif third == 1:
                case.path_parameters["name"] = "deleted"
                case.body = dict(self.schedule)
        if operation == "Bulk" and isinstance(case.body, dict):
            case.body["Path"] = f"/{self.path}/of-bulk"  # not those of other tests
        if operation == "SubmitMany" and third < 2:
            case.media_type, case.body = NDJSON, ['{"Body": 1}\n{}\n', "no JSON\n"][third]
        if operation == "WaitForTasks" and isinstance(case.body, dict):
            case.body["Seconds"] = 0.001
        if operation == "PutTaskResult" and known_id:
            case.headers.pop("Content-Encoding", None)  # of bytes that nobody has encoded
        if operation == "GetTask" and third == 1:
            case.headers["If-None-Match"] = "*"
        if turn % 6 == 0:
            case.headers.pop("X-Task-Attempt", None)
        if "wait" in case.query:
            case.query["wait"] = min(case.query["wait"], 0.001)
        body = case.body[0] if isinstance(case.body, list) and case.body else case.body
        if case.path == "/CacheConnectorUpsert" and isinstance(body, dict) and third < 2:
            body["Endpoint"] = self.endpoint
        if case.path == "/BackendWebhook" and isinstance(case.body, dict | list):
            for event in case.body if isinstance(case.body, list) else [case.body]:
                event["source" if "specversion" in event else "topic"] = topic_id(TOPIC)

    def send(self, case: schemathesis.Case) -> requests.Response:
        # With the slashes within a path escaped, as generated clients send it.
        request = case.as_transport_kwargs(base_url=self.base_url, headers=self.key)
        return self.session.request(**request, timeout=PATIENCE_S, allow_redirects=False)


@pytest.fixture(scope="module")
def ground(stack: Stack, backend: ScriptedBackend) -> Iterator[Ground]:
    ground = Ground(stack, backend)
    yield ground
    ground.session.close()


@pytest.mark.contract("B0.3")
def test_committed_document_is_what_the_app_generates() -> None:
    generated = _python("from tools.openapi import generate; print(generate(), end='')")
    assert generated.returncode == 0, generated.stderr
    assert generated.stdout == COMMITTED.read_text(), "run: python -m tools.openapi"


@pytest.mark.contract("B0.3")
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            "OPERATIONS[:] = [each for each in OPERATIONS if each.function != 'CancelTask']",
            "functions without a documented operation: [('CancelTask', 'DELETE', '/v1/tasks/{id}')]",
        ),
        (
            "OPERATIONS[0] = replace(OPERATIONS[0], method='PATCH')",
            "functions without a documented operation: [('SubmitTask', 'POST', '/v1/submit/{path}')]",
        ),
        (
            "OPERATIONS.append(replace(OPERATIONS[1], method='DELETE'))",
            "documented operations without a function: [('GetTask', 'DELETE', '/v1/tasks/{id}')]",
        ),
    ],
    ids=["not documented", "with another method", "not there"],
)
def test_generator_fails_when_document_and_functions_differ(change: str, complaint: str) -> None:
    generated = _python(
        f"from dataclasses import replace; from tools.openapi import OPERATIONS, generate; {change}; generate()"
    )
    assert generated.returncode != 0
    assert complaint in generated.stderr


@pytest.mark.contract("B0.3")
def test_document_is_valid_openapi_and_names_each_operation_once() -> None:
    API.validate()
    ids = [operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))
    assert set(ids) == REACHED.keys()


@pytest.mark.contract("B16.16")
def test_a_pipeline_with_a_name_has_an_operation_of_its_own() -> None:
    backends = {"/v1/a": "https://a.example.org", "pipelines": {"/v1/find-all": ["/v1/a/x", "/v1/a/y"]}}
    written = _python(
        "import sys; from tools.openapi import with_pipelines; "
        f"print(with_pipelines(open({str(COMMITTED)!r}).read(), {json.dumps(backends)!r}))"
    )
    assert written.returncode == 0, written.stderr
    document = json.loads(written.stdout)
    schemathesis.openapi.from_dict(document).validate()
    operation = document["paths"]["/v1/submit/v1/find-all"]["post"]
    assert operation["operationId"] == "SubmitV1FindAll"
    assert "path" not in {parameter["in"] for parameter in operation["parameters"]}
    assert document["paths"].keys() - DOCUMENT["paths"].keys() == {"/v1/submit/v1/find-all"}


@pytest.mark.contract("B0.51")
def test_no_document_has_a_name_twice_in_any_case() -> None:
    objects = [(where, node["properties"]) for where, node in _nodes(DOCUMENT, "") if "properties" in node]
    assert len(objects) > 10
    for where, properties in objects:
        names = [name.lower() for name in properties]
        assert len(set(names)) == len(names), where


@pytest.mark.contract("B0.53")
def test_members_that_may_be_null_have_a_list_of_types() -> None:
    """Generators make empty classes of alternatives, and one that reads 3.1 understands the list."""
    nodes = dict(_nodes(DOCUMENT, ""))
    assert not [where for where, node in nodes.items() if "anyOf" in node or "allOf" in node]
    for where, node in nodes.items():
        if "oneOf" in node:
            named = [option["$ref"] for option in node["oneOf"]]
            assert sorted(node["discriminator"]["mapping"].values()) == sorted(named), where
    task = DOCUMENT["components"]["schemas"]["TaskView"]["properties"]
    assert task["ResultContentType"]["type"] == ["string", "null"]
    assert not [where for where, node in nodes.items() if "default" in node and "schemas" in where]


@pytest.mark.contract("B0.53")
def test_bytes_are_offered_as_a_type_that_generated_clients_send() -> None:
    binary = {"schema": {"type": "string", "format": "binary"}}
    paths = DOCUMENT["paths"]
    for body in (
        paths["/v1/submit/{path}"]["post"]["requestBody"],
        paths["/v1/tasks/{id}/result"]["put"]["requestBody"],
        paths["/v1/tasks/{id}/result"]["get"]["responses"]["200"],
    ):
        assert body["content"] == {"application/octet-stream": binary, "*/*": binary}
    count = paths["/CurrentProcessingGet"]["get"]["responses"]["200"]
    assert list(count["content"]) == ["text/plain"]


@pytest.mark.contract("B0.53")
def test_an_error_names_its_message_and_the_server_its_host() -> None:
    for name in ("ProblemDocument", "ConflictDocument"):
        assert DOCUMENT["components"]["schemas"][name]["properties"]["detail"]["x-ms-primary-error-message"] is True
    (server,) = DOCUMENT["servers"]
    assert server["url"] == "https://{host}/api"
    assert list(server["variables"]) == ["host"]


@pytest.mark.contract("B0.3")
def test_every_example_is_valid_by_its_schema() -> None:
    checked = 0
    for where, described, example in _examples(DOCUMENT["paths"], "paths"):
        validator = jsonschema_rs.validator_for({**described, "components": DOCUMENT["components"]})
        assert not [error.message for error in validator.iter_errors(example)], where
        checked += 1
    assert checked > 50


@pytest.mark.contract("B0.52")
def test_only_examples_of_legacy_calls_show_where_a_model_service_is() -> None:
    tasks = [
        (place, node)
        for where, _, example in _examples(DOCUMENT, "")
        for place, node in _nodes(example, where)
        if {"Endpoint", "EndpointPath"} <= node.keys()
    ]
    legacy = [(where, task) for where, task in tasks if "CacheConnector" in where]
    assert len(tasks) > len(legacy) > 0
    for where, task in tasks:
        if "CacheConnector" in where:
            assert task["Endpoint"] == f"https://models.example.org{task['EndpointPath']}", where
        else:
            assert task["Endpoint"] == task["EndpointPath"], where


@pytest.mark.contract("B0.33")
def test_no_answer_to_head_has_content() -> None:
    answers = {
        (path, status): answer
        for path, item in DOCUMENT["paths"].items()
        for status, answer in item.get("head", {"responses": {}})["responses"].items()
    }
    assert {status for _, status in answers} >= {"200", "400", "401", "404", "500", "503"}
    assert not [where for where, answer in answers.items() if {"content", "$ref"} & answer.keys()]


@pytest.mark.contract("B0.20", "B0.21")
@pytest.mark.parametrize("status", ["429", "500"])
def test_answers_that_the_host_may_give_itself_say_that_it_gives_no_content(status: str) -> None:
    responses = DOCUMENT["components"]["responses"]
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values():
            answer = operation["responses"][status]
            if "$ref" in answer:
                answer = responses[answer["$ref"].rpartition("/")[2]]
            assert "without content" in answer["description"], path


@pytest.mark.slow
@pytest.mark.contract("B0.3")
@pytest.mark.parametrize("name", OPERATIONS)
def test_good_requests_get_the_documented_answers(name: str, ground: Ground) -> None:
    statuses: Counter[int] = Counter()

    @_deterministic(max_examples=25)
    @given(case=OPERATIONS[name].as_strategy(feedback=NO_FEEDBACK))
    def exercise(case: schemathesis.Case) -> None:
        ground.lead(case, turn=statuses.total())
        response = ground.send(case)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=ANSWERS)

    exercise()
    assert REACHED[name] <= statuses.keys()


@pytest.mark.slow
@pytest.mark.contract("B0.2")
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name in REFUSING])
def test_bad_requests_are_refused_as_documented(name: str, ground: Ground) -> None:
    statuses: Counter[int] = Counter()

    # With good paths, so that it is the rest that is refused.
    place = {"id": ground.open if name == "PutTaskResult" else ground.ended, "path": ground.path}
    known = {each: value for each, value in place.items() if f"{{{each}}}" in OPERATIONS[name].path}

    @_deterministic(max_examples=25)
    @given(case=OPERATIONS[name].as_strategy(GenerationMode.NEGATIVE, feedback=NO_FEEDBACK, path_parameters=known))
    def exercise(case: schemathesis.Case) -> None:
        response = ground.send(case)
        # An empty parameter is none: the Functions host leaves it out.
        assume(parse_qs(urlsplit(str(response.request.url)).query, keep_blank_values=True).get("wait") != [""])
        statuses[response.status_code] += 1
        case.validate_response(response, checks=[*ANSWERS, negative_data_rejection])

    exercise()
    assert statuses[400] > 0


@pytest.mark.contract("B0.1")
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in ("Health", "HeadHealth")])
@pytest.mark.parametrize("key", [{}, {"x-functions-key": "guessed"}])
def test_every_operation_but_health_requires_the_key(name: str, key: dict[str, str], stack: Stack) -> None:
    operation = OPERATIONS[name]
    path = operation.path.replace("{id}", str(uuid.uuid4())).replace("{path}", "v1/test/keyless")
    response = httpx.request(
        operation.method, f"{stack.url}/api{path}", headers=key, timeout=PATIENCE_S, verify=NO_TLS
    )
    assert (response.status_code, response.content) == (401, b"")


def _deterministic(max_examples: int) -> settings:
    return settings(
        max_examples=max_examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def _kept(app: httpx.Client, endpoint: str, **more: str) -> str:
    task = app.post("/api/CacheConnectorUpsert", json={"Endpoint": endpoint, **more}).raise_for_status().json()
    return task["TaskId"]


def _nodes(node: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the document, with its place."""
    if isinstance(node, dict):
        yield where, node
        for name, child in node.items():
            if name not in ("example", "examples"):
                yield from _nodes(child, f"{where}/{name}")
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _nodes(child, f"{where}/{index}")


def _examples(node: Any, where: str) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Every example below *node* with the schema that stands beside it."""
    if isinstance(node, dict):
        if "schema" in node and "example" in node:
            yield where, node["schema"], node["example"]
        for name, named in node.get("examples", {}).items() if "schema" in node else ():
            yield f"{where}/{name}", node["schema"], named["value"]
        for name, child in node.items():
            yield from _examples(child, f"{where}/{name}")
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _examples(child, f"{where}/{index}")
