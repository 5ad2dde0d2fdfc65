"""The calls with which a model service reports on its tasks to the backbone, by the legacy contract.

`TaskManager` repeats every call while the backbone cannot be reached or answers 429 or 5xx: it may be restarting, or
busy. The platform's own 429 has neither a body nor a `Retry-After`, so the pauses are the manager's.
"""

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlsplit

import httpx

_RETRY_FOR_S = 240
_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 5.0

logger = logging.getLogger(__name__)


class TaskRevoked(Exception):
    """Raised when the service has to drop a task: the task was cancelled, has ended, or has a newer attempt."""


class TooLarge(Exception):
    """Raised when the backbone does not take a body of this size. Its text is for the caller."""


class BackboneFailed(Exception):
    """Raised when the backbone refused a call, or when all tries of a call failed until the time was up."""


@dataclass(frozen=True)
class TaskReference:
    """A task, as the headers of its dispatch describe it."""

    task_id: str
    attempt: int | None
    """None if the backbone does not number its attempts."""
    traceparent: str | None

    @property
    def key(self) -> tuple[str, int | None]:
        """What two deliveries of the same dispatch have in common."""
        return self.task_id, self.attempt

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> "TaskReference | None":
        """Returns None for a request that is no dispatch: its caller waits for the answer."""
        task_id, attempt = headers.get("taskId"), headers.get("X-Task-Attempt", "")
        if not task_id:
            return None
        return cls(task_id, int(attempt) if attempt.isdecimal() else None, headers.get("traceparent"))


@dataclass
class TaskManager:
    """The calls to the backbone. Each raises `TaskRevoked` when the service has to drop the task at once."""

    client: httpx.AsyncClient
    upsert_url: str
    """Contains its function key as `?code=`, like `get_url`."""
    get_url: str
    backbone_url: str
    backbone_key: str
    _limit_bytes: int | None = None
    """The backbone's `MaxBodyBytes`, once it was needed."""

    async def update(
        self, task: TaskReference, backend_status: Literal["running", "completed", "failed"], status: str
    ) -> None:
        """Reports a task's progress or its end. Each report also shows that the service still works on the task."""
        endpoint = await self._endpoint_of(task)
        await self._upsert(task, backend_status, status, endpoint, {"PublishToGrid": False})

    async def start_next_step(self, task: TaskReference, path: str, body: str) -> None:
        """Makes `path` on the task's host the next step of its pipeline, with `body` as the request's body."""
        here = urlsplit(await self._endpoint_of(task))
        endpoint = f"{here.scheme}://{here.netloc}{path}"
        await self._upsert(task, "created", "created", endpoint, {"PublishToGrid": True, "Body": body})

    async def store_result(self, task: TaskReference, data: bytes, content_type: str) -> None:
        """Stores a task's result. Raises `TooLarge` if the backbone does not take it."""
        attempt = {} if task.attempt is None else {"X-Task-Attempt": str(task.attempt)}
        headers = {"x-functions-key": self.backbone_key, "Content-Type": content_type, **attempt}
        await self._call(task, "PUT", self._result_url(task), headers=headers, content=data)

    async def load_result(self, task: TaskReference) -> bytes:
        headers = {"x-functions-key": self.backbone_key}
        return (await self._call(task, "GET", self._result_url(task), headers=headers)).content

    async def _endpoint_of(self, task: TaskReference) -> str:
        url = httpx.URL(self.get_url).copy_merge_params({"taskId": task.task_id})
        response = await self._call(task, "GET", url)
        if response.status_code == httpx.codes.NO_CONTENT:
            raise TaskRevoked("the backbone does not know it")
        return response.json()["Endpoint"]

    async def _upsert(
        self, task: TaskReference, backend_status: str, status: str, endpoint: str, publishing: dict[str, str | bool]
    ) -> None:
        body: dict[str, str | bool | int] = {
            "TaskId": task.task_id,
            "Timestamp": datetime.now(UTC).isoformat(),
            "Status": status,
            "BackendStatus": backend_status,
            "Endpoint": endpoint,
            **publishing,
        }
        if task.attempt is not None:
            body["Attempt"] = task.attempt
        await self._call(task, "POST", self.upsert_url, json=body)

    def _result_url(self, task: TaskReference) -> str:
        return f"{self.backbone_url}/api/v1/tasks/{task.task_id}/result"

    async def _check_size(self, size_bytes: int) -> None:
        """Asks before a body is sent. The platform answers 500 to one over its limit, before the backbone sees it,
        and each repetition would get the same.
        """
        if self._limit_bytes is None:
            with suppress(httpx.TransportError, ValueError, KeyError):
                response = await self.client.get(f"{self.backbone_url}/api/v1/health")
                self._limit_bytes = int(response.json()["MaxBodyBytes"])
        if self._limit_bytes is not None and size_bytes > self._limit_bytes:
            raise TooLarge(f"the result has {size_bytes} bytes, and at most {self._limit_bytes} are taken")

    async def _call(
        self,
        task: TaskReference,
        method: str,
        url: httpx.URL | str,
        *,
        headers: dict[str, str] | None = None,
        json: object = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        if content is not None:
            await self._check_size(len(content))
        headers = {**(headers or {}), **({"traceparent": task.traceparent} if task.traceparent else {})}
        what = f"{method} {httpx.URL(url).path}"  # without the query, which holds the key
        give_up_at_s, delay_s = time.monotonic() + _RETRY_FOR_S, _FIRST_DELAY_S
        while True:
            try:
                response = await self.client.request(method, url, headers=headers, json=json, content=content)
            except httpx.TransportError as error:
                failure = type(error).__name__
            else:
                if response.is_success:
                    return response
                failure = f"status {response.status_code}"
                if response.status_code in (httpx.codes.CONFLICT, httpx.codes.NOT_FOUND):
                    raise TaskRevoked(f"{what}: {failure}")
                if not response.is_server_error and response.status_code != httpx.codes.TOO_MANY_REQUESTS:
                    raise BackboneFailed(f"{what}: {failure}")
            if time.monotonic() + delay_s > give_up_at_s:
                raise BackboneFailed(f"{what}: {failure}, for {_RETRY_FOR_S} s")
            logger.warning("%s: %s, trying again", what, failure)
            await asyncio.sleep(delay_s * random.uniform(0.5, 1))
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
