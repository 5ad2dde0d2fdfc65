"""HTTP as both APIs speak it to the Functions host (contract A0 and B0): bodies that it loses, and what its answers
need."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import azure.functions as func
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from local.stack import ROOT
from shared.settings import Settings
from tests.contract.v1_support import (
    INLINE_LIMIT_BYTES,
    UNKNOWN_ID,
    assert_problem,
    keep,
    new_path,
    pattern_bytes,
    task_of,
)
from tests.in_process import InProcessApp
from tests.scripted_backend import ScriptedBackend

OPENAPI: dict[str, Any] = json.loads((ROOT / "docs" / "openapi.json").read_text())
LARGE = pattern_bytes(INLINE_LIMIT_BYTES + 1)

Call = Callable[..., func.HttpResponse]


@pytest.fixture(scope="module")
def call(redis_server: RedisServer | RedisCluster, azurite: Azurite, backend: ScriptedBackend) -> Iterator[Call]:
    """Call a function of the app without a host, so that all that it answers is seen."""
    environ = {
        "REDIS_CONNECTION_STRING": redis_server.url,
        "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
        "BACKENDS": json.dumps({"/v1/test": backend.url}),
        "ALLOW_LOOPBACK_BACKENDS": "true",
        "AzureWebJobsStorage": azurite.connection_string,
        "GATEWAY_KEY": "the gateway's key",
    }
    app = InProcessApp(Settings.from_env(environ))
    with asyncio.Runner() as runner:

        def call(*names: str, **request: Any) -> func.HttpResponse:
            return runner.run(app.call(*names, **request))

        yield call

        async def close() -> None:
            await app.services.current().aclose()

        runner.run(close())


@pytest.fixture
def kept(app: httpx.Client, backend: ScriptedBackend) -> str:
    return keep(app, backend)


def chunked(app: httpx.Client, method: str, path: str) -> httpx.Response:
    """A request with the header of a chunked body, and no body: what the Functions host makes of any chunked one."""
    return app.request(method, f"/api/{path}", content=iter(()))


TAKE_A_BODY = {
    "SubmitTask": ("POST", "v1/submit/v1/test/chunked"),
    "SubmitMany": ("POST", "v1/submit-many/v1/test/chunked"),
    "WaitForTasks": ("POST", "v1/tasks/wait"),
    "PutTaskResult": ("PUT", "v1/tasks/{id}/result"),
    "PutCheckpoint": ("PUT", "v1/tasks/{id}/checkpoint"),
    "TaskHeartbeat": ("POST", "v1/tasks/{id}/heartbeat"),
    "TaskHeartbeats": ("POST", "v1/heartbeats"),
    "ReleaseTask": ("POST", "v1/tasks/{id}/release"),
    "NextStep": ("POST", "v1/tasks/{id}/next/v1/test/chunked"),
    "CreateBatch": ("POST", "v1/batches"),
    "CreateUpload": ("POST", "v1/uploads"),
    "PutSchedule": ("PUT", "v1/schedules/chunked"),
    "ConfigureQueue": ("PATCH", "v1/queues/v1/test/chunked"),
    "Bulk": ("POST", "v1/bulk"),
    "ResendCallbacks": ("POST", "v1/callbacks/hook/resend"),
    "CacheConnectorUpsert": ("POST", "CacheConnectorUpsert"),
    "CurrentProcessingUpsert": ("POST", "CurrentProcessingUpsert"),
    "BackendWebhook": ("POST", "BackendWebhook"),
}


@pytest.mark.contract("A0.26", "B0.30")
@pytest.mark.parametrize("name", TAKE_A_BODY)
def test_body_that_the_host_lost_is_refused(name: str, app: httpx.Client, kept: str) -> None:
    method, path = TAKE_A_BODY[name]
    assert_problem(chunked(app, method, path.format(id=kept)), 411, "length-required")


@pytest.mark.contract("A0.26", "B0.30")
def test_every_operation_with_a_body_says_that_it_refuses_a_lost_one() -> None:
    operations = [each for path in OPENAPI["paths"].values() for each in path.values()]
    with_body = {each["operationId"] for each in operations if "requestBody" in each}
    assert with_body == TAKE_A_BODY.keys()
    assert {each["operationId"] for each in operations if "411" in each["responses"]} == with_body


@pytest.mark.contract("A0.29", "B0.34")
@pytest.mark.parametrize("name", TAKE_A_BODY)
def test_body_that_is_announced_and_missing_is_refused_and_changes_nothing(
    name: str, call: Call, app: httpx.Client, kept: str
) -> None:
    path = new_path()
    app.put(f"/api/v1/tasks/{kept}/result", content=b"good").raise_for_status()
    before = task_of(app, kept)
    route_params = {"id": kept} if "{id}" in TAKE_A_BODY[name][1] else {"path": path[1:]}
    answer = call(name, TAKE_A_BODY[name][0], headers={"content-length": "4"}, route_params=route_params)
    problem = json.loads(answer.get_body())
    assert (answer.status_code, problem["type"]) == (400, "urn:task-backbone:problem:invalid-request")
    assert [error["pointer"] for error in problem["errors"]] == ["Content-Length"]
    assert app.get(f"/api/v1/tasks/{kept}/result").content == b"good"
    assert task_of(app, kept) == before
    assert app.get("/api/v1/tasks", params={"path": path}).json()["Tasks"] == []


@pytest.mark.contract("B0.34")
@pytest.mark.parametrize("length", ["0", "00"])
def test_empty_body_that_is_announced_as_such_is_taken(length: str, call: Call, app: httpx.Client, kept: str) -> None:
    stored = call("PutTaskResult", "PUT", headers={"content-length": length}, route_params={"id": kept})
    assert stored.status_code == 200
    assert app.get(f"/api/v1/tasks/{kept}/result").content == b""


@pytest.mark.contract("B0.34")
def test_call_that_takes_no_body_may_announce_one(call: Call, kept: str) -> None:
    announced = {"headers": {"content-length": "4"}, "route_params": {"id": kept}}
    assert [call("GetTask", method, **announced).status_code for method in ("GET", "HEAD")] == [200, 200]


@pytest.mark.contract("B0.30")
def test_lost_body_changes_nothing(app: httpx.Client, kept: str) -> None:
    address = f"/api/v1/tasks/{kept}/result"
    app.put(address, content=b"good").raise_for_status()
    before = task_of(app, kept)
    assert_problem(chunked(app, "PUT", f"v1/tasks/{kept}/result"), 411, "length-required")
    assert app.get(address).content == b"good"
    assert task_of(app, kept) == before


@pytest.mark.contract("B0.30")
def test_call_that_takes_no_body_may_announce_chunks(app: httpx.Client, kept: str) -> None:
    assert chunked(app, "DELETE", f"v1/tasks/{kept}").status_code == 200


@pytest.mark.contract("A0.27", "B0.31")
def test_every_answer_says_how_long_it_is(call: Call, app: httpx.Client, kept: str) -> None:
    app.put(f"/api/v1/tasks/{kept}/result", content=LARGE).raise_for_status()
    of_task = {"route_params": {"id": kept}}
    answers = {
        "a health check": call("Health", "GET"),
        "a task": call("GetTask", "GET", **of_task),
        "a list": call("ListTasks", "GET"),
        "a history": call("GetTaskHistory", "GET", **of_task),
        "queues": call("QueueDepths", "GET"),
        "a result": call("GetTaskResult", "GET", **of_task),
        "a part": call("GetTaskResult", "GET", headers={"range": "bytes=1-9"}, **of_task),
        "a stored result": call("PutTaskResult", "PUT", body=b"", headers={}, **of_task),
        "an unknown task": call("GetTask", "GET", route_params={"id": UNKNOWN_ID}),
        "a legacy task": call("CacheConnectorGet", "GET", params={"taskId": kept}),
        "a legacy error": call("CacheConnectorUpsert", "POST"),
        "a count": call("CurrentProcessingUpsert", "POST", body=b'{"ApiPath": "/a", "ServiceCluster": "c"}'),
        "a handshake": call("BackendWebhook", "OPTIONS", headers={"webhook-request-origin": "grid"}),
    }
    said = {name: answer.headers.get("Content-Length") for name, answer in answers.items()}
    assert said == {name: str(len(answer.get_body())) for name, answer in answers.items()}


@pytest.mark.contract("A0.27", "B0.31")
def test_answer_without_a_body_names_no_content_type(call: Call, app: httpx.Client, kept: str) -> None:
    app.put(f"/api/v1/tasks/{kept}/result", content=b"x").raise_for_status()
    known = {"headers": {"if-none-match": "*"}, "route_params": {"id": kept}}
    empty = {
        304: [call("GetTask", "GET", **known), call("GetTaskResult", "GET", **known)],
        204: [
            call("CacheConnectorGet", "GET", params={"taskId": UNKNOWN_ID}),
            call("CurrentProcessingGet", "GET", params={"cluster": "nowhere", "path": "/never"}),
        ],
    }
    for status, answers in empty.items():
        for answer in answers:
            # The Functions host takes an empty one out, and says text/plain if there is none.
            assert (answer.status_code, answer.headers["Content-Type"]) == (status, "")
            assert "Content-Length" not in answer.headers
    assert not app.get(f"/api/v1/tasks/{kept}", headers={"If-None-Match": "*"}).headers.get("content-type")


# Whatever may stand in a header: the Functions host decodes UTF-8. And what leads further than to a refusal.
TEXTS = st.text(
    st.characters(min_codepoint=0x20, exclude_categories=("Cs", "Cc")) | st.sampled_from('é\xa0\u2028😀,;="%/'),
    max_size=12,
)
USUAL = {
    "content-type": ["text/plain", "image/tiff; a=1"],
    "content-encoding": ["gzip", "br, gzip"],
    "idempotency-key": ["key"],
    "if-none-match": ["*", '"x"'],
    "if-range": ['"x"'],
    "pipeline": ["/v1/test/b", "/v1/test/b?x=1, /v1/test/c"],
    "prefer": ["wait=0", "respond-async"],
    "priority": ["7", "u=1, i"],
    "range": ["bytes=0-", "bytes=1-2", "bytes=99-"],
    "traceparent": ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
    "webhook-request-origin": ["eventgrid.azure.net"],
    "x-next-body": ["result", "current"],
    "x-task-attempt": ["1"],
    "x-task-owner": ["somebody"],
}
SAID = {
    name: st.one_of(
        st.sampled_from(usual),
        st.sampled_from(usual),
        TEXTS,
        st.builds("{};{}".format, st.sampled_from(usual), TEXTS),
    )
    for name, usual in USUAL.items()
}


@pytest.mark.contract("A0.28", "B0.32")
def test_no_header_of_an_answer_holds_more_than_ascii(call: Call, app: httpx.Client, kept: str) -> None:
    path = new_path()
    app.patch(f"/api/v1/queues{path}", json={"Paused": True}).raise_for_status()  # nothing is to be published
    seen: set[int] = set()

    @settings(
        max_examples=60,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(host=TEXTS, headers=st.fixed_dictionaries({}, optional=SAID), data=st.binary(min_size=3))
    def exercise(host: str, headers: dict[str, str], data: bytes) -> None:
        url = f"http://{host}/api/v1/submit{path}"
        id_of_task = {"id": kept}
        # Each header also alone: one that is wrong hides what the others do.
        alone = [{name: value} for name, value in headers.items()]
        answers = [
            call("SubmitTask", "POST", url=url, headers=headers, route_params={"path": path[1:]}, body=data),
            call("PutTaskResult", "PUT", headers=headers, route_params=id_of_task, body=data),
            call("GetTaskResult", "HEAD", headers=headers, route_params=id_of_task),
            call("GetTask", "GET", headers=headers, route_params=id_of_task),
            *(call("GetTaskResult", "GET", headers=each, route_params=id_of_task) for each in alone),
            *(call("BackendWebhook", "OPTIONS", headers=each) for each in alone),
        ]
        for answer in answers:
            seen.add(answer.status_code)
            for name, value in answer.headers.items():
                assert all(" " <= letter <= "~" for letter in f"{name}{value}"), (name, value)

    exercise()
    assert seen >= {200, 202, 206, 304, 400, 403}


@pytest.mark.contract("A6.49")
@pytest.mark.parametrize("origin", ["bücher.example", "x" * 256])
def test_origin_that_no_answer_can_repeat_is_refused(origin: str, call: Call) -> None:
    answer = call("BackendWebhook", "OPTIONS", headers={"webhook-request-origin": origin})
    assert answer.status_code == 400
    assert json.loads(answer.get_body())["errors"][0]["pointer"] == "WebHook-Request-Origin"


@pytest.mark.contract("B0.33")
def test_head_answers_as_get_without_the_document(app: httpx.Client, kept: str) -> None:
    for path in ("v1/health", f"v1/tasks/{kept}", f"v1/tasks/{UNKNOWN_ID}", f"v1/tasks/{kept}/result"):
        head, whole = app.head(f"/api/{path}"), app.get(f"/api/{path}")
        assert (head.status_code, head.content) == (whole.status_code, b""), path
        differing = ("date", "content-length", "retry-after")
        headers = [
            {name: value for name, value in each.headers.items() if name not in differing} for each in (head, whole)
        ]
        assert headers[0] == headers[1], path


@pytest.mark.contract("B0.33")
@pytest.mark.parametrize("data", [b"", b"small", LARGE], ids=["empty", "small", "large"])
def test_head_of_a_result_says_how_long_it_is(data: bytes, call: Call, app: httpx.Client, kept: str) -> None:
    app.put(f"/api/v1/tasks/{kept}/result", content=data).raise_for_status()
    answers = [call("GetTaskResult", method, route_params={"id": kept}) for method in ("HEAD", "GET")]
    assert [answer.headers["Content-Length"] for answer in answers] == [str(len(data))] * 2
    assert answers[0].get_body() == b""
    for path in (f"v1/tasks/{kept}", "v1/health"):
        function = "GetTask" if kept in path else "Health"
        head, whole = (call(function, method, route_params={"id": kept}) for method in ("HEAD", "GET"))
        assert head.headers["Content-Length"] == whole.headers["Content-Length"]


@pytest.mark.contract("B0.33")
def test_head_obeys_if_none_match(app: httpx.Client, kept: str) -> None:
    etag = app.head(f"/api/v1/tasks/{kept}").headers["etag"]
    assert app.head(f"/api/v1/tasks/{kept}", headers={"If-None-Match": etag}).status_code == 304
