"""The data that must survive a crash: the subscriptions, and every delivery that is not finished yet."""

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path

from local.event_grid.subscription import Subscription, SubscriptionSettings


@dataclass(slots=True)
class Delivery:
    """One event on its way to one subscription. Times are seconds of the emulator's clock."""

    number: int
    subscription: str
    event: bytes
    """The event as stamped JSON, in the schema in which it was published."""
    is_cloud_event: bool
    published_at_s: float
    due_at_s: float
    """When the next attempt, or the writing of the dead letter, is due."""
    attempts: int = 0
    last_attempt_at_s: float | None = None
    last_outcome: str | None = None
    dead_letter_reason: str | None = None
    """Set once there will be no further attempt and the event waits to be written as a dead letter."""
    gave_up_at_s: float | None = None


_NAMES = [field.name for field in fields(Delivery)]
_COLUMNS = ", ".join(_NAMES)
_MARKS = ", ".join("?" for _ in _NAMES)
_values_of = attrgetter(*_NAMES)

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS delivery (number INTEGER PRIMARY KEY, {_COLUMNS.partition(", ")[2]});
CREATE TABLE IF NOT EXISTS subscription (name TEXT PRIMARY KEY, active TEXT, candidate TEXT);
"""


class Journal:
    """An SQLite database that one thread writes. Statements that come while it is busy share the next transaction.

    A commit hands the data to the operating system, so it survives the death of the process, not of the machine.

    Parameters:
        path: the database file, created if it does not exist. Only its owner can read it, because it holds endpoint
            keys. Without a path, the journal keeps everything in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
        self._database = sqlite3.connect(path or ":memory:", timeout=0, check_same_thread=False)
        # Exclusive: a second emulator on the same file must fail at its start, or both would deliver everything.
        self._database.executescript(
            f"PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {_SCHEMA}"
        )
        self._thread = ThreadPoolExecutor(1, "event-grid-journal")
        self._statements: list[tuple[str, Sequence[object]]] = []
        self._written: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    def deliveries(self) -> list[Delivery]:
        rows = self._database.execute(f"SELECT {_COLUMNS} FROM delivery ORDER BY number")  # noqa: S608
        return [Delivery(*row) for row in rows]

    def subscriptions(self) -> list[Subscription]:
        rows = self._database.execute("SELECT name, active, candidate FROM subscription ORDER BY name")
        return [Subscription(name, _parse(active), _parse(candidate)) for name, active, candidate in rows]

    def latest_time_s(self) -> float:
        """The latest time in the journal. A clock that starts here never runs backwards for its entries."""
        (time_s,) = self._database.execute(
            "SELECT max(max(published_at_s, coalesce(last_attempt_at_s, 0), coalesce(gave_up_at_s, 0))) FROM delivery"
        ).fetchone()
        return time_s or 0.0

    async def add(self, deliveries: Sequence[Delivery]) -> None:
        """Adds the deliveries; returns once they are safe."""
        statement = f"INSERT INTO delivery ({_COLUMNS}) VALUES ({_MARKS})"  # noqa: S608
        written = [self._write(statement, _values_of(delivery)) for delivery in deliveries]
        if written:
            await asyncio.shield(written[-1])

    def update(self, delivery: Delivery) -> None:
        statement = f"UPDATE delivery SET ({_COLUMNS}) = ({_MARKS}) WHERE number = ?"  # noqa: S608
        self._write(statement, (*_values_of(delivery), delivery.number))

    def finish(self, delivery: Delivery) -> None:
        self._write("DELETE FROM delivery WHERE number = ?", (delivery.number,))

    async def save(self, subscription: Subscription) -> None:
        row = (subscription.name, _dump(subscription.active), _dump(subscription.candidate))
        await asyncio.shield(self._write("REPLACE INTO subscription VALUES (?, ?, ?)", row))

    async def delete(self, subscription: str) -> None:
        """Forgets the subscription and all its deliveries."""
        self._write("DELETE FROM delivery WHERE subscription = ?", (subscription,))
        await asyncio.shield(self._write("DELETE FROM subscription WHERE name = ?", (subscription,)))

    async def close(self) -> None:
        if self._writer is not None:
            await self._writer
        self._thread.shutdown()
        self._database.close()

    def _write(self, statement: str, values: Sequence[object]) -> asyncio.Future[None]:
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
        self._statements.append((statement, values))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())
        return self._written

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._written is not None:
            statements, self._statements = self._statements, []
            written, self._written = self._written, None
            try:
                await loop.run_in_executor(self._thread, self._commit, statements)
            except Exception as error:  # it belongs to the caller that waits for this write
                written.set_exception(error)
            else:
                written.set_result(None)
        self._writer = None

    def _commit(self, statements: list[tuple[str, Sequence[object]]]) -> None:
        with self._database:
            for statement, values in statements:
                self._database.execute(statement, values)


def _dump(settings: SubscriptionSettings | None) -> str | None:
    return settings.model_dump_json(by_alias=True) if settings else None


def _parse(text: str | None) -> SubscriptionSettings | None:
    return SubscriptionSettings.model_validate_json(text) if text else None
