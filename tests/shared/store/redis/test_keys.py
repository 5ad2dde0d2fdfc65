"""All keys of a Redis, which mending looks through."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from local.redis_server import RedisCluster
from shared.store.redis.link import RedisLink, StoreUnavailable
from shared.store.redis.partitions import HASH_TAGS
from tests.shared.store.conftest import opener

KEYS = 4_000
"""More than one page of each node."""


async def test_all_keys_of_a_cluster_are_told_also_if_a_node_is_away(tmp_path: Path) -> None:
    with RedisCluster(tmp_path) as cluster:
        with redis.RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port) as client:
            for number in range(KEYS):
                client.set(f"{HASH_TAGS[number % len(HASH_TAGS)]}t:{number}", "")
        link, found = RedisLink(opener(cluster.url)), set[bytes]()
        async for page in link.keys():
            found |= {name for names in page.values() for name in names}
        assert found == {b"t:%d" % number for number in range(KEYS)}

        cluster.nodes[2].kill()
        found.clear()
        with pytest.raises(StoreUnavailable):
            async for page in link.keys():
                found |= {name for names in page.values() for name in names}
        assert KEYS / 2 < len(found) < KEYS
        await link.aclose()
