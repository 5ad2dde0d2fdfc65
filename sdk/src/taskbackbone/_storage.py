"""Calls to Blob Storage, by URLs that carry their own permission: none of them stands in a log, an error or a repr.

``Transfer`` makes them, from several threads at a time, until somebody halts it. ``Places`` says which URLs may be
called. The key of the backbone never goes there.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from queue import SimpleQueue
from typing import Any, Callable, cast
from urllib.parse import unquote, urlsplit

from . import __version__, errors
from ._core import TIMEOUT_S, Answer, Call, request
from ._drivers import Requests, new_session, run_sync
from ._payload import Payload

PLACES, IDENTITY = "SERVICE_STORAGE", "SERVICE_STORAGE_IDENTITY"
"""Variables: see ``Places.of_environment``."""
_API = "2021-12-02"
_PARALLEL = 4
_AZURE = re.compile(
    r"https://[a-z0-9-]{3,34}(\.z[0-9]+)?\.blob\."
    r"(core\.windows\.net|core\.usgovcloudapi\.net|core\.chinacloudapi\.cn|storage\.azure\.net)"
)
_PLATFORM = "168.63.129.16"
"""Azure's wire server, which every machine there can reach."""
_IN_LAST_BYTES = ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96", "::/96")
"""Addresses that stand for an IPv4 address: of translators, and of what needs none."""
_SIGNATURE = re.compile(r"((?:^|[?&])sig=)[^&\s\"']+", re.IGNORECASE)


class Halted(errors.BackboneError):
    """Somebody has halted the transfer."""


def call_of(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | Payload | None = None,
    *,
    streamed: bool = False,
) -> Call:
    """
    Raises:
        Refused: *url* is no URL.
    """
    if _parts(url) is None:
        raise errors.Refused("That is no URL of a storage.")
    own = {"x-ms-version": _API, "User-Agent": f"taskbackbone/{__version__}", "Accept-Encoding": "identity"}
    return Call(method, url, {**own, **headers}, body, TIMEOUT_S, streamed)


class Transfer:
    """Calls to the storage, each repeated for *retry_for_s*, until ``halt``.

    Parameters:
        headers: what is sent with each call, such as a token. It is asked for each of them.
    """

    def __init__(
        self,
        retry_for_s: float,
        transport: Requests | None = None,
        headers: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self.retry_for_s = retry_for_s
        self._transport = transport or TRUSTED
        self._headers = headers
        self.on_halt: Callable[[], object] = lambda: None
        self._halted = threading.Event()

    def halt(self) -> None:
        """From any thread: what is on its way ends as soon as it notices."""
        self._halted.set()
        self.on_halt()

    def check(self) -> None:
        """Raises Halted."""
        if self._halted.is_set():
            raise Halted("The transfer was stopped.")

    def pause(self, seconds: float) -> None:
        """Raises Halted."""
        self._halted.wait(seconds)
        self.check()

    def call(
        self,
        method: str,
        url: str,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | Payload | None = None,
        *,
        streamed: bool = False,
    ) -> Answer:
        """The answer of the storage, whatever its status. Raises Unreachable, Halted."""
        whole = url + ("&" if "?" in url else "?") + query if query else url
        call = call_of(method, whole, {**self._headers(), **(headers or {})}, body, streamed=streamed)
        self.check()
        failure = ""
        try:
            return run_sync(request(call, retry_for_s=self.retry_for_s), self._transport, self.pause)
        except errors.Unreachable as error:
            failure = unsigned(str(error).rpartition("answer: ")[2])
        raise errors.Unreachable(f"The storage does not answer: {failure}")  # without a cause, which has the URL

    def demand(self, method: str, url: str, *rest: Any, **options: Any) -> Answer:
        """The same, but answered 2xx. Raises what ``refused`` makes, too."""
        answer = self.call(method, url, *rest, **options)
        if not answer.is_success:
            raise refused(answer)
        return answer

    def each(self, do: Callable[[int], None], count: int) -> None:
        """``do(0)`` to ``do(count - 1)``, some at a time. The first error is raised, and halts the rest, which is not
        waited for.
        """
        numbers, lock, ends = iter(range(count)), threading.Lock(), SimpleQueue[Any]()

        def work() -> None:
            try:
                while True:
                    self.check()
                    with lock:
                        number = next(numbers, None)
                    if number is None:
                        break
                    do(number)
            except BaseException as error:
                ends.put(error)
            else:
                ends.put(None)

        threads = [threading.Thread(target=work, name="transfer", daemon=True) for _ in range(min(_PARALLEL, count))]
        try:
            for thread in threads:
                thread.start()
            for _ in threads:
                if (failure := ends.get()) is not None:
                    raise failure
        except BaseException:  # such as Ctrl-C
            self._halted.set()
            raise


def refused(answer: Answer) -> errors.BackboneError:
    """The error that an answer of the storage stands for. Its text has nothing of the URL, and nothing of the body,
    which may repeat that.
    """
    word = answer.headers.get("x-ms-error-code", "")
    text = f"The storage answered {answer.status} {word if word.isalnum() else ''}".rstrip() + "."
    if answer.status >= 500:
        return errors.Unreachable(text, answer.status)
    kinds: dict[int, type[errors.Refused]] = {
        401: errors.NotAllowed,
        403: errors.NotAllowed,
        404: errors.NotFound,
        413: errors.TooLarge,
    }
    return kinds.get(answer.status, errors.Refused)(text, answer.status)


class Places:
    """Parts of storage accounts, by the beginnings of their URLs: ``https://ACCOUNT.blob.core.windows.net/CONTAINER``.

    Parameters:
        text: the beginnings, with blanks or commas between them.
        name: of the setting.

    Raises:
        ValueError: one is no URL.
    """

    def __init__(self, text: str, name: str) -> None:
        self._beginnings: list[tuple[str, str]] = []
        for word in re.split(r"[\s,]+", text.strip()) if text.strip() else ():
            parts = _parts(word)
            if parts is None or urlsplit(word).query:
                raise ValueError(
                    f"{name}: the beginnings of URLs are expected, such as https://ACCOUNT.blob.core…/IMAGES"
                )
            self._beginnings.append((parts[0], parts[1].rstrip("/")))

    @classmethod
    def of_environment(cls, name: str) -> Places:
        return cls(os.environ.get(name, ""), name)

    def __bool__(self) -> bool:
        return bool(self._beginnings)

    def has(self, url: str) -> bool:
        parts = _parts(url)
        return parts is not None and any(
            parts[0] == origin and (parts[1] == path or parts[1].startswith(path + "/"))
            for origin, path in self._beginnings
        )


class Gate:
    """Which storage this process calls by URLs that others name.

    Parameters:
        places: parts of it that are meant, whatever their addresses are.
        is_open: whether Azure's public Blob Storage is meant beside them.
    """

    def __init__(self, places: Places, *, is_open: bool) -> None:
        self._places = places
        self._is_open = is_open

    def transport(self, url: str) -> Requests:
        """
        Raises:
            NotAllowed: this URL is not meant. The text has no more of it than its host.
        """
        is_named = self._places.has(url)
        if not is_named and not (self._is_open and is_azures(url)):
            raise errors.NotAllowed(
                f"This service may not call the storage at {host_of(url)}: {PLACES} names others."
            )
        return TRUSTED if is_named else PUBLIC


def is_azures(url: str) -> bool:
    """Whether a URL leads to a public name of Azure's Blob Storage."""
    parts = _parts(url)
    return parts is not None and _AZURE.fullmatch(parts[0]) is not None


def host_of(url: str) -> str:
    """For a text. It shows nothing but the host of a URL."""
    return ascii(urlsplit(url).hostname or "")[1:-1][:100] if _parts(url) else "that URL"


def _parts(url: str) -> tuple[str, str] | None:
    """The origin of a URL and its path; None if it is no plain http URL, or if another could take it for another."""
    if not url.isascii() or not url.isprintable() or re.search(r"[\s\\#]", url):
        return None
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError:
        return None
    path = unquote(split.path)
    if split.scheme not in ("http", "https") or not split.hostname or "@" in split.netloc:
        return None
    if "\\" in path or any(part in (".", "..") for part in path.split("/")):
        return None
    usual = {"http": 80, "https": 443}[split.scheme]
    host = f"[{split.hostname}]" if ":" in split.hostname else split.hostname
    return f"{split.scheme}://{host}{'' if port in (None, usual) else f':{port}'}", split.path


def is_allowed(address: str, *, private: bool) -> bool:
    """Whether a connection to an IP address is allowed. None to one of a cloud's own services is, ever."""
    import ipaddress

    ip: Any = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6:
        if any(ip in ipaddress.ip_network(of) for of in _IN_LAST_BYTES) and int(ip) > 1:
            ip = ipaddress.ip_address(int(ip) & 0xFFFFFFFF)
        ip = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None) or ip
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or str(ip) == _PLATFORM:
        return False
    return private or ip.is_global


