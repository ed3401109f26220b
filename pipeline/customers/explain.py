"""Why a customer is in a segment, or not: each part of the condition, and the events that make it so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from pipeline.customers.record import Record
from pipeline.models.base import Millis, Model
from pipeline.models.segment import Condition, MemberLeaf, TraitLeaf, children_of
from pipeline.models.trait import COMPUTED, computed_in
from pipeline.segments.compile import Program
from pipeline.segments.computed import CompiledTrait
from pipeline.segments.english import describe
from pipeline.segments.filters import getter
from pipeline.segments.leaf import Buckets, Leaf
from pipeline.segments.meaning import leaf_id
from pipeline.segments.scopes import scopes_of

__all__ = ["MOST", "Evidence", "Reason", "explain"]

#: Events that are told of one leaf, the newest first.
MOST = 10


class Evidence(Model):
    """An event that counts for a leaf; ``id``: its message id (null: all events of the day that begins then)."""

    time: Millis
    id: str | None
    source: str
    channel: str


class Reason(Model):
    """A part of a condition: whether it holds, and why.

    ``path``: in the definition. ``until``: the moment at which time alone changes that, null: never. ``because``: of a
    leaf, the newest of the events that it looks at now, however many are kept; of a computed trait, of those that it is
    made of. ``value``: of a trait.
    """

    path: str
    says: str
    holds: bool
    until: Millis | None = None
    because: list[Evidence] = Field(default_factory=list)
    value: Any = None
    parts: list[Reason] = Field(default_factory=list)


def explain(condition: Condition, program: Program, record: Record, now: Millis, path: str = "$.condition") -> Reason:
    """What ``condition`` (one of ``program``) says of ``record`` over all it did, at ``now``."""
    says = describe(condition)
    children = children_of(condition)
    if children:
        parts = [explain(child, program, record, now, path + step) for step, child in children]
        truths = [part.holds for part in parts]
        step = children[0][0]
        holds = not truths[0] if step == ".not" else all(truths) if step.startswith(".all") else any(truths)
        return Reason(path=path, says=says, holds=holds, parts=parts)
    if isinstance(condition, MemberLeaf):
        other = program.definitions.get(condition.segment)
        if other is None:
            return Reason(path=path, says=says, holds=False)
        inside = explain(other.condition, program, record, now)
        return Reason(path=path, says=says, holds=inside.holds, parts=[inside])
    leaf = program.leaves[leaf_id(condition)]
    mask, until = leaf.truth(record, scopes_of(tuple(record.origins)), now)
    holds = bool(mask & 1)
    value: Any = None
    looked_at = leaf
    if isinstance(condition, TraitLeaf):
        value = getter(condition.trait)(record.traits)
        name = computed_in(condition.trait)
        trait = None if name is None else program.traits.get(f"trait:{name}")
        if trait is not None:
            looked_at = trait.leaves[0]
            until = _until(leaf, holds, trait, record, now)
    because = _evidence(looked_at, record, now)
    return Reason(path=path, says=says, holds=holds, until=until, because=because, value=value)


@dataclass
class _Known:
    """A customer of whom nothing but these traits is known."""

    id: str
    traits: dict[str, Any]
    leaves: Mapping[str, Buckets]


def _until(leaf: Leaf, holds: bool, trait: CompiledTrait, record: Record, now: Millis) -> Millis | None:
    """The first moment after ``now`` when ``trait``, by time alone, is worth what ``leaf`` says otherwise of."""
    scopes = scopes_of(tuple(record.origins))
    _, moment = trait.value(record, now)
    while moment is not None:
        value, following = trait.value(record, moment)
        there = {} if value is None else {trait.name: value}
        mask, _ = leaf.truth(_Known(record.id, {COMPUTED: there}, {}), scopes, moment)
        if bool(mask & 1) is not holds:
            return moment
        moment = following
    return None


def _evidence(leaf: Leaf, record: Record, now: Millis) -> list[Evidence]:
    # What was first or last, and what came before a restart, may lie outside of the window: it is why, too.
    needed = leaf.needs(now)
    found = []
    for origin, pairs in (record.leaves.get(leaf.id) or {}).items():
        source, _, channel = origin.partition("|")
        for time, text in pairs:
            if needed is None or time >= needed:
                found.append(Evidence(time=time, id=leaf.message_id(text), source=source, channel=channel))
    return sorted(found, key=lambda each: -each.time)[:MOST]
