"""What is costly in this process has turns, a few at a time; who waits too long hears 503."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipeline.api.errors import ApiError
from pipeline.query.kept import Behind
from pipeline.query.sql import SqlError

__all__ = ["Turns", "questions"]

_PATIENCE_S = 10.0


class Turns:
    """``at_once`` of them; ``busy``: what is told to one whose turn has not come after 10 s."""

    def __init__(self, at_once: int, busy: str) -> None:
        self._running = asyncio.Semaphore(at_once)
        self._busy = busy

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one. Raises ApiError 503."""
        try:
            await asyncio.wait_for(self._running.acquire(), _PATIENCE_S)
        except TimeoutError:
            raise ApiError(503, "busy", self._busy) from None
        try:
            yield
        finally:
            self._running.release()


_ours = Turns(2, "others ask already; ask again in a moment")


@asynccontextmanager
async def questions() -> AsyncIterator[None]:
    """A turn for questions of our own to the lake. Raises ApiError 503 where they can't be answered now."""
    async with _ours.turn():
        try:
            yield
        except Behind as why:
            raise ApiError(503, "behind", str(why)) from None
        except SqlError as error:
            raise ApiError(503, error.code, str(error)) from None
