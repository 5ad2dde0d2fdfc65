"""What every generated client does: submit -> wait -> result -> list -> queue, and a conflict."""

import os
from typing import Protocol

BASE_URL = os.environ["BACKBONE_URL"]
KEY = os.environ["BACKBONE_KEY"]
PATH = os.environ["BACKBONE_PATH"]


class Calls(Protocol):
    def submit(self, path: str, body: bytes) -> str:
        """The task's id, after a look at the other members of the answer."""
        ...

    def wait(self, task_id: str, seconds: float) -> str:
        """The task's status."""
        ...

    def result(self, task_id: str) -> bytes: ...

    def list(self, path: str) -> list[str]:
        """The ids of the completed tasks."""
        ...

    def queue(self, path: str) -> tuple[int, int | None]:
        """How many tasks have completed, and the limit."""
        ...

    def conflict(self, task_id: str) -> tuple[int, str]:
        """Cancels a task that has ended: the status, and the id of the task in the conflict."""
        ...

    def unknown_queue(self, path: str) -> tuple[int, str]:
        """The status and the detail of the answer for a queue that nobody knows."""
        ...


def run(calls: Calls) -> None:
    body = bytes(range(256))
    task_id = calls.submit(PATH, body)
    for _ in range(10):
        if calls.wait(task_id, 20) == "completed":
            break
    assert calls.wait(task_id, 0) == "completed"
    assert calls.result(task_id) == body
    assert calls.list(PATH) == [task_id]
    assert calls.queue(PATH) == (1, None)
    assert calls.conflict(task_id) == (409, task_id)
    status, detail = calls.unknown_queue("v1/unheard-of")
    assert status == 404
    assert "no backend is registered" in detail
