"""The clocks of the comparison with other queues: the peer takes long to fetch a task, and no time to run it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.peers import bench, environments, ours
from bench.peers.bench import Extent, Side, require_plausible
from bench.peers.catalogue import OURS_HTTP, Peer
from bench.peers.side import PAYLOAD
from bench.plausibility import ImplausibleFigure, Limits
from local.redis_server import RedisServer
from shared.tasks.outcomes import SlotGrant
from tests.bench.slow_peer import FETCH_S
from tests.waiting import eventually

SLOW = Peer(
    "slow",
    lambda: [sys.executable, "-m", "tests.bench.slow_peer"],
    "fetches one task at a time",
    ("", "", "", "", ""),
    slots=1,
    keeps_finished=True,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def sides(server: RedisServer, tmp_path: Path) -> Iterator[tuple[Side, Side]]:
    """A producer and a worker."""
    server.flush()
    both = [Side(SLOW, role, server.url, tmp_path / "slow.log") for role in ("producer", "worker")]
    try:
        for each in both:
            assert "redis" in each.answer()["ready"]
        yield both[0], both[1]
    finally:
        for each in both:
            each.kill()


def extent(drain_s: float) -> Extent:
    return Extent(repeats=1, enqueue_s=0.05, drain_s=drain_s, singles=3, per_slot=1, memory_tasks=1, thorough=False)


@pytest.mark.parametrize("drain_s", [0.01, 0.5], ids=["none is drained in time", "some are"])
def test_drain_is_no_faster_than_its_tasks_are_fetched(
    server: RedisServer, sides: tuple[Side, Side], drain_s: float
) -> None:
    """A clock that began with the first task's function would count only the microseconds that the function took."""
    producer, worker = sides
    figures = bench.rates(producer, producer, worker, Limits.of_redis(server.port), extent(drain_s), bulk=False)
    assert 1 <= figures["drain_per_s"] <= 1 / FETCH_S


def test_tasks_of_10_ms_are_drained_no_faster_than_they_are_fetched(
    server: RedisServer, sides: tuple[Side, Side]
) -> None:
    producer, worker = sides
    figures = bench.sleeping(producer, worker, SLOW, Limits.of_redis(server.port), extent(1.0))
    assert 1 <= figures["drain_10ms_per_s"] <= 1 / (FETCH_S + bench.SLEEP_S)


def test_stopped_worker_begins_no_task(sides: tuple[Side, Side]) -> None:
    producer, worker = sides
    worker.expect(3)
    with worker.stopped():
        enqueued = producer.enqueue(3)
    done = worker.answer()
    assert enqueued["end_ns"] <= worker.continued_ns < done["end_ns"]


def test_late_answer_is_not_mistaken_for_the_next_one(sides: tuple[Side, Side]) -> None:
    producer, worker = sides
    worker.expect(1)
    producer.enqueue(1)
    eventually(worker._answers.qsize)
    worker.expect(2)  # the answer about the first one is still unread
    producer.enqueue(2)
    assert worker.answer()["count"] == 2


def test_our_producer_reaches_the_consumer_that_has_another_way_to_redis(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mailbox named for the way to Redis let each far drain begin when its first slot grants had expired."""
    server.flush()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ours"])
    with socket.socket(socket.AF_UNIX) as consumer:
        consumer.bind(str(ours.MAILBOX))
        consumer.listen()
        consumer.settimeout(60)
        ours.producer(server.url)([0.0])
        with consumer.accept()[0] as notes:
            assert SlotGrant.parse(notes.recv(1_000).decode().strip()).attempt == 1


@pytest.mark.parametrize(
    ("figure", "possible", "impossible"),
    [
        ("latency_median_ms", 2.1, 1.9),
        ("round_trips", 3.0, 0.5),
        ("commands", 5.0, 0.0),
        ("waiting_bytes", 500.0, 100.0),
        ("finished_bytes", 500.0, 100.0),
        ("drain_10ms_per_s", 95.0, 404_040.0),
    ],
)
def test_impossible_figure_is_refused(figure: str, possible: float, impossible: float) -> None:
    require_plausible(SLOW, {figure: possible}, least_latency_ms=2.0)
    with pytest.raises(ImplausibleFigure):
        require_plausible(SLOW, {figure: impossible}, least_latency_ms=2.0)


def test_the_model_service_of_the_http_path_has_no_slots() -> None:
    require_plausible(OURS_HTTP, {"drain_10ms_per_s": 5_000.0}, least_latency_ms=2.0)


def test_incompressible_size_is_less_than_the_payload() -> None:
    assert len(PAYLOAD) / 2 < bench.PAYLOAD_BYTES_LEAST < len(PAYLOAD)


def test_a_peers_script_is_not_rewritten_while_a_side_may_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(_source: Path, directory: Path, _name: str) -> None:
        directory.mkdir(exist_ok=True)

    monkeypatch.setattr(environments, "_INSTALLED", tmp_path)
    monkeypatch.setattr(environments, "install_npm_package", install)
    script = environments.bullmq()[1]
    text, written = script.read_bytes(), script.stat()
    assert environments.bullmq()[1].stat().st_mtime_ns == written.st_mtime_ns
    with script.open("rb") as reading:
        script.write_bytes(b"an older one")
        environments.bullmq()
        assert script.read_bytes() == text
        assert reading.read() == b"an older one"  # another file has taken its place
