"""Names of backends, looked up for each connection."""

from __future__ import annotations

import socket

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from shared.backends import BackendRegistry


class GuardedResolver(AbstractResolver):
    """Refuses names that resolve to a forbidden address, at the moment of the call: DNS may change its mind."""

    def __init__(self, backends: BackendRegistry) -> None:
        self._backends = backends
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        results = await self._resolver.resolve(host, port, family)
        allowed = [result for result in results if not self._backends.forbids(result["host"].partition("%")[0])]
        if not allowed:
            raise OSError("the backend's name resolves to a forbidden address")
        return allowed

    async def close(self) -> None:
        await self._resolver.close()
