"""When a delivery that failed is tried again: delays between attempts, their names, their jitter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from pipeline.models.base import Millis

__all__ = ["JITTER", "Delay", "Schedule"]

#: A delay is shortened or lengthened by up to this share, so that what failed together does not return together.
JITTER = 0.2

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DELAY = re.compile(r"([1-9]\d{0,8})(ms|s|m|h|d)")
#: A retry topic keeps its records for 7 days; a longer wait, jitter included, would lose them.
_LONGEST_MS = 5 * _UNITS["d"]


class Delay(NamedTuple):
    """``tier``: its text, which names a retry topic; ``ms``: its length."""

    tier: str
    ms: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """The delays after the first, second, … failed attempt; after the last one a delivery is given up."""

    delays: tuple[Delay, ...]

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """From ``5s,5m,2h``: whole numbers with ms, s, m, h or d, comma-separated. Empty: one attempt only.

        Raises ValueError, naming the part that is wrong.
        """
        parts = [part.strip() for part in text.split(",")] if text.strip() else []
        return cls(tuple(_delay(part) for part in parts))

    @property
    def tiers(self) -> tuple[str, ...]:
        """The names of its delays, each once, in order."""
        return tuple(dict.fromkeys(delay.tier for delay in self.delays))

    def after(self, attempts: int) -> Delay | None:
        """The delay once ``attempts`` (1, 2, …) have failed; None when that was the last."""
        return self.delays[attempts - 1] if attempts <= len(self.delays) else None

    def due(self, dispatch_id: str, attempts: int, now: Millis) -> Millis:
        """When to try again, from ``now``: the delay ± `JITTER`, the same for the same id and attempt.

        Raises ValueError when there is no delay after so many attempts.
        """
        delay = self.after(attempts)
        if delay is None:
            raise ValueError(f"the schedule ends after {len(self.delays) + 1} attempts")
        digest = blake2b(f"{attempts}:{dispatch_id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        share = int.from_bytes(digest, "big") / 2**64
        return now + round(delay.ms * (1 - JITTER + 2 * JITTER * share))


def _delay(part: str) -> Delay:
    found = _DELAY.fullmatch(part)
    if found is None:
        raise ValueError(f"retry schedule: {part!r} is not a delay; write 500ms, 5s, 30m, 2h or 1d, comma-separated")
    length = int(found[1]) * _UNITS[found[2]]
    if length > _LONGEST_MS:
        raise ValueError(f"retry schedule: {part} is too long; at most 5d, since retry topics keep 7 days")
    return Delay(part, length)
