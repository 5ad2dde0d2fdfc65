"""Ours and the other task queues, on the same Redis server, in the same run.

Two networks: *near*, Redis at hand, and *far*, behind a delay line of 1 ms each way. One producer process, one worker
process, both running before anything is measured; the tasks do nothing or sleep 10 ms, their payload is 500 bytes.
The figures, for each peer and network:

- ``latency_median_ms``, ``latency_p95_ms``: one task at a time; from the producer's call to the end of the task's
  function in the worker, on one clock. What is recorded afterwards is not in it, for nobody.
- ``round_trips``: in that same phase, how often a client of either process sent something after an answer (see
  ``bench/delay_proxy.py``), by the number of tasks: what the network's delay is paid for, also for polls between.
  Counted far only.
- ``commands``: calls in ``INFO commandstats`` in that phase, by the number of tasks; those within scripts count.
  Counted near only.
- ``drain_10ms_per_s``: so many 10 ms tasks that 32 slots have 20 each (RQ: its one slot 100), enqueued while the
  worker is stopped (SIGSTOP); from the moment it goes on (SIGCONT) to the last one's end.
- ``enqueue_per_s``: no-op tasks, the worker stopped, until Redis has acknowledged them; a fixed time, or TASKS_MAX.
- ``drain_per_s``: the same tasks; from the moment the worker goes on to the last one's end. After a fixed time only
  those count that have ended by then, and the time is that one; if none has, the first one and its end. Far, a second
  producer that has Redis at hand adds as many as it can in the same time: there must be enough to do.
- ``waiting_bytes``, ``finished_bytes``: growth of ``used_memory``, without the buffers of clients and append-only
  file, for MEMORY_TASKS no-op tasks enqueued, and then done. Near only, in the first repeat: it does not vary.
- ``bulk_enqueue_per_s``: BullMQ's ``addBulk``. Beside the others, in no comparison.

The HTTP path has no worker to stop: its tasks are done while they are submitted, and ``drain_per_s`` goes from the
first submit to the last end. A quick run has no second producer, and leaves the HTTP path out far.

A clock begins before any work that it measures can begin. The worker does not tell when that is: the first task's
function begins only after the worker has fetched the task. A figure that cannot be (``require_plausible`` and
``Limits``) is not kept; that peer's run is repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import redis

from bench.delay_proxy import DelayProxy
from bench.harness import RAW, write_json
from bench.peers import ours_http
from bench.peers.catalogue import DOES, OURS, OURS_HTTP, OURS_PLAIN, PEERS, Peer
from bench.peers.side import PAYLOAD
from bench.plausibility import ImplausibleFigure, Limits, repeated_if_implausible, require
from local.azurite import Azurite
from local.processes import LocalStackError, free_port
from local.redis_server import RedisServer
from local.stack import Stack

ROOT = Path(__file__).parent.parent.parent
RESULTS = RAW / "peers.json"
ONE_WAY_S = 0.001
TASKS_MAX = 10_000
HTTP_TASKS_MAX = 1_000
SLEEP_S = 0.01
PATIENCE_S = 60
SETTLE_S = 0.05
PAYLOAD_BYTES_LEAST = int(len(PAYLOAD) * math.log2(len(set(PAYLOAD))) / 8)
"""What no compression can make the payload smaller than."""
TIMER_TOLERANCE = 1.1
"""Some timers end a moment early: those of Node.js up to 1 ms."""

Figures = dict[str, float]
RATES = ("enqueue_per_s", "drain_per_s", "drain_10ms_per_s")
HEADINGS = {
    "enqueue_per_s": "enqueue/s",
    "drain_per_s": "drain/s",
    "drain_10ms_per_s": "10 ms/s",
    "bulk_enqueue_per_s": "bulk/s",
    "latency_median_ms": "latency ms",
    "latency_p95_ms": "p95 ms",
    "round_trips": "trips",
    "commands": "commands",
    "waiting_bytes": "waiting B",
    "finished_bytes": "finished B",
}
DIGITS = {"latency_median_ms": 2, "latency_p95_ms": 2, "round_trips": 2, "commands": 1}


@dataclass(frozen=True)
class Extent:
    """How much is done."""

    repeats: int
    enqueue_s: float
    drain_s: float
    singles: int
    per_slot: int
    memory_tasks: int
    thorough: bool
    """Whether, far, a second producer helps and the HTTP path is measured."""


FULL = Extent(repeats=5, enqueue_s=1.0, drain_s=1.5, singles=40, per_slot=20, memory_tasks=2_000, thorough=True)
QUICK = Extent(repeats=1, enqueue_s=0.3, drain_s=0.4, singles=8, per_slot=3, memory_tasks=200, thorough=False)


class PeerFailed(Exception):
    """Raised when a peer's process has ended or does not answer."""


