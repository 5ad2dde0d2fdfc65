"""The emulator as a process, used through the Azure SDK: crashes, and a clean end."""

import asyncio
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from azure.core.credentials import AzureKeyCredential, AzureSasCredential
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridEvent, EventGridPublisherClient, generate_sas
from azure.eventgrid.aio import EventGridPublisherClient as AsyncEventGridPublisherClient

from local.event_grid.server import listen
from local.processes import ChildProcess, LocalStackError
from local.stack import Stack
from tests.local.event_grid_stand import EVENTS_PATH, KEY, WAIT_S, Subscriber, a_subscriber, event
from tests.waiting import PATIENCE_S, until

SUBSCRIPTION = "/control/topics/tasks/subscriptions/worker"


def an_emulator(log_path: Path, *options: str | Path) -> ChildProcess:
    module = [sys.executable, "-m", "local.event_grid"]
    command = [*module, "--topic", "Tasks", "--key", KEY, *options]
    return ChildProcess("Event Grid emulator", command, log_path=log_path)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChildProcess]:
    """An emulator that the tests of this module share; each test has its own subscription."""
    with an_emulator(tmp_path_factory.mktemp("event_grid") / "log") as process:
        yield process


@pytest.fixture
async def subscriber(emulator: ChildProcess, request: pytest.FixtureRequest):
    """A subscriber to the events whose subject is the name of the test."""
    subject = request.node.name
    async with a_subscriber() as subscriber, a_control(emulator) as control:
        await subscribe(control, subscriber, subjectBeginsWith=subject)
        yield subscriber
        await control.delete(SUBSCRIPTION)


def a_control(emulator: ChildProcess) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=emulator.url, timeout=2 * WAIT_S)


async def drain(control: httpx.AsyncClient) -> httpx.Response:
    return await control.post("/control/drain", json={"timeoutSeconds": WAIT_S})


async def subscribe(control: httpx.AsyncClient, subscriber: Subscriber, **settings: Any) -> None:
    (await control.put(SUBSCRIPTION, json={"endpoint": subscriber.url, **settings})).raise_for_status()
    await until_active(control)


async def until_active(control: httpx.AsyncClient) -> None:
    async with asyncio.timeout(WAIT_S):
        while (await control.get(SUBSCRIPTION)).json()["state"] != "Active":  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def an_sdk_event(subject: str, **data: Any) -> EventGridEvent:
    return EventGridEvent(subject=subject, event_type="task", data=data, data_version="1.0")


async def test_synchronous_sdk_publishes_events(emulator: ChildProcess, subscriber: Subscriber, request: Any):
    with EventGridPublisherClient(emulator.url + EVENTS_PATH, AzureKeyCredential(KEY)) as client:
        await asyncio.to_thread(client.send, [an_sdk_event(request.node.name, number=1)])
    await subscriber.until(1)
    assert subscriber.events[0]["data"] == {"number": 1}
    assert subscriber.events[0]["topic"].endswith("/topics/Tasks")


async def test_asynchronous_sdk_publishes_events(emulator: ChildProcess, subscriber: Subscriber, request: Any):
    async with AsyncEventGridPublisherClient(emulator.url + EVENTS_PATH, AzureKeyCredential(KEY)) as client:
        await client.send([an_sdk_event(request.node.name, number=number) for number in range(3)])
    await subscriber.until(3)
    assert sorted(received["data"]["number"] for received in subscriber.events) == [0, 1, 2]


