"""A model service written as the samples of the legacy platform are.

It answers at once and works in a thread, reports through its task manager, sends no attempt and no heartbeat, and
stops at any answer but 200.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.contract.legacy_client import CallFailed, TaskManager
from tests.scripted_backend import Answer, Call, ScriptedBackend

RESULT = json.dumps(
    {"detections": [{"species": "Panthera onca", "confidence": number / 500} for number in range(500)]}
)
"""The samples put whole results into the text."""

Work = Callable[[str], None]


@dataclass
class LegacyService:
    """Parameters:
    silent_s: how long the model runs without a word.
    organization, version: the second and the first segment of its APIs.
    """

    manager: TaskManager
    silent_s: float
    organization: str = "test"
    version: str = "v1"
    runs: list[str] = field(default_factory=list[str])
    """The API of each run that was begun."""

    def serve(self, backend: ScriptedBackend, apis: dict[str, Work]) -> None:
        for api, work in apis.items():
            backend.react(f"/{self.version}/{self.organization}/{api}", self._taking(api, work))

    def detect(self, task_id: str) -> None:
        """Ends with ``UpdateTaskStatus`` and a result in the text."""
        self.manager.update_task_status(task_id, "running model")
        time.sleep(self.silent_s)
        self.manager.update_task_status(task_id, f"completed - {RESULT}")

    def classify(self, task_id: str) -> None:
        """Says nothing before the end, and completes twice."""
        time.sleep(self.silent_s)
        self.manager.complete_task(task_id, "completed - https://a.example.org/image.png")
        self.manager.complete_task(task_id, "completed - https://a.example.org/table.csv")

    def reject(self, task_id: str) -> None:
        self.manager.update_task_status(task_id, "running model")
        self.manager.update_task_status(task_id, "failed: the image is no image")

    def first_step(self, next_api: str, report: str) -> Work:
        """Sends the task to *next_api*, and then reports by the manager's method *report*."""

        def work(task_id: str) -> None:
            self.manager.update_task_status(task_id, "running the first step")
            self.manager.add_pipeline_task(task_id, self.organization, self.version, next_api, task_id)
            getattr(self.manager, report)(task_id, "completed - the first step")

        return work

    def _taking(self, api: str, work: Work) -> Callable[[Call], Answer | None]:
        def run(task_id: str) -> None:
            try:
                work(task_id)
            except CallFailed:
                return

        def take(call: Call) -> Answer | None:
            self.runs.append(api)
            threading.Thread(target=run, args=(call.task_id,), daemon=True).start()
            return None

        return take
