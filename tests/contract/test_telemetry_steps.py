"""What alerts go by beside the gauges of queues: counts of what happens, and whether the app is available (B22)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from local.redis_server import RedisServer
from shared import step_counts
from shared.tasks import status_texts
from shared.tasks.end_reason import EndReason
from shared.tasks.outcomes import Applied, Origin, Refusal, Refused
from shared.tasks.task import Actor, Event, Reason, State, Task
from tests.contract.test_metric_timers import BACKEND, QUEUE_LOGGER, MetricsRunner
from tests.telemetry.test_development import TASK
from tests.waiting import eventually

PATH = "/v1/test/counted"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def runner(redis: RedisServer) -> Iterator[MetricsRunner]:
    runner = MetricsRunner(redis.url)
    yield runner
    runner.close()


def counted(told: dict[str, list[dict[str, Any]]], path: str) -> Counter[str]:
    steps: Counter[str] = Counter()
    for point in told.get("tasks.steps", []):
        if point["path"] == path:
            steps[point["step"]] += point["value"]
    return steps


@pytest.mark.contract("B22.10")
def test_dispatches_reports_and_ends_are_counted_each_once(runner: MetricsRunner) -> None:
    path = f"{PATH}/reported"
    task_id = runner.put(path, "created")
    runner.put(path, "running", task_id)
    for _ in range(2):
        answer = runner.run("TaskHeartbeat", route={"id": task_id}, body={})
        assert answer["status"] < 300, answer
    runner.put(path, "completed", task_id)
    refused = runner.run("TaskHeartbeat", route={"id": task_id}, body={})
    assert refused["status"] == 409
    cancelled = runner.put(path, "created")
    assert runner.run("CancelTask", route={"id": cancelled})["status"] == 200
    failed = runner.put(path, "created")
    runner.put(path, "failed", failed)
    steps = counted(runner.run(QUEUE_LOGGER), path)
    assert steps == {"reported": 5, "completed": 1, "cancelled": 1, "failed": 1}
    assert counted(runner.run(QUEUE_LOGGER), path) == {}, "only what is new is sent"


@pytest.mark.contract("B22.10")
def test_each_attempt_that_is_dispatched_is_counted(runner: MetricsRunner) -> None:
    path = f"{PATH}/dispatched"
    body = {"Endpoint": BACKEND + path, "BackendStatus": "created", "Body": "x", "PublishToGrid": True}
    answer = runner.run("CacheConnectorUpsert", body=body)
    task_id = json.loads(answer["body"])["TaskId"]
    steps: Counter[str] = Counter()

    def attempts() -> int:
        steps.update(counted(runner.run(QUEUE_LOGGER), path))
        return steps["dispatched"]

    eventually(lambda: attempts() >= 1)
    assert runner.run("CancelTask", route={"id": task_id})["status"] == 200
    history = json.loads(runner.run("GetTaskHistory", route={"id": task_id})["body"])["Events"]
    attempts()
    assert steps["dispatched"] == sum(event["State"] == "dispatched" for event in history)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """What is counted in this process."""
    found: Counter[tuple[str, str]] = Counter()

    class Counting:
        def add(self, amount: int, attributes: dict[str, str]) -> None:
            found[attributes["path"], attributes["step"]] += amount

    monkeypatch.setattr(step_counts, "_steps", Counting())
    monkeypatch.setattr(step_counts, "_paths", set())
    return found


def task(**changes: Any) -> Task:
    return replace(TASK, **changes)


@pytest.mark.contract("B22.10")
@pytest.mark.parametrize(
    ("status", "step"),
    [
        (status_texts.SILENT_RETRYING, "silent"),
        (status_texts.SILENT_EXCUSED, "silent"),
        (status_texts.SILENT_FAILED, "silent"),
        (status_texts.SILENT_EXHAUSTED % (7, 7), "silent"),
        (status_texts.OVERRUN_RETRYING % 60, "overrun"),
        (status_texts.OVERRUN_EXHAUSTED % (60, 7, 7), "overrun"),
    ],
)
def test_an_attempt_that_the_reconciler_ended_counts_where_it_was(
    steps: Counter[tuple[str, str]], status: str, step: str
) -> None:
    step_counts.given_up(Applied(task(status=status, path="/v1/b"), Origin("/v1/a", 1)))
    step_counts.given_up(Applied(task(status=status_texts.UNDELIVERED), Origin("/v1/a", 1)))
    assert steps == {("/v1/a", step): 1}


@pytest.mark.contract("B22.10")
@pytest.mark.parametrize(("end", "step"), [(EndReason.EXPIRED, "expired"), (EndReason.TIMEOUT, "failed")])
def test_a_task_that_has_expired_has_not_failed(steps: Counter[tuple[str, str]], end: EndReason, step: str) -> None:
    last = Event(1, State.FAILED, 1, Actor.RECONCILER, "Failed", "/v1/a", Reason.GIVE_UP, end)
    step_counts.transition(task(state=State.FAILED, path="/v1/a", history=[last]))
    assert steps == {("/v1/a", step): 1}


@pytest.mark.contract("B22.10")
def test_neither_a_batch_nor_a_refused_report_is_counted(steps: Counter[tuple[str, str]]) -> None:
    step_counts.transition(task(state=State.COMPLETED, path="/v1/a", children=3))
    step_counts.transition(task(state=State.RUNNING, path="/v1/a"))
    step_counts.report(Refused(Refusal.STALE, task(path="/v1/a")))
    assert steps == {}
    step_counts.transition(task(state=State.COMPLETED, path="/v1/a"))
    assert steps == {("/v1/a", "completed"): 1}


@pytest.mark.contract("B22.10")
def test_of_paths_beyond_the_bound_there_is_one_count(
    steps: Counter[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_counts, "PATHS_LIMIT", 2)
    for path in ("/v1/a", "/v1/b", "/v1/c", "/v1/d", "/v1/a"):
        step_counts.count(path, "dispatched")
    assert {path: number for (path, _), number in steps.items()} == {"/v1/a": 2, "/v1/b": 1, "other": 2}


@pytest.mark.contract("B22.9")
def test_health_is_told_each_time_it_is_unavailable_and_every_two_minutes_otherwise(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with RedisServer(tmp_path_factory.mktemp("redis")) as redis:
        runner = MetricsRunner(redis.url)

        def told() -> float | None:
            [point] = runner.run(QUEUE_LOGGER).get("health.unavailable", [{"value": None}])
            return point["value"]

        assert [told() for _ in range(6)] == [0, None, None, None, 0, None]
        redis.stop()
        assert [told() for _ in range(2)] == [1, 1]
        redis.start()
        eventually(lambda: told() == 0)
        runner.close()


@pytest.mark.contract("B22.1")
def test_what_waits_in_the_queue_is_told_without_what_is_only_tracked(runner: MetricsRunner) -> None:
    path = f"{PATH}/waiting"
    runner.run("ConfigureQueue", route={"path": path}, body={"Paused": True})
    runner.put(path, "created")  # PublishToGrid is false: nobody dispatches it
    body = {"Endpoint": BACKEND + path, "BackendStatus": "created", "Body": "x", "PublishToGrid": True}
    assert runner.run("CacheConnectorUpsert", body=body)["status"] == 200
    told = [point["value"] for point in runner.run(QUEUE_LOGGER)["queue.waiting"] if point["path"] == path]
    assert told == [1]
    assert runner.depth(path)["Waiting"] == 2
