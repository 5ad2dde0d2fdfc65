"""Endpoints with tasks in every state, for the pages to show."""

from __future__ import annotations

import io
import uuid
from dataclasses import dataclass

import httpx
from PIL import Image

from local.stack import Stack
from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.waiting import eventually

DONE = "completed - 5 things found"


@dataclass(frozen=True)
class World:
    """Tasks' ids, by what has become of them."""

    path: str
    held: str
    """An endpoint that is full: one task runs there, and others wait."""
    completed: str
    failed: str
    running: str
    waiting: str
    cancelled: str
    piped: str
    """In the second step of a pipeline."""
    batch: str


def fill(house: Stack, app: httpx.Client, backend: ScriptedBackend) -> World:
    name = uuid.uuid4().hex[:8]
    path, failing, held = f"/v1/test/detect-{name}", f"/v1/test/fails-{name}", f"/v1/held/slow-{name}"
    complete_on_call(house, backend, path)
    complete_on_call(house, backend, "/v1/test/first")
    backend.script(failing, Answer(415, {"Content-Type": "text/plain"}, b"The body must be image/png."))
    completed = submit(app, path)
    failed = submit(app, failing)
    running, waiting = submit(app, held), submit(app, held)
    cancelled = submit(app, held)
    app.delete(f"/api/v1/tasks/{cancelled}").raise_for_status()
    piped = submit(app, "/v1/test/whole")
    batch = app.post("/api/v1/batches", json={"Name": f"Scene {name}"}).raise_for_status().json()["TaskId"]
    for _ in range(3):
        submit(app, path, Batch=batch)
    eventually(lambda: state(app, running) == "running" or report(app, running, "running"))
    eventually(lambda: state(app, completed) == "completed" and state(app, failed) == "failed")
    eventually(lambda: app.get(f"/api/v1/tasks/{piped}").json().get("Step") == 2)
    return World(path, held, completed, failed, running, waiting, cancelled, piped, batch)


def complete_on_call(house: Stack, backend: ScriptedBackend, path: str, result: bytes | None = None) -> None:
    """Let the service complete each task at once, with a picture for its result."""
    content = picture() if result is None else result

    def take(call: Call) -> Answer | None:
        with house.client() as app:
            app.put(
                f"/api/v1/tasks/{call.task_id}/result", content=content, headers={"Content-Type": "image/png"}
            ).raise_for_status()
            report(app, call.task_id, "completed", DONE)
        return None

    backend.react(path, take)


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (30, 110, 80)).save(file, "PNG")
    return file.getvalue()


def submit(app: httpx.Client, path: str, content: bytes = b'{"id": 12345678901234567890}', **headers: str) -> str:
    headers = {"Content-Type": "application/json"} | headers
    answer = app.post(f"/api/v1/submit{path}", content=content, headers=headers)
    return answer.raise_for_status().json()["TaskId"]


def state(app: httpx.Client, task_id: str) -> str:
    return app.get(f"/api/v1/tasks/{task_id}").raise_for_status().json()["BackendStatus"]


def report(app: httpx.Client, task_id: str, state: str, status: str | None = None) -> bool:
    update = {"TaskId": task_id, "BackendStatus": state, "Status": status or state}
    return app.post("/api/CacheConnectorUpsert", json=update).is_success
