"""How the client signs in and which client it is. ``test_redis_address.py`` tests the connection strings."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from azure.core.credentials import AccessToken
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError

from local.redis_server import RedisCluster, RedisServer
from shared.store.redis.client import (
    ENTRA_SCOPE,
    ClusterClient,
    EntraCredentials,
    RedisAddress,
    WrongClusteringPolicy,
    connect,
)
from shared.store.redis.link import RedisLink, StoreUnavailable
from tests.shared.store.conftest import opener
from tests.shared.store.world import Server


async def test_entra_credentials_are_the_identitys_object_id_and_its_token() -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"oid": "6f0f3a43", "aud": "redis"}).encode()).decode().rstrip("=")
    token = f"header.{claims}.signature"

    class Identity:
        async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
            assert scopes == (ENTRA_SCOPE,)
            return AccessToken(token, 0)

    credentials = EntraCredentials(cast("Any", Identity()))
    assert await credentials.get_credentials_async() == ("6f0f3a43", token)


def no_identity() -> Any:
    raise AssertionError("no managed identity is needed")


async def test_a_cluster_gets_a_cluster_client_and_a_single_server_a_plain_one(redis_server: Server) -> None:
    client = await connect(RedisAddress.parse(redis_server.url), no_identity)
    assert type(client) is (ClusterClient if isinstance(redis_server, RedisCluster) else Redis)
    await client.aclose()


async def test_the_client_signs_in_with_the_password_of_the_connection_string(tmp_path: Path) -> None:
    with RedisServer(tmp_path, password="p@ss,word") as server:
        client = await connect(RedisAddress.parse(server.url), no_identity)
        assert await cast("Any", client).ping()
        await client.aclose()
        with pytest.raises(AuthenticationError):
            await connect(RedisAddress.parse(f"redis://127.0.0.1:{server.port}"), no_identity)


@pytest.fixture
async def posing_as_single(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a cluster that says that it is none, as behind the proxy of the policy EnterpriseCluster."""
    with RedisCluster(tmp_path, primaries=1) as cluster:

        async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                target.write(data.replace(b"cluster_enabled:1", b"cluster_enabled:0"))
            target.close()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", cluster.nodes[0].port)
            await asyncio.gather(pass_on(reader, to_server), pass_on(from_server, writer), return_exceptions=True)

        async with await asyncio.start_server(relay, "127.0.0.1", 0) as proxy:
            yield f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"


async def test_a_cluster_that_poses_as_a_single_server_is_refused_in_words(
    posing_as_single: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(WrongClusteringPolicy):
        await connect(RedisAddress.parse(posing_as_single), no_identity)
    assert "NoCluster or OSSCluster" in caplog.text
    link = RedisLink(opener(posing_as_single))
    with pytest.raises(StoreUnavailable, match="WrongClusteringPolicy"):
        await link.ping()
    await link.aclose()


async def test_a_user_who_may_run_no_script_is_not_told_of_a_clustering_policy(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        with server.connect() as admin:
            admin.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-eval")
        client = await connect(RedisAddress.parse(f"redis://reader:secret@127.0.0.1:{server.port}"), no_identity)
        await client.aclose()
