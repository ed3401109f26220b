"""What was sent, and what must come of it: a plain account, made without any code of the engine. Pure.

It knows the meaning of what the demo uses (a count of at least one, ``all`` and ``not``) and no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Figure", "Ledger", "Move", "Sent"]

#: (segment, "entered" or "left", canonical customer id)
Move = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Sent:
    """An event that a door has taken. ``id``: its message id, unique in the source."""

    source: str
    channel: str
    id: str
    name: str
    user: str | None = None
    anonymous: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """Customers: those who are identified and those who are not."""

    customers: int = 0
    identified: int = 0
    anonymous: int = 0


class Ledger:
    """Events in the order in which they were sent; a repeat of (source, id) is ignored, as it must be.

    ``refused``: reason -> how many records must be among the rejected. ``problems``: what went wrong while
    sending, in words.
    """

    def __init__(self, partner: str) -> None:
        self.partner = partner
        self.refused: Counter[str] = Counter()
        self.problems: list[str] = []
        self._sent: dict[tuple[str, str], Sent] = {}

    def add(self, *events: Sent) -> None:
        """Enter events that a door has taken."""
        for event in events:
            self._sent.setdefault((event.source, event.id), event)

    @property
    def sent(self) -> list[Sent]:
        """The events, repeats left out."""
        return list(self._sent.values())

    def customers(self) -> dict[str, list[Sent]]:
        """Canonical customer id -> events. An anonymous id belongs to the first user it is seen with."""
        bound: dict[str, str] = {}
        for event in self._sent.values():
            if event.user and event.anonymous:
                bound.setdefault(event.anonymous, event.user)
        found: dict[str, list[Sent]] = {}
        for event in self._sent.values():
            user = event.user or bound.get(event.anonymous or "")
            found.setdefault(self._id(user, event.anonymous), []).append(event)
        return found

    def figures(self, condition: Mapping[str, Any]) -> dict[str, Figure]:
        """Scope -> figure, rows of zero left out: ``*`` in all, ``s:<source>``, ``c:<channel>``."""
        counts: dict[str, list[int]] = {}
        for customer, events in self.customers().items():
            for scope, inside in _scopes(events):
                if _holds(condition, inside):
                    row = counts.setdefault(scope, [0, 0, 0])
                    row[0] += 1
                    row[1 if _identified(customer) else 2] += 1
        return {scope: Figure(*row) for scope, row in counts.items()}

    def moves(self, segments: Mapping[str, Mapping[str, Any]]) -> Counter[Move]:
        """The transitions that the events bring about, replayed in order, an anonymous record handed over at
        the first sight of its user."""
        moves: Counter[Move] = Counter()
        records: dict[str, list[Sent]] = {}
        inside: set[tuple[str, str]] = set()
        bound: dict[str, str] = {}

        def judge(customer: str) -> None:
            for segment, condition in segments.items():
                now, was = _holds(condition, records.get(customer, [])), (segment, customer) in inside
                if now is not was:
                    moves[segment, "entered" if now else "left", customer] += 1
                    inside.symmetric_difference_update({(segment, customer)})

        for event in self._sent.values():
            customer = self._id(event.user or bound.get(event.anonymous or ""), event.anonymous)
            records.setdefault(customer, []).append(event)
            judge(customer)
            if event.user and event.anonymous and event.anonymous not in bound:
                bound[event.anonymous] = event.user
                visitor = self._id(None, event.anonymous)
                records[customer] += records.pop(visitor, [])
                judge(visitor)
                judge(customer)
        return moves

    def touching(self, leaf: Mapping[str, Any]) -> set[str]:
        """Who has an event that ``leaf`` counts: customers, and visitors before they were customers."""
        return {key for (_, kind, key) in self.moves({"": leaf}) if kind == "entered"}

    def _id(self, user: str | None, anonymous: str | None) -> str:
        return f"{self.partner}|u|{user}" if user else f"{self.partner}|a|{anonymous}"


def _identified(customer: str) -> bool:
    return customer.split("|")[1] != "a"


def _scopes(events: list[Sent]) -> Iterator[tuple[str, list[Sent]]]:
    yield "*", events
    for source in {event.source for event in events}:
        yield f"s:{source}", [event for event in events if event.source == source]
    for channel in {event.channel for event in events}:
        yield f"c:{channel}", [event for event in events if event.channel == channel]


def _holds(condition: Mapping[str, Any], events: Iterable[Sent]) -> bool:
    """Windows play no part: nothing in the demo is as old as 30 days."""
    if "all" in condition:
        return all(_holds(part, events) for part in condition["all"])
    if "not" in condition:
        return not _holds(condition["not"], events)
    return any(
        event.name == condition["event"]
        and event.source == condition.get("source", event.source)
        and all(event.properties.get(f["property"]) == f["value"] for f in condition.get("where", ()))
        for event in events
    )
