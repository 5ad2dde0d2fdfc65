"""Many submits in one request: in pieces, and what ends them early."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cache_manager import many_service
from cache_manager.many_lines import AskedLine, AskedTask
from cache_manager.many_service import LONGEST_S, PIECE_BYTES, PIECE_TASKS, Kind, ManySubmits, TakenLine
from shared.bodies import BlobsUnavailable
from shared.http.problems import Problem, invalid
from shared.settings import INLINE_LIMIT_BYTES
from shared.store import StoreUnavailable
from shared.tasks.outcomes import Created
from shared.tasks.task import Content, NewTask, Task

PATH = "/v1/org/model"


class Store:
    """Takes tasks, until it falls silent.

    Attributes:
        pieces: the ids of the tasks that came together.
        begun: how many of these it was asked for so far, answered or not.
        silent_after: how many pieces it answers.
    """

    def __init__(self) -> None:
        self.pieces: list[list[str]] = []
        self.begun = 0
        self.most_bytes = 0
        self.silent_after = 1_000
        self.on_piece: Callable[[], None] = lambda: None
        self.keyed_ids = self

    async def id_of(self, owner: str, scope: str, key: str) -> str:
        return f"{owner} {scope} {key}"

    def creation_of(self, news: Sequence[NewTask]) -> Creation:
        return Creation(self, news)


class Creation:
    """A piece that the store takes."""

    def __init__(self, store: Store, news: Sequence[NewTask]) -> None:
        self._store = store
        self._news = news
        self.failure: StoreUnavailable | None = None

    async def send(self) -> None:
        store, news = self._store, self._news
        store.begun += 1
        await asyncio.sleep(0)
        store.on_piece()
        store.pieces.append([new.id for new in news])
        store.most_bytes = max(store.most_bytes, sum(len(new.inline_body) for new in news))
        if len(store.pieces) > store.silent_after:
            self.failure = StoreUnavailable("silent")

    def outcomes(self) -> list[Created | StoreUnavailable]:
        if self.failure is not None:
            return [self.failure] * len(self._news)
        return [
            Created(cast("Task", SimpleNamespace(id=new.id, attempt=1, fingerprint=new.fingerprint)))
            for new in self._news
        ]


class Bodies:
    def __init__(self) -> None:
        self.at_once = self.most_at_once = self.count = 0
        self.is_there = True

    async def put(self, task_id: str, content_type: str, data: bytes, encoding: str) -> Content:
        self.count += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if not self.is_there:
            raise BlobsUnavailable("gone")
        return Content(content_type, len(data), "blob", encoding)


class Dispatcher:
    """
    Attributes:
        grants: whether each task is granted a slot.
    """

    def __init__(self) -> None:
        self.grants = False
        self.at_once = self.most_at_once = 0
        self.begun: list[str] = []

    def dispatch_granted(self, granted: object, *, but: object = None) -> bool:
        return self.grants

    async def begin(self, task: Task) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        for _ in range(50):
            await asyncio.sleep(0)
        self.at_once -= 1
        self.begun.append(task.id)


class Request:
    """A request that submits many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.bodies, self.dispatcher, self.now_s = Store(), Bodies(), Dispatcher(), 0.0
        self.on_created: Callable[[str], None] = lambda task_id: None
        # A task that is none has nothing to report.
        monkeypatch.setattr(many_service.telemetry, "transition", lambda task: self.on_created(task.id))
        monkeypatch.setattr(many_service, "task_of", lambda outcome: outcome.task)

    async def submit(self, reads: Sequence[AskedTask | Problem], key: str | None = None) -> Sequence[TakenLine]:
        services = cast("Any", SimpleNamespace(store=self.store, bodies=self.bodies, dispatcher=self.dispatcher))
        kind = Kind(NewTask("", PATH, 60, owner="ada"), PATH, {})
        lines = [AskedLine(number, self._size(read), self._reading(read)) for number, read in enumerate(reads, 1)]
        return await ManySubmits(services, lambda query: kind, key, lambda: self.now_s).submit(lines)

    @staticmethod
    def _size(read: AskedTask | Problem) -> int:
        return len(read.body) if isinstance(read, AskedTask) else 10

    @staticmethod
    def _reading(read: AskedTask | Problem) -> Any:
        async def reading() -> AskedTask:
            if isinstance(read, Problem):
                raise read
            return read

        return reading


@pytest.fixture
def request_(monkeypatch: pytest.MonkeyPatch) -> Request:
    return Request(monkeypatch)


def asked(body: bytes = b"x", key: str | None = None) -> AskedTask:
    return AskedTask(body, "text/plain", key=key)


def slugs(lines: Sequence[TakenLine]) -> list[str]:
    return ["" if line.problem is None else line.problem.document["type"].rpartition(":")[2] for line in lines]


async def test_tasks_come_in_pieces_and_in_order(request_: Request) -> None:
    count = 3 * PIECE_TASKS + 7
    lines = await request_.submit([asked(key=str(number)) for number in range(count)])
    assert [line.number for line in lines] == [*range(1, count + 1)]
    assert [len(piece) for piece in request_.store.pieces] == [*[PIECE_TASKS] * 3, 7]
    ids = [task_id.rpartition(" ")[2] for piece in request_.store.pieces for task_id in piece]
    assert ids == [str(number) for number in range(count)]


