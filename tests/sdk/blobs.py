"""``python -m tests.sdk.blobs FOLDER``: blob storage for tests whose Python is not the repository's.

Once it is up, it prints a line of JSON: the URL of an account of Azurite over HTTP, its name and key; the URL of one
over TLS that takes tokens, with its certificate; and who issues such tokens: an authority as Entra ID is one, and the
endpoint of a managed identity, as App Service has it. It ends with its standard input, so with whoever started it.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from local.azurite import ACCOUNT_KEY, Azurite
from local.processes import LocalStackError

TENANT = str(uuid.uuid4())
SECRET = "the secret of the application"
IDENTITY_HEADER = "the header of this identity"
_SIGNED_WITH = "a key that nobody has to know, since Azurite does not look at signatures"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def token() -> str:
    now = int(time.time())
    claims = {"aud": "https://storage.azure.com", "iss": f"https://sts.windows.net/{TENANT}/"}
    return jwt.encode({**claims, "iat": now, "nbf": now - 60, "exp": now + 3600}, _SIGNED_WITH)


class Issuer(BaseHTTPRequestHandler):
    """Issues tokens to an application that knows its secret, and to the managed identity of this machine."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/msi/token" and self.headers["X-IDENTITY-HEADER"] == IDENTITY_HEADER:
            asked = parse_qs(url.query)
            told = {"access_token": token(), "expires_on": str(int(time.time()) + 3600), "token_type": "Bearer"}
            self._answer(200, {**told, "resource": asked["resource"][0]})
        elif url.path.endswith("/.well-known/openid-configuration"):
            authority = f"https://{self.headers['Host']}/{TENANT}"
            self._answer(
                200,
                {
                    "issuer": authority,
                    "authorization_endpoint": f"{authority}/oauth2/v2.0/authorize",
                    "token_endpoint": f"{authority}/oauth2/v2.0/token",
                },
            )
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        if asked.get("client_secret") == [SECRET] and asked.get("scope") == ["https://storage.azure.com/.default"]:
            self._answer(200, {"token_type": "Bearer", "expires_in": 3600, "access_token": token()})
        else:
            self._answer(401, {"error": "invalid_client"})

    def _answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
        return


def serve(tls: tuple[Path, Path] | None) -> str:
    """Starts an issuer; returns its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Issuer)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"


def main() -> int:
    folder = Path(sys.argv[1])
    files = certificate(folder)
    try:
        with Azurite(folder / "plain") as plain, Azurite(folder / "tls", tls=files) as tls:
            told = {
                "url": plain.url,
                "key": ACCOUNT_KEY,
                "tls_url": tls.url,
                "certificate": str(files[0]),
                "authority": serve(files),
                "tenant": TENANT,
                "secret": SECRET,
                "identity_endpoint": serve(None) + "/msi/token",
                "identity_header": IDENTITY_HEADER,
            }
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()
            sys.stdin.read()
    except LocalStackError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
