"""What stands between an operator's browser and the app: a gateway on another path, and the platform's sign-in."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import httpx

from local.stack import NO_TLS
from tests.waiting import PATIENCE_S

_OF_ONE_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "host", "te", "trailer", "upgrade", "date", "server"}
)


class Between:
    """A proxy before an app.

    Parameters:
        app_url: the app's.
        prefix: what its own paths begin with in place of ``/api``.
        adds: headers of each request; those that a client sends are taken out.
    """

    def __init__(self, app_url: str, *, prefix: str = "/api", adds: Mapping[str, str] | None = None) -> None:
        self.adds = {name.lower(): value for name, value in (adds or {}).items()}
        self.answers: int | None = None
        """A status that it answers by itself, in place of the app's."""
        self.hold: threading.Event | None = None
        """Until it is set, no answer goes out."""
        self.asked: list[tuple[str, str]] = []
        """Method and path of each request."""
        between = self
        client = httpx.Client(timeout=PATIENCE_S, verify=NO_TLS, follow_redirects=False)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                between.asked.append((self.command, self.path))
                if between.hold is not None:
                    between.hold.wait(PATIENCE_S)
                if not self.path.startswith(f"{prefix}/"):
                    return self.send(404, {}, b"")
                if between.answers is not None:
                    return self.send(between.answers, {"Retry-After": "1"}, b"")
                dropped = _OF_ONE_HOP | {*between.adds}
                headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
                request = client.build_request(
                    self.command,
                    f"{app_url}/api{self.path.removeprefix(prefix)}",
                    headers=headers | between.adds,
                    content=body,
                )
                answer = client.send(request, stream=True)
                content = b"".join(answer.iter_raw())
                given = {name: value for name, value in answer.headers.items() if name not in _OF_ONE_HOP}
                return self.send(answer.status_code, given, content)

            def send(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
                with suppress(ConnectionError):  # a tab may have been closed
                    self.send_response(status)
                    for name, value in headers.items():
                        if name.lower() != "content-length":
                            self.send_header(name, value)
                    length = headers.get("content-length") if self.command == "HEAD" else None
                    self.send_header("Content-Length", length or str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
                return

        self._client = client
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}{prefix}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="between", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._client.close()


def principal(name: str, *roles: str) -> dict[str, str]:
    """The headers by which App Service authentication tells an app who is signed in."""
    claims: list[dict[str, Any]] = [{"typ": "roles", "val": role} for role in roles]
    document = {"auth_typ": "aad", "claims": claims, "name_typ": "name", "role_typ": "roles"}
    packed = base64.b64encode(json.dumps(document).encode()).decode()
    return {"X-MS-CLIENT-PRINCIPAL": packed, "X-MS-CLIENT-PRINCIPAL-NAME": name, "X-MS-CLIENT-PRINCIPAL-ID": "1"}
