"""A malicious backend can make its own task fail, and nothing else."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from local.processes import free_port
from shared.dispatch.answer_text import MAX_CHARS
from shared.dispatch.backend_client import Accepted, BackendClient, Rejected, Unreachable
from tests.scripted_backend import Answer, ScriptedBackend
from tests.shared.dispatch.evil_backend import evil_backend
from tests.shared.dispatch.test_backend_client import Outcome, endpoint_at, post, registry

MEGABYTE = 1024 * 1024
MOST_BYTES = 8 * MEGABYTE
"""How much memory an answer may cost: far more than all limits together, far less than a gzip bomb."""

BOMB = gzip.compress(bytes(100 * MEGABYTE))

Parts = Callable[[], Iterator[bytes]]


def endless_body() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n"
    yield from itertools.repeat(bytes(MEGABYTE))


def endless_chunks() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    yield from itertools.repeat(b"100000\r\n" + bytes(MEGABYTE) + b"\r\n")


def endless_chunk_extension() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x="
    yield from itertools.repeat(b"x" * MEGABYTE)


def endless_trailers() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    yield from (f"X-{number}: {'x' * 8000}\r\n".encode() for number in itertools.count())


def endless_reason() -> Iterator[bytes]:
    yield b"HTTP/1.1 400 Bad\r\nContent-Type: text/plain\r\nContent-Length: 1000000000000\r\n\r\n"
    yield from itertools.repeat(b"x" * MEGABYTE)


def endless_json() -> Iterator[bytes]:
    yield b"HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\n\r\n"
    yield from itertools.repeat(b"[" * MEGABYTE)


def compressed_reason() -> Iterator[bytes]:
    yield f"HTTP/1.1 400 Bad\r\nContent-Encoding: gzip\r\nContent-Length: {len(BOMB)}\r\n\r\n".encode() + BOMB


def gzip_bomb() -> Iterator[bytes]:
    yield f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(BOMB)}\r\n\r\n".encode() + BOMB


def endless_status_line() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 "
    yield from itertools.repeat(b"x" * MEGABYTE)


def endless_header() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nX-Long: "
    yield from itertools.repeat(b"x" * MEGABYTE)


def endless_headers() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    yield from (f"X-{number}: {'x' * 8000}\r\n".encode() for number in itertools.count())


def no_http() -> Iterator[bytes]:
    yield from itertools.repeat(b"\x16\x03\x01" + bytes(MEGABYTE))


def two_lengths() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"


def another_protocol() -> Iterator[bytes]:
    yield b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: evil\r\n\r\n"
    yield from itertools.repeat(bytes(MEGABYTE))


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (endless_body, Accepted()),
        (endless_chunks, Accepted()),
        (endless_chunk_extension, Accepted()),
        (endless_trailers, Accepted()),
        (gzip_bomb, Accepted()),
        (endless_reason, Rejected(f"answered 400: {'x' * MAX_CHARS}")),
        (endless_json, Rejected(f"answered 400: {'[' * MAX_CHARS}")),
        (compressed_reason, Rejected("answered 400")),
        (endless_status_line, Unreachable("could not be reached")),
        (endless_header, Unreachable("could not be reached")),
        (endless_headers, Unreachable("could not be reached")),
        (no_http, Unreachable("could not be reached")),
        (two_lengths, Unreachable("could not be reached")),
        (another_protocol, Rejected("answered 101")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_only_the_beginning_of_an_endless_answer_is_read(
    client: BackendClient, answer: Parts, meaning: Outcome
) -> None:
    with evil_backend(answer) as evil:
        endpoint = endpoint_at(evil.url)
        tracemalloc.start()
        try:
            assert await post(client, endpoint) == meaning
            held_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        await client.aclose()  # closes the connection that is kept after a short answer
        await asyncio.to_thread(evil.wait_until_closed)
    # The backend runs in this process too and holds what it sends.
    assert held_bytes < MOST_BYTES


def slow_headers(pace: threading.Event) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    for number in itertools.count():
        pace.wait(0.02)
        yield f"X-{number}: x\r\n".encode() if number < 50 else b"x"


def slow_status_line(pace: threading.Event) -> Iterator[bytes]:
    for letter in itertools.chain(b"HTTP/1.1 200 ", itertools.repeat(b"x"[0])):
        pace.wait(0.02)
        yield bytes([letter])


@pytest.mark.parametrize("answer", [slow_headers, slow_status_line])
async def test_an_answer_that_trickles_in_times_out(
    client: BackendClient, answer: Callable[[threading.Event], Iterator[bytes]]
) -> None:
    never = threading.Event()
    with evil_backend(lambda: answer(never)) as evil:
        assert await post(client, endpoint_at(evil.url), timeout_s=0.5) == Unreachable("did not answer in time")
        await asyncio.to_thread(evil.wait_until_closed)


async def test_a_response_body_that_trickles_in_is_not_awaited(client: BackendClient) -> None:
    never = threading.Event()

    def slow_body() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
        while True:
            never.wait(0.02)
            yield b"x"

    with evil_backend(slow_body) as evil:
        assert await post(client, endpoint_at(evil.url)) == Accepted()
        await asyncio.to_thread(evil.wait_until_closed)


async def test_a_reason_that_trickles_in_is_cut_off(client: BackendClient) -> None:
    never = threading.Event()

    def slow_reason() -> Iterator[bytes]:
        yield b"HTTP/1.1 400 Bad\r\nContent-Type: text/plain\r\nContent-Length: 1000000\r\n\r\ntoo "
        while True:
            never.wait(0.02)
            yield b"x"

    with evil_backend(slow_reason) as evil:
        answer = await post(client, endpoint_at(evil.url))
        assert isinstance(answer, Rejected)
        assert answer.reason.startswith("answered 400: too ")
        await asyncio.to_thread(evil.wait_until_closed)


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/metadata/identity/oauth2/token",
        "http://168.63.129.16/",
        "//169.254.169.254/",
        "http://127.0.0.1:{trap}/",
        "/elsewhere",
        "file:///etc/passwd",
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed_whatever_its_target(
    client: BackendClient, location: str, status: int, connections: list[Any]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap_port = trap.getsockname()[1]

        def redirect() -> Iterator[bytes]:
            yield (
                f"HTTP/1.1 {status} Moved\r\nLocation: {location.format(trap=trap_port)}\r\n"
                "Refresh: 0; url=http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
            ).encode()

        with evil_backend(redirect) as evil:
            assert await post(client, endpoint_at(evil.url)) == Rejected(f"answered {status}")
            assert [port for _, port in connections] == [int(evil.url.rpartition(":")[2])]


@pytest.fixture
async def connections(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The addresses that this event loop has connected to."""
    loop = asyncio.get_running_loop()
    connect, made = loop.sock_connect, list[tuple[str, int]]()

    async def sock_connect(sock: socket.socket, address: Any) -> None:
        made.append((address[0], address[1]))
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", sock_connect)
    return made


