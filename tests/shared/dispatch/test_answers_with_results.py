"""Answers of model services that are the result of the task (contract B15)."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shared.dispatch.backend_client import (
    Accepted,
    Answer,
    BackendClient,
    Busy,
    Completed,
    Erred,
    Rejected,
)
from shared.dispatch.registry import BackendRegistry, Endpoint
from shared.resilience.limits import Overloaded
from shared.settings import Settings, SettingsError
from tests.scripted_backend import Answer as Scripted
from tests.scripted_backend import ScriptedBackend
from tests.shared.dispatch.room import Room
from tests.shared.dispatch.talking_server import Talk, talking_server
from tests.waiting import PATIENCE_S

MIB = 1024 * 1024


def endpoint_at(url: str, **entry: Any) -> Endpoint:
    settings = Settings.model_validate(
        {
            "redis_connection_string": "redis://127.0.0.1",
            "event_grid_topic_uri": "https://topic.example.org/api/events",
            "backends": {"/v1": {"url": url, **entry}},
            "allow_loopback_backends": True,
        }
    )
    return BackendRegistry(settings).endpoint(f"/v1/{uuid.uuid4().hex}")


async def post(
    client: BackendClient, endpoint: Endpoint, room: Room | None = None, timeout_s: float = PATIENCE_S
) -> Answer:
    headers = {"taskId": "7", "Content-Type": "text/plain", "Content-Length": "4"}
    return await client.post(endpoint, headers, b"body", timeout_s, room or Room())


@pytest.mark.contract("B15.2")
@pytest.mark.parametrize("status", [200, 201, 202])
async def test_an_answer_that_says_so_is_the_result(
    client: BackendClient, backend: ScriptedBackend, status: int
) -> None:
    endpoint = endpoint_at(backend.url)
    headers = {"X-Task-Complete": "6%20W%C3%B6rter", "Content-Type": "image/png", "Content-Encoding": "gzip"}
    backend.script(endpoint.path, Scripted(status, headers, b"picture"))
    assert await post(client, endpoint) == Completed("6 Wörter", "image/png", "gzip", b"picture")


@pytest.mark.contract("B15.2")
@pytest.mark.parametrize("status", [400, 429, 500, 503])
async def test_a_refusal_is_no_result_whatever_it_says(
    client: BackendClient, backend: ScriptedBackend, status: int
) -> None:
    endpoint = endpoint_at(backend.url, answer="result")
    backend.script(endpoint.path, Scripted(status, {"X-Task-Complete": "done"}, b"picture"))
    assert not isinstance(await post(client, endpoint), (Accepted, Completed))


@pytest.mark.contract("B15.3")
@pytest.mark.parametrize(
    ("headers", "completed"),
    [
        ({}, Completed("completed", "application/octet-stream", "", b"picture")),
        ({"Content-Type": "image/png"}, Completed("completed", "image/png", "", b"picture")),
        ({"X-Task-Complete": "done"}, Completed("done", "application/octet-stream", "", b"picture")),
        ({"X-Task-Complete": "%ff"}, Completed("completed", "application/octet-stream", "", b"picture")),
        ({"Content-Type": "x" * 256}, Completed("completed", "application/octet-stream", "", b"picture")),
        ({"Content-Encoding": "no coding!"}, Completed("completed", "application/octet-stream", "", b"picture")),
    ],
)
async def test_each_acceptance_of_a_backend_that_answers_results_is_one(
    client: BackendClient, backend: ScriptedBackend, headers: dict[str, str], completed: Completed
) -> None:
    endpoint = endpoint_at(backend.url, answer="result")
    backend.script(endpoint.path, Scripted(200, headers, b"picture"))
    assert await post(client, endpoint) == completed
    backend.script(endpoint.path, Scripted(204))
    assert await post(client, endpoint) == Completed("completed", "application/octet-stream", "", b"")


@pytest.mark.contract("B15.2")
async def test_the_connection_serves_the_next_call(client: BackendClient) -> None:
    connections: list[int] = []

    async def answer(talk: Talk) -> None:
        while True:
            await talk.request()
            connections.append(talk.number)
            await talk.say(b"HTTP/1.1 200 OK\r\nX-Task-Complete: \r\nContent-Length: 3\r\n\r\npng")

    async with talking_server(answer) as url:
        endpoint = endpoint_at(url)
        for _ in range(3):
            assert isinstance(await post(client, endpoint), Completed)
    assert connections == [1, 1, 1]


@pytest.mark.contract("B15.4")
@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 100", b"Transfer-Encoding: chunked"],
    ids=["known length", "chunked"],
)
async def test_an_answer_that_breaks_off_is_a_failure(client: BackendClient, head: bytes) -> None:
    async def break_off(talk: Talk) -> None:
        await talk.request()
        await talk.say(b"HTTP/1.1 200 OK\r\nX-Task-Complete: \r\n" + head + b"\r\n\r\n3\r\npng")

    async with talking_server(break_off) as url:
        assert await post(client, endpoint_at(url)) == Erred("broke off its answer")


async def _stay_silent(talk: Talk) -> None:
    await talk.say(b"HTTP/1.1 200 OK\r\nX-Task-Complete: \r\nContent-Length: 100\r\n\r\npng")
    await talk.reader.read()


async def _drip(talk: Talk) -> None:
    await talk.say(b"HTTP/1.1 200 OK\r\nX-Task-Complete: \r\nContent-Length: 1000000\r\n\r\n")
    while True:
        await talk.say(b"x")
        await asyncio.sleep(0.01)


@pytest.mark.contract("B15.4")
@pytest.mark.parametrize("go_on", [_stay_silent, _drip])
async def test_an_answer_that_does_not_end_in_time_is_a_failure(
    client: BackendClient, go_on: Callable[[Talk], Awaitable[None]]
) -> None:
    async def answer(talk: Talk) -> None:
        await talk.request()
        await go_on(talk)

    async with talking_server(answer) as url:
        answered = await post(client, endpoint_at(url), timeout_s=0.5)
    assert answered == Erred("did not end its answer in time")


@pytest.mark.contract("B15.5")
async def test_a_result_that_is_too_large_is_not_read_to_its_end(client: BackendClient) -> None:
    said_bytes = 0

    async def answer(talk: Talk) -> None:
        nonlocal said_bytes
        await talk.request()
        await talk.say(b"HTTP/1.1 200 OK\r\nX-Task-Complete: \r\nContent-Length: 100000000\r\n\r\n")
        while said_bytes < 100_000_000:
            await talk.say(bytes(100_000))
            said_bytes += 100_000

    room = Room(most_bytes=MIB)
    async with talking_server(answer) as url:
        assert await post(client, endpoint_at(url), room) == Rejected(f"answered with more than {MIB} bytes")
    assert room.taken_bytes <= MIB
    assert said_bytes < 100_000_000


@pytest.mark.contract("B15.2")
async def test_a_result_takes_its_room_and_not_more(client: BackendClient, backend: ScriptedBackend) -> None:
    endpoint = endpoint_at(backend.url, answer="result")
    for size_bytes, taken_bytes in ((0, 0), (65_536, 0), (65_537, MIB), (65_536 + 2 * MIB, 2 * MIB)):
        backend.script(endpoint.path, Scripted(body=bytes(size_bytes)))
        room = Room()
        answer = await post(client, endpoint, room)
        assert isinstance(answer, Completed)
        assert (len(answer.data), room.taken_bytes) == (size_bytes, taken_bytes)
    with pytest.raises(Overloaded):
        await post(client, endpoint, Room(free_bytes=MIB))


@pytest.mark.contract("B15.7")
async def test_a_backend_may_have_its_own_words_for_busy(client: BackendClient, backend: ScriptedBackend) -> None:
    endpoint = endpoint_at(backend.url, busy=[409, 507])
    for status in (409, 429, 503, 507):
        backend.script(endpoint.path, Scripted(status, {"Retry-After": "7"}))
        assert await post(client, endpoint) == Busy(7)
    other = endpoint_at(backend.url)
    backend.script(other.path, Scripted(409))
    assert await post(client, other) == Rejected("answered 409")


@pytest.mark.contract("B15.3", "B15.7")
@pytest.mark.parametrize("entry", [{"busy": [200]}, {"busy": 409}, {"busy": ["full"]}, {"answer": "maybe"}])
def test_a_bad_entry_is_refused_at_start(entry: dict[str, Any]) -> None:
    environ = {
        "REDIS_CONNECTION_STRING": "redis://127.0.0.1",
        "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
        "BACKENDS": json.dumps({"/v1": {"url": "http://models.example.org", **entry}}),
    }
    with pytest.raises(SettingsError, match="BACKENDS"):
        Settings.from_env(environ)
