"""Resolves the names of backends, for each connection."""

from __future__ import annotations

import socket

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from shared.dispatch.registry import BackendRegistry


class GuardedResolver(AbstractResolver):
    """Refuses names that resolve to a forbidden address, at the moment of the call: DNS answers change."""

    def __init__(self, registry: BackendRegistry) -> None:
        self._registry = registry
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        results = await self._resolver.resolve(host, port, family)
        allowed = [result for result in results if not self._registry.forbids(result["host"].partition("%")[0])]
        if not allowed:
            raise OSError("the backend's name resolves to a forbidden address")
        return allowed

    async def close(self) -> None:
        await self._resolver.close()
