"""The call to a model service: what each answer means, and which addresses are never called."""

import asyncio
import socket
import threading
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from local.processes import free_port
from shared.bodies import BlobsUnavailable
from shared.dispatch.backend_client import (
    MAX_RETRY_AFTER_S,
    Accepted,
    BackendClient,
    Busy,
    Erred,
    NotFound,
    Rejected,
    Unreachable,
    described,
    with_slash,
)
from shared.dispatch.guarded_resolver import GuardedResolver
from shared.dispatch.registry import BackendRegistry, Endpoint
from shared.settings import Settings
from tests.scripted_backend import Answer, ScriptedBackend
from tests.shared.dispatch.room import Room
from tests.shared.dispatch.talking_server import Pieces

AWAY = Unreachable("could not be reached", was_sent=False)
Outcome = Accepted | Busy | Unreachable | NotFound | Erred | Rejected


def registry(base_url: str, *, loopback: bool) -> BackendRegistry:
    return BackendRegistry(
        Settings.model_validate(
            {
                "redis_connection_string": "redis://127.0.0.1",
                "event_grid_topic_uri": "https://topic.example.org/api/events",
                "backend_base_url": base_url,
                "allow_loopback_backends": loopback,
            }
        )
    )


@pytest.fixture
def endpoint(backend: ScriptedBackend) -> Endpoint:
    return endpoint_at(backend.url)


def endpoint_at(base_url: str, *, loopback: bool = True) -> Endpoint:
    return registry(base_url, loopback=loopback).endpoint(f"/v1/{uuid.uuid4().hex}")


async def post(client: BackendClient, endpoint: Endpoint, *, timeout_s: float = 20) -> Outcome:
    return await client.post(endpoint, {"taskId": "7", "Content-Type": "text/plain"}, b"body", timeout_s, Room())


async def test_a_streamed_body_arrives_complete(
    client: BackendClient, endpoint: Endpoint, backend: ScriptedBackend
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for letter in (b"a", b"b", b"c"):
            yield letter * 300_000

    headers = {"taskId": "7", "Content-Type": "text/plain", "Content-Length": "900000"}
    assert await client.post(endpoint, headers, pieces(), 20, Room()) == Accepted()
    call = backend.next_call(endpoint.path)
    assert call.body == b"a" * 300_000 + b"b" * 300_000 + b"c" * 300_000
    assert "transfer-encoding" not in call.headers


async def test_a_call_whose_body_breaks_off_fails(client: BackendClient, endpoint: Endpoint) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a" * 300_000
        raise BlobsUnavailable

    headers = {"taskId": "7", "Content-Type": "text/plain", "Content-Length": "900000"}
    assert isinstance(await client.post(endpoint, headers, pieces(), 20, Room()), Unreachable)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_2xx_is_an_acceptance(
    status: int, client: BackendClient, endpoint: Endpoint, backend: ScriptedBackend
) -> None:
    backend.script(endpoint.path, Answer(status))
    assert await post(client, endpoint) == Accepted()
    call = backend.next_call(endpoint.path)
    assert (call.body, call.task_id, call.headers["content-type"]) == (b"body", "7", "text/plain")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("7", 7),
        (" 7 ", 7),
        ("99999999999999999999", MAX_RETRY_AFTER_S),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Fri, 31 Dec 2199 23:59:59 GMT", MAX_RETRY_AFTER_S),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("\u00b2", None),
        ("Fri, 99 Dec 2199 23:59:59 GMT", None),
    ],
)
async def test_429_and_503_mean_busy_until_retry_after(
    status: int,
    retry_after: str | None,
    seconds: float | None,
    client: BackendClient,
    endpoint: Endpoint,
    backend: ScriptedBackend,
) -> None:
    backend.script(endpoint.path, Answer(status, {} if retry_after is None else {"Retry-After": retry_after}))
    assert await post(client, endpoint) == Busy(seconds)


async def test_a_date_in_retry_after_is_counted_from_now(
    client: BackendClient, endpoint: Endpoint, backend: ScriptedBackend
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=30), usegmt=True)
    backend.script(endpoint.path, Answer(503, {"Retry-After": date}))
    answer = await post(client, endpoint)
    assert isinstance(answer, Busy)
    assert answer.retry_after_s is not None
    assert 0 < answer.retry_after_s <= 1800


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (404, NotFound()),
        (408, Erred("answered 408")),
        (500, Erred("answered 500")),
        (501, Erred("answered 501")),
        (502, Unreachable("answered 502")),
        (504, Unreachable("answered 504")),
        (599, Erred("answered 599")),
    ],
)
async def test_a_temporary_error_is_told_from_a_backend_that_is_away(
    status: int, answer: Outcome, client: BackendClient, endpoint: Endpoint, backend: ScriptedBackend
) -> None:
    """A 502 or 504 comes from a gateway and not from the backend."""
    backend.script(endpoint.path, Answer(status, {"Retry-After": "5"}, b"the reason is secret"))
    assert await post(client, endpoint) == answer


