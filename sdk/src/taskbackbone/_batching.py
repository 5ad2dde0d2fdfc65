"""What ``TaskClient.map`` and a batch do, as steps and views: the faces in ``batch`` run them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from . import errors
from ._calls import UNTOLD, Caller, Deadline, Item, TaskView, asked, endpoint, is_older, moment, suffix_of
from ._core import Answer, Sleep, Steps
from ._payload import Payload

_FULL_QUEUE_PAUSE_S = 60.0
_CLOSED = ("batch-sealed", "batch-full")
_SEEDS = ("start_after", "start_before", "max_run_s", "callback")
_LONGEST_NAME_BYTES = 180
_SHOWN = 10
_SAME_S = 0.001


class Entry:
    """An item on its way into a batch: its name, its body, the key of its submit, and the number of the batch."""

    def __init__(self, name: str, body: bytes | Payload, content_type: str, key: str, number: int) -> None:
        self.name = name
        self.item = Item(body, content_type, key)
        self.number = number
        self.others: set[int] = set()
        """The batches that it is not in."""


class Filling:
    """Batches that items are submitted to: one, or, where that takes no more, several.

    Keys are made of the name and of what is submitted. So whoever does it again gets the same batches and tasks.
    Equal items are told apart by their number among themselves.
    """

    def __init__(self, caller: Caller, path: str, then: str | None, name: str | None, **wishes: Any) -> None:
        """*wishes* are those of ``submit``."""
        self._caller = caller
        self._path = path
        self._wishes = {wish: value for wish, value in wishes.items() if value is not None}
        self._callback = self._wishes.pop("callback", None)
        told = {"Name": name, "Then": then and "?".join(filter(None, endpoint(then, None)))}
        self._told = {member: value for member, value in told.items() if value}
        query, pipeline = wishes.get("query"), wishes.get("pipeline")
        times = {wish: str(wishes[wish]) for wish in _SEEDS if wishes.get(wish) is not None}
        self._seed = [
            name or os.urandom(16).hex(),
            endpoint(path, query),
            pipeline,
            then,
            *([times] if times else []),
        ]
        self._batches: dict[int, dict[str, Any]] = {}
        self._latest = 1
        self._equal: dict[str, Iterator[int]] = {}
        self._takes_many = True

    def entry(self, name: str, body: bytes | Payload, content_type: str, digest: str) -> Entry:
        """An item that can be added."""
        told = f"{content_type} {digest}"
        return Entry(
            name, body, content_type, self._key(told, next(self._equal.setdefault(told, count()))), self._latest
        )

    def add(self, entries: Sequence[Entry]) -> Steps[list[str]]:
        """Submit items, however long their queue is full, and return the ids of their tasks."""
        ids, left = dict[Entry, str](), list(entries)
        while left:
            number, is_full = left[0].number, False
            now = [entry for entry in left if entry.number == number]
            with naming(now[0].name):
                batch = yield from self._open(number)
                outcomes = yield from self._submit(batch["TaskId"], now)
            for entry, outcome in outcomes.items():
                if isinstance(outcome, errors.QueueFull):
                    is_full = True
                elif isinstance(outcome, Exception):
                    with naming(entry.name):
                        self._send_on(entry, outcome, batch)
                else:
                    ids[entry] = outcome["TaskId"]
            left = [entry for entry in left if entry not in ids]
            if is_full:
                yield Sleep(_FULL_QUEUE_PAUSE_S)
        return [ids[entry] for entry in entries]

    def _submit(self, batch: str, entries: Sequence[Entry]) -> Steps[dict[Entry, Any]]:
        """What became of each: a task as a JSON object, or an error."""
        outcomes = dict[Entry, Any]()
        most = self._caller.most_together_bytes
        small = [entry for entry in entries if len(entry.item.body) <= most]
        if len(small) > 1 and self._takes_many:
            try:
                items = [entry.item for entry in small]
                told = yield from self._caller.submit_many(self._path, items, batch=batch, **self._wishes)
                outcomes = dict(zip(small, told))
            except errors.Refused as error:
                if not (is_older(error) or isinstance(error, errors.TooLarge)):
                    raise
                self._takes_many = False
        for entry in entries:
            if isinstance(outcomes.get(entry, UNTOLD), errors.Unreachable):  # a call of its own is repeated
                body, kind, key = entry.item
                try:
                    answer = yield from self._caller.submit(
                        self._path, body, kind, idempotency_key=key, batch=batch, **self._wishes
                    )
                    outcomes[entry] = answer.json()
                except errors.Refused as error:
                    outcomes[entry] = error
        return outcomes

    def _send_on(self, entry: Entry, error: Exception, batch: Mapping[str, Any]) -> None:
        """Let an item that a batch has refused go into another one."""
        if isinstance(error, errors.Conflict) and error.kind in _CLOSED:
            entry.number = self._latest = max(entry.number + 1, self._latest)
        elif isinstance(error, errors.KeyReused):  # it is in another one since an earlier run
            entry.others.add(entry.number)
            entry.number = next(other for other in count(1) if other not in entry.others)
            if entry.number not in self._batches and not batch["Total"]:
                raise error
        else:
            raise error

    def seal(self) -> Steps[list[Answer]]:
        """Let nothing more be added."""
        yield from self._open(1)
        sealed: list[Answer] = []
        for _, batch in sorted(self._batches.items()):
            path = f"/api/v1/batches/{batch['TaskId']}/seal"
            sealed.append((yield from self._caller.demand("POST", path, body=b"")))
        return sealed

    def _open(self, number: int) -> Steps[Any]:
        """The batch of this number, 1 for the first."""
        if number not in self._batches:
            headers = {
                "Content-Type": "application/json",
                "Idempotency-Key": self._key(number),
                **asked(priority=self._wishes.get("priority"), callback=self._callback),
            }
            body = json.dumps(self._told).encode()
            answer = yield from self._caller.demand("POST", "/api/v1/batches", body=body, headers=headers)
            self._batches[number] = answer.json()
        return self._batches[number]

    def _key(self, *told: object) -> str:
        return hashlib.sha256(json.dumps([*self._seed, *told]).encode()).hexdigest()


class Names:
    """The names of items: those of files, of a mapping's keys, or else their numbers. No two are the same."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._numbers = count(1)

    def all_of(self, items: Any) -> Any:
        """Items with their names, as pairs, one after the other.

        Raises:
            ValueError: it is a folder without files, or nothing that has items.
        """
        if isinstance(items, os.PathLike):
            items = files_in(Path(os.fspath(cast("os.PathLike[str]", items))))
        if isinstance(items, Mapping):
            return ((self._new(str(name)), item) for name, item in cast("Mapping[Any, Any]", items).items())
        if hasattr(items, "__aiter__"):
            return self._aall_of(items)
        if isinstance(items, (str, bytes)):
            raise ValueError("Items are a folder as a Path, a mapping, or an iterable of bodies.")
        return ((self._of(item), item) for item in items)

    async def _aall_of(self, items: Any) -> AsyncIterator[tuple[str, Any]]:
        async for item in items:
            yield self._of(item), item

    def _of(self, item: Any) -> str:
        number = next(self._numbers)
        name = str(item) if hasattr(item, "__fspath__") else getattr(item, "name", None)
        return self._new(Path(name).name if isinstance(name, str) else f"{number:06}")

    def _new(self, name: str) -> str:
        """*name* as a file may have it, with a number if it is taken."""
        plain = "".join("_" if letter in "/\\:" or not letter.isprintable() else letter for letter in name)
        plain = plain.encode()[:_LONGEST_NAME_BYTES].decode(errors="ignore").lstrip(".") or "_"
        every = (plain if number == 1 else f"{plain}-{number}" for number in count(1))
        new = next(each for each in every if each.casefold() not in self._taken)
        self._taken.add(new.casefold())
        return new


