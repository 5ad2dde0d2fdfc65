"""Many submits in one request, and one wait for many tasks (contract B28)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from cache_manager.many_lines import MOST_TASKS
from cache_manager.many_schemas import MOST_WAITED_FOR, LineOutcome
from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from local.stack import Stack
from tests.conftest import IN_A_HURRY
from tests.contract.v1_support import (
    INLINE_LIMIT_BYTES,
    UNKNOWN_ID,
    all_queues,
    assert_problem,
    blob_sizes,
    ended,
    keep,
    new_path,
    pattern_bytes,
    report,
    submit,
    task_of,
)
from tests.scripted_backend import Call, ScriptedBackend
from tests.waiting import PATIENCE_S, eventually

Json = dict[str, Any]
NDJSON = "application/x-ndjson"
GATEWAY_KEY = "the-key-of-the-gateway-0123456789"
MAX_BODY_BYTES = 3_000_000
BACKLOG = 40
LARGE = pattern_bytes(INLINE_LIMIT_BYTES + 1)


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[Stack]:
    """A stack that knows the key of a gateway, with a low body limit, a short queue and one wait at a time."""
    with Stack(
        tmp_path_factory.mktemp("many"),
        redis=redis_server,
        azurite=azurite,
        backends={"/v1/test": backend.url, "/v1/foreign": {"url": backend.url, "answer": "result"}},
        with_model=False,
        settings={
            **IN_A_HURRY,
            "GATEWAY_KEY": GATEWAY_KEY,
            "MAX_BODY_BYTES": str(MAX_BODY_BYTES),
            "MAX_BACKLOG": str(BACKLOG),
            "MAX_WAITS": "2",
        },
    ) as stack:
        yield stack


@pytest.fixture(scope="module")
def app(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


@pytest.fixture
def at_once(stack: Stack) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def as_owner(owner: str) -> dict[str, str]:
    return {"X-Task-Owner": owner, "X-Gateway-Key": GATEWAY_KEY}


def lines_of(*tasks: Json | str | bytes) -> bytes:
    return b"".join(
        (task if isinstance(task, bytes) else task.encode() if isinstance(task, str) else json.dumps(task).encode())
        + b"\n"
        for task in tasks
    )


def multipart(*parts: tuple[dict[str, str], bytes], boundary: str = "b-o.1") -> tuple[bytes, str]:
    """A body, and its content type."""
    body = b"".join(
        b"--%b\r\n%b\r\n%b\r\n"
        % (boundary.encode(), b"".join(f"{name}: {text}\r\n".encode() for name, text in headers.items()), data)
        for headers, data in parts
    )
    return body + b"--%b--\r\n" % boundary.encode(), f"multipart/mixed; boundary={boundary}"


def post(
    app: httpx.Client, path: str, content: bytes, content_type: str = NDJSON, query: str = "", **headers: str
) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"/api/v1/submit-many{path}{query}"
    return app.post(url, content=content, headers={"Content-Type": content_type, **names}, timeout=PATIENCE_S)


def outcomes_of(response: httpx.Response) -> list[Json]:
    assert response.status_code == 202, response.text
    assert response.headers["content-type"] == NDJSON
    outcomes = [json.loads(line) for line in response.text.splitlines()]
    for outcome in outcomes:
        LineOutcome.model_validate(outcome)
    return outcomes


def codes(outcomes: Sequence[Json]) -> list[int]:
    return [outcome["StatusCode"] for outcome in outcomes]


def calls_of(app: httpx.Client, backend: ScriptedBackend, path: str, outcomes: Sequence[Json]) -> dict[int, Call]:
    """By line, what the model service got. Each task is completed, so that the next one gets its slot."""
    calls: dict[str, Call] = {}
    for _ in outcomes:
        call = backend.next_call(path)
        calls[call.task_id] = call
        report(app, TaskId=call.task_id, BackendStatus="completed", Status="done")
    return {outcome["Line"]: calls[outcome["TaskId"]] for outcome in outcomes}


def query_of(call: Call) -> str:
    return call.path.partition("?")[2]


def tasks_at(app: httpx.Client, path: str) -> list[str]:
    """Ids, the newest first."""
    page = app.get("/api/v1/tasks", params={"path": path, "limit": 200}).raise_for_status().json()
    return [task["TaskId"] for task in page["Tasks"]]


def pause(app: httpx.Client, path: str) -> None:
    app.patch(f"/api/v1/queues{path}", json={"Paused": True}).raise_for_status()


@pytest.mark.contract("B28.1", "B28.2", "B28.4")
def test_each_line_becomes_a_task_with_the_body_that_it_says(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    content = (
        b'\xef\xbb\xbf{"Body": "W\xc3\xb6rter\\u00e4 \\n"}\r\n'
        b'\n \t\r\n{"body" : { "a": 1.10 ,"b":[ 1,2 ]} , "PRIORITY":7}\n'
        b'{"Body": 1e3, "ContentType": "application/x-number"}\n'
        b"{}\n"
        b'{"Body": null}\n'
        b'{"Body": "{\\"b\\":1}", "ContentType": "application/json"}'
    )
    outcomes = outcomes_of(post(app, path, content))
    assert [outcome["Line"] for outcome in outcomes] == [1, 4, 5, 6, 7, 8]
    assert all(outcome.keys() == {"Line", "StatusCode", "TaskId", "BackendStatus"} for outcome in outcomes)
    assert {outcome["BackendStatus"] for outcome in outcomes} == {"created"}
    assert task_of(app, outcomes[1]["TaskId"])["Priority"] == 7
    got = calls_of(app, backend, path, outcomes)
    assert {line: (call.body, call.headers["content-type"]) for line, call in got.items()} == {
        1: ("Wörterä \n".encode(), "text/plain; charset=utf-8"),
        4: (b'{ "a": 1.10 ,"b":[ 1,2 ]}', "application/json"),
        5: (b"1e3", "application/x-number"),
        6: (b"", "application/octet-stream"),
        7: (b"", "application/octet-stream"),
        8: (b'{"b":1}', "application/json"),
    }


@pytest.mark.contract("B28.1")
def test_a_thousand_lines_come_into_their_queue_in_order(app: httpx.Client) -> None:
    path = new_path()
    pause(app, path)
    outcomes = outcomes_of(post(app, path, lines_of(*({"Body": number} for number in range(BACKLOG)))))
    assert codes(outcomes) == [202] * BACKLOG
    ids = [outcome["TaskId"] for outcome in outcomes]
    assert len(set(ids)) == BACKLOG
    positions = [task_of(app, task_id)["QueuePosition"] for task_id in ids]
    assert positions == [*range(1, BACKLOG + 1)]


@pytest.mark.contract("B28.3")
@pytest.mark.parametrize(
    ("line", "pointer"),
    [
        (b'{"Body": "a"', ""),
        (b"[]", ""),
        (b'"Body"', ""),
        (b"garbage", ""),
        (b'{"Body": 1} {"Body": 2}', ""),
        (b'{"Body": NaN}', ""),
        (b'{"Body": "\\ud800"}', ""),
        (b'{"Body": {"a": ["\\udc00"]}}', ""),
        (b'{"Body": "\xff"}', ""),
        (b'{"Body": ' + b"[" * 70 + b"]" * 70 + b"}", ""),
        (b'{"Body": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", ""),
        (b'{"Body": ' + b"[" * 50_000 + b"}", ""),
        (b'{"Body": "' + b"x" * 70_000, ""),
        (b'{"Body": [' + b"1," * 60_000 + b"1]}", ""),
        (b'{"Boddy": 1}', "/Boddy"),
        (b'{"Body": 1, "body": 2}', "/Body"),
        (b'{"Priority": 10}', "/Priority"),
        (b'{"Priority": "7"}', "/Priority"),
        (b'{"Query": 1}', "/Query"),
        (b'{"ContentType": "a\\nb"}', "/ContentType"),
        (b'{"IdempotencyKey": ""}', "/IdempotencyKey"),
        (b'{"IdempotencyKey": "\\u00e4"}', "/IdempotencyKey"),
        (b'{"IdempotencyKey": "' + b"k" * 256 + b'"}', "/IdempotencyKey"),
    ],
    ids=lambda value: value[:20].decode(errors="replace") if isinstance(value, bytes) else value,
)
def test_a_broken_line_refuses_itself_alone(line: bytes, pointer: str, app: httpx.Client) -> None:
    path = new_path()
    outcomes = outcomes_of(post(app, path, lines_of({"Body": 1}, line, {"Body": 2})))
    assert codes(outcomes) == [202, 400, 202]
    problem = outcomes[1]["Problem"]
    assert (problem["type"], problem["status"]) == ("urn:task-backbone:problem:invalid-request", 400)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert "TaskId" not in outcomes[1]
    assert len(tasks_at(app, path)) == 2


@pytest.mark.contract("B28.3")
def test_an_object_over_two_lines_is_two_broken_lines(app: httpx.Client) -> None:
    spaces = b" " * 70_000
    outcomes = outcomes_of(post(app, new_path(), b'{"Body":' + spaces + b"\n1}\n{\n}\n{}"))
    assert codes(outcomes) == [400, 400, 400, 400, 202]


@pytest.mark.contract("B28.5")
def test_each_part_of_multipart_is_a_body_byte_for_byte(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    inner, inner_type = multipart(({}, b"inner"), boundary="inner")
    every_byte = bytes(range(256)) + b"\r\n--b-o.12\r\n--b-o\r\n"
    body, content_type = multipart(
        ({"Content-Type": "application/x-numpy", "Content-Disposition": "form-data; name=x"}, every_byte),
        ({}, b""),
        ({"content-type": inner_type, "Content-Transfer-Encoding": "binary", "PRIORITY": "7"}, inner),
        ({"Content-Type": "text/plain", "Content-Encoding": "gzip", "Query": "a=b&code=c"}, b"\r\n\r\n"),
    )
    outcomes = outcomes_of(post(app, path, b"preamble\r\n" + body + b"epilogue", content_type))
    assert [outcome["Line"] for outcome in outcomes] == [1, 2, 3, 4]
    assert task_of(app, outcomes[2]["TaskId"])["Priority"] == 7
    got = calls_of(app, backend, path, outcomes)
    assert {line: (call.body, call.headers["content-type"]) for line, call in got.items()} == {
        1: (every_byte, "application/x-numpy"),
        2: (b"", "application/octet-stream"),
        3: (inner, inner_type),
        4: (b"\r\n\r\n", "text/plain"),
    }
    assert got[4].headers["content-encoding"] == "gzip"
    assert query_of(got[4]) == "a=b"


@pytest.mark.contract("B28.6")
@pytest.mark.parametrize(
    ("head", "pointer"),
    [
        (b"no header\r\n\r\nx", ""),
        (b"Content-Type: text/plain", ""),
        (b"X: " + b"y" * 9_000 + b"\r\n\r\nx", ""),
        (b"Content-Type: text/plain\r\ncontent-type: text/html\r\n\r\nx", "content-type"),
        (b"X: a\r\n folded\r\n\r\nx", ""),
        (b"Content-Type: \r\n\r\nx", "Content-Type"),
        (b"Content-Encoding: a b\r\n\r\nx", "Content-Encoding"),
        (b"Content-Transfer-Encoding: base64\r\n\r\nx", "Content-Transfer-Encoding"),
        (b"Priority: high\r\n\r\nx", "Priority"),
        (b"Idempotency-Key: \r\n\r\nx", "Idempotency-Key"),
    ],
)
def test_a_broken_part_refuses_itself_alone(head: bytes, pointer: str, app: httpx.Client) -> None:
    good = b"--b\r\n\r\ngood\r\n"
    response = post(
        app, new_path(), good + b"--b\r\n" + head + b"\r\n" + good + b"--b--", 'multipart/mixed; boundary="b"'
    )
    outcomes = outcomes_of(response)
    assert codes(outcomes) == [202, 400, 202]
    assert [error["pointer"] for error in outcomes[1]["Problem"]["errors"]] == [pointer]


@pytest.mark.contract("B28.7")
@pytest.mark.parametrize(
    ("content_type", "body", "field"),
    [
        ("multipart/mixed", b"--b\r\n\r\nx\r\n--b--", "Content-Type"),
        ("multipart/mixed; boundary=" + "b" * 71, b"--b\r\n\r\nx\r\n--b--", "Content-Type"),
        ("multipart/mixed; boundary=c", b"--b\r\n\r\nx\r\n--b--", ""),
        ("multipart/mixed; boundary=b", b"--b\r\n\r\nx\r\n--b\r\n\r\nhal", ""),
        ("multipart/mixed; boundary=b", b"--b\n\nx\n--b--\n", ""),
        ("multipart/mixed; boundary=b", b"--b--", ""),
        ("multipart/mixed; boundary=b", b"", ""),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--", "Content-Type"),
    ],
)
def test_multipart_that_cannot_be_taken_apart_is_refused_as_a_whole(
    content_type: str, body: bytes, field: str, app: httpx.Client
) -> None:
    path = new_path()
    assert_problem(post(app, path, body, content_type), 400, "invalid-request", field=field)
    assert not tasks_at(app, path)


@pytest.mark.contract("B28.7", "B28.9")
@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"Content-Encoding": "gzip"}, "Content-Encoding"),
        ({"X-Upload": UNKNOWN_ID}, "X-Upload"),
        ({"Idempotency-Key": "k" * 256}, "Idempotency-Key"),
        ({"Priority": "urgent"}, "Priority"),
        ({"Pipeline": "no path"}, "Pipeline"),
    ],
)
def test_bad_headers_of_the_request_refuse_all_of_it(headers: dict[str, str], field: str, app: httpx.Client) -> None:
    path = new_path()
    assert_problem(post(app, path, lines_of({}), **headers), 400, "invalid-request", field=field)
    assert not tasks_at(app, path)


@pytest.mark.contract("B28.9")
def test_an_unknown_endpoint_or_batch_refuses_all_of_it(app: httpx.Client) -> None:
    assert_problem(post(app, "/v1/unheard-of", lines_of({})), 404, "unknown-endpoint")
    assert_problem(post(app, new_path(), lines_of({}), Pipeline="/v1/unheard-of"), 404, "unknown-endpoint")
    assert_problem(post(app, new_path(), lines_of({}), Batch="not/an/id"), 404, "unknown-batch")


@pytest.mark.contract("B28.8")
def test_too_much_and_nothing_are_refused_as_a_whole(app: httpx.Client) -> None:
    path = new_path()
    assert_problem(post(app, path, b"{}\n" * (MOST_TASKS + 1)), 400, "invalid-request", field="")
    assert_problem(post(app, path, b"{}\n" * 10_000), 400, "invalid-request", field="")
    too_many, content_type = multipart(*[({}, b"x")] * (MOST_TASKS + 1))
    assert_problem(post(app, path, too_many, content_type), 400, "invalid-request", field="")
    assert_problem(post(app, path, b""), 400, "invalid-request", field="")
    assert_problem(post(app, path, b"\xef\xbb\xbf\r\n \n\n"), 400, "invalid-request", field="")
    assert_problem(post(app, path, b" " * (MAX_BODY_BYTES + 1)), 413, "too-large")
    assert not tasks_at(app, path)


@pytest.mark.contract("B28.10")
def test_headers_of_the_request_hold_for_all_lines(app: httpx.Client, backend: ScriptedBackend) -> None:
    path, batch_id = new_path(), app.post("/api/v1/batches").raise_for_status().json()["TaskId"]
    lines = lines_of({"Body": 1}, {"Body": 2, "Priority": 9, "Query": "own=1"}, {"Body": 3, "Query": ""})
    outcomes = outcomes_of(
        post(app, path, lines, query="?all=1", Batch=batch_id, Priority="2", Pipeline="/v1/test/next?min=1")
    )
    tasks = [task_of(app, outcome["TaskId"]) for outcome in outcomes]
    assert [task["Priority"] for task in tasks] == [2, 9, 2]
    assert {(task["Batch"], task["Steps"]) for task in tasks} == {(batch_id, 2)}
    batch = task_of(app, batch_id)
    assert (batch["Total"], batch["Unfinished"]) == (3, 3)
    queries: dict[str, str] = {}
    for _ in outcomes:
        call = backend.next_call(path)
        queries[call.task_id] = query_of(call)
        app.delete(f"/api/v1/tasks/{call.task_id}").raise_for_status()
    assert [queries[outcome["TaskId"]] for outcome in outcomes] == ["all=1", "own=1", ""]


@pytest.mark.contract("B28.11")
def test_a_request_that_is_repeated_starts_nothing(app: httpx.Client) -> None:
    path = new_path()
    lines = [{"Body": "a"}, {"Body": "b", "IdempotencyKey": "mine"}, {"Body": "c"}]
    first = outcomes_of(post(app, path, lines_of(*lines), Idempotency_Key="may"))
    assert outcomes_of(post(app, path, lines_of(*lines), Idempotency_Key="may")) == first
    assert len(tasks_at(app, path)) == 3
    changed = outcomes_of(post(app, path, lines_of({"Body": "A"}, *lines[1:]), Idempotency_Key="may"))
    assert codes(changed) == [422, 202, 202]
    assert changed[0]["Problem"]["TaskId"] == first[0]["TaskId"]
    assert "TaskId" not in changed[0]
    others = outcomes_of(post(app, path, lines_of(*lines), Idempotency_Key="june"))
    assert [each["TaskId"] == other["TaskId"] for each, other in zip(first, others, strict=True)] == [
        False,
        True,
        False,
    ]
    alone = submit(app, path, b"b", Idempotency_Key="mine", Content_Type="text/plain; charset=utf-8")
    assert (alone.status_code, alone.json()["TaskId"]) == (202, first[1]["TaskId"])
    no_header = submit(app, path, b"a", Idempotency_Key="may", Content_Type="text/plain; charset=utf-8")
    assert no_header.json()["TaskId"] not in {each["TaskId"] for each in first}


@pytest.mark.contract("B28.12")
def test_of_two_lines_with_one_key_the_first_counts(app: httpx.Client) -> None:
    path = new_path()
    lines = [{"Body": number, "IdempotencyKey": "k"} for number in (1, 1, 2)] * 20
    outcomes = outcomes_of(post(app, path, lines_of(*lines)))
    assert codes(outcomes) == [202, 202, 422] * 20
    assert len({outcome["TaskId"] for outcome in outcomes if "TaskId" in outcome}) == 1
    assert len(tasks_at(app, path)) == 1


@pytest.mark.contract("B28.13")
def test_if_no_line_is_taken_the_answer_is_the_problem(app: httpx.Client) -> None:
    document = assert_problem(
        post(app, new_path(), lines_of("x", {"Priority": 11})), 400, "invalid-request", field=""
    )
    assert [(each["Line"], each["StatusCode"]) for each in document["Outcomes"]] == [(1, 400), (2, 400)]
    path = new_path()
    app.patch(f"/api/v1/queues{path}", json={"Draining": True}).raise_for_status()
    response = post(app, path, lines_of("x", {"Body": 1}))
    document = assert_problem(response, 503, "queue-draining")
    assert int(response.headers["retry-after"]) == document["Outcomes"][1]["RetryAfterSeconds"] > 0
    assert codes(document["Outcomes"]) == [400, 503]


@pytest.mark.contract("B28.14")
def test_a_queue_that_is_full_takes_the_first_lines(app: httpx.Client) -> None:
    path = new_path()
    pause(app, path)
    lines = lines_of(*({"Body": number, "IdempotencyKey": f"k{number}"} for number in range(BACKLOG + 10)))
    outcomes = outcomes_of(post(app, path, lines))
    assert codes(outcomes) == [202] * BACKLOG + [429] * 10
    assert outcomes[-1]["Problem"]["type"] == "urn:task-backbone:problem:queue-full"
    assert outcomes[-1]["RetryAfterSeconds"] > 0
    assert all_queues(app)[path]["Waiting"] == BACKLOG
    # What was taken is told again though the queue is full.
    assert outcomes_of(post(app, path, lines)) == outcomes
    app.delete(f"/api/v1/tasks/{outcomes[0]['TaskId']}").raise_for_status()
    again = outcomes_of(post(app, path, lines))
    assert codes(again) == [202] * (BACKLOG + 1) + [429] * 9


@pytest.mark.contract("B28.15")
def test_a_batch_that_takes_no_more_refuses_lines(app: httpx.Client) -> None:
    path, batch_id = new_path(), app.post("/api/v1/batches").raise_for_status().json()["TaskId"]
    line = {"Body": 1, "IdempotencyKey": "a"}
    first = outcomes_of(post(app, path, lines_of(line), Batch=batch_id))
    app.post(f"/api/v1/batches/{batch_id}/seal").raise_for_status()
    again = outcomes_of(post(app, path, lines_of(line, {"Body": 2}), Batch=batch_id))
    assert (again[0], again[1]["StatusCode"]) == (first[0], 409)
    assert again[1]["Problem"]["type"] == "urn:task-backbone:problem:batch-sealed"
    assert_problem(post(app, path, lines_of({}), Batch=UNKNOWN_ID), 404, "unknown-batch")


@pytest.mark.contract("B28.16")
def test_large_bodies_go_to_blob_storage(app: httpx.Client, backend: ScriptedBackend, azurite: Azurite) -> None:
    path = new_path()
    text = "ä" * 40_000
    body, content_type = multipart(
        *[({"Content-Type": "image/tiff"}, LARGE + bytes([number])) for number in range(6)]
    )
    outcomes = outcomes_of(post(app, path, body, content_type, Idempotency_Key="large"))
    assert outcomes_of(post(app, path, body, content_type, Idempotency_Key="large")) == outcomes
    for outcome in outcomes:  # what the repetition has stored is gone
        assert eventually(lambda task_id=outcome["TaskId"]: blob_sizes(azurite, task_id) == [len(LARGE) + 1])
    lines = lines_of({"Body": text}, {"Body": [text]}, {"Body": "small"})
    more = outcomes_of(post(app, path, lines))
    got = calls_of(app, backend, path, [*outcomes, *({**each, "Line": each["Line"] + 10} for each in more)])
    assert [got[line].body for line in range(1, 7)] == [LARGE + bytes([number]) for number in range(6)]
    assert got[11].body == text.encode()
    assert got[12].body == json.dumps([text]).encode()
    assert got[13].body == b"small"


@pytest.mark.contract("B28.18")
def test_an_owners_tasks_are_its_own(app: httpx.Client) -> None:
    path = new_path()
    lines = lines_of({"Body": 1, "IdempotencyKey": "k"})
    ada = outcomes_of(post(app, path, lines, **as_owner("ada")))[0]["TaskId"]
    bob = outcomes_of(post(app, path, lines, **as_owner("bob")))[0]["TaskId"]
    assert ada != bob
    assert app.get(f"/api/v1/tasks/{ada}", headers=as_owner("ada")).status_code == 200
    assert app.get(f"/api/v1/tasks/{ada}", headers=as_owner("bob")).status_code == 404


@pytest.mark.contract("B28.19")
def test_a_query_that_cannot_be_one_refuses_its_line(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    lines = lines_of({"Query": "a b"}, {"Query": "q=" + "x" * 2_100}, {"Query": "Code=secret&a=1&clientid=x"})
    outcomes = outcomes_of(post(app, path, lines))
    assert codes(outcomes) == [404, 404, 202]
    assert outcomes[0]["Problem"]["type"] == "urn:task-backbone:problem:unknown-endpoint"
    assert query_of(backend.next_call(path)) == "a=1"


def wait_for(app: httpx.Client, ids: Sequence[str], seconds: float = 0, **more: Any) -> Json:
    request = {"TaskIds": ids, "Seconds": seconds, **more}
    response = app.post("/api/v1/tasks/wait", json=request, timeout=PATIENCE_S)
    assert response.status_code == 200, response.text
    return response.json()


def told(answer: Json) -> dict[str, str]:
    return {each["Task"]["TaskId"]: each["Task"]["BackendStatus"] for each in answer["Tasks"]}


NOTHING = {"Tasks": [], "Unknown": []}


@pytest.mark.contract("B28.20")
def test_a_wait_without_a_change_ends_with_its_time(app: httpx.Client, backend: ScriptedBackend) -> None:
    ids = [keep(app, backend) for _ in range(3)]
    begun = time.monotonic()
    assert wait_for(app, ids, 1) == NOTHING
    assert time.monotonic() - begun >= 1
    assert wait_for(app, ids) == NOTHING
    assert wait_for(app, ids, Any=False) == NOTHING


def etag_of(app: httpx.Client, task_id: str) -> str:
    return app.get(f"/api/v1/tasks/{task_id}").raise_for_status().headers["etag"]


@pytest.mark.contract("B28.21", "B28.23")
def test_a_wait_ends_with_the_first_change(
    app: httpx.Client, backend: ScriptedBackend, at_once: ThreadPoolExecutor
) -> None:
    ids = [keep(app, backend) for _ in range(5)]
    known = {task_id: etag_of(app, task_id) for task_id in ids}
    wait = at_once.submit(wait_for, app, ids, 60, Known=known)
    report(app, TaskId=ids[2], BackendStatus="running", Status="on it")
    answer = wait.result(PATIENCE_S)
    assert told(answer) == {ids[2]: "running"}
    (change,) = answer["Tasks"]
    assert change["Task"] == task_of(app, ids[2])
    assert change["ETag"] == etag_of(app, ids[2])
    # With the new one, it waits again; with the old one, it answers at once.
    assert wait_for(app, ids, 60, Known=known) == answer
    known[ids[2]] = change["ETag"]
    assert wait_for(app, ids, 0.5, Known=known) == NOTHING
    wait = at_once.submit(wait_for, app, ids, 60, Known=known)
    report(app, TaskId=ids[4], BackendStatus="running", Progress=0.5)
    assert told(wait.result(PATIENCE_S)) == {ids[4]: "running"}


@pytest.mark.contract("B28.22")
def test_what_has_ended_or_does_not_exist_is_answered_at_once(app: httpx.Client, backend: ScriptedBackend) -> None:
    ada = submit(app, new_path(), **{key.replace("-", "_"): text for key, text in as_owner("ada").items()}).json()
    open_id, done = keep(app, backend), keep(app, backend)
    report(app, TaskId=done, BackendStatus="completed", Status="done")
    answer = wait_for(app, [open_id, UNKNOWN_ID, done, done], 60)
    assert told(answer) == {done: "completed"}
    assert answer["Unknown"] == [UNKNOWN_ID]
    request = {"TaskIds": [ada["TaskId"], UNKNOWN_ID, open_id], "Seconds": 60, "Known": {ada["TaskId"]: "x"}}
    foreign = app.post("/api/v1/tasks/wait", json=request, headers=as_owner("bob"), timeout=PATIENCE_S).json()
    assert foreign == {"Tasks": [], "Unknown": [ada["TaskId"], UNKNOWN_ID, open_id]}


@pytest.mark.contract("B28.24")
def test_a_wait_for_all_ends_when_all_have_ended(
    app: httpx.Client, backend: ScriptedBackend, at_once: ThreadPoolExecutor
) -> None:
    ids = [keep(app, backend) for _ in range(3)]
    report(app, TaskId=ids[0], BackendStatus="completed", Status="done")
    wait = at_once.submit(wait_for, app, ids, 60, Any=False)
    report(app, TaskId=ids[1], BackendStatus="running", Status="on it")
    report(app, TaskId=ids[1], BackendStatus="failed", Status="failed")
    assert not wait.done()
    report(app, TaskId=ids[2], BackendStatus="completed", Status="done")
    assert told(wait.result(PATIENCE_S)) == {ids[0]: "completed", ids[1]: "failed", ids[2]: "completed"}


@pytest.mark.contract("B28.24")
def test_a_wait_for_all_tells_what_has_changed_when_its_time_is_up(
    app: httpx.Client, backend: ScriptedBackend, at_once: ThreadPoolExecutor
) -> None:
    ids = [keep(app, backend) for _ in range(3)]
    known = {task_id: etag_of(app, task_id) for task_id in ids}
    wait = at_once.submit(wait_for, app, ids, 3, Any=False, Known=known)
    report(app, TaskId=ids[1], BackendStatus="running", Status="on it")
    assert told(wait.result(PATIENCE_S)) == {ids[1]: "running"}


@pytest.mark.contract("B28.25")
def test_a_wait_may_be_for_batches_too(
    app: httpx.Client, backend: ScriptedBackend, at_once: ThreadPoolExecutor
) -> None:
    batch_id, task_id = app.post("/api/v1/batches").raise_for_status().json()["TaskId"], keep(app, backend)
    known = {each: etag_of(app, each) for each in (batch_id, task_id)}
    wait = at_once.submit(wait_for, app, [batch_id, task_id], 60, Known=known)
    app.post(f"/api/v1/batches/{batch_id}/seal").raise_for_status()
    (change,) = wait.result(PATIENCE_S)["Tasks"]
    assert change["Task"] == task_of(app, batch_id)
    assert change["Task"]["Sealed"] is True


@pytest.mark.contract("B28.26")
@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({}, "/TaskIds"),
        ({"TaskIds": []}, "/TaskIds"),
        ({"TaskIds": [f"t{number}" for number in range(MOST_WAITED_FOR + 1)]}, "/TaskIds"),
        ({"TaskIds": ["not/an/id"]}, "/TaskIds/0"),
        ({"TaskIds": ["a"], "Seconds": -1}, "/Seconds"),
        ({"TaskIds": ["a"], "Seconds": "1"}, "/Seconds"),
        ({"TaskIds": ["a"], "Any": 1}, "/Any"),
        ({"TaskIds": ["a"], "Known": {"a": 1}}, "/Known/a"),
        ({"TaskIds": ["a"], "Wait": 1}, "/Wait"),
    ],
)
def test_a_bad_wait_is_refused(request_: Json, field: str, app: httpx.Client) -> None:
    assert_problem(app.post("/api/v1/tasks/wait", json=request_), 400, "invalid-request", field=field)


@pytest.mark.contract("B28.27")
def test_a_wait_for_many_is_one_wait(
    app: httpx.Client, backend: ScriptedBackend, at_once: ThreadPoolExecutor
) -> None:
    ids = [keep(app, backend) for _ in range(4)]

    def wait() -> httpx.Response:
        request = {"TaskIds": ids, "Seconds": 60}
        return app.post("/api/v1/tasks/wait", json=request, timeout=PATIENCE_S)

    waits = [at_once.submit(wait) for _ in range(3)]
    assert eventually(lambda: [each.done() for each in waits].count(True) == 1)
    (cut,) = (each.result() for each in waits if each.done())
    assert (cut.status_code, cut.json()) == (200, NOTHING)
    assert int(cut.headers["retry-after"]) > 0
    report(app, TaskId=ids[3], BackendStatus="completed", Status="done")
    for each in waits:
        answer = each.result(PATIENCE_S)
        assert answer is cut or (told(answer.json()) == {ids[3]: "completed"} and "retry-after" not in answer.headers)


@pytest.mark.contract("B28.29")
def test_long_texts_are_told_over_several_answers(app: httpx.Client, backend: ScriptedBackend) -> None:
    text = "x" * 60_000
    left = {keep(app, backend, Status=text, BackendStatus="completed") for _ in range(20)}
    while left:
        some = told(wait_for(app, sorted(left), 60))
        assert some
        assert len(some) < 20
        left -= some.keys()


@pytest.mark.contract("B28.20")
def test_tasks_of_a_submit_of_many_are_waited_for(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path().replace("/v1/test", "/v1/foreign")  # whose answers are the results
    outcomes = outcomes_of(post(app, path, lines_of(*({"Body": number} for number in range(BACKLOG // 2)))))
    left = {outcome["TaskId"] for outcome in outcomes}
    assert told(wait_for(app, sorted(left), 60, Any=False)) == dict.fromkeys(left, "completed")
    assert ended(app, outcomes[0]["TaskId"])["BackendStatus"] == "completed"
