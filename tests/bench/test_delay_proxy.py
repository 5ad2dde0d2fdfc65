"""The delay line of the benchmarks: intact data and counted turnarounds. The benchmark itself shows the delay."""

from __future__ import annotations

import asyncio
import random
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from bench.delay_proxy import DelayProxy
from local.processes import free_port
from tests.waiting import eventually

MESSAGE = random.Random(1).randbytes(3_000_000)


@asynccontextmanager
async def proxy_before(
    serve: Callable[[Reader, Writer], Awaitable[None]], one_way_s: float = 0.001
) -> AsyncIterator[DelayProxy]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    with DelayProxy(server.sockets[0].getsockname()[1], one_way_s=one_way_s) as proxy:
        yield proxy
    server.close()


async def echo(reader: Reader, writer: Writer) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def answer_two_bytes(reader: Reader, writer: Writer) -> None:
    """Answer one byte for each two."""
    while len(await reader.read(1)) == 1:
        await reader.readexactly(1)
        writer.write(b"!")
    writer.close()


@pytest.mark.parametrize("one_way_s", [0, 0.001])
async def test_bytes_arrive_intact_and_in_order_both_ways(one_way_s: float) -> None:
    async with proxy_before(echo, one_way_s) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(MESSAGE)
        assert await reader.readexactly(len(MESSAGE)) == MESSAGE
        writer.close()


async def test_end_of_a_connection_arrives_after_all_its_data() -> None:
    async def send_and_hang_up(_: Reader, writer: Writer) -> None:
        writer.write(MESSAGE)
        writer.close()

    async with proxy_before(send_and_hang_up) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await reader.read() == MESSAGE
        writer.close()


async def test_connection_ends_if_there_is_no_server() -> None:
    with DelayProxy(free_port(), one_way_s=0) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await reader.read() == b""
        writer.close()


async def test_each_request_that_follows_an_answer_is_a_turnaround() -> None:
    async with proxy_before(echo) as proxy:
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            for _ in range(5):
                writer.write(b"?")
                assert await reader.readexactly(1) == b"?"
            writer.close()
        assert proxy.turnarounds == 10


async def test_requests_without_an_answer_between_them_are_one_turnaround() -> None:
    async with proxy_before(answer_two_bytes) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        for turn in range(3):
            writer.write(b"?")
            # Let the proxy read the two bytes separately.
            await asyncio.to_thread(eventually, lambda turn=turn: proxy.turnarounds == turn + 1)
            writer.write(b"?")
            assert await reader.readexactly(1) == b"!"
        assert proxy.turnarounds == 3
        writer.close()
