"""A source's rate and daily quota (`Policy.rate`, `Policy.daily`), over all gateways of a cluster. Pure: time is given.

Each gateway tells the others what it took and what it was asked for (`usage`), twice a second while there is something
to tell. A rate is shared max-min fair: a gateway that is asked for less than an equal part leaves the rest to the
others. By what was asked for, not by what was taken, which would swing: who had much is cut, takes little, and is given
much again. So the sum may pass the rate only for the second that news takes. A quota counts what all of them have taken
since midnight, UTC.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import orjson

from pipeline.bridges.base import Refused
from pipeline.models.control import Source

__all__ = ["Limits"]

_DAY_S = 86_400
#: Seconds of a rate that may come at once; and after which what another gateway told of its rate is old.
_BURST_S, _FRESH_S = 1.0, 3.0
#: Of what was asked for in the last telling, so much is still told in the next: clients that wait are not gone.
_FADE = 0.7
#: Sources remembered; those that were quiet longest go first.
_REMEMBERED = 10_000


@dataclass(slots=True)
class _Taken:
    """What this gateway took of one source. ``tokens`` may be below zero: a batch is taken whole, and waited for."""

    tokens: float
    at: float
    day: int
    today: int = 0
    since: float = 0.0
    asked: int = 0
    rate: float = 0.0


class Limits:
    """``name``: of this gateway, in what it tells. Ask by `take`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._own: dict[str, _Taken] = {}
        #: Source -> gateway -> (when told, day, taken that day, asked for a second).
        self._others: dict[str, dict[str, tuple[float, int, int, float]]] = {}
        self._changed = False

    def take(self, source: Source, count: int, now: float) -> None:
        """Take ``count`` events at ``now`` (seconds since 1970), or refuse them all: `Refused` 429, which says when to
        come again.
        """
        policy = source.policy
        if not count or (policy.rate is None and policy.daily is None):
            return
        name = f"{source.partner}/{source.id}"
        day = int(now // _DAY_S)
        own = self._own.get(name)
        if own is None:
            if len(self._own) >= _REMEMBERED:
                del self._own[next(iter(self._own))]
            burst = self._share(name, policy.rate, now) * _BURST_S if policy.rate else 0.0
            own = self._own[name] = _Taken(burst, now, day, since=now)
        if own.day != day:
            own.day, own.today = day, 0
        own.asked += count
        self._changed = True
        if policy.daily is not None and own.today + self._told_today(name, day) + count > policy.daily:
            wait = max(1, math.ceil((day + 1) * _DAY_S - now))
            message = (
                f"source {source.id} takes {policy.daily} events a day (UTC); it has had them, or these are too many"
            )
            raise Refused(429, "quota", message, retry_after=wait)
        if policy.rate is not None:
            share = self._share(name, policy.rate, now)
            own.tokens = min(share * _BURST_S, own.tokens + max(0.0, now - own.at) * share)
            own.at = now
            if own.tokens <= 0:
                wait = max(1, math.ceil(-own.tokens / share))
                message = f"source {source.id} takes {policy.rate:g} events a second"
                raise Refused(429, "rate", message, retry_after=wait)
            own.tokens -= count
        own.today += count

    def tell(self, now: float) -> bytes | None:
        """What the others should know, as JSON; None when nothing has changed since."""
        for own in self._own.values():
            passed = now - own.since
            if passed >= 0.4:
                rate = max(own.asked / passed, own.rate * _FADE)
                rate = rate if rate >= 0.01 else 0.0
                self._changed = self._changed or rate != own.rate
                own.rate, own.asked, own.since = rate, 0, now
        if not self._changed:
            return None
        self._changed = False
        told = {name: [own.day, own.today, round(own.rate, 3)] for name, own in self._own.items()}
        return orjson.dumps({"time": now, "sources": told})

    def hear(self, gateway: str, value: bytes | None) -> None:
        """What another told; what can't be read is passed over, since another version may have written it."""
        if gateway == self.name or not value:
            return
        try:
            told = orjson.loads(value)
            when = float(told["time"])
            for name, (day, today, rate) in told["sources"].items():
                self._others.setdefault(name, {})[gateway] = (when, int(day), int(today), float(rate))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
            return

    def _told_today(self, name: str, day: int) -> int:
        return sum(today for _, told, today, _ in self._others.get(name, {}).values() if told == day)

    def _share(self, name: str, rate: float, now: float) -> float:
        """Of the rate, what is ours: as much as the others leave, and an equal part at least."""
        others = sorted(
            told[3] for told in self._others.get(name, {}).values() if now - told[0] < _FRESH_S and told[3] > 0
        )
        left = rate
        for place, asked in enumerate(others):
            equal = left / (len(others) + 1 - place)
            if asked >= equal:
                return equal
            left -= asked
        return left
