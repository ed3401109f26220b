"""A segment sent whole to a tool: who is told, and how fast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.models.base import Millis
from pipeline.models.control import Integration, Mailing, Partner

__all__ = ["CompiledMailing", "Pace", "going_on"]


class CompiledMailing:
    """A mailing that may go on: not paused, of an integration that is on."""

    __slots__ = ("id", "integration", "mapping", "name", "partner", "prefix", "rate", "segment", "topic")

    def __init__(self, mailing: Mailing) -> None:
        self.id = mailing.id
        self.partner = mailing.partner
        self.integration = mailing.integration
        self.segment = mailing.segment
        self.name = mailing.name
        self.rate = mailing.rate
        self.prefix = ""
        self.mapping: dict[str, Any] = {}
        self.topic = mailing.topic

    def event(self, customer: str, now: Millis) -> dict[str, Any]:
        """What the tool is told of a member; the same for a repeat but for the time."""
        return {
            "id": f"{self.id}:{customer}",
            "partner": self.partner,
            "source": "mailings",
            "channel": "Segments",
            "type": "track",
            "name": self.name,
            "time": now,
            "received": now,
            "properties": {"segment": self.segment, "mailing": self.id},
            "customer": customer,
        }


class Pace:
    """One lane's share of a rate: what may go by now is what has passed, up to a second of it."""

    __slots__ = ("_left", "_rate", "_then")

    def __init__(self, rate: float | None) -> None:
        """``rate``: a second; None: without end."""
        self._rate = rate
        self._left = 0.0
        self._then: Millis | None = None

    def pass_time(self, now: Millis) -> None:
        """It is ``now`` (ms), and never earlier again."""
        if self._rate is not None and self._then is not None:
            most = max(1.0, self._rate)
            self._left = min(most, self._left + (now - self._then) * self._rate / 1000)
        self._then = now

    def take(self) -> bool:
        """One goes, if one may."""
        if self._rate is None:
            return True
        if self._left < 1:
            return False
        self._left -= 1
        return True


def going_on(
    mailings: Iterable[Mailing], partners: Mapping[str, Partner], integrations: Mapping[tuple[str, str], Integration]
) -> tuple[CompiledMailing, ...]:
    """Those that are not paused, of partners whose master switch ``sending`` is on, to integrations that are."""
    return tuple(
        CompiledMailing(mailing)
        for mailing in mailings
        if not mailing.paused
        and partners[mailing.partner].sending
        and (tool := integrations[mailing.partner, mailing.integration]).enabled
        and not tool.removed
    )
