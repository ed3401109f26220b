"""How many requests a second an integration gets: steady and burst, shared over all sink processes."""

from __future__ import annotations

import asyncio
import time

__all__ = ["Limiter"]


class Limiter:
    """Turns are given in the order they are asked for, at ``rate`` x ``share`` a second, ``burst`` x ``share`` at once.

    ``share``: lanes owned of all, 0 to 1: so that all processes together keep the rate. (GCRA, ITU-T I.371: a turn has
    a theoretical time, and may be that much early.)
    """

    def __init__(self, rate: float | None, burst: int | None = None) -> None:
        """``rate``: None: no limit. ``burst``: a second's worth when left out."""
        self.share = 1.0
        self._rate = rate
        self._burst = float(burst or max(1.0, rate or 1.0))
        self._next = 0.0

    async def take(self) -> None:
        """Return when it is our turn. Whoever stops waiting leaves its turn unused."""
        if self._rate is None:
            return
        now = time.monotonic()
        interval = 1 / (self._rate * max(self.share, 1e-6))
        early = max(0.0, self._burst * self.share - 1) * interval
        turn = max(self._next, now - early)
        self._next = turn + interval
        if turn > now:
            await asyncio.sleep(turn - now)
