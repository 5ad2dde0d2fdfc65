"""Many tasks as one thing to wait for: ``Batch``, and ``AsyncBatch`` in an event loop."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from . import errors
from ._batching import BatchView, Entry, Filling, Names, Saved, naming
from ._calls import Deadline
from ._drivers import aeach, each
from ._payload import adigest, aiter_chunks, aready, digest, iter_chunks, ready, spooled, weight_of
from .client import AsyncResult, AsyncTask, Result, Task

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["AsyncBatch", "Batch"]


class AsyncBatch(BatchView, AsyncTask):
    """The tasks of a ``map``. It is a task, too: it has ended when all of them have.

    It is ``completed`` if all of them are, else ``failed``. If the map had a *then*, it ends with that task. How many
    tasks it has, say ``total``, ``completed``, ``failed``, ``cancelled`` and ``unfinished``.
    """

    async def wait(
        self, timeout_s: float | None = None, on_change: Callable[[AsyncBatch], object] | None = None
    ) -> AsyncBatch:
        """Wait for its end, whatever that is. It is safe to wait again.

        Parameters:
            on_change: is called with the batch when it has changed, such as ``print``.

        Raises:
            WaitTimeout: it has not ended in *timeout_s* seconds; it goes on.
        """
        deadline = Deadline(timeout_s)
        for batch in self.earlier:
            await batch.wait(deadline.left_s(), self._telling(on_change))
        await self._line.run(self._until(lambda: self.is_finished, deadline, on_change))
        return self

    async def tasks(self) -> AsyncIterator[AsyncTask]:
        """All its tasks, newest first, a page at a time."""
        for batch in (self, *self.earlier[::-1]):
            async for page in self._line.pages("Tasks", batch=batch.id):
                for document in page:
                    yield AsyncTask(self._line, document)

    async def results(self, timeout_s: float | None = None) -> AsyncIterator[tuple[str, AsyncResult]]:
        """The results with the names of their items, as the tasks end; those that have ended, in the items' order.

        Raises:
            BatchFailed: after all results: some tasks have none.
            WaitTimeout: not all have ended in *timeout_s* seconds; they go on.
        """
        lost: dict[str, AsyncTask] = {}
        async for task in self._ends(Deadline(timeout_s), None):
            name = self._name_of(task)
            if task.document.get("ResultSize") is None:
                lost[name] = task
            else:
                yield name, AsyncResult(task, self._line)
        if lost:
            raise self._lost(lost)

    async def save(
        self,
        folder: os.PathLike[str] | str,
        timeout_s: float | None = None,
        on_change: Callable[[AsyncBatch], object] | None = None,
        *,
        concurrency: int = 8,
    ) -> list[Path]:
        """Write the results to files of a folder as the tasks end, each under its item's name, with its type behind.

        A file is there only once it is whole, and has the time at which the task ended. One that is there is not
        fetched again.

        Parameters:
            timeout_s, on_change: as of ``wait``.
            concurrency: how many results are fetched at a time.

        Returns:
            The paths of the files.

        Raises:
            BatchFailed: after all are saved: some tasks have no result.
            WaitTimeout: not all have ended in *timeout_s* seconds; they go on.
        """
        files, lost = Saved(folder), dict[str, AsyncTask]()

        async def save(tasks: list[AsyncTask]) -> list[Path | None]:
            [task] = tasks
            name = self._name_of(task)
            if task.document.get("ResultSize") is None:
                lost[name] = task
                return [None]
            file = files.file_of(name, task)
            if files.has(file, task):
                return [file]
            return [files.keep(await AsyncResult(task, self._line).save(file), task)]

        ends = self._ends(Deadline(timeout_s), on_change)
        saved = [file async for file in aeach(save, ends, max(1, concurrency)) if file]
        if lost:
            raise self._lost(lost, saved)
        return saved

    async def result(self, timeout_s: float | None = None) -> AsyncResult:
        """Wait for its end, and return the result of the map's *then*.

        Raises:
            NotFound: it has none.
            TaskFailed, TaskCancelled, WaitTimeout: as of a task.
        """
        await self.wait(timeout_s)
        then_id = self.document.get("ThenTaskId")
        if then_id is None:
            raise self._resultless()
        return await AsyncTask(self._line, {"TaskId": then_id}).result()

    async def cancel(self) -> AsyncBatch:
        """End those of its tasks that have not ended.

        Raises:
            Conflict: it has ended otherwise.
        """
        for batch in self.earlier:
            with suppress(errors.Conflict):
                await batch.cancel()
        await super().cancel()
        return self

    async def replay(self) -> AsyncBatch:
        """Let those of its tasks begin again that have failed.

        Raises:
            Conflict: none has, or it has not ended.
        """
        replayed = False
        for batch in self.earlier:
            with suppress(errors.Conflict):
                await batch.replay()
                replayed = True
        with suppress(errors.Conflict) if replayed else nullcontext():
            await super().replay()
        return self

    async def purge(self) -> None:
        """Remove it at once, with its tasks and all that the backbone keeps of them.

        Raises:
            Conflict: it has not ended.
        """
        for batch in self.earlier:
            await batch.purge()
        await super().purge()

    async def _ends(
        self, deadline: Deadline, on_change: Callable[[AsyncBatch], object] | None
    ) -> AsyncIterator[AsyncTask]:
        """Its tasks as they end."""
        for batch in (*self.earlier, self):
            told, is_last = set[str](), False
            while not is_last:
                is_last, ended = batch._has_all_ended, list[AsyncTask]()
                async for page in self._line.pages("Tasks", batch=batch.id):
                    tasks = [AsyncTask(self._line, document) for document in page if document["TaskId"] not in told]
                    ended = [*(task for task in tasks[::-1] if task.is_finished), *ended]
                for task in sorted(ended, key=self._number_of):
                    told.add(task.id)
                    yield task
                if not is_last:
                    await self._line.run(batch._until_more(deadline, self._telling(on_change)))


async def afill(line: Any, filling: Filling, items: Any, content_type: str | None, concurrency: int) -> AsyncBatch:
    """Submit *items*, seal the batch, and return it."""
    named: dict[str, tuple[int, str]] = {}

    async def add(pairs: list[tuple[str, Any]]) -> list[tuple[str, str]]:
        with ExitStack() as spools:
            entries = list[Entry]()
            for name, item in pairs:
                with naming(name):
                    body, kind = await aready(item, spools.enter_context(spooled()))
                    entries.append(filling.entry(name, body, content_type or kind, await adigest(body)))
            return list(zip([name for name, _ in pairs], await line.run(filling.add(entries))))

    named_items, limit = aiter_chunks(Names().all_of(items)), max(1, concurrency)
    async for name, task_id in aeach(add, named_items, limit, lambda pair: weight_of(pair[1])):
        named[task_id] = len(named), name
    batches = [AsyncBatch(line, answer) for answer in await line.run(filling.seal())]
    for batch in batches:
        batch.items = named
    batches[-1].earlier = tuple(batches[:-1])
    return batches[-1]


# Made of the classes above by tools/unasync.py: change those.


class Batch(BatchView, Task):
    """The tasks of a ``map``. It is a task, too: it has ended when all of them have.

    It is ``completed`` if all of them are, else ``failed``. If the map had a *then*, it ends with that task. How many
    tasks it has, say ``total``, ``completed``, ``failed``, ``cancelled`` and ``unfinished``.
    """

    def wait(self, timeout_s: float | None = None, on_change: Callable[[Batch], object] | None = None) -> Batch:
        """Wait for its end, whatever that is. It is safe to wait again.

        Parameters:
            on_change: is called with the batch when it has changed, such as ``print``.

        Raises:
            WaitTimeout: it has not ended in *timeout_s* seconds; it goes on.
        """
        deadline = Deadline(timeout_s)
        for batch in self.earlier:
            batch.wait(deadline.left_s(), self._telling(on_change))
        self._line.run(self._until(lambda: self.is_finished, deadline, on_change))
        return self

    def tasks(self) -> Iterator[Task]:
        """All its tasks, newest first, a page at a time."""
        for batch in (self, *self.earlier[::-1]):
            for page in self._line.pages("Tasks", batch=batch.id):
                for document in page:
                    yield Task(self._line, document)

    def results(self, timeout_s: float | None = None) -> Iterator[tuple[str, Result]]:
        """The results with the names of their items, as the tasks end; those that have ended, in the items' order.

        Raises:
            BatchFailed: after all results: some tasks have none.
            WaitTimeout: not all have ended in *timeout_s* seconds; they go on.
        """
        lost: dict[str, Task] = {}
        for task in self._ends(Deadline(timeout_s), None):
            name = self._name_of(task)
            if task.document.get("ResultSize") is None:
                lost[name] = task
            else:
                yield name, Result(task, self._line)
        if lost:
            raise self._lost(lost)

    def save(
        self,
        folder: os.PathLike[str] | str,
        timeout_s: float | None = None,
        on_change: Callable[[Batch], object] | None = None,
        *,
        concurrency: int = 8,
    ) -> list[Path]:
        """Write the results to files of a folder as the tasks end, each under its item's name, with its type behind.

        A file is there only once it is whole, and has the time at which the task ended. One that is there is not
        fetched again.

        Parameters:
            timeout_s, on_change: as of ``wait``.
            concurrency: how many results are fetched at a time.

        Returns:
            The paths of the files.

        Raises:
            BatchFailed: after all are saved: some tasks have no result.
            WaitTimeout: not all have ended in *timeout_s* seconds; they go on.
        """
        files, lost = Saved(folder), dict[str, Task]()

        def save(tasks: list[Task]) -> list[Path | None]:
            [task] = tasks
            name = self._name_of(task)
            if task.document.get("ResultSize") is None:
                lost[name] = task
                return [None]
            file = files.file_of(name, task)
            if files.has(file, task):
                return [file]
            return [files.keep(Result(task, self._line).save(file), task)]

        ends = self._ends(Deadline(timeout_s), on_change)
        saved = [file for file in each(save, ends, max(1, concurrency)) if file]
        if lost:
            raise self._lost(lost, saved)
        return saved

    def result(self, timeout_s: float | None = None) -> Result:
        """Wait for its end, and return the result of the map's *then*.

        Raises:
            NotFound: it has none.
            TaskFailed, TaskCancelled, WaitTimeout: as of a task.
        """
        self.wait(timeout_s)
        then_id = self.document.get("ThenTaskId")
        if then_id is None:
            raise self._resultless()
        return Task(self._line, {"TaskId": then_id}).result()

    def cancel(self) -> Batch:
        """End those of its tasks that have not ended.

        Raises:
            Conflict: it has ended otherwise.
        """
        for batch in self.earlier:
            with suppress(errors.Conflict):
                batch.cancel()
        super().cancel()
        return self

    def replay(self) -> Batch:
        """Let those of its tasks begin again that have failed.

        Raises:
            Conflict: none has, or it has not ended.
        """
        replayed = False
        for batch in self.earlier:
            with suppress(errors.Conflict):
                batch.replay()
                replayed = True
        with suppress(errors.Conflict) if replayed else nullcontext():
            super().replay()
        return self

    def purge(self) -> None:
        """Remove it at once, with its tasks and all that the backbone keeps of them.

        Raises:
            Conflict: it has not ended.
        """
        for batch in self.earlier:
            batch.purge()
        super().purge()

    def _ends(self, deadline: Deadline, on_change: Callable[[Batch], object] | None) -> Iterator[Task]:
        """Its tasks as they end."""
        for batch in (*self.earlier, self):
            told, is_last = set[str](), False
            while not is_last:
                is_last, ended = batch._has_all_ended, list[Task]()
                for page in self._line.pages("Tasks", batch=batch.id):
                    tasks = [Task(self._line, document) for document in page if document["TaskId"] not in told]
                    ended = [*(task for task in tasks[::-1] if task.is_finished), *ended]
                for task in sorted(ended, key=self._number_of):
                    told.add(task.id)
                    yield task
                if not is_last:
                    self._line.run(batch._until_more(deadline, self._telling(on_change)))


def fill(line: Any, filling: Filling, items: Any, content_type: str | None, concurrency: int) -> Batch:
    """Submit *items*, seal the batch, and return it."""
    named: dict[str, tuple[int, str]] = {}

    def add(pairs: list[tuple[str, Any]]) -> list[tuple[str, str]]:
        with ExitStack() as spools:
            entries = list[Entry]()
            for name, item in pairs:
                with naming(name):
                    body, kind = ready(item, spools.enter_context(spooled()))
                    entries.append(filling.entry(name, body, content_type or kind, digest(body)))
            return list(zip([name for name, _ in pairs], line.run(filling.add(entries))))

    named_items, limit = iter_chunks(Names().all_of(items)), max(1, concurrency)
    for name, task_id in each(add, named_items, limit, lambda pair: weight_of(pair[1])):
        named[task_id] = len(named), name
    batches = [Batch(line, answer) for answer in line.run(filling.seal())]
    for batch in batches:
        batch.items = named
    batches[-1].earlier = tuple(batches[:-1])
    return batches[-1]
