"""What the supervisor tells the backbone: that tasks run, how far they are, and how they end.

- `running` is reported after a second of work. A task that ends sooner costs one call, that of its end.
- Heartbeats go every third of the lease, within 1 to 30 s, all that are due in one call. Progress makes one due, once
  a second at most. A heartbeat has what is true when it is sent: none waits for an older one, and none is repeated.
- The end is repeated until it is answered, or until the lease is over.
- A 409 or 404 says that the task is no longer this service's: its work is to stop. So it is if for a whole lease
  nothing was taken, since another attempt may have begun.

Every call has `X-Task-Slots`, `X-Task-Instance`, and the task's own `traceparent`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Coroutine, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Callable
from urllib.parse import quote

from . import errors
from ._attempts import Attempt, Completed, Data, Events, Failed, Outcome, Released, Stopped
from ._blobs import UPLOADS, Opened, Sums, described, opened_by
from ._core import LARGE_BYTES, Answer, Backbone, is_transient, refusal, request, task_path
from ._drivers import Requests, run_in_threads
from ._payload import FilePayload, Payload, unpacked
from ._storage import Halted
from ._transfers import NotStored, Transfers

_BATCH = 200
_TIMEOUT_S = 10.0
_UPLOAD_TIMEOUT_S = 30.0
_FAREWELL_S = 5.0
_LOOK_EVERY_S = 10.0
_PAUSE_S = 0.5
_LONGEST_HEADER = 4_000
_UPSERT = "/api/CacheConnectorUpsert"
RUNNING_AFTER_S = 1.0
STATUS_CHARS = 1_000
"""Of a heartbeat and of a release; they take 1,024."""
_PROGRESS_EVERY_S = 1.0
_LONGEST_BEAT_S = 30.0
_COUNT = "/api/CurrentProcessingUpsert"
_COUNTED_FOR_S, _RENEW_S, _AT_MOST_EVERY_S, _COUNT_TIMEOUT_S = 60, 20.0, 1.0, 5.0

logger = logging.getLogger("taskbackbone")


def _no_span(attempt: Attempt, method: str, path: str) -> AbstractContextManager[Callable[[str, Any], None]]:
    return nullcontext(lambda name, value: None)


span: Callable[[Attempt, str, str], AbstractContextManager[Callable[[str, Any], None]]] = _no_span
"""Within it, a call for a task is made. `_tracing` replaces it."""


class Reporter:
    """The calls to the backbone.

    Parameters:
        instance: the name of this supervisor.
        slots: tells how many tasks it holds at a time, now.
    """

    def __init__(self, backbone: Backbone, instance: str, slots: Callable[[], int], transfers: Transfers) -> None:
        self.retried = 0
        """How many calls had to be made again."""
        self._backbone = backbone
        self._instance = instance
        self._slots = slots
        self.transfers = transfers
        self._watches: set[Watch] = set()
        self._calls = Requests()
        self._beats = Requests(4)  # of their own, so that no upload keeps a heartbeat from being sent
        self._news = asyncio.Event()
        self._max_body_bytes: int | None = None
        self._max_upload_bytes = 0
        self._is_leaving = False
        self._sending: set[asyncio.Task[None]] = set()
        self._beating: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._beating = asyncio.get_running_loop().create_task(self._beat())

    async def stop(self) -> None:
        for task in (self._beating, *self._sending):
            if task is not None:
                task.cancel()
        self._calls.close()
        self._beats.close()

    def leave(self) -> None:
        """From now on calls are made for a few seconds at most: the process is about to end."""
        self._is_leaving = True

    def wake(self) -> None:
        self._news.set()

    def watch(self, attempt: Attempt, lost: Callable[[str], None]) -> Watch:
        """Begins to send heartbeats for a task."""
        watch = Watch(self, attempt, lost)
        self._watches.add(watch)
        self.wake()
        return watch

    def forget(self, watch: Watch) -> None:
        self._watches.discard(watch)

    async def _beat(self) -> None:
        while True:
            self._news.clear()
            now = time.monotonic()
            due = [watch for watch in self._watches if watch.due_s <= now]
            for watch in due:
                if watch.lease_left_s <= 0:
                    self.forget(watch)
                    self.transfers.halt(watch.attempt)
                    if not watch.is_ending:
                        watch.lost("lease")
            due = [watch for watch in due if not watch.is_being_told and watch in self._watches]
            beats: list[Watch] = []
            for watch in due:
                watch.is_being_told = True
                if (
                    watch.started_s is None
                    or watch.is_running_told
                    or watch.is_ending
                    or now < watch.started_s + RUNNING_AFTER_S
                ):
                    beats.append(watch)
                else:
                    self._send(self._tell_running(watch), [watch])
            for start in range(0, len(beats), _BATCH):
                self._send(self._tell_alive(beats[start : start + _BATCH]), beats[start : start + _BATCH])
            next_s = min((watch.due_s for watch in self._watches), default=math.inf)
            try:
                wait_s = max(0.01, next_s - time.monotonic()) if next_s < math.inf else None
                await asyncio.wait_for(self._news.wait(), wait_s)
            except asyncio.TimeoutError:
                pass

    def _send(self, telling: Coroutine[Any, Any, None], watches: list[Watch]) -> None:
        for watch in watches:
            watch.is_sent()

        async def send() -> None:
            try:
                await telling
            except errors.BackboneError as error:
                self.retried += 1
                for watch in watches:
                    watch.failures = min(6, watch.failures + 1)
                logger.warning("the backbone did not take a heartbeat: %s", error)
            except Exception:
                logger.exception("a heartbeat failed")
            finally:
                for watch in watches:
                    watch.is_being_told = False
                self.wake()

        task = asyncio.get_running_loop().create_task(send())
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _tell_running(self, watch: Watch) -> None:
        sent_s = time.monotonic()
        update = self._update(watch, "running", watch.status())
        if watch.fraction is not None:
            update["Progress"] = watch.fraction
        answer = await self._call_once(watch.attempt, _UPSERT, update, watch.beat_s)
        watch.is_running_told = not is_transient(answer.status)  # what is refused once is refused again
        self._judge(watch, answer.status, sent_s)
        if not answer.is_success and answer.status not in (404, 409):
            raise refusal(answer)

    async def _tell_alive(self, watches: list[Watch]) -> None:
        sent_s = time.monotonic()
        beats: list[dict[str, Any]] = []
        for watch in watches:
            beat: dict[str, Any] = {"TaskId": watch.task_id}
            if watch.attempt.number is not None:
                beat["Attempt"] = watch.attempt.number
            if watch.is_running_told:
                beat.update(Progress=watch.fraction, Status=watch.status())
            beats.append(beat)
        least_s = min(watch.beat_s for watch in watches)
        answer = await self._call_once(None, "/api/v1/heartbeats", {"Heartbeats": beats}, least_s)
        if not answer.is_success:
            raise refusal(answer)
        outcomes: list[dict[str, Any]] = answer.json().get("Outcomes") or []
        for watch, outcome in zip(watches, outcomes):
            self._judge(watch, int(outcome["StatusCode"]), sent_s)

    async def _call_once(self, attempt: Attempt | None, path: str, body: dict[str, Any], beat_s: float) -> Answer:
        headers = self._headers(attempt, "application/json")
        call = self._backbone.call(
            "POST", path, headers=headers, body=json.dumps(body).encode(), timeout_s=min(_TIMEOUT_S, beat_s)
        )
        return await run_in_threads(request(call, retry_for_s=0), self._beats)

    def _judge(self, watch: Watch, status: int, sent_s: float) -> None:
        if 200 <= status < 300:
            watch.is_taken(sent_s)
        elif status in (404, 409):
            self.transfers.halt(watch.attempt)
            if not watch.is_ending:
                watch.lost("cancelled")
                self.forget(watch)

    async def call(
        self,
        watch: Watch,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Any,
        *,
        query: str = "",
        is_end: bool = False,
    ) -> Answer:
        """Makes a call for a task, and repeats it while the lease holds. A 409 or 404 ends the task's work.

        Raises:
            Unreachable: there was no answer.
            TooLarge: it is not even sent, since the backbone does not take so much.
        """
        size = len(body) if body is not None else 0
        if size > LARGE_BYTES and size > await self.max_body_bytes():
            raise errors.TooLarge(
                f"{size:,} bytes are more than the {self._max_body_bytes:,} that the backbone takes"
            )
        with span(watch.attempt, method, path) as note:
            while True:
                left_s = self._left_s(watch)
                sent = {**self._headers(watch.attempt), **headers}
                timeout_s = _UPLOAD_TIMEOUT_S if size > LARGE_BYTES or method == "GET" else _TIMEOUT_S
                timeout_s = min(timeout_s, _FAREWELL_S) if self._is_leaving else timeout_s
                sent_s = time.monotonic()
                call = self._backbone.call(method, path, query=query, headers=sent, body=body, timeout_s=timeout_s)
                try:
                    answer = await run_in_threads(request(call, retry_for_s=left_s), self._calls)
                except errors.Unreachable:
                    if not self._goes_on(watch):
                        raise
                else:
                    self.retried += answer.repeated
                    if not is_transient(answer.status) or not self._goes_on(watch):
                        break
                await asyncio.sleep(random.uniform(0, 2 * _PAUSE_S))
            note("http.response.status_code", answer.status)
        if answer.is_success and method != "GET":
            watch.is_taken(sent_s)
        elif answer.status == 409 and not is_end:
            self._judge(watch, answer.status, sent_s)
        return answer

    def _left_s(self, watch: Watch) -> float:
        """For how long a call is repeated before it is looked whether the lease still holds: heartbeats renew it."""
        return min(max(0.0, watch.lease_left_s), _FAREWELL_S if self._is_leaving else _LOOK_EVERY_S)

    def _goes_on(self, watch: Watch) -> bool:
        return watch.lease_left_s > 0 and not self._is_leaving

    async def max_body_bytes(self) -> float:
        """The largest body that the backbone takes; infinite if it does not tell."""
        if self._max_body_bytes is None:
            try:
                call = self._backbone.call("GET", "/api/v1/health", timeout_s=_TIMEOUT_S)
                health = (await run_in_threads(request(call, retry_for_s=5), self._calls)).json()
                told = health.get("MaxBodyBytes")
                self._max_body_bytes = int(told) if told else None
                self._max_upload_bytes = int(health.get("MaxUploadBytes") or 0)
            except (errors.BackboneError, ValueError):
                return math.inf
        return math.inf if self._max_body_bytes is None else self._max_body_bytes

    async def end(self, watch: Watch, outcome: Outcome) -> None:
        """Reports how an attempt ended."""
        watch.is_ending = True
        try:
            answer = await self._tell_end(watch, outcome)
        except errors.TooLarge as error:
            answer = await self._tell_failed(watch, f"the result is too large: {error}")
        except Halted:
            if not self.transfers.is_leaving:
                return
            answer = await self._release(watch, Released("the service is stopping", counted=False))
        except errors.BackboneError as error:
            level = logging.INFO if isinstance(error, errors.Conflict) else logging.ERROR
            logger.log(level, "the end of %s was not reported: %s", watch.attempt, error)
            return
        except Exception:
            logger.exception("the end of %s was not reported", watch.attempt)
            return
        finally:
            self.forget(watch)
        if answer is not None and not answer.is_success:
            level = logging.INFO if answer.status == 409 else logging.ERROR
            logger.log(level, "the end of %s was not taken: %s %s", watch.attempt, answer.status, refusal(answer))

    async def _tell_end(self, watch: Watch, outcome: Outcome) -> Answer | None:
        if isinstance(outcome, Completed):
            return await self._tell_completed(watch, outcome)
        if isinstance(outcome, Failed):
            return await self._tell_failed(watch, outcome.reason)
        if isinstance(outcome, Released):
            return await self._release(watch, outcome)
        assert isinstance(outcome, Stopped)
        return None

    async def _tell_completed(self, watch: Watch, done: Completed) -> Answer | None:
        text = f"completed - {done.text}" if done.text else "completed"
        if done.body is not None:
            headers = {"Content-Type": done.content_type}
            if done.content_encoding:
                headers["Content-Encoding"] = done.content_encoding
            told = quote(text if done.text else "", safe="")
            completes = done.next_step is None and len(told) <= _LONGEST_HEADER
            if completes:
                headers["X-Task-Complete"] = told
            answer = await self._put_result(watch, headers, done.body)
            if completes or answer is None or not answer.is_success:
                return answer
        if done.next_step is not None:
            return await self._next(watch, *done.next_step, is_result=done.body is not None)
        return await self._upsert(watch, self._update(watch, "completed", text))

    async def _put_result(self, watch: Watch, headers: dict[str, str], body: Data) -> Answer | None:
        path, what = task_path(watch.task_id, "/result"), "the result"
        size = _size(body)
        if size <= LARGE_BYTES or not (await self.max_body_bytes() < size <= self._max_upload_bytes):
            return await self._hand_in(watch, "PUT", path, headers, body, what)
        kept = {name: value for name, value in headers.items() if not name.startswith("Content-")}
        try:
            kept["X-Upload"] = await self._upload(watch, headers, payload(body))
            answer = await self.call(watch, "PUT", path, kept, b"", is_end=True)
        except NotStored as error:
            reason = str(error)
        except (OSError, errors.BodyUnreadable) as error:
            return await self._tell_failed(watch, _unreadable(what, error))
        else:
            if "upload" not in str(answer.json().get("type", "")):
                return answer
            reason = str(refusal(answer))  # it is gone, or is another
        return await self._tell_end(watch, Released(f"the result could not be stored: {reason}", counted=True))

    async def _next(self, watch: Watch, target: str, query: str, kind: str, file: str, *, is_result: bool) -> Answer:
        headers = {"Content-Type": kind} if file else {"X-Next-Body": "result" if is_result else "current"}
        body, path = Path(file) if file else b"", task_path(watch.task_id, "/next" + target)
        return await self._hand_in(watch, "POST", path, headers, body, f"the next step, {target}", query=query)

    async def _hand_in(
        self, watch: Watch, method: str, path: str, headers: dict[str, str], body: Data, what: str, **options: Any
    ) -> Answer:
        """Send what the work has made. If that cannot be, the task has failed."""
        try:
            answer = await self.call(watch, method, path, headers, payload(body), is_end=True, **options)
        except (OSError, errors.BodyUnreadable) as error:
            return await self._tell_failed(watch, _unreadable(what, error))
        if answer.status in (400, 413, 415):
            return await self._tell_failed(watch, f"the backbone refused {what}: {refusal(answer)}")
        return answer

    async def _upload(self, watch: Watch, headers: Mapping[str, str], body: bytes | Payload) -> str:
        """Uploads a result, and returns the upload's id."""
        kind, encoding = headers["Content-Type"], headers.get("Content-Encoding", "")

        async def open_upload(sums: Sums) -> Opened:
            document = described(len(body), kind, encoding, sums, {"TaskId": watch.task_id})
            answer = await self._post(watch, UPLOADS, document)
            if not answer.is_success:
                raise refusal(answer)
            return opened_by(answer.json())

        return await self.transfers.upload(watch.attempt, body, kind, encoding, open_upload)

    async def _tell_failed(self, watch: Watch, reason: str) -> Answer:
        text = reason if reason.lower().startswith("failed") else f"failed - {reason}" if reason else "failed"
        return await self._upsert(watch, self._update(watch, "failed", text))

    async def _release(self, watch: Watch, released: Released) -> Answer | None:
        if watch.attempt.number is None:
            logger.warning("%s cannot be given back, since it has no number: its lease must end", watch.attempt)
            return None
        body: dict[str, Any] = {"Failed": released.counted, "Status": released.reason[:STATUS_CHARS]}
        if released.after_s:
            body["RetryAfterSeconds"] = math.ceil(released.after_s)
        path = task_path(watch.task_id, "/release")
        return await self._post(watch, path, body)

    def _update(self, watch: Watch, backend_status: str, status: str) -> dict[str, Any]:
        update: dict[str, Any] = {"TaskId": watch.task_id, "BackendStatus": backend_status, "Status": status}
        if watch.attempt.number is not None:
            update["Attempt"] = watch.attempt.number
        return update

    async def _upsert(self, watch: Watch, update: dict[str, Any]) -> Answer:
        return await self._post(watch, _UPSERT, update)

    async def _post(self, watch: Watch, path: str, body: dict[str, Any]) -> Answer:
        headers = {"Content-Type": "application/json"}
        return await self.call(watch, "POST", path, headers, json.dumps(body).encode(), is_end=True)

    def _headers(self, attempt: Attempt | None, content_type: str | None = None) -> dict[str, str]:
        headers = {"X-Task-Slots": str(self._slots()), "X-Task-Instance": self._instance}
        if attempt is not None:
            headers.update(attempt.trace)
            if attempt.number is not None:
                headers["X-Task-Attempt"] = str(attempt.number)
        if content_type:
            headers["Content-Type"] = content_type
        return headers


