"""The app publishes a completion event for each finished task, at least once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from threading import Thread
from typing import Any

import pytest

from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from local.stack import Stack
from tests.conftest import IN_A_HURRY
from tests.end_to_end.backbone import Backbone
from tests.scripted_backend import Answer, ScriptedBackend
from tests.waiting import PATIENCE_S


class Subscriber:
    """A webhook of a caller that does not want to poll."""

    def __init__(self) -> None:
        events = self.events = Queue[dict[str, Any]]()

        class Handler(BaseHTTPRequestHandler):
            def do_OPTIONS(self) -> None:
                self.send_response(200)
                self.send_header("WebHook-Allowed-Origin", self.headers["WebHook-Request-Origin"])
                self.end_headers()

            def do_POST(self) -> None:
                events.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def __enter__(self) -> Subscriber:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def subscriber() -> Iterator[Subscriber]:
    with Subscriber() as subscriber:
        yield subscriber


@pytest.fixture(scope="module")
def redis_server(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer | RedisCluster
) -> Iterator[RedisServer | RedisCluster]:
    """A server of its own, of the session's kind.

    The reconciler of the session's stack publishes no completions and would take half of the overdue ones.
    """
    with type(redis_server)(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
    subscriber: Subscriber,
) -> Iterator[Stack]:
    """A stack that publishes completions, with a subscription for them."""
    stack = Stack(
        tmp_path_factory.mktemp("completions"),
        redis=redis_server,
        azurite=azurite,
        backends={"/v1/test": backend.url},
        with_model=False,
        settings=IN_A_HURRY | {"PUBLISH_COMPLETIONS": "true"},
    )
    with stack:
        stack.subscribe(
            "completions",
            endpoint=subscriber.url,
            schema="CloudEventSchemaV1_0",
            includedEventTypes=[f"backbone.task.{end}" for end in ("completed", "failed", "cancelled")],
        )
        yield stack


@pytest.fixture
def backbone(stack: Stack) -> Iterator[Backbone]:
    with stack.client() as client:
        yield Backbone(client)


def next_event(subscriber: Subscriber, task_id: str) -> dict[str, Any]:
    """The next completion event of this task; it skips those of other tasks, which may arrive again."""
    while True:
        event = subscriber.events.get(timeout=PATIENCE_S)
        if event["data"]["TaskId"] == task_id:
            return event


def test_completed_task_publishes_its_completion(
    backbone: Backbone, backend: ScriptedBackend, subscriber: Subscriber
) -> None:
    task_id = backbone.submit("/v1/test/published", b"work")
    backend.next_call("/v1/test/published")
    backbone.update(task_id, "completed", "completed - 3 trees").raise_for_status()
    event = next_event(subscriber, task_id)
    assert event["type"] == "backbone.task.completed"
    assert event["subject"] == f"tasks/{task_id}"
    assert event["data"] == {
        "TaskId": task_id,
        "BackendStatus": "completed",
        "Status": "completed - 3 trees",
        "EndpointPath": "/v1/test/published",
        "Attempt": 1,
    }


def test_cancelled_task_publishes_its_completion(stack: Stack, backbone: Backbone, subscriber: Subscriber) -> None:
    task_id = backbone.submit("/v1/test/published-cancelled", b"work")
    with stack.client() as app:
        app.delete(f"/api/v1/tasks/{task_id}").raise_for_status()
    assert next_event(subscriber, task_id)["type"] == "backbone.task.cancelled"


def test_task_failed_by_the_dispatcher_publishes_its_completion(
    backbone: Backbone, backend: ScriptedBackend, subscriber: Subscriber
) -> None:
    backend.script("/v1/test/published-failed", Answer(400))
    task_id = backbone.submit("/v1/test/published-failed", b"work")
    assert next_event(subscriber, task_id)["type"] == "backbone.task.failed"


def test_refused_completion_event_is_published_again(
    stack: Stack, backbone: Backbone, backend: ScriptedBackend, subscriber: Subscriber
) -> None:
    task_id = backbone.submit("/v1/test/published-late", b"work")
    backend.next_call("/v1/test/published-late")
    stack.set_faults({"refusePublish": {}})
    try:
        backbone.update(task_id, "completed").raise_for_status()
    finally:
        stack.set_faults({})
    assert next_event(subscriber, task_id)["type"] == "backbone.task.completed"