REASON = Answer(headers={"Content-Type": "application/problem+json"}, body=b'{"detail": "too many bands"}')


@pytest.mark.parametrize("status", [400, 401, 403, 405, 409, 410, 413, 415, 422, 431])
async def test_a_permanent_error_is_reported_with_its_reason(
    status: int, client: BackendClient, endpoint: Endpoint, backend: ScriptedBackend
) -> None:
    backend.script(endpoint.path, replace(REASON, status=status))
    answer = await post(client, endpoint)
    assert answer == Rejected(f"answered {status}: too many bands")
    assert not isinstance(answer, Accepted)
    assert described(answer) == f"answered {status}: too many bands"


@pytest.mark.parametrize(("status", "kind"), [(404, NotFound), (408, Erred)])
async def test_a_temporary_4xx_is_reported_with_its_reason(
    status: int,
    kind: type[NotFound | Erred],
    client: BackendClient,
    endpoint: Endpoint,
    backend: ScriptedBackend,
) -> None:
    backend.script(endpoint.path, replace(REASON, status=status))
    assert await post(client, endpoint) == kind(f"answered {status}: too many bands")


@pytest.mark.parametrize("status", [302, 429, 500, 502, 503])
async def test_the_reason_of_any_other_refusal_is_for_the_operator_only(
    status: int, client: BackendClient, endpoint: Endpoint, backend: ScriptedBackend
) -> None:
    backend.script(endpoint.path, replace(REASON, status=status))
    answer = await post(client, endpoint)
    assert not isinstance(answer, Accepted)
    assert answer.reason == f"answered {status}"
    assert described(answer) == f"answered {status}: too many bands"


async def test_a_reason_in_a_compressed_answer_is_not_asked_for(
    client: BackendClient, endpoint: Endpoint, backend: ScriptedBackend
) -> None:
    assert await post(client, endpoint) == Accepted()
    assert backend.next_call(endpoint.path).headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(
    status: int, client: BackendClient, endpoint: Endpoint, backend: ScriptedBackend
) -> None:
    backend.script(endpoint.path, Answer(status, {"Location": f"{backend.url}{endpoint.path}/elsewhere"}))
    assert await post(client, endpoint) == Rejected(f"answered {status}")
    assert backend.untaken(f"{endpoint.path}/elsewhere") == 0


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("location", ["{url}{path}/?a=1&b", "{path}/?a=1&b", "//{host}{path}/?a=1&b"])
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_redirect_that_only_adds_a_slash_is_followed(
    status: int, location: str, is_streamed: bool, client: BackendClient, backend: ScriptedBackend
) -> None:
    path = f"/v1/{uuid.uuid4().hex}"
    endpoint = registry(backend.url, loopback=True).endpoint(path, "a=1&b")
    host = backend.url.partition("//")[2]
    backend.script(path, Answer(status, {"Location": location.format(url=backend.url, host=host, path=path)}))
    backend.script(path + "/", Answer(202))
    headers = {"taskId": "7", "Content-Type": "text/plain", "Content-Length": "300000"}
    body = Pieces(300_000) if is_streamed else bytes(300_000)
    assert await client.post(endpoint, headers, body, 20, Room()) == Accepted()
    calls = backend.next_call(path), backend.next_call(path + "/")
    assert [call.path for call in calls] == [f"{path}?a=1&b", f"{path}/?a=1&b"]
    assert {(call.task_id, len(call.body)) for call in calls} == {("7", 300_000)}


@pytest.mark.parametrize(
    "location",
    [
        "{path}/",
        "{path}//?a=1",
        "{path}/?a=2",
        "{path}?a=1",
        "/elsewhere/?a=1",
        "http://models.invalid{path}/?a=1",
        "http://127.0.0.1:1{path}/?a=1",
        "https://[{path}/?a=1",
        "",
    ],
)
async def test_no_other_redirect_counts_as_one_that_adds_a_slash(
    location: str, client: BackendClient, backend: ScriptedBackend
) -> None:
    path = f"/v1/{uuid.uuid4().hex}"
    backend.script(path, Answer(308, {"Location": location.format(path=path)}))
    endpoint = registry(backend.url, loopback=True).endpoint(path, "a=1")
    assert await post(client, endpoint) == Rejected("answered 308")
    assert backend.untaken(path + "/") == 0


async def test_a_slash_is_added_once(client: BackendClient, endpoint: Endpoint, backend: ScriptedBackend) -> None:
    path = endpoint.path
    backend.script(path, Answer(308, {"Location": path + "/"}))
    backend.script(path + "/", Answer(308, {"Location": path + "//"}))
    assert await post(client, endpoint) == Rejected("answered 308")
    assert (backend.untaken(path), backend.untaken(path + "/"), backend.untaken(path + "//")) == (1, 1, 0)


