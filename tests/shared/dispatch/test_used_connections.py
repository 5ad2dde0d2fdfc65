"""A connection serves one call after the other. No call may suffer from an earlier one, or from what the server did
meanwhile."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from shared.dispatch import connections as connections_module
from shared.dispatch.backend_client import Accepted, Answer, BackendClient, Busy, Unreachable
from tests.shared.dispatch.room import Room
from tests.shared.dispatch.talking_server import ACCEPTANCE, Pieces, Talk, content_length, talking_server
from tests.shared.dispatch.test_backend_client import endpoint_at
from tests.waiting import PATIENCE_S, until

LOST = Unreachable("could not be reached")
SIZES = [10, 60_000, 300_000]


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """All sockets that the client has made. Request it before the client."""
    make, made = connections_module._socket, list[socket.socket]()

    def make_and_keep(address: Any) -> socket.socket:
        made.append(make(address))
        return made[-1]

    monkeypatch.setattr(connections_module, "_socket", make_and_keep)
    return made


async def post(client: BackendClient, url: str, size_bytes: int = 10, task_id: str = "7") -> Answer:
    headers = {"taskId": task_id, "Content-Type": "text/plain", "Content-Length": str(size_bytes)}
    body = bytes(size_bytes) if size_bytes <= 65_536 else Pieces(size_bytes)
    return await client.post(endpoint_at(url), headers, body, PATIENCE_S, Room())


@pytest.mark.parametrize("size_bytes", SIZES)
async def test_accepted_calls_share_a_connection(client: BackendClient, size_bytes: int) -> None:
    async def accept(talk: Talk) -> None:
        connections.append(talk.number)
        while True:
            await talk.request()
            await talk.say(ACCEPTANCE)

    connections: list[int] = []
    async with talking_server(accept) as url:
        assert [await post(client, url, size_bytes) for _ in range(3)] == [Accepted()] * 3
    assert connections == [1]


@pytest.mark.parametrize("size_bytes", SIZES)
async def test_a_call_is_sent_once_more_if_its_used_connection_was_closed(
    client: BackendClient, size_bytes: int
) -> None:
    async def close_at_the_second_request(talk: Talk) -> None:
        head, body = await talk.request()
        got.append((talk.number, head.partition("taskId: ")[2][:1], len(body)))
        await talk.say(ACCEPTANCE)
        await talk.head()

    got: list[tuple[int, str, int]] = []
    async with talking_server(close_at_the_second_request) as url:
        assert await post(client, url, task_id="1") == Accepted()
        assert await post(client, url, size_bytes, task_id="2") == Accepted()
    assert got == [(1, "1", 10), (2, "2", size_bytes)]


async def test_a_call_is_sent_twice_at_most(client: BackendClient) -> None:
    async def accept_one(talk: Talk) -> None:
        if talk.number == 1:
            await talk.request()
            await talk.say(ACCEPTANCE)
        heads.append((talk.number, await talk.head()))

    heads: list[tuple[int, str]] = []
    async with talking_server(accept_one) as url:
        assert await post(client, url) == Accepted()
        assert await post(client, url) == LOST
    assert [number for number, _ in heads] == [1, 2]


async def test_a_backend_that_ends_at_a_call_may_have_had_it(client: BackendClient) -> None:
    """Nothing listens any more when the call is repeated, and the task may be what has ended the backend."""

    async def accept_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = Talk(1, reader, writer)
        await talk.request()
        await talk.say(ACCEPTANCE)
        await talk.request()
        server.close()
        writer.close()

    server = await asyncio.start_server(accept_one, "127.0.0.1")
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert await post(client, url) == Accepted()
    assert await post(client, url) == Unreachable("could not be reached", was_sent=True)
    assert await post(client, url) == Unreachable("could not be reached", was_sent=False)


async def test_a_call_on_a_new_connection_is_sent_once(client: BackendClient) -> None:
    async def hang_up(talk: Talk) -> None:
        connections.append(talk.number)
        await talk.head()

    connections: list[int] = []
    async with talking_server(hang_up) as url:
        assert await post(client, url) == LOST
    assert connections == [1]


@pytest.mark.parametrize("beginning", [b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nContent-Le", b"H"])
async def test_a_call_is_not_sent_again_if_its_answer_had_begun(client: BackendClient, beginning: bytes) -> None:
    async def break_off(talk: Talk) -> None:
        connections.append(talk.number)
        await talk.request()
        await talk.say(ACCEPTANCE)
        await talk.request()
        await talk.say(beginning)

    connections: list[int] = []
    async with talking_server(break_off) as url:
        assert await post(client, url) == Accepted()
        assert await post(client, url) == LOST
    assert connections == [1]


async def test_what_a_server_says_between_two_calls_answers_neither(client: BackendClient) -> None:
    """A server that leaves a body unread may take it for a request, and answer it."""

    async def answer_twice(talk: Talk) -> None:
        await talk.request()
        await talk.say(ACCEPTANCE)
        if talk.number == 1:
            await between.wait()
            await talk.say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            await talk.reader.read()

    between = asyncio.Event()
    async with talking_server(answer_twice) as url:
        assert await post(client, url) == Accepted()
        between.set()
        await until(lambda: any(protocol.should_close for protocol in idle_connections(client)))
        assert await post(client, url) == Accepted()


@pytest.mark.parametrize("size_bytes", [*SIZES, 40_000_000])
@pytest.mark.parametrize("rest", [b"Content-Length: 0\r\n\r\n", b"Content-Length: 4\r\n\r\nfull"])
async def test_a_refusal_ends_its_connection(
    sockets: list[socket.socket], client: BackendClient, size_bytes: int, rest: bytes
) -> None:
    async def refuse_unread(talk: Talk) -> None:
        connections.append(talk.number)
        if content_length(await talk.head()) > 10_000_000:  # more than the kernel takes
            await until(is_stuck(client))
        await talk.say(b"HTTP/1.1 503 Busy\r\n" + rest)
        await closed.wait()  # without having read the body

    connections: list[int] = []
    closed = asyncio.Event()
    async with talking_server(refuse_unread) as url:
        assert [await post(client, url, size_bytes) for _ in range(2)] == [Busy(None)] * 2
        await until(lambda: all(each.fileno() < 0 for each in sockets))
        closed.set()
    assert connections == [1, 2]


async def test_a_connection_is_closed_if_no_answer_comes(sockets: list[socket.socket], client: BackendClient) -> None:
    async def say_nothing(talk: Talk) -> None:
        await talk.head()
        await talk.say(b"HTTP/1.1 100 Continue\r\n\r\n")
        await over.wait()  # without having read anything of the body that it has asked for

    over = asyncio.Event()
    size_bytes = 40_000_000
    headers = {"taskId": "7", "Content-Type": "text/plain", "Content-Length": str(size_bytes)}
    async with talking_server(say_nothing) as url:
        answer = await client.post(endpoint_at(url), headers, Pieces(size_bytes), 0.5, Room())
        assert answer == Unreachable("did not answer in time")
        await until(lambda: all(each.fileno() < 0 for each in sockets))
        over.set()


@pytest.mark.parametrize("status", [b"200 OK", b"202 Accepted"])
async def test_a_server_that_accepts_early_gets_the_whole_body(client: BackendClient, status: bytes) -> None:
    async def accept_and_read(talk: Talk) -> None:
        head = await talk.head()
        await talk.say(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nok")
        got.append(len(await talk.reader.readexactly(content_length(head))))

    got: list[int] = []
    async with talking_server(accept_and_read) as url:
        assert await post(client, url, 5_000_000) == Accepted()
        await until(lambda: bool(got))
    assert got == [5_000_000]


async def test_a_server_that_accepts_early_and_hangs_up_has_accepted(client: BackendClient) -> None:
    async def accept(talk: Talk) -> None:
        await talk.head()
        await talk.say(ACCEPTANCE)
        transport: Any = talk.writer.transport
        transport.abort()

    async with talking_server(accept) as url:
        assert await post(client, url, 5_000_000) == Accepted()


async def test_a_body_that_breaks_off_ends_its_connection(client: BackendClient) -> None:
    """Else the next request would be read as the rest of the body."""

    async def accept(talk: Talk) -> None:
        head, _ = await talk.request()
        got.append((talk.number, head.partition("taskId: ")[2][:1]))
        await talk.say(ACCEPTANCE)

    async def short() -> AsyncIterator[bytes]:
        yield bytes(100_000)
        raise ValueError

    got: list[tuple[int, str]] = []
    headers = {"taskId": "1", "Content-Type": "text/plain", "Content-Length": "300000"}
    async with talking_server(accept) as url:
        assert await client.post(endpoint_at(url), headers, short(), PATIENCE_S, Room()) == LOST
        assert await post(client, url, task_id="2") == Accepted()
    assert got == [(2, "2")]


def is_stuck(client: BackendClient) -> Callable[[], bool]:
    """Whether the client could not write for a while, although it has something to write."""
    connector: Any = client._open()[0].connector
    seen: list[int] = []

    def is_stuck() -> bool:
        seen.append(sum(protocol.transport.get_write_buffer_size() for protocol in connector._acquired))
        return len(seen) > 20 and seen[-1] > 0 and len(set(seen[-20:])) == 1

    return is_stuck


def idle_connections(client: BackendClient) -> list[Any]:
    connector: Any = client._open()[0].connector
    return [protocol for connections in connector._conns.values() for protocol, _ in connections]
