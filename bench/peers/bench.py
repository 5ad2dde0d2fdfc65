"""Ours and the other task queues, on the same Redis server, in the same run.

There are two networks: *near*, with Redis on the same machine, and *far*, with Redis behind a delay line of 1 ms each
way. One producer process and one worker process run before anything is measured. The tasks do nothing or sleep 10 ms;
their payload is 500 bytes. The figures, for each peer and network:

- ``latency_median_ms``, ``latency_p95_ms``: one task at a time; from the producer's call to the end of the task's
  function in the worker, on one clock. No peer's latency includes what it records afterwards.
- ``round_trips``: in the same phase, how often a client of either process sent something after an answer (see
  ``bench/delay_proxy.py``), divided by the number of tasks. Polls between the tasks count. Far only.
- ``commands``: calls in ``INFO commandstats`` in that phase, divided by the number of tasks. Those within scripts
  count. Near only.
- ``drain_10ms_per_s``: 50 tasks of 10 ms for each of 32 slots (250 for RQ's one slot), enqueued while the worker is
  stopped (SIGSTOP); from the time when it continues (SIGCONT) to the end of the last one. Within this time, ours
  finds how many slots there are.
- ``enqueue_per_s``: no-op tasks until Redis has acknowledged them, while the worker is stopped; for a fixed time, or
  up to TASKS_MAX tasks.
- ``drain_per_s``: the same tasks; from the time when the worker continues to the end of the last one. After a fixed
  time only the tasks that have ended count, with that time; if none has, the first one and its end count. Far, a
  second producer with Redis on the same machine adds as many as it can in the same time, so that there is enough
  work.
- ``waiting_bytes``, ``finished_bytes``: growth of ``used_memory``, without the buffers of clients and append-only
  file, for MEMORY_TASKS no-op tasks, enqueued and later done. Near only, in the first repeat: it does not vary.
- ``bulk_enqueue_per_s``: BullMQ's ``addBulk``. It is shown, but not compared.

The HTTP path has no worker to stop: its tasks are done while others are submitted, and ``drain_per_s`` is from the
first submit to the last end. A quick run has no second producer, and no HTTP path far.

A clock begins before any work that it measures can begin. The worker cannot report that time: the function of the
first task begins only after the worker has fetched the task. Impossible figures (``require_plausible`` and
``Limits``) are not kept; that peer's run is repeated.
"""

from __future__ import annotations

import argparse
import ctypes
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
_SET_TIMER_SLACK = 29
"""``PR_SET_TIMERSLACK`` of ``prctl``, in ns."""
TASKS_MAX = 10_000
HTTP_TASKS_MAX = 1_000
SLEEP_S = 0.01
PATIENCE_S = 60
SETTLE_S = 0.05
WARM_UP_S = 0.5
"""What follows the first task is over by then: our consumer's first check finds that the queue's state is new, and
rebuilds it once from the records."""
PAYLOAD_BYTES_LEAST = int(len(PAYLOAD) * math.log2(len(set(PAYLOAD))) / 8)
"""No compression can make the payload smaller than this."""
TIMER_TOLERANCE = 1.1
"""Some timers end early: those of Node.js up to 1 ms."""

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
    """The extent of the measurement."""

    repeats: int
    enqueue_s: float
    drain_s: float
    singles: int
    per_slot: int
    memory_tasks: int
    thorough: bool
    """Whether there are a second producer and the HTTP path in the far network."""


