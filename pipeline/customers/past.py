"""What events of the past say for leaves that are new, gathered by customer.

Leaves keep sets ("top k of the union"), so an event that is read here and was applied live as well counts once, and the
order in which the past is read does not matter.
"""

from __future__ import annotations

from collections.abc import Collection

from pipeline.customers.apply import Happened, remember
from pipeline.segments.compile import Matchers
from pipeline.segments.leaf import Buckets, Leaf

__all__ = ["Leaves", "Past"]

#: Leaf id -> what is kept of it.
Leaves = dict[str, Buckets]


class Past:
    """Events of one partner in; by customer, what some leaves keep of them out.

    ``names``: of the events that say anything; ``by_content``: those of them whose properties matter.
    """

    def __init__(self, leaves: Collection[Leaf]) -> None:
        self._matchers = Matchers(leaves)
        self.names = frozenset(self._matchers.by_event)
        self.by_content = frozenset(
            name
            for name, matchers in self._matchers.by_event.items()
            if any(matcher.where or matcher.make is not None for matcher in matchers)
        )
        self._customers: dict[str, Leaves] = {}

    def __len__(self) -> int:
        """Customers in hand."""
        return len(self._customers)

    def take(self, customer: str, event: Happened) -> None:
        """Keep what an event of ``customer`` (its canonical id then) says."""
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
