"""Callers. Made of ``_async.py`` by ``tools/unasync.py``: change that one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from . import errors
from ._calls import (
    Caller,
    Deadline,
    Query,
    Sight,
    TaskView,
    list_query,
    look,
    pause_before_resuming,
    queue_path,
    target_of,
)
from ._core import RETRY_FOR_S, TIMEOUT_S, Answer, Backbone, NoAnswer, Steps, task_path
from ._drivers import Requests, run_sync
from ._payload import Decoder, Spool, body_of, iter_chunks, stream_type

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")
_Bytes = bytes
_MAX_FAILURES = 6


class Line:
    """A caller and its connections."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.transport = Requests()

    def run(self, steps: Steps[T]) -> T:
        return run_sync(steps, self.transport)


class TaskClient:
    """Submits tasks to the backbone, and follows them. It may be shared by threads.

    Parameters:
        url: of the app or its gateway; without it, the environment's ``BACKBONE_URL``.
        key: a function key; without it, ``BACKBONE_KEY``.
        owner: for gateways: whom this client calls for.
        gateway_key: for gateways: what allows them to name an owner.
        timeout_s: for how long the backbone may be silent during a call.
        retry_for_s: for how long a call is repeated that meets no answer, 408, 429 or 5xx.

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
    ) -> None:
        backbone = Backbone(url, key, owner=owner, gateway_key=gateway_key)
        self._line = Line(Caller(backbone, timeout_s, retry_for_s))

    def submit(
        self,
        path: str,
        body: Any = None,
        *,
        content_type: str | None = None,
        query: Query = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
    ) -> Task:
        """Submit a task to the endpoint *path*.

        Parameters:
            body: bytes, a text, what JSON can say, the path of a file, a file open in binary mode, or an iterable of
                bytes. What cannot rewind is read to its end first, so that it can be sent again.
            content_type: of the body; without it, what its type or file name says.
            query: for the model service: a mapping, pairs, or a text that is escaped already.
            priority: 0 to 9; 9 goes first, 5 is usual.
            idempotency_key: a name for this submit. The same submit again with the same one is the same task;
                without one, each call has its own.

        Raises:
            Refused: ``TooLarge``, ``QueueFull``, ``NotFound`` for an unknown path, ``KeyReused`` and others.
            Unreachable: the backbone gave no answer for ``retry_for_s``. It may have the task.
        """
        return self._submit(path, body, content_type, query, priority, idempotency_key)

    def run(
        self,
        path: str,
        body: Any = None,
        *,
        content_type: str | None = None,
        query: Query = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> Result:
        """Submit a task, wait for its end, and return its result. The errors are those of both."""
        deadline = Deadline(timeout_s)
        task = self._submit(
            path,
            body,
            content_type,
            query,
            priority,
            idempotency_key,
            prefers_end=timeout_s is None or timeout_s > 30,
        )
        return task.result(None if timeout_s is None else deadline.left_s(timeout_s))

    def task(self, task_id: str) -> Task:
        """
        Raises:
            NotFound: there is no such task, or no longer.
        """
        return Task(self._line, Sight({"TaskId": task_id})).refresh()

    def tasks(
        self, path: str | None = None, status: str | None = None, *, page_size: int | None = None
    ) -> Iterator[Task]:
        """All tasks, newest first, a page at a time.

        Parameters:
            path: only those of this endpoint.
            status: only those ``created``, ``running``, ``completed``, ``failed`` or ``cancelled``.
            page_size: how many are asked for at a time, 200 at most.
        """
        cursor = None
        while True:
            query = list_query(path, status, page_size, cursor)
            page = self._line.run(self._line.caller.document("/api/v1/tasks", "Tasks", query))
            for document in page["Tasks"]:
                yield Task(self._line, Sight(document))
            cursor = page.get("NextCursor")
            if not cursor:
                return

    def queues(self) -> list[dict[str, Any]]:
        """All queues that have tasks, as the API's JSON objects."""
        document = self._line.run(self._line.caller.document(queue_path(None), "Queues"))
        return document["Queues"]

    def queue(self, path: str) -> dict[str, Any]:
        """The queue of one endpoint.

        Raises:
            NotFound: nothing is registered for this path.
        """
        return self._line.run(self._line.caller.document(queue_path(path), "EndpointPath"))

    def max_body_bytes(self) -> int | None:
        """How many bytes a body may have; None if the backbone does not say so now."""
        return self._line.run(self._line.caller.max_body_bytes())

    def close(self) -> None:
        """Close the connections."""
        self._line.transport.close()

    def __enter__(self) -> TaskClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"TaskClient({self._line.caller.backbone.url!r})"

    def _submit(
        self,
        path: str,
        body: Any,
        content_type: str | None,
        query: Query,
        priority: int | None,
        idempotency_key: str | None,
        *,
        prefers_end: bool = False,
    ) -> Task:
        ready, spool = body_of(body), None
        try:
            if ready is None:
                spool = Spool()
                for chunk in iter_chunks(body):
                    spool.add(chunk)
                ready = spool.payload(), stream_type(body)
            steps = self._line.caller.submit(
                path,
                ready[0],
                content_type or ready[1],
                query=query,
                priority=priority,
                idempotency_key=idempotency_key,
                prefers_end=prefers_end,
            )
            sight = Sight({})
            sight.see(self._line.run(steps))
            return Task(self._line, sight)
        finally:
            if spool is not None:
                spool.close()


