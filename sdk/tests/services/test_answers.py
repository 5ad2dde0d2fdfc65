"""A service that is called directly: what its functions get and return, and how a bad request is answered."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from service_process import Answer, Service, eventually, running

CODE = """
from enum import Enum
from pathlib import Path
from typing import BinaryIO, List, Literal, Optional
from pydantic import BaseModel

service = TaskService(workers=2)

class Colour(Enum):
    RED = "red"

class Box(BaseModel):
    width: int

@service.task("/words", content_types=["text/plain"], max_body_bytes=100)
def words(body: str, task: Task, *, least: int = 1) -> dict:
    task.progress(0.5, "counting")
    task.check()
    with task.uninterrupted():
        return {"words": sum(len(word) >= least for word in body.split())}

@service.task("/echo")
def echo(body: bytes) -> bytes:
    return body

@service.task("/echo/text")
def echo_text(body: str) -> str:
    return body

@service.task("/sum")
def add(body: List[float]) -> float:
    return sum(body)

@service.task("/keys")
def keys(body: dict) -> list:
    return sorted(body)

@service.task("/box")
def box(body: Box) -> Box:
    return Box(width=body.width * 2)

@service.task("/file")
def file(body: Path, task: Task) -> Path:
    result = task.folder / "result.csv"
    result.write_bytes(body.read_bytes()[::-1])
    return result

@service.task("/stream")
def stream(body: BinaryIO) -> int:
    return sum(len(chunk) for chunk in iter(lambda: body.read(1000), b""))

@service.task("/nothing")
def nothing() -> None:
    print("nothing was asked for")

@service.task("/status")
def status() -> Result:
    return Result("<p>", "text/html", "3 of 4: \u00fcber")

@service.task("/query")
def query(*, a: int, b: float = 0.5, c: bool = False, d: str = "", e: List[int] = (), f: Literal["x", "y"] = "x",
          g: Colour = Colour.RED, h: Optional[int] = None) -> list:
    return [a, b, c, d, list(e), f, g.value, h]

@service.task("/any-query")
def any_query(**rest) -> dict:
    return rest

@service.task("/fail")
def fail() -> None:
    raise Fail("there is nothing to see")

@service.task("/break")
def break_() -> None:
    raise ValueError("a secret")

@service.task("/odd")
def odd() -> object:
    return object()

@service.task("/again")
def again() -> None:
    raise TryAgain(7)

@service.task("/slow")
def slow(task: Task) -> str:
    while not os.path.exists("go on"):
        time.sleep(0.01)
        task.check()
    return "done"

service.run()
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("answers"), CODE) as service:
        yield service


def detail(answer: Answer) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    problem = json.loads(answer.body)
    assert problem["status"] == answer.status
    return problem["detail"]


def test_a_direct_call_is_answered_with_the_result(service: Service) -> None:
    answer = service.call("/words?least=3", b"to be or not to be")

    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert json.loads(answer.body) == {"words": 1}


@pytest.mark.parametrize(
    ("path", "body", "content_type", "result"),
    [
        ("/echo", b"\x00\xff", "application/octet-stream", b"\x00\xff"),
        ("/echo/text", "é".encode("latin-1"), "text/plain; charset=latin-1", "é".encode()),
        ("/echo/text", "\ufeffa".encode(), "text/plain", b"a"),
        ("/sum", b"[1, 2.5]", "application/json", b"3.5"),
        ("/keys", b'{"b": 1, "a": 2}', "application/json", b'["a", "b"]'),
        ("/box", b'{"width": 2}', "application/json", b'{"width":4}'),
        ("/file", b"abc", "text/csv", b"cba"),
        ("/stream", b"x" * 2500, "image/tiff", b"2500"),
        ("/query?a=1", b"", "", b'[1, 0.5, false, "", [], "x", "red", null]'),
        (
            "/query?a=-1&b=1e3&c=Yes&d=%C3%A4+b&e=1&e=2&f=y&g=red&h=3",
            b"",
            "",
            '[-1, 1000.0, true, "ä b", [1, 2], "y", "red", 3]'.encode(),
        ),
        ("/any-query?one=1&two=", b"", "", b'{"one": "1", "two": ""}'),
    ],
)
def test_a_function_gets_what_its_annotations_say(
    service: Service, path: str, body: bytes, content_type: str, result: bytes
) -> None:
    answer = service.call(path, body, content_type)

    assert (answer.status, answer.body) == (200, result)


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/echo", "application/octet-stream"),
        ("/echo/text", "text/plain; charset=utf-8"),
        ("/file", "text/csv"),
        ("/status", "text/html"),
    ],
)
def test_a_result_has_the_type_that_fits_it(service: Service, path: str, content_type: str) -> None:
    assert service.call(path, b"a").headers["content-type"] == content_type