class Dns:
    """Answers each query with the next of its addresses, and all further ones with the last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
        self.asked = 0
        self._addresses = addresses
        monkeypatch.setattr(socket, "getaddrinfo", self._getaddrinfo)

    def _getaddrinfo(self, host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        address = self._addresses[min(self.asked, len(self._addresses) - 1)]
        self.asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))]


@pytest.mark.parametrize("forbidden", ["169.254.169.254", "168.63.129.16", "0.0.0.0"])
async def test_a_host_name_that_changes_to_a_forbidden_address_is_not_called_again(
    forbidden: str, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch, connections: list[tuple[str, int]]
) -> None:
    dns = Dns(monkeypatch, "127.0.0.1", forbidden)
    base_url = backend.url.replace("127.0.0.1", "models.example.org")
    endpoint = endpoint_at(base_url)
    # The second call then needs a new connection.
    backend.script(endpoint.path, Answer(200, {"Connection": "close"}))
    client = BackendClient(registry(base_url, loopback=True))
    try:
        assert await post(client, endpoint) == Accepted()
        _forget_names(client)
        assert await post(client, endpoint) == Unreachable("could not be reached", was_sent=False)
    finally:
        await client.aclose()
    assert dns.asked == 2
    assert [host for host, _ in connections] == ["127.0.0.1"]


async def test_a_call_resolves_its_host_name_once_and_connects_to_the_checked_address(
    backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch, connections: list[tuple[str, int]]
) -> None:
    dns = Dns(monkeypatch, "127.0.0.1", "169.254.169.254")
    base_url = backend.url.replace("127.0.0.1", "models.example.org")
    client = BackendClient(registry(base_url, loopback=True))
    try:
        assert await post(client, endpoint_at(base_url)) == Accepted()
    finally:
        await client.aclose()
    assert dns.asked == 1
    assert [host for host, _ in connections] == ["127.0.0.1"]


async def test_a_host_name_is_called_once_it_resolves_to_an_allowed_address(
    backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    Dns(monkeypatch, "169.254.169.254", "127.0.0.1")
    base_url = backend.url.replace("127.0.0.1", "models.example.org")
    client = BackendClient(registry(base_url, loopback=True))
    try:
        assert await post(client, endpoint_at(base_url)) == Unreachable("could not be reached", was_sent=False)
        assert await post(client, endpoint_at(base_url)) == Accepted()
    finally:
        await client.aclose()


async def test_nothing_is_sent_to_an_https_backend_that_does_not_speak_tls(
    backend: ScriptedBackend, client: BackendClient
) -> None:
    # The endpoint demands TLS and the server does not speak it: the client must not fall back to plain text.
    endpoint = endpoint_at(backend.url.replace("http://", "https://"))
    assert await post(client, endpoint) == Unreachable("could not be reached", was_sent=False)
    assert backend.untaken(endpoint.path) == 0


async def test_a_connection_that_stays_silent_times_out(client: BackendClient) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        endpoint = endpoint_at(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert await post(client, endpoint, timeout_s=0.3) == Unreachable("did not answer in time")


def _forget_names(client: BackendClient) -> None:
    """Clear the client's cache of host names, as its ten seconds would."""
    for session in client._open():
        connector: Any = session.connector
        connector.clear_dns_cache()
