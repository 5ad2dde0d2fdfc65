"""A user of Redis who may not do what the app needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.redis_server import RedisServer
from shared.http.error_problems import problem_of
from shared.store.redis.link import RedisLink, StoreUnavailable
from shared.store.redis.partitions import HASH_TAGS
from tests.shared.store.conftest import opener


@pytest.mark.parametrize("rules", [["-evalsha", "-eval"], ["-smembers"], ["resetkeys", "~other:*"]], ids=str)
async def test_what_redis_does_not_permit_is_an_outage_that_says_what_to_allow(
    tmp_path: Path, rules: list[str]
) -> None:
    with RedisServer(tmp_path) as server:
        with server.connect() as client:
            client.execute_command("ACL", "SETUSER", "default", *rules)
        link = RedisLink(opener(server.url))
        with pytest.raises(StoreUnavailable) as refused:
            await link.script("queue/held_paths", HASH_TAGS[0])
        await link.aclose()
    problem = problem_of(refused.value)
    assert (problem.status, "+@all ~* &*" in problem.document["detail"]) == (503, True)