def test_a_status_text_comes_percent_encoded_in_a_header(service: Service) -> None:
    assert service.call("/status").headers["x-task-status"] == "3%20of%204%3A%20%C3%BCber"


def test_a_function_without_a_result_is_answered_without_a_body(service: Service) -> None:
    answer = service.call("/nothing")

    assert (answer.status, answer.body) == (204, b"")
    assert "nothing was asked for" in service.log


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw deflate", "two members of gzip"])
@pytest.mark.parametrize("path", ["/echo", "/file", "/stream"])
def test_a_compressed_body_arrives_as_it_was(service: Service, encoding: str, path: str) -> None:
    body = b"0123456789" * 300_000
    raw = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    sent = {
        "gzip": lambda: gzip.compress(body),
        "deflate": lambda: zlib.compress(body),
        "raw deflate": lambda: raw.compress(body) + raw.flush(),
        "two members of gzip": lambda: gzip.compress(body[:7]) + gzip.compress(body[7:]),
    }[encoding]()

    answer = service.call(path, sent, **{"Content-Encoding": "gzip" if "gzip" in encoding else "deflate"})

    expected = {"/echo": body, "/file": body[::-1], "/stream": b"3000000"}[path]
    assert (answer.status, answer.body == expected) == (200, True)


@pytest.mark.parametrize("path", ["/echo", "/file", "/stream"])
def test_a_body_of_many_bytes_goes_there_and_back(service: Service, path: str) -> None:
    body = bytes(range(256)) * 20_000

    answer = service.call(path, body)

    expected = {"/echo": body, "/file": body[::-1], "/stream": b"5120000"}[path]
    assert (answer.status, answer.body == expected) == (200, True)


@pytest.mark.parametrize(
    ("path", "body", "headers", "reason"),
    [
        ("/words?least=x", b"a", {}, "the parameter least must be a whole number"),
        ("/words?least=1_0", b"a", {}, "the parameter least must be a whole number"),
        ("/words?least=1&least=2", b"a", {}, "the parameter least is there 2 times"),
        ("/words?most=1", b"a", {}, "most is no parameter of this task"),
        ("/query", b"", {}, "the parameter a is missing"),
        ("/query?a=1&b=nan", b"", {}, "the parameter b must be a number"),
        ("/query?a=1&c=maybe", b"", {}, "the parameter c must be true or false"),
        ("/query?a=1&f=z", b"", {}, "the parameter f must be one of x, y"),
        ("/query?a=1&g=blue", b"", {}, "the parameter g must be one of red"),
        ("/words", b"\xff", {}, "the body is not UTF-8 text"),
        ("/echo/text", b"a", {"Content-Type": "text/plain; charset=klingon"}, "the charset klingon is unknown"),
        ("/keys", b"[1]", {}, "the body must be a JSON object"),
        ("/keys", b"", {}, "the body is not JSON: Expecting value: line 1 column 1 (char 0)"),
        ("/sum", b"[" * 100_000, {}, "the body is JSON nested too deeply"),
        ("/echo", b"abc", {"Content-Encoding": "gzip"}, "the body is not gzip"),
        (
            "/echo",
            gzip.compress(b"abc", mtime=0)[:-3],
            {"Content-Encoding": "gzip"},
            "the body breaks off: it is not whole gzip",
        ),
        (
            "/words",
            gzip.compress(b"a " * 100, mtime=0),
            {"Content-Encoding": "gzip"},
            "the body has more than 100 bytes without its gzip",
        ),
        (
            "/echo",
            b"abc",
            {"Content-Encoding": "br"},
            "the content encoding br is not supported: gzip, deflate or none is",
        ),
    ],
)
def test_what_a_function_cannot_take_is_answered_400_with_the_reason(
    service: Service, path: str, body: bytes, headers: dict[str, str], reason: str
) -> None:
    answer = service.call(path, body, **headers)

    assert (answer.status, detail(answer)) == (400, reason)


def test_a_model_that_does_not_fit_is_answered_400_with_its_errors(service: Service) -> None:
    answer = service.call("/box", b'{"width": "wide"}')

    assert answer.status == 400
    assert "width" in detail(answer)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", "/words", b"a", {"Content-Type": "image/png"}, 415),
        ("POST", "/words", b"a", {}, 415),
        ("POST", "/words", b"a" * 101, {"Content-Type": "text/plain"}, 413),
        ("POST", "/unknown", b"", {}, 404),
        ("GET", "/words", None, {}, 405),
        ("POST", "/fail", b"", {}, 422),
        ("POST", "/break", b"", {}, 500),
        ("POST", "/odd", b"", {}, 500),
        ("POST", "/again", b"", {}, 503),
    ],
)
def test_each_refusal_has_its_status(
    service: Service, method: str, path: str, body: bytes | None, headers: dict[str, str], status: int
) -> None:
    answer = service.ask(method, path, body, headers)

    assert answer.status == status
    assert detail(answer)


