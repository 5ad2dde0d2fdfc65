"""The registry of model services: the only source of URLs that this app ever calls."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

from shared.backend_settings import BackendSettings, PerOwner
from shared.dispatch.embedded_addresses import written_addresses
from shared.rate import Rate
from shared.settings import Settings, SettingsError
from shared.tasks.owner_bounds import UNBOUNDED, OwnerBounds
from shared.tasks.task import Bounds, PipelineStep

MAX_PATH_CHARS: Final = 256
MAX_QUERY_CHARS: Final = 2048
_PLAIN_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~:@+,=-]+)+")
_UNESCAPED_IN_PATH: Final = "~:@+,="
"""With letters, digits and ``._-``, which are never escaped, the characters of a plain path."""
_PLAIN_QUERY: Final = re.compile(r"[!$%-;=?-_a-z~]*")
_UNESCAPED_IN_QUERY: Final = "".join(
    char for char in map(chr, range(128)) if not char.isalnum() and _PLAIN_QUERY.fullmatch(char)
)
_FORBIDDEN_IN_SEGMENT: Final = re.compile(r"[/\\;?#%\ufffd]")
"""Escaped too: a backend or a proxy that decodes twice, or takes ``\\`` for ``/``, would find another path. U+FFFD
stands for bytes that are no UTF-8."""
_FORBIDDEN_IN_QUERY: Final = re.compile(r"[ #]")
_DOTS: Final = frozenset((".", ".."))
_PREFIX = re.compile(r"(?:/(?:[A-Za-z0-9._~:@+,=-]|%[0-9A-Fa-f]{2})+)+/?")
"""How an operator writes a path: a stray character is more likely an error than part of it."""
_BLANK_OR_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_PIPELINES: Final = "BACKENDS['pipelines']"
_PLATFORM = ipaddress.ip_address("168.63.129.16")
"""Azure's wire server, which every machine there can reach."""