async def test_the_next_piece_goes_to_redis_before_anything_is_made_of_the_last_answer(request_: Request) -> None:
    begun_by: list[int] = []
    request_.on_created = lambda task_id: begun_by.append(request_.store.begun)
    await request_.submit([asked() for _ in range(4 * PIECE_TASKS)])
    assert begun_by[::PIECE_TASKS] == [2, 3, 4, 4]


async def test_others_have_their_turns_while_answers_are_read(request_: Request) -> None:
    turns = 0
    ids_by_turn: dict[int, list[str]] = {}

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    request_.on_created = lambda task_id: ids_by_turn.setdefault(turns, []).append(task_id)
    counting = asyncio.ensure_future(count_turns())
    await request_.submit([asked() for _ in range(3 * PIECE_TASKS)])
    counting.cancel()
    assert max(map(len, ids_by_turn.values())) == 8


async def test_no_more_than_a_piece_is_begun_at_a_time(request_: Request) -> None:
    request_.dispatcher.grants = True
    await request_.submit([asked(key=str(number)) for number in range(4 * PIECE_TASKS)])
    assert request_.dispatcher.most_at_once == PIECE_TASKS
    assert sorted(request_.dispatcher.begun) == sorted(
        task_id for piece in request_.store.pieces for task_id in piece
    )


async def test_no_piece_has_more_bytes_than_it_may_unless_one_task_has(request_: Request) -> None:
    sizes = [PIECE_BYTES // 3] * 10 + [2 * PIECE_BYTES] + [1] * 5
    lines = await request_.submit([asked(bytes(size)) for size in sizes])
    assert slugs(lines) == [""] * len(sizes)
    assert [len(piece) for piece in request_.store.pieces] == [3, 3, 3, 1, 1, 5]
    assert request_.store.most_bytes == 2 * PIECE_BYTES
    assert all(line.new is None for line in lines)  # no body is kept until the last line has come


async def test_no_piece_has_two_tasks_of_one_id(request_: Request) -> None:
    await request_.submit([asked(key=key) for key in "aabbca"])
    assert [[task_id[-1] for task_id in piece] for piece in request_.store.pieces] == [
        ["a"],
        ["a", "b"],
        ["b", "c", "a"],
    ]


async def test_keys_are_derived_from_that_of_the_request_and_the_number(request_: Request) -> None:
    await request_.submit([asked(), asked(key="own"), invalid("", "broken"), asked()], key="all")
    assert request_.store.pieces == [[f"ada {PATH} all\n1", f"ada {PATH} own", f"ada {PATH} all\n4"]]


async def test_when_the_store_falls_silent_the_rest_is_not_tried(
    request_: Request, caplog: pytest.LogCaptureFixture
) -> None:
    request_.store.silent_after = 2
    with caplog.at_level(logging.WARNING):
        lines = await request_.submit([asked() for _ in range(10 * PIECE_TASKS)])
    assert slugs(lines) == [""] * 2 * PIECE_TASKS + ["unavailable"] * 8 * PIECE_TASKS
    assert len(request_.store.pieces) == 3
    assert len([line for line in caplog.messages if "does not answer" in line]) == 1


async def test_after_twenty_seconds_no_more_is_taken(request_: Request) -> None:
    def pass_time() -> None:
        request_.now_s += LONGEST_S / 3

    request_.store.on_piece = pass_time
    lines = await request_.submit([asked() for _ in range(10 * PIECE_TASKS)])
    taken = slugs(lines).count("")
    assert 3 * PIECE_TASKS <= taken <= 5 * PIECE_TASKS
    assert slugs(lines) == [""] * taken + ["overloaded"] * (10 * PIECE_TASKS - taken)
    assert {line.problem.headers["Retry-After"] for line in lines if line.problem} == {"2"}


async def test_large_bodies_go_to_blob_storage_four_at_a_time(request_: Request) -> None:
    large = bytes(INLINE_LIMIT_BYTES + 1)
    await request_.submit([asked(large) for _ in range(20)])
    assert request_.bodies.most_at_once == 4
    request_.bodies.is_there = False
    lines = await request_.submit([asked(large), asked(), invalid("/Body", "broken"), asked(large)])
    assert slugs(lines) == ["unavailable", "", "invalid-request", "unavailable"]


async def test_bodies_of_tasks_that_are_not_taken_any_more_go_nowhere(request_: Request) -> None:
    request_.store.on_piece = lambda: setattr(request_, "now_s", LONGEST_S)
    lines = await request_.submit([asked(bytes(PIECE_BYTES)) for _ in range(6)])
    taken = slugs(lines).count("")
    assert slugs(lines) == [""] * taken + ["overloaded"] * (6 - taken)
    assert taken < 6
    assert request_.bodies.count == taken


async def test_a_bug_ends_one_line(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail() -> AskedTask:
        raise RuntimeError("a bug")

    lines = [AskedLine(1, 1, fail)]
    services = cast("Any", SimpleNamespace(store=request_.store, bodies=request_.bodies, dispatcher=Dispatcher()))
    taken = await ManySubmits(services, lambda query: cast("Kind", None), None).submit(lines)
    assert slugs(taken) == ["internal-error"]
