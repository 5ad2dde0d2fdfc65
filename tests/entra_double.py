"""A double of a Microsoft Entra ID tenant: it signs tokens and serves its keys at the real path."""

from __future__ import annotations

import json
import threading
import time
import uuid
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

EVENT_GRID_APP_ID = "4962773b-9cdb-44cf-a8bf-237846a00ab7"


class EntraDouble:
    """One tenant. It publishes ``keys`` by their ids, or ``garbage`` instead, and answers with ``status``."""

    def __init__(self) -> None:
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                double.fetches.append(self.path)
                document = double.document
                self.send_response(double.status)
                if double.status in (301, 302, 307):
                    self.send_header("Location", f"{double.authority}/elsewhere")
                self.send_header("Content-Length", str(len(document)))
                self.end_headers()
                self.wfile.write(document)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.authority = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.tenant_id = str(uuid.uuid4())
        self.audience = "api://task-backbone-webhook"
        self.status = 200
        self.fetches: list[str] = []
        self.keys: dict[str, RSAPrivateKey] = {"key-1": generate_private_key(65537, 2048)}
        self.garbage: bytes | None = None

    @property
    def keys_path(self) -> str:
        return f"/{self.tenant_id}/discovery/v2.0/keys"

    @property
    def document(self) -> bytes:
        if self.garbage is not None:
            return self.garbage
        keys = [
            {**jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "use": "sig"}
            for key_id, key in self.keys.items()
        ]
        return json.dumps({"keys": keys}).encode()

    def claims(self, **changed: Any) -> dict[str, Any]:
        """The claims of a version 1 token for a delivery. A claim that is changed to None is left out."""
        now_s = int(time.time())
        claims = {
            "aud": self.audience,
            "iss": f"https://sts.windows.net/{self.tenant_id}/",
            "iat": now_s,
            "nbf": now_s,
            "exp": now_s + 3600,
            "appid": EVENT_GRID_APP_ID,
            "tid": self.tenant_id,
            "ver": "1.0",
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, key_id: str = "key-1", key: RSAPrivateKey | None = None, **changed: Any) -> str:
        # Not jwt.encode, which refuses some of the tokens that an attacker could make.
        content = json.dumps(self.claims(**changed)).encode()
        return jwt.PyJWS().encode(content, key or self.keys[key_id], algorithm="RS256", headers={"kid": key_id})

    def __enter__(self) -> Self:
        serve = partial(self._server.serve_forever, poll_interval=0.01)
        threading.Thread(target=serve, name="Entra ID double", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