class Malformed(Exception):
    """Raised for what cannot be an endpoint's path or query. The message does not repeat it."""


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
    endpoints: frozenset[str] | None = None
    """The paths that the model service has; None: the app cannot know, and any path below the prefix is called."""
    busy: frozenset[int] = frozenset()
    """The statuses, beside 429 and 503, by which it says that it has no room."""
    answers_result: bool = False
    """Whether every 2xx answer is the result of the task."""
    takes_reference: bool = False
    """Whether it takes the URL of a body that lies in Blob Storage."""
    rate: Rate | None = None
    """How often an endpoint is given a task at most; None: as often as it has a slot."""
    callback: str | None = None
    """The destination that is told of tasks for which their callers name none."""
    per_owner: OwnerBounds = UNBOUNDED
    """How much of each of its endpoints one owner may have."""
    max_run_s: float | None = None
    """How long an attempt may run; None: for ever."""
    expires_s: float | None = None
    """How long a task waits for it at most, unless its submit says; None: for ever."""

    @property
    def bounds(self) -> Bounds:
        return {"lease_s": self.lease_s, "max_run_s": self.max_run_s, "expires_s": self.expires_s}

    def serves(self, path: str) -> bool:
        return self.prefix == "" or path == self.prefix or path.startswith(self.prefix + "/")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a task goes. Its path names the queue; its URL is called."""

    backend: Backend
    path: str
    query: str = ""

    @property
    def is_registered(self) -> bool:
        return self.backend.endpoints is None or self.path in self.backend.endpoints

    @property
    def url(self) -> str:
        return self.backend.base_url + self.path + (f"?{self.query}" if self.query else "")


@dataclass(frozen=True, slots=True)
class Route:
    """Where a task goes that is submitted: to one endpoint, or through those of a pipeline.

    Attributes:
        name: that of the pipeline; empty if it has none.
    """

    endpoints: tuple[Endpoint, ...]
    name: str = ""

    @property
    def path(self) -> str:
        """The path that it was submitted to."""
        return self.name or self.endpoints[0].path

    @property
    def is_pipeline(self) -> bool:
        return bool(self.name) or len(self.endpoints) > 1


class BackendRegistry:
    """Backends by path prefix; the longest prefix wins, on whole segments. And the pipelines that have a name.

    Raises:
        SettingsError: an entry is not a path prefix and an http(s) URL, or its address is forbidden; a pipeline has a
            step that is no endpoint, or the name of one.
    """

    def __init__(self, settings: Settings) -> None:
        self._allow_loopback = settings.allow_loopback_backends
        backends = [self._backend(prefix, entry, settings) for prefix, entry in settings.backends.entries.items()]
        if len({backend.prefix for backend in backends}) < len(backends):
            raise SettingsError("The app cannot start: setting BACKENDS: it names a path prefix twice.")
        if settings.backend_base_url:
            url = self.checked_url("BACKEND_BASE_URL", settings.backend_base_url)
            bounds = _owner_bounds(PerOwner(), settings)
            backends.append(Backend("", url, settings.lease_s, per_owner=bounds))
        self._backends = sorted(backends, key=lambda backend: len(backend.prefix), reverse=True)
        self._pipelines: dict[str, tuple[Endpoint, ...]] = {}
        named = {_checked_path(_PIPELINES, name): steps for name, steps in settings.backends.pipelines.items()}
        for name in named:
            endpoint = self.endpoint_of(name)
            if endpoint is not None and endpoint.backend.endpoints and endpoint.is_registered:
                raise SettingsError(f"The app cannot start: setting {_PIPELINES}: {name!r} is an endpoint too.")
        self._pipelines.update(dict.fromkeys(named, ()))  # no step may be one
        for name, steps in named.items():
            self._pipelines[name] = tuple(self._step(name, step) for step in steps)

    @property
    def pipelines(self) -> Sequence[str]:
        """The names of those that have one."""
        return [*self._pipelines]

    def endpoint_paths(self, used: Set[str]) -> set[str]:
        """The paths of the endpoints that are registered: those that a backend lists. Of a backend that takes any
        path below its prefix, the prefix, unless an endpoint below it is listed, or in *used*."""
        listed = {path for backend in self._backends for path in backend.endpoints or ()}
        prefixes = {backend.prefix for backend in self._backends if backend.endpoints is None and backend.prefix}
        return listed | {
            prefix for prefix in prefixes if not any(path.startswith(prefix + "/") for path in used | listed)
        }

    def route(self, path: str, query: str = "") -> Route:
        """Where a task goes that is submitted to *path*: an endpoint, or the name of a pipeline. The query is for the
        first endpoint, after the one that the pipeline gives it.

        Raises:
            UnknownBackend: there is no such endpoint or pipeline.
        """
        try:
            name = canonical_path(path)
            first, *more = self._pipelines.get(name, (None,))
            if first is None:
                return Route((self.endpoint(path, query),))
            query = canonical_query("&".join(part for part in (first.query, query) if part))
        except Malformed as error:
            raise UnknownBackend(str(error)) from None
        return Route((replace(first, query=query), *more), name)

    def endpoint(self, path: str, query: str = "") -> Endpoint:
        """The endpoint for *path*, which may be written in any way that means it.

        Raises:
            UnknownBackend: none is registered, or the path cannot be one.
        """
        try:
            path = canonical_path(path)
            endpoint = self.endpoint_of(path, canonical_query(query))
        except Malformed as error:
            raise UnknownBackend(str(error)) from None
        if path in self._pipelines:
            raise UnknownBackend("it is a pipeline, to which tasks can only be submitted")
        if endpoint is None or not endpoint.is_registered:
            raise UnknownBackend("no backend is registered for this path")
        return endpoint

    def endpoint_of(self, path: str, query: str = "") -> Endpoint | None:
        """The endpoint of a stored task's path, which was checked when it came; None if it is no longer
        registered."""
        for backend in self._backends:
            if backend.serves(path):
                return Endpoint(backend, path, query)
        return None

    def bounded(self, step: PipelineStep) -> PipelineStep:
        """A step that was stored without them, with the times that its backend says now."""
        endpoint = self.endpoint_of(step.path)
        if endpoint is None:
            return step
        return step._replace(max_run_s=endpoint.backend.max_run_s, expires_s=endpoint.backend.expires_s)

    def limit(self, path: str) -> int | None:
        """How many tasks the endpoint at *path* is given at a time at most; None: as many as it accepts."""
        endpoint = self.endpoint_of(path)
        return endpoint.backend.limit if endpoint else None

    def rate(self, path: str) -> Rate | None:
        """How often the endpoint at *path* is given a task at most; None: as often as it has a slot."""
        endpoint = self.endpoint_of(path)
        return endpoint.backend.rate if endpoint else None

    def owner_bounds(self, path: str) -> OwnerBounds:
        """How much of the endpoint at *path* one owner may have."""
        endpoint = self.endpoint_of(path)
        return endpoint.backend.per_owner if endpoint else UNBOUNDED

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
        return any(map(self._forbids, written_addresses(address)))

    def _forbids(self, ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        if ip.is_loopback:
            return not self._allow_loopback
        return ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip == _PLATFORM

    def _backend(self, prefix: str, entry: BackendSettings, settings: Settings) -> Backend:
        name = f"BACKENDS[{prefix!r}]"
        backend = Backend(
            _checked_path("BACKENDS", prefix),
            self.checked_url(name, entry.url),
            entry.lease_s or settings.lease_s,
            entry.limit,
            None if entry.endpoints is None else frozenset(_checked_path(name, path) for path in entry.endpoints),
            frozenset(entry.busy),
            entry.answer == "result",
            entry.reference,
            Rate.parse(entry.rate, is_burst=entry.burst) if entry.rate else None,
            entry.callback,
            _owner_bounds(entry.per_owner, settings),
            entry.max_run_s,
            entry.expires_s,
        )
        for path in backend.endpoints or ():
            if not backend.serves(path):
                raise SettingsError(f"The app cannot start: setting {name}: the endpoint {path!r} is not below it.")
        return backend

    def _step(self, pipeline: str, step: str) -> Endpoint:
        path, _, query = step.partition("?")
        try:
            return self.endpoint(path, query)
        except UnknownBackend as error:
            name = f"{_PIPELINES}[{pipeline!r}]"
            raise SettingsError(f"The app cannot start: setting {name}: {step!r}: {error}.") from None

    def checked_url(self, name: str, url: str, *, takes_query: bool = False) -> str:
        """A URL that the setting *name* has, without a slash at its end.

        Raises:
            SettingsError: it is none of http(s), or has what it must not have; or its address is forbidden.
        """
        try:
            parts = urlsplit(url)
            _origin(parts)
        except ValueError:
            raise SettingsError(f"The app cannot start: setting {name}: it is not a valid URL.") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(f"The app cannot start: setting {name}: it must be an http(s) URL.")
        if parts.username is not None or (parts.query and not takes_query) or parts.fragment:
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
        return url if takes_query else url.rstrip("/")


def canonical_path(path: str) -> str:
    """The path as it is stored, compared and called: without a slash at its end, and escaped where it must be.

    Raises:
        Malformed: it is empty, too long, or has an empty segment, a dot segment or a forbidden character, escaped
            or not.
    """
    path = path.removesuffix("/")
    if not _PLAIN_PATH.fullmatch(path):
        root, *segments = path.split("/")
        if root or not segments:
            raise _bad_path()
        path = "".join("/" + _canonical_segment(segment) for segment in segments)
    if len(path) > MAX_PATH_CHARS or not _DOTS.isdisjoint(path.split("/")):
        raise _bad_path()
    return path


def canonical_query(query: str) -> str:
    """The query string with the characters escaped that must be. What is escaped already stays as it is.

    Raises:
        Malformed: it is too long, or has blanks or control characters.
    """
    if not _PLAIN_QUERY.fullmatch(query):
        if not query.isprintable() or _FORBIDDEN_IN_QUERY.search(query):
            raise Malformed("the query string has characters that must be escaped")
        query = quote(query, safe=_UNESCAPED_IN_QUERY)
    if len(query) > MAX_QUERY_CHARS:
        raise Malformed("the query string is too long")
    return query


def _canonical_segment(segment: str) -> str:
    try:
        text = unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise _bad_path() from None
    # Some servers drop blanks at the end of a segment, and are left with dots.
    if not text.isprintable() or _FORBIDDEN_IN_SEGMENT.search(text) or text.strip() in ("", *_DOTS):
        raise _bad_path()
    return quote(text, safe=_UNESCAPED_IN_PATH)


def _bad_path() -> Malformed:
    return Malformed("the path is not a plain endpoint path")


def _owner_bounds(entry: PerOwner, settings: Settings) -> OwnerBounds:
    return OwnerBounds(entry.waiting or settings.max_waiting_per_owner, entry.in_flight, entry.hard)


def _checked_path(name: str, path: str) -> str:
    try:
        if _PREFIX.fullmatch(path):
            return canonical_path(path)
    except Malformed:
        pass
    raise SettingsError(f"The app cannot start: setting {name}: {path!r} is not a path like '/v1/org'.")


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
