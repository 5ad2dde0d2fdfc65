"""The registry of model services: the only source of URLs that this app ever calls."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from shared.settings import Settings, SettingsError

MAX_PATH_CHARS = 256
MAX_QUERY_CHARS = 2048
_PATH = re.compile(r"(?:/[A-Za-z0-9._~:@+,=-]+)+/?")
_QUERY = re.compile(r"[!$%-;=?-_a-z~]*")
_BLANK_OR_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_PLATFORM = ipaddress.ip_address("168.63.129.16")
"""Azure's wire server, which every machine there can reach."""


class UnknownBackend(Exception):
    """Raised when a path or URL lies within no registered backend. The message names the reason, not the registry."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One registered model service, or a gateway in front of several."""

    prefix: str
    base_url: str
    lease_s: float
    limit: int | None = None
    """How many tasks an endpoint is given at a time at most; None: as many as it accepts."""

    def serves(self, path: str) -> bool:
        return self.prefix == "" or path == self.prefix or path.startswith(self.prefix + "/")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a task goes. Its path names the queue; its URL is called."""

    backend: Backend
    path: str
    query: str = ""

    @property
    def url(self) -> str:
        return self.backend.base_url + self.path + (f"?{self.query}" if self.query else "")


class BackendRegistry:
    """Backends by path prefix; the longest prefix wins, on whole segments.

    Raises:
        SettingsError: an entry is not a path prefix and an http(s) URL, or its address is forbidden.
    """

    def __init__(self, settings: Settings) -> None:
        self._allow_loopback = settings.allow_loopback_backends
        backends = [
            Backend(
                _checked_prefix(prefix),
                self._checked_base_url(f"BACKENDS[{prefix!r}]", entry.url),
                entry.lease_s or settings.lease_s,
                entry.limit,
            )
            for prefix, entry in settings.backends.items()
        ]
        if settings.backend_base_url:
            url = self._checked_base_url("BACKEND_BASE_URL", settings.backend_base_url)
            backends.append(Backend("", url, settings.lease_s))
        self._backends = sorted(backends, key=lambda backend: len(backend.prefix), reverse=True)

    def endpoint(self, path: str, query: str = "") -> Endpoint:
        """The endpoint for *path*.

        Raises:
            UnknownBackend: none is registered, or the path is not plain.
        """
        if len(path) > MAX_PATH_CHARS or not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
            raise UnknownBackend("the path is not a plain endpoint path")
        if len(query) > MAX_QUERY_CHARS or not _QUERY.fullmatch(query):
            raise UnknownBackend("the query string is too long or has characters that must be escaped")
        endpoint = self.endpoint_of(path, query)
        if endpoint is None:
            raise UnknownBackend("no backend is registered for this path")
        return endpoint

    def endpoint_of(self, path: str, query: str = "") -> Endpoint | None:
        """The endpoint of a stored task's path, which was checked when it came; None if it is no longer
        registered."""
        for backend in self._backends:
            if backend.serves(path):
                return Endpoint(backend, path, query)
        return None

    def limit(self, path: str) -> int | None:
        """How many tasks the endpoint at *path* is given at a time at most; None: as many as it accepts."""
        endpoint = self.endpoint_of(path)
        return endpoint.backend.limit if endpoint else None

    def resolve(self, url: str) -> Endpoint:
        """The endpoint that a client's absolute URL means.

        Its origin must be a registered one and its path a registered path. A pipeline step names the next one on its
        own host; the app calls the URL that the registry holds for the path. If several backends share an origin, the
        URL that a task's view shows means that task's endpoint.

        Raises:
            UnknownBackend: the URL lies outside the registry.
        """
        if _BLANK_OR_CONTROL.search(url):
            raise UnknownBackend("it has blanks or control characters")  # urlsplit would silently remove them
        try:
            parts = urlsplit(url)
            origin = _origin(parts)
        except ValueError:
            raise UnknownBackend("it is not a valid URL") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UnknownBackend("it is not an absolute http(s) URL")
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise UnknownBackend("it has a user name, password or fragment")
        fallback: Endpoint | None = None
        refusal = UnknownBackend("it lies within no registered backend")
        for backend in self._backends:
            base = urlsplit(backend.base_url)
            if _origin(base) == origin and (parts.path + "/").startswith(base.path + "/"):
                try:
                    endpoint = self.endpoint(parts.path.removeprefix(base.path), parts.query)
                except UnknownBackend as error:
                    refusal = error
                    continue
                if endpoint.backend is backend:
                    return endpoint
                fallback = fallback or endpoint
        if fallback is None:
            raise refusal
        return fallback

    def forbids(self, address: str) -> bool:
        """Whether a host, once resolved, must not be called: this machine, its link, the platform."""
        ip = ipaddress.ip_address(address)
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        if ip.is_loopback:
            return not self._allow_loopback
        return ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip == _PLATFORM

    def _checked_base_url(self, name: str, url: str) -> str:
        try:
            parts = urlsplit(url)
            _origin(parts)
        except ValueError:
            raise SettingsError(f"The app cannot start: setting {name}: it is not a valid URL.") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(f"The app cannot start: setting {name}: it must be an http(s) URL.")
        if parts.username is not None or parts.query or parts.fragment:
            raise SettingsError(f"The app cannot start: setting {name}: no user name, query or fragment is allowed.")
        host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
        try:
            forbidden = self.forbids(host)
        except ValueError:
            # A name. Its address is checked when it is called. Digits alone are an address in an unusual form, for
            # which no resolver would be asked.
            forbidden = host.replace(".", "").isdigit()
        if forbidden:
            raise SettingsError(
                f"The app cannot start: setting {name}: loopback, link-local and platform addresses are refused."
            )
        return url.rstrip("/")


def _checked_prefix(prefix: str) -> str:
    if not _PATH.fullmatch(prefix):
        raise SettingsError(
            f"The app cannot start: setting BACKENDS: {prefix!r} is not a path prefix like '/v1/org'."
        )
    return prefix.rstrip("/")


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
