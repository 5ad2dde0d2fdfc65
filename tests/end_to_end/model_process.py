"""A model service in a process of its own, which a test can kill: ``python -m tests.end_to_end.model_process``.

A task's result is the SHA-256 of its body. The service repeats each report until the backbone answers.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time

import httpx

from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.waiting import PATIENCE_S

SLOTS = 4
WORK_S = 0.1


def main() -> None:
    port, path = int(sys.argv[1]), sys.argv[2]
    slots = threading.BoundedSemaphore(SLOTS)

    def take(call: Call) -> Answer | None:
        if not slots.acquire(blocking=False):
            return Answer(503, {"Retry-After": "0"})
        threading.Thread(target=work, args=(call,), daemon=True).start()
        return None

    def work(call: Call) -> None:
        try:
            with httpx.Client(base_url=os.environ["BACKBONE_URL"], timeout=PATIENCE_S) as app:
                app.headers["x-functions-key"] = os.environ["BACKBONE_KEY"]
                _perform(app, call)
        finally:
            slots.release()

    with ScriptedBackend(port) as backend:
        backend.react(path, take)
        sys.stdout.write(f"READY {backend.url}\n")
        sys.stdout.flush()
        threading.Event().wait()


def _perform(app: httpx.Client, call: Call) -> None:
    result, attempt = hashlib.sha256(call.body).digest(), str(call.attempt)
    update = {"TaskId": call.task_id, "Attempt": attempt}
    steps = (
        app.build_request("POST", "/api/CacheConnectorUpsert", json={**update, "BackendStatus": "running"}),
        app.build_request(
            "PUT", f"/api/v1/tasks/{call.task_id}/result", content=result, headers={"X-Task-Attempt": attempt}
        ),
        app.build_request("POST", "/api/CacheConnectorUpsert", json={**update, "BackendStatus": "completed"}),
    )
    for request in steps:
        if _status(app, request) != 200:
            return  # another attempt has the task
        time.sleep(WORK_S)


def _status(app: httpx.Client, request: httpx.Request) -> int:
    while True:
        try:
            response = app.send(request)
        except httpx.TransportError:
            pass
        else:
            if response.status_code < 500:
                return response.status_code
        time.sleep(WORK_S)


if __name__ == "__main__":
    main()
