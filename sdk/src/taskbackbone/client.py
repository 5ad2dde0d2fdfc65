"""The client of callers: ``TaskClient``, and ``AsyncTaskClient`` in an event loop."""

from __future__ import annotations

import json
import os
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from . import errors
from ._calls import (
    Caller,
    Deadline,
    Pipeline,
    Query,
    TaskView,
    When,
    as_time,
    document_of,
    endpoint,
    first_ends,
    target_of,
)
from ._core import RETRY_FOR_S, TIMEOUT_S, Answer, Backbone, NoAnswer, Sleep, Steps, task_path
from ._drivers import Aiohttp, Requests, run_async, run_sync
from ._payload import MOST_DECODED_BYTES, Decoder, Payload, aready, ready, spooled

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from .batch import AsyncBatch, Batch

__all__ = [
    "AsyncResult",
    "AsyncSchedules",
    "AsyncTask",
    "AsyncTaskClient",
    "Result",
    "Schedules",
    "Task",
    "TaskClient",
]

T = TypeVar("T")
_Bytes = bytes
_MAX_FAILURES = 6
_MOST_INLINE_BYTES = 512 * 1024


def _pause(seconds: float) -> Steps[None]:
    yield Sleep(seconds)


def _schedule(name: str, rest: str = "") -> str:
    return f"/api/v1/schedules/{quote(name, safe='')}{rest}"


def _put_schedule(
    caller: Caller, name: str, path: str, query: Query, body: bytes | Payload, kind: str, told: Mapping[str, Any]
) -> Steps[dict[str, Any]]:
    target, text = endpoint(path, query)
    given = {"Path": target, "Query": text, **told}
    document = {member: value for member, value in given.items() if value not in (None, "")}

    def put(beside: Mapping[str, Any]) -> Steps[Answer]:
        sent = json.dumps({**document, **beside}).encode()
        return caller.demand("PUT", _schedule(name), body=sent, headers={"Content-Type": "application/json"})

    if isinstance(body, bytes) and len(body) <= _MOST_INLINE_BYTES:
        try:
            return document_of((yield from put({"Body": body.decode(), "ContentType": kind})), "Name")
        except UnicodeDecodeError:
            pass
    from ._blobs import upload

    headers = {"Content-Type": kind}
    answer = yield from upload(caller, lambda sent: put({"BodyUpload": sent["X-Upload"]}), body, headers, {})
    return document_of(answer, "Name")


