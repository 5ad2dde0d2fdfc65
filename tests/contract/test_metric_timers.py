"""The two metric timers (contract A5). tests/telemetry tests what Application Insights gets."""

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
from local.stack import NO_TLS, ROOT, Stack
from tests.waiting import PATIENCE_S, eventually

BACKEND = "http://127.0.0.1:9"
QUEUE_LOGGER, PROCESS_LOGGER = "TaskQueueLogger", "TaskProcessLogger"


class MetricsRunner:
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
            # The cost of a timer is counted: no round may come between.
            "RECONCILER_INTERVAL_S": "86400",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.metrics_runner"],
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
        assert answer, "the runner has died; its standard error says why"
        return json.loads(answer)

    def close(self) -> None:
        self._process.communicate()

    def schedules(self) -> dict[str, str]:
        return self.run("")

    def metrics(self, function: str, path: str) -> dict[str, int]:
        """What a timer reports of one endpoint path, by state."""
        points = [point for point in self.run(function).get("tasks.depth", []) if point["path"] == path]
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
def runner(redis: RedisServer) -> Iterator[MetricsRunner]:
    runner = MetricsRunner(redis.url)
    yield runner
    runner.close()


@pytest.mark.contract("A5.1")
def test_timers_keep_their_schedules(runner: MetricsRunner) -> None:
    schedules = runner.schedules()
    assert schedules[QUEUE_LOGGER] == "*/30 * * * * *"
    assert schedules[PROCESS_LOGGER] == "0 */5 * * * *"


@pytest.mark.contract("A5.2")
def test_waiting_tasks_are_reported_with_their_true_number(runner: MetricsRunner) -> None:
    path = "/v1/test/waiting"
    ids = [runner.put(path, "created") for _ in range(3)]
    assert runner.metrics(QUEUE_LOGGER, path) == {"created": 3}
    runner.put(path, "running", ids[0])
    assert runner.metrics(QUEUE_LOGGER, path)["created"] == 2


@pytest.mark.contract("A5.2")
def test_queue_without_waiting_tasks_is_reported_as_0(runner: MetricsRunner) -> None:
    path = "/v1/test/nothing-waits"
    task_id = runner.put(path, "created")
    runner.put(path, "running", task_id)
    assert runner.metrics(QUEUE_LOGGER, path)["created"] == 0


@pytest.mark.contract("A5.3")
def test_process_logger_reports_running_and_finished_tasks(runner: MetricsRunner) -> None:
    path = "/v1/test/others"
    counts = {"running": 2, "completed": 3, "failed": 1}
    for state, count in counts.items():
        for _ in range(count):
            runner.put(path, state)
    cancelled = runner.put(path, "created")
    assert runner.run("CancelTask", route={"id": cancelled})["status"] == 200
    reported = runner.metrics(PROCESS_LOGGER, path)
    assert reported == {**counts, "dispatched": 0, "cancelled": 1}


@pytest.mark.contract("A5.4")
def test_metrics_equal_the_numbers_of_the_queue_api(runner: MetricsRunner) -> None:
    path = "/v1/test/same"
    for state, count in {"created": 4, "running": 3, "completed": 2, "failed": 1}.items():
        for _ in range(count):
            runner.put(path, state)
    reported = {**runner.metrics(QUEUE_LOGGER, path), **runner.metrics(PROCESS_LOGGER, path)}
    depth = runner.depth(path)
    assert (depth["Waiting"], depth["Running"], depth["Completed"], depth["Failed"]) == (4, 3, 2, 1)
    assert reported["created"] == depth["Waiting"]
    assert {state: reported[state] for state in ("running", "completed", "failed")} == {
        state: depth[state.title()] for state in ("running", "completed", "failed")
    }


@pytest.mark.contract("A5.5")
def test_path_without_tasks_is_reported_as_0(runner: MetricsRunner) -> None:
    former, present = "/v1/test/former", "/v1/test/present"
    task_id = runner.put(former, "running")
    assert runner.metrics(PROCESS_LOGGER, former)["running"] == 1
    runner.put(present, "running", task_id)
    reported = runner.metrics(PROCESS_LOGGER, former)
    assert set(reported.values()) == {0}
    assert reported["running"] == 0
    assert runner.metrics(PROCESS_LOGGER, present)["running"] == 1
    assert [runner.metrics(PROCESS_LOGGER, former) for _ in range(12)] == [{}] * 12, "it is forgotten"


@pytest.mark.contract("A5.6")
def test_every_metric_has_one_of_three_stable_names(runner: MetricsRunner) -> None:
    runner.put("/v1/test/names", "created")
    runner.run("CurrentProcessingUpsert", body={"ApiPath": "/v1/a", "ServiceCluster": "c", "IncrementBy": 1})
    names = runner.run(QUEUE_LOGGER).keys() | runner.run(PROCESS_LOGGER).keys()
    others = {name for name in names if name.startswith("queue.")} | {"health.unavailable", "tasks.steps"}  # B22
    assert names - others == {"tasks.depth", "tasks.oldest_waiting_seconds", "requests.current"}


@pytest.mark.contract("A5.7")
def test_requests_in_flight_are_a_gauge_of_the_number_in_redis(runner: MetricsRunner) -> None:
    for change, count in [({"IncrementBy": 5}, 5), ({"DecrementBy": 2}, 3), ({"DecrementBy": 9}, 0)]:
        body = {"ApiPath": "v1/gauge", "ServiceCluster": "eastus", **change}
        assert runner.run("CurrentProcessingUpsert", body=body)["status"] == 200
        points = runner.run(QUEUE_LOGGER)["requests.current"]
        assert {"cluster": "eastus", "path": "/v1/gauge", "value": count} in points


