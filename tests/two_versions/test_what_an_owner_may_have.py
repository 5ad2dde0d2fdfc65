"""What one owner may have of a queue (``per_owner``) comes with the newer version: the older one, which shares the
queue meanwhile, neither knows the setting nor counts by it. Nothing is lost or stuck, and once the older one is gone,
what an owner has waiting and in flight is known as it is, however it came about."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import httpx
import pytest
from redis.exceptions import MovedError

from local.redis_server import RedisCluster, RedisServer
from shared.store.redis.partitions import tag_of
from tests.contract.test_v1_queues import ModelService
from tests.contract.v1_support import ended, submit, task_of
from tests.scripted_backend import ScriptedBackend
from tests.shared.store.world import nodes
from tests.two_versions.conftest import BOUNDED, IN_FLIGHT, KEY, WAITING, Version, Versions
from tests.two_versions.test_two_versions import path_of
from tests.two_versions.test_what_starts_when import hand_over
from tests.waiting import eventually

pytestmark = pytest.mark.slow

OWNERS = ("ann", "bob")


def test_what_both_versions_begin_ends_while_both_are_there_and_is_counted_right_afterwards(
    pair: tuple[Version, Version], versions: Versions, backend: ScriptedBackend
) -> None:
    path = path_of(BOUNDED)
    service = ModelService(backend, path)
    tasks = list[str]()
    for version, owner in itertools.product(6 * pair, OWNERS):
        tasks += submitted(version, path, owner)
        for each in service.working()[::2]:
            service.finish(pair[len(tasks) % 2].app, each)
    finish_all(service, tasks, pair)
    hand_over(versions)
    is_counted_right(versions.newer, path, service)


def test_the_older_version_leaves_more_in_flight_than_an_owner_may_have(
    versions: Versions, redis_of_two: RedisServer | RedisCluster, backend: ScriptedBackend
) -> None:
    older, newer, path = versions.older, versions.newer, path_of(BOUNDED)
    versions.deliver_to(older)
    service = ModelService(backend, path)
    first = submitted(newer, path, "ann", 1)
    service.until_working(1)
    beyond = [task_id for _ in range(2 * IN_FLIGHT) for task_id in submitted(older, path, "ann", 1)]
    service.until_working(1 + 2 * IN_FLIGHT)
    service.finish(older.app, first[0])  # the newer one has noted that it holds a slot
    hand_over(versions)
    eventually(lambda: owners(newer, path) == [{"Owner": "ann", "Waiting": 0, "InFlight": 2 * IN_FLIGHT}])
    eventually(lambda: holders(redis_of_two, path) == 2 * IN_FLIGHT)  # the newer one's next round
    waiting = [submitted(newer, path, "ann", 1)[0] for _ in range(WAITING)]
    assert is_refused(newer, path, "ann")
    for task_id in beyond[: IN_FLIGHT + 1]:
        service.finish(newer.app, task_id)
    eventually(lambda: waiting[0] in service.working())
    eventually(lambda: owners(newer, path)[0] == {"Owner": "ann", "Waiting": WAITING - 1, "InFlight": IN_FLIGHT})
    finish_all(service, [*beyond, *waiting], [newer])
    is_counted_right(newer, path, service)


def test_an_owner_whose_bound_was_reached_before_is_not_held_up_by_slots_that_the_older_version_has_freed(
    versions: Versions, backend: ScriptedBackend
) -> None:
    older, newer, path = versions.older, versions.newer, path_of(BOUNDED)
    versions.deliver_to(newer)
    service = ModelService(backend, path)
    held = [submitted(newer, path, "ann", 1)[0] for _ in range(IN_FLIGHT)]
    service.until_working(IN_FLIGHT)
    for task_id in held:
        service.finish(older.app, task_id)
    more = [submitted(newer, path, "ann", 1)[0] for _ in range(IN_FLIGHT)]
    service.until_working(IN_FLIGHT)
    waiting = [submitted(newer, path, "ann", 1)[0] for _ in range(WAITING)]
    for task_id in more:
        service.finish(older.app, task_id)
    finish_all(service, [*held, *more, *waiting], [newer, older])
    hand_over(versions)
    is_counted_right(newer, path, service)


def test_what_was_to_start_later_and_the_older_version_has_cancelled_keeps_nobody_out(
    versions: Versions, backend: ScriptedBackend
) -> None:
    older, newer, path = versions.older, versions.newer, path_of(BOUNDED)
    versions.deliver_to(older)
    service = ModelService(backend, path)
    later = [submitted(newer, path, "ann", 1, Start_After="600")[0] for _ in range(WAITING)]
    assert is_refused(newer, path, "ann", Start_After="600")
    newer.host.stop()
    for task_id in later:
        assert older.app.delete(f"/api/v1/tasks/{task_id}", headers=as_owner("ann")).is_success
    hand_over(versions)
    eventually(lambda: not is_refused(newer, path, "ann", Start_After="600"))
    eventually(lambda: newer.app.get(f"/api/v1/queues{path}").json()["Delayed"] == 1)
    is_counted_right(newer, path, service)


def as_owner(owner: str) -> dict[str, str]:
    return {"X-Task-Owner": owner, "X-Gateway-Key": KEY}


def submitted(version: Version, path: str, owner: str, least: int = 0, **headers: str) -> list[str]:
    """The task that an owner submits, unless it has as much as it may: at least so many."""
    answer = submit(version.app, path, **as_owner(owner), **headers)
    tasks = [answer.json()["TaskId"]] if answer.status_code == 202 else []
    assert answer.status_code in (202, 429), answer.text
    assert len(tasks) >= least, answer.text
    return tasks


def is_refused(version: Version, path: str, owner: str, **headers: str) -> bool:
    answer = submit(version.app, path, **as_owner(owner), **headers)
    assert answer.status_code in (202, 429), answer.text
    return answer.status_code == 429 and answer.json()["Full"] == "owner"


def finish_all(service: ModelService, tasks: Sequence[str], versions: Sequence[Version]) -> None:
    """Let the service finish what it gets, until all tasks have ended."""
    at = itertools.cycle(versions)
    left = set(tasks)

    def have_ended() -> bool:
        for task_id in service.working():
            service.finish(next(at).app, task_id)
        left.difference_update({each for each in left if is_completed(next(at).app, each)})
        return not left

    eventually(have_ended)


def is_completed(app: httpx.Client, task_id: str) -> bool:
    return task_of(app, task_id)["BackendStatus"] == "completed"


def owners(version: Version, path: str) -> list[dict[str, Any]]:
    """What each owner has waiting and in flight, as an operator sees it."""
    operator = {"X-Gateway-Key": KEY, "X-Operator": "ada", "X-Operator-Roles": "read"}
    return version.app.get(f"/api/v1/queues{path}", headers=operator).raise_for_status().json()["Owners"]


def holders(server: RedisServer | RedisCluster, path: str) -> int:
    """How many slots are noted with their owners."""
    key, found = f"{tag_of(path)}qb:{path}", 0
    for node in nodes(server):
        with node.connect() as client, suppress(MovedError):  # another node has the slot
            found += client.zcard(key)
    return found


def is_counted_right(version: Version, path: str, service: ModelService) -> None:
    """Nobody has anything, and each owner gets exactly as much as it may have."""
    assert owners(version, path) == []
    eventually(lambda: (version.app.get(f"/api/v1/queues{path}").json()["InFlight"]) == 0)
    service.most = 0
    tasks = list[str]()
    for owner in OWNERS:
        tasks += [submitted(version, path, owner, 1)[0] for _ in range(IN_FLIGHT)]
        service.until_working(len(tasks))
    for owner in OWNERS:
        tasks += [submitted(version, path, owner, 1)[0] for _ in range(WAITING)]
        assert is_refused(version, path, owner)
    expected = [{"Owner": owner, "Waiting": WAITING, "InFlight": IN_FLIGHT} for owner in OWNERS]
    assert eventually(lambda: found if (found := owners(version, path)) == expected else None)
    finish_all(service, tasks, [version])
    assert service.most == IN_FLIGHT * len(OWNERS)
    assert owners(version, path) == []
    assert ended(version.app, tasks[-1])["BackendStatus"] == "completed"
