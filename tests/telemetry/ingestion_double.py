"""A double of Application Insights' ingestion endpoint: it speaks the Breeze protocol and keeps all items.

Items come as a JSON array, as the Python exporter sends them, or as lines of JSON, as the Functions host does.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests import secrecy

LIVE_METRICS = "/QuickPulseService.svc/"


@dataclass(frozen=True)
class Item:
    """One telemetry item: a span (request or dependency), metric, event or message."""

    kind: str
    """``Request``, ``RemoteDependency``, ``Metric``, ``Event``, ``Message`` or ``Exception``."""
    data: Mapping[str, Any]
    tags: Mapping[str, str]
    size: int
    """How many bytes of JSON it is."""

    @property
    def name(self) -> str:
        return self.data["name"]

    @property
    def id(self) -> str:
        return self.data["id"]

    @property
    def operation_id(self) -> str:
        return self.tags["ai.operation.id"]

    @property
    def parent_id(self) -> str:
        return self.tags.get("ai.operation.parentId", "")

    @property
    def properties(self) -> Mapping[str, str]:
        return self.data["properties"]


class IngestionDouble:
    """Accepts and keeps every item."""

    def __init__(self) -> None:
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if double._is_dead:
                    double.refused += 1
                    self.close_connection = True
                    return
                if self.path.startswith(LIVE_METRICS):
                    double.live_pings += 1
                    self._answer(b"null", {"x-ms-qps-subscribed": "false"})
                elif self.path == "/v2.1/track":
                    count = double._keep(body)
                    accepted = {"itemsReceived": count, "itemsAccepted": count, "errors": []}
                    self._answer(json.dumps(accepted).encode())
                else:
                    self.send_error(404)

            def _answer(self, answer: bytes, headers: Mapping[str, str] | None = None) -> None:
                self.send_response(200)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._lock = threading.Lock()
        self._items: list[Item] = []
        self._raw: list[str] = []
        self._is_dead = False
        self.refused = 0
        """The number of requests that came while it was dead."""
        self.live_pings = 0
        """How often a process asked whether anybody looks at its live metrics. Such requests cost nothing."""
        self.instrumentation_key = str(uuid.uuid4())
        self._url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def connection_string(self) -> str:
        return (
            f"InstrumentationKey={self.instrumentation_key};IngestionEndpoint={self._url}/;LiveEndpoint={self._url}/"
        )

    def items(self, kind: str | None = None) -> list[Item]:
        """The items of a kind, or all of them."""
        with self._lock:
            return [item for item in self._items if kind in (None, item.kind)]

    def spans(self, operation_id: str) -> list[Item]:
        """The spans of one trace."""
        spans = self.items("Request") + self.items("RemoteDependency")
        return [span for span in spans if span.operation_id == operation_id]

    @property
    def raw(self) -> str:
        """All request bodies, unparsed."""
        with self._lock:
            return "\n".join(self._raw)

    @contextmanager
    def dead(self) -> Generator[None]:
        """Close every connection without an answer, until the end of the context."""
        self._is_dead = True
        yield
        self._is_dead = False

    def _keep(self, body: bytes) -> int:
        text = body.decode()
        envelopes: list[dict[str, Any]] = (
            json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines() if line]
        )
        with self._lock:
            self._raw.append(text)
            self._items += map(_item, envelopes)
        return len(envelopes)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="ingestion double", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        secrecy.exported.append(self.raw)


def _item(envelope: Mapping[str, Any]) -> Item:
    data = envelope["data"]
    size = len(json.dumps(envelope, separators=(",", ":")).encode())
    return Item(data["baseType"].removesuffix("Data"), data["baseData"], envelope["tags"], size)