def files_in(folder: Path) -> list[Path]:
    """Its files, without hidden ones and those of folders in it.

    Raises:
        ValueError: there are none.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder.")
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith(".")]
    if not files:
        raise ValueError(f"There is no file in {folder}.")
    return files


class BatchView(TaskView):
    """A batch as it was last seen, together with the earlier ones of the same map."""

    earlier: Sequence[Any] = ()
    """What was filled before it: the batches of this name that took no more items."""
    items: Mapping[str, tuple[int, str]] = MappingProxyType({})
    """By the ids of tasks, the numbers and names of their items, as far as this process knows them."""

    @property
    def name(self) -> str | None:
        return self.document.get("Name")

    @property
    def total(self) -> int:
        """How many tasks it has."""
        return self._number("Total")

    @property
    def completed(self) -> int:
        """How many of them are completed."""
        return self._number("Completed")

    @property
    def failed(self) -> int:
        """How many of them have failed."""
        return self._number("Failed")

    @property
    def cancelled(self) -> int:
        """How many of them were cancelled."""
        return self._number("Cancelled")

    @property
    def unfinished(self) -> int:
        """How many of them have not ended."""
        return self._number("Unfinished")

    @property
    def progress(self) -> float | None:
        """How many of them have ended, 0 to 1; None while there are none."""
        return 1 - self.unfinished / self.total if self.total else None

    def _number(self, name: str) -> int:
        return int(self.document.get(name) or 0) + sum(batch._number(name) for batch in self.earlier)

    def __repr__(self) -> str:
        ended = f"{self.total - self.unfinished} of {self.total} ended, {self.failed} failed"
        return f"{type(self).__name__}({self.id!r}, {self.state!r}, {ended})"

    @property
    def _has_all_ended(self) -> bool:
        return bool(self.document.get("Sealed") and not self.document.get("Unfinished"))

    def _until_more(self, deadline: Deadline, on_change: Callable[[Any], object] | None) -> Steps[None]:
        """Wait until more of its tasks have ended, and until it is worth while to look at them all."""
        seen, later_s = self.unfinished, time.monotonic() + max(1.0, self.total / 1000)
        yield from self._until(lambda: self._has_all_ended or self.unfinished != seen, deadline, on_change)
        if not self._has_all_ended:
            yield Sleep(deadline.left_s(max(0.0, later_s - time.monotonic())))

    def _telling(self, on_change: Callable[[Any], object] | None) -> Callable[[Any], object] | None:
        """Tells of this batch when an earlier one has changed."""

        def tell(_: Any) -> None:
            if on_change is not None:
                on_change(self)

        return tell if on_change else None

    def _number_of(self, task: TaskView) -> int:
        return self.items.get(task.id, (0, ""))[0]

    def _name_of(self, task: TaskView) -> str:
        return self.items.get(task.id, (0, task.id))[1]

    def _lost(self, lost: Mapping[str, Any], saved: Sequence[Path] = ()) -> errors.BatchFailed:
        lost = dict(sorted(lost.items(), key=lambda pair: self._number_of(pair[1])))
        named = [f"{name} ({task.status})" for name, task in list(lost.items())[:_SHOWN]]
        named += [f"and {len(lost) - _SHOWN} more"] if len(lost) > _SHOWN else []
        text = f"{len(lost)} of {self.total} have no result: {', '.join(named)}"
        return errors.BatchFailed(text, self, lost, saved)

    def _resultless(self) -> errors.NotFound:
        kind = "urn:task-backbone:problem:no-result"
        return errors.NotFound("The batch has no task that got the list of its results.", 404, {"type": kind})


@contextmanager
def naming(name: str) -> Generator[None, None, None]:
    """Has an error say which item it is about."""
    try:
        yield
    except (errors.BackboneError, TypeError, ValueError) as error:
        error.args = f"{name}: {error}", *error.args[1:]
        raise


class Saved:
    """Files for results: of items, each with the time at which its task ended, by which it is known again."""

    def __init__(self, folder: os.PathLike[str] | str) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)

    def file_of(self, name: str, task: TaskView) -> Path:
        return self._folder / (name + suffix_of(str(task.document.get("ResultContentType") or "")))

    def has(self, file: Path, task: TaskView) -> bool:
        try:
            return abs(file.stat().st_mtime - self._ended_s(task)) < _SAME_S
        except FileNotFoundError:
            return False

    def keep(self, file: Path, task: TaskView) -> Path:
        os.utime(file, (self._ended_s(task), self._ended_s(task)))
        return file

    def _ended_s(self, task: TaskView) -> float:
        ended = moment(task.document.get("Timestamp"))
        return ended.timestamp() if ended else 0.0