def _size(body: Data) -> int:
    """0 for a file that is gone."""
    if isinstance(body, bytes):
        return len(body)
    with suppress(OSError):
        return body.stat().st_size
    return 0


def _unreadable(what: str, error: Exception) -> str:
    return f"the file of {what} cannot be read ({type(error).__name__})"


class Watch(Events):
    """A task that this service has, as the backbone was told of it."""

    def __init__(self, reporter: Reporter, attempt: Attempt, lost: Callable[[str], None]) -> None:
        super().__init__()
        assert attempt.task_id is not None
        self.attempt = attempt
        self.task_id = attempt.task_id
        self.lost = lost
        """Called with the reason when the task is no longer this service's."""
        self.is_ending = False
        self.is_running_told = False
        self.is_being_told = False
        self.fraction: float | None = None
        self.text: str | None = None
        self.confirmed_s = self.told_s = self.active_s
        """When the backbone last took something, and when it was last told."""
        self.beat_s = min(_LONGEST_BEAT_S, max(1.0, attempt.lease_s / 3))
        self._reporter = reporter
        self.failures = 0
        """How many times in a row nothing was taken."""
        self._has_news = False

    @property
    def lease_left_s(self) -> float:
        return self.confirmed_s + self.attempt.lease_s - time.monotonic()

    @property
    def due_s(self) -> float:
        """When the next thing is to be told or looked at, in the loop's monotonic time."""
        if self.is_being_told:
            return self.confirmed_s + self.attempt.lease_s
        due_s = self.told_s + (min(self.beat_s, 2.0**self.failures / 2) if self.failures else self.beat_s)
        if self.started_s is not None and not self.is_running_told and not self.is_ending:
            due_s = min(due_s, max(self.started_s + RUNNING_AFTER_S, self.told_s + RUNNING_AFTER_S))
        elif self._has_news and self.is_running_told:
            due_s = min(due_s, self.told_s + _PROGRESS_EVERY_S)
        return min(due_s, self.confirmed_s + self.attempt.lease_s)

    def status(self) -> str:
        return f"running - {self.text}"[:STATUS_CHARS] if self.text else "running"

    def is_sent(self) -> None:
        """What is known is on its way."""
        self._has_news = False
        self.told_s = time.monotonic()

    def is_taken(self, sent_s: float) -> None:
        """What was sent then was taken: the lease counts from there."""
        self.confirmed_s = max(self.confirmed_s, sent_s)
        self.failures = 0

    def started(self) -> None:
        super().started()
        self._reporter.wake()

    def progress(self, fraction: float | None, text: str | None) -> None:
        super().progress(fraction, text)
        if fraction is None and text is None:
            return
        self.fraction = self.fraction if fraction is None else fraction
        self.text = self.text if text is None else text
        if not self._has_news:
            self._has_news = True
            self._reporter.wake()

    async def ask(self, what: str, data: Data | None = None) -> Data | None:
        path = task_path(self.task_id, "/result" if what == "previous" else "/checkpoint")
        self.is_asking += 1
        try:
            if data is None:
                answer = await self._reporter.call(self, "GET", path, {}, None)
            else:
                headers = {"Content-Type": "application/octet-stream"}
                answer = await self._reporter.call(self, "PUT", path, headers, payload(data))
            if answer.status == 303:  # it is larger than the backbone passes on
                return await self._reporter.transfers.fetch_result(self.attempt, answer)
            if answer.is_success:
                encoding = answer.headers.get("content-encoding")
                return (await unpacked(encoding, answer.body)) if data is None else None
            if answer.status == 404 and data is None:
                return None
            raise refusal(answer)
        except ValueError as error:
            raise errors.BackboneError(str(error)) from error
        finally:
            self.is_asking -= 1
            self.active_s = time.monotonic()


