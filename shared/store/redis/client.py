"""Opens the Redis that a connection string describes: single server or cluster, password or Entra ID."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, SSLConnection
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import ClusterError, SlotNotCoveredError

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

RedisClient = Redis | RedisCluster

ENTRA_SCOPE = "https://redis.azure.com/.default"
CALL_TIMEOUT_S = 5.0
"""How long a call may take in all, including its repetition and the wait for a connection."""
CONNECT_TIMEOUT_S = 2.0
REPLY_TIMEOUT_S = 2.0
OPEN_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 64
_MORE_CONNECTIONS = 12
"""For the cluster client's own questions about the topology, and for pipelines."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """What a connection string says."""

    host: str
    port: int
    tls: bool
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> RedisAddress:
        """Read ``redis[s]://…`` or StackExchange's ``host:port,password=…,ssl=True``.

        Raises:
            ValueError: the text is neither. The message never repeats the text, which may hold a password.
        """
        return cls._from_url(text) if "://" in text else cls._from_stackexchange(text)

    @classmethod
    def _from_url(cls, text: str) -> RedisAddress:
        try:
            url = urlsplit(text)
            port = url.port
        except ValueError:
            raise ValueError("is not a valid Redis URL") from None
        if url.scheme not in ("redis", "rediss") or not url.hostname:
            raise ValueError("must be redis://host:port or rediss://host:port")
        if url.path.strip("/") not in ("", "0"):
            raise ValueError("must name database 0: there is no other one in a cluster")
        return cls(
            host=url.hostname,
            port=port or 6379,
            tls=url.scheme == "rediss",
            username=unquote(url.username) if url.username else None,
            password=unquote(url.password) if url.password else None,
        )

    @classmethod
    def _from_stackexchange(cls, text: str) -> RedisAddress:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        endpoints = [part for part in parts if "=" not in part]
        options = {
            name.strip().lower(): value.strip()
            for name, _, value in (part.partition("=") for part in parts if "=" in part)
        }
        if not endpoints:
            raise ValueError("must begin with host:port")
        host, _, port = endpoints[0].rpartition(":") if ":" in endpoints[0] else (endpoints[0], "", "")
        tls = options.get("ssl", "false").lower() == "true"
        if port and not port.isdigit():
            raise ValueError("must begin with host:port")
        return cls(
            host=host,
            port=int(port) if port else 6380 if tls else 6379,
            tls=tls,
            username=options.get("user") or None,
            password=options.get("password") or None,
        )

    @property
    def wants_entra_id(self) -> bool:
        return self.password is None and self.host.lower().endswith(".redis.azure.net")


class EntraCredentials(CredentialProvider):
    """Signs in to Azure Managed Redis: the user is the identity's object id, the password its token.

    azure-identity caches the token and renews it in time; Redis closes a connection whose token has expired, and
    the client's reconnect fetches the next one.
    """

    def __init__(self, credential: AsyncTokenCredential) -> None:
        self._credential = credential

    async def get_credentials_async(self) -> tuple[str, str]:
        token = (await self._credential.get_token(ENTRA_SCOPE)).token
        payload = token.split(".")[1]
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(claims["oid"]), token


class ClusterClient(RedisCluster):
    """Lets a caller wait for a free connection, as a single server's pool does, while redis-py's own client refuses
    it.

    It does not follow ASK. A slot that is being moved key by key has one half of a task's keys here and the other
    half there, and a script sees one half. So its tasks wait until all of the slot has arrived, to which MOVED leads.
    """

    def __init__(self, **options: Any) -> None:
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)
        cast("Any", super()).__init__(max_connections=MAX_CONNECTIONS + _MORE_CONNECTIONS, **options)

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        async with self._free:
            try:
                return await super().execute_command(*args, **kwargs)
            except AttributeError as error:
                # While a primary fails over, redis-py's topology may have no node where its code takes one for
                # granted. Only its own code runs here, so this hides no bug of ours.
                raise ClusterError("the topology is not known") from error

    def node_of(self, key: str) -> Any:
        """The node that has the *key*; None if the topology must be fetched first, as any command does."""
        if self._initialize:
            return None
        try:
            return self.get_node_from_key(key)
        except SlotNotCoveredError:
            return None

    def get_node(self, host: str | None = None, port: int | None = None, node_name: str | None = None) -> Any:
        if node_name is not None:  # redis-py asks so for the node that an ASK names; nothing else that we use does
            raise ClusterError("the slot is being moved")
        return super().get_node(host, port)


async def connect(address: RedisAddress, credential: Callable[[], AsyncTokenCredential]) -> RedisClient:
    """Open the Redis at *address* for the running event loop, as a cluster client if the server is one.

    Raises:
        redis.RedisError, OSError: it cannot be reached.
    """
    auth: dict[str, Any] = (
        {"credential_provider": EntraCredentials(credential())}
        if address.wants_entra_id
        else {"username": address.username, "password": address.password}
    )
    common: dict[str, Any] = {
        **auth,
        "socket_timeout": REPLY_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
        # Azure closes connections that were idle for ten minutes.
        "health_check_interval": 60,
    }
    # A failover takes Azure up to 15 s; a request gives up sooner, with a 503.
    retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries=2)
    pool = BlockingConnectionPool(
        max_connections=MAX_CONNECTIONS,
        timeout=CALL_TIMEOUT_S,
        connection_class=SSLConnection if address.tls else Connection,
        host=address.host,
        port=address.port,
        retry=retry,
        **common,
    )
    single: Redis = Redis.from_pool(pool)
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            info = cast("dict[str, Any]", await cast("Any", single).info("cluster"))
    except BaseException:
        await single.aclose()
        raise
    if not info.get("cluster_enabled"):
        return single
    await single.aclose()
    cluster = ClusterClient(
        host=address.host,
        port=address.port,
        ssl=address.tls,
        retry=retry,
        address_remap=_by_name(address) if address.tls else None,
        **common,
    )
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            return await cluster.initialize()
    except BaseException:
        await cluster.aclose()
        raise


async def reconnect(client: RedisClient) -> None:
    """Let every command from now on take a new connection, for which the server's name is resolved again."""
    if isinstance(client, RedisCluster):
        await client.aclose()  # after which it fetches the topology again
        return
    pool = client.connection_pool
    await pool.update_active_connections_for_reconnect()
    await pool.disconnect(inuse_connections=False)


def _by_name(address: RedisAddress) -> Callable[[tuple[str, int]], tuple[str, int]]:
    """Azure announces a cluster's nodes by IP address, but the certificate holds the name: use its host with their
    ports."""

    def remap(node: tuple[str, int]) -> tuple[str, int]:
        try:
            ipaddress.ip_address(node[0])
        except ValueError:
            return node
        return address.host, node[1]

    return remap
