"""The limits of the development host: host.json limits requests, the host itself limits the bytes of bodies."""

from __future__ import annotations

import asyncio
from typing import Any

import azure.functions as func
import httpx
import pytest

from local.functions_host import FunctionsHost, HostError, Limits, create_host
from tests.local.functions_host_apps import KEYS, MASTER, client, http_app


class Held:
    """A host with a function that runs until the test releases it."""

    def __init__(self, limits: Limits | None = None, **http: object) -> None:
        self.running = 0
        self.release = asyncio.Event()

        async def held(req: func.HttpRequest) -> func.HttpResponse:
            self.running += 1
            await self.release.wait()
            return func.HttpResponse(str(len(req.get_body())))

        async def big(req: func.HttpRequest) -> func.HttpResponse:
            return func.HttpResponse(bytes(int(req.params["size"])))

        self.host: FunctionsHost = create_host(
            http_app(held, big), keys=KEYS, host_json={"extensions": {"http": http}}, limits=limits
        )
        self.http = client(self.host)

    async def start(self, count: int, **request: Any) -> list[asyncio.Task[httpx.Response]]:
        """Sends *count* requests, and returns when each is answered, running or queued."""
        calls = [asyncio.ensure_future(self.http.post("/api/held", **request)) for _ in range(count)]
        for _ in range(100):
            await asyncio.sleep(0)
        return calls


async def statuses(calls: list[asyncio.Task[httpx.Response]]) -> list[int]:
    return [response.status_code for response in await asyncio.gather(*calls)]


async def test_requests_beyond_the_concurrency_limit_are_queued() -> None:
    held = Held(maxConcurrentRequests=2, maxOutstandingRequests=4)
    calls = await held.start(4)
    assert held.running == 2
    held.release.set()
    assert await statuses(calls) == [200] * 4


async def test_request_beyond_the_outstanding_limit_is_429_until_there_is_room() -> None:
    held = Held(maxConcurrentRequests=1, maxOutstandingRequests=2)
    calls = await held.start(2)
    refused = await held.http.post("/api/held")
    assert (refused.status_code, refused.content) == (429, b"")
    assert "retry-after" not in refused.headers
    assert (await held.http.get("/admin/host/status", headers=MASTER)).status_code == 200
    held.release.set()
    assert await statuses(calls) == [200] * 2
    assert (await held.http.post("/api/held")).status_code == 200


async def test_requests_are_unlimited_if_host_json_sets_no_limits() -> None:
    held = Held()
    calls = await held.start(300)
    assert held.running == 300
    held.release.set()
    assert set(await statuses(calls)) == {200}


@pytest.mark.parametrize("name", ["maxOutstandingRequests", "maxConcurrentRequests"])
@pytest.mark.parametrize("value", [0, -2, "5", 1.5, True, None])
async def test_invalid_limit_stops_the_start(name: str, value: object) -> None:
    with pytest.raises(HostError, match=name):
        Held(**{name: value})


async def test_body_without_room_is_429_and_its_room_is_released() -> None:
    held = Held(Limits(buffered_bytes=10))
    calls = await held.start(1, content=bytes(6))
    assert (await held.http.post("/api/held", content=bytes(5))).status_code == 429
    calls += await held.start(1, content=bytes(4))
    held.release.set()
    assert await statuses(calls) == [200, 200]
    assert (await held.http.post("/api/held", content=bytes(10))).text == "10"


async def test_large_response_without_room_is_429() -> None:
    held = Held(Limits(buffered_bytes=200_000))
    calls = await held.start(1, content=bytes(100_000))
    assert (await held.http.get("/api/big?size=100001")).status_code == 429
    assert (await held.http.get("/api/big?size=100000")).status_code == 200
    held.release.set()
    await statuses(calls)
    assert (await held.http.get("/api/big?size=200000")).status_code == 200
