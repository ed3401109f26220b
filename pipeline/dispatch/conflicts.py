"""Rules that tell one tool of one event twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations

from pipeline.models.control import Restriction, Rule

__all__ = ["conflicts"]


def conflicts(rules: Iterable[Rule]) -> list[tuple[Rule, Rule]]:
    """Pairs of rules of one partner that are on, of the same event and tool, and may both fire for one event.

    Two that restrict one property to different values never do; of what filters say nothing is known beforehand.
    """
    alike: defaultdict[tuple[str, str], list[Rule]] = defaultdict(list)
    for rule in rules:
        if rule.enabled:
            alike[rule.event, rule.integration].append(rule)
    return [
        (one, other)
        for group in alike.values()
        for one, other in combinations(group, 2)
        if not _exclude(one.restrictions, other.restrictions)
    ]


def _exclude(some: Iterable[Restriction], others: Iterable[Restriction]) -> bool:
    return any(
        one.property == other.property and _values(one).isdisjoint(_values(other)) for one in some for other in others
    )


def _values(restriction: Restriction) -> set[tuple[bool, object]]:
    """Strict by type, as rules compare: True is not 1, 1 is 1.0."""
    return {(isinstance(value, bool), value) for value in restriction.values}
