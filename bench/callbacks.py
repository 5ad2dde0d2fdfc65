"""Callbacks whose destination is in trouble: what is lost, what is taken that nobody has signed, and what it costs
the dispatches beside.

The deliveries are the app's own, with its client and a real server. Time is the bench's: an hour of pauses passes at
once, and the receiver judges timestamps by that clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import secrets
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, cast

from bench.commands import open_redis
from bench.harness import Figure, Report, ratios, side_by_side, with_spread
from bench.plausibility import require
from cache_manager.callback_schemas import body_of
from local.processes import free_port
from local.redis_server import RedisServer
from shared.dispatch.backend_client import Completed, ResultRoom
from shared.dispatch.callback_client import CallbackAnswer, CallbackClient, signed_headers
from shared.dispatch.destinations import Destination
from shared.dispatch.registry import Endpoint
from shared.services import Services
from shared.settings import Settings
from shared.tasks.callback import ENDS, WantedCallback
from shared.tasks.outcomes import Applied, Created
from shared.tasks.task import Content, NewTask, State
from tests.cache_manager.process import KeepingPublisher
from tests.callback_receiver import Receiver, new_secret

Mode = Literal["down", "slow", "500", "resets", "up"]
MODES: Final[tuple[Mode, ...]] = ("down", "slow", "500", "resets")
PATH: Final = "/v1/bench/model"
HOUR_S: Final = 3600.0
ROUND_S: Final = 5.0
SLOW_S: Final = 0.02
BODY: Final = b"x" * 500
FORGERIES: Final = 50


class Clock:
    def __init__(self) -> None:
        self.ms = time.time_ns() // 1_000_000

    def __call__(self) -> int:
        return self.ms


class Server:
    """A receiver on a port that it opens and closes."""

    def __init__(self, secret: str, clock: Clock) -> None:
        self.receiver = Receiver(secret, now_ms=clock)
        self.port = free_port()
        self.mode: Mode = "down"
        self.connections = 0
        self._server: asyncio.Server | None = None

    async def turn(self, mode: Mode) -> None:
        self.mode = mode
        if mode == "down":
            await self.aclose()
        elif self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = (line.partition(":") for line in head[1:] if line)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            body = await reader.readexactly(int(headers["content-length"]))
            if self.mode == "resets":
                writer.transport.abort()
                return
            if self.mode == "slow":
                await asyncio.sleep(SLOW_S)
            answer = CallbackAnswer("500") if self.mode == "500" else await self.receiver.post("", headers, body)
            writer.write(f"HTTP/1.1 {answer.text} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


def compose(url: str, port: int, secret: str, clock: Callable[[], int] | None) -> Services:
    destination = {"url": f"http://127.0.0.1:{port}/hook", "secret_setting": "HOOK_SECRET"}
    settings = Settings.from_env(
        {
            "REDIS_CONNECTION_STRING": url,
            "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
            "BACKENDS": '{"/v1": "https://models.example.org"}',
            "ALLOW_LOOPBACK_BACKENDS": "true",
            "CALLBACKS": json.dumps({"hook": destination}),
            "HOOK_SECRET": secret,
        }
    )
    link, publisher = open_redis(url).link, KeepingPublisher()
    services = Services.compose(settings, link=link, publisher=publisher, transport=Instant(), now_ms=clock)
    services.deliveries.body_of = body_of
    return services


class Instant:
    """A model service that answers each dispatch with the result."""

    async def post(
        self,
        endpoint: Endpoint,
        headers: dict[str, str],
        body: bytes | AsyncIterable[bytes],
        timeout_s: float,
        room: ResultRoom,
    ) -> Completed:
        return Completed("completed", "text/plain", "", b"ok")

    async def aclose(self) -> None:
        return


def new_task(task_id: str, *, is_told: bool) -> NewTask:
    """One that is told of is ended by hand; the others are dispatched."""
    callback = WantedCallback("hook", ENDS) if is_told else None
    content = Content("text/plain", len(BODY))
    return NewTask(
        task_id, PATH, 600, body=content, inline_body=BODY, callback=callback, dispatch_requested=not is_told
    )


async def end(services: Services, task_id: str) -> None:
    outcome = await services.store.update(task_id, state=State.COMPLETED, status="completed")
    assert isinstance(outcome, Applied)
    await services.dispatcher.after_transition(outcome)


async def settled(services: Services) -> None:
    while background := [*services.dispatcher._background]:
        await asyncio.wait(background)


@asynccontextmanager
async def served(url: str, clock: Clock) -> AsyncGenerator[tuple[Server, Services]]:
    secret = new_secret()
    server = Server(secret, clock)
    services = compose(url, server.port, secret, clock)
    try:
        yield server, services
    finally:
        await services.aclose()
        await server.aclose()


async def trouble(url: str, mode: Mode, tasks: int) -> tuple[int, int, int, int]:
    """Of *tasks* that end within an hour in which the receiver is so: how many it was never told of, how many forged
    messages it took, how many messages came twice, and how many connections the hour has cost."""
    clock = Clock()
    async with served(url, clock) as (server, services):
        await server.turn(mode)
        rounds = round(HOUR_S / ROUND_S)
        for number in range(rounds):
            for task in range(tasks * number // rounds, tasks * (number + 1) // rounds):
                await services.store.create(new_task(f"{mode}-{task}", is_told=True))
                await end(services, f"{mode}-{task}")
            clock.ms += round(ROUND_S * 1000)
            await services.deliveries.round()
            await settled(services)
        connections = server.connections
        forged = await forgeries(services, server, clock)
        await server.turn("up")
        # Pauses are an hour at most, and so is what a message may have waited for its next try.
        for _ in range(80):
            clock.ms += 60_000
            await services.deliveries.round()
            await settled(services)
        told = {document["TaskId"] for document in server.receiver.documents}
        state = await services.store.callbacks.state("hook")
    require(len(told) <= tasks, f"{len(told)} tasks were told of, of {tasks}")
    require(mode != "down" or connections == 0, "a receiver that is down was connected to")
    return tasks - len(told) + state.waiting + state.given_up, forged, server.receiver.repeated, connections


async def forgeries(services: Services, server: Server, clock: Clock) -> int:
    """How many messages the receiver takes that the app has not signed so, or not now."""
    await server.turn("up")
    client = CallbackClient(services.registry)
    known = services.destinations.by_name["hook"]
    others = replace(known, keys=[secrets.token_bytes(24)])
    now_s, taken = clock() // 1000, 0

    async def is_taken(destination: Destination, at_s: int, change: Mapping[str, str], sent: bytes) -> bool:
        body = b'{"TaskId": "forged"}'
        headers = {**signed_headers(destination, "msg_forged", body, at_s), **change}
        answer = await client.post(known.url, headers, sent or body)
        require(answer.text in ("204", "401"), f"the receiver was asked, and answered {answer.text}")
        return answer.is_taken

    for _ in range(FORGERIES):
        taken += await is_taken(others, now_s, {}, b"")
        taken += await is_taken(known, now_s - 3600, {}, b"")
        taken += await is_taken(known, now_s, {}, b'{"TaskId": "another"}')
        taken += await is_taken(known, now_s, {"webhook-id": "msg_another"}, b"")
        taken += await is_taken(known, now_s, {"webhook-signature": "v1,"}, b"")
    await client.aclose()
    return taken


async def wait_in_vain(url: str, waiting: int) -> None:
    """So many tasks wait for a destination that is down."""
    services = compose(url, free_port(), new_secret(), None)
    await asyncio.gather(*(_told(services, range(start, waiting, 32)) for start in range(32)))
    await settled(services)
    state = await services.store.callbacks.state("hook")
    require(state.waiting == waiting, f"{state.waiting} of {waiting} tasks wait")
    await services.aclose()


async def _told(services: Services, numbers: range) -> None:
    for number in numbers:
        await services.store.create(new_task(f"waiting-{number}", is_told=True))
        await end(services, f"waiting-{number}")


async def cost_us(server: RedisServer, tasks: int) -> float:
    """The CPU time of a task from create to completed, this process' and Redis', with a round of deliveries every
    half second. What else this machine does makes a task take longer, and costs it nothing."""
    services, mark = compose(server.url, free_port(), new_secret(), None), secrets.token_hex(4)

    async def rounds() -> None:
        while True:
            await services.deliveries.round()
            await asyncio.sleep(0.5)

    async def work(numbers: range) -> None:
        for number in numbers:
            created = await services.store.create(new_task(f"{mark}-{number}", is_told=False))
            assert isinstance(created, Created)
            await services.dispatcher.dispatch(created.task.id, 1)

    before = (await services.store.queues.depths(PATH))[PATH].completed
    beside = asyncio.ensure_future(rounds())
    began_s = time.process_time() + redis_cpu_s(server)
    await asyncio.gather(*(work(range(start, tasks, 32)) for start in range(32)))
    beside.cancel()
    await asyncio.gather(beside, return_exceptions=True)
    await settled(services)
    took_s = time.process_time() + redis_cpu_s(server) - began_s
    completed = (await services.store.queues.depths(PATH))[PATH].completed - before
    require(completed == tasks, f"{completed} of {tasks} tasks have completed")
    require(took_s > 0, "a dispatch costs something")
    await services.aclose()
    return took_s / tasks * 1e6


def redis_cpu_s(server: RedisServer) -> float:
    with server.connect() as client:
        used = cast("dict[str, float]", client.info("cpu"))
    return used["used_cpu_user"] + used["used_cpu_sys"]


def run(quick: bool) -> list[Figure]:
    tasks, dispatched, waiting, repeats = (60, 600, 100, 2) if quick else (1_000, 2_000, 10_000, 5)
    sizes = {"tasks": tasks, "dispatched": dispatched, "waiting": waiting, "repeats": repeats}
    report = Report("callbacks", quick=quick, settings=sizes)
    logging.getLogger("task_backbone").setLevel(logging.ERROR)
    with (
        tempfile.TemporaryDirectory() as name,
        RedisServer(Path(name) / "a") as idle,
        RedisServer(Path(name) / "b") as busy,
    ):
        outcomes = {mode: asyncio.run(trouble(busy.url, mode, tasks)) for mode in MODES}
        busy.flush()
        asyncio.run(wait_in_vain(busy.url, waiting))
        costs = side_by_side(
            repeats,
            {
                "nothing": lambda: asyncio.run(cost_us(idle, dispatched)),
                "a dead destination": lambda: asyncio.run(cost_us(busy, dispatched)),
            },
        )
    report.table(
        f"{tasks:,} tasks that end in an hour of trouble",
        ["receiver", "lost", "forged ones taken", "told twice", "connections in the hour"],
        [(mode, *outcome) for mode, outcome in outcomes.items()],
    )
    report.table(
        "CPU time of a task, create to completed, the app's and Redis'",
        ["what waits", "µs"],
        [(what, with_spread(samples)) for what, samples in costs.items()],
    )
    report.figure(Figure.of("callbacks_lost", [sum(lost for lost, *_ in outcomes.values())]))
    report.figure(Figure.of("callbacks_forged", [sum(forged for _, forged, *_ in outcomes.values())]))
    report.figure(Figure.of("callbacks_rate", ratios(costs["nothing"], costs["a dead destination"])))
    return report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    run(parser.parse_args().quick)