async def test_sdk_publishes_cloud_events(emulator: ChildProcess, subscriber: Subscriber, request: Any):
    published = CloudEvent(
        source="/gateway",
        type="task",
        subject=request.node.name,
        data=b"\x00\xff",
        extensions={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    )
    async with AsyncEventGridPublisherClient(emulator.url + EVENTS_PATH, AzureKeyCredential(KEY)) as client:
        await client.send(published)
    await subscriber.until(1)
    (received,) = subscriber.events
    assert CloudEvent.from_dict(received).data == published.data
    assert received["traceparent"] == (published.extensions or {})["traceparent"]


async def test_sdk_publishes_with_a_token(emulator: ChildProcess, subscriber: Subscriber, request: Any):
    endpoint = emulator.url + EVENTS_PATH
    token = generate_sas(endpoint, KEY, datetime.now(UTC) + timedelta(hours=1))
    async with AsyncEventGridPublisherClient(endpoint, AzureSasCredential(token)) as client:
        await client.send(an_sdk_event(request.node.name))
    await subscriber.until(1)


async def test_sdk_raises_the_same_errors_as_for_the_real_service(emulator: ChildProcess):
    endpoint = emulator.url + EVENTS_PATH
    async with AsyncEventGridPublisherClient(endpoint, AzureKeyCredential("wrong")) as client:
        with pytest.raises(ClientAuthenticationError):
            await client.send(an_sdk_event("/"))
    async with AsyncEventGridPublisherClient(endpoint, AzureKeyCredential(KEY)) as client:
        with pytest.raises(HttpResponseError) as refusal:
            await client.send(an_sdk_event("/", body="x" * 1_600_000))
        assert refusal.value.status_code == 413
        assert refusal.value.error and refusal.value.error.code == "RequestEntityTooLarge"


async def test_lost_publish_response_closes_the_connection(
    emulator: ChildProcess, subscriber: Subscriber, request: Any
):
    async with a_control(emulator) as control:
        await control.post("/control/faults", json={"losePublishResponse": {"next": 1}})
    async with AsyncEventGridPublisherClient(emulator.url + EVENTS_PATH, AzureKeyCredential(KEY)) as client:
        with pytest.raises((ServiceRequestError, ServiceResponseError)):
            await client.send(an_sdk_event(request.node.name, number=1), retry_total=0)
        await client.send(an_sdk_event(request.node.name, number=2))
    await subscriber.until(2)
    assert sorted(received["data"]["number"] for received in subscriber.events) == [1, 2]


async def test_advancing_a_running_clock_is_refused(emulator: ChildProcess):
    async with a_control(emulator) as control:
        response = await control.post("/control/clock/advance", json={"seconds": 1})
    assert (response.status_code, response.json()["error"]["code"]) == (409, "Conflict")


async def test_stopped_clock_is_advanced_by_the_control_api(tmp_path: Path):
    with an_emulator(tmp_path / "log", "--time-scale", "0") as emulator:
        async with a_subscriber() as subscriber, a_control(emulator) as control:
            await subscribe(control, subscriber)
            await control.post("/control/faults", json={"jitter": 0})
            subscriber.answers.append(500)
            await publish(control, [event()])
            await drain(control)
            await control.post("/control/clock/advance", json={"seconds": 10})
            await subscriber.until(2)


async def test_scaled_clock_shortens_the_retry_schedule(tmp_path: Path):
    # An event lives for a day, a minute and a half here: enough for six attempts on an overloaded machine.
    with an_emulator(tmp_path / "log", "--time-scale", "1000") as emulator:
        async with a_subscriber() as subscriber, a_control(emulator) as control:
            await subscribe(control, subscriber)
            subscriber.answers.extend([500] * 5)
            await publish(control, [event()])
            await subscriber.until(6)
            assert subscriber.notifications[-1].delivery_count == 5


async def publish(control: httpx.AsyncClient, batch: list[dict[str, Any]]) -> None:
    response = await control.post(
        EVENTS_PATH, json=batch, params={"api-version": "2018-01-01"}, headers={"aeg-sas-key": KEY}
    )
    response.raise_for_status()


async def test_crash_loses_no_accepted_event(tmp_path: Path):
    numbers = [str(number) for number in range(250)]
    emulator = an_emulator(tmp_path / "log", "--data-dir", tmp_path / "data")
    async with a_subscriber() as subscriber:
        with emulator:
            async with a_control(emulator) as control:
                await subscribe(control, subscriber)
                subscriber.hangs = True
                for number in numbers:
                    await publish(control, [event(number)])
            emulator.kill()
        subscriber.hangs = False
        subscriber.requests.clear()
        with emulator:
            await until(lambda: set(subscriber.ids) == set(numbers))
            assert all(request.kind == "Notification" for request in subscriber.requests), "no new handshake"
            async with a_control(emulator) as control:
                assert (await drain(control)).json() == {"drained": True}
        subscriber.requests.clear()
        with emulator:
            async with a_control(emulator) as control:
                assert (await control.get("/control/stats")).json()["pending"] == 0
        assert subscriber.ids == [], "delivered events are not delivered again"


async def test_attempt_counts_and_pending_handshakes_survive_a_crash(tmp_path: Path):
    options = ("--data-dir", tmp_path / "data", "--time-scale", "0")
    emulator = an_emulator(tmp_path / "log", *options)
    async with a_subscriber() as subscriber, a_subscriber() as successor:
        with emulator:
            async with a_control(emulator) as control:
                await subscribe(control, subscriber)
                subscriber.answers.append(500)
                await publish(control, [event()])
                await drain(control)
                successor.handshakes.append(lambda _: web.Response(status=503))
                await control.put(SUBSCRIPTION, json={"endpoint": successor.url})
                await successor.until(1, "SubscriptionValidation")
            emulator.kill()
        with emulator:
            async with a_control(emulator) as control:
                await until_active(control)
                await control.post("/control/clock/advance", json={"seconds": 12})
            await successor.until(1)
            assert successor.notifications[0].delivery_count == 1
            assert len(subscriber.notifications) == 1


async def test_second_emulator_does_not_start_on_the_same_data(tmp_path: Path):
    with (
        an_emulator(tmp_path / "log", "--data-dir", tmp_path / "data"),
        pytest.raises(LocalStackError, match="database is locked"),
    ):
        an_emulator(tmp_path / "second log", "--data-dir", tmp_path / "data").start()


def test_files_with_keys_are_readable_by_their_owner_only(tmp_path: Path):
    with an_emulator(tmp_path / "log", "--data-dir", tmp_path / "data"):
        assert {file.stat().st_mode & 0o777 for file in (tmp_path / "data").iterdir()} == {0o600}


def test_sigterm_ends_the_emulator_cleanly(tmp_path: Path):
    emulator = an_emulator(tmp_path / "log")
    emulator.start()
    assert emulator.stop() == 0


@pytest.mark.parametrize(
    "options",
    [
        ("--topic", "a/b"),
        ("--time-scale", "-1"),
        ("--port", "x"),
        ("--key", ""),
        ("--key", "not-base64"),
    ],
    ids=str,
)
def test_invalid_option_ends_the_emulator_at_once(tmp_path: Path, options: tuple[str, str]):
    with pytest.raises(LocalStackError, match=options[0]):
        an_emulator(tmp_path / "log", *options).start()


def test_emulator_listens_on_the_loopback_interface_only():
    listener, url = listen(0)
    with listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        assert url == f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/control/faults", "/CONTROL/drain", "/control/clock/advance"])
def test_a_page_of_another_site_cannot_use_the_control_api(
    emulator: ChildProcess, headers: dict[str, str], path: str
) -> None:
    url = f"{emulator.url}{path}"
    given = {**headers, "Content-Type": "text/plain"}
    assert httpx.post(url, headers=given, content=b"{}", timeout=PATIENCE_S).status_code == 403
    own = {"Sec-Fetch-Site": "none"}
    assert httpx.get(f"{emulator.url}/control/stats", headers=own, timeout=PATIENCE_S).status_code == 200


def test_the_stack_shows_no_key_in_the_arguments_of_a_process(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "stack")
    secrets = {stack.key, stack.app_environment["EVENT_GRID_KEY"], stack.azurite.connection_string}
    arguments = " ".join(vars(stack.event_grid)["_command"])
    assert not [secret for secret in secrets if secret in arguments]


def test_the_key_may_come_by_the_environment(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "local.event_grid", "--topic", "Tasks"]
    emulator = ChildProcess(
        "Event Grid emulator", command, log_path=tmp_path / "log", environment={"EVENT_GRID_EMULATOR_KEY": KEY}
    )
    with emulator:
        for key, status in ((KEY, 200), ("b3RoZXI=", 401)):
            answer = httpx.post(
                f"{emulator.url}/tasks/api/events?api-version=2018-01-01",
                headers={"aeg-sas-key": key},
                json=[event("1")],
                timeout=PATIENCE_S,
            )
            assert answer.status_code == status


def test_nobody_else_reads_what_a_stack_keeps(tmp_path: Path) -> None:
    directory = tmp_path / "stack"
    directory.mkdir(mode=0o755)
    Stack(directory)
    assert directory.stat().st_mode & 0o077 == 0
