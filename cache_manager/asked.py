"""What a submit says of its tasks beside their bodies, whether it has one or many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cache_manager.asked_timing import AskedTiming
from cache_manager.callback_api import CALLBACK_HEADER
from cache_manager.submitting import BATCH_HEADER, PIPELINE_HEADER, Way
from cache_manager.task_service import TaskService
from shared import telemetry
from shared.tasks.callback import WantedCallback
from shared.tasks.task import NewTask, PipelineStep


@dataclass(frozen=True, slots=True)
class Asked:
    """
    Attributes:
        batch: the one that they are to be children of; empty: of none.
        callback: whom they are to tell, if the request says so.
    """

    batch: str
    priority: int
    callback: WantedCallback | None
    timing: AskedTiming

    def headers(self, way: Way) -> Mapping[str, str]:
        """By header, what a repetition has to say too."""
        named = self.callback.destination if self.callback else ""
        return {PIPELINE_HEADER: way.asked, BATCH_HEADER: self.batch, CALLBACK_HEADER: named, **self.timing.headers}

    def task(self, task_id: str, way: Way, service: TaskService, fingerprint: str = "") -> NewTask:
        """A task of the request, without its body."""
        route = way.route
        endpoint = route.endpoints[0]
        steps = route.endpoints if route.is_pipeline else ()
        return NewTask(
            task_id,
            endpoint.path,
            **endpoint.backend.bounds,
            query=endpoint.query,
            traceparent=telemetry.traceparent(),
            fingerprint=fingerprint,
            owner=service.owner or "",
            priority=self.priority,
            steps=[PipelineStep(step.path, step.query, **step.backend.bounds) for step in steps],
            pipeline=route.name,
            batch=self.batch,
            by=service.by,
            callback=self.callback,
            timing=self.timing.of_task,
        )
