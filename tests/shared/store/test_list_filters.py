"""What a list can be filtered by, and how much of it a page looks at."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from shared.store.queries import LIST_READ_LIMIT, ListCursor, Listing, Page
from shared.store.redis.partitions import PARTITIONS
from shared.tasks.task import NewTask, State
from tests.shared.store import steps
from tests.shared.store.conftest import Clock, Store
from tests.shared.store.world import START_MS

BASE = Listing(10)


async def all_pages(store: Store, listing: Listing) -> list[Page]:
    pages = [await store.queries.page(listing)]
    while (following := pages[-1].next) is not None:
        pages.append(await store.queries.page(replace(listing, before=following)))
    return pages


async def ids(store: Store, listing: Listing) -> list[str]:
    return [task.id for page in await all_pages(store, listing) for task in page.tasks]


@pytest.fixture
async def five(store: Store, clock: Clock) -> None:
    """A second apart each."""
    for number, status in enumerate(("created", "CUDA out of memory", "created", "Zu spät: µ", "100% done")):
        owner = "ada" if number % 2 else ""
        await store.create(NewTask(f"t{number}", f"/v1/{'ab'[number % 2]}", 60, status=status, owner=owner))
        clock.advance(1)


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        (replace(BASE, since_ms=START_MS + 3000), ["t4", "t3"]),
        (replace(BASE, until_ms=START_MS + 2000), ["t1", "t0"]),
        (replace(BASE, since_ms=START_MS + 1000, until_ms=START_MS + 2001), ["t2", "t1"]),
        (replace(BASE, since_ms=START_MS + 9000), []),
        (replace(BASE, since_ms=START_MS + 3000, until_ms=START_MS + 3000), []),
        (replace(BASE, until_ms=0), []),
        (replace(BASE, text="cuda OUT"), ["t1"]),
        (replace(BASE, text="T3"), ["t3"]),
        (replace(BASE, text="/v1/B"), ["t3", "t1"]),
        (replace(BASE, text="spät: µ"), ["t3"]),
        (replace(BASE, text="0% d"), ["t4"]),
        (replace(BASE, text="%d"), []),
        (replace(BASE, text="("), []),
        (replace(BASE, owner="ada"), ["t3", "t1"]),
        (replace(BASE, owner="ada", text="memory"), ["t1"]),
        (replace(BASE, path="/v1/a", text="created"), ["t2", "t0"]),
        (replace(BASE, states=[State.FAILED]), []),
    ],
)
async def test_a_list_has_what_its_filter_takes(
    store: Store, five: None, listing: Listing, expected: list[str]
) -> None:
    assert await ids(store, listing) == expected
    assert await ids(store, replace(listing, limit=1)) == expected


async def test_a_list_of_several_states(store: Store, clock: Clock, five: None) -> None:
    await store.cancel("t1")
    await store.update("t2", state=State.RUNNING, status="on it")
    assert await ids(store, replace(BASE, states=[State.RUNNING, State.CREATED])) == ["t4", "t3", "t2", "t0"]
    assert await ids(store, replace(BASE, states=[State.CANCELLED, State.RUNNING])) == ["t2", "t1"]


async def test_a_list_of_tasks_that_were_tried_often(store: Store, clock: Clock) -> None:
    await steps.requeued(store, clock)
    await store.create(NewTask("t2", "/v1/a", 60))
    assert await ids(store, replace(BASE, attempts=2)) == ["t1"]
    assert await ids(store, replace(BASE, attempts=3)) == []
    assert await ids(store, replace(BASE, attempts=1)) == ["t2", "t1"]


async def test_a_cursor_and_a_last_time_are_both_kept_to(store: Store, five: None) -> None:
    before = ListCursor(START_MS + 1000, "t1")
    assert await ids(store, replace(BASE, before=before, until_ms=START_MS + 4000)) == ["t0"]
    before = ListCursor(START_MS + 4000, "t4")
    assert await ids(store, replace(BASE, before=before, until_ms=START_MS + 2000)) == ["t1", "t0"]


async def test_a_page_tells_how_much_it_goes_past(store: Store, clock: Clock) -> None:
    count = 2 * PARTITIONS * LIST_READ_LIMIT
    for number in range(0, count, 100):
        clock.advance(0.001)
        hay = (NewTask(f"hay-{number + more}", "/v1/a", 60) for more in range(100))
        await asyncio.gather(*map(store.create, hay))
    for listing in (replace(BASE, text="needle"), replace(BASE, attempts=2), replace(BASE, owner="sewer")):
        pages = await all_pages(store, listing)
        assert [page.tasks for page in pages] == [[]] * len(pages)
        assert len(pages) > 1
        # Each task is in a page once; those of the millisecond at which a page ends may be in two.
        assert count <= sum(page.looked for page in pages) <= count + 100 * len(pages)
        assert max(page.looked for page in pages) <= PARTITIONS * (LIST_READ_LIMIT + 100)
    first = await store.queries.page(replace(BASE, limit=50))
    assert (len(first.tasks), first.looked) == (50, 50)