class Side:
    """A producer or a worker; see ``side.py``. Its code is that of *tree*."""

    def __init__(self, peer: Peer, role: str, address: str, log: Path, tree: Path = ROOT) -> None:
        self._name = f"{peer.name}'s {role}"
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [str(part) for part in (*peer.command(), role, address, *peer.arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=log.parent,
                env={**os.environ, "PYTHONPATH": str(tree), "PYTHONWARNINGS": "ignore"},
            )
        self.went_on_ns = 0
        """When it went on after it was stopped."""
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in cast("Iterator[str]", self._process.stdout):
            self._answers.put(json.loads(line))
        self._answers.put(None)

    def tell(self, **order: object) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerFailed(self._story("has ended")) from None

    def answer(self, within_s: float = PATIENCE_S) -> dict[str, Any]:
        try:
            answer = self._answers.get(timeout=within_s)
        except queue.Empty:
            raise PeerFailed(self._story(f"has not answered within {within_s:g} s")) from None
        if answer is None:
            raise PeerFailed(self._story(f"has ended (exit code {self._process.wait(PATIENCE_S)})"))
        return answer

    def enqueue(
        self, tasks: int, *, seconds: float = 0, limit_s: float = PATIENCE_S, **more: object
    ) -> dict[str, Any]:
        self.tell(tasks=tasks, seconds=seconds, limit_s=limit_s, **more)
        return self.answer(PATIENCE_S + limit_s)

    def expect(self, tasks: int) -> None:
        """Begin to count; returns when the worker has heard it, since it may be stopped next."""
        self.tell(expect=tasks, reset=True)
        while "expecting" not in self.answer():
            pass  # an answer to what was expected before, that came too late

    def expect_only(self, tasks: int) -> None:
        """As many of those that are counted already."""
        self.tell(expect=tasks, reset=False)

    def done(self, within_s: float) -> dict[str, Any]:
        """What was expected; what there is of it after *within_s*, which then counts in full."""
        try:
            return self._answers.get(timeout=within_s) or self.answer(0)
        except queue.Empty:
            up_ns = time.monotonic_ns()
            self.expect_only(1)
            answer = self.answer()
            return {**answer, "end_ns": max(answer["end_ns"], up_ns)}

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It stands still, and can begin no task. `went_on_ns` is taken just before it goes on."""
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)  # the signal does not stop all of its threads at once
        try:
            yield
        finally:
            self.went_on_ns = time.monotonic_ns()
            os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _story(self, what: str) -> str:
        tail = self._log.read_text(errors="replace").splitlines()[-12:]
        return "\n  ".join([f"{self._name} {what}.", *tail])


class Server:
    """The Redis server that all share, and what it tells of itself."""

    def __init__(self, port: int, proxy: DelayProxy) -> None:
        self.port, self.proxy = port, proxy
        self.client = redis.Redis(port=port, decode_responses=True)
        self.limits = Limits.of_redis(port, len(PAYLOAD))

    def commands(self) -> int:
        stats = cast("dict[str, Any]", self.client.info("commandstats"))
        return sum(row["calls"] for name, row in stats.items() if name != "cmdstat_info")

    def data_bytes(self) -> int:
        """The memory in use for data, once it does not change any more."""
        before = -1
        deadline_s = time.monotonic() + 3
        while True:
            # The clients' part in INFO is up to a second old.
            with self.client.pipeline() as both:
                both.info("memory")
                both.client_list()
                memory, clients = cast("Any", both.execute())
            clients_bytes = sum(int(client["tot-mem"]) for client in clients)
            now = memory["used_memory"] - clients_bytes - memory["mem_aof_buffer"]
            if abs(now - before) < 1024 or time.monotonic() > deadline_s:
                return now
            before = now
            time.sleep(SETTLE_S)

    def round_trips_ms(self, port: int) -> list[float]:
        with redis.Redis(port=port) as client:
            took_ms: list[float] = []
            for _ in range(50):
                begin_s = time.perf_counter()
                client.ping()
                took_ms.append((time.perf_counter() - begin_s) * 1000)
        return took_ms


def measure(
    peer: Peer, server: Server, far: bool, extent: Extent, directory: Path, first: bool, tree: Path = ROOT
) -> Figures:
    """One peer in one network, and its versions as ``versions``.

    Raises:
        ImplausibleFigure: one of the figures cannot be.
    """
    server.client.flushall()
    port = server.proxy.port if far else server.port
    least_latency_ms = min(server.round_trips_ms(port))
    log = directory / f"{peer.name}.log"
    with ExitStack() as cleanup:
        if peer is OURS_HTTP:
            addresses = cleanup.enter_context(_stack(server.port, port, directory))
        else:
            roles = {"producer": port, "worker": port}
            if far and extent.thorough:
                roles["near producer"] = server.port
            addresses = {role: f"redis://127.0.0.1:{its_port}" for role, its_port in roles.items()}
        sides = {role: Side(peer, role.split()[-1], address, log, tree) for role, address in addresses.items()}
        for side in sides.values():
            cleanup.callback(side.kill)
        versions: dict[str, str] = {}
        for side in sides.values():
            versions |= side.answer()["ready"]
        producer, worker = sides["producer"], sides["worker"]
        worker.expect(1)
        producer.enqueue(1)
        worker.done(PATIENCE_S)
        figures = one_at_a_time(producer, worker, server, far, extent)
        if peer is OURS_HTTP:
            figures |= all_at_once(producer, worker, server.limits, extent)
        else:
            near_producer = sides.get("near producer", producer)
            figures |= sleeping(near_producer, worker, peer, server.limits, extent)
            if first and not far:
                figures |= memory(producer, worker, server, extent)
            figures |= rates(producer, near_producer, worker, server.limits, extent, bulk=peer.name == "BullMQ")
    require_plausible(peer, figures, least_latency_ms)
    return figures | cast("Figures", {"versions": versions})


def one_at_a_time(producer: Side, worker: Side, server: Server, far: bool, extent: Extent) -> Figures:
    took_ms: list[float] = []
    time.sleep(SETTLE_S)
    commands, turnarounds = server.commands(), server.proxy.turnarounds
    for _ in range(extent.singles):
        worker.expect(1)
        begin_ns = producer.enqueue(1)["begin_ns"]
        done = worker.answer()
        took_ms.append((done["end_ns"] - begin_ns) / 1e6)
    time.sleep(SETTLE_S)  # what is recorded after the last one
    costs = (
        {"round_trips": (server.proxy.turnarounds - turnarounds) / extent.singles}
        if far
        else {"commands": (server.commands() - commands) / extent.singles}
    )
    p95_ms = statistics.quantiles(took_ms, n=20, method="inclusive")[-1]
    return {"latency_median_ms": statistics.median(took_ms), "latency_p95_ms": p95_ms, **costs}


def sleeping(producer: Side, worker: Side, peer: Peer, limits: Limits, extent: Extent) -> Figures:
    tasks = extent.per_slot * (peer.slots if peer.slots > 1 else 5)
    worker.expect(tasks)
    with worker.stopped():
        producer.enqueue(tasks, seconds=SLEEP_S)
    return {"drain_10ms_per_s": _drain_rate(worker, worker.answer(), limits)}


def memory(producer: Side, worker: Side, server: Server, extent: Extent) -> Figures:
    tasks = extent.memory_tasks
    worker.expect(tasks)
    with worker.stopped():
        before = server.data_bytes()
        producer.enqueue(tasks)
        waiting = server.data_bytes()
    worker.answer()
    finished = server.data_bytes()
    return {"waiting_bytes": (waiting - before) / tasks, "finished_bytes": (finished - before) / tasks}


def rates(producer: Side, near_producer: Side, worker: Side, limits: Limits, extent: Extent, bulk: bool) -> Figures:
    worker.expect(TASKS_MAX)
    with worker.stopped():
        enqueued = producer.enqueue(TASKS_MAX, limit_s=extent.enqueue_s)
        waiting = enqueued["count"]
        if near_producer is not producer:
            waiting += near_producer.enqueue(TASKS_MAX - waiting, limit_s=extent.enqueue_s)["count"]
        worker.expect_only(waiting)
    done = worker.done(extent.drain_s)
    figures = {
        "enqueue_per_s": _rate("enqueued", enqueued, limits),
        "drain_per_s": _drain_rate(worker, done, limits),
    }
    if bulk:
        with worker.stopped():
            enqueued = producer.enqueue(TASKS_MAX, limit_s=extent.enqueue_s, bulk=True)
        figures["bulk_enqueue_per_s"] = _rate("enqueued in bulk", enqueued, limits)
    return figures


def all_at_once(producer: Side, worker: Side, limits: Limits, extent: Extent) -> Figures:
    figures: Figures = {}
    for seconds, figure in ((SLEEP_S, "drain_10ms_per_s"), (0, "drain_per_s")):
        worker.expect(HTTP_TASKS_MAX)
        enqueued = producer.enqueue(HTTP_TASKS_MAX, seconds=seconds, limit_s=extent.enqueue_s)
        if enqueued["count"] < HTTP_TASKS_MAX:
            worker.expect_only(enqueued["count"])
        done = worker.answer()
        figures[figure] = _rate("submitted and done", {**done, "begin_ns": enqueued["begin_ns"]}, limits)
        figures["enqueue_per_s"] = _rate("submitted", enqueued, limits)
    return figures


def require_plausible(peer: Peer, figures: Figures, least_latency_ms: float) -> None:
    """What the rates' clocks cannot show; for these see `Limits`.

    Parameters:
        least_latency_ms: the fastest round trip to Redis. A task needs as much: it goes to Redis, then to the worker.

    Raises:
        ImplausibleFigure: one of the figures cannot be.
    """
    least = {
        "latency_median_ms": least_latency_ms,
        "round_trips": 1,  # the producer sends something
        "commands": 1,
        "waiting_bytes": PAYLOAD_BYTES_LEAST,
        "finished_bytes": PAYLOAD_BYTES_LEAST if peer.keeps_finished else -math.inf,
    }
    for figure, bound in least.items():
        value = figures.get(figure, math.inf)
        require(value >= bound, f"{HEADINGS[figure]} is {value:,.3f}, and cannot be less than {bound:,.3f}")
    if peer is not OURS_HTTP:  # its model service takes any number of tasks at a time
        most = peer.slots / SLEEP_S * TIMER_TOLERANCE
        value = figures.get("drain_10ms_per_s", 0)
        require(value <= most, f"{value:,.0f} tasks of 10 ms a second, and {peer.slots} slots cannot do {most:,.0f}")


@contextmanager
def _stack(redis_port: int, seen_port: int, directory: Path) -> Iterator[dict[str, str]]:
    """The local stack on the running Redis; the addresses of the two sides."""
    port = free_port()
    with (
        tempfile.TemporaryDirectory(dir=directory, ignore_cleanup_errors=True) as place,
        Azurite(Path(place) / "azurite", in_memory=True) as azurite,
        Stack(
            Path(place),
            redis=RedisServer(Path(place) / "redis", redis_port),
            azurite=azurite,
            with_model=False,
            backends={ours_http.PATH: f"http://127.0.0.1:{port}"},
            settings={"REDIS_CONNECTION_STRING": f"redis://127.0.0.1:{seen_port}"},
        ) as stack,
    ):
        app = {"url": stack.url, "key": stack.key}
        yield {"producer": json.dumps(app), "worker": json.dumps({**app, "port": port})}


def _rate(what: str, answer: dict[str, Any], limits: Limits) -> float:
    return limits.rate(what, answer["count"], (answer["end_ns"] - answer["begin_ns"]) / 1e9)


def _drain_rate(worker: Side, done: dict[str, Any], limits: Limits) -> float:
    """From the moment the worker went on: it can have fetched no task, and begun none, before.

    From the beginning of the first task's function it would be more than was worked off. One task alone would be
    "drained" in the microseconds that a function of no work takes.
    """
    return _rate("drained", {**done, "begin_ns": worker.went_on_ns}, limits)


def run(
    quick: bool,
    redis_port: int | None = None,
    only: Sequence[str] = (),
    tree: Path = ROOT,
    results: Path = RESULTS,
) -> dict[str, Any]:
    """Measure, write it to the file *results*, and return what is in it.

    Parameters:
        redis_port: a Redis server of this machine, which is emptied; None starts one.
        only: the names of those to measure, whatever their case; empty for all.
        tree: where the producers' and the workers' code is, another revision of this project for example.
    """
    extent = QUICK if quick else FULL
    chosen = [
        peer
        for peer in (OURS, OURS_PLAIN, OURS_HTTP, *PEERS)
        if not only or peer.name.lower() in map(str.lower, only)
    ]
    for peer in chosen:
        peer.command()  # installs it before anything is measured
    values: dict[str, dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    versions: dict[str, dict[str, str]] = {}
    failures: dict[str, str] = {}
    implausible: list[str] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place, ExitStack() as cleanup:
        if redis_port is None:
            redis_port = cleanup.enter_context(RedisServer(Path(place) / "redis")).port
        proxy = cleanup.enter_context(DelayProxy(redis_port, one_way_s=ONE_WAY_S))
        server = Server(redis_port, proxy)
        ports = {"near": redis_port, "far": proxy.port}
        round_trips_ms = {name: statistics.median(server.round_trips_ms(port)) for name, port in ports.items()}
        for repeat in range(extent.repeats):
            turn = repeat * len(chosen) // extent.repeats
            for peer in chosen[turn:] + chosen[:turn]:
                for network in ("near",) if peer is OURS_HTTP and not extent.thorough else ("near", "far"):
                    key = f"{peer.name} {network}"
                    try:
                        begin_s = time.monotonic()
                        figures = repeated_if_implausible(
                            key,
                            lambda peer=peer, far=network == "far", first=repeat == 0: measure(
                                peer, server, far, extent, Path(place), first, tree
                            ),
                        )
                        versions[peer.name] = cast("dict[str, str]", figures.pop("versions"))
                        print(f"{key}, {time.monotonic() - begin_s:.1f} s", file=sys.stderr, flush=True)
                    except (PeerFailed, LocalStackError, ImplausibleFigure) as failure:
                        if isinstance(failure, ImplausibleFigure):
                            implausible.append(str(failure))
                        failures[f"{key}, repeat {repeat + 1}"] = str(failure)
                        print(f"{key} failed: {failure}", file=sys.stderr, flush=True)
                        continue
                    for figure, value in figures.items():
                        values[peer.name].setdefault(f"{network}_{figure}", [None] * extent.repeats)[repeat] = value
        about = cast("dict[str, Any]", server.client.info("server"))
    result = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "extent": vars(extent),
        "definitions": __doc__,
        "versions": {
            "python": sys.version.split()[0],
            "server": f"{about.get('server_name', 'redis')} {about.get('valkey_version', about['redis_version'])}",
            **versions,
        },
        "server_settings": "append-only file, synced each second; no snapshots; loopback",
        "round_trip_ms": round_trips_ms,
        "load_average": os.getloadavg()[0],
        "settings": {peer.name: peer.settings for peer in chosen},
        "does": {peer.name: dict(zip(DOES, peer.does, strict=True)) for peer in chosen},
        "figures": {name: {figure: _summary(of) for figure, of in rows.items()} for name, rows in values.items()},
        "ratios": ratios(values, chosen),
        "failures": failures,
        "implausible": implausible,
    }
    write_json(results, result)
    return result


def _summary(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {"median": statistics.median(known), "min": min(known), "max": max(known), "repeats": list(values)}


def ratios(values: dict[str, dict[str, list[float | None]]], peers: Sequence[Peer]) -> list[dict[str, Any]]:
    """Each figure of ours by the best peer's of the same repeat: of a rate the highest, of a cost the lowest.

    Bytes are compared with the peers that keep as much, which is not all of them.
    """
    others = [peer for peer in peers if peer not in (OURS, OURS_PLAIN, OURS_HTTP)]
    found: list[dict[str, Any]] = []
    for mine in (OURS, OURS_PLAIN, OURS_HTTP):
        for figure, own in values.get(mine.name, {}).items():
            kind = figure.partition("_")[2]
            rivals = [
                peer.name
                for peer in others
                if figure in values[peer.name]
                and (kind != "waiting_bytes" or peer.keeps_waiting)
                and (kind != "finished_bytes" or peer.keeps_finished)
            ]
            best = max if kind in RATES else min
            each: list[float] = []
            named: list[str] = []
            for repeat, value in enumerate(own):
                theirs = {name: values[name][figure][repeat] for name in rivals}
                known = {name: value for name, value in theirs.items() if value is not None}
                if value is None or not known:
                    continue
                winner = best(known, key=lambda name: known[name])
                named.append(winner)
                each.append(value / known[winner])
            if each:
                summary = _summary(each)
                name = f"{mine.name}: {figure} ÷ the best peer's"
                found.append({"name": name, "of": mine.name, "figure": figure, "best": named, **summary})
    return found


def samples(result: dict[str, Any]) -> dict[str, list[float]]:
    """What the project is measured by, a number for each repeat, under the harness's names.

    Of the enqueue and the end-to-end rate the lower ratio counts, of waiting and finished tasks the larger.
    """
    own = result["figures"].get(OURS.name, {})
    by_figure = {ratio["figure"]: ratio["repeats"] for ratio in result["ratios"] if ratio["of"] == OURS.name}

    def of_both(pick: Any, *figures: str) -> list[float]:
        return [pick(pair) for pair in zip(*(by_figure.get(figure, ()) for figure in figures), strict=True)]

    return {
        "peers": of_both(min, "near_enqueue_per_s", "near_drain_per_s"),
        "peers_far": of_both(min, "far_enqueue_per_s", "far_drain_per_s"),
        "round_trips": [value for value in own.get("far_round_trips", {}).get("repeats", ()) if value is not None],
        "bytes": of_both(max, "near_waiting_bytes", "near_finished_bytes"),
    }


def table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) if not index else cell.rjust(width) for index, (cell, width) in enumerate(line))
        for line in (list(zip(row, widths, strict=True)) for row in rows)
    )


def report(result: dict[str, Any]) -> str:
    figures: dict[str, dict[str, dict[str, float]]] = result["figures"]

    def cell(name: str, figure: str) -> str:
        of = figures[name].get(figure)
        if of is None:
            return "-"
        digits = DIGITS.get(figure.partition("_")[2], 0)
        spread = (of["max"] - of["min"]) / 2 / of["median"]
        return f"{of['median']:,.{digits}f}" + (f" ±{spread:.0%}" if spread else "")

    parts: list[str] = []
    for network, trip_ms in result["round_trip_ms"].items():
        here = [name for name, of in figures.items() if f"{network}_enqueue_per_s" in of]
        shown = [figure for figure in HEADINGS if any(f"{network}_{figure}" in rows for rows in figures.values())]
        rows = [
            [network, *(HEADINGS[figure] for figure in shown)],
            *([name, *(cell(name, f"{network}_{f}") for f in shown)] for name in here),
        ]
        parts.append(
            f"Redis {network}: {trip_ms:.2f} ms a round trip. Medians, and half their spread.\n{table(rows)}"
        )
    rows = [["ours ÷ the best peer's", "median", "min", "max", "best peer"]]
    for ratio in result["ratios"]:
        numbers = [f"{ratio[key]:.2f}" for key in ("median", "min", "max")]
        rows.append(
            [ratio["name"].removesuffix(" ÷ the best peer's"), *numbers, ", ".join(dict.fromkeys(ratio["best"]))]
        )
    parts.append(table(rows))
    for name, does in result["does"].items():
        text = "; ".join(f"{what}: {how}" for what, how in does.items())
        parts.append(textwrap.fill(f"{name} ({result['settings'][name]}): {text}.", 118, subsequent_indent="    "))
    parts += [f"FAILED {what}: {why}" for what, why in result["failures"].items()]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer tasks, once: whether it works, not how fast")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="such as ours RQ BullMQ")
    parser.add_argument("--redis-port", type=int, help="a server of this machine to use, which is emptied")
    parser.add_argument("--tree", type=Path, default=ROOT, help="measure the producers and workers of this tree")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file that is written")
    options = parser.parse_args()
    result = run(options.quick, options.redis_port, options.only, options.tree, options.results)
    print(report(result))
    sys.exit(1 if result["failures"] else 0)


if __name__ == "__main__":
    main()
