"""A large body is sent when the server asks for it, so that a refusal is heard whatever the server does then."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from shared.dispatch import connections
from shared.dispatch.backend_client import Accepted, BackendClient, Busy, Erred, Rejected
from tests.shared.dispatch.room import Room
from tests.shared.dispatch.talking_server import ACCEPTANCE, Pieces, Talk, talking_server
from tests.shared.dispatch.test_backend_client import Outcome, registry
from tests.waiting import PATIENCE_S

LARGE_BYTES = 40_000_000
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For servers that do ask: the machine may be slow."""
    monkeypatch.setattr(connections, "CONTINUE_TIMEOUT_S", PATIENCE_S)


async def call(client: BackendClient, url: str, size_bytes: int = LARGE_BYTES) -> Outcome:
    headers = {"taskId": "7", "Content-Type": "image/png", "Content-Length": str(size_bytes)}
    body = bytes(size_bytes) if size_bytes <= 65_536 else Pieces(size_bytes)
    return await client.post(registry(url, loopback=True).endpoint("/v1/a"), headers, body, PATIENCE_S, Room())


def expects(head: str) -> bool:
    return "expect: 100-continue" in head.lower()


def reset(talk: Talk) -> None:
    """Close the connection with a reset, as the kernel does where data is unread."""
    link: socket.socket = talk.writer.get_extra_info("socket")
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    talk.writer.transport.abort()


@pytest.mark.contract("B1.74")
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(("status", "kind"), [(413, Rejected), (503, Busy)])
async def test_a_server_that_resets_an_unread_body_is_heard(
    client: BackendClient, status: int, kind: type[Outcome]
) -> None:
    """An imitation of Kestrel, which cannot run here. A client that still sends hears a refusal of it by luck only:
    it resets the connection with the body unread. Of this one, such a client hears nothing."""

    async def script(talk: Talk) -> None:
        if expects(await talk.head()):
            await talk.say(b"HTTP/1.1 %d No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno" % status)
            assert await talk.reader.read(1) == b""  # not a byte of the body
        else:
            await talk.reader.read(1)
            reset(talk)

    async with talking_server(script) as url:
        answers = [await call(client, url) for _ in range(5)]
        assert [type(answer) for answer in answers] == [kind] * 5


@pytest.mark.usefixtures("patient")
async def test_a_server_that_asks_gets_the_body(client: BackendClient) -> None:
    got: list[int] = []

    async def script(talk: Talk) -> None:
        while True:
            head = await talk.head()
            assert expects(head)
            await talk.say(CONTINUE)
            got.append(len(await talk.reader.readexactly(LARGE_BYTES)))
            await talk.say(ACCEPTANCE)

    async with talking_server(script) as url:
        assert [await call(client, url) for _ in range(2)] == [Accepted(), Accepted()]
        assert got == [LARGE_BYTES] * 2


async def test_a_server_that_never_asks_gets_the_body_a_while_later(
    client: BackendClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CONTINUE_TIMEOUT_S", 0.05)

    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(ACCEPTANCE)

    async with talking_server(script) as url:
        assert await call(client, url) == Accepted()


@pytest.mark.usefixtures("patient")
async def test_a_server_that_accepts_before_it_asks_gets_the_body(client: BackendClient) -> None:
    got = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.head()
        await talk.say(ACCEPTANCE)
        await talk.reader.readexactly(LARGE_BYTES)
        got.set()

    async with talking_server(script) as url:
        assert await call(client, url) == Accepted()
        async with asyncio.timeout(PATIENCE_S):
            await got.wait()


@pytest.mark.usefixtures("patient")
async def test_a_server_that_does_not_know_the_expectation_is_called_without_it(client: BackendClient) -> None:
    heads: list[bool] = []

    async def script(talk: Talk) -> None:
        head = await talk.head()
        heads.append(expects(head))
        if expects(head):
            await talk.say(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
        else:
            await talk.reader.readexactly(LARGE_BYTES)
            await talk.say(ACCEPTANCE)

    async with talking_server(script) as url:
        assert await call(client, url) == Accepted()
        assert heads == [True, False]


@pytest.mark.parametrize("interim", [CONTINUE, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"])
@pytest.mark.parametrize("size_bytes", [300, LARGE_BYTES])
async def test_an_endless_stream_of_interim_answers_is_cut(
    client: BackendClient, interim: bytes, size_bytes: int
) -> None:
    cut = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.head()
        try:
            while True:
                await talk.say(interim)
                await asyncio.sleep(0)
        finally:
            cut.set()

    async with talking_server(script) as url:
        assert await call(client, url, size_bytes) == Erred("sent an answer that does not end")
        async with asyncio.timeout(PATIENCE_S):
            await cut.wait()


async def test_a_few_interim_answers_are_passed_over(client: BackendClient) -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(8 * b"HTTP/1.1 103 Early Hints\r\n\r\n" + ACCEPTANCE)

    async with talking_server(script) as url:
        assert await call(client, url, 300) == Accepted()


async def test_more_interim_answers_than_a_few_are_no_answer(client: BackendClient) -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(9 * b"HTTP/1.1 103 Early Hints\r\n\r\n" + ACCEPTANCE)

    async with talking_server(script) as url:
        assert await call(client, url, 300) == Erred("sent an answer that does not end")


async def test_a_small_body_is_sent_at_once(client: BackendClient) -> None:
    async def script(talk: Talk) -> None:
        head, _ = await talk.request()
        await talk.say(ACCEPTANCE if not expects(head) else b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n")

    async with talking_server(script) as url:
        assert await call(client, url, 300_000) == Accepted()