class _AsyncLine(Caller):
    """A caller and its connections."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.transport = Aiohttp()

    async def run(self, steps: Steps[T]) -> T:
        return await run_async(steps, self.transport)

    async def pages(self, what: str, **members: Any) -> AsyncIterator[list[dict[str, Any]]]:
        """All ``Tasks``, ``Batches`` or ``Queues``, page by page."""
        cursor = None
        while True:
            page = await self.run(self.page(what, cursor=cursor, **members))
            yield page[what]
            cursor = page.get("NextCursor")
            if not cursor:
                return


class AsyncTaskClient:
    """Submits tasks to the backbone, and follows them. It may be shared by threads; needs the extra ``async``.

    Parameters:
        url: of the app or its gateway; without it, the environment's ``BACKBONE_URL``.
        key: a function key; without it, ``BACKBONE_KEY``.
        owner: for gateways: whom this client calls for.
        gateway_key: for gateways: what allows them to name an owner.
        timeout_s: for how long the backbone may be silent during a call.
        retry_for_s: for how long a call is repeated that meets no answer, 408, 429 or 5xx.
        upload_over_bytes: a body over this goes to the storage directly; without it, what is more than the backbone
            itself takes.

    Raises:
        ValueError: the URL is missing, or one of these cannot be right.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        owner: str | None = None,
        gateway_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retry_for_s: float = RETRY_FOR_S,
        upload_over_bytes: int | None = None,
    ) -> None:
        backbone = Backbone(url, key, owner=owner, gateway_key=gateway_key)
        self._line = _AsyncLine(backbone, timeout_s, retry_for_s, upload_over_bytes)

    async def submit(
        self,
        path: str,
        body: Any = None,
        *,
        content_type: str | None = None,
        query: Query = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
        pipeline: Pipeline = None,
        start_after: When = None,
        start_before: When = None,
        max_run_s: float | None = None,
        callback: str | None = None,
    ) -> AsyncTask:
        """Submit a task to the endpoint *path*.

        Parameters:
            body: bytes, a text, what JSON can say, the path of a file, a file open in binary mode, or an iterable of
                bytes. What cannot rewind is read to its end first, so that it can be sent again. What is more than
                the backbone takes is uploaded to its storage in parts, if it has one for that.
            content_type: of the body; without it, what its type or file name says.
            query: for the model service: a mapping, pairs, or a text that is escaped already.
            priority: 0 to 9; 9 goes first, 5 is usual.
            idempotency_key: a name for this submit. The same submit again with the same one is the same task;
                without one, each call has its own.
            pipeline: the paths of the endpoints where the task goes on afterwards, each perhaps with a query. The
                result of one is the body of the next; that of the last one is the task's.
            start_after: it starts no sooner: in how many seconds, or at which time, a ``datetime`` with a zone.
            start_before: it fails unless it was dispatched by then; likewise.
            max_run_s: an attempt that runs longer has failed; that of its endpoint holds if it is less.
            callback: whom the backbone calls at the end: a name among its settings.

        Raises:
            ValueError: a time has no zone.
            Refused: ``TooLarge``, ``QueueFull``, ``NotFound`` for an unknown path, ``KeyReused`` and others.
            Unreachable: the backbone gave no answer for ``retry_for_s``. It may have the task.
        """
        return await self._submit(
            path,
            body,
            content_type,
            query=query,
            priority=priority,
            idempotency_key=idempotency_key,
            pipeline=pipeline,
            start_after=start_after,
            start_before=start_before,
            max_run_s=max_run_s,
            callback=callback,
        )

    async def run(
        self,
        path: str,
        body: Any = None,
        *,
        content_type: str | None = None,
        query: Query = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
        pipeline: Pipeline = None,
        start_after: When = None,
        start_before: When = None,
        max_run_s: float | None = None,
        callback: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncResult:
        """Submit a task, wait for its end, and return its result. The errors are those of both."""
        deadline = Deadline(timeout_s)
        is_patient = deadline.left_s() > 30
        task = await self._submit(
            path,
            body,
            content_type,
            query=query,
            priority=priority,
            idempotency_key=idempotency_key,
            pipeline=pipeline,
            start_after=start_after,
            start_before=start_before,
            max_run_s=max_run_s,
            callback=callback,
            prefers_end=is_patient and start_after is None,
        )
        return await task.result(None if timeout_s is None else deadline.left_s())

    async def map(
        self,
        path: str,
        items: Any,
        *,
        pipeline: Pipeline = None,
        then: str | None = None,
        name: str | None = None,
        concurrency: int = 8,
        content_type: str | None = None,
        query: Query = None,
        priority: int | None = None,
        start_after: When = None,
        start_before: When = None,
        max_run_s: float | None = None,
        callback: str | None = None,
    ) -> AsyncBatch:
        """Submit each of many items, and return the batch of their tasks.

        With a *name*, a map that broke off goes on when it is called again: an item that has a task already, by its
        bytes and content type, gets no other, for as long as the backbone keeps that one. What is new is added to the
        batch, or, if that takes no more, to another one of this name, which ``Batch`` has with the ``earlier`` ones.

        Parameters:
            path, content_type, query, priority, pipeline: of each task, as of ``submit``.
            start_after, start_before, max_run_s: likewise.
            callback: whom the backbone calls at the end of the batch.
            items: a folder as a ``Path``, whose files are the items; a mapping, whose keys are their names; or any
                iterable of what ``submit`` takes, which is read while items are submitted.
            then: the endpoint of one more task, which gets the list of all results once all have ended.
            name: of the batch. Another path, query, pipeline or *then* makes it another batch.
            concurrency: how many calls submit items at a time. Small ones that wait meanwhile go together.

        Raises:
            ValueError: there are no items to be read there.
            BackboneError: those of ``submit``, with the item's name; but a full queue is waited for. The batch takes
                more of the same name then.
        """
        from ._batching import Filling
        from .batch import afill

        filling = Filling(
            self._line,
            path,
            then,
            name,
            query=query,
            priority=priority,
            pipeline=pipeline,
            start_after=start_after,
            start_before=start_before,
            max_run_s=max_run_s,
            callback=callback,
        )
        return await afill(self._line, filling, items, content_type, concurrency)

    async def batch(self, batch_id: str) -> AsyncBatch:
        """
        Raises:
            NotFound: there is no such batch, or no longer.
        """
        from .batch import AsyncBatch

        batch = AsyncBatch(self._line, {"TaskId": batch_id})
        await batch.refresh()
        return batch

    async def batches(self, *, page_size: int | None = None) -> AsyncIterator[AsyncBatch]:
        """All batches, newest first, a page at a time, of at most *page_size*."""
        from .batch import AsyncBatch

        async for page in self._line.pages("Batches", limit=page_size):
            for document in page:
                yield AsyncBatch(self._line, document)

    async def task(self, task_id: str) -> AsyncTask:
        """
        Raises:
            NotFound: there is no such task, or no longer.
        """
        return await AsyncTask(self._line, {"TaskId": task_id}).refresh()

    async def tasks(
        self,
        path: str | None = None,
        status: str | None = None,
        *,
        batch: str | None = None,
        page_size: int | None = None,
    ) -> AsyncIterator[AsyncTask]:
        """All tasks, newest first, a page at a time.

        Parameters:
            path: only those of this endpoint.
            status: only those ``created``, ``running``, ``completed``, ``failed`` or ``cancelled``.
            batch: only those of the batch with this id.
            page_size: how many are asked for at a time, 200 at most.
        """
        async for page in self._line.pages("Tasks", path=path, status=status, batch=batch, limit=page_size):
            for document in page:
                yield AsyncTask(self._line, document)

    async def as_completed(
        self, tasks: Iterable[AsyncTask | str], timeout_s: float | None = None
    ) -> AsyncIterator[AsyncTask]:
        """*tasks*, or those with these ids, as they end, whatever their ends are. One call waits for up to 200.

        Raises:
            WaitTimeout: not all have ended in *timeout_s* seconds; they go on.
            NotFound: the backbone does not have one, or not any more.
        """
        every = [AsyncTask(self._line, {"TaskId": one}) if isinstance(one, str) else one for one in tasks]
        waiting, deadline = {task.id: task for task in every}, Deadline(timeout_s)
        while waiting:
            for task in await self._line.run(first_ends(self._line, list(waiting.values()), deadline)):
                yield waiting.pop(task.id)

    @property
    def schedules(self) -> AsyncSchedules:
        """What the backbone submits again and again."""
        return AsyncSchedules(self._line)

    async def queues(self) -> list[dict[str, Any]]:
        """All queues that have tasks, as the API's JSON objects."""
        return [queue async for page in self._line.pages("Queues") for queue in page]

    async def queue(self, path: str) -> dict[str, Any]:
        """The queue of one endpoint.

        Raises:
            NotFound: nothing is registered for this path.
        """
        return await self._line.run(self._line.queue(path))

    async def max_body_bytes(self) -> int | None:
        """How many bytes a body may have that is not uploaded; None if the backbone does not say so now."""
        return await self._line.run(self._line.max_body_bytes())

    async def close(self) -> None:
        """Close the connections."""
        await self._line.transport.close()

    async def __aenter__(self) -> AsyncTaskClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncTaskClient({self._line.backbone.url!r})"

    async def _submit(self, path: str, body: Any, content_type: str | None, **options: Any) -> AsyncTask:
        with spooled() as spool:
            content, kind = await aready(body, spool)
            steps = self._line.submit(path, content, content_type or kind, **options)
            return AsyncTask(self._line, await self._line.run(steps))


class AsyncTask(TaskView):
    """A submitted task. Its properties are those of when it was last seen."""

    def __init__(self, line: _AsyncLine, seen: dict[str, Any] | Answer) -> None:
        super().__init__(line, seen)
        self._line = line

    async def refresh(self) -> AsyncTask:
        """See it as it is now."""
        return await self._updated(self._line.demand("GET", task_path(self.id)))

    async def wait(
        self, timeout_s: float | None = None, on_change: Callable[[AsyncTask], object] | None = None
    ) -> AsyncTask:
        """Wait for its end, whatever that is. A backbone that is away meanwhile is waited for, too.

        Parameters:
            on_change: called with the task whenever its state, status, progress or position in the queue is new.

        Raises:
            WaitTimeout: it has not ended in *timeout_s* seconds; it goes on.
            Unreachable: the backbone gave no answer for ``retry_for_s``.
            NotFound: the backbone does not have it any more.
        """
        await self._line.run(self._until_end(timeout_s, on_change))
        return self

    async def result(self, timeout_s: float | None = None) -> AsyncResult:
        """Wait for its end, and return its result.

        Raises:
            TaskFailed, TaskCancelled: it ended otherwise.
            WaitTimeout: it has not ended in *timeout_s* seconds; it goes on.
            NotFound: it has ended without a result; its ``status`` may say all.
        """
        await self.wait(timeout_s)
        self._check_result()
        return AsyncResult(self, self._line)

    async def cancel(self) -> AsyncTask:
        """End it, unless it has ended.

        Raises:
            Conflict: it has ended otherwise.
        """
        return await self._updated(self._line.demand("DELETE", task_path(self.id)))

    async def replay(self) -> AsyncTask:
        """Let a failed task begin again.

        Raises:
            Conflict: it has not failed.
        """
        return await self._updated(self._line.replay(self.id))

    async def purge(self) -> None:
        """Remove the finished task at once, with all that the backbone keeps of it; of a batch, with its tasks.

        Raises:
            Conflict: it has not ended.
        """
        await self._line.run(self._line.remove(task_path(self.id), "purge=true"))

    async def history(self) -> list[dict[str, Any]]:
        """Its transitions, the first one first, as the API's JSON objects."""
        return await self._line.run(self._line.member(task_path(self.id, "/history"), "Events"))

    async def _updated(self, steps: Steps[Answer]) -> AsyncTask:
        self._see(await self._line.run(steps))
        return self


class AsyncResult:
    """What a model made of a task. Iterating yields its bytes in parts, as they come.

    A ``Content-Encoding`` gzip or deflate is taken off. A download that breaks off goes on where it was. A large one
    comes from the storage directly, if that can be reached. If the SHA-256 of the result is known, what comes is
    compared with it: ``Corrupted`` is raised at the end if it is another.
    """

    def __init__(self, task: AsyncTask, line: _AsyncLine) -> None:
        from ._blobs import Opener

        self.task = task
        self._line = line
        self.content_type = str(task.document.get("ResultContentType") or "application/octet-stream")
        self.size = int(task.document.get("ResultSize") or 0)
        """How many bytes the backbone keeps of it."""
        self._whole: _Bytes | None = None
        self._opener = Opener(line, task.id, self.size)

    async def bytes(self) -> _Bytes:
        """All of it, which is kept for the next time.

        Raises:
            TooLarge: it is compressed, and has more than 1 GiB without that, so it must be read in parts, or saved.
        """
        if self._whole is None:
            parts, most = list[_Bytes](), max(self.size, MOST_DECODED_BYTES)
            async for part in self:
                parts.append(part)
                most -= len(part)
                if most < 0:
                    raise errors.TooLarge("The result has more than 1 GiB without its compression: save it.")
            self._whole = b"".join(parts)
        return self._whole

    async def text(self, encoding: str | None = None) -> str:
        """All of it as a text, in *encoding*, that of its content type, or UTF-8."""
        charset = self.content_type.lower().partition("charset=")[2].partition(";")[0].strip(" \"'")
        return (await self.bytes()).decode(encoding or charset or "utf-8")

    async def json(self) -> Any:
        """
        Raises:
            ValueError: it is no JSON.
        """
        return json.loads(await self.bytes())

    async def save(self, path: os.PathLike[str] | str) -> Path:
        """Write it to a file, or into a folder under the task's id. The file is there only once it is whole.

        Returns:
            The path of the file.
        """
        target = target_of(path, self.task.id, self.content_type)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            if not await self._line.run(self._opener.save(part)):
                with part.open("wb") as file:
                    async for chunk in self:
                        file.write(chunk)
            part.replace(target)
        finally:
            if part.exists():
                part.unlink()
        return target

    async def __aiter__(self) -> AsyncIterator[_Bytes]:
        received, failures, decoder, whole = 0, 0, None, self._opener.sha256()
        while True:
            answer = await self._line.run(self._opener.open(received))
            decoder = decoder or Decoder(answer.headers.get("content-encoding"))
            try:
                if received and answer.status != 206:
                    raise errors.Conflict("The result has changed while it was read.", answer.status)
                async for chunk in answer.stream:
                    received, failures = received + len(chunk), 0
                    whole.update(chunk)
                    if 0 < self.size < received and "content-length" not in answer.headers:
                        raise errors.Corrupted(f"The content has more than {self.size:,} bytes.")
                    for part in decoder.feed(chunk):
                        if part:
                            yield part
                decoder.end()
                self._opener.check(whole)
                return
            except NoAnswer as error:
                failures += 1
                if failures == _MAX_FAILURES:
                    raise errors.Unreachable(f"The result broke off again and again: {error}") from error
            finally:
                await answer.stream.close()
            await self._line.run(_pause(random.uniform(0, 0.25 * 2**failures)))

    def __repr__(self) -> str:
        return f"AsyncResult({self.task.id!r}, {self.content_type!r}, {self.size:,} bytes)"


class AsyncSchedules:
    """What the backbone submits again and again. A schedule is the API's JSON object.

    All but ``put`` and ``list`` raise ``NotFound`` if there is no schedule of that name.
    """

    def __init__(self, line: Any) -> None:
        self._line = line

    async def put(
        self,
        name: str,
        path: str,
        body: Any = None,
        *,
        cron: str,
        time_zone: str | None = None,
        content_type: str | None = None,
        query: Query = None,
        priority: int | None = None,
        overlap: str | None = None,
        catch_up: str | None = None,
        until: datetime | None = None,
        start_before_s: float | None = None,
        max_run_s: float | None = None,
        callback: str | None = None,
    ) -> dict[str, Any]:
        """Make the schedule of this name, or change it. To do it twice is to do it once.

        Parameters:
            path, body, content_type, query, priority, max_run_s, callback: of each task, as of ``TaskClient.submit``.
            cron: five fields, such as ``30 6 * * mon-fri``; six begin with the second.
            time_zone: whose clock that is, such as ``Europe/Berlin``; UTC without one.
            overlap: if the last task has not ended: ``skip`` the next one, as is usual, ``queue`` it, or
                ``cancel-running``.
            catch_up: of the times that an outage took: ``last``, as is usual, ``none``, or ``all``, 100 at most.
            until: it is due no more after that.
            start_before_s: a task fails unless it was dispatched so many seconds after its time.

        Raises:
            InvalidRequest: the expression, or something else, cannot be right.
        """
        told = {"Cron": cron, "TimeZone": time_zone, "Priority": priority, "Overlap": overlap, "CatchUp": catch_up}
        told |= {"Until": as_time(until), "StartBefore": start_before_s, "MaxRun": max_run_s, "Callback": callback}
        with spooled() as spool:
            content, kind = await aready(body, spool)
            return await self._line.run(
                _put_schedule(self._line, name, path, query, content, content_type or kind, told)
            )

    async def get(self, name: str) -> dict[str, Any]:
        """It, with its next five times and its last ten runs."""
        return document_of(await self._line.run(self._line.demand("GET", _schedule(name))), "Name")

    async def list(self) -> Sequence[dict[str, Any]]:
        """All of them, by their names."""
        return [schedule async for page in self._line.pages("Schedules") for schedule in page]

    async def pause(self, name: str) -> dict[str, Any]:
        """Let no time make it due, until it is resumed."""
        return await self._do(name, "/pause")

    async def resume(self, name: str) -> dict[str, Any]:
        """Go on after a pause, with the next time."""
        return await self._do(name, "/resume")

    async def run(self, name: str) -> AsyncTask:
        """Submit its task now, too."""
        headers = {"Idempotency-Key": os.urandom(16).hex()}
        steps = self._line.demand("POST", _schedule(name, "/run"), body=b"", headers=headers)
        return AsyncTask(self._line, await self._line.run(steps))

    async def delete(self, name: str) -> None:
        """Remove it. Its tasks stay."""
        await self._line.run(self._line.remove(_schedule(name)))

    async def _do(self, name: str, what: str) -> dict[str, Any]:
        return document_of(await self._line.run(self._line.demand("POST", _schedule(name, what), body=b"")), "Name")


# Made of the classes above by tools/unasync.py: change those.


class _Line(Caller):
    """A caller and its connections."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.transport = Requests()

    def run(self, steps: Steps[T]) -> T:
        return run_sync(steps, self.transport)

    def pages(self, what: str, **members: Any) -> Iterator[list[dict[str, Any]]]:
        """All ``Tasks``, ``Batches`` or ``Queues``, page by page."""
        cursor = None
        while True:
            page = self.run(self.page(what, cursor=cursor, **members))
            yield page[what]
            cursor = page.get("NextCursor")
            if not cursor:
                return


class TaskClient:
    """Submits tasks to the backbone, and follows them. It may be shared by threads.

    Parameters:
        url: of the app or its gateway; without it, the environment's ``BACKBONE_URL``.
        key: a function key; without it, ``BACKBONE_KEY``.
        owner: for gateways: whom this client calls for.
        gateway_key: for gateways: what allows them to name an owner.
        timeout_s: for how long the backbone may be silent during a call.
        retry_for_s: for how long a call is repeated that meets no answer, 408, 429 or 5xx.
        upload_over_bytes: a body over this goes to the storage directly; without it, what is more than the backbone
            itself takes.

    Raises:
        ValueError: the URL is missing, or one of these cannot be right.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        owner: str | None = None,
        gateway_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retry_for_s: float = RETRY_FOR_S,
        upload_over_bytes: int | None = None,
    ) -> None:
        backbone = Backbone(url, key, owner=owner, gateway_key=gateway_key)
        self._line = _Line(backbone, timeout_s, retry_for_s, upload_over_bytes)

    def submit(
        self,
        path: str,
        body: Any = None,
        *,
        content_type: str | None = None,
        query: Query = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
        pipeline: Pipeline = None,
        start_after: When = None,
        start_before: When = None,
        max_run_s: float | None = None,
        callback: str | None = None,
    ) -> Task:
        """Submit a task to the endpoint *path*.

        Parameters:
            body: bytes, a text, what JSON can say, the path of a file, a file open in binary mode, or an iterable of
                bytes. What cannot rewind is read to its end first, so that it can be sent again. What is more than
                the backbone takes is uploaded to its storage in parts, if it has one for that.
            content_type: of the body; without it, what its type or file name says.
            query: for the model service: a mapping, pairs, or a text that is escaped already.
            priority: 0 to 9; 9 goes first, 5 is usual.
            idempotency_key: a name for this submit. The same submit again with the same one is the same task;
                without one, each call has its own.
            pipeline: the paths of the endpoints where the task goes on afterwards, each perhaps with a query. The
                result of one is the body of the next; that of the last one is the task's.
            start_after: it starts no sooner: in how many seconds, or at which time, a ``datetime`` with a zone.
            start_before: it fails unless it was dispatched by then; likewise.
            max_run_s: an attempt that runs longer has failed; that of its endpoint holds if it is less.
            callback: whom the backbone calls at the end: a name among its settings.

        Raises:
            ValueError: a time has no zone.
            Refused: ``TooLarge``, ``QueueFull``, ``NotFound`` for an unknown path, ``KeyReused`` and others.
            Unreachable: the backbone gave no answer for ``retry_for_s``. It may have the task.
        """
        return self._submit(
            path,
            body,
            content_type,
            query=query,
            priority=priority,
            idempotency_key=idempotency_key,
            pipeline=pipeline,
            start_after=start_after,
            start_before=start_before,
            max_run_s=max_run_s,
            callback=callback,
        )

    def run(
        self,
        path: str,
        body: Any = None,
        *,
        content_type: str | None = None,
        query: Query = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
        pipeline: Pipeline = None,
        start_after: When = None,
        start_before: When = None,
        max_run_s: float | None = None,
        callback: str | None = None,
        timeout_s: float | None = None,
    ) -> Result:
        """Submit a task, wait for its end, and return its result. The errors are those of both."""
        deadline = Deadline(timeout_s)
        is_patient = deadline.left_s() > 30
        task = self._submit(
            path,
            body,
            content_type,
            query=query,
            priority=priority,
            idempotency_key=idempotency_key,
            pipeline=pipeline,
            start_after=start_after,
            start_before=start_before,
            max_run_s=max_run_s,
            callback=callback,
            prefers_end=is_patient and start_after is None,
        )
        return task.result(None if timeout_s is None else deadline.left_s())

    def map(
        self,
        path: str,
        items: Any,
        *,
        pipeline: Pipeline = None,
        then: str | None = None,
        name: str | None = None,
        concurrency: int = 8,
        content_type: str | None = None,
        query: Query = None,
        priority: int | None = None,
        start_after: When = None,
        start_before: When = None,
        max_run_s: float | None = None,
        callback: str | None = None,
    ) -> Batch:
        """Submit each of many items, and return the batch of their tasks.

        With a *name*, a map that broke off goes on when it is called again: an item that has a task already, by its
        bytes and content type, gets no other, for as long as the backbone keeps that one. What is new is added to the
        batch, or, if that takes no more, to another one of this name, which ``Batch`` has with the ``earlier`` ones.

        Parameters:
            path, content_type, query, priority, pipeline: of each task, as of ``submit``.
            start_after, start_before, max_run_s: likewise.
            callback: whom the backbone calls at the end of the batch.
            items: a folder as a ``Path``, whose files are the items; a mapping, whose keys are their names; or any
                iterable of what ``submit`` takes, which is read while items are submitted.
            then: the endpoint of one more task, which gets the list of all results once all have ended.
            name: of the batch. Another path, query, pipeline or *then* makes it another batch.
            concurrency: how many calls submit items at a time. Small ones that wait meanwhile go together.

        Raises:
            ValueError: there are no items to be read there.
            BackboneError: those of ``submit``, with the item's name; but a full queue is waited for. The batch takes
                more of the same name then.
        """
        from ._batching import Filling
        from .batch import fill

        filling = Filling(
            self._line,
            path,
            then,
            name,
            query=query,
            priority=priority,
            pipeline=pipeline,
            start_after=start_after,
            start_before=start_before,
            max_run_s=max_run_s,
            callback=callback,
        )
        return fill(self._line, filling, items, content_type, concurrency)

    def batch(self, batch_id: str) -> Batch:
        """
        Raises:
            NotFound: there is no such batch, or no longer.
        """
        from .batch import Batch

        batch = Batch(self._line, {"TaskId": batch_id})
        batch.refresh()
        return batch

    def batches(self, *, page_size: int | None = None) -> Iterator[Batch]:
        """All batches, newest first, a page at a time, of at most *page_size*."""
        from .batch import Batch

        for page in self._line.pages("Batches", limit=page_size):
            for document in page:
                yield Batch(self._line, document)

    def task(self, task_id: str) -> Task:
        """
        Raises:
            NotFound: there is no such task, or no longer.
        """
        return Task(self._line, {"TaskId": task_id}).refresh()

    def tasks(
        self,
        path: str | None = None,
        status: str | None = None,
        *,
        batch: str | None = None,
        page_size: int | None = None,
    ) -> Iterator[Task]:
        """All tasks, newest first, a page at a time.

        Parameters:
            path: only those of this endpoint.
            status: only those ``created``, ``running``, ``completed``, ``failed`` or ``cancelled``.
            batch: only those of the batch with this id.
            page_size: how many are asked for at a time, 200 at most.
        """
        for page in self._line.pages("Tasks", path=path, status=status, batch=batch, limit=page_size):
            for document in page:
                yield Task(self._line, document)

    def as_completed(self, tasks: Iterable[Task | str], timeout_s: float | None = None) -> Iterator[Task]:
        """*tasks*, or those with these ids, as they end, whatever their ends are. One call waits for up to 200.

        Raises:
            WaitTimeout: not all have ended in *timeout_s* seconds; they go on.
            NotFound: the backbone does not have one, or not any more.
        """
        every = [Task(self._line, {"TaskId": one}) if isinstance(one, str) else one for one in tasks]
        waiting, deadline = {task.id: task for task in every}, Deadline(timeout_s)
        while waiting:
            for task in self._line.run(first_ends(self._line, list(waiting.values()), deadline)):
                yield waiting.pop(task.id)

    @property
    def schedules(self) -> Schedules:
        """What the backbone submits again and again."""
        return Schedules(self._line)

    def queues(self) -> list[dict[str, Any]]:
        """All queues that have tasks, as the API's JSON objects."""
        return [queue for page in self._line.pages("Queues") for queue in page]

    def queue(self, path: str) -> dict[str, Any]:
        """The queue of one endpoint.

        Raises:
            NotFound: nothing is registered for this path.
        """
        return self._line.run(self._line.queue(path))

    def max_body_bytes(self) -> int | None:
        """How many bytes a body may have that is not uploaded; None if the backbone does not say so now."""
        return self._line.run(self._line.max_body_bytes())

    def close(self) -> None:
        """Close the connections."""
        self._line.transport.close()

    def __enter__(self) -> TaskClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"TaskClient({self._line.backbone.url!r})"

    def _submit(self, path: str, body: Any, content_type: str | None, **options: Any) -> Task:
        with spooled() as spool:
            content, kind = ready(body, spool)
            steps = self._line.submit(path, content, content_type or kind, **options)
            return Task(self._line, self._line.run(steps))