def guarded(*, private: bool) -> Requests:
    """Calls that connect to allowed addresses only: they are looked at before each connection, which then goes to the
    very address that was looked at. Without *private*, no proxy is used either, since it would look up names itself.
    """

    def make() -> Any:
        import logging

        logging.getLogger("urllib3.connectionpool").addFilter(_unsign)
        session = new_session(_guarded_pools(private))
        session.auth = _as_it_is  # else requests would look into .netrc for one
        if not private:
            merge: Callable[..., dict[str, Any]] = session.merge_environment_settings

            def without_proxies(*given: Any) -> dict[str, Any]:
                return {**merge(*given), "proxies": {}}

            session.merge_environment_settings = without_proxies
        return session

    return Requests(make=make)


def _as_it_is(request: Any) -> Any:
    return request


TRUSTED, PUBLIC = guarded(private=True), guarded(private=False)
"""For URLs that the backbone has answered with or a setting names, and for any others."""


def _guarded_pools(private: bool) -> dict[str, Any]:
    from urllib3.exceptions import HTTPError, NewConnectionError

    from ._bounds import pools

    def guard(base: Any) -> Any:
        connect: Callable[[Any], Any] = base._new_conn

        class Guarded(base):
            _dns_host: str

            def _new_conn(self) -> Any:
                name, error = self._dns_host, None
                addresses = _looked_up(name, self.port)
                if not all(is_allowed(address, private=private) for address in addresses):
                    why = "" if private else f", unless {PLACES} names it"
                    raise errors.NotAllowed(f"{name} leads to an address that is not allowed{why}.")
                try:
                    for address in addresses:
                        self._dns_host = address
                        try:
                            return connect(self)
                        except HTTPError as failure:
                            error = failure
                    raise error or NewConnectionError(self, f"{name} has no address")
                finally:
                    self._dns_host = name

        return Guarded

    return pools(guard)


def _looked_up(name: str, port: int) -> list[str]:
    import socket

    found = socket.getaddrinfo(name.strip("[]"), port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def unsigned(text: Any) -> Any:
    """A text without the signatures of URLs."""
    return _SIGNATURE.sub(r"\1…", text) if isinstance(text, str) else text


def _unsign(record: Any) -> bool:
    """Takes the signatures of URLs out of what urllib3 logs for debugging."""
    if isinstance(record.args, tuple):
        record.args = tuple(map(unsigned, cast("tuple[Any, ...]", record.args)))
    return True
