"""Submit (contract B1): a request reaches the model service unchanged, or is refused."""

import gzip
import json
import re
from urllib.parse import unquote

import httpx
import pytest

from local.azurite import Azurite
from local.stack import Stack
from tests.contract.v1_support import (
    CONTENTS,
    INLINE_LIMIT_BYTES,
    ISO_TIME,
    TASK_KEYS,
    all_queues,
    assert_problem,
    blob_sizes,
    complete_on_call,
    ended,
    new_path,
    pattern_bytes,
    raw_request,
    submit,
)
from tests.scripted_backend import Answer, ScriptedBackend
from tests.waiting import PATIENCE_S

KEY = "@KEY@"
LARGE = pattern_bytes(INLINE_LIMIT_BYTES + 1)


@pytest.mark.contract("B1.3")
@pytest.mark.parametrize("content", CONTENTS)
def test_model_service_gets_the_body_byte_for_byte_with_its_content_type(
    content: str, app: httpx.Client, backend: ScriptedBackend, azurite: Azurite
) -> None:
    content_type, body = CONTENTS[content]
    path = new_path()
    task = submit(app, path, body, content_type=content_type).json()
    call = backend.next_call(path)
    assert call.body == body
    assert call.headers["content-type"] == content_type
    assert call.task_id == task["TaskId"]
    assert call.attempt == 1
    assert blob_sizes(azurite, task["TaskId"]) == ([len(body)] if len(body) > INLINE_LIMIT_BYTES else [])


