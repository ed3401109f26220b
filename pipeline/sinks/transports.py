"""What carries requests to tools, by the type of the request."""

from __future__ import annotations

from typing import Any, Protocol

from pipeline.sinks.base import Asked, Request
from pipeline.sinks.guard import Guard
from pipeline.sinks.http import Answer, HttpClient

__all__ = ["Transport", "Transports"]


class Transport(Protocol):
    """Carries one type of request. Bounded in time and bytes; connects to no address that the guard refuses."""

    async def start(self) -> None:
        """Before the first `send`."""
        ...

    async def stop(self) -> None:
        """Close all connections."""
        ...

    async def send(self, request: Any, timeout_s: float) -> Answer:
        """One attempt, within ``timeout_s`` seconds. Raises NoAnswer; SetupError for what may not be reached."""
        ...


class Transports:
    """All of them, for one process."""

    def __init__(self, guard: Guard) -> None:
        self._by_type: dict[type, Transport] = {Request: HttpClient(guard)}

    async def start(self) -> None:
        """Start all."""
        for transport in self._by_type.values():
            await transport.start()

    async def stop(self) -> None:
        """Stop all, also those that were not started."""
        for transport in self._by_type.values():
            await transport.stop()

    async def send(self, request: Asked, timeout_s: float) -> Answer:
        """One attempt. Raises NoAnswer, SetupError."""
        return await self._by_type[type(request)].send(request, timeout_s)
