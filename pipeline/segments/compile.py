"""A partner's segments, compiled for fan-out's hot path.

State of a leaf (kept by the customer's record): origin ``<source>|<channel>`` -> the k newest (event time, message
id) pairs, newest first. It is a set, never a counter: replays, duplicates, late events and merges are all "top k of
the union". Pairs of one source are one event when time and id are equal; pairs of different sources never are.

Rolling window W: a pair counts while ``time >= now - W``, so it is still in at exactly ``time + W`` and out one
millisecond later.
"""

from __future__ import annotations

import json
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any

from pipeline.models.control import Segment
from pipeline.models.segment import AllOf, AnyOf, Count, CountLeaf, Filter, Not
from pipeline.segments.filters import Getter, Predicate, compile_filters, getter
from pipeline.segments.scopes import Scopes

__all__ = ["UNLIMITED", "Buckets", "CompiledSegment", "Leaf", "Pair", "Program", "bounds", "leaf_id"]

#: (event time in ms, message id)
Pair = tuple[int, str]
#: Origin -> its newest pairs, newest first.
Buckets = dict[str, list[Pair]]
#: Truth of each leaf (id -> mask of scopes), mask of all scopes -> mask of the scopes where a condition holds.
_Holds = Callable[[Mapping[str, int], int], int]

#: "Most" of a count without an upper bound.
UNLIMITED = sys.maxsize


def bounds(count: Count) -> tuple[int, int]:
    """Least and most, inclusive; all of ``count``'s operators are such an interval (``< 0`` an empty one)."""
    value = count.value
    if count.op == ">=":
        return value, UNLIMITED
    if count.op == ">":
        return value + 1, UNLIMITED
    if count.op == "=":
        return value, value
    if count.op == "<=":
        return 0, value
    if count.op == "<":
        return 0, value - 1
    return value, value if count.to is None else count.to


