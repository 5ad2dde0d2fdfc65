"""A5: the two metric timers. What leaves for Application Insights is tested in tests/telemetry."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from local.processes import free_port
from local.redis_server import RedisServer
from local.stack import ROOT, Stack
from tests.waiting import PATIENCE_S

BACKEND = "http://127.0.0.1:9"
QUEUE_LOGGER, PROCESS_LOGGER = "TaskQueueLogger", "TaskProcessLogger"


class Probe:
    """The app's functions in a process of their own, whose OpenTelemetry SDK keeps the metrics in memory."""

    def __init__(self, redis_url: str) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "REDIS_CONNECTION_STRING": redis_url,
            "EVENT_GRID_TOPIC_URI": f"http://127.0.0.1:{free_port()}/api/events",
            "EVENT_GRID_KEY": "key",
            "BACKENDS": json.dumps({"/v1/test": BACKEND}),
            "ALLOW_LOOPBACK_BACKENDS": "true",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.metrics_probe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    def run(self, function: str, **request: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"function": function, **request}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the probe has died; its standard error says why"
        return json.loads(answer)

    def close(self) -> None:
        self._process.communicate()

    def schedules(self) -> dict[str, str]:
        return self.run("")

    def metrics(self, function: str, place: str) -> dict[str, int]:
        """What a timer reports of one endpoint path, by state."""
        points = [point for point in self.run(function)["tasks.depth"] if point["path"] == place]
        values = {point["state"]: point["value"] for point in points}
        assert len(values) == len(points)
        return values

    def put(self, path: str, backend_status: str, task_id: str | None = None) -> str:
        body = {"TaskId": task_id, "Endpoint": BACKEND + path, "BackendStatus": backend_status}
        answer = self.run("CacheConnectorUpsert", body=body)
        assert answer["status"] == 200, answer
        return json.loads(answer["body"])["TaskId"]

    def depth(self, path: str) -> Mapping[str, int]:
        return json.loads(self.run("QueueDepths", route={"path": path})["body"])


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def probe(redis: RedisServer) -> Iterator[Probe]:
    probe = Probe(redis.url)
    yield probe
    probe.close()


def test_the_timers_keep_their_schedules(probe: Probe) -> None:
    schedules = probe.schedules()
    assert schedules[QUEUE_LOGGER] == "*/30 * * * * *"
    assert schedules[PROCESS_LOGGER] == "0 */5 * * * *"


def test_the_number_of_waiting_tasks_is_the_true_one(probe: Probe) -> None:
    path = "/v1/test/waiting"
    ids = [probe.put(path, "created") for _ in range(3)]
    assert probe.metrics(QUEUE_LOGGER, path) == {"created": 3}
    probe.put(path, "running", ids[0])
    assert probe.metrics(QUEUE_LOGGER, path)["created"] == 2


def test_a_queue_without_waiting_tasks_is_reported_as_0_so_that_its_backend_scales_to_nothing(probe: Probe) -> None:
    path = "/v1/test/nothing-waits"
    task_id = probe.put(path, "created")
    probe.put(path, "running", task_id)
    assert probe.metrics(QUEUE_LOGGER, path)["created"] == 0


def test_the_other_timer_reports_what_runs_and_what_has_ended(probe: Probe) -> None:
    path = "/v1/test/others"
    counts = {"running": 2, "completed": 3, "failed": 1}
    for state, count in counts.items():
        for _ in range(count):
            probe.put(path, state)
    probe.put(path, "created")
    reported = probe.metrics(PROCESS_LOGGER, path)
    assert {state: reported[state] for state in counts} == counts


def test_the_metrics_are_what_the_queues_report(probe: Probe) -> None:
    path = "/v1/test/same"
    for state, count in {"created": 4, "running": 3, "completed": 2, "failed": 1}.items():
        for _ in range(count):
            probe.put(path, state)
    reported = {**probe.metrics(QUEUE_LOGGER, path), **probe.metrics(PROCESS_LOGGER, path)}
    depth = probe.depth(path)
    assert (depth["Waiting"], depth["Running"], depth["Completed"], depth["Failed"]) == (4, 3, 2, 1)
    assert reported["created"] == depth["Waiting"]
    assert {state: reported[state] for state in ("running", "completed", "failed")} == {
        state: depth[state.title()] for state in ("running", "completed", "failed")
    }


def test_a_path_whose_last_task_has_left_is_reported_as_0_and_not_with_its_last_number(probe: Probe) -> None:
    former, present = "/v1/test/former", "/v1/test/present"
    task_id = probe.put(former, "running")
    assert probe.metrics(PROCESS_LOGGER, former)["running"] == 1
    probe.put(present, "running", task_id)
    reported = probe.metrics(PROCESS_LOGGER, former)
    assert set(reported.values()) == {0}
    assert reported["running"] == 0
    assert probe.metrics(PROCESS_LOGGER, present)["running"] == 1


def test_every_metric_has_one_of_two_stable_names(probe: Probe) -> None:
    probe.put("/v1/test/names", "created")
    probe.run("CurrentProcessingUpsert", body={"ApiPath": "/v1/a", "ServiceCluster": "c", "IncrementBy": 1})
    names = probe.run(QUEUE_LOGGER).keys() | probe.run(PROCESS_LOGGER).keys()
    assert names == {"tasks.depth", "requests.current"}


def test_the_requests_in_flight_are_a_gauge_of_the_number_that_redis_holds(probe: Probe) -> None:
    for change, count in [({"IncrementBy": 5}, 5), ({"DecrementBy": 2}, 3), ({"DecrementBy": 9}, 0)]:
        body = {"ApiPath": "v1/gauge", "ServiceCluster": "eastus", **change}
        assert probe.run("CurrentProcessingUpsert", body=body)["status"] == 200
        points = probe.run(QUEUE_LOGGER)["requests.current"]
        assert {"cluster": "eastus", "path": "/v1/gauge", "value": count} in points


def test_the_cost_grows_with_the_endpoints_and_not_with_the_tasks(probe: Probe, redis: RedisServer) -> None:
    def commands() -> int:
        with redis.connect() as client:
            statistics: dict[str, dict[str, int]] = client.info("commandstats")  # pyright: ignore[reportAssignmentType]
            # Those that only ask, or that connections make by themselves, are none of the timers'.
            return sum(
                counts["calls"]
                for name, counts in statistics.items()
                if not name.startswith(("cmdstat_info", "cmdstat_client", "cmdstat_hello", "cmdstat_ping"))
            )

    def cost() -> list[int]:
        costs: list[int] = []
        for timer in (QUEUE_LOGGER, PROCESS_LOGGER):
            before = commands()
            probe.run(timer)
            costs.append(commands() - before)
        return costs

    def add(names: range) -> None:
        for number in names:
            probe.put("/v1/test/costs", ("created", "running", "completed")[number % 3], f"cost-{number}")

    add(range(150))
    few = cost()
    add(range(150, 600))
    assert cost() == few


def test_both_can_be_run_by_hand_and_only_with_the_master_key(stack: Stack) -> None:
    for name in (QUEUE_LOGGER, PROCESS_LOGGER):
        address = f"{stack.url}/admin/functions/{name}"
        for headers in ({}, {"x-functions-key": stack.key}):
            answer = httpx.post(address, json={"input": ""}, headers=headers, timeout=PATIENCE_S)
            assert answer.status_code == 401
        headers = {"x-functions-key": f"{stack.key}-master"}
        answer = httpx.post(address, json={"input": ""}, headers=headers, timeout=PATIENCE_S)
        assert answer.status_code == 202
