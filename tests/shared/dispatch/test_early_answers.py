"""A server may answer before it has read the request. Whatever it then does with the connection, the answer counts,
and nothing is left of it for the next call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import aiohttp.connector
import pytest

from shared.dispatch.backend_client import Accepted, BackendClient, Busy, Rejected, described
from tests.shared.dispatch.real_servers.servers import SERVERS, WITH_TLS, Certificate, Server
from tests.shared.dispatch.room import Room
from tests.shared.dispatch.talking_server import Pieces
from tests.shared.dispatch.test_backend_client import Outcome, registry
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.slow

SIZES = {"60 KB": 60_000, "300 KB": 300_000, "1 MB": 1_000_000, "15 MB": 15_000_000, "40 MB": 40_000_000}
REFUSALS: dict[int, type[Outcome]] = {503: Busy, 413: Rejected, 401: Rejected}
CALLS = 4
"""How many calls each cell of the table has, two at a time."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate that this process trusts from now on."""
    certificate = Certificate.make(tmp_path_factory.mktemp("certificate"))
    context: Any = aiohttp.connector._SSL_CONTEXT_VERIFIED  # pyright: ignore[reportPrivateUsage]
    context.load_verify_locations(certificate.certificate)
    return certificate


@pytest.fixture(scope="module", params=[*SERVERS, *(f"{name} with TLS" for name in WITH_TLS)])
def server(
    request: pytest.FixtureRequest, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    name, tls, _ = request.param.partition(" with TLS")
    with Server(name, tmp_path_factory.mktemp("server"), certificate if tls else None) as server:
        yield server


@pytest.mark.parametrize("size", SIZES)
async def test_every_refusal_of_an_unread_body_is_heard_as_what_it_is(
    server: Server, size: str, client: BackendClient
) -> None:
    async def some_calls(status: int) -> None:
        for _ in range(CALLS // 2):
            assert_refused(status, await call(client, server.base_url, f"/v1/refuse/{status}", SIZES[size]))

    for status in REFUSALS:
        await asyncio.gather(some_calls(status), some_calls(status))


async def test_tasks_are_accepted_between_refusals(server: Server, client: BackendClient) -> None:
    for size_bytes in (300, 60_000, 300_000):
        for status in REFUSALS:
            assert_refused(status, await call(client, server.base_url, f"/v1/refuse/{status}", size_bytes))
            assert await call(client, server.base_url, "/v1/take", size_bytes) == Accepted()


def assert_refused(status: int, answer: Outcome) -> None:
    assert isinstance(answer, REFUSALS[status])
    assert not isinstance(answer, Accepted)
    said = described(answer)
    assert said.startswith(f"answered {status}: ")
    assert said.endswith("refused by design")


async def call(client: BackendClient, base_url: str, path: str, size_bytes: int) -> Outcome:
    endpoint = registry(base_url, loopback=True).endpoint(path)
    headers = {"taskId": "7", "Content-Type": "image/png", "Content-Length": str(size_bytes)}
    body = bytes(size_bytes) if size_bytes <= 65_536 else Pieces(size_bytes)
    return await client.post(endpoint, headers, body, PATIENCE_S, Room())