def _number(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


def _canonical(condition: Filter) -> str:
    value = condition.value
    if condition.op == "in":
        # As JSON text, so that `1` and `true` stay two values.
        value = sorted({json.dumps(_number(item), sort_keys=True) for item in value})
    return json.dumps([condition.property, condition.op, _number(value)], sort_keys=True)


def leaf_id(leaf: CountLeaf) -> str:
    """16 hex characters of a hash of what the leaf means, not of how it is written.

    Defaults are filled in, filters are sorted, operators become an interval (``> 1`` is ``>= 2``), durations
    milliseconds: equal meaning, equal id, one state. Any other edit makes a new id, whose state starts empty.
    """
    least, most = bounds(leaf.count)
    meaning = [
        leaf.event,
        sorted({_canonical(condition) for condition in leaf.where}),
        leaf.source,
        leaf.channel,
        least,
        None if most == UNLIMITED else most,
        leaf.window.ms,
    ]
    return blake2b(json.dumps(meaning).encode(), digest_size=8).hexdigest()


class Leaf:
    """One count leaf. Identical leaves of different segments are one `Leaf`.

    ``event``, ``source``, ``channel``: the events it is about (None: any). ``matches(properties)``: its property
    filters. ``least``, ``most``: how many events are wanted, inclusive. ``k``: pairs to keep per origin, enough to
    tell every count in the interval from every one outside. ``window``: ms, None: ever. ``on_nothing``: it holds
    for no events at all. ``segments``: those that use it.
    """

    __slots__ = (
        "channel",
        "event",
        "id",
        "k",
        "least",
        "matches",
        "most",
        "on_nothing",
        "segments",
        "source",
        "window",
    )

    def __init__(self, leaf: CountLeaf) -> None:
        self.id = leaf_id(leaf)
        self.event = leaf.event
        self.source = leaf.source
        self.channel = leaf.channel
        self.matches: Predicate = compile_filters(leaf.where)
        self.least, self.most = bounds(leaf.count)
        self.k = self.least if self.most == UNLIMITED else self.most + 1
        self.window = leaf.window.ms
        self.on_nothing = self.least == 0 <= self.most
        self.segments: list[CompiledSegment] = []

    def truth(self, buckets: Buckets | None, scopes: Scopes, now: int) -> tuple[int, int | None]:
        """Mask of the scopes where it holds at ``now``, and the first later moment when time alone alters it.

        The moment is exact (None: never): until then the mask stays unless an event arrives.
        """
        if not buckets:
            return (scopes.all if self.on_nothing else 0), None
        if len(buckets) == 1:
            for origin, pairs in buckets.items():
                here = scopes.of[origin]
                held, flip = self._held(pairs, now)
                mask = here if held else 0
                return (mask | scopes.all & ~here if self.on_nothing else mask), flip
        mask = 0
        rest = scopes.all
        first: int | None = None
        for here, sources in scopes.groups(tuple(buckets)):
            held, flip = self._held(_union(buckets, sources), now)
            rest &= ~here
            if held:
                mask |= here
            if flip is not None and (first is None or flip < first):
                first = flip
        return (mask | rest if self.on_nothing else mask), first

    def _held(self, pairs: list[Pair], now: int) -> tuple[bool, int | None]:
        window = self.window
        count = len(pairs)
        if window is None:
            return self.least <= count <= self.most, None
        cutoff = now - window
        if pairs[-1][0] < cutoff:
            count = 0 if pairs[0][0] < cutoff else bisect_right(pairs, -cutoff, key=_age)
        least = self.least
        if count > self.most:
            last = pairs[self.most][0]
            # Of the same millisecond, they leave together and the count falls through the interval.
            through = least and pairs[least - 1][0] == last
            return False, None if through else last + window + 1
        if count >= least:
            return True, pairs[least - 1][0] + window + 1 if least else None
        return False, None


def _age(pair: Pair) -> int:
    return -pair[0]


def _union(buckets: Buckets, sources: tuple[tuple[str, ...], ...]) -> list[Pair]:
    """The pairs of these origins, newest first; ``sources``: origins grouped by source."""
    if len(sources) == 1 and len(sources[0]) == 1:
        return buckets[sources[0][0]]
    pairs: list[Pair] = []
    for origins in sources:
        if len(origins) == 1:
            pairs += buckets[origins[0]]
        else:
            pairs += set().union(*(buckets[origin] for origin in origins))
    pairs.sort(reverse=True)
    return pairs


class CompiledSegment:
    """A segment's condition: its leaves, and ``holds(truths, all)``, the mask of the scopes where it holds.

    ``on_nothing``: it holds for a customer who did none of what its leaves ask about (a pure negation).
    """

    __slots__ = ("holds", "id", "leaves", "on_nothing", "version")

    def __init__(self, segment: Segment, leaves: dict[str, Leaf]) -> None:
        own: dict[str, Leaf] = {}
        self.id = segment.id
        self.version = segment.version
        self.holds: _Holds = _compile(segment.condition, leaves, own)
        self.leaves = list(own.values())
        self.on_nothing = bool(self.holds({leaf.id: int(leaf.on_nothing) for leaf in self.leaves}, 1))
        for leaf in self.leaves:
            leaf.segments.append(self)


def _compile(node: Any, leaves: dict[str, Leaf], own: dict[str, Leaf]) -> _Holds:
    if isinstance(node, CountLeaf):
        leaf = Leaf(node)
        leaf = leaves.setdefault(leaf.id, leaf)
        own[leaf.id] = leaf
        key = leaf.id
        return lambda truths, everywhere: truths[key]
    if isinstance(node, Not):
        inner = _compile(node.not_, leaves, own)
        return lambda truths, everywhere: everywhere & ~inner(truths, everywhere)
    if isinstance(node, AllOf):
        return _all([_compile(child, leaves, own) for child in node.all])
    if isinstance(node, AnyOf):
        return _any([_compile(child, leaves, own) for child in node.any])
    raise TypeError(f"{type(node).__name__} is no condition")


def _all(parts: list[_Holds]) -> _Holds:
    if len(parts) == 1:
        return parts[0]

    def holds(truths: Mapping[str, int], everywhere: int) -> int:
        mask = everywhere
        for part in parts:
            mask &= part(truths, everywhere)
        return mask

    return holds


def _any(parts: list[_Holds]) -> _Holds:
    if len(parts) == 1:
        return parts[0]

    def holds(truths: Mapping[str, int], everywhere: int) -> int:
        mask = 0
        for part in parts:
            mask |= part(truths, everywhere)
        return mask

    return holds


class _Index:
    """The leaves of one event name, those with an ``equals`` on text found by the text instead of one by one."""

    __slots__ = ("by_value", "rest")

    def __init__(self) -> None:
        self.rest: list[Leaf] = []
        self.by_value: dict[str, tuple[Getter, dict[str, list[Leaf]]]] = {}

    def add(self, leaf: Leaf, where: Iterable[Filter]) -> None:
        for condition in where:
            if condition.op == "equals" and type(condition.value) is str:
                path = condition.property
                _, values = self.by_value.setdefault(path, (getter(path), {}))
                values.setdefault(condition.value, []).append(leaf)
                return
        self.rest.append(leaf)

    def candidates(self, properties: dict[str, Any] | None) -> list[Leaf]:
        if not self.by_value or not properties:
            return self.rest
        found = self.rest
        for get, values in self.by_value.values():
            value = get(properties)
            if type(value) is str and value in values:
                found = found + values[value]
        return found


class Program:
    """The segments of one partner, compiled; immutable. Archived segments are left out.

    ``by_event``: event name -> its leaves. ``segments``: id -> compiled. ``leaves``: id -> leaf.
    ``on_nothing``: the segments that hold for customers without any leaf state.
    """

    __slots__ = ("_index", "by_event", "leaves", "on_nothing", "segments")

    def __init__(self, segments: Iterable[Segment]) -> None:
        self.leaves: dict[str, Leaf] = {}
        self.segments: dict[str, CompiledSegment] = {}
        self.by_event: dict[str, list[Leaf]] = {}
        self._index: dict[str, _Index] = {}
        for segment in segments:
            if not segment.archived:
                self.segments[segment.id] = CompiledSegment(segment, self.leaves)
                self._learn(segment.condition)
        self.on_nothing = [segment for segment in self.segments.values() if segment.on_nothing]

    def _learn(self, node: Any) -> None:
        """Put the leaves below ``node`` that are not there yet into the indexes."""
        if isinstance(node, Not):
            self._learn(node.not_)
        elif isinstance(node, (AllOf, AnyOf)):
            for child in node.all if isinstance(node, AllOf) else node.any:
                self._learn(child)
        elif isinstance(node, CountLeaf):
            leaf = self.leaves[leaf_id(node)]
            known = self.by_event.setdefault(leaf.event, [])
            if leaf not in known:
                known.append(leaf)
                self._index.setdefault(leaf.event, _Index()).add(leaf, node.where)

    def matching(self, name: str, source: str, channel: str, properties: dict[str, Any] | None) -> list[Leaf]:
        """The leaves that an event counts for."""
        index = self._index.get(name)
        if index is None:
            return []
        return [
            leaf
            for leaf in index.candidates(properties)
            if (leaf.source is None or leaf.source == source)
            and (leaf.channel is None or leaf.channel == channel)
            and leaf.matches(properties)
        ]
