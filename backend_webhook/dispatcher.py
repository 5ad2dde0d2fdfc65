"""Dispatch: claim an attempt, hand the body to the backend, record the outcome."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from enum import StrEnum

from opentelemetry.trace import StatusCode

from backend_webhook.backend_client import Accepted, Answer, BackendClient, Busy, Unreachable
from shared import telemetry
from shared.backends import Endpoint, UnknownBackend
from shared.bodies import BlobStream, BlobsUnavailable, BodyMissing
from shared.limits import Overloaded
from shared.services import Services
from shared.task import Task
from shared.task_store import BACKOFF_CAP_S, Claimed, Moved, Outcome
from shared.transitions import after_transition

log = logging.getLogger("task_backbone")

RECORDING_MARGIN_S = 5.0
"""What a dispatch may take beyond its timeout to record the outcome, before its claim is taken for lost."""


class Dispatched(StrEnum):
    """What became of an event."""

    ACCEPTED = "accepted"
    BUSY = "busy"
    RETRIED = "retried"
    FAILED = "failed"
    DROPPED = "dropped"
    """A duplicate, or overtaken by another attempt: nothing was to be done."""


@dataclass(frozen=True, slots=True)
class Dispatcher:
    services: Services
    client: BackendClient

    async def dispatch(self, task_id: str, attempt: int | None, traceparent: str) -> Dispatched:
        """Dispatch one attempt of a task; None is whichever is current.

        Raises:
            StoreUnavailable: the claim or the outcome could not be recorded. The attempt's deadline finds the task.
        """
        timeout_s = self.services.settings.dispatch_timeout_s
        claimed = await self.services.store.claim(task_id, attempt, window_s=timeout_s + RECORDING_MARGIN_S)
        if not isinstance(claimed, Claimed):
            log.info("dropped an event for task %s: %s", task_id, claimed.reason)
            return Dispatched.DROPPED
        with telemetry.consumer_span(claimed.task, traceparent):
            telemetry.transition(claimed.task)
            limits = self.services.limits
            size_bytes = claimed.task.body.size_bytes if claimed.task.body else 0
            try:
                with limits.dispatches.hold(), limits.body(size_bytes):
                    return await self._hand_over(claimed, timeout_s)
            except Overloaded:
                after_s = self.services.settings.busy_retry_s
                await self._requeue(claimed.task, "Awaiting a free dispatcher", after_s, failed=False)
                return Dispatched.BUSY

    async def _hand_over(self, claimed: Claimed, timeout_s: float) -> Dispatched:
        task = claimed.task
        try:
            endpoint = self.services.backends.endpoint(task.path, task.query)
        except UnknownBackend as error:
            return await self._fail(task, f"Failed - {error}.")
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                body = await self._body(claimed)
        except BodyMissing:
            return await self._fail(task, "Failed - the request body is gone.")
        except (BlobsUnavailable, TimeoutError):
            return await self._await_body(task)
        left_s = max(1.0, deadline - asyncio.get_running_loop().time())
        answer = await self._post(task, endpoint, body, left_s)
        if isinstance(answer, Unreachable) and isinstance(body, BlobStream) and body.is_broken:
            return await self._await_body(task)
        return await self._record(task, answer)

    async def _await_body(self, task: Task) -> Dispatched:
        # No fault of the backend's, so no failed attempt.
        return await self._requeue(
            task, "Awaiting the request body", self.services.settings.busy_retry_s, failed=False
        )

    async def _body(self, claimed: Claimed) -> bytes | BlobStream:
        if claimed.inline_body is not None:
            return claimed.inline_body
        assert claimed.task.body is not None
        assert claimed.task.body.blob is not None
        return await self.services.bodies.stream(claimed.task.body.blob)

    async def _post(self, task: Task, endpoint: Endpoint, body: bytes | BlobStream, timeout_s: float) -> Answer:
        assert task.body is not None
        with telemetry.client_span(task, endpoint.url) as span:
            headers = {
                "taskId": task.id,
                "X-Task-Attempt": str(task.attempt),
                "Content-Type": task.body.content_type,
                "Content-Length": str(task.body.size_bytes),
                **telemetry.outgoing(task),
            }
            answer = await self.client.post(endpoint, headers, body, timeout_s)
            span.set_attribute("task.dispatch.answer", type(answer).__name__)
            if not isinstance(answer, Accepted):
                span.set_status(StatusCode.ERROR)
            return answer

    async def _record(self, task: Task, answer: Answer) -> Dispatched:
        settings = self.services.settings
        if isinstance(answer, Accepted):
            await self.services.store.accepted(task)
            return Dispatched.ACCEPTED
        if isinstance(answer, Busy):
            after_s = settings.busy_retry_s if answer.retry_after_s is None else answer.retry_after_s
            await self._requeue(task, "Awaiting service availability", after_s, failed=False)
            return Dispatched.BUSY
        failures = task.failures + 1
        if isinstance(answer, Unreachable) and failures < settings.max_attempts:
            delay_s = backoff_s(settings.backoff_base_s, failures, random.random())
            return await self._requeue(task, f"Retrying - the backend {answer.reason}", delay_s, failed=True)
        tried = f" (attempt {failures} of {settings.max_attempts})" if isinstance(answer, Unreachable) else ""
        return await self._fail(task, f"Failed - the backend {answer.reason}{tried}.")

    async def _requeue(self, task: Task, status: str, after_s: float, *, failed: bool) -> Dispatched:
        await self._report(await self.services.store.requeue(task, status=status, after_s=after_s, failed=failed))
        return Dispatched.RETRIED

    async def _fail(self, task: Task, status: str) -> Dispatched:
        await self._report(await self.services.store.fail_dispatch(task, status=status))
        return Dispatched.FAILED

    async def _report(self, outcome: Outcome) -> None:
        # Refused: the backend has reported meanwhile, or the attempt was overtaken. Its word counts.
        if isinstance(outcome, Moved) and outcome.transition:
            await after_transition(self.services, outcome.task)


def backoff_s(base_s: float, failures: int, jitter: float) -> float:
    """Delay before the next attempt: doubles with each failure to ten minutes at most; *jitter* in [0, 1) takes up
    to half of it away, so that tasks that failed together do not come back together."""
    return min(BACKOFF_CAP_S, base_s * 2.0 ** min(failures - 1, 30)) * (1 - jitter / 2)