def payload(data: Data) -> bytes | Payload:
    """What a call sends of it. Raises OSError."""
    return FilePayload(data) if isinstance(data, Path) else data


class InFlight:
    """Counts direct calls by path, and reports the counts, as `CurrentProcessingUpsert` takes them.

    It is on if `SERVICE_CLUSTER` names the service's counter. This instance has a share of the count. It tells
    changes once a second at most, and renews its share often enough that the backbone does not drop it.
    """

    def __init__(self, backbone: Backbone, cluster: str, instance: str) -> None:
        self._backbone = backbone
        self._cluster = cluster
        self._instance = instance
        self._shares = 0
        self._counts: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._leaving = asyncio.Event()
        self._calls = Requests(1)
        self._telling: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._telling = asyncio.get_running_loop().create_task(self._tell())

    def change(self, path: str, by: int) -> None:
        self._counts[path] += by
        self._changed.set()

    async def stop(self) -> None:
        """Takes the share back to 0."""
        if self._telling is None:
            return
        self._leaving.set()
        self._changed.set()
        await self._telling  # it is not cut off: nobody would know what was counted
        self._counts = Counter(dict.fromkeys(self._counts, 0))
        if any(self._told.values()):
            await self._report()
        self._calls.close()

    async def _tell(self) -> None:
        while not self._leaving.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _RENEW_S)
            self._changed.clear()
            if self._counts:
                await self._report()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), _AT_MOST_EVERY_S)

    async def _report(self) -> None:
        counts = Counter(self._counts)
        changes = {path: count - self._told[path] for path, count in counts.items()}
        body = [
            {
                "ServiceCluster": self._cluster,
                "ApiPath": path,
                "IncrementBy": max(0, change),
                "DecrementBy": max(0, -change),
                "Instance": f"{self._instance}-{self._shares}",
                "IntervalSeconds": _COUNTED_FOR_S,
            }
            for path, change in changes.items()
        ]
        headers = {"Content-Type": "application/json"}
        call = self._backbone.call(
            "POST", _COUNT, headers=headers, body=json.dumps(body).encode(), timeout_s=_COUNT_TIMEOUT_S
        )
        try:
            answer = await run_in_threads(request(call, retry_for_s=0), self._calls)
        except errors.BackboneError as error:
            self._begin_again(str(error))
            return
        if answer.is_success:
            self._told = counts
        elif is_transient(answer.status):
            self._begin_again(f"status {answer.status}")
        else:
            logger.error("the direct calls in flight were not taken: status %s", answer.status)

    def _begin_again(self, reason: str) -> None:
        """Nobody knows whether that was counted. So a new share begins, and the old one is dropped in silence."""
        logger.warning("the direct calls in flight were not reported: %s", reason)
        self._shares += 1
        self._told = Counter()
