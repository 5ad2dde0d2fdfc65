"""HTTP messages for the host and its functions: from ASGI to `func.HttpRequest`, and from its response to ASGI."""

import io
import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http.cookies import SimpleCookie
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from azure.functions.meta import Datum

from local.functions_host.throttle import Buffer

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_WITHOUT_BODY = (204, 304)
_PIECE_BYTES = 256 * 1024
_SET_BY_HOST = ("content-length", "transfer-encoding", "connection")


class BodyTooLarge(Exception):
    """Raised when a request's body is larger than the host accepts."""


class ClientGone(Exception):
    """Raised when the client disconnected before it had sent its whole request."""


class Request:
    """A request as the real host reads it.

    Header names are in lower case. Each header and each query name has one value; commas join several values. An
    empty query value counts as none. In the path everything is decoded except an encoded slash.
    """

    __slots__ = ("_buffer", "_held_bytes", "_query", "_receive", "_scope", "headers", "method", "path")

    def __init__(self, scope: Scope, receive: Receive, buffer: Buffer) -> None:
        self._scope = scope
        self._receive = receive
        self._buffer = buffer
        self._held_bytes = 0
        self.method: str = scope["method"]
        raw_path: bytes = scope["raw_path"]
        self.path = _decode_path(raw_path.decode("ascii")) if b"%" in raw_path else raw_path.decode("ascii")
        self.headers: dict[str, str] = {}
        for name_bytes, value_bytes in scope["headers"]:
            _join(self.headers, name_bytes.decode("latin-1"), value_bytes.decode("utf-8", "replace"))
        query_string: bytes = scope["query_string"]
        self._query = parse_qsl(query_string.decode("latin-1")) if query_string else []

    @property
    def url(self) -> str:
        raw_path, query_string = (
            self._scope["raw_path"].decode("ascii"),
            self._scope["query_string"].decode("latin-1"),
        )
        query = f"?{query_string}" if query_string else ""
        return f"{self._scope['scheme']}://{self.headers.get('host', '')}{raw_path}{query}"

    @property
    def params(self) -> dict[str, str]:
        params: dict[str, str] = {}
        for name, value in self._query:
            _join(params, name, value)
        return params

    def query_value(self, name: str) -> str | None:
        """The first value of a parameter that the host itself reads. The case of the parameter does not matter."""
        return next((value for key, value in self._query if key.lower() == name), None)

    @property
    def key(self) -> str | None:
        """The access key of the request. A header, even a wrong one, wins over the query."""
        return self.headers["x-functions-key"] if "x-functions-key" in self.headers else self.query_value("code")

    def hold(self, size_bytes: int) -> None:
        """Takes room in the host's buffer, until `release`. Raises `TooBusy` if there is none."""
        self._buffer.take(size_bytes)
        self._held_bytes += size_bytes

    def release(self) -> None:
        self._buffer.give_back(self._held_bytes)
        self._held_bytes = 0

    async def body(self, limit_bytes: int) -> bytes:
        """Reads the body.

        Raises `BodyTooLarge` or `TooBusy` as soon as it knows that the body exceeds the limit or the buffer's room.
        Raises `ClientGone` if the client disconnects.
        """
        length = self.headers.get("content-length")
        if length is None and "transfer-encoding" not in self.headers:
            return b""
        if length is not None:
            if int(length) > limit_bytes:
                raise BodyTooLarge
            self.hold(int(length))
        body = io.BytesIO()  # getvalue() of it makes no copy
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body.write(message.get("body", b""))
            if body.tell() > limit_bytes:
                raise BodyTooLarge
            self.hold(max(0, body.tell() - self._held_bytes))
            if not message.get("more_body", False):
                return body.getvalue()


def http_datum_value(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    params: Mapping[str, str],
    route_params: Mapping[str, str],
    body: bytes,
) -> dict[str, object]:
    """The value that the host sends to the worker for a request. The `httpTrigger` converter turns it into the
    `func.HttpRequest`.
    """
    return {
        "method": Datum(method, "string"),
        "url": Datum(url, "string"),
        "headers": _datums(headers),
        "query": _datums(params),
        "params": _datums(route_params),
        "body": Datum(body, "bytes"),
    }


class Response(NamedTuple):
    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""

    @classmethod
    def json(cls, status: int, content: object) -> "Response":
        return cls(status, ((b"content-type", b"application/json; charset=utf-8"),), json.dumps(content).encode())

    @classmethod
    def from_datum(cls, datum: Datum) -> "Response":
        """Makes the response from an HTTP function's encoded return value, as the host does.

        Raises `ValueError` for a status or a header that cannot be sent.
        """
        if datum.type == "string":
            return cls(200, ((b"content-type", b"text/plain; charset=utf-8"),), datum.value.encode())
        status = int(datum.value["status_code"].value)
        if not 200 <= status <= 599:
            raise ValueError(f"{status} is not a status that a response can have")
        headers = [
            _header(name, value.value)
            for name, value in datum.value["headers"].items()
            if name.lower() not in _SET_BY_HOST
        ]
        cookies: list[SimpleCookie] = datum.value["cookies"] or []
        headers += [_header("set-cookie", morsel.OutputString()) for cookie in cookies for morsel in cookie.values()]
        return cls(status, tuple(headers), datum.value["body"].value)

    async def send(self, send: Send) -> None:
        headers, body = list(self.headers), self.body
        if self.status in _WITHOUT_BODY:
            body = b""
        else:
            headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        # In pieces, because the server copies the part of a body that the socket does not take at once.
        for end in range(_PIECE_BYTES, len(body), _PIECE_BYTES):
            await send({"type": "http.response.body", "body": body[end - _PIECE_BYTES : end], "more_body": True})
        last = max(0, len(body) - 1) // _PIECE_BYTES * _PIECE_BYTES
        await send({"type": "http.response.body", "body": body[last:]})


def _decode_path(raw_path: str) -> str:
    return "".join(
        part if part.lower() == "%2f" else unquote(part) for part in re.split("(%2f)", raw_path, flags=re.IGNORECASE)
    )


def _join(values: dict[str, str], name: str, value: str) -> None:
    values[name] = f"{values[name]},{value}" if name in values else value


def _datums(values: Mapping[str, str]) -> dict[str, Datum]:
    return {name: Datum(value, "string") for name, value in values.items()}


def _header(name: str, value: str) -> tuple[bytes, bytes]:
    return name.lower().encode("latin-1"), value.encode("latin-1")