FULL = Extent(repeats=5, enqueue_s=1.0, drain_s=1.5, singles=40, per_slot=50, memory_tasks=2_000, thorough=True)
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
        self.continued_ns = 0
        """The time when the process continued after a stop."""
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in cast("Iterator[str]", self._process.stdout):
            self._answers.put(json.loads(line))
        self._answers.put(None)

    def send(self, **order: object) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerFailed(self._with_log("has ended")) from None

    def answer(self, within_s: float = PATIENCE_S) -> dict[str, Any]:
        try:
            answer = self._answers.get(timeout=within_s)
        except queue.Empty:
            raise PeerFailed(self._with_log(f"has not answered within {within_s:g} s")) from None
        if answer is None:
            raise PeerFailed(self._with_log(f"has ended (exit code {self._process.wait(PATIENCE_S)})"))
        return answer

    def enqueue(
        self, tasks: int, *, seconds: float = 0, limit_s: float = PATIENCE_S, **more: object
    ) -> dict[str, Any]:
        self.send(tasks=tasks, seconds=seconds, limit_s=limit_s, **more)
        return self.answer(PATIENCE_S + limit_s)

    def expect(self, tasks: int) -> None:
        """Begin to count; return when the worker has confirmed it, since it may be stopped next."""
        self.send(expect=tasks, reset=True)
        while "expecting" not in self.answer():
            pass  # a late answer to an earlier order

    def expect_only(self, tasks: int) -> None:
        """Expect *tasks* tasks, including those that are counted already."""
        self.send(expect=tasks, reset=False)

    def done(self, within_s: float) -> dict[str, Any]:
        """The count and the end of the expected tasks, or of those that have ended after *within_s*."""
        try:
            return self._answers.get(timeout=within_s) or self.answer(0)
        except queue.Empty:
            up_ns = time.monotonic_ns()
            self.expect_only(1)
            answer = self.answer()
            return {**answer, "end_ns": max(answer["end_ns"], up_ns)}

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the process, so that it can begin no task. `continued_ns` is taken just before it continues."""
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)  # the signal does not stop all of its threads at once
        try:
            yield
        finally:
            self.continued_ns = time.monotonic_ns()
            os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _with_log(self, what: str) -> str:
        tail = self._log.read_text(errors="replace").splitlines()[-12:]
        return "\n  ".join([f"{self._name} {what}.", *tail])


class Server:
    """The Redis server that all peers share, and its statistics."""

    def __init__(self, port: int, proxy: DelayProxy) -> None:
        self.port, self.proxy = port, proxy
        self.client = redis.Redis(port=port, decode_responses=True)
        self.limits = Limits.of_redis(port, len(PAYLOAD))

    def commands(self) -> int:
        stats = cast("dict[str, Any]", self.client.info("commandstats"))
        return sum(row["calls"] for name, row in stats.items() if name != "cmdstat_info")

    def data_bytes(self) -> int:
        """The memory in use for data, once it no longer changes."""
        before = -1
        deadline_s = time.monotonic() + 3
        while True:
            # The memory of clients in INFO is up to a second old.
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

    def round_trip_ms(self, port: int) -> float:
        return statistics.median(self.round_trips_ms(port))

    def delay_exactly(self) -> None:
        """Let the delay line wait as much less as it takes itself: far is ``2 * ONE_WAY_S`` farther than near."""
        for _ in range(3):
            added_s = (self.round_trip_ms(self.proxy.port) - self.round_trip_ms(self.port)) / 1000
            self.proxy.one_way_s = max(0.0, self.proxy.one_way_s + ONE_WAY_S - added_s / 2)

    def round_trips_ms(self, port: int) -> list[float]:
        with redis.Redis(port=port) as client:
            took_ms: list[float] = []
            for _ in range(50):
                begin_s = time.perf_counter()
                client.ping()
                took_ms.append((time.perf_counter() - begin_s) * 1000)
        return took_ms


def _let_timers_be_exact() -> None:
    """Let Linux end each wait of this thread, and of the threads and processes that it starts, at its time. Otherwise
    it takes 50 µs more, to wake fewer times: a task of 10 ms has 10.05."""
    ctypes.CDLL(None).prctl(_SET_TIMER_SLACK, 1, 0, 0, 0)


def measure(
    peer: Peer, server: Server, far: bool, extent: Extent, directory: Path, first: bool, tree: Path = ROOT
) -> Figures:
    """The figures of one peer in one network, and its versions as ``versions``.

    Raises:
        ImplausibleFigure: one of the figures is impossible.
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
    time.sleep(WARM_UP_S)
    commands, turnarounds = server.commands(), server.proxy.turnarounds
    for _ in range(extent.singles):
        worker.expect(1)
        begin_ns = producer.enqueue(1)["begin_ns"]
        done = worker.answer()
        took_ms.append((done["end_ns"] - begin_ns) / 1e6)
    time.sleep(SETTLE_S)  # the worker may still record the last one
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
    """Check the figures other than the rates; `Limits` checks those.

    Parameters:
        least_latency_ms: the fastest round trip to Redis. A task takes at least as long, to Redis and to the worker.

    Raises:
        ImplausibleFigure: one of the figures is impossible.
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
        require(value >= bound, f"{HEADINGS[figure]} is {value:,.3f}, but cannot be less than {bound:,.3f}")
    if peer is not OURS_HTTP:  # its model service works on any number of tasks at a time
        most = peer.slots / SLEEP_S * TIMER_TOLERANCE
        value = figures.get("drain_10ms_per_s", 0)
        require(
            value <= most, f"{value:,.0f} tasks of 10 ms a second, but {peer.slots} slots can do only {most:,.0f}"
        )


@contextmanager
def _stack(redis_port: int, seen_port: int, directory: Path) -> Iterator[dict[str, str]]:
    """Start the local stack on the running Redis; yield the addresses of the two sides."""
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
    """The rate since the worker continued: before that, it cannot have fetched or begun a task.

    A clock that began with the first task's function would give too high a rate: a single task would be "drained" in
    the microseconds that an empty function takes.
    """
    return _rate("drained", {**done, "begin_ns": worker.continued_ns}, limits)


def run(
    quick: bool,
    redis_port: int | None = None,
    only: Sequence[str] = (),
    tree: Path = ROOT,
    results: Path = RESULTS,
) -> dict[str, Any]:
    """Measure, write it to the file *results*, and return what is in it.

    Parameters:
        redis_port: a Redis server on this machine, which is emptied; None starts one.
        only: the names of the peers to measure, in any case; empty for all.
        tree: the tree with the code of the producers and workers, such as another revision of this project.
    """
    extent = QUICK if quick else FULL
    chosen = [
        peer
        for peer in (OURS, OURS_PLAIN, OURS_HTTP, *PEERS)
        if not only or peer.name.lower() in map(str.lower, only)
    ]
    for peer in chosen:
        peer.command()  # installs the peer before anything is measured
    _let_timers_be_exact()
    values: dict[str, dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    versions: dict[str, dict[str, str]] = {}
    failures: dict[str, str] = {}
    implausible: list[str] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place, ExitStack() as cleanup:
        if redis_port is None:
            redis_port = cleanup.enter_context(RedisServer(Path(place) / "redis")).port
        proxy = cleanup.enter_context(DelayProxy(redis_port, one_way_s=ONE_WAY_S))
        server = Server(redis_port, proxy)
        server.delay_exactly()
        ports = {"near": redis_port, "far": proxy.port}
        round_trips_ms = {name: server.round_trip_ms(port) for name, port in ports.items()}
        for repeat in range(extent.repeats):
            offset = repeat * len(chosen) // extent.repeats
            for peer in chosen[offset:] + chosen[:offset]:
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
    """Each of our figures divided by the best peer's of the same repeat: the highest rate or the lowest cost.

    Bytes are compared only with the peers that keep as much.
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
    """The project's figures under the harness's names, with a number for each repeat.

    The lower ratio of the enqueue and the end-to-end rate counts, and the larger one of waiting and finished tasks.
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
    parser.add_argument(
        "--quick", action="store_true", help="fewer tasks, one repeat: it shows that everything works, not how fast"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="such as ours RQ BullMQ")
    parser.add_argument("--redis-port", type=int, help="use this local server, which is emptied")
    parser.add_argument("--tree", type=Path, default=ROOT, help="measure the producers and workers of this tree")
    parser.add_argument("--results", type=Path, default=RESULTS, help="write the results to this file")
    options = parser.parse_args()
    result = run(options.quick, options.redis_port, options.only, options.tree, options.results)
    print(report(result))
    sys.exit(1 if result["failures"] else 0)


if __name__ == "__main__":
    main()
