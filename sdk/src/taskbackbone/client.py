"""The client of callers: ``TaskClient``, and ``AsyncTaskClient`` in an event loop."""

from __future__ import annotations

import json
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from . import errors
from ._calls import Caller, Deadline, Pipeline, Query, TaskView, target_of
from ._core import RETRY_FOR_S, TIMEOUT_S, Answer, Backbone, NoAnswer, Sleep, Steps, task_path
from ._drivers import Aiohttp, Requests, run_async, run_sync
from ._payload import MOST_DECODED_BYTES, SPOOL_BYTES, Decoder, aready, ready

if TYPE_CHECKING:
    from pathlib import Path

    from .batch import AsyncBatch, Batch

__all__ = ["AsyncResult", "AsyncTask", "AsyncTaskClient", "Result", "Task", "TaskClient"]

T = TypeVar("T")
_Bytes = bytes
_MAX_FAILURES = 6


def _pause(seconds: float) -> Steps[None]:
    yield Sleep(seconds)


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

        Raises:
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
            prefers_end=is_patient,
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
    ) -> AsyncBatch:
        """Submit each of many items, and return the batch of their tasks.

        With a *name*, a map that broke off goes on when it is called again: an item that has a task already, by its
        bytes and content type, gets no other, for as long as the backbone keeps that one. What is new is added to the
        batch, or, if that takes no more, to another one of this name, which ``Batch`` has with the ``earlier`` ones.

        Parameters:
            path, content_type, query, priority, pipeline: of each task, as of ``submit``.
            items: a folder as a ``Path``, whose files are the items; a mapping, whose keys are their names; or any
                iterable of what ``submit`` takes, which is read while items are submitted.
            then: the endpoint of one more task, which gets the list of all results once all have ended.
            name: of the batch. Another path, query, pipeline or *then* makes it another batch.
            concurrency: how many items are submitted at a time.

        Raises:
            ValueError: there are no items to be read there.
            BackboneError: those of ``submit``, with the item's name; but a full queue is waited for. The batch takes
                more of the same name then.
        """
        from ._batching import Filling
        from .batch import afill

        filling = Filling(self._line, path, query, priority, pipeline, then, name)
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
        from tempfile import SpooledTemporaryFile

        with SpooledTemporaryFile(SPOOL_BYTES) as spool:
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
        await self._line.run(self._line.purge(self.id))

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

        Raises:
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
            prefers_end=is_patient,
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
    ) -> Batch:
        """Submit each of many items, and return the batch of their tasks.

        With a *name*, a map that broke off goes on when it is called again: an item that has a task already, by its
        bytes and content type, gets no other, for as long as the backbone keeps that one. What is new is added to the
        batch, or, if that takes no more, to another one of this name, which ``Batch`` has with the ``earlier`` ones.

        Parameters:
            path, content_type, query, priority, pipeline: of each task, as of ``submit``.
            items: a folder as a ``Path``, whose files are the items; a mapping, whose keys are their names; or any
                iterable of what ``submit`` takes, which is read while items are submitted.
            then: the endpoint of one more task, which gets the list of all results once all have ended.
            name: of the batch. Another path, query, pipeline or *then* makes it another batch.
            concurrency: how many items are submitted at a time.

        Raises:
            ValueError: there are no items to be read there.
            BackboneError: those of ``submit``, with the item's name; but a full queue is waited for. The batch takes
                more of the same name then.
        """
        from ._batching import Filling
        from .batch import fill

        filling = Filling(self._line, path, query, priority, pipeline, then, name)
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
        from tempfile import SpooledTemporaryFile

        with SpooledTemporaryFile(SPOOL_BYTES) as spool:
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
        self._line.run(self._line.purge(self.id))

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