class Task(TaskView):
    """A submitted task. Its properties are those of when it was last seen."""

    def __init__(self, line: _Line, seen: dict[str, Any] | Answer) -> None:
        super().__init__(line, seen)
        self._line = line

    def refresh(self) -> Task:
        """See it as it is now."""
        return self._updated(self._line.demand("GET", task_path(self.id)))

    def wait(self, timeout_s: float | None = None, on_change: Callable[[Task], object] | None = None) -> Task:
        """Wait for its end, whatever that is. A backbone that is away meanwhile is waited for, too.

        Parameters:
            on_change: called with the task whenever its state, status, progress or position in the queue is new.

        Raises:
            WaitTimeout: it has not ended in *timeout_s* seconds; it goes on.
            Unreachable: the backbone gave no answer for ``retry_for_s``.
            NotFound: the backbone does not have it any more.
        """
        self._line.run(self._until_end(timeout_s, on_change))
        return self

    def result(self, timeout_s: float | None = None) -> Result:
        """Wait for its end, and return its result.

        Raises:
            TaskFailed, TaskCancelled: it ended otherwise.
            WaitTimeout: it has not ended in *timeout_s* seconds; it goes on.
            NotFound: it has ended without a result; its ``status`` may say all.
        """
        self.wait(timeout_s)
        self._check_result()
        return Result(self, self._line)

    def cancel(self) -> Task:
        """End it, unless it has ended.

        Raises:
            Conflict: it has ended otherwise.
        """
        return self._updated(self._line.demand("DELETE", task_path(self.id)))

    def replay(self) -> Task:
        """Let a failed task begin again.

        Raises:
            Conflict: it has not failed.
        """
        return self._updated(self._line.replay(self.id))

    def purge(self) -> None:
        """Remove the finished task at once, with all that the backbone keeps of it; of a batch, with its tasks.

        Raises:
            Conflict: it has not ended.
        """
        self._line.run(self._line.remove(task_path(self.id), "purge=true"))

    def history(self) -> list[dict[str, Any]]:
        """Its transitions, the first one first, as the API's JSON objects."""
        return self._line.run(self._line.member(task_path(self.id, "/history"), "Events"))

    def _updated(self, steps: Steps[Answer]) -> Task:
        self._see(self._line.run(steps))
        return self


