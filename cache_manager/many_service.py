"""Many submits in one request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cache_manager import request_parsing as parse
from cache_manager.many_lines import AskedLine, AskedTask
from cache_manager.operation_outcomes import IdempotencyKeyReused
from cache_manager.outcome_problems import task_of
from shared import telemetry
from shared.http.error_problems import problem_of
from shared.http.problems import Problem, overloaded
from shared.services import Services
from shared.settings import INLINE_LIMIT_BYTES
from shared.store import CreateOutcome, JointCreation, StoreUnavailable
from shared.tasks.ids import new_task_id
from shared.tasks.outcomes import Created, Existing, SlotGrant
from shared.tasks.task import Content, NewTask, Task
from shared.tasks.value import altered

PIECE_TASKS: Final = 50
"""How many tasks are created at a time, and how many are begun. The next ones are read meanwhile."""
PIECE_BYTES: Final = 4 * 1024 * 1024
LONGEST_S: Final = 20.0
"""After so long, no more tasks are taken: a gateway in between gives up after a while."""
_LARGE_AT_ONCE: Final = 4
"""How many large bodies go to Blob Storage at a time."""
_TURN_TASKS: Final = 8
"""After so many small ones, others have their turn."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What tasks of a request have in common that have one query.

    Attributes:
        template: all of a task but what its line says.
        scope: tells apart what the same idempotency key may create.
        asked: what headers of the request ask for, for the fingerprint.
    """

    template: NewTask
    scope: str
    asked: Mapping[str, str]


class TakenLine:
    """A task of the request on its way.

    Attributes:
        number: as of an :class:`AskedLine`.
        outcome: the task, or why there is none; None: neither is known yet.
    """

    __slots__ = ("new", "number", "outcome")

    def __init__(self, number: int) -> None:
        self.number = number
        self.outcome: Task | Problem | None = None
        self.new: NewTask | None = None

    @property
    def asked_for(self) -> NewTask:
        assert self.new is not None
        return self.new

    @property
    def is_large(self) -> bool:
        """Whether its body belongs in Blob Storage."""
        return self.new is not None and len(self.new.inline_body) > INLINE_LIMIT_BYTES

    @property
    def problem(self) -> Problem | None:
        """Why there is no task."""
        return self.outcome if isinstance(self.outcome, Problem) else None


class ManySubmits:
    """The tasks of one request.

    They are created in their order, a piece of them at a time, while the next piece is read: no more of the request
    is there twice than that.

    Args:
        kind_of: what holds for a task with this query; None: it has none of its own. Raises a Problem if there is no
            such endpoint.
        key: from which the idempotency keys of tasks are derived that have none.
    """

    def __init__(
        self,
        services: Services,
        kind_of: Callable[[str | None], Kind],
        key: str | None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = services.store
        self._bodies = services.bodies
        self._dispatcher = services.dispatcher
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)
        self._begins = asyncio.Semaphore(PIECE_TASKS)
        self._kind_of = kind_of
        self._key = key
        self._now_s = now_s
        self._problems: dict[type[Exception], Problem] = {}
        self._stop: Problem | None = None
        """Why no more tasks are taken."""

    async def submit(self, lines: Sequence[AskedLine]) -> Sequence[TakenLine]:
        """What each has come to, in their order."""
        until_s = self._now_s() + LONGEST_S
        taken: list[TakenLine] = []
        async with asyncio.TaskGroup() as group:
            before: list[TakenLine] = []
            creating: asyncio.Task[JointCreation | None] | None = None
            async for piece in self._pieces(lines):
                creation = self._creation(piece)  # while Redis works on the piece before
                created = None if creating is None else await creating
                if self._now_s() >= until_s:
                    self._stop = self._stop or overloaded("tasks of one request")
                # Before anything is made of Redis' last answer: else it would be idle meanwhile.
                creating = group.create_task(self._create(piece, creation))
                await self._settle(before, created, group)
                before = piece
                taken += piece
            if creating is not None:
                await self._settle(before, await creating, group)
        return taken

    async def _pieces(self, lines: Sequence[AskedLine]) -> AsyncGenerator[list[TakenLine]]:
        """The tasks, a piece at a time. No piece has two of one id: which of them comes first must not be open."""
        read: list[tuple[TakenLine, AskedTask | None]] = []
        size_bytes = 0
        for count, line in enumerate(lines, 1):
            if read and (len(read) == PIECE_TASKS or size_bytes + line.size_bytes > PIECE_BYTES):
                for piece in await self._named(read):
                    yield piece
                read, size_bytes = [], 0
            taken = TakenLine(line.number)
            read.append((taken, await self._asked(line, taken)))
            size_bytes += line.size_bytes
            if count % _TURN_TASKS == 0 or line.size_bytes > INLINE_LIMIT_BYTES:
                await asyncio.sleep(0)
        for piece in await self._named(read):
            yield piece

    async def _asked(self, line: AskedLine, taken: TakenLine) -> AskedTask | None:
        try:
            return await line.read() if self._stop is None else None
        except Exception as error:
            taken.outcome = self._problem(error)
            return None

    async def _named(self, read: Sequence[tuple[TakenLine, AskedTask | None]]) -> list[list[TakenLine]]:
        """The lines with the tasks to create, in pieces without two of one id."""
        keyed: list[Awaitable[None]] = []
        for taken, asked in read:
            if asked is not None:
                key = asked.key
                if key is None and self._key is not None:
                    key = f"{self._key}\n{taken.number}"  # which no header can be
                keyed += self._name(taken, asked, key)
        await asyncio.gather(*keyed)
        pieces: list[list[TakenLine]] = [[]]
        ids: set[str] = set()
        for taken, _ in read:
            if taken.new is not None:
                if taken.new.id in ids:
                    pieces.append([])
                    ids.clear()
                ids.add(taken.new.id)
            pieces[-1].append(taken)
        return pieces

    def _name(self, taken: TakenLine, asked: AskedTask, key: str | None) -> Iterator[Awaitable[None]]:
        """Say what task a line is to become; what yields has to be awaited before that is known."""
        try:
            kind = self._kind_of(asked.query)
        except Problem as problem:
            taken.outcome = problem
            return
        taken.new = altered(
            kind.template,
            id=new_task_id() if key is None else "",
            body=Content(asked.content_type, len(asked.body), None, asked.encoding),
            inline_body=asked.body,
            priority=kind.template.priority if asked.priority is None else asked.priority,
        )
        if key is not None:
            yield self._name_by_key(taken, asked, kind, key)

    async def _name_by_key(self, taken: TakenLine, asked: AskedTask, kind: Kind, key: str) -> None:
        new = taken.asked_for
        headers = {"Content-Encoding": asked.encoding, **kind.asked}
        told = asked.content_type, new.query, asked.body, headers
        try:
            task_id = await self._store.keyed_ids.id_of(new.owner, kind.scope, key)
            if taken.is_large:  # in a thread: it takes a while
                fingerprint = await asyncio.to_thread(parse.fingerprint, *told)
            else:
                fingerprint = parse.fingerprint(*told)
            taken.new = altered(new, id=task_id, fingerprint=fingerprint)
        except Exception as error:
            taken.new, taken.outcome = None, self._problem(error)

    def _creation(self, piece: Sequence[TakenLine]) -> JointCreation | None:
        """That of a piece; None if there is nothing to create, or a body has to be stored before."""
        if self._stop is not None or any(line.is_large for line in piece):
            return None
        news = [line.asked_for for line in piece if line.outcome is None]
        return self._store.creation_of(news) if news else None

    async def _create(self, piece: Sequence[TakenLine], creation: JointCreation | None) -> JointCreation | None:
        """Store what is large of a piece, and create those of its tasks that have no outcome then."""
        large = [line for line in piece if line.is_large]
        if self._stop is None and large:
            await asyncio.gather(*map(self._store_body, large))
        lines = [line for line in piece if line.outcome is None]
        if self._stop is not None:
            for line in lines:
                line.outcome = self._stop
            return None
        if not lines:
            return None
        creation = creation or self._store.creation_of([line.asked_for for line in lines])
        await creation.send()
        if creation.failure is not None:
            self._stop = self._problem(creation.failure)
        return creation

    async def _settle(
        self, piece: Sequence[TakenLine], creation: JointCreation | None, group: asyncio.TaskGroup
    ) -> None:
        """Note what a piece has come to, and have its tasks dispatched."""
        lines = [line for line in piece if line.outcome is None]
        created = () if creation is None else creation.outcomes()
        for count, (line, outcome) in enumerate(zip(lines, created, strict=True)):
            if count % _TURN_TASKS == 0:
                await asyncio.sleep(0)
            for task in self._follow(outcome):
                group.create_task(self._begin(task))
            line.outcome = await self._outcome(line.asked_for, outcome)
        for line in piece:
            line.new = None  # whose body would be kept until the last one has come

    async def _store_body(self, line: TakenLine) -> None:
        new = line.asked_for
        assert new.body is not None
        try:
            async with self._large:
                kind, _, _, encoding, _ = new.body
                line.new = altered(new, body=await self._bodies.put(new.id, kind, new.inline_body, encoding))
        except Exception as error:
            line.outcome = self._problem(error)

    def _follow(self, outcome: CreateOutcome) -> Iterator[Task]:
        """Have dispatched what was granted. The task itself, if it has got a slot, is to begin."""
        if isinstance(outcome, Created):
            telemetry.transition(outcome.task)
            if self._dispatcher.dispatch_granted(outcome.granted, but=SlotGrant.of(outcome.task)):
                yield outcome.task
        elif isinstance(outcome, (Existing, StoreUnavailable)):
            self._dispatcher.dispatch_granted(outcome.granted)

    async def _begin(self, task: Task) -> None:
        async with self._begins:
            await self._dispatcher.begin(task)

    async def _outcome(self, new: NewTask, outcome: CreateOutcome) -> Task | Problem:
        if isinstance(outcome, StoreUnavailable):
            return self._problem(outcome)
        known = outcome.task if isinstance(outcome, Existing) else None
        if not isinstance(outcome, Created) and (known is None or known.body != new.body):
            await self._bodies.discard(new.body)
        try:
            if known is not None and known.fingerprint != new.fingerprint:
                return task_of(IdempotencyKeyReused(known))
            return task_of(outcome)
        except Problem as problem:
            return problem

    def _problem(self, error: Exception) -> Problem:
        """Of many lines that meet the same error, the log tells once."""
        if isinstance(error, Problem):
            return error
        kind = type(error)
        if kind not in self._problems:
            self._problems[kind] = problem_of(error)
        return self._problems[kind]
