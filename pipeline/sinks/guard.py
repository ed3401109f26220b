"""The guard of addresses (`pipeline.guard`) where aiohttp resolves names and makes sockets."""

from __future__ import annotations

import socket

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from pipeline.guard import BadName, ForbiddenAddress, Guard

__all__ = ["BadName", "ForbiddenAddress", "Guard", "GuardedResolver"]


class GuardedResolver(AbstractResolver):
    """Resolves names with ``inner`` (the system's resolver), and refuses those with any forbidden address."""

    def __init__(self, guard: Guard, inner: AbstractResolver | None = None) -> None:
        self._guard = guard
        self._inner = inner or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """As aiohttp asks. Raises ForbiddenAddress, BadName, OSError."""
        try:
            found = await self._inner.resolve(host, port, family)
        except UnicodeError:
            raise BadName(host) from None
        for entry in found:
            self._guard.check(host, entry["host"])
        return found

    async def close(self) -> None:
        """Close the inner resolver."""
        await self._inner.close()