def test_an_exceptions_text_is_for_the_log_alone(service: Service) -> None:
    answer = service.call("/break")

    assert detail(answer) == "ValueError; see the service's log"
    assert "a secret" in service.log


def test_the_type_of_a_body_is_compared_without_its_parameters_and_in_any_case(service: Service) -> None:
    assert service.call("/words", b"a", "Text/Plain; charset=UTF-8").status == 200


def test_a_path_may_end_in_a_slash(service: Service) -> None:
    assert service.call("/words/", b"a").status == 200


def test_health_is_answered_to_get_and_head(service: Service) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        assert service.ask("GET", path).status == 200
        head = service.ask("HEAD", path)
        assert (head.status, head.body) == (200, b"")


def test_a_full_service_answers_503_and_is_ready_all_the_same(service: Service) -> None:
    with ThreadPoolExecutor(2) as callers:
        calls = [callers.submit(service.call, "/slow") for _ in range(2)]
        eventually(lambda: service.metrics()["taskbackbone_running"] == 2, "two calls do not run")

        refused = service.call("/words", b"a")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert service.ask("GET", "/readyz").status == 200

        go_on = service.folder / "go on"
        go_on.touch()
        assert [call.result().text for call in calls] == ["done", "done"]
        go_on.unlink()


def test_work_stops_when_its_caller_goes_away(service: Service) -> None:
    before = service.metrics()
    with socket.create_connection(("127.0.0.1", service.port)) as caller:
        caller.sendall(b"POST /slow HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n")
        eventually(lambda: service.metrics()["taskbackbone_running"] == 1, "the call does not run")

    eventually(lambda: service.metrics()["taskbackbone_running"] == 0, "the work goes on")
    ended = 'taskbackbone_ended_total{outcome="stopped"}'
    assert service.metrics()[ended] == before.get(ended, 0) + 1


def exchange(service: Service, *parts: bytes) -> bytes:
    """Sends parts over a connection, and returns what comes until the service closes it."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        for part in parts:
            with suppress(OSError):  # it may answer before all is sent, and close
                connection.sendall(part)
        with suppress(ConnectionResetError):
            return b"".join(iter(lambda: connection.recv(65536), b""))
    return b""


def test_a_body_in_chunks_is_read(service: Service) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"

    answer = exchange(service, head, b"3\r\nabc\r\n", b"2\r\nde\r\n", b"0\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"abcde")


def test_a_body_in_chunks_over_the_limit_is_refused(service: Service) -> None:
    head = b"POST /words HTTP/1.1\r\nHost: here\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"

    assert exchange(service, head, b"80\r\n" + b"a" * 128 + b"\r\n", b"0\r\n\r\n").startswith(b"HTTP/1.1 413")


def test_a_caller_that_waits_for_100_gets_it_and_then_the_answer(service: Service) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\nExpect: 100-continue\r\n"
    head += b"Connection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        connection.sendall(b"abc")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"abc")


def test_a_caller_that_waits_for_100_is_refused_without_it(service: Service) -> None:
    head = b"POST /words HTTP/1.1\r\nHost: here\r\nContent-Length: 999\r\nExpect: 100-continue\r\n\r\n"

    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 415")


def test_a_caller_that_goes_away_within_its_body_leaves_nothing_behind(service: Service) -> None:
    before = sorted(service.temporary.rglob("*"))
    with socket.create_connection(("127.0.0.1", service.port)) as caller:
        caller.sendall(b"POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 9000000\r\n\r\n" + b"a" * 3_000_000)
        eventually(lambda: service.metrics()["taskbackbone_running"] == 1, "the slot is not taken")

    eventually(lambda: service.metrics()["taskbackbone_running"] == 0, "the slot is not free again")
    assert sorted(service.temporary.rglob("*")) == before


def test_large_bodies_and_results_leave_no_files_behind(service: Service) -> None:
    before = sorted(service.temporary.rglob("*"))
    for path in ("/echo", "/file", "/stream"):
        assert service.call(path, b"a" * 3_000_000).status == 200
    assert service.call("/words", b"a" * 3_000_000).status == 413

    eventually(lambda: sorted(service.temporary.rglob("*")) == before, "files are left")


def test_a_head_that_is_very_large_does_no_harm(service: Service) -> None:
    exchange(service, b"POST /echo HTTP/1.1\r\nHost: here\r\nConnection: close\r\nX: ", b"a" * 1_000_000, b"\r\n\r\n")

    assert service.call("/echo", b"a").status == 200
