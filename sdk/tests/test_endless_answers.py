"""Answers without an end: nobody who reads them is held up, or pays for them with memory."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import uvicorn
from both_faces import blocking_client
from scripted_server import PATIENCE_S, Deed, Request, ScriptedServer, answer, raw
from test_drivers import Run, no_proxy, once, run

from taskbackbone import TaskClient, errors, sidecar
from taskbackbone._attempts import Attempt, Completed, Released
from taskbackbone._core import Answer, Backbone, NoAnswer, Steps
from taskbackbone._dispatch import is_up, post
from taskbackbone._drivers import Aiohttp
from taskbackbone._payload import Decoder, decoded
from taskbackbone._server import Endpoint, Spool, _Request
from taskbackbone._storage import Transfer
from taskbackbone._supervisor import Refusal

__all__ = ["no_proxy", "run"]  # fixtures

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
_FLOOD_BYTES = 32 * 1024**2
FLOODS = {
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "hints": (b"", INTERIM),
    "extensions": (CHUNKED, b"1;" + b"a" * 1000 + b"\r\nx\r\n"),
    "small chunks": (CHUNKED, b"1\r\nx\r\n"),
    "trailers": (CHUNKED + b"0\r\n", b"A: b\r\n"),
}
DRIPS = {
    "a head": (OK + b"A: ", b"a"),
    "the size of a chunk": (CHUNKED + b"4", b"0"),
    "trailers": (CHUNKED + b"0\r\n", b"A: b\r\n"),
}


def flood(head: bytes, piece: bytes, pause_s: float = 0.0) -> Deed:
    """*head*, and then *piece* again and again: more than anybody may read, for as long as a test is patient."""

    def deed(connection: socket.socket, request: Request) -> bool:
        connection.sendall(head)
        end_s = time.monotonic() + PATIENCE_S
        pieces = piece if pause_s else piece * (65536 // len(piece))
        for _ in range(_FLOOD_BYTES // 65536):
            connection.sendall(pieces)
            if pause_s:
                time.sleep(pause_s)
            if time.monotonic() > end_s:
                break
        return False

    return deed


def told(cut: threading.Event, deed: Deed) -> Deed:
    """*deed*, and *cut* is set if somebody hangs up before its end."""

    def watched(connection: socket.socket, request: Request) -> bool:
        try:
            return deed(connection, request)
        except OSError:
            cut.set()
            raise

    return watched


def flooding(name: str) -> ScriptedServer:
    return ScriptedServer([flood(*FLOODS[name])])


def dripping(name: str) -> ScriptedServer:
    return ScriptedServer([flood(*DRIPS[name], pause_s=0.05)])


class TestCallers:
    """Those of the backbone, with each of the drivers."""

    @pytest.mark.parametrize("name", FLOODS)
    def test_a_flood_is_no_answer(self, run: Run, name: str) -> None:
        with flooding(name) as server, pytest.raises(NoAnswer, match=r"does not end|Too many|too many"):
            run(once(server, timeout_s=PATIENCE_S))

    @pytest.mark.parametrize("name", DRIPS)
    def test_a_drip_is_silence(self, run: Run, name: str) -> None:
        with dripping(name) as server, pytest.raises(NoAnswer, match="silence"):
            run(once(server, timeout_s=0.5))

    def test_a_slow_series_of_interim_answers_is_no_answer(self, run: Run) -> None:
        deed = flood(b"", FLOODS["continue"][1], 0.02)
        with ScriptedServer([deed]) as server, pytest.raises(NoAnswer, match="does not end"):
            run(once(server, timeout_s=PATIENCE_S))

    @pytest.mark.parametrize("status", [200, 400, 500])
    def test_a_body_without_an_end_is_no_answer(self, run: Run, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("taskbackbone._drivers.MOST_BYTES", 1024**2)
        deed = flood(b"HTTP/1.1 %d Any\r\n\r\n" % status, b"x" * 65536)
        with ScriptedServer([deed]) as server, pytest.raises(NoAnswer, match="more than 1,048,576 bytes"):
            run(once(server, timeout_s=PATIENCE_S))

    def test_the_largest_body_is_an_answer(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("taskbackbone._drivers.MOST_BYTES", 1024**2)
        with ScriptedServer([answer(200, bytes(1024**2))]) as server:
            assert len(run(once(server, timeout_s=PATIENCE_S)).body) == 1024**2

    def test_a_streamed_body_may_be_larger(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("taskbackbone._drivers.MOST_BYTES", 1024**2)
        with ScriptedServer([answer(200, bytes(3 * 1024**2))]) as server:
            got = run(once(server, timeout_s=PATIENCE_S, streamed=True))
            assert got.stream is not None

    def test_interim_answers_come_before_the_answer(self, run: Run) -> None:
        def both(server: ScriptedServer) -> Steps[list[Answer]]:
            call = Backbone(server.url, "the-key").call("GET", "/x")
            first = yield call
            second = yield call
            return [first, second]

        def deed(connection: socket.socket, request: Request) -> bool:
            body = b"%d" % len(server.requests)
            connection.sendall(FLOODS["continue"][1] + INTERIM * 7 + OK + b"Content-Length: 1\r\n\r\n" + body)
            return True

        with ScriptedServer([deed]) as server:
            got = run(both(server))
        assert [(each.status, each.body) for each in got] == [(200, b"1"), (200, b"2")]

    def test_a_large_body_in_small_chunks_is_an_answer(self, run: Run) -> None:
        chunks = b"20\r\n" + b"x" * 32 + b"\r\n"
        content = CHUNKED + chunks * 200_000 + b"0\r\n\r\n"
        with ScriptedServer([raw(content)]) as server:
            assert len(run(once(server, timeout_s=PATIENCE_S)).body) == 6_400_000

    @pytest.mark.parametrize("name", ["continue", "hints"])
    def test_a_proxy_is_bounded_too(self, run: Run, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def by_proxy() -> Steps[Answer]:
            got: Answer = yield Backbone("http://backbone.invalid", "a-key").call("GET", "/x", timeout_s=PATIENCE_S)
            return got

        monkeypatch.setenv("no_proxy", "")
        with flooding(name) as server, pytest.raises(NoAnswer, match="does not end"):
            monkeypatch.setenv("http_proxy", server.url)
            run(by_proxy())

    @pytest.mark.parametrize("name", FLOODS)
    def test_the_storage_is_bounded_too(self, name: str) -> None:
        with flooding(name) as server, pytest.raises(errors.Unreachable, match=r"does not end|Too many"):
            Transfer(0).call("GET", f"{server.url}/blob?sig=secret")


def test_what_comes_after_an_answer_is_not_kept() -> None:
    """A connection that waits for the next request takes no memory, either."""
    answered, cut = threading.Event(), threading.Event()

    def deed(connection: socket.socket, request: Request) -> bool:
        connection.sendall(OK + b"Content-Length: 1\r\n\r\nx")
        answered.wait(PATIENCE_S)
        return told(cut, flood(b"", INTERIM))(connection, request)

    async def call_and_wait() -> bool:
        transport = Aiohttp()
        call = Backbone(server.url, "the-key").call("GET", "/x", timeout_s=PATIENCE_S)
        assert (await transport.asend(call)).body == b"x"
        answered.set()
        is_cut = await asyncio.get_running_loop().run_in_executor(None, cut.wait, PATIENCE_S)
        await transport.close()
        return is_cut

    with ScriptedServer([deed]) as server:
        assert asyncio.run(call_and_wait())


class TestResults:
    """What a model service has stored may be a bomb."""

    @pytest.fixture(params=[TaskClient, blocking_client], ids=["sync", "async"])
    def client(self, request: pytest.FixtureRequest) -> Iterator[Any]:
        self.server = ScriptedServer([])
        with self.server:
            made = request.param(self.server.url, "a-key", retry_for_s=1)
            yield made
            made.close()

    def result(self, client: Any, size: int, *deeds: Deed) -> Any:
        self.server.deeds = [
            answer(200, {"TaskId": "t", "BackendStatus": "completed", "Status": "completed", "ResultSize": size}),
            *deeds,
        ]
        return client.task("t").result()

    def test_a_bomb_comes_in_small_parts(self, client: Any) -> None:
        packed = gzip.compress(bytes(64 * 1024**2))
        result = self.result(client, len(packed), answer(200, packed, {"Content-Encoding": "gzip"}))
        sizes = [len(part) for part in result]
        assert sum(sizes) == 64 * 1024**2
        assert max(sizes) <= 1024**2

    def test_a_bomb_is_not_kept_in_memory(self, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("taskbackbone.client.MOST_DECODED_BYTES", 8 * 1024**2)
        packed = gzip.compress(bytes(64 * 1024**2))
        result = self.result(client, len(packed), answer(200, packed, {"Content-Encoding": "gzip"}))
        with pytest.raises(errors.TooLarge, match="save it"):
            result.bytes()

    def test_a_bomb_is_saved_in_parts(self, client: Any, tmp_path: Path) -> None:
        packed = gzip.compress(bytes(64 * 1024**2))
        result = self.result(client, len(packed), answer(200, packed, {"Content-Encoding": "gzip"}))
        assert result.save(tmp_path / "any").stat().st_size == 64 * 1024**2

    def test_one_that_does_not_end_is_not_what_was_stored(self, client: Any) -> None:
        result = self.result(client, 100, flood(CHUNKED, b"400\r\n" + b"x" * 1024 + b"\r\n"))
        with pytest.raises(errors.Corrupted, match="more than 100 bytes"):
            result.bytes()


class TestContent:
    def test_a_small_content_becomes_much_in_parts(self) -> None:
        packed = zlib.compress(bytes(64 * 1024**2))
        parts = [len(part) for part in Decoder("deflate").feed(packed)]
        assert max(parts) <= 1024**2
        assert sum(parts) == 64 * 1024**2

    def test_there_is_a_most_in_memory(self) -> None:
        with pytest.raises(ValueError, match="more than 1,000,000 bytes without its gzip"):
            decoded("gzip", gzip.compress(bytes(1_000_001)), 1_000_000)
        assert decoded("gzip", gzip.compress(bytes(1_000_000)), 1_000_000) == bytes(1_000_000)

    @pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b'{"a":"%s"}' % (b"b" * 17_000_000)])
    def test_json_that_is_a_bomb_is_none(self, body: bytes) -> None:
        assert Answer(200, {}, body).json() == {}

    def test_json_that_becomes_one_is_none(self) -> None:
        body = gzip.compress(json.dumps({"a": "b" * 20_000_000}).encode())
        assert Answer(200, {"content-encoding": "gzip"}, body).json() == {}


class TestBodies:
    """Those that come to a service."""

    def test_one_that_comes_byte_by_byte_does_not_hold_its_slot(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("taskbackbone._server._BODY_SILENCE_S", 0.5)
        refusals = SimpleQueue[Any]()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            request = _Request(scope, receive, send, lambda: False)
            try:
                refusals.put(await request.body(Endpoint("/x"), tmp_path))
            except Refusal as refusal:
                refusals.put(refusal)

        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
        thread.start()
        with socket.create_connection(listener.getsockname()) as caller, suppress(OSError):
            caller.sendall(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
            end_s = time.monotonic() + PATIENCE_S
            while refusals.empty() and time.monotonic() < end_s:
                caller.sendall(b"x")
                time.sleep(0.05)
        server.should_exit = True
        thread.join(PATIENCE_S)
        refused = refusals.get_nowait()
        assert isinstance(refused, Refusal)
        assert (refused.status, refused.detail) == (408, "The body comes too slowly.")


class TestServersOfModels:
    """Those behind a sidecar, and those that a played backbone calls."""

    def send(self, url: str, folder: Path) -> Any:
        return sidecar._Request(Attempt("/x", folder, task_id="t"), url + "/x", "").send()

    @pytest.mark.parametrize("name", FLOODS)
    def test_a_flood_is_an_attempt_that_failed(self, name: str, tmp_path: Path) -> None:
        with flooding(name) as server:
            told = self.send(server.url, tmp_path)
        assert told == Released("the server broke off (EndlessAnswer)", counted=True)

    def test_the_text_of_a_refusal_has_a_beginning_only(self, tmp_path: Path) -> None:
        cut = threading.Event()
        with ScriptedServer([told(cut, flood(b"HTTP/1.1 500 Any\r\n\r\n", b"x" * 65536))]) as server:
            assert self.send(server.url, tmp_path) == 500
            assert cut.wait(PATIENCE_S)

    def test_a_result_gets_half_of_the_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("taskbackbone._server.disk_usage", lambda _: type("Usage", (), {"free": 8 * 1024**2}))
        with ScriptedServer([flood(OK + b"\r\n", b"x" * 65536)]) as server:
            told = self.send(server.url, tmp_path)
        assert told == Released("the result cannot be kept in a file (OSError)", counted=True)
        spool = Spool(tmp_path / "other")
        spool.add(bytes(4 * 1024**2))
        with pytest.raises(OSError, match="No space left"):
            spool.add(b"x")
        spool.close()

    def test_interim_answers_come_before_the_result(self, tmp_path: Path) -> None:
        with ScriptedServer([raw(INTERIM * 3 + OK + b"Content-Type: a/b\r\nContent-Length: 1\r\n\r\nx")]) as server:
            assert self.send(server.url, tmp_path) == Completed(b"x", "a/b")

    @pytest.mark.parametrize("value", ["-5", "nan", "-inf"])
    def test_a_pause_is_not_below_0(self, value: str, tmp_path: Path) -> None:
        request = sidecar._Request(Attempt("/x", tmp_path, task_id="t"), "", "")
        with ScriptedServer([answer(503, b"", {"Retry-After": value})]) as server:
            request._url = server.url
            assert request.send() == 503
        assert request.retry_after_s == 0

    @pytest.mark.parametrize("name", FLOODS)
    def test_a_played_dispatch_has_erred(self, name: str) -> None:
        with flooding(name) as server:
            told = post(server.url, {}, b"{}", PATIENCE_S)
        assert told.meaning in ("erred", "accepted")  # its body is read as far as somebody may show it
        assert name == "small chunks" or told.reason == "sent an answer that does not end"

    @pytest.mark.parametrize("name", DRIPS)
    def test_a_played_dispatch_does_not_wait_for_drips(self, name: str) -> None:
        with dripping(name) as server:
            assert post(server.url, {}, b"{}", 0.5).reason == "did not answer in time"

    def test_a_result_of_a_played_dispatch_has_an_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("taskbackbone._dispatch.MOST_BYTES", 1024**2)
        with ScriptedServer([flood(OK + b"X-Task-Complete: \r\n\r\n", b"x" * 65536)]) as server:
            told = post(server.url, {}, b"{}", PATIENCE_S)
        assert (told.meaning, told.reason) == ("rejected", "answered with more than 1048576 bytes")

    @pytest.mark.parametrize("name", FLOODS)
    def test_a_look_whether_it_is_ready_ends(self, name: str) -> None:
        with flooding(name) as server:
            assert is_up(server.url, until_loaded=True)
