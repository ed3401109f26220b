"""When an endpoint has failed so often in a row that it should be asked less. Pure."""

from __future__ import annotations

__all__ = ["LEAST_SECONDS", "Breaker"]

#: Failures within less time may be one hiccup of many requests at once.
LEAST_SECONDS = 10.0


class Breaker:
    """Counts failures in a row. ``failures``: so many trip it, 0: none do."""

    def __init__(self, failures: int) -> None:
        self._most = failures
        self._count = 0
        self._since = 0.0

    def succeed(self) -> None:
        """It answered; what failed before is forgotten."""
        self._count = 0

    def fail(self, now: float) -> bool:
        """A request failed at ``now`` (seconds, any clock): whether nothing should be asked for a while."""
        if not self._count:
            self._since = now
        self._count += 1
        return bool(self._most) and self._count >= self._most and now - self._since >= LEAST_SECONDS
