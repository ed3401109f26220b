"""Two records that turn out to be one person."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.customers.apply import MAX_TRAITS, add_identifier
from pipeline.customers.record import Record
from pipeline.models.segment import MAX_COUNT
from pipeline.models.trait import COMPUTED
from pipeline.segments.compile import Program
from pipeline.segments.leaf import Buckets, Leaf

__all__ = ["join_past", "merge"]


def merge(into: Record, other: Record, program: Program | None = None) -> None:
    """Add what is known of ``other`` to ``into``; ``other`` stays as it is.

    Leaves: the newest (or oldest) k pairs of the union, so merging is idempotent, commutative and associative. k is the
    leaf's in ``program``, else the most that any leaf can need: both give the same memberships. Traits: those of an
    identified customer win over an anonymous one's, otherwise the newer win. Identifiers, origins and the time seen:
    the union.

    ``into`` keeps its memberships until `evaluate` (cause ``merge``); `release` takes ``other`` out of the counts.
    """
    for key, buckets in other.leaves.items():
        _join_leaf(into, key, buckets, program.leaves.get(key) if program else None)
    _join_traits(into, other)
    for identifier in other.identifiers:
        add_identifier(into, identifier)
    into.origins = sorted({*into.origins, *other.origins})
    into.first_seen = min(into.first_seen, other.first_seen)
    into.last_seen = max(into.last_seen, other.last_seen)
    into.stale = into.dirty = True


def join_past(into: Record, leaves: Mapping[str, Buckets], program: Program) -> set[str]:
    """Add what a back-fill found of a customer; the segments that it may concern, for `evaluate` to look at.

    What no segment has any more is left out.
    """
    concerned: set[str] = set()
    for key, buckets in leaves.items():
        leaf = program.leaves.get(key)
        if leaf is not None:
            _join_leaf(into, key, buckets, leaf)
            concerned.update(segment.id for segment in leaf.segments)
    into.dirty = into.dirty or bool(concerned)
    return concerned


def _join_leaf(into: Record, key: str, buckets: Buckets, leaf: Leaf | None) -> None:
    k = leaf.k if leaf else MAX_COUNT + 1
    _join(into.leaves.setdefault(key, {}), buckets, k, oldest=leaf is not None and leaf.oldest)


def _join(into: Buckets, other: Buckets, k: int, *, oldest: bool) -> None:
    for origin, pairs in other.items():
        union = sorted({*into.get(origin, ()), *pairs}, reverse=True)
        into[origin] = union[-k:] if oldest else union[:k]


def _join_traits(into: Record, other: Record) -> None:
    same_kind = into.identified is other.identified
    for name, value in other.traits.items():
        if name == COMPUTED:
            continue  # of leaves, which have been joined
        if name in into.traits:
            newer = other.trait_times.get(name, 0) > into.trait_times.get(name, 0)
            if not (newer if same_kind else other.identified):
                continue
        elif len(into.traits) >= MAX_TRAITS:
            continue
        into.traits[name] = value
        into.trait_times[name] = other.trait_times.get(name, 0)
