"""Windows, compiled: from when on an event counts at a moment, and when it stops counting.

A window moves forward only, so an event that has left it never comes back. A day of a time zone begins with the first
instant of its date there, also where midnight does not exist.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from pipeline.models.window import Between, Window, duration_ms, moment_ms

__all__ = ["Span", "day_of", "day_start", "known_zone", "span_of"]

_EPOCH = date(1970, 1, 1).toordinal()


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (
        KeyError,
        ValueError,
        OSError,
    ):  # not in this machine's data; it was refused at save where it was not
        return None


def known_zone(name: str) -> bool:
    """Whether this machine knows the time zone."""
    return _zone(name) is not None


@lru_cache(maxsize=16_384)
def day_start(day: int, zone: str) -> int:
    """The first instant (ms) of a day in ``zone``; ``day``: whole days since 1970-01-01."""
    midnight = datetime.fromordinal(_EPOCH + day).replace(tzinfo=_zone(zone) or UTC, fold=0)
    # In a gap, fold 0 reads the clock as it was before: that is the instant at which the gap begins, and the day.
    return round(midnight.timestamp() * 1000)


def day_of(time: int, zone: str) -> int:
    """The day that ``time`` (ms) falls on in ``zone``: the last one that has begun. Whole days since 1970-01-01."""
    day = datetime.fromtimestamp(time / 1000, _zone(zone) or UTC).toordinal() - _EPOCH
    while day_start(day + 1, zone) <= time:
        day += 1
    while day_start(day, zone) > time:
        day -= 1
    return day


class Span:
    """A window. ``low``, ``high``: bounds of event times (``high`` excluded) that do not move; None: none."""

    __slots__ = ("days", "high", "length", "low", "zone")

    def __init__(
        self,
        *,
        length: int | None = None,
        days: int | None = None,
        zone: str = "UTC",
        low: int | None = None,
        high: int | None = None,
    ) -> None:
        self.length = length
        self.days = days
        self.zone = zone
        self.low = low
        self.high = high

    def start(self, now: int) -> int | None:
        """The earliest event time that counts at ``now``; None: all do."""
        if self.length is not None:
            return now - self.length
        if self.days is not None:
            return day_start(day_of(now, self.zone) - self.days + 1, self.zone)
        return self.low

    def end(self, time: int) -> int | None:
        """The first moment at which an event of ``time``, which counted, does not any more; None: it always will."""
        if self.length is not None:
            return time + self.length + 1
        if self.days is not None:
            return day_start(day_of(time, self.zone) + self.days, self.zone)
        return None

    def holds(self, time: int, now: int) -> bool:
        """Whether an event of ``time`` counts at ``now`` (``time`` is not after ``now``)."""
        start = self.start(now)
        return (start is None or time >= start) and (self.high is None or time < self.high)

    @property
    def meaning(self) -> object:
        """What makes it another window than others: part of a leaf's id. Milliseconds where it is rolling."""
        if self.days is not None:
            return ["calendar", self.days, self.zone]
        if self.low is not None or self.high is not None:
            return ["between", self.low, self.high]
        return self.length


def span_of(window: Window) -> Span:
    """The window as it stands in a definition, compiled."""
    if window.rolling is not None:
        return Span(length=duration_ms(window.rolling))
    if window.calendar is not None:
        return Span(days=window.calendar.days, zone=window.calendar.zone)
    if window.between is not None:
        return Span(low=_bound(window.between, False), high=_bound(window.between, True))
    return Span()


def _bound(between: Between, last: bool) -> int | None:
    text = between.to if last else between.from_
    if text is None:
        return None
    if len(text) > 10:
        return moment_ms(text)
    day = (date.fromisoformat(text) + timedelta(days=int(last))).toordinal() - _EPOCH
    return day_start(day, between.zone)
