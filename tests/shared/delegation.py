"""What a managed identity needs in a test: its endpoint, as App Service has one, and a certificate for Azurite."""

from __future__ import annotations

import ipaddress
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TENANT = "72f988bf-86f1-41af-91ab-2d7cd011db47"
IDENTITY = "11111111-2222-3333-4444-555555555555"
DATA = bytes(range(256)) * 1024
HEADER = "the-secret-of-the-identity-endpoint"


def certificate(directory: Path) -> tuple[Path, Path]:
    """A new certificate for 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = directory / "certificate.pem", directory / "key.pem"
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private


class IdentityEndpoint:
    """Gives tokens for Azure Storage, as the endpoint of a function app with a managed identity does. Nobody has
    signed them, which Azurite does not check."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                [resource] = parse_qs(urlsplit(self.path).query)["resource"]
                assert self.headers["X-IDENTITY-HEADER"] == HEADER
                now_s = int(time.time())
                claims = {
                    "aud": resource,
                    "iss": f"https://sts.windows.net/{TENANT}/",
                    "iat": now_s,
                    "nbf": now_s - 60,
                    "exp": now_s + 3600,
                    "oid": IDENTITY,
                    "tid": TENANT,
                    "ver": "1.0",
                }
                token = jwt.encode(claims, "nobody checks it, so any key of some length will do", algorithm="HS256")
                answer = {"access_token": token, "expires_on": str(now_s + 3600), "resource": resource}
                data = json.dumps(answer | {"token_type": "Bearer"}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.environment = {
            "IDENTITY_ENDPOINT": f"http://127.0.0.1:{self._server.server_address[1]}/msi/token",
            "IDENTITY_HEADER": HEADER,
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="identity", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
