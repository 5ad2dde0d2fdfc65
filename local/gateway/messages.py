"""Requests and responses on their way through the gateway. Bodies stream unless an expression reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import parse_qsl

Json = dict[str, Any]
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Headers:
    """Header lines in their order. The case of a name does not matter."""

    def __init__(self, lines: Iterable[tuple[str, str]] = ()) -> None:
        self.lines = list(lines)

    def all(self, name: str) -> list[str]:
        return [value for known, value in self.lines if known.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The values of all lines of the name, joined by commas."""
        values = self.all(name)
        return ",".join(values) if values else None

    def remove(self, *names: str) -> None:
        gone = {name.lower() for name in names}
        self.lines = [line for line in self.lines if line[0].lower() not in gone]

    def append(self, name: str, *values: str) -> None:
        self.lines += [(name, value) for value in values]

    def replace(self, name: str, *values: str) -> None:
        self.remove(name)
        self.append(name, *values)

    def copy(self) -> Headers:
        return Headers(self.lines)

    def json(self) -> Json:
        values: dict[str, list[str]] = {}
        names: dict[str, str] = {}
        for name, value in self.lines:
            values.setdefault(names.setdefault(name.lower(), name), []).append(value)
        return values


class Body:
    """Bytes that arrive in pieces. They can be kept, and then read more than once."""

    def __init__(self, pieces: AsyncIterator[bytes] | bytes) -> None:
        self._pieces = pieces

    async def read(self) -> bytes:
        """All of it, which is kept."""
        if not isinstance(self._pieces, bytes):
            self._pieces = b"".join([piece async for piece in self._pieces])
        return self._pieces

    @property
    def kept(self) -> bytes | None:
        """What has been read, if anybody has."""
        return self._pieces if isinstance(self._pieces, bytes) else None

    async def pieces(self) -> AsyncIterator[bytes]:
        if isinstance(self._pieces, bytes):
            if self._pieces:
                yield self._pieces
        else:
            async for piece in self._pieces:
                yield piece


@dataclass(frozen=True)
class Url:
    """Path and query are escaped, as they came."""

    scheme: str
    host: str
    port: int
    path: str
    query: str = ""

    @classmethod
    def parse(cls, scheme: str, host_header: str, path: str, query: str) -> Self:
        host, colon, port = host_header.rpartition(":")
        if not colon or not port.isdecimal() or port.startswith("]"):
            host, port = host_header, ""
        return cls(scheme, host, int(port or _DEFAULT_PORTS[scheme]), path, query)

    @property
    def pairs(self) -> list[str]:
        return [pair for pair in self.query.split("&") if pair]

    def parameter(self, name: str) -> str | None:
        """The first value of a query parameter. The case of its name does not matter."""
        pairs = parse_qsl(self.query, keep_blank_values=True)
        return next((value for known, value in pairs if known.lower() == name.lower()), None)

    def without(self, *names: str) -> Self:
        """Without query parameters of these names."""
        gone = {name.lower() for name in names}
        return replace(self, query="&".join(p for p in self.pairs if p.partition("=")[0].lower() not in gone))

    def json(self) -> Json:
        values: dict[str, list[str]] = {}
        for name, value in parse_qsl(self.query, keep_blank_values=True):
            values.setdefault(name, []).append(value)
        return {
            "scheme": self.scheme,
            "host": self.host,
            "port": self.port,
            "path": self.path,
            "queryString": f"?{self.query}" if self.query else "",
            "query": values,
        }


@dataclass
class Request:
    method: str
    url: Url
    headers: Headers
    body: Body | None
    address: str
    """The caller's."""


async def _nothing() -> None:
    pass


@dataclass
class Response:
    status: int
    headers: Headers = field(default_factory=Headers)
    body: Body | None = None
    reason: str = ""
    close: Callable[[], Awaitable[None]] = _nothing
    """Ends the backend's answer, if this is one."""

    def __post_init__(self) -> None:
        self.reason = self.reason or phrase(self.status)


def phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
