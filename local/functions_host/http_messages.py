"""HTTP messages for the host and its functions: from ASGI to `func.HttpRequest`, and from its response to ASGI."""

import io
import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http.cookies import SimpleCookie
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from azure.functions.meta import Datum

from local.functions_host.throttle import Buffer

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

REQUEST_LINE_BYTES = 8 * 1024
_WITHOUT_BODY = (204, 304)
_PIECE_BYTES = 256 * 1024
_HEADERS_BYTES = 32 * 1024
_HIGHEST_PORT = 65535
_SET_BY_HOST = (b"transfer-encoding", b"connection")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VISIBLE = re.compile(r"[\t\x20-\x7e]*")


class Refused(Exception):
    """Raised when the server refuses a request before it looks for a function."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class BodyTooLarge(Exception):
    """Raised when a request's body is larger than the host accepts."""


class ClientGone(Exception):
    """Raised when the client disconnected before it had sent its whole request."""


class Request:
    """A request as the real host reads it.

    Header names are in lower case. Each header and each query name has one value; commas join several values. An
    empty query value counts as none. The path is free of dot segments, and everything in it is decoded except an
    encoded slash and what is no UTF-8.

    Raises `Refused` for a request that the server of the real host takes for malformed or too long.
    """

    __slots__ = ("_buffer", "_held_bytes", "_query", "_raw_path", "_receive", "_scope", "headers", "method", "path")

    def __init__(self, scope: Scope, receive: Receive, buffer: Buffer) -> None:
        self._scope = scope
        self._receive = receive
        self._buffer = buffer
        self._held_bytes = 0
        self.method: str = scope["method"]
        query_string: bytes = scope["query_string"]
        self._raw_path: str = scope["raw_path"].decode("ascii")
        if len(self.method) + len(self._raw_path) + len(query_string) > REQUEST_LINE_BYTES - len(" ? HTTP/1.1\r\n"):
            raise Refused(414)
        if "/." in self._raw_path or "%" in self._raw_path:
            self._raw_path = _without_dot_segments(self._raw_path)
        self.path = _decode_path(self._raw_path) if "%" in self._raw_path else self._raw_path
        if "\0" in self.path:
            raise Refused(400)
        self.headers = _read_headers(scope)
        self._query = parse_qsl(query_string.decode("latin-1")) if query_string else []

    @property
    def url(self) -> str:
        query_string = self._scope["query_string"].decode("latin-1")
        query = f"?{query_string}" if query_string else ""
        return f"{self._scope['scheme']}://{self.headers.get('host', '')}{self._raw_path}{query}"

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
        """Reads the body. A body without a `Content-Length` is lost, as in the real host.

        Raises `BodyTooLarge` or `TooBusy` if the body exceeds the limit or the buffer's room, before it is read.
        Raises `ClientGone` if the client disconnects.
        """
        length = int(self.headers.get("content-length") or 0)
        if not length:
            return b""
        if length > limit_bytes:
            raise BodyTooLarge
        self.hold(length)
        body = io.BytesIO()  # getvalue() of it makes no copy
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body.write(message.get("body", b""))
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
    is_of_function: bool = False
    """The host tells the length of its own responses. That of a function has a length if the function gives one."""

    @classmethod
    def json(cls, status: int, content: object) -> "Response":
        return cls(status, ((b"content-type", b"application/json; charset=utf-8"),), json.dumps(content).encode())

    @classmethod
    def closing(cls, status: int) -> "Response":
        """An empty response after which the connection is closed."""
        return cls(status, ((b"connection", b"close"),))

    @classmethod
    def from_datum(cls, datum: Datum) -> "Response":
        """Makes the response from an HTTP function's encoded return value, as the host does.

        Of repeated headers the last one stays, except cookies. An empty content type means none.
        Raises `ValueError` for a status or a header that cannot be sent.
        """
        if datum.type == "string":
            plain_text = ((b"content-type", b"text/plain; charset=utf-8"),)
            return cls(200, plain_text, datum.value.encode(), is_of_function=True)
        status = int(datum.value["status_code"].value)
        if not 200 <= status <= 599:
            raise ValueError(f"{status} is not a status that a response can have")
        by_name = dict(_header(name, value.value) for name, value in datum.value["headers"].items())
        if not by_name.get(b"content-type"):
            by_name.pop(b"content-type", None)
        headers = [header for header in by_name.items() if header[0] not in _SET_BY_HOST]
        cookies: list[SimpleCookie] = datum.value["cookies"] or []
        headers += [_header("set-cookie", morsel.OutputString()) for cookie in cookies for morsel in cookie.values()]
        return cls(status, tuple(headers), datum.value["body"].value, is_of_function=True)

    def says_its_true_length(self, method: str) -> bool:
        """Whether the response can be sent: its `Content-Length`, if it has one, is that of its body."""
        length = dict(self.headers).get(b"content-length")
        if length is None or self.status in _WITHOUT_BODY:
            return True
        return length.isdigit() and (method == "HEAD" or int(length) == len(self.body))

    async def send(self, send: Send) -> None:
        headers, body = list(self.headers), self.body
        if self.status in _WITHOUT_BODY:
            headers = [header for header in headers if header[0] != b"content-length"]
            body = b""
        elif not self.is_of_function:
            headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        # In pieces, because the server copies the part of a body that the socket does not take at once.
        for end in range(_PIECE_BYTES, len(body), _PIECE_BYTES):
            await send({"type": "http.response.body", "body": body[end - _PIECE_BYTES : end], "more_body": True})
        last = max(0, len(body) - 1) // _PIECE_BYTES * _PIECE_BYTES
        await send({"type": "http.response.body", "body": body[last:]})


