"""What callers and model services do with the app."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from tests.secrecy import planted
from tests.waiting import PATIENCE_S, eventually

BODY = json.dumps({"body": planted("body")}).encode()
ENDED = ("completed", "failed", "cancelled")


class Backbone:
    """The app over HTTP, through a client that holds its key."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def submit(self, path: str, body: bytes = BODY, content_type: str = "application/json") -> str:
        """The id of a new task for the endpoint *path*, which may have a query string."""
        response = self.http.post(f"/api/v1/submit{path}", content=body, headers={"Content-Type": content_type})
        assert response.status_code == 202, response.text
        return response.json()["TaskId"]

    def task(self, task_id: str) -> dict[str, Any]:
        return self.http.get(f"/api/v1/tasks/{task_id}").raise_for_status().json()

    def history(self, task_id: str) -> list[dict[str, Any]]:
        return self.http.get(f"/api/v1/tasks/{task_id}/history").raise_for_status().json()["Events"]

    def transitions(self, task_id: str) -> list[tuple[str, int]]:
        """The states of a task so far, each with its attempt."""
        return [(event["State"], event["Attempt"]) for event in self.history(task_id)]

    def ended(self, task_id: str, within_s: float = PATIENCE_S) -> dict[str, Any]:
        """The task, once it has ended."""
        return self.until(task_id, lambda task: task["BackendStatus"] in ENDED, within_s)

    def until(
        self, task_id: str, condition: Callable[[dict[str, Any]], bool], within_s: float = PATIENCE_S
    ) -> dict[str, Any]:
        """The task, once *condition* holds for it."""
        etag = ""

        def next_change() -> dict[str, Any] | None:
            nonlocal etag
            response = self.http.get(
                f"/api/v1/tasks/{task_id}", params={"wait": 2}, headers={"If-None-Match": etag or '"none"'}
            )
            if response.status_code == 304:
                return None
            etag = response.raise_for_status().headers["ETag"]
            return task if condition(task := response.json()) else None

        task = eventually(next_change, within_s=within_s)
        assert task is not None
        return task

    def update(self, task_id: str, state: str, status: str | None = None, **members: object) -> httpx.Response:
        """Report like a model service; *members* are further keys of ``CacheConnectorUpsert``."""
        document = {"TaskId": task_id, "Status": status or state, "BackendStatus": state, **members}
        return self.http.post("/api/CacheConnectorUpsert", json=document)

    def heartbeat(self, task_id: str, attempt: int) -> None:
        headers = {"X-Task-Attempt": str(attempt)}
        self.http.post(f"/api/v1/tasks/{task_id}/heartbeat", headers=headers).raise_for_status()

    def complete(self, task_id: str) -> None:
        self.update(task_id, "completed").raise_for_status()

    def complete_as_current(self, task_id: str) -> None:
        """Report the completion as the current attempt, or as the next one if the lease ends meanwhile."""

        def accepted() -> bool:
            attempt = self.task(task_id)["Attempt"]
            return self.update(task_id, "completed", Attempt=attempt).status_code == 200

        eventually(accepted)

    def depth(self, path: str) -> dict[str, int]:
        """How many tasks of the endpoint *path* are in each state; states without tasks are left out."""
        counts = self.http.get(f"/api/v1/queues{path}").raise_for_status().json()
        states = ("Waiting", "Dispatched", "Running", "Completed", "Failed", "Cancelled")
        return {state: counts[state] for state in states if counts[state]}
