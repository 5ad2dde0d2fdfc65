"""What of an answer is read at most, beside its body: the rest of the app must not pay for one that never ends."""

from __future__ import annotations

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


class EndlessAnswer(aiohttp.ClientConnectionError):
    """Raised if a server keeps sending what is no answer, or no part of its answer. The connection is closed."""


class BoundedAnswers(ResponseHandler):
    """Reads the answers that come over one connection, and closes it as soon as the server sends what nobody waits
    for: more than a few interim answers (100, 103), a head or chunks that do not end, anything after the answer."""

    _answer: StreamReader | None = None
    """The body of the final answer, once that has come."""
    _interim_answers = _read_bytes = 0
    _is_cut = False

    def set_response_params(self, **params: Any) -> None:
        self._answer = None
        self._interim_answers = self._read_bytes = 0
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        if self._is_cut:
            return
        if data and self._answer is not None and self._answer.is_eof():
            self._cut()  # not even looked at: no request has asked for it
            return
        super().data_received(data)
        self._read_bytes += len(data)
        most = _MAX_HEAD_BYTES
        if self._answer is not None:
            most = _MAX_OVERHEAD_BYTES + self._answer.total_bytes + self._answer.total_bytes // 4
        if self._read_bytes > most:
            self._cut()

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
