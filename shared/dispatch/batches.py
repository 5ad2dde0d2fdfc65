"""What follows from the steps of batches and their children: ends are reported to batches, Then tasks are begun, and
what a batch's deadline is for is done.

Each method may end anywhere, with its process. What is left is found by the deadline of the batch, or when the end of
a child is reported again. Each may run twice, in two processes.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from shared import telemetry
from shared.bodies import BlobsUnavailable, BodyStore
from shared.dispatch.registry import BackendRegistry
from shared.dispatch.removal import remove_with_blobs
from shared.store import CHILDREN_AT_ONCE, Child, ChildEnd, ChildReport, StoreUnavailable, TaskStore, then_task_id
from shared.tasks.outcomes import Applied, Created, Outcome, Refusal, SlotGrant
from shared.tasks.task import Content, NewTask, PipelineStep, Reason, State, Task

if TYPE_CHECKING:
    from shared.dispatch.dispatcher import Dispatcher

log = logging.getLogger("task_backbone")

_BATCHES_AT_ONCE: Final = 8
"""How many batches a process attends to at a time."""
_AT_ONCE: Final = 50
"""How many children are cancelled or replayed at a time: what follows from each may call a backend."""
MANIFEST_TYPE: Final = "application/json"


class Batches:
    """One per event loop.

    Args:
        registry: knows for how long the backends of Then tasks let them run and wait.
        dispatcher: does what follows from the steps of children and Then tasks.
    """

    def __init__(
        self, store: TaskStore, bodies: BodyStore, registry: BackendRegistry, dispatcher: Dispatcher
    ) -> None:
        self._store = store
        self._steps = store.batches
        self._bodies = bodies
        self._registry = registry
        self._dispatcher = dispatcher
        self._unreported: dict[str, list[ChildEnd]] = {}
        self._reporting: dict[str, asyncio.Task[None]] = {}
        self._attended: set[str] = set()
        self._attending = asyncio.Semaphore(_BATCHES_AT_ONCE)
        store.batches.after_unacknowledged = self._follow_unacknowledged

    def note(self, child: Task) -> None:
        """A child has made a transition: report to its batch, beside, if that has to know."""
        is_replayed = child.state is State.CREATED and child.history[-1].reason is Reason.REPLAY
        if child.state.is_terminal or is_replayed:
            self.report([ChildEnd.of(child)])

    def report(self, ends: Iterable[ChildEnd]) -> None:
        """Report to batches what became of their children, beside. Reports of the same moment share a step."""
        for end in ends:
            self._unreported.setdefault(end.batch_id, []).append(end)
            if end.batch_id not in self._reporting:
                self._reporting[end.batch_id] = self._dispatcher.start(
                    self._report_all(end.batch_id), "a batch could not be told of its children's ends"
                )

    async def attend(self, batch: Task) -> None:
        """Do what a batch's deadline is for."""
        if batch.id in self._attended:
            return
        self._attended.add(batch.id)
        try:
            async with self._attending:
                await self._attend(batch)
        finally:
            self._attended.discard(batch.id)

    async def go_on(self, outcome: Outcome) -> None:
        """Do what follows from a step of a batch, now."""
        if isinstance(outcome, Applied):
            await self._follow(outcome)
            state = outcome.task.children
            if state is not None and state.job is not None:
                self._dispatcher.start(self._go_on(outcome.task), "a batch could not be gone on with")

    def _follow_unacknowledged(self, outcome: Outcome) -> None:
        """The caller of a step hears that the store does not answer, but the batch has taken it."""
        self._dispatcher.start(self.go_on(outcome), "what follows from an unacknowledged step could not be done")

    async def remove(self, task_id: str, *, owner: str | None) -> str:
        """Remove a finished task, or a batch with its children, at once.

        Returns:
            'unfinished' or 'unknown' if it was not removed.

        Raises:
            StoreUnavailable: also if it is a child whose batch cannot be told now how it has ended.
        """
        erased = (await self._steps.erase([task_id], owner=owner))[task_id]
        if erased.what == "unreported" and (child := await self._store.get(task_id)) is not None:
            self.note(child)
            await self._reported(child.batch)
            erased = (await self._steps.erase([task_id], owner=owner))[task_id]
            if erased.what == "unreported":
                raise StoreUnavailable("a batch does not know the end of a child that is to be removed")
        if erased.left is not None:
            await remove_with_blobs(self._store, self._bodies, [erased.left])
        elif erased.what == "batch":
            await self._remove_children(task_id)
        return erased.what

    async def remove_orphans(self, children: Sequence[Task]) -> None:
        """Remove those of the finished children whose batches are gone."""
        batch_ids = {child.batch for child in children}
        gone = {batch_id for batch_id in batch_ids if await self._store.get(batch_id) is None}
        ids = [child.id for child in children if child.batch in gone]
        if ids:
            erased = await self._steps.erase(ids)
            await remove_with_blobs(
                self._store, self._bodies, [each.left for each in erased.values() if each.left is not None]
            )

    async def _report_all(self, batch_id: str) -> None:
        unreported = self._unreported[batch_id]
        try:
            while unreported:
                ends = unreported[:CHILDREN_AT_ONCE]
                del unreported[:CHILDREN_AT_ONCE]
                await self._follow(await self._steps.report_ends(batch_id, ends))
        finally:
            # Those that are left are reported again in a while.
            del self._unreported[batch_id], self._reporting[batch_id]

    async def _reported(self, batch_id: str) -> None:
        """Wait until what is being reported to a batch has been."""
        while (reporting := self._reporting.get(batch_id)) is not None:
            await asyncio.wait([reporting])

    async def _follow(self, outcome: Outcome) -> None:
        if not isinstance(outcome, Applied):
            return
        batch = outcome.task
        if outcome.is_transition:
            await self._dispatcher.after_transition(outcome)
        state = batch.children
        if state is not None and state.then_id and not state.then_exists and not batch.state.is_terminal:
            await self._begin_then(batch)

    async def _attend(self, batch: Task) -> None:
        assert batch.children is not None
        if batch.is_removed:
            await self._remove_children(batch.id)
        elif batch.state.is_terminal and batch.children.job is None:
            await self.remove(batch.id, owner=None)
        else:
            await self._go_on(batch)

    async def _go_on(self, batch: Task) -> None:
        state = batch.children
        assert state is not None
        is_cancelled = False
        if state.job == "cancel":
            await self._dispatcher.publish_completions([batch])
            is_cancelled = await self._cancel_children(batch)
        elif state.job == "replay" or state.replayable:
            await self._replay_children(batch)
        elif state.then_id and not state.then_exists and not batch.state.is_terminal:
            await self._begin_then(batch)
        elif state.then_exists and state.then_state is None and await self._store.get(state.then_id) is None:
            # Its record was lost.
            await self._follow(await self._steps.report(batch.id, [ChildReport(state.then_id, 1, State.FAILED)]))
        checked = await self._check_children(batch)
        await self._reported(batch.id)
        look_again = checked is None
        outcome = await self._steps.rest(batch.id, checked=checked, look_again=look_again, is_cancelled=is_cancelled)
        await self._follow(outcome)

    async def _begin_then(self, batch: Task) -> None:
        """Create the Then task. Whoever does so first creates it: its id is the batch's to say."""
        state = batch.children
        assert state is not None
        assert state.then is not None
        manifest = await self._manifest(batch)
        try:
            body = await self._bodies.put(state.then_id, MANIFEST_TYPE, manifest)
        except BlobsUnavailable as error:
            text = "the Then task of batch %s could not begin, and will: %s"
            log.warning(text, batch.id, error, extra=telemetry.about(batch.id))
            return
        steps = [self._registry.bounded(step) for step in state.then.steps]
        then = _then_task(batch, steps, body, manifest)
        created = await self._store.create_unqueued(then)
        if body != created.task.body:
            await self._bodies.discard(body)
        outcome = await self._steps.report(batch.id, [ChildReport(then.id, 1, "begun")])
        if outcome.task is not None and outcome.task.state is State.CANCELLED:
            await self._cancel(then.id, _asked_by(outcome.task, Reason.CANCEL))
        elif isinstance(created, Created):
            granted = await self._store.enqueue(created.task)
            if self._dispatcher.dispatch_granted([granted], but=SlotGrant.of(created.task)):
                await self._dispatcher.begin(created.task)

    async def _manifest(self, batch: Task) -> bytes:
        """The body of the Then task: the children in the order of their registration."""
        state = batch.children
        assert state is not None
        tasks: list[dict[str, Any]] = []
        async for children in self._pieces(batch.id):
            records = await asyncio.gather(*(self._store.get(child.id) for child in children))
            tasks += [_listed(child, record) for child, record in zip(children, records, strict=True)]
        document = {"BatchId": batch.id, "Name": state.name or None, "Tasks": tasks}
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    async def _cancel_children(self, batch: Task) -> bool:
        """Cancel the children of a cancelled batch that have not ended, and its Then task. Returns whether no Then
        task can go on any more."""
        by = _asked_by(batch, Reason.CANCEL)
        async for children in self._pieces(batch.id):
            awaited = [child for child in children if child.is_awaited]
            for first in range(0, len(awaited), _AT_ONCE):
                cancels = (self._cancel_child(child, by) for child in awaited[first : first + _AT_ONCE])
                if failed := [report for report in await asyncio.gather(*cancels) if report is not None]:
                    await self._steps.report(batch.id, failed)
        state = batch.children
        assert state is not None
        return not state.then_id or state.then_state is not None or await self._cancel(state.then_id, by) is not None

    async def _cancel_child(self, child: Child, by: str | None) -> ChildReport | None:
        """Cancel a child, unless it has ended. What is to be reported if it was to be replayed, and will not be."""
        task = await self._cancel(child.id, by)
        if task is not None and child.known == "again" and task.attempt == child.number:
            return ChildReport(child.id, child.number, "unreplayable")
        return None

    async def _cancel(self, task_id: str, by: str | None) -> Task | None:
        """Cancel a task, unless it has ended; returns it if it exists."""
        outcome = await self._store.cancel(task_id, by=by)
        if isinstance(outcome, Applied):
            await self._dispatcher.after_transition(outcome)
        elif outcome.task is not None and outcome.task.state.is_terminal:
            self.note(outcome.task)
        return outcome.task

    async def _replay_children(self, batch: Task) -> None:
        state, by = batch.children, _asked_by(batch, Reason.REPLAY)
        while state is not None and state.job == "replay":
            outcome = await self._steps.mark_replays(batch.id)
            await self._follow(outcome)
            state = outcome.task.children if outcome.task else None
        async for children in self._pieces(batch.id):
            marked = [child for child in children if child.known == "again"]
            for first in range(0, len(marked), _AT_ONCE):
                replays = (self._replay(child, by) for child in marked[first : first + _AT_ONCE])
                if failed := [report for report in await asyncio.gather(*replays) if report is not None]:
                    await self._follow(await self._steps.report(batch.id, failed))

    async def _replay(self, child: Child, by: str | None) -> ChildReport | None:
        """Replay a child once. What is to be reported if that does not go."""
        outcome = await self._store.replay(child.id, attempt=child.number, by=by)
        if isinstance(outcome, Applied):
            if await self._dispatcher.after_transition(outcome, but=SlotGrant.of(outcome.task)):
                await self._dispatcher.begin(outcome.task)
            return None
        task = outcome.task
        if outcome.reason is Refusal.STALE and task is not None:
            return ChildReport(child.id, task.attempt, task.state if task.state.is_terminal else State.CREATED)
        return ChildReport(child.id, child.number, "unreplayable")

    async def _check_children(self, batch: Task) -> int | None:
        """Find the children that were registered a while ago and never created, and ends that were not reported.
        Returns up to which place all is known now; None if nothing was to be checked."""
        state = batch.children
        assert state is not None
        if state.seen >= state.checked_next:
            return None if state.seen == state.last_place else state.seen
        async for children in self._pieces(batch.id, behind=state.seen, last=state.checked_next):
            awaited = [child for child in children if child.is_awaited]
            records = await asyncio.gather(*(self._store.get(child.id) for child in awaited))
            reports = [_found(child, record) for child, record in zip(awaited, records, strict=True)]
            if found := [report for report in reports if report is not None]:
                await self._follow(await self._steps.report(batch.id, found))
        return state.checked_next

    async def _remove_children(self, batch_id: str) -> None:
        """Remove the children of a batch that is being removed, piece by piece, and then the batch."""
        while True:
            found = await self._steps.children(batch_id, is_removed=True)
            if found is None:
                return
            batch, children = found
            if not children:
                break
            await self._remove_pieces(batch_id, [child.id for child in children])
            await self._steps.forget(batch_id, [child.id for child in children])
        assert batch.children is not None
        thens = [then_task_id(batch_id, nth + 1) for nth in range(batch.children.then_tasks)]
        if thens:
            await self._remove_pieces(batch_id, thens)
        await self._store.purge([batch_id])

    async def _remove_pieces(self, batch_id: str, ids: Sequence[str]) -> None:
        # One that goes on by itself, since it was replayed after the batch had ended, is left.
        erased = await self._steps.erase(ids, batch_id=batch_id)
        with_blobs = [each.left for each in erased.values() if each.left is not None]
        if with_blobs:
            self._dispatcher.start(
                remove_with_blobs(self._store, self._bodies, with_blobs),
                "blobs of removed tasks could not be deleted",
            )

    async def _pieces(
        self, batch_id: str, behind: int | None = None, last: int | None = None
    ) -> AsyncIterator[Sequence[Child]]:
        """A batch's children, in the order of registration."""
        while (found := await self._steps.children(batch_id, behind=behind, last=last)) is not None and found[1]:
            yield found[1]
            behind = found[1][-1].place


