"""A partner's segments, compiled for fan-out's hot path."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pipeline.models.control import Segment, Trait
from pipeline.models.segment import AllOf, AnyOf, Condition, MemberLeaf, Not
from pipeline.segments.computed import CompiledTrait
from pipeline.segments.filters import Getter, getter
from pipeline.segments.leaf import Leaf, Matcher, leaf_of
from pipeline.segments.meaning import leaf_id

__all__ = ["CompiledSegment", "Matchers", "Program"]

#: Truth of each leaf (id -> mask of scopes), mask of all scopes -> mask of the scopes where a condition holds. What is
#: found out of segments that others are made of is put beside the leaves: a dict serves one customer and moment.
_Holds = Callable[[dict[str, int], int], int]


class CompiledSegment:
    """A segment's condition: its leaves, and ``holds(truths, all)``, the mask of the scopes where it holds.

    Another segment that it is made of stands in it by its condition, so it is as exact as any. ``since``:
    the moment (ms) when it, or one that it is made of, went live as it is. ``on_nothing``: it may hold for a customer
    who did none of what its leaves ask about.
    """

    __slots__ = ("holds", "id", "leaves", "on_nothing", "since", "version")

    def __init__(self, segment: Segment, program: Program) -> None:
        own: dict[str, Leaf] = {}
        self.id = segment.id
        self.version = segment.version
        self.since = segment.since
        self.holds: _Holds = self._compile(segment.condition, program, own)
        self.leaves = list(own.values())
        # A leaf that may hold for nothing is taken as one that does: too many are looked at, never too few.
        nothing = {leaf.id: int(leaf.on_nothing) for leaf in self.leaves}
        random = any(leaf.on_nothing and not leaf.matchers for leaf in self.leaves)
        self.on_nothing = random or bool(self.holds(nothing, 1))
        for leaf in self.leaves:
            leaf.segments.append(self)

    def _compile(self, node: Condition, program: Program, own: dict[str, Leaf]) -> _Holds:
        if isinstance(node, Not):
            inner = self._compile(node.not_, program, own)
            return lambda truths, everywhere: everywhere & ~inner(truths, everywhere)
        if isinstance(node, AllOf):
            return _all([self._compile(child, program, own) for child in node.all])
        if isinstance(node, AnyOf):
            return _any([self._compile(child, program, own) for child in node.any])
        if isinstance(node, MemberLeaf):
            other = program.segment(node.segment)
            if other is None:
                return _never  # the control log refuses it
            self.since = max(self.since, other.since)
            own.update((leaf.id, leaf) for leaf in other.leaves)
            return _member(other)
        key = leaf_id(node)
        leaf = program.leaves.get(key)
        if leaf is None:
            leaf = program.leaves[key] = leaf_of(node)
        own[key] = leaf
        return lambda truths, everywhere: truths[key]


def _member(other: CompiledSegment) -> _Holds:
    """Of another segment: computed once for all who name it, however often they do."""
    key = f"segment:{other.id}"

    def holds(truths: dict[str, int], everywhere: int) -> int:
        mask = truths.get(key)
        if mask is None:
            mask = truths[key] = other.holds(truths, everywhere)
        return mask

    return holds


def _never(truths: dict[str, int], everywhere: int) -> int:
    return 0


def _all(parts: list[_Holds]) -> _Holds:
    if len(parts) == 1:
        return parts[0]

    def holds(truths: dict[str, int], everywhere: int) -> int:
        mask = everywhere
        for part in parts:
            mask &= part(truths, everywhere)
        return mask

    return holds


def _any(parts: list[_Holds]) -> _Holds:
    if len(parts) == 1:
        return parts[0]

    def holds(truths: dict[str, int], everywhere: int) -> int:
        mask = 0
        for part in parts:
            mask |= part(truths, everywhere)
        return mask

    return holds


class _Index:
    """What is kept of one event name, matchers with an ``equals`` on text found by the text instead of one by one."""

    __slots__ = ("by_value", "rest")

    def __init__(self) -> None:
        self.rest: list[Matcher] = []
        self.by_value: dict[str, tuple[Getter, dict[str, list[Matcher]]]] = {}

    def add(self, matcher: Matcher) -> None:
        for condition in matcher.where:
            if condition.op == "equals" and type(condition.value) is str and condition.cast is None:
                path = condition.property
                _, values = self.by_value.setdefault(path, (getter(path), {}))
                values.setdefault(condition.value, []).append(matcher)
                return
        self.rest.append(matcher)

    def candidates(self, properties: dict[str, Any] | None) -> list[Matcher]:
        if not self.by_value or not properties:
            return self.rest
        found = self.rest
        for get, values in self.by_value.values():
            value = get(properties)
            if type(value) is str and value in values:
                found = found + values[value]
        return found


class Matchers:
    """What of some leaves counts an event; ``by_event``: by its name."""

    __slots__ = ("_index", "by_event")

    def __init__(self, leaves: Iterable[Leaf]) -> None:
        self.by_event: dict[str, list[Matcher]] = {}
        self._index: dict[str, _Index] = {}
        for leaf in leaves:
            for matcher in leaf.matchers:
                self.by_event.setdefault(matcher.event, []).append(matcher)
                self._index.setdefault(matcher.event, _Index()).add(matcher)

    def of(self, name: str, source: str, channel: str, properties: dict[str, Any] | None) -> list[Matcher]:
        """Those that count this event."""
        index = self._index.get(name)
        if index is None:
            return []
        return [
            matcher
            for matcher in index.candidates(properties)
            if (matcher.source is None or matcher.source == source)
            and (matcher.channel is None or matcher.channel == channel)
            and matcher.matches(properties)
        ]


class Program:
    """The segments and computed traits of one partner, compiled; immutable. Archived segments are left out.

    ``matching``: `Matchers.of` all of them. ``by_trait``: the first part of a trait's path -> the segments that look
    at it. ``segments``: id -> compiled. ``leaves``: id -> leaf. ``on_nothing``: the segments that may hold for
    customers without any leaf state. ``definitions``: id -> as written. ``traits``: id -> compiled.
    """

    __slots__ = ("_making", "by_trait", "definitions", "leaves", "matching", "on_nothing", "segments", "traits")

    def __init__(self, segments: Iterable[Segment], traits: Iterable[Trait] = ()) -> None:
        self.definitions = {segment.id: segment for segment in segments if not segment.archived}
        self.leaves: dict[str, Leaf] = {}
        self.segments: dict[str, CompiledSegment] = {}
        self._making: set[str] = set()
        for name in self.definitions:
            self.segment(name)
        self.traits: dict[str, CompiledTrait] = {}
        for trait in traits:
            compiled = CompiledTrait(trait, self.leaves)
            self.traits[compiled.id] = compiled
        self.matching = Matchers(self.leaves.values()).of
        self.by_trait: dict[str, list[CompiledSegment]] = {}
        for leaf in self.leaves.values():
            if leaf.trait is not None:
                for name in {leaf.trait, leaf.trait.partition(".")[0]}:
                    users = (user for user in leaf.segments if isinstance(user, CompiledSegment))
                    self.by_trait.setdefault(name, []).extend(users)
        self.on_nothing = [segment for segment in self.segments.values() if segment.on_nothing]

    def segment(self, name: str) -> CompiledSegment | None:
        """Compiled, once; None where there is none, or where it would be made of itself."""
        made = self.segments.get(name)
        definition = self.definitions.get(name)
        if made is None and definition is not None and name not in self._making:
            self._making.add(name)
            made = self.segments[name] = CompiledSegment(definition, self)
        return made
