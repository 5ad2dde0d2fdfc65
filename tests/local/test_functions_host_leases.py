"""The blob leases of timers, which the development host keeps as the original one does. Time is that of a clock that
the test moves; the leases are in a store of the test, and once in Azurite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import azure.functions as func
import pytest

from local.azurite import Azurite
from local.functions_host import FunctionsHost, HostError, ManualClock, create_host
from local.functions_host.leases import FATAL_S, LEASE_S, RENEWED_AFTER_S, BlobLeases, LeaseRefused, StorageAway
from tests.local.functions_host_apps import KEYS

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)


class Storage:
    """A storage account in which leases run out by the clock."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._holder: str | None = None
        self._until = NOON
        self.is_away = False
        self.refusal = ""
        self.dead: set[str] = set()
        """Hosts that were killed, and give nothing back."""

    def of(self, host: str) -> Leases:
        return Leases(self, host)

    def take(self, host: str) -> bool:
        if self.is_away:
            raise StorageAway
        if self.refusal:
            raise LeaseRefused(self.refusal)
        is_free = self._holder in (None, host) or self._until <= self._clock.now()
        if is_free:
            self._holder, self._until = host, self._clock.now() + timedelta(seconds=LEASE_S)
        return is_free

    def give_back(self, host: str) -> None:
        if self._holder == host and host not in self.dead:
            self._holder = None


class Leases:
    """One host's way to the storage account."""

    def __init__(self, storage: Storage, host: str) -> None:
        self._storage = storage
        self._host = host

    async def acquire(self, name: str) -> str | None:
        return self._host if self._storage.take(self._host) else None

    async def renew(self, name: str, lease_id: str) -> bool:
        return self._storage.take(lease_id)

    async def release(self, name: str, lease_id: str) -> None:
        self._storage.give_back(lease_id)

    async def aclose(self) -> None:
        return


class Hosts:
    """Two hosts of one app, whose timer fires every second."""

    def __init__(self, clock: ManualClock, storage: Storage) -> None:
        self._clock = clock
        self._storage = storage
        self.runs: list[tuple[str, float]] = []
        self.ended: list[str] = []

    def start(self, name: str) -> FunctionsHost:
        async def tick(timer: func.TimerRequest) -> None:
            self.runs.append((name, self.now_s))

        app = func.FunctionApp()
        app.timer_trigger(arg_name="timer", schedule="* * * * * *")(tick)
        return create_host(
            app, keys=KEYS, clock=self._clock, leases=self._storage.of(name), end_host=lambda: self.end(name)
        )

    @property
    def now_s(self) -> float:
        return (self._clock.now() - NOON).total_seconds()

    def end(self, name: str) -> None:
        self.ended.append(name)
        raise asyncio.CancelledError  # the process ends here

    def firsts(self) -> list[tuple[str, float]]:
        """The first run of each host in a row."""
        return [run for before, run in zip([("", 0.0), *self.runs], self.runs, strict=False) if before[0] != run[0]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def storage(clock: ManualClock) -> Storage:
    return Storage(clock)


@pytest.fixture
async def hosts(clock: ManualClock, storage: Storage) -> AsyncIterator[Hosts]:
    yield Hosts(clock, storage)


async def test_one_host_fires_a_timer_and_another_one_after_a_stop_that_gives_the_lease_back(
    clock: ManualClock, hosts: Hosts
) -> None:
    first = hosts.start("first")
    async with first:
        await clock.until_asleep(2)
        async with hosts.start("second"):
            await clock.until_asleep(3)
            await clock.advance(timedelta(seconds=100))
            assert {name for name, _ in hosts.runs} == {"first"}
            await first.drain()
            await clock.advance(timedelta(seconds=100))
    assert hosts.firsts() == [("first", 1), ("second", 121)], "it asks every 60 s"


async def test_after_the_holders_death_another_host_fires_a_timer_when_it_asks_after_the_lease_has_run_out(
    clock: ManualClock, hosts: Hosts, storage: Storage
) -> None:
    first = hosts.start("first")
    async with first, hosts.start("second"):
        await clock.until_asleep(3)
        await clock.advance(timedelta(seconds=100))
        storage.dead.add("first")
        await first.drain()
        await clock.advance(timedelta(seconds=200))
    [_, (name, at_s)] = hosts.firsts()
    assert name == "second"
    assert 100 + 57 <= at_s <= 100 + 101


@pytest.mark.parametrize(("away_s", "ends"), [(FATAL_S - 2, False), (FATAL_S + 2, True)])
async def test_a_storage_outage_ends_the_host_that_holds_the_lease_if_it_is_too_long(
    clock: ManualClock, hosts: Hosts, storage: Storage, away_s: float, ends: bool
) -> None:
    async with hosts.start("first"), hosts.start("second"):
        await clock.until_asleep(3)
        await clock.advance(timedelta(seconds=RENEWED_AFTER_S - 1))
        storage.is_away = True
        await clock.advance(timedelta(seconds=away_s))
        storage.is_away = False
        await clock.advance(timedelta(seconds=30))
        assert hosts.ended == (["first"] if ends else [])
        assert ("first", hosts.now_s) in hosts.runs or ends


async def test_leases_in_azurite_have_one_holder_and_are_given_back(azurite: Azurite) -> None:
    settings = {"AzureWebJobsStorage": azurite.connection_string, "AzureFunctionsWebHost__hostid": "leases"}
    first, second = BlobLeases.from_settings(settings), BlobLeases.from_settings(settings)
    assert first is not None and second is not None
    held = await first.acquire("Reconciler")
    assert held is not None
    assert await second.acquire("Reconciler") is None
    assert await first.renew("Reconciler", held)
    assert not await second.renew("Reconciler", "4e117e7b-a95f-410a-8df0-5867b0166ce4")
    assert await second.acquire("TaskQueueLogger") is not None, "each timer has its own"
    await first.release("Reconciler", held)
    assert await second.acquire("Reconciler") is not None
    await first.aclose()
    await second.aclose()


async def test_a_storage_account_that_gives_no_answer_is_told_from_a_lease_that_another_host_has() -> None:
    leases = BlobLeases(
        "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=YQ==;BlobEndpoint=http://127.0.0.1:1/a", "x"
    )
    with pytest.raises(StorageAway):
        await leases.acquire("Reconciler")
    await leases.aclose()


async def test_a_refused_lease_is_told_and_asked_for_again(
    clock: ManualClock, hosts: Hosts, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    storage.refusal = "wrong key"
    async with hosts.start("first"):
        await clock.until_asleep(1)
        assert "its lease was refused: wrong key" in caplog.text
        storage.refusal = ""
        await clock.advance(timedelta(seconds=62))
        assert hosts.runs


@pytest.mark.parametrize("key", ["d3Jvbmc=", "YQ"])
async def test_a_wrong_key_is_a_refusal(azurite: Azurite, key: str) -> None:
    parts = [part for part in azurite.connection_string.split(";") if part and not part.startswith("AccountKey=")]
    leases = BlobLeases(";".join([*parts, f"AccountKey={key}"]), "refused")
    with pytest.raises(LeaseRefused):
        await leases.acquire("Reconciler")
    await leases.aclose()


def test_an_unusable_connection_string_is_an_error_at_the_start() -> None:
    with pytest.raises(HostError, match=r"^AzureWebJobsStorage is no connection string"):
        BlobLeases.from_settings({"AzureWebJobsStorage": "nonsense"})
