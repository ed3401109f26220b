"""Durations, moments, and the windows of the segment language."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from pipeline.models.base import Model

__all__ = ["Between", "Calendar", "Duration", "Window", "Zone", "dropped", "duration_ms", "moment_ms"]

_DURATION = re.compile(r"^([1-9]\d{0,8})(ms|s|m|h|d)$")
_UNIT = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
MAX_DAYS = 366
#: An IANA name, e.g. ``Europe/Berlin``. Whether it is known is checked at save, not by the log: machines differ.
Zone = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+/-]{1,64}$")]


def duration_ms(text: str) -> int:
    """``30d``, ``12h``, ``5m``, ``90s``, ``250ms`` in milliseconds (1 ms to 10 years).

    Raises ValueError, saying what is expected.
    """
    match = _DURATION.match(text)
    if not match:
        raise ValueError(f"{text!r} is no duration; write a whole number and ms, s, m, h or d, e.g. 30d")
    value = int(match[1]) * _UNIT[match[2]]
    if value > 3650 * _UNIT["d"]:
        raise ValueError(f"{text!r} is longer than 10 years (3650d)")
    return value


def _duration(text: str) -> str:
    duration_ms(text)
    return text


#: Text that `duration_ms` takes.
Duration = Annotated[str, AfterValidator(_duration)]


def moment_ms(text: str) -> int:
    """An RFC 3339 moment with its offset from UTC, or a date (its midnight in UTC), in ms since 1970.

    Raises ValueError, saying what is expected.
    """
    try:
        if len(text) == 10:
            moment = datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
        else:
            moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.min
    if moment.tzinfo is None or not 1970 <= moment.year < 3000:
        raise ValueError(f"{text!r} is no moment; write 2026-01-31, or 2026-01-31T09:00:00+01:00")
    return round(moment.timestamp() * 1000)


def dropped(dump: dict[str, Any], *names: str) -> dict[str, Any]:
    """Without what came later and is not set, so that what was written before reads as it did."""
    for name in names:
        if dump.get(name) is None:
            dump.pop(name, None)
    return dump


class Calendar(Model):
    """``days: 7``: today and the six whole days before it, in the time zone; a day has 23 to 25 hours there."""

    days: Annotated[int, Field(ge=1, le=MAX_DAYS, strict=True)]
    zone: Zone = "UTC"


class Between(Model):
    """From ``from`` on and before ``to``; one of them may be left out.

    Each is a date, whole in ``zone`` (``to`` included), or an RFC 3339 moment with its offset (``to`` excluded).
    """

    from_: str | None = Field(None, alias="from")
    to: str | None = None
    zone: Zone = "UTC"

    @model_validator(mode="after")
    def _fits(self) -> Between:
        if self.from_ is None and self.to is None:
            raise ValueError("say `from`, `to` or both")
        given = [text for text in (self.from_, self.to) if text is not None]
        moments = [moment_ms(text) for text in given]
        dates = [len(text) == 10 for text in given]
        # A date beside a moment is whole in its zone: what zones there are, the machine says, not the log.
        if (
            len(given) == 2
            and dates[0] is dates[1]
            and (moments[1] < moments[0] or (moments[1] == moments[0] and not dates[0]))
        ):
            raise ValueError(f"`to` ({self.to}) is not after `from` ({self.from_})")
        return self


class Window(Model):
    """Which events are looked at; at most one of the three, ``{}``: ever.

    ``{"rolling": "30d"}``: while event time >= now - 30 d, in integer milliseconds.
    ``{"calendar": {"days": 7, "zone": "Europe/Berlin"}}``: whole days. ``{"between": {"from": …, "to": …}}``.
    """

    rolling: Duration | None = None
    calendar: Calendar | None = None
    between: Between | None = None

    @model_validator(mode="after")
    def _one(self) -> Window:
        if sum(each is not None for each in (self.rolling, self.calendar, self.between)) > 1:
            raise ValueError("a window is one of `rolling`, `calendar` and `between`")
        return self

    @model_serializer(mode="wrap")
    def _without(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return dropped(handler(self), "calendar", "between")