class Result:
    """What a model made of a task. Iterating yields its bytes in parts, as they come.

    A ``Content-Encoding`` gzip or deflate is taken off. A download that breaks off goes on where it was. A large one
    comes from the storage directly, if that can be reached. If the SHA-256 of the result is known, what comes is
    compared with it: ``Corrupted`` is raised at the end if it is another.
    """

    def __init__(self, task: Task, line: _Line) -> None:
        from ._blobs import Opener

        self.task = task
        self._line = line
        self.content_type = str(task.document.get("ResultContentType") or "application/octet-stream")
        self.size = int(task.document.get("ResultSize") or 0)
        """How many bytes the backbone keeps of it."""
        self._whole: _Bytes | None = None
        self._opener = Opener(line, task.id, self.size)

    def bytes(self) -> _Bytes:
        """All of it, which is kept for the next time.

        Raises:
            TooLarge: it is compressed, and has more than 1 GiB without that, so it must be read in parts, or saved.
        """
        if self._whole is None:
            parts, most = list[_Bytes](), max(self.size, MOST_DECODED_BYTES)
            for part in self:
                parts.append(part)
                most -= len(part)
                if most < 0:
                    raise errors.TooLarge("The result has more than 1 GiB without its compression: save it.")
            self._whole = b"".join(parts)
        return self._whole

    def text(self, encoding: str | None = None) -> str:
        """All of it as a text, in *encoding*, that of its content type, or UTF-8."""
        charset = self.content_type.lower().partition("charset=")[2].partition(";")[0].strip(" \"'")
        return (self.bytes()).decode(encoding or charset or "utf-8")

    def json(self) -> Any:
        """
        Raises:
            ValueError: it is no JSON.
        """
        return json.loads(self.bytes())

    def save(self, path: os.PathLike[str] | str) -> Path:
        """Write it to a file, or into a folder under the task's id. The file is there only once it is whole.

        Returns:
            The path of the file.
        """
        target = target_of(path, self.task.id, self.content_type)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            if not self._line.run(self._opener.save(part)):
                with part.open("wb") as file:
                    for chunk in self:
                        file.write(chunk)
            part.replace(target)
        finally:
            if part.exists():
                part.unlink()
        return target

    def __iter__(self) -> Iterator[_Bytes]:
        received, failures, decoder, whole = 0, 0, None, self._opener.sha256()
        while True:
            answer = self._line.run(self._opener.open(received))
            decoder = decoder or Decoder(answer.headers.get("content-encoding"))
            try:
                if received and answer.status != 206:
                    raise errors.Conflict("The result has changed while it was read.", answer.status)
                for chunk in answer.stream:
                    received, failures = received + len(chunk), 0
                    whole.update(chunk)
                    if 0 < self.size < received and "content-length" not in answer.headers:
                        raise errors.Corrupted(f"The content has more than {self.size:,} bytes.")
                    for part in decoder.feed(chunk):
                        if part:
                            yield part
                decoder.end()
                self._opener.check(whole)
                return
            except NoAnswer as error:
                failures += 1
                if failures == _MAX_FAILURES:
                    raise errors.Unreachable(f"The result broke off again and again: {error}") from error
            finally:
                answer.stream.close()
            self._line.run(_pause(random.uniform(0, 0.25 * 2**failures)))

    def __repr__(self) -> str:
        return f"Result({self.task.id!r}, {self.content_type!r}, {self.size:,} bytes)"


