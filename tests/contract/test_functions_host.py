"""What the Functions host answers before the app is asked, for both APIs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from urllib.parse import urlsplit

import pytest

from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from local.stack import Stack
from tests.conftest import IN_A_HURRY
from tests.contract.v1_support import new_path, raw_request
from tests.scripted_backend import ScriptedBackend
from tests.waiting import eventually

BODY_LIMIT_BYTES = 200_000
OUTSTANDING = 3
UPSERT = "/api/CacheConnectorUpsert"


@pytest.fixture(scope="module")
def narrow(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[Stack]:
    """A stack whose host takes small bodies and few requests."""
    with Stack(
        tmp_path_factory.mktemp("narrow"),
        redis=redis_server,
        azurite=azurite,
        backends={"/v1/test": backend.url},
        with_model=False,
        settings=IN_A_HURRY
        | {
            "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": str(BODY_LIMIT_BYTES),
            "AzureFunctionsJobHost__extensions__http__maxOutstandingRequests": str(OUTSTANDING),
        },
    ) as stack:
        yield stack


def begin(stack: Stack) -> socket.socket:
    """A submit whose body does not come."""
    address = urlsplit(stack.url)
    connection = socket.create_connection((address.hostname, address.port))
    head = f"POST /api/v1/submit{new_path()} HTTP/1.1\r\nHost: localhost\r\nx-functions-key: {stack.key}\r\n"
    connection.sendall(f"{head}Content-Length: 1\r\n\r\n".encode())
    return connection


@pytest.mark.contract("B0.20")
@pytest.mark.parametrize("target", ["submit", UPSERT])
def test_body_over_the_limit_of_the_host_is_500_and_ends_the_connection(target: str, narrow: Stack) -> None:
    target = f"/api/v1/submit{new_path()}" if target == "submit" else target
    status, headers, body = raw_request(narrow, "POST", target, body=bytes(BODY_LIMIT_BYTES + 1))
    assert (status, body, headers["connection"]) == (500, b"", "close")
    status, _, _ = raw_request(narrow, "POST", f"/api/v1/submit{new_path()}", body=bytes(BODY_LIMIT_BYTES))
    assert status == 202


@pytest.mark.contract("B0.21")
def test_more_requests_than_the_host_takes_are_429_without_a_word(narrow: Stack) -> None:
    with ExitStack() as begun:
        for _ in range(OUTSTANDING):
            begun.enter_context(closing(begin(narrow)))
        status, headers, body = eventually(lambda: refusal(narrow))
    assert (status, body) == (429, b"")
    assert "retry-after" not in headers
    assert eventually(lambda: refusal(narrow) is None)


def refusal(stack: Stack) -> tuple[int, dict[str, str], bytes] | None:
    """The answer to a report, if the host refuses it."""
    answer = raw_request(stack, "POST", UPSERT, body=b"{}")
    return answer if answer[0] == 429 else None


@pytest.mark.contract("B0.22")
@pytest.mark.parametrize("written", ["/./model", "/model/../model", "/%2e/x/%2E%2e/model"])
def test_dot_segments_are_resolved_before_the_app_is_asked(
    written: str, stack: Stack, backend: ScriptedBackend
) -> None:
    path = new_path()
    status, _, _ = raw_request(stack, "POST", f"/api/v1/submit{path}{written}", body=b"{}")
    assert status == 202
    assert backend.next_call(f"{path}/model").path == f"{path}/model"


@pytest.mark.contract("B0.22")
@pytest.mark.parametrize("target", ["/api/v1/submit/v1/test/model%00", "/api/v1/tasks/%00", "/api/v1/queues/a%00b"])
def test_nul_in_a_path_is_400_without_a_body(target: str, stack: Stack) -> None:
    status, headers, body = raw_request(stack, "POST", target, body=b"{}")
    assert (status, body) == (400, b"")
    assert "content-type" not in headers
