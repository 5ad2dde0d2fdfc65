"""All counters of requests in flight, page by page."""

from __future__ import annotations

from shared.store.request_counts import RequestCount, RequestCounts, RequestReport
from tests.shared.store.conftest import Clock, Store
from tests.shared.store.test_settings_record import on_its_node
from tests.shared.store.world import START_MS, Server, World, tag_of


async def all_pages(counts: RequestCounts, limit: int) -> list[RequestCount]:
    found: list[RequestCount] = []
    behind: str | None = ""
    while behind is not None:
        page, behind = await counts.page(limit, behind)
        assert len(page) <= limit
        found += page
    return found


def name(counter: RequestCount | RequestReport) -> tuple[str, str]:
    return counter.cluster, counter.path


async def test_pages_meet_each_counter_once(store: Store) -> None:
    assert await store.request_counts.page(10) == ([], None)
    reports = [RequestReport(cluster, f"/v1/{number}", 1) for cluster in ("", "a b%", "é") for number in range(9)]
    await store.request_counts.report_all(reports)
    for limit in (1, 7, 27, 100):
        found = await all_pages(store.request_counts, limit)
        assert sorted(map(name, found)) == sorted(map(name, reports))
        assert all((each.count, each.reported_ms) == (1, START_MS) for each in found)
    assert (await store.request_counts.page(27))[1] is None, "it ends with the last one"


async def test_what_a_silent_instance_said_does_not_count(store: Store, clock: Clock) -> None:
    for path, instances in (("/v1/few", 3), ("/v1/many", 40)):
        named = [RequestReport("aks", path, 2, f"pod-{number}", 90 + number % 2) for number in range(instances)]
        await store.request_counts.report_all([*named, RequestReport("aks", path, 1)])

    async def counted() -> list[int]:
        return [each.count for each in await all_pages(store.request_counts, 10)]

    assert await counted() == [7, 81]
    clock.advance(90)
    assert await counted() == [3, 41]
    clock.advance(1)
    assert await counted() == [1, 1]
    clock.advance(86_400)
    assert await counted() == [0, 0], "nor do the unnamed after a day"


async def test_a_counter_tells_when_it_was_reported_last(store: Store, clock: Clock, redis_server: Server) -> None:
    async def told() -> int | None:
        [found] = await all_pages(store.request_counts, 10)
        return found.reported_ms

    await store.request_counts.report("aks", "/v1/a", 1, instance="pod", keep_s=90)
    clock.advance(5)
    await store.request_counts.report("aks", "/v1/a", 0, instance="pod", keep_s=90)
    clock.advance(5)
    assert await told() == START_MS + 5_000
    tag = tag_of("aks /v1/a")
    key = f"{{{tag}}}requests:last"
    on_its_node(redis_server, key, lambda client: client.delete(key))  # as a former version has it
    assert await told() == START_MS, "when the unnamed said something, or the counter began"


async def test_what_was_only_reserved_is_no_counter(store: Store) -> None:
    await store.request_counts._run([RequestReport("aks", "/v1/a", 1, "pod", 90)], "reserve")
    assert await all_pages(store.request_counts, 10) == []


async def test_to_look_at_the_counters_writes_nothing(store: Store, clock: Clock, redis_server: Server) -> None:
    reports = [RequestReport("aks", "/v1/a", 1, f"pod-{number}", 90) for number in range(40)]
    await store.request_counts.report_all(reports)
    clock.advance(100)
    before = World(redis_server).requests
    assert [each.count for each in await all_pages(store.request_counts, 10)] == [0]
    assert World(redis_server).requests == before
    shares = f"{{{tag_of('aks /v1/a')}}}requests:shares:aks /v1/a"
    assert on_its_node(redis_server, shares, lambda client: client.hlen(shares)) == 40


async def test_names_and_counters_of_somebody_else_are_passed_over(store: Store, redis_server: Server) -> None:
    await store.request_counts.report("aks", "/v1/a", 1)
    key = f"{{{tag_of('aks /v1/a')}}}requests"
    foreign = {b"\xff /x": b"", b"aks /v1/zzz": b"\xc1"}
    on_its_node(redis_server, key, lambda client: client.hset(key, mapping=foreign))
    assert [each.path for each in await all_pages(store.request_counts, 1)] == ["/v1/a"]
