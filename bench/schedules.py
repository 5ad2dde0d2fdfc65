"""Schedules: does each due time make one task, and no more?

In real time: two processes with a reconciler each, killed in turn, and a Redis that is killed between. In virtual
time: a year with both changes of the clocks, seen to by two processes at once, of which each step may be the last one
of one of them. What should be there is counted without the app: by the calendar, and by the time that passes.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from bench.harness import Figure, Report
from bench.plausibility import require
from cache_manager.schedule_runs import ScheduleRuns
from local.redis_server import RedisServer
from local.stack import ROOT
from shared.store import Listing, RedisLink, StoreUnavailable
from shared.store.due_schedules import START_GRACE_S
from shared.tasks.cron import DueTimes
from shared.tasks.schedules import CatchUp, Definition, Name, Overlap, RunOutcome
from shared.tasks.task import Content
from tests.cache_manager.process import Process
from tests.shared.store.conftest import opener
from tests.waiting import eventually

PATH: Final = "/v1/test"
SCHEDULES: Final = 200
KILLED_EVERY_S: Final = 7.0
REDIS_KILLED_EVERY_S: Final = 19.0
BERLIN: Final = ZoneInfo("Europe/Berlin")
SYDNEY: Final = ZoneInfo("Australia/Sydney")
YEAR: Final = 2026
DIES_ONCE_IN: Final = 40
"""So many steps of a process in virtual time, one is its last, on average."""


@dataclass(frozen=True, slots=True)
class Count:
    """Of due times."""

    expected: int
    missing: int
    doubled: int


@dataclass
class Clock:
    ms: int = 0

    def __call__(self) -> int:
        return self.ms


@dataclass
class Mortal:
    """Decides when a process dies."""

    chance: random.Random
    deaths: int = field(default=0)

    def step(self) -> None:
        if self.chance.randrange(DIES_ONCE_IN) == 0:
            self.deaths += 1
            raise StoreUnavailable("the process is dead")


class MortalLink(RedisLink):
    """Dies before a step, or after it, so that nobody hears what came of it."""

    mortal: Mortal | None = None

    async def script(self, name: str, tag: str, *args: bytes | str) -> Any:
        if self.mortal is None:
            return await super().script(name, tag, *args)
        self.mortal.step()
        reply = await super().script(name, tag, *args)
        self.mortal.step()
        return reply

    async def combined(self, name: str, *args: bytes) -> Any | None:
        if self.mortal is None:
            return await super().combined(name, *args)
        self.mortal.step()
        reply = await super().combined(name, *args)
        self.mortal.step()
        return reply


def run(quick: bool) -> list[Figure]:
    seconds = 30.0 if quick else 180.0
    report = Report(
        "schedules",
        quick=quick,
        settings={"schedules": SCHEDULES, "s": seconds, "killed every s": KILLED_EVERY_S, "year": YEAR},
    )
    with tempfile.TemporaryDirectory() as name, RedisServer(Path(name)) as redis:
        real, deaths = in_real_time(redis, Path(name), seconds)
        redis.flush()
        days = 120 if quick else 365
        virtual, virtual_deaths = asyncio.run(in_virtual_time(redis.url, days))
    report.table(
        "due times",
        ["", "expected", "missing", "doubled", "deaths of processes"],
        [
            ("200 a minute, 2 hosts, Redis restarts", real.expected, real.missing, real.doubled, deaths),
            (f"{days} virtual days, 2 hosts", virtual.expected, virtual.missing, virtual.doubled, virtual_deaths),
        ],
    )
    report.figure(Figure.of("schedules_missing", [real.missing, virtual.missing]))
    report.figure(Figure.of("schedules_doubled", [real.doubled, virtual.doubled]))
    return report.finish()


# Real time


def in_real_time(redis: RedisServer, folder: Path, seconds: float) -> tuple[Count, int]:
    begun_s = asyncio.run(_put_all(redis.url))
    deaths = 0
    with ExitStack() as stack:
        log = stack.enter_context((folder / "hosts.log").open("ab"))
        hosts = [_Host(redis.url, log.fileno()) for _ in range(2)]
        stack.callback(lambda: [host.kill() for host in hosts])
        kill_at_s, kill_redis_at_s = begun_s + KILLED_EVERY_S, begun_s + REDIS_KILLED_EVERY_S
        while (now_s := time.time()) < begun_s + seconds:
            if now_s >= kill_at_s:
                hosts[deaths % 2].kill()
                hosts[deaths % 2] = _Host(redis.url, log.fileno())
                deaths, kill_at_s = deaths + 1, kill_at_s + KILLED_EVERY_S
            if now_s >= kill_redis_at_s:
                redis.kill()
                redis.start()
                kill_redis_at_s += REDIS_KILLED_EVERY_S
            time.sleep(0.05)
        eventually(lambda: asyncio.run(_are_settled(redis.url)))
        ended_s = asyncio.run(_pause_all(redis.url))
    require(deaths > 0, "a process was killed")
    return asyncio.run(_counted(redis.url, begun_s, ended_s)), deaths


class _Host:
    def __init__(self, url: str, log: int) -> None:
        command = [sys.executable, "-m", "bench.schedule_host", url]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def _second_of(number: int) -> int:
    return number * 60 // SCHEDULES


def _name(number: int) -> Name:
    return Name(f"owner{number}", "minutely")


async def _put_all(url: str) -> float:
    """Returns when all of them are due from then on."""
    process = Process.start(url, lambda: time.time_ns() // 1_000_000)
    begin_s = time.time() + 3
    for number in range(SCHEDULES):
        cron = f"{_second_of(number)} * * * * *"
        definition = Definition(
            PATH, "", Content("text/plain", 2), cron, "UTC", overlap=Overlap.QUEUE, catch_up=CatchUp.ALL
        )
        first_ms = DueTimes.parse(cron, "UTC").after(round(begin_s * 1000))
        await process.store.schedules.put(_name(number), definition, b"hi", first_ms)
    require(time.time() < begin_s, "all schedules are put before the first of them is due")
    await process.link.aclose()
    return begin_s


async def _are_settled(url: str) -> bool:
    """Whether nothing is left to start of what was due five seconds ago."""
    process = Process.start(url, lambda: time.time_ns() // 1_000_000)
    late_ms = (time.time() - 5) * 1000
    page = await process.store.schedules.page(None, SCHEDULES)
    await process.link.aclose()
    return all(one.pending is None and (one.next_ms or 0) > late_ms for one in page.schedules)


async def _pause_all(url: str) -> float:
    """Pauses all schedules after what they were due for. Returns when."""
    process = Process.start(url, lambda: time.time_ns() // 1_000_000)
    at_s = time.time()
    runs = ScheduleRuns(process.services)
    for number in range(SCHEDULES):
        await runs.see_to(_name(number))
    await process.link.aclose()
    return at_s


async def _counted(url: str, begun_s: float, ended_s: float) -> Count:
    process = Process.start(url, lambda: time.time_ns() // 1_000_000)
    expected = missing = doubled = 0
    for number in range(SCHEDULES):
        second = _second_of(number)
        due = [at for at in range(int(begun_s) + 1, int(ended_s) + 1) if at % 60 == second]
        page = await process.store.page(Listing(limit=200, path=PATH, owner=_name(number).owner))
        schedule = (await process.store.schedules.get(_name(number))).schedule
        assert schedule is not None
        started = Counter(run.due_ms // 1000 for run in schedule.runs if run.outcome == "started")
        later = sum(at > ended_s for at in started)
        expected += len(due)
        missing += sum(at not in started for at in due)
        doubled += max(0, len(page.tasks) - len(due) - later)
    await process.link.aclose()
    require(expected >= SCHEDULES * (int(ended_s - begun_s) // 60), "each schedule is due once a minute")
    return Count(expected, missing, doubled)


# Virtual time


def _days(place: ZoneInfo, count: int) -> Iterator[date]:
    return (date(YEAR, 1, 1) + timedelta(days=day) for day in range(count))


def expected_of(days: int) -> Mapping[str, tuple[str, ZoneInfo, int]]:
    """By name: an expression, its place, and how many due times there are, by the calendar alone."""

    def hours(place: ZoneInfo) -> int:
        begin, end = (datetime(YEAR, 1, 1, tzinfo=place), datetime(YEAR, 1, 1, tzinfo=place) + timedelta(days=days))
        return round((end.timestamp() - begin.timestamp()) / 3600)

    weekdays = sum(day.weekday() < 5 for day in _days(BERLIN, days))
    return {
        "nightly": ("30 2 * * *", BERLIN, days),
        "nightly-seconds": ("15 30 2 * * *", BERLIN, days),
        "nightly-south": ("30 2 * * *", SYDNEY, days),
        "early": ("0 3 * * *", BERLIN, days),
        "weekdays": ("0 9 * * MON-FRI", BERLIN, weekdays),
        "hourly": ("0 * * * *", BERLIN, hours(BERLIN)),
    }


async def in_virtual_time(url: str, days: int) -> tuple[Count, int]:
    clock, chance = Clock(), random.Random(days)
    mortals = [Mortal(random.Random(number)) for number in range(2)]
    hosts = [Process.start(url, clock, link=MortalLink(opener(url))) for _ in mortals]
    found: Count = Count(0, 0, 0)
    for name, (cron, place, expected) in expected_of(days).items():
        begin = datetime(YEAR, 1, 1, tzinfo=place)
        end_ms = round((begin + timedelta(days=days)).timestamp()) * 1000
        clock.ms = round(begin.timestamp()) * 1000 - 1
        await _put(hosts[0], name, cron, place, clock.ms)
        dues: set[int] = set()
        while (at_ms := await _next_look_ms(hosts[0], name, clock.ms)) < end_ms:
            clock.ms = at_ms + chance.randrange(20_000)
            for host, mortal in zip(hosts, mortals, strict=True):
                _link_of(host).mortal = mortal
            await asyncio.gather(*(_see_to(host, name) for host in hosts))
            for host in hosts:
                _link_of(host).mortal = None
            dues |= await _started(hosts[0], name)
        count = await _tasks(hosts[0], name)
        require(len(dues) <= expected, f"{name} is due {expected} times by the calendar, and no more often")
        missing, doubled = expected - len(dues), count - len(dues)
        found = Count(found.expected + expected, found.missing + missing, found.doubled + doubled)
    for host in hosts:
        await host.link.aclose()
    deaths = sum(mortal.deaths for mortal in mortals)
    require(deaths > 0, "a process died")
    return found, deaths


def _link_of(host: Process) -> MortalLink:
    assert isinstance(host.link, MortalLink)
    return host.link


async def _put(host: Process, name: str, cron: str, place: ZoneInfo, now_ms: int) -> None:
    body = Content("text/plain", 2)
    definition = Definition(f"{PATH}/{name}", "", body, cron, place.key, overlap=Overlap.QUEUE, catch_up=CatchUp.ALL)
    next_ms = DueTimes.parse(cron, place.key).after(now_ms)
    await host.store.schedules.put(Name("year", name), definition, b"hi", next_ms)


async def _see_to(host: Process, name: str) -> None:
    try:
        await ScheduleRuns(host.services).see_to(Name("year", name))
    except StoreUnavailable:  # it is dead
        return


async def _next_look_ms(host: Process, name: str, now_ms: int) -> int:
    """When there is something to do: the schedule is due, or what a dead process has begun is to be ended."""
    schedule = (await host.store.schedules.get(Name("year", name))).schedule
    assert schedule is not None
    assert schedule.next_ms is not None
    if schedule.pending is not None or schedule.next_ms <= now_ms:
        return min(now_ms + round(START_GRACE_S * 1000), max(schedule.next_ms, now_ms))
    return schedule.next_ms


async def _started(host: Process, name: str) -> set[int]:
    """The last due times of which a task was started."""
    schedule = (await host.store.schedules.get(Name("year", name))).schedule
    assert schedule is not None
    return {run.due_ms for run in schedule.runs if run.outcome is RunOutcome.STARTED}


async def _tasks(host: Process, name: str) -> int:
    path = f"{PATH}/{name}"
    depth = (await host.store.queues.depths(path))[path]
    return depth.created + depth.dispatched + depth.running