@pytest.mark.contract("A5.8")
def test_timer_cost_grows_with_endpoints_and_not_with_tasks(runner: MetricsRunner, redis: RedisServer) -> None:
    def commands() -> int:
        with redis.connect() as client:
            statistics: dict[str, dict[str, int]] = client.info("commandstats")  # pyright: ignore[reportAssignmentType]
            # Skips the commands of this client and of connections: the timers do not send them.
            return sum(
                counts["calls"]
                for name, counts in statistics.items()
                if not name.startswith(("cmdstat_info", "cmdstat_client", "cmdstat_hello", "cmdstat_ping"))
            )

    def cost() -> list[int]:
        costs: list[int] = []
        for timer in (QUEUE_LOGGER, PROCESS_LOGGER):
            before = commands()
            runner.run(timer)
            costs.append(commands() - before)
        return costs

    def add(names: range) -> None:
        for number in names:
            runner.put("/v1/test/costs", ("created", "running", "completed")[number % 3], f"cost-{number}")

    # So many that tasks wait in each partition. Where none does, none is asked for how long.
    add(range(450))
    few = cost()
    add(range(450, 900))
    assert cost() == few


@pytest.mark.contract("A5.43")
def test_paths_whose_tasks_have_ended_are_not_counted_for_those_that_wait(
    runner: MetricsRunner, redis: RedisServer
) -> None:
    def counts() -> int:
        with redis.connect() as client:
            statistics: Any = client.info("commandstats")
        return statistics.get("cmdstat_zcard", {"calls": 0})["calls"]

    def cost() -> int:
        runner.run("Reconciler")
        before = counts()
        runner.run(QUEUE_LOGGER)
        return counts() - before

    runner.put("/v1/test/waits", "created")
    few = cost()
    for number in range(40):
        runner.put(f"/v1/test/ended/{number}", "completed")
    assert cost() == few
    runner.put("/v1/test/ended/7", "created")
    assert cost() > few
    assert runner.metrics(QUEUE_LOGGER, "/v1/test/ended/7") == {"created": 1}


@pytest.mark.contract("A5.9")
def test_timers_can_be_run_by_hand_with_the_master_key_only(stack: Stack) -> None:
    for name in (QUEUE_LOGGER, PROCESS_LOGGER):
        address = f"{stack.url}/admin/functions/{name}"
        for headers, status in (({}, 401), ({"x-functions-key": stack.key}, 403)):
            answer = httpx.post(address, json={"input": ""}, headers=headers, timeout=PATIENCE_S, verify=NO_TLS)
            assert answer.status_code == status
        headers = {"x-functions-key": f"{stack.key}-master"}
        answer = httpx.post(address, json={"input": ""}, headers=headers, timeout=PATIENCE_S, verify=NO_TLS)
        assert answer.status_code == 202


@pytest.mark.contract("A5.40")
def test_age_of_the_oldest_waiting_task_is_a_metric(runner: MetricsRunner) -> None:
    def age_s() -> float:
        points = runner.run(QUEUE_LOGGER)["tasks.oldest_waiting_seconds"]
        [age_s] = [point["value"] for point in points if point["path"] == path]
        return age_s

    path = "/v1/test/age"
    task_id = runner.put(path, "created")
    first = eventually(age_s)
    assert first <= runner.depth(path)["OldestWaitingSeconds"]
    assert eventually(lambda: age_s() > first)
    runner.put(path, "running", task_id)
    assert age_s() == 0


@pytest.mark.contract("A5.41")
def test_queue_where_nothing_waits_is_reported_every_five_minutes(runner: MetricsRunner) -> None:
    path = "/v1/test/quiet"
    task_id = runner.put(path, "created")
    reports = [runner.metrics(QUEUE_LOGGER, path) for _ in range(2)]
    runner.put(path, "running", task_id)
    reports += [runner.metrics(QUEUE_LOGGER, path) for _ in range(11)]
    assert reports == [{"created": 1}] * 2 + [{"created": 0}] + [{}] * 9 + [{"created": 0}]


@pytest.mark.contract("A5.42")
def test_each_number_is_sent_once(runner: MetricsRunner) -> None:
    path = "/v1/test/once"
    runner.put(path, "created")
    assert runner.metrics(QUEUE_LOGGER, path) == {"created": 1}
    assert "created" not in runner.metrics(PROCESS_LOGGER, path)


@pytest.mark.contract("B9.69")
def test_the_series_know_the_oldest_task_that_waits_once_the_timer_has_run(
    runner: MetricsRunner, redis: RedisServer
) -> None:
    def ages(path: str) -> list[float | None]:
        document = json.loads(runner.run("GetSeries")["body"])
        return next(each["OldestWaitingSeconds"] for each in document["Series"] if each["Path"] == path)

    path = "/v1/test/oldest"
    paused = runner.run("ConfigureQueue", route={"path": path}, body={"Paused": True})
    assert paused["status"] == 200, paused
    submitted = runner.run("SubmitTask", route={"path": path.lstrip("/")}, body="work")
    assert submitted["status"] == 202, submitted
    assert ages(path)[-1] is not None
    with redis.connect() as client:
        client.delete(*client.scan_iter(f"*}}q:{path}"))
    runner.run("ConfigureQueue", route={"path": path}, body={})
    assert ages(path)[-1] is None, "what a queue had learned was lost"
    runner.run(QUEUE_LOGGER)
    assert ages(path)[-1] is not None
