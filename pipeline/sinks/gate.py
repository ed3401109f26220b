"""Whether an integration may be called now: open, throttled by the tool, or paused until it is set right."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

__all__ = ["Gate", "Pause"]


@dataclass(frozen=True, slots=True)
class Pause:
    """Why nothing is sent. ``since`` and ``until``: seconds since 1970; at ``until`` one request tries again."""

    reason: str
    since: float
    until: float
    alert: bool


class Gate:
    """All requests of one integration in this process pass here.

    Closed, it stays so for a while; then one request goes first as a probe, and its answer opens it or closes it
    again. Answers to requests that passed before the closing open nothing.
    """

    def __init__(self) -> None:
        self.pause: Pause | None = None
        self._epoch = 0
        self._opens = 0.0
        self._probing = False
        self._changed = asyncio.Event()
        #: How often in a row it was closed.
        self.closings = 0

    async def enter(self) -> int:
        """Return when a request may be sent; give the number back to `succeed`, `close` or `leave`."""
        while self.pause is not None:
            left = self._opens - time.monotonic()
            if left <= 0 and not self._probing:
                self._probing = True
                break
            try:
                async with asyncio.timeout(left if left > 0 else None):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return self._epoch

    def close(self, epoch: int, seconds: float, reason: str, *, alert: bool) -> bool:
        """Let nothing pass for so long; True when it was open before. A closing is only ever lengthened."""
        opens = time.monotonic() + seconds
        first = self.pause is None
        if first or epoch == self._epoch:
            self.closings += 1
            self._epoch += 1
            self._probing = False
            self._opens = opens
        else:
            self._opens = max(self._opens, opens)
        since = self.pause.since if self.pause is not None else time.time()
        self.pause = Pause(reason, since, time.time() + self._opens - time.monotonic(), alert)
        self._wake()
        return first

    def succeed(self, epoch: int) -> bool:
        """A request got through; True when that opened the gate."""
        if epoch != self._epoch:
            return False
        self.closings = 0
        return self.reset()

    def leave(self, epoch: int) -> None:
        """The request was given up without an answer; another may be the probe."""
        if epoch == self._epoch and self._probing:
            self._probing = False
            self._wake()

    def reset(self) -> bool:
        """Open, whatever was; True when it was closed."""
        closed = self.pause is not None
        if closed:
            self._epoch += 1
        self.pause = None
        self._probing = False
        self._wake()
        return closed

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
