"""The three drivers do the same, whatever a server does to them."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from scripted_server import PATIENCE_S, Request, ScriptedServer, answer, raw, reset

from taskbackbone import errors
from taskbackbone._core import Answer, Backbone, NoAnswer, Sleep, Steps, request
from taskbackbone._drivers import Aiohttp, Requests, _sendable, run_async, run_in_threads, run_sync
from taskbackbone._payload import Decoder, FilePayload, StreamPayload, decoded

Run = Callable[[Any], Any]


def by_requests(steps: Steps[Any]) -> Any:
    transport = Requests()
    try:
        return run_sync(steps, transport)
    finally:
        transport.close()


def by_threads(steps: Steps[Any]) -> Any:
    transport = Requests(threads=2)
    try:
        return asyncio.run(run_in_threads(steps, transport))
    finally:
        transport.close()


def by_aiohttp(steps: Steps[Any]) -> Any:
    async def run() -> Any:
        transport = Aiohttp()
        try:
            return await run_async(steps, transport)
        finally:
            await transport.close()

    return asyncio.run(run())


@pytest.fixture(params=[by_requests, by_threads, by_aiohttp])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def once(server: ScriptedServer, **options: Any) -> Steps[Answer]:
    """One call, which is not repeated."""
    steps: Steps[Answer] = yield Backbone(server.url, "the-key").call(**{"method": "GET", "path": "/x", **options})
    return steps


def patient(server: ScriptedServer, **options: Any) -> Steps[Answer]:
    """A call that is repeated as calls are."""
    return request(Backbone(server.url, "the-key").call(**{"method": "GET", "path": "/x", **options}))


class TestAnswers:
    def test_an_answer_has_status_headers_in_small_letters_and_body(self, run: Run) -> None:
        with ScriptedServer([answer(418, b"a body", {"X-Any": "Thing"})]) as server:
            got = run(once(server))
        assert (got.status, got.headers["x-any"], got.body) == (418, "Thing", b"a body")

    def test_the_key_goes_in_its_header(self, run: Run) -> None:
        with ScriptedServer([answer()]) as server:
            run(once(server))
        [request] = server.requests
        assert (request.method, request.target, request.headers["x-functions-key"]) == ("GET", "/x", "the-key")

    def test_a_path_goes_out_as_it_was_escaped(self, run: Run) -> None:
        path = "/api/v1/tasks/a%2Fb%20c%3Fd%23e%252f/result"
        with ScriptedServer([answer()]) as server:
            run(once(server, path=path, query="a=%2F%26&b=1%2C2"))
        assert server.requests[0].target == path + "?a=%2F%26&b=1%2C2"

    def test_content_is_not_decoded(self, run: Run) -> None:
        packed = gzip.compress(b"content")
        with ScriptedServer([answer(200, packed, {"Content-Encoding": "gzip"})]) as server:
            assert run(once(server)).body == packed
        assert server.requests[0].headers["accept-encoding"] == "identity"

    def test_a_chunked_answer_is_whole(self, run: Run) -> None:
        content = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        with ScriptedServer([raw(content)]) as server:
            assert run(once(server)).body == b"abcde"

    @pytest.mark.parametrize("status", [204, 304])
    def test_an_answer_without_a_body_is_whole(self, run: Run, status: int) -> None:
        with ScriptedServer([raw(b"HTTP/1.1 %d Any\r\nETag: x\r\n\r\n" % status)]) as server:
            assert run(once(server)).status == status

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirect_is_not_followed(self, run: Run, status: int) -> None:
        with ScriptedServer([answer()]) as other:
            with ScriptedServer([answer(status, b"", {"Location": other.url + "/x"})]) as server:
                assert run(once(server)).status == status
            assert other.requests == []

    def test_cookies_are_not_kept(self, run: Run) -> None:
        def twice(server: ScriptedServer) -> Steps[Answer]:
            yield from once(server)
            return (yield from once(server))

        with ScriptedServer([answer(200, b"", {"Set-Cookie": "ARRAffinity=instance; Path=/"})]) as server:
            run(twice(server))
        assert ["cookie" in request.headers for request in server.requests] == [False, False]

    def test_one_connection_is_enough_for_one_call_after_the_other(self, run: Run) -> None:
        def often(server: ScriptedServer) -> Steps[Answer]:
            for _ in range(5):
                yield from once(server)
                yield from once(server, method="POST", body=b"x" * 200_000)
            return (yield from once(server))

        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        deeds = [answer(404, b"words"), raw(chunked, close=False), raw(b"HTTP/1.1 304 A\r\n\r\n", close=False)]
        with ScriptedServer([*deeds, answer(200, b"x" * 500_000)]) as server:
            run(often(server))
        assert len(server.requests) == 11
        assert len(server.connections) == 1

    def test_a_streamed_answer_comes_in_parts(self, run: Run) -> None:
        content = os.urandom(1_000_000)

        async def all_of(stream: Any) -> bytes:
            return b"".join([chunk async for chunk in stream])

        def read(server: ScriptedServer) -> Steps[Any]:
            got = yield from once(server, streamed=True)
            assert (got.status, got.body) == (200, b"")
            return got.stream

        with ScriptedServer([answer(200, content)]) as server:
            if run is by_aiohttp:

                async def whole() -> bytes:
                    transport = Aiohttp()
                    stream = await run_async(read(server), transport)
                    try:
                        return await all_of(stream)
                    finally:
                        await transport.close()

                assert asyncio.run(whole()) == content
            else:
                transport = Requests()
                assert b"".join(run_sync(read(server), transport)) == content
                transport.close()

    def test_an_error_is_not_streamed(self, run: Run) -> None:
        with ScriptedServer([answer(404, b"words")]) as server:
            assert run(once(server, streamed=True)).body == b"words"


class TestFailures:
    def test_nobody_listens(self, run: Run) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        steps = request(Backbone(f"http://127.0.0.1:{port}", "the-key").call("GET", "/x"), retry_for_s=0)
        with pytest.raises(errors.Unreachable, match="refused") as failed:
            run(steps)
        assert "the-key" not in str(failed.value)

    @pytest.mark.parametrize(
        "deed",
        [
            reset,
            raw(b""),
            raw(b"HTTP/1.1 200 OK\r\nContent-Le"),
            raw(b"this is not HTTP at all\r\n\r\n"),
            answer(200, b"abc", announced=1_000),
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nabc"),
        ],
        ids=["reset", "end", "cut head", "no HTTP", "cut body", "cut chunk"],
    )
    def test_an_answer_that_breaks_off_is_none(self, run: Run, deed: Any) -> None:
        with ScriptedServer([deed]) as server, pytest.raises(NoAnswer) as failed:
            run(once(server))
        assert "the-key" not in str(failed.value)

    def test_and_the_call_is_repeated(self, run: Run) -> None:
        with ScriptedServer([reset, answer(200, b"abc", announced=9), answer(200, b"whole")]) as server:
            got = run(patient(server))
        assert (got.body, got.repeated, len(server.requests)) == (b"whole", True, 3)

    def test_silence_is_no_answer(self, run: Run) -> None:
        def wait(connection: socket.socket, request: Request) -> bool:
            return not server.ended.wait(PATIENCE_S)

        with ScriptedServer([wait]) as server, pytest.raises(NoAnswer, match="silence"):
            run(once(server, timeout_s=0.2))

    def test_a_body_that_drips_is_no_answer(self, run: Run) -> None:
        def drip(connection: socket.socket, request: Request) -> bool:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            with suppress(OSError):
                while not server.ended.wait(0.01):
                    connection.sendall(b"x")
            return False

        with ScriptedServer([drip]) as server, pytest.raises(NoAnswer, match="too slowly"):
            run(once(server, timeout_s=0.2))

    def test_a_kept_connection_that_was_closed_meanwhile_costs_a_repetition_at_most(self, run: Run) -> None:
        def twice(server: ScriptedServer) -> Steps[Answer]:
            yield from patient(server)
            closed.wait(PATIENCE_S)
            return (yield from patient(server))

        closed = threading.Event()

        def close(connection: socket.socket, request: Request) -> bool:
            answer(200)(connection, request)
            connection.shutdown(socket.SHUT_RDWR)
            closed.set()
            return False

        with ScriptedServer([close, answer(200, b"again")]) as server:
            assert run(twice(server)).body == b"again"


class TestCertificates:
    def test_one_that_is_not_trusted_is_told_at_once(self, run: Run, tmp_path: Path) -> None:
        key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
        subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)

        def shake_hands(connection: socket.socket) -> None:
            context.wrap_socket(connection, server_side=True)

        with listening(shake_hands) as url, pytest.raises(errors.Unreachable, match="not trusted"):
            run(request(Backbone(url, "the-key").call("GET", "/x")))

    def test_a_handshake_that_breaks_off_is_tried_again(self, run: Run) -> None:
        accepted: list[socket.socket] = []
        with listening(accepted.append) as url, pytest.raises(errors.Unreachable, match="does not answer"):
            run(request(Backbone(url, "the-key").call("GET", "/x"), retry_for_s=0.3))
        assert len(accepted) > 1


@contextmanager
def listening(deed: Callable[[socket.socket], object]) -> Iterator[str]:
    """The URL of a server that does *deed* to each connection, and closes it."""

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with suppress(OSError), connection:
                    deed(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"


class TestBodies:
    CONTENT = os.urandom(300_000)

    def test_bytes_have_a_length_and_no_chunks(self, run: Run) -> None:
        with ScriptedServer([answer()]) as server:
            run(once(server, method="POST", body=self.CONTENT))
        self.arrived(server)

    def test_so_has_a_file(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "body"
        file.write_bytes(self.CONTENT)
        with ScriptedServer([answer()]) as server:
            run(once(server, method="POST", body=FilePayload(file)))
        self.arrived(server)

    def test_so_has_an_empty_one(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        for body in (b"", FilePayload(tmp_path / "empty")):
            with ScriptedServer([answer()]) as server:
                run(once(server, method="POST", body=body))
            assert server.requests[0].headers.get("content-length") == "0"
            assert "transfer-encoding" not in server.requests[0].headers

    def test_a_repeated_call_sends_all_of_it_again(self, run: Run) -> None:
        stream = io.BytesIO(b"before" + self.CONTENT)
        stream.seek(6)
        with ScriptedServer([answer(503), reset, answer()]) as server:
            run(patient(server, method="POST", body=StreamPayload(stream)))
        assert [request.body == self.CONTENT for request in server.requests] == [True] * 3

    def test_a_folder_or_a_pipe_is_no_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for name in ("", "pipe"):
            with pytest.raises(ValueError, match="is no file"):
                FilePayload(tmp_path / name)

    def test_a_file_that_becomes_shorter_ends_the_call(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "body"
        file.write_bytes(self.CONTENT)
        payload = FilePayload(file)
        os.truncate(file, 100_000)
        with ScriptedServer([answer()]) as server, pytest.raises(errors.BodyUnreadable, match="200,000 of 300,000"):
            run(patient(server, method="POST", body=payload))

    def test_a_stream_that_cannot_be_read_ends_the_call_with_its_error(self, run: Run) -> None:
        class Broken(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                if self.tell() > 100_000:
                    raise OSError(5, "Input/output error")
                return super().read(size)

        with ScriptedServer([answer()]) as server, pytest.raises(errors.BodyUnreadable) as failed:
            run(patient(server, method="POST", body=StreamPayload(Broken(self.CONTENT))))
        assert isinstance(failed.value.__cause__, OSError)

    def test_a_large_one_goes_in_parts_so_that_the_timeout_is_for_each_part(self) -> None:
        sent = _sendable(self.CONTENT)
        assert (len(sent), [len(part) for part in sent]) == (300_000, [65536] * 4 + [37856])

    def test_a_server_that_takes_no_more_is_silent(self, run: Run) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            call = Backbone(url, "the-key").call("POST", "/x", body=b"x" * 50_000_000, timeout_s=0.5)
            with pytest.raises(errors.Unreachable, match=r"silence|timed out"):
                run(request(call, retry_for_s=0))

    def arrived(self, server: ScriptedServer) -> None:
        [request] = server.requests
        assert request.body == self.CONTENT
        assert request.headers["content-length"] == str(len(self.CONTENT))
        assert "transfer-encoding" not in request.headers


class TestSteps:
    def test_pauses_are_made(self, run: Run) -> None:
        def steps() -> Steps[str]:
            assert (yield Sleep(0)) is None
            return "done"

        assert run(steps()) == "done"

    def test_steps_are_closed_when_they_fail(self, run: Run) -> None:
        closed = []

        def steps() -> Steps[None]:
            try:
                yield Sleep(0)
                raise LookupError
            finally:
                closed.append(True)

        with pytest.raises(LookupError):
            run(steps())
        assert closed == [True]


class TestProxies:
    def test_a_proxy_of_the_environment_is_used(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        with ScriptedServer([answer(200, b"by the proxy")]) as proxy:
            monkeypatch.setenv("http_proxy", proxy.url)
            monkeypatch.setenv("no_proxy", "")
            steps = request(Backbone("http://backbone.invalid", "the-key").call("GET", "/x"))
            assert run(steps).body == b"by the proxy"
        assert proxy.requests[0].target == "http://backbone.invalid/x"

    def test_a_proxy_that_is_none_is_told_at_once(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://:::1")
        steps = request(Backbone("http://backbone.invalid", "the-key").call("GET", "/x"), retry_for_s=0)
        with pytest.raises(errors.Unreachable):
            run(steps)


def test_a_process_that_was_forked_has_connections_of_its_own() -> None:
    transport = Requests()
    with ScriptedServer([answer(200, b"parent"), answer(200, b"child")]) as server:
        assert run_sync(once(server), transport).body == b"parent"
        before = transport.session
        child = os.fork()
        if child == 0:
            os._exit(0 if transport.session is not before else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert transport.session is before
    transport.close()


class TestEncodedContent:
    @pytest.mark.parametrize("size", [0, 1, 100_000])
    def test_gzip_is_unpacked_member_by_member(self, size: int) -> None:
        content = os.urandom(size)
        packed = gzip.compress(content) + gzip.compress(b"and more")
        assert decoded("gzip", packed) == content + b"and more"
        decoder = Decoder("gzip")
        assert (
            b"".join(part for i in range(0, len(packed), 7) for part in decoder.feed(packed[i : i + 7]))
            == content + b"and more"
        )
        decoder.end()

    def test_what_breaks_off_is_noticed(self) -> None:
        with pytest.raises(ValueError, match="breaks off"):
            decoded("gzip", gzip.compress(os.urandom(1000))[:-10])

    def test_what_is_not_encoded_so_is_noticed(self) -> None:
        with pytest.raises(ValueError, match="not gzip"):
            decoded("gzip", b"plain")

    @pytest.mark.parametrize("encoding", [None, "", "br", "zstd"])
    def test_other_content_is_left_as_it_is(self, encoding: str | None) -> None:
        assert decoded(encoding, b"ab") == b"ab"