@pytest.mark.contract("B1.3")
def test_body_without_a_content_type_is_an_octet_stream(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    submit(app, path, b"\x00\x01")
    assert backend.next_call(path).headers["content-type"] == "application/octet-stream"


@pytest.mark.contract("B1.43")
@pytest.mark.parametrize("body", [gzip.compress(b"words " * 40), gzip.compress(LARGE, 0)], ids=["inline", "blob"])
def test_model_service_gets_the_content_encoding(body: bytes, app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    submit(app, path, body, content_type="application/json", content_encoding="gzip")
    call = backend.next_call(path)
    assert call.body == body
    assert (call.headers["content-encoding"], call.headers["content-type"]) == ("gzip", "application/json")


@pytest.mark.contract("B1.43")
@pytest.mark.parametrize("names", [{}, {"content_encoding": "identity"}])
def test_body_without_a_content_encoding_gets_none(
    names: dict[str, str], app: httpx.Client, backend: ScriptedBackend
) -> None:
    path = new_path()
    submit(app, path, b"{}", **names)
    assert "content-encoding" not in backend.next_call(path).headers


@pytest.mark.contract("B1.43")
def test_content_encoding_stays_with_the_body_at_every_attempt(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    backend.script(path, Answer(status=500), Answer(status=400), Answer())
    task_id = submit(app, path, b"packed", content_encoding="zstd").json()["TaskId"]
    assert ended(app, task_id)["BackendStatus"] == "failed"
    assert app.post(f"/api/v1/tasks/{task_id}/replay").status_code == 202
    calls = [backend.next_call(path) for _ in range(3)]
    assert [(call.headers["content-encoding"], call.body) for call in calls] == [("zstd", b"packed")] * 3


@pytest.mark.contract("B1.17", "B1.43")
def test_same_bytes_in_another_encoding_are_another_request(app: httpx.Client) -> None:
    path = new_path()
    first = submit(app, path, b"x", idempotency_key="k", content_encoding="gzip")
    assert (
        submit(app, path, b"x", idempotency_key="k", content_encoding="gzip").json()["TaskId"]
        == first.json()["TaskId"]
    )
    assert_problem(submit(app, path, b"x", idempotency_key="k"), 422, "idempotency-key-reused")


@pytest.mark.contract("B1.44")
def test_accepted_submit_and_replay_say_how_large_a_body_may_be(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    backend.script(path, Answer(status=400))
    submitted = submit(app, path)
    assert (submitted.status_code, submitted.json()["MaxBodyBytes"]) == (202, 100 * 1024**2)
    task = ended(app, submitted.json()["TaskId"])
    assert "MaxBodyBytes" not in task
    replayed = app.post(f"/api/v1/tasks/{task['TaskId']}/replay")
    assert (replayed.status_code, replayed.json()["MaxBodyBytes"]) == (202, 100 * 1024**2)


@pytest.mark.contract("B1.1")
def test_submit_answers_202_with_the_task_and_its_location(
    app: httpx.Client, backend: ScriptedBackend, stack: Stack
) -> None:
    path = new_path()
    response = submit(app, path)
    assert response.status_code == 202
    assert response.headers["content-type"] == "application/json"
    task = response.json()
    assert task.keys() == TASK_KEYS | {"MaxBodyBytes", "MaxUploadBytes"}
    assert task["EndpointPath"] == path
    assert task["Endpoint"] == path
    assert task["BackendStatus"] == task["Status"] == "created"
    assert task["PublishToGrid"] is True
    assert task["Body"] is None
    assert task["Attempt"] == 1
    assert (task["ResultContentType"], task["ResultSize"]) == (None, None)
    assert ISO_TIME.fullmatch(task["CreatedAt"])
    assert ISO_TIME.fullmatch(task["Timestamp"])
    assert response.headers["location"] == f"{stack.url}/api/v1/tasks/{task['TaskId']}"
    assert int(response.headers["retry-after"]) >= 1
    assert "preference-applied" not in response.headers
    assert app.get(response.headers["location"]).json()["TaskId"] == task["TaskId"]


@pytest.mark.contract("B1.2")
@pytest.mark.parametrize("route", ["/api/v1/submit", "/API/V1/Submit"])
@pytest.mark.parametrize("query", ["", "?next=/v1/submit/"])
def test_location_is_right_however_the_route_is_written(
    route: str, query: str, app: httpx.Client, stack: Stack
) -> None:
    response = app.post(f"{route}{new_path()}/v1/submit/deeper{query}")
    location = f"{stack.url}/api/v1/tasks/{response.json()['TaskId']}"
    assert response.headers["location"].lower() == location
    assert app.get(response.headers["location"]).status_code == 200


@pytest.mark.contract("B1.4")
@pytest.mark.parametrize(
    ("query", "passed_on"),
    [
        ("?a=1&b=2", "?a=1&b=2"),
        ("?b=2&a=1&a=3", "?b=2&a=1&a=3"),
        ("?scene=S2A%2F11+22&q=a%26b%3Dc&empty=&bare", "?scene=S2A%2F11+22&q=a%26b%3Dc&empty=&bare"),
        ("?", ""),
        (f"?code={KEY}", ""),
        (f"?code={KEY}&a=1", "?a=1"),
        (f"?a=1&code={KEY}&b=2", "?a=1&b=2"),
        (f"?a=1&CODE={KEY}", "?a=1"),
        (f"?%63ode={KEY}&a=1", "?a=1"),
        (f"?code={KEY}&clientId=default&a=1", "?a=1"),
        (f"?code={KEY}&postcode=12345&codec=h264", "?postcode=12345&codec=h264"),
    ],
)
def test_query_string_is_passed_on_without_the_key(
    query: str, passed_on: str, stack: Stack, backend: ScriptedBackend
) -> None:
    path = new_path()
    headers = {} if KEY in query else {"x-functions-key": stack.key}
    address = f"{stack.url}/api/v1/submit{path}{query.replace(KEY, stack.key)}"
    response = httpx.post(address, headers=headers, timeout=PATIENCE_S)
    assert response.status_code == 202
    assert stack.key not in response.text
    assert response.json()["Endpoint"] == path
    call = backend.next_call(path)
    assert call.path == path + passed_on
    assert stack.key not in str(call.headers)


@pytest.mark.contract("B1.5")
def test_model_service_never_gets_the_callers_credentials(
    app: httpx.Client, backend: ScriptedBackend, stack: Stack
) -> None:
    path = new_path()
    submit(app, path, cookie="session=1", authorization="Bearer token")
    headers = backend.next_call(path).headers
    assert stack.key not in headers.values()
    assert not {"x-functions-key", "cookie", "authorization"} & headers.keys()


@pytest.mark.contract("B1.74")
@pytest.mark.parametrize(("size_bytes", "expectation"), [(1024 * 1024, "100-continue"), (1024 * 1024 - 1, None)])
def test_a_large_body_is_sent_when_the_model_service_asks_for_it(
    size_bytes: int, expectation: str | None, app: httpx.Client, backend: ScriptedBackend
) -> None:
    path, body = new_path(), bytes(size_bytes)
    submit(app, path, body)
    call = backend.next_call(path)
    assert (call.headers.get("expect"), call.body) == (expectation, body)


@pytest.mark.contract("B1.73")
@pytest.mark.parametrize("given", [f"00-{'0' * 32}-{'0' * 16}-00", f"00-{'0' * 32}-00f067aa0ba902b7-01", "nonsense"])
def test_a_trace_context_that_is_not_valid_begins_a_new_trace(
    given: str, app: httpx.Client, backend: ScriptedBackend
) -> None:
    path = new_path()
    submit(app, path, traceparent=given)
    sent = backend.next_call(path).headers["traceparent"]
    assert re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]", sent)


@pytest.mark.contract("B1.6")
def test_trace_of_the_submit_reaches_the_model_service(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    submit(app, path, traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    assert backend.next_call(path).headers["traceparent"].split("-")[1] == "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.contract("B1.7")
@pytest.mark.parametrize(
    "path",
    [
        *("/v1/unheard-of", "/v1/tes", "/v1/testing", "/v1/testing/x", "/V1/TEST/x", "/test/x", "/v1"),
        *("/v1/listed", "/v1/listed/other", "/v1/listed/model/deeper"),
    ],
)
def test_unregistered_path_is_404_and_leaves_nothing(path: str, app: httpx.Client) -> None:
    response = submit(app, path)
    assert_problem(response, 404, "unknown-endpoint")
    paths = [*all_queues(app)]
    assert path not in paths


@pytest.mark.contract("B1.8")
@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/v1/test/../model",
        "/v1/test/%2e%2e/model",
        "/v1/test/..%2fmodel",
        "/v1/test/%252e%252e/model",
        "/v1/test//model",
        "//models.example.org/v1/test/model",
        "/http://models.example.org/v1/test/model",
        "/v1/test/model%0d%0aX-Evil:%201",
        "/v1/test/%20",
        "/v1/test/..%20/model",
        "/v1/test/.%2e/model",
        "/v1/test/%E2%80%AEledom",
        "/v1/test/mo\\del",
        "/v1/test/..%5cmodel",
        "/v1/test/model;v=1",
        "/v1/test/model%3Fa=1",
        "/v1/test/model%23a",
        "/v1/test/%ff%fe",
        "/v1/test/" + "x" * 300,
    ],
)
def test_hostile_path_is_404_and_reaches_no_backend(
    path: str, app: httpx.Client, stack: Stack, backend: ScriptedBackend
) -> None:
    queues = [*all_queues(app).values()]
    status, headers, _ = raw_request(stack, "POST", f"/api/v1/submit{path}", body=b"{}")
    assert (status, headers.get("content-type")) == (404, "application/problem+json")
    assert all_queues(app).keys() <= {queue["EndpointPath"] for queue in queues}


@pytest.mark.contract("B1.9")
@pytest.mark.parametrize("path", ["/v1/test", "/v1/test/"])
def test_registered_prefix_itself_is_an_endpoint(path: str, app: httpx.Client, backend: ScriptedBackend) -> None:
    task_id = submit(app, path).json()["TaskId"]
    assert backend.next_call("/v1/test").task_id == task_id


@pytest.mark.contract("B1.21", "B8.46")
@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("/model/", "/model"),
        ("/model%2F", "/model"),
        ("%2Fmodel%2fdeeper", "/model/deeper"),
        ("/@models.example.org%2fmodel", "/@models.example.org/model"),
        ("/%6Dodel%2Dx", "/model-x"),
        ("/mod%c3%a8l", "/mod%C3%A8l"),
        ("/mo%20del", "/mo%20del"),
        ("/%7Bmodel%7d", "/%7Bmodel%7D"),
    ],
)
def test_endpoint_is_called_and_counted_by_one_path_however_it_is_written(
    written: str, path: str, app: httpx.Client, stack: Stack, backend: ScriptedBackend
) -> None:
    place = new_path()
    status, _, body = raw_request(stack, "POST", f"/api/v1/submit{place}{written}", body=b"{}")
    assert status == 202
    task = json.loads(body)
    assert task["EndpointPath"] == place + path
    assert task["Endpoint"] == place + path
    assert backend.next_call(place + path).path == place + path
    for listed_as in (place + unquote(written), (place + written).lstrip("/"), (place + written).replace("/", "%2F")):
        listed = app.get("/api/v1/tasks", params={"path": listed_as}).json()["Tasks"]
        assert [each["TaskId"] for each in listed] == [task["TaskId"]], listed_as
    for same in (written, path):
        status, _, body = raw_request(stack, "GET", f"/api/v1/queues{place}{same}")
        queue = json.loads(body)
        assert (queue["EndpointPath"], queue["Waiting"] + queue["Dispatched"]) == (place + path, 1)


@pytest.mark.contract("B1.21")
def test_whole_path_may_be_one_escaped_parameter(stack: Stack, backend: ScriptedBackend) -> None:
    path = new_path()
    target = f"/api/v1/submit/{path[1:].replace('/', '%2F')}"
    status, _, _ = raw_request(stack, "POST", target, body=b"{}")
    assert status == 202
    assert backend.next_call(path).path == path


@pytest.mark.contract("B1.4")
@pytest.mark.parametrize(
    ("query", "passed_on"),
    [
        ("?a={b|c}&code=%7b", "?a=%7Bb%7Cc%7D"),
        ('?a=<"`^>', "?a=%3C%22%60^%3E"),
        ("?a=100%&b=%7b", "?a=100%&b=%7b"),
    ],
)
def test_query_string_is_escaped_where_it_must_be(
    query: str, passed_on: str, stack: Stack, backend: ScriptedBackend
) -> None:
    path = new_path()
    status, _, _ = raw_request(stack, "POST", f"/api/v1/submit{path}{query}", body=b"{}")
    assert status == 202
    assert backend.next_call(path).path == path + passed_on


@pytest.mark.contract("B1.10")
@pytest.mark.parametrize("query", ["?" + "x" * 2049, "?" + "|" * 700])
def test_query_string_that_is_too_long_is_refused(query: str, stack: Stack) -> None:
    status, headers, body = raw_request(stack, "POST", f"/api/v1/submit{new_path()}{query}", body=b"{}")
    assert (status, headers["content-type"]) == (404, "application/problem+json")
    assert b"unknown-endpoint" in body
    assert b"query string" in body


@pytest.mark.contract("B1.11")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Content-Type", "text/plain; " + "x" * 255),
        ("Content-Type", "text/plän".encode()),
        ("Content-Type", b"text/plain\tx"),
        ("Idempotency-Key", "x" * 256),
        ("Idempotency-Key", ""),
        ("Idempotency-Key", "schlüssel".encode()),
        ("Idempotency-Key", b"a\tb"),
    ],
)
def test_header_that_cannot_be_stored_is_refused_and_named(name: str, value: str | bytes, app: httpx.Client) -> None:
    response = app.post(f"/api/v1/submit{new_path()}", content=b"{}", headers={name: value})
    assert_problem(response, 400, "invalid-request", field=name)


