"""A network between a worker and its broker that can be cut, slowed and made deaf, also at one request of Kafka's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from enum import Enum
from typing import Self

__all__ = ["Api", "Loss", "Proxy"]

_LOOPBACK = "127.0.0.1"


class Api(Enum):
    """Requests of Kafka's protocol, by their keys."""

    PRODUCE = 0
    FETCH = 1
    OFFSET_COMMIT = 8
    HEARTBEAT = 12
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


class Loss(Enum):
    """How a request fails: what of it is lost, and whether the client is told (its connection is reset)."""

    REQUEST = "the connection is reset before the broker gets it"
    REPLY = "the connection is reset when the broker has answered"
    REQUEST_SILENTLY = "it never arrives, and the connection stays"
    REPLY_SILENTLY = "its answer never arrives, and the connection stays"


@dataclass(eq=False)
class _Link:
    """One connection of a client's, and the broker's end of it."""

    client: asyncio.StreamWriter
    broker: asyncio.StreamWriter
    #: Bytes of this direction go nowhere. A link that has lost some is of no use any more.
    deaf_up: bool = False
    deaf_down: bool = False
    reset_at_reply: bool = False
    damaged: bool = False
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def reset(self) -> None:
        """RST to both: what is on its way is lost."""
        for writer in (self.client, self.broker):
            raw = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Proxy:
    """Listens on ``port`` and speaks to the broker's ``target`` port, request by request."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self._target = target
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._cut = False
        self._deaf_up = False
        self._deaf_down = False
        self._rate_up: float | None = None
        self._rate_down: float | None = None
        self._trap: tuple[Api, Loss, int] | None = None
        self._sprung = asyncio.Event()

    @property
    def bootstrap_servers(self) -> str:
        """``host:port`` for clients."""
        return f"{_LOOPBACK}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, _LOOPBACK, self.port, limit=16 << 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Reset all connections, and take no new ones."""
        self._cut = True
        for link in list(self._links):
            link.reset()

    def deafen(self, *, up: bool = False, down: bool = False) -> None:
        """Half-open: connections stay, new ones are taken, and what is sent up (to the broker), or down, is lost."""
        self._deaf_up, self._deaf_down = up, down

    def slow(self, bytes_per_second: float | None, *, up: bool = True, down: bool = True) -> None:
        """Let so much through, each way or one, on each connection; None: all."""
        self._rate_up = bytes_per_second if up else None
        self._rate_down = bytes_per_second if down else None

    def heal(self) -> None:
        """All is well again; connections that have lost something are reset."""
        self._cut = self._deaf_up = self._deaf_down = False
        self._rate_up = self._rate_down = None
        for link in list(self._links):
            if link.damaged:
                link.reset()

    async def lose(self, api: Api, loss: Loss, *, nth: int = 1, timeout: float = 30.0) -> None:
        """Wait for the ``nth`` request of this kind from now on, and lose it so."""
        self._sprung.clear()
        self._trap = (api, loss, nth)
        try:
            await asyncio.wait_for(self._sprung.wait(), timeout)
        except TimeoutError:
            raise AssertionError(f"no {nth}. {api.name} within {timeout} s") from None

    # -- connections -----------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._cut:
                raise ConnectionError
            up, down = await asyncio.open_connection(_LOOPBACK, self._target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, down)
        self._links.add(link)
        link.tasks = [asyncio.create_task(self._up(reader, link)), asyncio.create_task(self._down(up, link))]
        try:
            await asyncio.wait(link.tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in link.tasks:
                task.cancel()
            await asyncio.gather(*link.tasks, return_exceptions=True)
            link.reset()
            self._links.discard(link)

    async def _up(self, reader: asyncio.StreamReader, link: _Link) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                size = await reader.readexactly(4)
                body = await reader.readexactly(int.from_bytes(size, "big"))
                if self._rate_up:
                    await asyncio.sleep(len(body) / self._rate_up)
                if not self._passes(int.from_bytes(body[:2], "big"), link):
                    return
                if self._deaf_up or link.deaf_up:
                    link.damaged = True
                    continue
                link.broker.write(size + body)
                await link.broker.drain()

    async def _down(self, reader: asyncio.StreamReader, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if self._rate_down:
                    await asyncio.sleep(len(data) / self._rate_down)
                if link.reset_at_reply:
                    link.reset()
                    return
                if self._deaf_down or link.deaf_down:
                    link.damaged = True
                    continue
                link.client.write(data)
                await link.client.drain()

    def _passes(self, key: int, link: _Link) -> bool:
        """False where the link is reset; the request that was waited for takes its loss."""
        if self._trap is None or self._trap[0].value != key:
            return True
        api, loss, left = self._trap
        if left > 1:
            self._trap = (api, loss, left - 1)
            return True
        self._trap = None
        self._sprung.set()
        match loss:
            case Loss.REQUEST:
                link.reset()
                return False
            case Loss.REPLY:
                link.reset_at_reply = True
            case Loss.REQUEST_SILENTLY:
                link.deaf_up = True
            case Loss.REPLY_SILENTLY:
                link.deaf_down = True
        return True
