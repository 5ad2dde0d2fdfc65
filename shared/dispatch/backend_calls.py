"""The call of a claimed task's backend: its body, wherever that lies, the headers, and the answer."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from shared import telemetry
from shared.blobs import STREAM_BYTES
from shared.bodies import BlobStream, BlobsUnavailable, BodyMissing, BodyStore, NoSas
from shared.dispatch.backend_client import (
    Accepted,
    Answer,
    BackendTransport,
    Completed,
    ResultRoom,
    Unreachable,
    error_type_of,
)
from shared.dispatch.body_reference import BodyReference, TooLarge, reading_s, reference_headers
from shared.dispatch.registry import Endpoint
from shared.settings import Settings
from shared.tasks.outcomes import Claimed
from shared.tasks.task import Content, Task


class BackendCalls:
    """One per event loop."""

    def __init__(self, settings: Settings, bodies: BodyStore, backend: BackendTransport) -> None:
        self._settings = settings
        self._bodies = bodies
        self._backend = backend

    async def call(self, claimed: Claimed, endpoint: Endpoint, room: ResultRoom) -> Answer:
        """Send the body of a claimed task to its backend, or where the backend may read it.

        Raises:
            TooLarge: this backend may not get the body.
            BodyMissing: the body is gone.
            BlobsUnavailable: the body could not be read in time, or not to its end.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.dispatch_timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                body = await self._body(claimed, endpoint)
        except TimeoutError as error:
            raise BlobsUnavailable("the body could not be read in time") from error
        answer = await self._post(claimed.task, endpoint, body, max(1.0, deadline - loop.time()), room)
        if isinstance(answer, Unreachable) and isinstance(body, BlobStream) and body.is_broken:
            raise BlobsUnavailable("the body could not be read to its end")
        return answer

    def passing_bytes(self, task: Task, endpoint: Endpoint | None) -> int:
        """How many bytes of the body are in this process at a time."""
        body = task.body
        if body is None or (self._goes_by_reference(body, endpoint) and self._bodies.why_no_sas is None):
            return 0
        return min(body.size_bytes, STREAM_BYTES)

    async def _body(self, claimed: Claimed, endpoint: Endpoint) -> bytes | BlobStream | BodyReference:
        content = claimed.task.body
        assert content is not None
        if self._goes_by_reference(content, endpoint):
            valid_s = reading_s(self._settings.read_url_s, claimed.task.lease_s)
            with suppress(NoSas):
                return BodyReference((await self._bodies.read_url(content, valid_s)).url)
        if claimed.inline_body is None:
            if content.is_upload and content.size_bytes > self._settings.largest_body_bytes:
                if endpoint.backend.takes_reference:
                    raise BlobsUnavailable(self._bodies.why_no_sas)
                raise TooLarge
            return await self._bodies.stream(content)
        if len(claimed.inline_body) != content.size_bytes:
            raise BodyMissing(claimed.task.id)
        return claimed.inline_body

    @staticmethod
    def _goes_by_reference(body: Content, endpoint: Endpoint | None) -> bool:
        return body.blob is not None and endpoint is not None and endpoint.backend.takes_reference

    async def _post(
        self,
        task: Task,
        endpoint: Endpoint,
        body: bytes | BlobStream | BodyReference,
        timeout_s: float,
        room: ResultRoom,
    ) -> Answer:
        assert task.body is not None
        in_its_place: dict[str, str] = {}
        if isinstance(body, BodyReference):
            body, in_its_place = b"", reference_headers(body, task.body)
        with telemetry.client_span(task, endpoint.url) as span:
            headers = {
                "taskId": task.id,
                "X-Task-Attempt": str(task.attempt),
                "X-Task-Lease": f"{task.lease_s:g}",
                "Content-Type": task.body.content_type,
                **({"Content-Encoding": task.body.encoding} if task.body.encoding else {}),
                "Content-Length": str(task.body.size_bytes),
                **in_its_place,
                **telemetry.outgoing(task),
            }
            answer = await self._backend.post(endpoint, headers, body, timeout_s, room)
            span.set_attribute("task.dispatch.answer", type(answer).__name__)
            if not isinstance(answer, (Accepted, Completed)):
                telemetry.not_accepted(span, error_type_of(answer))
            return answer
