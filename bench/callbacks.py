"""Callbacks whose destination is in trouble: what is lost, what is taken that nobody has signed, and what it costs
the dispatches beside.

The deliveries are the app's own, with its client and a real server. Time is the bench's: an hour of pauses passes at
once, and the receiver judges timestamps by that clock.

What dispatches cost more beside a dead destination is less than a machine's speed varies from one second to the next.
It is measured as :func:`beside_and_without` says.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import secrets
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal, cast

import redis

from bench.commands import open_redis
from bench.harness import Figure, Report, ratios, with_spread
from bench.plausibility import require
from cache_manager.callback_schemas import body_of
from local.processes import free_port
from local.redis_server import RedisServer
from shared.dispatch.backend_client import Completed, ResultRoom
from shared.dispatch.callback_client import CallbackAnswer, CallbackClient, signed_headers
from shared.dispatch.deliveries import LAST_PROBE_S, Deliveries
from shared.dispatch.destinations import Destination
from shared.dispatch.registry import Endpoint
from shared.services import Services
from shared.settings import Settings
from shared.store.callbacks import DestinationState
from shared.store.redis.partitions import HASH_TAGS
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
WITHOUT: Final = "nothing"
BESIDE: Final = "a dead destination"


@dataclass(frozen=True, slots=True)
class Extent:
    """
    Attributes:
        tasks: that end in an hour of trouble.
        waiting: for a destination that is dead.
        slice: tasks that are dispatched beside, in a turn.
        turns: of each side, in a pair.
        pairs: in a batch.
    """

    tasks: int
    waiting: int
    slice: int
    turns: int
    pairs: int
    batches: int


WHOLE: Final = Extent(tasks=1_000, waiting=10_000, slice=64, turns=24, pairs=10, batches=8)
QUICK: Final = Extent(tasks=60, waiting=500, slice=64, turns=4, pairs=12, batches=1)


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


def compose(url: str, port: int, secret: str, clock: Callable[[], int] | None, name: str = "hook") -> Services:
    destination = {"url": f"http://127.0.0.1:{port}/hook", "secret_setting": "HOOK_SECRET"}
    settings = Settings.from_env(
        {
            "REDIS_CONNECTION_STRING": url,
            "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
            "BACKENDS": '{"/v1": "https://models.example.org"}',
            "ALLOW_LOOPBACK_BACKENDS": "true",
            "CALLBACKS": json.dumps({name: destination}),
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


class Side:
    """A process of the app that takes tasks from create to completed, and has a destination that is down.

    Its event loop runs during its own slices only: what it does beside them, by timers too, another's do not pay for.

    Args:
        name: that of the destination.
    """

    def __init__(self, server: RedisServer, client: redis.Redis, name: str) -> None:
        self._redis = client
        self._name = name
        self._clock = Clock()
        self._runner = asyncio.Runner()
        self._services = compose(server.url, free_port(), new_secret(), None, name)
        self._client = CallbackClient(self._services.registry)
        # By a clock that is put on, since a minute lies between probes. All else has the true time.
        self._deliveries = Deliveries(
            self._services.settings,
            self._services.destinations,
            self._services.store.callbacks,
            self._client,
            self._clock,
            self._services.dispatcher.start,
            self._services.wakes,
        )
        self._deliveries.body_of = body_of

    def slice_s(self, tasks: int, *, has_round: bool) -> float:
        """The CPU time of so many tasks, this process' and Redis', perhaps with a round of deliveries beside and with
        a probe, if anything waits. What else this machine does makes a task take longer, and costs it little."""
        began_s = time.process_time() + redis_cpu_s(self._redis)
        self._runner.run(self._take(tasks, has_round=has_round))
        return time.process_time() + redis_cpu_s(self._redis) - began_s

    def completed(self) -> int:
        depth = self._runner.run(self._services.store.queues.depths(PATH)).get(PATH)
        return depth.completed if depth else 0

    def state(self) -> DestinationState:
        return self._runner.run(self._services.store.callbacks.state(self._name))

    def close(self) -> None:
        self._runner.run(self._services.aclose())
        self._runner.run(self._client.aclose())
        self._runner.close()

    async def _take(self, tasks: int, *, has_round: bool) -> None:
        mark = secrets.token_hex(4)

        async def work(numbers: range) -> None:
            for number in numbers:
                created = await self._services.store.create(new_task(f"{mark}-{number}", is_told=False))
                assert isinstance(created, Created)
                await self._services.dispatcher.dispatch(created.task.id, 1)

        async def deliver() -> None:
            self._clock.ms += round(LAST_PROBE_S * 1000)
            await self._deliveries.round()

        callers = [work(range(start, tasks, 32)) for start in range(32)]
        await asyncio.gather(*callers, *([deliver()] if has_round else []))
        await settled(self._services)


@contextmanager
def put_aside(client: redis.Redis) -> Iterator[None]:
    """Without what waits: the tasks stay, and nothing says that they are to be told."""

    def rename(before: str, after: str) -> None:
        pipeline = client.pipeline(transaction=False)
        for tag in HASH_TAGS:
            for index in ("calls:hook", "owed"):
                pipeline.renamenx(f"{tag}{index}{before}", f"{tag}{index}{after}")
        require(all(pipeline.execute()), "what waits was put aside, and nothing waits anew")

    rename("", ":aside")
    yield
    rename(":aside", "")


def beside_and_without(server: RedisServer, extent: Extent) -> dict[str, list[float]]:
    """The costs in µs of a task beside what waits and without it, pair by pair.

    The sides of a pair take turns many times a second, in the same process and with the same tasks in the same Redis:
    what slows the machine down slows both. Beside each pair's dispatches are a round and a probe, which the app has
    every few seconds and once a minute. Each batch of pairs has sides of its own, as one may be slower than its twin
    by how it lies in memory.
    """
    costs: dict[str, list[float]] = {WITHOUT: [], BESIDE: []}
    with server.connect() as client:
        for batch in range(extent.batches):
            sides = {what: Side(server, client, "hook" if what == BESIDE else "other") for what in in_turn(batch)}
            try:
                # The first loads what is loaded at first use, and finds that nobody answers.
                for pair in [_pair_us(sides, client, extent, number) for number in range(extent.pairs + 1)][1:]:
                    for what, cost_us in pair.items():
                        costs[what].append(cost_us)
                waiting = sides[BESIDE].state().waiting
                require(waiting == extent.waiting, f"{waiting} tasks wait, not {extent.waiting}")
            finally:
                for side in sides.values():
                    side.close()
    return costs


def _pair_us(sides: Mapping[str, Side], client: redis.Redis, extent: Extent, number: int) -> dict[str, float]:
    costs_s = dict.fromkeys(sides, 0.0)
    began_ms, completed = time.time_ns() // 1_000_000, sides[WITHOUT].completed()
    gc.collect()
    for turn in range(extent.turns):
        for what in in_turn(number + turn):
            with put_aside(client) if what == WITHOUT else nullcontext():
                costs_s[what] += sides[what].slice_s(extent.slice, has_round=turn == 0)
    completed = sides[WITHOUT].completed() - completed
    taken = extent.slice * extent.turns
    require(completed == 2 * taken, f"{completed} of {2 * taken} tasks have completed")
    tried_ms = sides[BESIDE].state().last_tried_ms
    require(tried_ms is not None and tried_ms >= began_ms, "each pair has a probe")
    return {what: cost_s / taken * 1e6 for what, cost_s in costs_s.items()}


def in_turn(number: int) -> Sequence[str]:
    return (WITHOUT, BESIDE) if number % 2 == 0 else (BESIDE, WITHOUT)


def redis_cpu_s(client: redis.Redis) -> float:
    used = cast("dict[str, float]", client.info("cpu"))
    return used["used_cpu_user"] + used["used_cpu_sys"]


def run(quick: bool) -> list[Figure]:
    extent = QUICK if quick else WHOLE
    report = Report("callbacks", quick=quick, settings=asdict(extent))
    logging.getLogger("task_backbone").setLevel(logging.ERROR)
    with (
        tempfile.TemporaryDirectory() as name,
        # Nothing is written to disk, which costs now more and now less.
        RedisServer(Path(name), extra_arguments=["--appendonly", "no"]) as server,
    ):
        outcomes = {mode: asyncio.run(trouble(server.url, mode, extent.tasks)) for mode in MODES}
        server.flush()
        asyncio.run(wait_in_vain(server.url, extent.waiting))
        with as_in_the_app():
            costs = beside_and_without(server, extent)
    report.table(
        f"{extent.tasks:,} tasks that end in an hour of trouble",
        ["receiver", "lost", "forged ones taken", "told twice", "connections in the hour"],
        [(mode, *outcome) for mode, outcome in outcomes.items()],
    )
    report.table(
        f"CPU time of a task, create to completed, the app's and Redis', pairs of {extent.slice * extent.turns:,}",
        ["what waits", "µs"],
        [(what, with_spread(samples)) for what, samples in costs.items()],
    )
    report.figure(Figure.of("callbacks_lost", [sum(lost for lost, *_ in outcomes.values())]))
    report.figure(Figure.of("callbacks_forged", [sum(forged for _, forged, *_ in outcomes.values())]))
    report.figure(Figure.of("callbacks_rate", ratios(costs[WITHOUT], costs[BESIDE]), is_of_pairs=True))
    return report.finish(costs_us=costs)


@contextmanager
def as_in_the_app() -> Iterator[None]:
    """The garbage collector, as function_app.py sets it."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(5_000)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    run(parser.parse_args().quick)