def _read_headers(scope: Scope) -> dict[str, str]:
    headers: dict[str, str] = {}
    size_bytes = hosts = 0
    for name, value in scope["headers"]:
        size_bytes += len(name) + len(value) + len(": \r\n")
        hosts += name == b"host"
        try:
            _join(headers, name.decode("latin-1"), value.decode())
        except UnicodeDecodeError:
            raise Refused(400) from None
    if size_bytes > _HEADERS_BYTES:
        raise Refused(431)
    if hosts != 1:
        raise Refused(400)
    port = headers["host"].rpartition("]")[2].partition(":")[2]
    # Six digits tell, and Python reads no number of thousands of them.
    if port.isdecimal() and int(port.lstrip("0")[:6] or "0") > _HIGHEST_PORT:
        raise Refused(500)
    if (length := headers.get("content-length")) is not None:
        if not length.isdecimal():
            raise Refused(400)
        if "transfer-encoding" in headers:
            headers["x-content-length"] = headers.pop("content-length")
    return headers


def _without_dot_segments(raw_path: str) -> str:
    segments = raw_path.removeprefix("/").split("/")
    dots = [segment.lower().replace("%2e", ".") for segment in segments]
    if "." not in dots and ".." not in dots:
        return raw_path
    kept: list[str] = []
    for segment, plain in zip(segments, dots, strict=True):
        if plain == "..":
            kept[-1:] = []
        elif plain != ".":
            kept.append(segment)
    if dots[-1] in (".", ".."):
        kept.append("")
    return f"/{'/'.join(kept)}"


def _decode_path(raw_path: str) -> str:
    return re.sub("(?:%(?!2f)[0-9a-f]{2})+", lambda match: _decode_octets(match[0]), raw_path, flags=re.IGNORECASE)


def _decode_octets(encoded: str) -> str:
    """Decodes a run of `%XX`, but for those octets that are no UTF-8."""
    octets, decoded, start = bytes.fromhex(encoded.replace("%", "")), "", 0
    while True:
        try:
            return decoded + octets[start:].decode()
        except UnicodeDecodeError as error:
            bad, end = start + error.start, start + error.end
            decoded += octets[start:bad].decode() + encoded[3 * bad : 3 * end]
            start = end


def _join(values: dict[str, str], name: str, value: str) -> None:
    values[name] = f"{values[name]},{value}" if name in values else value


def _datums(values: Mapping[str, str]) -> dict[str, Datum]:
    return {name: Datum(value, "string") for name, value in values.items()}


def _header(name: str, value: str) -> tuple[bytes, bytes]:
    if not (_TOKEN.fullmatch(name) and _VISIBLE.fullmatch(value)):
        raise ValueError(f"the header {name!r} has characters that a response cannot have")
    return name.lower().encode(), value.encode()