@pytest.mark.contract("B1.12")
@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ("wait=30", "wait=30"),
        ("respond-async, wait=30", "wait=30"),
        ("WAIT = 30", "wait=30"),
        ("wait=60", "wait=60"),
        ("wait=3600", "wait=60"),
    ],
)
def test_preferred_wait_answers_200_when_the_task_ends_in_time(
    prefer: str, applied: str, app: httpx.Client, backend: ScriptedBackend, stack: Stack
) -> None:
    path = new_path()
    complete_on_call(stack, backend, path)
    response = submit(app, path, prefer=prefer)
    assert response.status_code == 200
    assert response.headers["preference-applied"] == applied
    assert response.headers["location"] == f"{stack.url}/api/v1/tasks/{response.json()['TaskId']}"
    assert "retry-after" not in response.headers
    assert response.json()["BackendStatus"] == "completed"
    assert response.json()["Status"] == "done"


@pytest.mark.contract("B1.13")
@pytest.mark.parametrize("prefer", ["wait=1", "wait=0"])
def test_preferred_wait_that_is_too_short_answers_202(prefer: str, app: httpx.Client, stack: Stack) -> None:
    response = submit(app, new_path(), prefer=prefer)
    assert response.status_code == 202
    assert response.headers["preference-applied"] == prefer
    assert response.headers["location"] == f"{stack.url}/api/v1/tasks/{response.json()['TaskId']}"
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.contract("B1.14")
@pytest.mark.parametrize(
    "prefer", ["respond-async", "wait", "wait=", "wait=soon", "wait=-5", "await=5", "return=minimal"]
)
def test_preference_that_is_not_understood_is_ignored(prefer: str, app: httpx.Client) -> None:
    response = submit(app, new_path(), prefer=prefer)
    assert response.status_code == 202
    assert "preference-applied" not in response.headers


