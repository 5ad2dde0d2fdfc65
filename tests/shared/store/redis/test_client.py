"""How the client signs in and which client it is. ``test_redis_address.py`` tests the connection strings."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, cast

import pytest
from azure.core.credentials import AccessToken
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError

from local.redis_server import RedisCluster, RedisServer
from shared.store.redis.client import ENTRA_SCOPE, ClusterClient, EntraCredentials, RedisAddress, connect
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
