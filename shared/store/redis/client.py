"""Opens the Redis of a connection string: a single server or a cluster, with a password or Entra ID."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, SSLConnection
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.credentials import CredentialProvider
from redis.driver_info import DriverInfo
from redis.exceptions import (
    ClusterCrossSlotError,
    ClusterError,
    RedisClusterException,
    RedisError,
    SlotNotCoveredError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from shared.store.redis.durability import Durability, DurabilityUnavailable, check
from shared.store.redis.partitions import HASH_TAGS

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

RedisClient = Redis | RedisCluster
log = logging.getLogger("task_backbone")

ENTRA_SCOPE = "https://redis.azure.com/.default"
CALL_TIMEOUT_S = 5.0
"""How long a call may take in all, with its retries and the wait for a connection."""
CONNECT_TIMEOUT_S = 2.0
REPLY_TIMEOUT_S = 2.0
OPEN_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 64
_MORE_CONNECTIONS = 12
"""Further connections, for the cluster client's own requests for the topology, and for pipelines."""


class WrongClusteringPolicy(RedisClusterException):
    """Raised if a server says that it is no cluster, and refuses a script over two hash slots, as Azure Managed Redis
    does with the policy EnterpriseCluster. Steps that it takes whole elsewhere would be taken apart there, and nobody
    has tried that."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """The parts of a connection string."""

    host: str
    port: int
    tls: bool
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> RedisAddress:
        """Parse ``redis[s]://…`` or StackExchange's ``host:port,password=…,ssl=True``.

        Raises:
            ValueError: the text is neither. The message never repeats the text, which may have a password.
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
    """Signs in to Azure Managed Redis. The user is the identity's object id, the password its token.

    azure-identity caches the token and renews it in time. Redis closes a connection if its token has expired, and the
    client then reconnects with the next token.
    """

    def __init__(self, credential: AsyncTokenCredential) -> None:
        self._credential = credential

    async def get_credentials_async(self) -> tuple[str, str]:
        from azure.core.exceptions import AzureError

        try:
            token = (await self._credential.get_token(ENTRA_SCOPE)).token
        except AzureError as error:  # to redis-py's caller, a connection that cannot be opened now
            raise RedisConnectionError("Entra ID gives no token") from error
        payload = token.split(".")[1]
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(claims["oid"]), token


class ClusterClient(RedisCluster):
    """A cluster client that lets a call wait for a free connection, as a single server's pool does. redis-py's own
    client refuses such a call.

    It does not follow ASK. While a slot is moved key by key, some keys of a task are on one node and some on the
    other, and a script sees only one node. So the slot's tasks wait until the whole slot has arrived. MOVED then
    leads to it.
    """

    def __init__(self, **options: Any) -> None:
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)
        cast("Any", super()).__init__(max_connections=MAX_CONNECTIONS + _MORE_CONNECTIONS, **options)

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        async with self._free:
            try:
                return await super().execute_command(*args, **kwargs)
            except AttributeError as error:
                # While a primary fails over, redis-py's topology may lack a node that its code takes for granted.
                # Only redis-py's code runs here, so this hides no bug of the app.
                raise ClusterError("the topology is not known") from error

    def node_of(self, key: str) -> Any:
        """The node that has the *key*. None if the topology must be fetched first; any command does that."""
        if self._initialize:
            return None
        try:
            return self.get_node_from_key(key)
        except SlotNotCoveredError:
            return None

    def get_node(self, host: str | None = None, port: int | None = None, node_name: str | None = None) -> Any:
        if node_name is not None:  # only for the node of an ASK, among the parts of redis-py that the app uses
            raise ClusterError("the slot is being moved")
        return super().get_node(host, port)


async def connect(
    address: RedisAddress, credential: Callable[[], AsyncTokenCredential], durability: Durability = "none"
) -> RedisClient:
    """Open the Redis at *address* for the running event loop. A cluster gets a cluster client.

    Raises:
        WrongClusteringPolicy: it is neither a single server nor a cluster that says so.
        DurabilityUnavailable: it cannot say what *durability* asks for.
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
        # Azure closes a connection that was idle for ten minutes.
        "health_check_interval": 60,
        # Otherwise each new connection reads the package's metadata, a millisecond in which the loop stands still.
        "driver_info": DriverInfo(),
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
            if not info.get("cluster_enabled"):
                await _try_two_slots(single)
                await check(cast("Any", single), durability)
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
            try:
                await cluster.initialize()
            except AttributeError as error:  # as in ClusterClient.execute_command
                raise ClusterError("the topology is not known") from error
            await _check_nodes(cluster, durability)
            return cluster
    except BaseException:
        await cluster.aclose()
        raise


async def _check_nodes(cluster: ClusterClient, durability: Durability) -> None:
    """Ask each primary. One that does not answer now keeps nobody from the others.

    Raises:
        DurabilityUnavailable: one cannot say what *durability* asks for.
    """
    primaries = cast("Any", cluster).get_primaries()
    found = await asyncio.gather(*(check(node, durability) for node in primaries), return_exceptions=True)
    for error in found:
        if isinstance(error, DurabilityUnavailable) or not isinstance(error, (RedisError, OSError, type(None))):
            raise error


async def _try_two_slots(single: Redis) -> None:
    try:
        await cast("Any", single).eval("return 1", 2, *HASH_TAGS[:2])
    except ClusterCrossSlotError:
        log.error(
            "Redis says that it is no cluster, and refuses a script over two hash slots, as with the clustering "
            "policy EnterpriseCluster. The app does not use it: the policy must be NoCluster or OSSCluster."
        )
        raise WrongClusteringPolicy from None
    except RedisError:  # a temporary one, or a right that is missing: the steps will tell
        return


def own_connection(client: RedisClient, node: Any) -> Any:
    """A new connection to the client's server, or to the *node* of its cluster, which belongs to no pool."""
    peer = cast("Any", client).connection_pool if node is None else node
    return peer.connection_class(**{**peer.connection_kwargs, "retry": Retry(NoBackoff(), retries=0)})


async def eviction_policies(client: RedisClient) -> frozenset[str] | None:
    """The eviction policy of each primary; None if any does not say.

    Raises:
        redis.RedisError, OSError: one cannot be asked.
    """
    if isinstance(client, RedisCluster):
        asked = await cast("Any", client).info("memory", target_nodes=RedisCluster.PRIMARIES)
        told: list[dict[str, Any]] = [asked] if "maxmemory_policy" in asked else [*asked.values()]
    else:
        told = [cast("dict[str, Any]", await cast("Any", client).info("memory"))]
    policies = {each.get("maxmemory_policy") for each in told}
    return None if None in policies else frozenset(map(str, policies))


async def reconnect(client: RedisClient) -> None:
    """Let every command from now on take a new connection, so that the server's name is resolved again."""
    if isinstance(client, RedisCluster):
        await client.aclose()  # then it fetches the topology again
        return
    pool = client.connection_pool
    await pool.update_active_connections_for_reconnect()
    await pool.disconnect(inuse_connections=False)


def _by_name(address: RedisAddress) -> Callable[[tuple[str, int]], tuple[str, int]]:
    """Replace a node's IP address with the host name of *address*, and keep its port. Azure announces a cluster's
    nodes by IP address, but the certificate has the name."""

    def remap(node: tuple[str, int]) -> tuple[str, int]:
        try:
            ipaddress.ip_address(node[0])
        except ValueError:
            return node
        return address.host, node[1]

    return remap
