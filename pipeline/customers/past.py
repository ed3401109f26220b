"""What events of the past say for leaves that are new, gathered by customer.

Leaves keep sets ("top k of the union"), so an event that is read here and was applied live as well counts once, and the
order in which the past is read does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from pipeline.customers.apply import remember
from pipeline.events.facts import show_facts
from pipeline.segments.compile import Matchers
from pipeline.segments.leaf import Buckets, Leaf

__all__ = ["Leaves", "Past", "needed_from"]

#: Leaf id -> what is kept of it.
Leaves = dict[str, Buckets]

_loads = msgspec.json.Decoder().decode


class _Event:
    """What leaves look at of an event, and its facts."""

    __slots__ = ("channel", "facts", "id", "name", "properties", "source", "time")

    def __init__(self, id: str, source: str, channel: str, name: str, time: int) -> None:
        self.id = id
        self.source = source
        self.channel = channel
        self.name = name
        self.time = time
        self.properties: dict[str, Any] | None = None
        self.facts: dict[str, Any] | None = None


def needed_from(leaves: Iterable[Leaf], now: int) -> int | None:
    """The earliest event time that says anything of any of these at ``now`` (ms); None: all that ever happened does."""
    needs = [leaf.needs(now) for leaf in leaves]
    return None if None in needs else min((need for need in needs if need is not None), default=None)


class Past:
    """Events of one partner in; by customer, what some leaves keep of them out.

    ``names``: of the events that say anything.
    """

    def __init__(self, leaves: Iterable[Leaf]) -> None:
        self._matchers = Matchers(leaves)
        self.names = frozenset(self._matchers.by_event)
        #: Those of them whose properties matter.
        self._by_content = frozenset(
            name
            for name, matchers in self._matchers.by_event.items()
            if any(matcher.where or matcher.make is not None for matcher in matchers)
        )
        self._customers: dict[str, Leaves] = {}

    def __len__(self) -> int:
        """Customers in hand."""
        return len(self._customers)

    def take(
        self,
        customer: str,
        id: str,
        source: str,
        channel: str,
        name: str,
        time: int,
        properties: str | bytes | None,
        facts: str | bytes | None,
    ) -> None:
        """Keep what an event of ``customer`` (its canonical id then) says; ``properties`` and ``facts`` as JSON."""
        event = _Event(id, source, channel, name, time)
        if name in self._by_content:
            event.properties = _loads(properties) if properties else None
            event.facts = _loads(facts) if facts else None
            show_facts(event)
        matching = self._matchers.of(event.name, event.source, event.channel, event.properties)
        if matching:
            leaves = self._customers.get(customer)
            if leaves is None:
                leaves = self._customers[customer] = {}
            remember(leaves, matching, f"{event.source}|{event.channel}", event)

    def part(self) -> dict[str, Leaves]:
        """What is in hand, which is forgotten."""
        found, self._customers = self._customers, {}
        return found
