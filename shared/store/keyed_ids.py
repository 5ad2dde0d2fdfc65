"""The ids of what is created with an idempotency key: the same key has the same id, and nobody can compute it.

Ids are derived with a secret that lies in Redis. Earlier versions of the app derived them without one. So long as a
task of theirs may be there, it is looked for too.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from shared.store.arguments import Clock, now_of
from shared.store.policy import StorePolicy
from shared.store.redis.link import RedisLink, StoreUnavailable
from shared.store.redis.partitions import HASH_TAGS, to_ms
from shared.tasks.task import Task

UPGRADE_S: Final = 3600.0
"""For how long an earlier version of the app may be at work beside this one."""
FRESH_S: Final = 1.0
"""For how long a process relies on the secret that it has read. Redis may have been emptied since, and then
another process knows another secret."""
_TAG: Final = HASH_TAGS[0]
_FORMER_NAMESPACE: Final = uuid.UUID("6f0f3a43-8c0c-5b63-9d3a-5a4c1b7d7e10")


@dataclass(frozen=True, slots=True)
class _Secret:
    value: bytes
    age_ms: int
    is_upgrade: bool
    """Whether an earlier version may still be at work, which finds only tasks whose ids are derived as it does."""
    read_s: float
    """When it was read, by the clock of the event loop."""


class KeyedIds:
    """One per event loop.

    Args:
        get: the stored task or batch with an id.
    """

    def __init__(
        self,
        link: RedisLink,
        policy: StorePolicy,
        get: Callable[[str], Awaitable[Task | None]],
        now_ms: Clock | None = None,
    ) -> None:
        self._link = link
        self._former_ms = to_ms(UPGRADE_S + policy.retention_s)
        self._get = get
        self._now_ms = now_ms
        self._known: _Secret | None = None

    async def id_of(self, owner: str, scope: str, key: str) -> str:
        """The id of what an owner creates with an idempotency key; *scope* tells apart what the same key may create.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        secret = await self._secret()
        new_id = _derived(secret, owner, scope, key)
        if secret.age_ms >= self._former_ms:
            return new_id
        former_id = former_keyed_id(owner, scope, key)
        known = await self._get(former_id)
        if known is None:
            return former_id if secret.is_upgrade else new_id
        # Anybody can compute this id, and may have taken it. What was created with a key has a fingerprint.
        return former_id if known.owner == owner and known.fingerprint else new_id

    async def unguessable_id_of(self, owner: str, scope: str, key: str) -> str:
        """As :meth:`id_of`, for what no earlier version of the app creates: the id is the same at any time.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        return _derived(await self._secret(), owner, scope, key)

    async def draw(self) -> None:
        """Draw the secret, unless it is there: before the first task is, so that it shows whether an earlier version
        was at work.

        Raises:
            StoreUnavailable: Redis does not answer. The first :meth:`id_of` draws it.
        """
        await self._secret()

    async def _secret(self) -> _Secret:
        now_s, known = asyncio.get_running_loop().time(), self._known
        if known is not None and now_s < known.read_s + FRESH_S:
            return known
        try:
            value, age_ms, is_upgrade = await self._link.script(
                "keyed/secret", _TAG, str(now_of(self._now_ms)), secrets.token_hex(32), str(to_ms(UPGRADE_S))
            )
        except StoreUnavailable:
            # One node of a cluster has it, and what the others hold must not wait for that one.
            if known is None:
                raise
            return known
        if self._link.is_clustered and (known is None or known.value != value):
            # Every id hangs on it, and it lies on another node than what is created with the ids, whose own
            # acknowledgement says nothing of it.
            await self._link.script("keyed/confirm", _TAG)
        self._known = _Secret(value, age_ms, bool(is_upgrade), now_s)
        return self._known


def _derived(secret: _Secret, owner: str, scope: str, key: str) -> str:
    derived = hmac.new(secret.value, f"{owner}\n{scope}\n{key}".encode(), hashlib.sha256).digest()
    return str(uuid.UUID(bytes=derived[:16], version=4))


def former_keyed_id(owner: str, scope: str, key: str) -> str:
    """The id as earlier versions derived it."""
    return str(uuid.uuid5(_FORMER_NAMESPACE, f"{owner}\n{scope}\n{key}"))
