"""What carries requests to tools, by the type of the request."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from pipeline.settings import Settings
from pipeline.sinks.base import Asked, Request
from pipeline.sinks.database import DatabaseTransport, Upsert
from pipeline.sinks.files import FileTransport, NewFile
from pipeline.sinks.guard import Guard
from pipeline.sinks.http import Answer, HttpClient
from pipeline.sinks.mail import Mail, MailTransport

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
    """All of them, for one process: within the networks and folders that its settings allow."""

    def __init__(self, settings: Settings) -> None:
        guard = Guard(settings.allow_networks)
        folders = [Path(part.strip()) for part in settings.allow_folders.split(",") if part.strip()]
        self._by_type: dict[type, Transport] = {
            Request: HttpClient(guard),
            Mail: MailTransport(guard),
            Upsert: DatabaseTransport(guard),
            NewFile: FileTransport(folders),
        }

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