def _asked_by(batch: Task, what: Reason) -> str | None:
    """The operator who asked for *what* was begun with a batch, as its history has it."""
    return next((event.operator for event in reversed(batch.history) if event.reason is what), None)


def _then_task(batch: Task, steps: Sequence[PipelineStep], body: Content, manifest: bytes) -> NewTask:
    state = batch.children
    assert state is not None
    assert state.then is not None
    first, *more = steps
    return NewTask(
        state.then_id,
        first.path,
        first.lease_s,
        max_run_s=first.max_run_s,
        expires_s=first.expires_s,
        query=first.query,
        body=body,
        inline_body=manifest,
        traceparent=batch.traceparent,
        owner=batch.owner,
        priority=batch.priority,
        steps=steps if more or state.then.pipeline else (),
        pipeline=state.then.pipeline,
        batch=batch.id,
    )


def _listed(child: Child, record: Task | None) -> dict[str, Any]:
    """A child in the manifest. One that was removed alone has no record any more."""
    status = None if record is None else record.status
    result = f"/api/v1/tasks/{child.id}/result" if record is not None and record.result else None
    return {"TaskId": child.id, "State": child.known, "Status": status, "Result": result}


def _found(child: Child, record: Task | None) -> ChildReport | None:
    if record is None:
        return ChildReport(child.id, child.number, "dropped")
    if child.known == "again":
        return None
    return ChildReport(child.id, record.attempt, record.state) if record.state.is_terminal else None
