"""A server that never stops sending costs as much as the beginning of what it sends."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import suppress

import pytest

from shared.dispatch.backend_client import Accepted, BackendClient, Completed, Erred
from tests.shared.dispatch.evil_backend import evil_backend
from tests.shared.dispatch.room import Room
from tests.shared.dispatch.talking_server import ACCEPTANCE, Talk, talking_server
from tests.shared.dispatch.test_backend_client import Outcome, endpoint_at, post
from tests.waiting import PATIENCE_S

ENDLESS = Erred("sent an answer that does not end")
MEGABYTE = 1024 * 1024
MOST_BYTES = 64 * MEGABYTE
"""What a server can send before it notices that nobody reads: the buffers of both ends, too. Linux lets them grow
to 36 MiB, and they do where the one that reads is slow. A client without a limit reads for as long as the call may
take."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
RESULT = b"HTTP/1.1 200 OK\r\nX-Task-Complete: \r\nTransfer-Encoding: chunked\r\n\r\n"


def filled(part: bytes) -> bytes:
    return part * (65536 // len(part))


@pytest.mark.parametrize(
    ("begin", "repeat", "meaning"),
    [
        pytest.param(b"", CONTINUE, ENDLESS, id="100"),
        pytest.param(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", ENDLESS, id="103"),
        pytest.param(b"", b"HTTP/1.1 199 Other\r\n\r\n", ENDLESS, id="199"),
        pytest.param(b"", b"\r\n", ENDLESS, id="empty lines"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX-Blank:", b" ", ENDLESS, id="blanks"),
        pytest.param(CHUNKED + b"1;", b"x", Accepted(), id="chunk extension"),
        pytest.param(CHUNKED, b"0", Accepted(), id="chunk size"),
        pytest.param(RESULT, b"1\r\nx\r\n", ENDLESS, id="tiny chunks of a result"),
        pytest.param(RESULT, b"1;" + b"x" * 1000 + b"\r\nx\r\n", ENDLESS, id="chunk extensions of a result"),
        pytest.param(RESULT + b"1;", b"x", ENDLESS, id="chunk extension of a result"),
        pytest.param(RESULT, b"0", ENDLESS, id="chunk size of a result"),
    ],
)
async def test_what_does_not_end_is_cut(client: BackendClient, begin: bytes, repeat: bytes, meaning: Outcome) -> None:
    def answer() -> Iterator[bytes]:
        yield begin
        yield from itertools.repeat(filled(repeat))

    with evil_backend(answer) as evil:
        room = Room(most_bytes=1024 * MEGABYTE, free_bytes=1024 * MEGABYTE)
        headers = {"taskId": "7", "Content-Length": "4"}
        assert await client.post(endpoint_at(evil.url), headers, b"body", PATIENCE_S, room) == meaning
        await asyncio.to_thread(evil.wait_until_closed)
        assert evil.sent_bytes < MOST_BYTES


@pytest.mark.parametrize("more", [CONTINUE, ACCEPTANCE, b"\r\n"])
async def test_what_follows_an_answer_is_not_read(client: BackendClient, more: bytes) -> None:
    """The connection is idle, and waits for another call."""
    is_idle, is_closed = asyncio.Event(), asyncio.Event()

    async def talk_on(talk: Talk) -> None:
        await talk.request()
        await talk.say(ACCEPTANCE)
        await is_idle.wait()
        await talk.say(more)
        with suppress(ConnectionError):
            assert await talk.reader.read() == b""
        is_closed.set()

    async with talking_server(talk_on) as url:
        assert await post(client, endpoint_at(url)) == Accepted()
        is_idle.set()
        async with asyncio.timeout(PATIENCE_S):
            await is_closed.wait()


@pytest.mark.parametrize("more", [CONTINUE, ACCEPTANCE, b"\r\n"])
async def test_what_follows_an_answer_is_not_read_while_the_request_is_sent(
    client: BackendClient, more: bytes
) -> None:
    sent_bytes = 0
    is_cut = asyncio.Event()

    async def accept_and_talk_on(talk: Talk) -> None:
        nonlocal sent_bytes
        await talk.head()
        await talk.say(ACCEPTANCE)
        try:
            while True:
                await talk.say(filled(more))
                sent_bytes += 65536
                await asyncio.sleep(0)
        finally:
            is_cut.set()

    async with talking_server(accept_and_talk_on) as url:
        headers = {"taskId": "7", "Content-Length": str(32 * MEGABYTE)}
        body = bytes(32 * MEGABYTE)
        assert await client.post(endpoint_at(url), headers, body, PATIENCE_S, Room()) == Accepted()
        async with asyncio.timeout(PATIENCE_S):
            await is_cut.wait()
    assert sent_bytes < MOST_BYTES


async def test_a_result_may_come_in_many_small_chunks(client: BackendClient) -> None:
    row = b"18\r\n" + b"r" * 24 + b"\r\n"

    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(RESULT)
        for _ in range(100):
            await talk.say(row * 4000)
        await talk.say(b"0\r\n\r\n")

    async with talking_server(script) as url:
        answer = await post(client, endpoint_at(url))
    assert isinstance(answer, Completed)
    assert answer.data == b"r" * 24 * 400_000
