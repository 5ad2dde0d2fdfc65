"""A fake backbone that keeps tasks by the contract with model services, and records the requests it got."""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.processes import free_port
from tests.waiting import PATIENCE_S, eventually

KEY = "key-of-the-backbone"


@dataclass
class FakeBackbone:
    url: str
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    updates: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, bytes] = field(default_factory=dict)
    result_headers: dict[str, dict[str, str]] = field(default_factory=dict)
    in_flight_reports: list[dict[str, Any]] = field(default_factory=list)
    traceparents: set[str | None] = field(default_factory=set)
    max_body_bytes: int = 100 * 1024**2
    upsert_failures: deque[int] = field(default_factory=deque)
    """Status codes for the next updates; after these, updates are accepted again."""
    revoked: set[str] = field(default_factory=set)
    gate: threading.Event = field(default_factory=threading.Event)
    """Reading a task blocks until this event is set."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def add_task(self, task_id: str, endpoint: str) -> None:
        self.tasks[task_id] = {"TaskId": task_id, "Endpoint": endpoint, "BackendStatus": "created"}

    def wait_until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, timeout=PATIENCE_S), self.updates

    def wait_until_status(self, task_id: str, backend_status: str) -> dict[str, Any]:
        self.wait_until(lambda: self.tasks[task_id]["BackendStatus"] == backend_status)
        return self.tasks[task_id]

    def get(self, request: Request) -> Response:
        self.gate.wait()
        if request.query_params.get("code") != KEY:
            return Response(status_code=401)
        self.traceparents.add(request.headers.get("traceparent"))
        task = self.tasks.get(request.query_params["taskId"])
        return JSONResponse(task) if task else Response(status_code=204)

    async def upsert(self, request: Request) -> Response:
        if request.query_params.get("code") != KEY:
            return Response(status_code=401)
        if self.upsert_failures:
            return Response(status_code=self.upsert_failures.popleft())
        self.traceparents.add(request.headers.get("traceparent"))
        update = json.loads(await request.body())
        with self.changed:
            self.updates.append(update)
            if update["TaskId"] in self.revoked:
                self.changed.notify_all()
                return JSONResponse({"BackendStatus": "cancelled"}, 409)
            self.tasks[update["TaskId"]] = update
            self.changed.notify_all()
        return JSONResponse(update)

    async def result(self, request: Request) -> Response:
        if request.headers.get("x-functions-key") != KEY:
            return Response(status_code=401)
        self.traceparents.add(request.headers.get("traceparent"))
        task_id = request.path_params["task_id"]
        if request.method == "GET":
            return Response(self.results[task_id], media_type="image/png")
        self.results[task_id] = await request.body()
        self.result_headers[task_id] = dict(request.headers)
        return Response(status_code=204)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"Status": "ok", "MaxBodyBytes": self.max_body_bytes})

    async def current_processing(self, request: Request) -> Response:
        with self.changed:
            self.in_flight_reports.append(json.loads(await request.body()))
            self.changed.notify_all()
        return Response()


@contextmanager
def running_backbone() -> Iterator[FakeBackbone]:
    port = free_port()
    backbone = FakeBackbone(f"http://127.0.0.1:{port}")
    backbone.gate.set()
    app = Starlette(
        routes=[
            Route("/api/CacheConnectorGet", backbone.get),
            Route("/api/CacheConnectorUpsert", backbone.upsert, methods=["POST"]),
            Route("/api/CurrentProcessingUpsert", backbone.current_processing, methods=["POST"]),
            Route("/api/v1/health", backbone.health),
            Route("/api/v1/tasks/{task_id}/result", backbone.result, methods=["GET", "PUT"]),
        ]
    )
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    eventually(lambda: server.started or not thread.is_alive())
    try:
        yield backbone
    finally:
        backbone.gate.set()
        server.should_exit = True
        thread.join()