def test_the_scheme_of_a_redirect_may_be_that_behind_a_proxy() -> None:
    called = "https://models.example.org/v1/x?a=1"
    for location in ("http://models.example.org/v1/x/?a=1", "https://MODELS.example.org/v1/x/?a=1"):
        assert with_slash(called, 308, location) == "https://models.example.org/v1/x/?a=1"
    for location in ("ftp://models.example.org/v1/x/?a=1", "http://models.example.org:8080/v1/x/?a=1"):
        assert with_slash(called, 308, location) is None
    assert with_slash("http://models.example.org/v1/x", 308, "https://models.example.org/v1/x/") is None


async def test_a_port_where_nothing_listens_is_unreachable(client: BackendClient) -> None:
    endpoint = endpoint_at(f"http://127.0.0.1:{free_port()}")
    assert await post(client, endpoint) == AWAY


async def test_a_name_that_does_not_exist_is_unreachable(client: BackendClient) -> None:
    assert await post(client, endpoint_at("http://models.invalid")) == AWAY


async def test_a_connection_closed_without_an_answer_is_unreachable(
    client: BackendClient, endpoint: Endpoint, backend: ScriptedBackend
) -> None:
    backend.script(endpoint.path, Answer(hang_up=True))
    assert await post(client, endpoint) == Unreachable("could not be reached")


async def test_an_answer_that_does_not_come_in_time_is_unreachable(
    client: BackendClient, endpoint: Endpoint, backend: ScriptedBackend
) -> None:
    release = threading.Event()
    backend.script(endpoint.path, Answer(hold=release))
    try:
        assert await post(client, endpoint, timeout_s=0.3) == Unreachable("did not answer in time")
    finally:
        release.set()


async def test_an_endless_answer_is_not_read(
    client: BackendClient, endpoint: Endpoint, backend: ScriptedBackend
) -> None:
    backend.script(endpoint.path, Answer(200, body=bytes(50_000_000)))
    assert await post(client, endpoint) == Accepted()


async def test_cookies_of_one_task_are_not_sent_with_the_next(
    client: BackendClient, endpoint: Endpoint, backend: ScriptedBackend
) -> None:
    backend.script(endpoint.path, Answer(200, {"Set-Cookie": "session=of-another-task; Path=/"}))
    await post(client, endpoint)
    await post(client, endpoint)
    assert "cookie" not in backend.next_call(endpoint.path).headers
    assert "cookie" not in backend.next_call(endpoint.path).headers


async def test_proxies_of_the_environment_are_ignored(
    endpoint: Endpoint, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    client = BackendClient(registry("http://127.0.0.1", loopback=True))
    try:
        assert await post(client, endpoint) == Accepted()
    finally:
        await client.aclose()


@pytest.mark.parametrize("name", ["models.example.org", "0x7f000001", "0x7f.0.0.1"])
@pytest.mark.parametrize(("loopback", "answer"), [(True, Accepted()), (False, AWAY)])
async def test_a_host_name_for_loopback_is_called_only_if_the_setting_allows_it(
    name: str, loopback: bool, answer: Outcome, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "models.example.org":
        _resolve_to(monkeypatch, "127.0.0.1")
    base_url = backend.url.replace("127.0.0.1", name)
    endpoint = endpoint_at(base_url, loopback=loopback)
    client = BackendClient(registry(base_url, loopback=loopback))
    try:
        assert await post(client, endpoint) == answer
    finally:
        await client.aclose()
    assert backend.untaken(endpoint.path) == (1 if loopback else 0)


@pytest.mark.parametrize(
    "addresses",
    [
        ["169.254.169.254"],
        ["168.63.129.16"],
        ["127.0.0.1", "::1"],
        ["0.0.0.0"],
        ["fe80::1%2"],
        ["::ffff:169.254.169.254"],
        ["::ffff:127.0.0.1"],
        ["224.0.0.1", "ff02::1"],
    ],
)
async def test_a_host_name_with_only_forbidden_addresses_is_refused(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _resolve_to(monkeypatch, *addresses)
    resolver = GuardedResolver(registry("https://models.example.org", loopback=False))
    with pytest.raises(OSError, match="forbidden address"):
        await resolver.resolve("models.example.org", 443, socket.AF_UNSPEC)


async def test_forbidden_addresses_of_a_host_name_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    _resolve_to(monkeypatch, "169.254.169.254", "10.0.0.4", "::ffff:127.0.0.1", "fd00::4")
    resolver = GuardedResolver(registry("https://models.example.org", loopback=False))
    results = await resolver.resolve("models.example.org", 443, socket.AF_UNSPEC)
    assert [result["host"] for result in results] == ["10.0.0.4", "fd00::4"]


async def test_many_calls_at_once_share_the_connections(
    client: BackendClient, endpoint: Endpoint, backend: ScriptedBackend
) -> None:
    answers = await asyncio.gather(*(post(client, endpoint) for _ in range(200)))
    assert set(answers) == {Accepted()}
    assert backend.untaken(endpoint.path) == 200


def _resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every host name resolve to these addresses."""

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
            for address in (address.partition("%")[0] for address in addresses)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
