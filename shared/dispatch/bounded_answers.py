"""What of an answer is read at most, beside its body: the rest of the app must not pay for one that never ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

if TYPE_CHECKING:
    from aiohttp.http_parser import RawResponseMessage
    from aiohttp.streams import StreamReader

_MAX_INTERIM_ANSWERS = 8
_MAX_HEAD_BYTES = 1024 * 1024
"""Of all that comes before the body. The headers have a smaller limit, but blanks and empty lines do not count."""
_MAX_OVERHEAD_BYTES = 1024 * 1024
"""The sizes and extensions of chunks, which cost the more time the smaller the chunks are: so many bytes, and a
quarter of the body. So a body of any size may come in chunks of 24 bytes."""
_PIECES_AT_ONCE = 8
"""So many of an answer are read as they come. A server that sends byte by byte makes each byte a piece."""
_SHARE = 4
"""Reading answers of more pieces takes one part in so many of the event loop's time, however many there are."""
_AROUND_A_PIECE_S = 0.0002
"""What a piece costs the event loop beside its parsing: to receive it, to wake its reader, to wait for its turn."""
_AROUND_A_BYTE_S = 2e-9
"""What each of its bytes costs beside: it is copied from the socket, and into the result, where memory is new."""
_TURN_S = 0.002
"""How long a turn takes. The rest of the piece waits for the next: 64 KiB in chunks of a byte take 100 ms."""
_SLICE_BYTES = 8 * 1024
"""What is parsed at a time, in a turn."""


class EndlessAnswer(aiohttp.ClientConnectionError):
    """Raised if a server keeps sending what is no answer, or no part of its answer. The connection is closed."""


class Turns:
    """The turns of answers that come in many pieces. Belongs to one event loop."""

    def __init__(self) -> None:
        self._taken_until_s = 0.0

    def next_s(self, now_s: float, took_s: float) -> float:
        """When the next piece may be read, by the clock of the loop, after one that *took* so long."""
        self._taken_until_s = max(now_s, self._taken_until_s) + took_s * (_SHARE - 1)
        return self._taken_until_s


class BoundedAnswers(ResponseHandler):
    """Reads the answers that come over one connection, and closes it as soon as the server sends what nobody waits
    for: more than a few interim answers (100, 103), a head or chunks that do not end, anything after the answer.
    What comes in many pieces waits for its turn, so that others have theirs."""

    _answer: StreamReader | None = None
    """The body of the final answer, once that has come."""
    _interim_answers = _read_bytes = _pieces = 0
    _is_cut = _waits = False
    _rest = b""
    """Of a piece, what the next turn begins with."""

    def __init__(self, loop: asyncio.AbstractEventLoop, turns: Turns) -> None:
        super().__init__(loop)
        self._turns = turns

    def set_response_params(self, **params: Any) -> None:
        self._answer = None
        self._interim_answers = self._read_bytes = self._pieces = 0
        super().set_response_params(**params)

    @property
    def should_close(self) -> bool:
        return bool(self._rest) or super().should_close

    def data_received(self, data: bytes) -> None:
        if not data:  # aiohttp goes on with what it has kept
            super().data_received(data)
            return
        began_s = self._loop.time()
        self._pieces += 1
        for start in range(0, len(data), _SLICE_BYTES):
            if self.exception() is not None:
                return
            if start and (self._reading_paused or self._loop.time() - began_s > _TURN_S):
                self._rest = data[start:]
                break
            self._parse(data[start : start + _SLICE_BYTES])
        if self._rest or self._pieces > _PIECES_AT_ONCE:
            self._wait_for_turn(began_s, len(data) - len(self._rest))

    def connection_lost(self, exc: BaseException | None) -> None:
        rest, self._rest = self._rest, b""
        if rest and not self._is_cut:
            self._parse(rest)  # its end may be the end of the answer
        super().connection_lost(exc)

    def _parse(self, data: bytes) -> None:
        if self._answer is not None and self._answer.is_eof():
            self._cut()  # not even looked at: no request has asked for it
            return
        super().data_received(data)
        self._read_bytes += len(data)
        most = _MAX_HEAD_BYTES
        if self._answer is not None:
            most = _MAX_OVERHEAD_BYTES + self._answer.total_bytes + self._answer.total_bytes // 4
        if self._read_bytes > most:
            self._cut()

    def resume_reading(self, resume_parser: bool = True) -> None:
        if not self._reading_paused:
            return  # aiohttp's reader asks for it with each part that it gives away
        super().resume_reading(resume_parser)
        if self._rest and not self._reading_paused:
            self._wait_for_turn(self._loop.time())
        if self._waits and self.transport is not None:
            self.transport.pause_reading()

    def _wait_for_turn(self, began_s: float, read_bytes: int = 0) -> None:
        if self.transport is None or self._waits or self.exception() is not None:
            return
        now_s = self._loop.time()
        self._waits = True
        self.transport.pause_reading()
        took_s = now_s - began_s + _AROUND_A_PIECE_S + read_bytes * _AROUND_A_BYTE_S
        self._loop.call_at(self._turns.next_s(now_s, took_s), self._go_on)

    def _go_on(self) -> None:
        self._waits = False
        if self._reading_paused:
            return
        rest, self._rest = self._rest, b""
        if rest and self.transport is not None:
            self.data_received(rest)
        if self.transport is not None and not self._waits and not self._reading_paused:
            self.transport.resume_reading()

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        message, body = data
        if self._is_cut:
            return
        if message.code in range(100, 200) and message.code != 101:
            self._interim_answers += 1
            if self._interim_answers > _MAX_INTERIM_ANSWERS:
                self._cut()
                return
        elif self._answer is None:
            self._answer, self._read_bytes = body, 0
        super().feed_data(data, size)

    def _cut(self) -> None:
        self._is_cut = True
        error = EndlessAnswer()
        self.set_exception(error)
        if self._answer is not None and not self._answer.is_eof():
            self._answer.set_exception(error)
        self._payload = None  # else it would be told that the connection was lost
        if self.transport is not None:
            self.transport.abort()
