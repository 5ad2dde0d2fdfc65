"""Answers that come in many pieces wait for their turns, so that reading them leaves the event loop to others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import EMPTY_PAYLOAD, StreamReader

from shared.dispatch import bounded_answers
from shared.dispatch.bounded_answers import BoundedAnswers, Turns
from tests.waiting import until

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
"""Of an answer that ends with its connection."""
MANY = 64


class OneWay(asyncio.Transport):
    """Notes whether it would read, and whether it is aborted."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = True
        self.is_aborted = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def abort(self) -> None:
        self.is_aborted = True


class Held(Turns):
    """Gives a turn at once, or never."""

    def __init__(self, *, ever: bool) -> None:
        super().__init__()
        self._ever = ever

    def next_s(self, now_s: float, took_s: float) -> float:
        return now_s if self._ever else now_s + 3600


async def answers(turns: Turns) -> tuple[BoundedAnswers, OneWay]:
    handler, transport = BoundedAnswers(asyncio.get_running_loop(), turns), OneWay()
    handler.connection_made(transport)
    handler.set_response_params(read_until_eof=True, auto_decompress=False)
    return handler, transport


async def body_of(handler: BoundedAnswers) -> StreamReader:
    _, body = await handler.read()
    assert body is not EMPTY_PAYLOAD
    return body


def test_all_that_is_read_in_turns_takes_one_part_in_four() -> None:
    turns = Turns()
    assert [turns.next_s(10, 1), turns.next_s(10, 1), turns.next_s(15, 2)] == [13, 16, 22]
    assert turns.next_s(100, 1) == 103


async def test_an_answer_of_many_pieces_waits_for_its_turn() -> None:
    handler, transport = await answers(Held(ever=False))
    handler.data_received(HEAD)
    pieces = 0
    while transport.reads:
        handler.data_received(b"x")
        pieces += 1
        assert pieces < MANY
    body = await body_of(handler)
    assert body.read_nowait() == b"x" * pieces
    assert not transport.reads, "who reads the answer does not end the wait"


async def test_an_answer_of_few_pieces_does_not_wait() -> None:
    handler, transport = await answers(Held(ever=False))
    for piece in (HEAD, b"a", b"b"):
        handler.data_received(piece)
    assert transport.reads


async def test_a_turn_ends_the_wait() -> None:
    handler, transport = await answers(Held(ever=True))
    handler.data_received(HEAD)
    while transport.reads:
        handler.data_received(b"x")
    await until(lambda: transport.reads)


async def test_a_piece_that_takes_long_is_read_in_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_answers, "_TURN_S", -1.0)
    handler, transport = await answers(Held(ever=True))
    sent = bytes(range(256)) * 400
    handler.data_received(HEAD + sent)
    assert not transport.reads
    assert handler.should_close, "something is left of the answer"
    body, received = await body_of(handler), bytearray()
    while len(received) < len(sent):
        received += await body.readany()
    assert received == sent
    await until(lambda: transport.reads)


async def test_the_rest_of_an_answer_that_ends_with_its_connection_is_part_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounded_answers, "_TURN_S", -1.0)
    handler, _ = await answers(Held(ever=False))
    sent = bytes(range(256)) * 400
    handler.data_received(HEAD + sent)
    handler.connection_lost(None)
    assert await (await body_of(handler)).read() == sent


async def test_what_lies_behind_the_answer_is_not_read_in_a_later_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_answers, "_TURN_S", -1.0)
    handler, transport = await answers(Held(ever=True))
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 8151\r\n\r\n".ljust(8192, b"x")
    handler.data_received(whole + HEAD * 10)
    await until(lambda: transport.is_aborted)


class Noted(Held):
    """Notes how long the pieces have taken."""

    def __init__(self) -> None:
        super().__init__(ever=False)
        self.took_s: list[float] = []

    def next_s(self, now_s: float, took_s: float) -> float:
        self.took_s.append(took_s)
        return super().next_s(now_s, took_s)


async def test_a_large_piece_waits_for_its_copies_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_answers, "_PIECES_AT_ONCE", 0)
    monkeypatch.setattr(bounded_answers, "_AROUND_A_BYTE_S", 1.0)
    turns = Noted()
    handler, _ = await answers(turns)
    handler.data_received(HEAD + bytes(1000))
    assert turns.took_s[0] >= len(HEAD) + 1000