@pytest.mark.contract("B1.15")
@pytest.mark.parametrize(
    ("content_type", "body", "reason"),
    [
        ("application/problem+json", b'{"title": "Bad", "detail": "too many\r\nbands"}', ": too many bands"),
        (
            "application/json",
            b'{"detail": [{"loc": ["body", "n"], "msg": "Field required"}]}',
            ": body.n: Field required",
        ),
        ("text/plain; charset=utf-8", b"no\x1b[31m bands" + b"!" * 600, ": no [31m bands" + "!" * 487),
        ("text/html", b"<title>422 No</title><h1>No</h1><p>Too &lt;many", ": No Too <many"),
        ("application/octet-stream", b"secret", ""),
    ],
)
def test_task_that_the_model_service_refuses_is_failed_with_the_reason(
    content_type: str, body: bytes, reason: str, app: httpx.Client, backend: ScriptedBackend
) -> None:
    path = new_path()
    backend.script(path, Answer(422, {"Content-Type": content_type}, body))
    response = submit(app, path, prefer="wait=30")
    assert response.status_code == 200
    task = ended(app, response.json()["TaskId"])
    assert task["BackendStatus"] == "failed"
    assert task["Status"] == f"Failed - the backend answered 422{reason}."


@pytest.mark.contract("B1.22")
@pytest.mark.parametrize("size_bytes", [10, 300_000])
def test_model_service_at_the_path_with_a_slash_gets_the_task(
    size_bytes: int, app: httpx.Client, backend: ScriptedBackend
) -> None:
    path = new_path()
    backend.script(path, Answer(308, {"Location": f"{backend.url}{path}/"}))
    response = submit(app, path, bytes(size_bytes))
    call = backend.next_call(path + "/")
    assert (call.task_id, call.attempt, len(call.body)) == (response.json()["TaskId"], 1, size_bytes)
    assert app.get(f"/api/v1/queues{path}").json()["Dispatched"] == 1