class Task(TaskView):
    """A submitted task. Its properties are those of when it was last seen."""

    def __init__(self, line: Line, sight: Sight) -> None:
        super().__init__(sight)
        self._line = line

    def refresh(self) -> Task:
        """See it as it is now."""
        return self._updated(self._line.caller.demand("GET", task_path(self.id)))

    def wait(self, timeout_s: float | None = None, on_change: Callable[[Task], object] | None = None) -> Task:
        """Wait for its end, whatever that is. A backbone that is away meanwhile is waited for, too.

        Parameters:
            on_change: called with the task whenever its state, status, progress or position in the queue is new.

        Raises:
            WaitTimeout: it has not ended in *timeout_s* seconds; it goes on.
            Unreachable: the backbone gave no answer for ``retry_for_s``.
            NotFound: the backbone does not have it any more.
        """
        deadline = Deadline(timeout_s)
        while not self.is_finished:
            is_last = deadline.left_s(self._line.caller.retry_for_s) < self._line.caller.retry_for_s
            try:
                steps = look(self._line.caller, self._sight, deadline, closely=on_change is not None)
                is_new = self._line.run(steps)
            except errors.Unreachable as error:
                if is_last:
                    raise self._late(timeout_s) from error
                raise
            if is_new and on_change is not None:
                on_change(self)
            if deadline.is_over and not self.is_finished:
                raise self._late(timeout_s)
        return self

    def result(self, timeout_s: float | None = None) -> Result:
        """Wait for its end, and return its result.

        Raises:
            TaskFailed, TaskCancelled: it ended otherwise.
            WaitTimeout: it has not ended in *timeout_s* seconds; it goes on.
            NotFound: it has ended without a result; its ``status`` may say all.
        """
        self.wait(timeout_s)
        if self.state == "failed":
            raise errors.TaskFailed(self.status, self)
        if self.state == "cancelled":
            raise errors.TaskCancelled(f"Task {self.id} was cancelled.", self)
        if self.document.get("ResultSize") is None:
            kind = "urn:task-backbone:problem:no-result"
            raise errors.NotFound(f"The task has stored no result. Its status: {self.status}", 404, {"type": kind})
        return Result(self, self._line)

    def cancel(self) -> Task:
        """End it, unless it has ended.

        Raises:
            Conflict: it has ended otherwise.
        """
        return self._updated(self._line.caller.demand("DELETE", task_path(self.id)))

    def replay(self) -> Task:
        """Let a failed task begin again.

        Raises:
            Conflict: it has not failed.
        """
        return self._updated(self._line.caller.replay(self.id))

    def history(self) -> list[dict[str, Any]]:
        """Its transitions, the first one first, as the API's JSON objects."""
        path = task_path(self.id, "/history")
        document = self._line.run(self._line.caller.document(path, "Events"))
        return document["Events"]

    def _updated(self, steps: Steps[Answer]) -> Task:
        self._sight.see(self._line.run(steps))
        return self

    def _late(self, timeout_s: float | None) -> errors.WaitTimeout:
        return errors.WaitTimeout(f"Task {self.id} has not ended within {timeout_s} s; it goes on.", self)


class Result:
    """What a model made of a task. Iterating yields its bytes in parts, as they come.

    A ``Content-Encoding`` gzip or deflate is taken off. A download that breaks off goes on where it was.
    """

    def __init__(self, task: Task, line: Line) -> None:
        self.task = task
        self._line = line
        self.content_type = str(task.document.get("ResultContentType") or "application/octet-stream")
        self.size = int(task.document.get("ResultSize") or 0)
        """How many bytes the backbone keeps of it."""
        self._whole: _Bytes | None = None

    def bytes(self) -> _Bytes:
        """All of it, which is kept for the next time."""
        if self._whole is None:
            whole = bytearray()
            for part in self:
                whole += part
            self._whole = bytes(whole)
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
        import json

        return json.loads(self.bytes())

    def save(self, path: os.PathLike[str] | str) -> Path:
        """Write it to a file, or into a folder under the task's id. The file is there only once it is whole.

        Returns:
            The path of the file.
        """
        target = target_of(path, self.task.id, self.content_type)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                for chunk in self:
                    file.write(chunk)
            part.replace(target)
        finally:
            if part.exists():
                part.unlink()
        return target

    def __iter__(self) -> Iterator[_Bytes]:
        caller, received, etag, failures, decoder = self._line.caller, 0, None, 0, None
        while True:
            answer = self._line.run(caller.open_result(self.task.id, received, etag))
            etag = answer.headers.get("etag")
            decoder = decoder or Decoder(answer.headers.get("content-encoding"))
            try:
                if received and answer.status != 206:
                    raise errors.Conflict("The result has changed while it was read.", answer.status)
                for chunk in answer.stream:
                    received, failures = received + len(chunk), 0
                    yield decoder.feed(chunk)
                decoder.end()
                return
            except NoAnswer as error:
                failures += 1
                if failures == _MAX_FAILURES:
                    raise errors.Unreachable(f"The result broke off again and again: {error}") from error
            finally:
                answer.stream.close()
            self._line.run(pause_before_resuming(failures))

    def __repr__(self) -> str:
        return f"Result({self.task.id!r}, {self.content_type!r}, {self.size:,} bytes)"
