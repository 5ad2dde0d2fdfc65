"""A server that answers without an end holds up no service, and takes none of its memory."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import Any, Callable, Iterator, Tuple

import pytest
from task_management.api_task import TaskManager
from task_management.calls import call

from conftest import PATIENCE_S

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
FLOODS = {
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "hints": (b"", INTERIM),
    "a body": (OK + b"\r\n", b"x" * 65536),
    "the body of an error": (b"HTTP/1.1 400 Any\r\n\r\n", b"x" * 65536),
    "the body of a redirect": (b"HTTP/1.1 302 Any\r\nLocation: /other\r\n\r\n", b"x" * 65536),
    "small chunks": (CHUNKED, b"1\r\nx\r\n"),
    "extensions": (CHUNKED, b"1;" + b"a" * 1000 + b"\r\nx\r\n"),
    "trailers": (CHUNKED + b"0\r\n", b"A: b\r\n"),
}
DRIPS = {
    "a head": (OK + b"A: ", b"a"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a body": (OK + b"\r\n", b"x"),
    "the size of a chunk": (CHUNKED + b"4", b"0"),
    "trailers": (CHUNKED + b"0\r\n", b"A: b\r\n"),
}


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The URL of one that answers each request so."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)

        def serve(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.recv(65536)
                answer(connection)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def flood(head: bytes, piece: bytes, pause_s: float = 0.0) -> Callable[[socket.socket], None]:
    """*head*, and then *piece* again and again: more than anybody may read, for as long as a test is patient."""

    def answer(connection: socket.socket) -> None:
        pieces = piece if pause_s else piece * (65536 // len(piece))
        try:
            connection.sendall(head)
            for _ in range(int(PATIENCE_S / pause_s) if pause_s else 512):
                connection.sendall(pieces)
                if pause_s:
                    time.sleep(pause_s)
        except OSError:
            hung_up.set()

    hung_up.clear()
    return answer


hung_up = threading.Event()
"""Whether the client of a flood has hung up before its end."""


def ask(url: str, timeout_s: float) -> Tuple[int, Any]:
    return call("GET", url, timeout_s=timeout_s, retry_for_s=0)


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_no_answer(name: str) -> None:
    with server(flood(*FLOODS[name])) as url:
        assert ask(url, PATIENCE_S) == (0, None)
        assert hung_up.wait(PATIENCE_S)


@pytest.mark.parametrize("name", DRIPS)
def test_a_drip_is_no_answer(name: str) -> None:
    head, piece = DRIPS[name]
    with server(flood(head, piece, 0.05)) as url:
        assert ask(url, 0.5) == (0, None)
        assert hung_up.wait(PATIENCE_S)


def test_a_slow_series_of_interim_answers_is_no_answer() -> None:
    with server(flood(*DRIPS["interim answers"], pause_s=0.05)) as url:
        assert ask(url, 2 * PATIENCE_S) == (0, None)
        assert hung_up.wait(PATIENCE_S)


def test_interim_answers_come_before_the_answer() -> None:
    body = json.dumps({"TaskId": "t", "Status": "x" * 3000000}).encode()
    content = INTERIM * 3 + OK + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with server(lambda connection: connection.sendall(content)) as url:
        status, document = ask(url, PATIENCE_S)
    assert (status, document["TaskId"], len(document["Status"])) == (200, "t", 3000000)


def test_a_redirect_leads_to_http_only() -> None:
    with server(lambda connection: connection.sendall(b"230 any\r\n" * 8)) as other:
        redirect = b"HTTP/1.1 302 Any\r\nLocation: ftp%s/x\r\nContent-Length: 0\r\n\r\n" % other[4:].encode()
        with server(lambda connection: connection.sendall(redirect)) as url:
            assert ask(url, 0.5) == (0, None)


def test_json_that_is_nested_too_deeply_is_none() -> None:
    content = OK + b"Connection: close\r\n\r\n" + b"[" * 200000
    with server(lambda connection: connection.sendall(content)) as url:
        assert ask(url, PATIENCE_S) == (200, None)


@pytest.mark.parametrize("name", ["continue", "hints", "trailers"])
def test_the_next_service_of_one_that_runs_alone_is_bounded_too(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.delenv("CACHE_CONNECTOR_UPSERT_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with server(flood(*FLOODS[name])) as url:
        monkeypatch.setenv("LOCAL_NEXT_API_HOST_IN_PIPELINE", url)
        manager = TaskManager()
        task_id = manager.AddTask(None)["TaskId"]
        told = manager.AddPipelineTask(task_id, "org", "v1", "api", "{}")
    assert told == 200 if name == "trailers" else "is not supported" in told  # only the head is read