class Schedules:
    """What the backbone submits again and again. A schedule is the API's JSON object.

    All but ``put`` and ``list`` raise ``NotFound`` if there is no schedule of that name.
    """

    def __init__(self, line: Any) -> None:
        self._line = line

    def put(
        self,
        name: str,
        path: str,
        body: Any = None,
        *,
        cron: str,
        time_zone: str | None = None,
        content_type: str | None = None,
        query: Query = None,
        priority: int | None = None,
        overlap: str | None = None,
        catch_up: str | None = None,
        until: datetime | None = None,
        start_before_s: float | None = None,
        max_run_s: float | None = None,
        callback: str | None = None,
    ) -> dict[str, Any]:
        """Make the schedule of this name, or change it. To do it twice is to do it once.

        Parameters:
            path, body, content_type, query, priority, max_run_s, callback: of each task, as of ``TaskClient.submit``.
            cron: five fields, such as ``30 6 * * mon-fri``; six begin with the second.
            time_zone: whose clock that is, such as ``Europe/Berlin``; UTC without one.
            overlap: if the last task has not ended: ``skip`` the next one, as is usual, ``queue`` it, or
                ``cancel-running``.
            catch_up: of the times that an outage took: ``last``, as is usual, ``none``, or ``all``, 100 at most.
            until: it is due no more after that.
            start_before_s: a task fails unless it was dispatched so many seconds after its time.

        Raises:
            InvalidRequest: the expression, or something else, cannot be right.
        """
        told = {"Cron": cron, "TimeZone": time_zone, "Priority": priority, "Overlap": overlap, "CatchUp": catch_up}
        told |= {"Until": as_time(until), "StartBefore": start_before_s, "MaxRun": max_run_s, "Callback": callback}
        with spooled() as spool:
            content, kind = ready(body, spool)
            return self._line.run(_put_schedule(self._line, name, path, query, content, content_type or kind, told))

    def get(self, name: str) -> dict[str, Any]:
        """It, with its next five times and its last ten runs."""
        return document_of(self._line.run(self._line.demand("GET", _schedule(name))), "Name")

    def list(self) -> Sequence[dict[str, Any]]:
        """All of them, by their names."""
        return [schedule for page in self._line.pages("Schedules") for schedule in page]

    def pause(self, name: str) -> dict[str, Any]:
        """Let no time make it due, until it is resumed."""
        return self._do(name, "/pause")

    def resume(self, name: str) -> dict[str, Any]:
        """Go on after a pause, with the next time."""
        return self._do(name, "/resume")

    def run(self, name: str) -> Task:
        """Submit its task now, too."""
        headers = {"Idempotency-Key": os.urandom(16).hex()}
        steps = self._line.demand("POST", _schedule(name, "/run"), body=b"", headers=headers)
        return Task(self._line, self._line.run(steps))

    def delete(self, name: str) -> None:
        """Remove it. Its tasks stay."""
        self._line.run(self._line.remove(_schedule(name)))

    def _do(self, name: str, what: str) -> dict[str, Any]:
        return document_of(self._line.run(self._line.demand("POST", _schedule(name, what), body=b"")), "Name")
