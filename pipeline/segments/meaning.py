"""What a leaf means, however it is written: its id."""

from __future__ import annotations

import json
import sys
from hashlib import blake2b
from typing import Any

from pipeline.models.segment import (
    AggregateLeaf,
    BucketLeaf,
    Condition,
    Count,
    CountLeaf,
    DaysLeaf,
    Did,
    Filter,
    FirstLeaf,
    LastLeaf,
    RestartLeaf,
    SequenceLeaf,
    TraitLeaf,
)
from pipeline.models.trait import Computation
from pipeline.models.window import duration_ms
from pipeline.segments.spans import span_of

__all__ = ["UNLIMITED", "bounds", "kept_id", "leaf_id"]

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


def _canonical(condition: Filter | TraitLeaf, name: str) -> str:
    value = condition.value
    if condition.op == "in":
        # As JSON text, so that `1` and `true` stay two values.
        value = sorted({json.dumps(_number(item), sort_keys=True) for item in value})
    meaning = [name, condition.op, _number(value)]
    if condition.cast is not None:
        meaning.append(condition.cast)
    return json.dumps(meaning, sort_keys=True)


def _did(did: Did) -> list[Any]:
    where = sorted({_canonical(condition, condition.property) for condition in did.where})
    return [did.event, where, did.source, did.channel]


def _interval(count: Count) -> list[Any]:
    least, most = bounds(count)
    return [least, None if most == UNLIMITED else most]


def _meaning(leaf: Condition) -> list[Any]:
    if isinstance(leaf, CountLeaf):
        return [*_did(leaf), *_interval(leaf.count), span_of(leaf.window).meaning]
    if isinstance(leaf, FirstLeaf | LastLeaf):
        did, kind = (leaf.first, "first") if isinstance(leaf, FirstLeaf) else (leaf.last, "last")
        window = leaf.within or leaf.before
        assert window is not None
        return [kind, _did(did), leaf.before is not None, span_of(window).meaning]
    if isinstance(leaf, AggregateLeaf):
        compare = [leaf.is_.op, leaf.is_.value, leaf.is_.to]
        return [
            "aggregate",
            leaf.aggregate,
            leaf.property,
            leaf.cast,
            _did(leaf.of),
            compare,
            span_of(leaf.window).meaning,
        ]
    if isinstance(leaf, DaysLeaf):
        return ["days", _did(leaf.days), *_interval(leaf.count), span_of(leaf.window).meaning]
    if isinstance(leaf, SequenceLeaf):
        within = None if leaf.within is None else duration_ms(leaf.within)
        return ["sequence", [_did(step) for step in leaf.sequence], within, span_of(leaf.window).meaning]
    if isinstance(leaf, RestartLeaf):
        return ["restarted", _did(leaf.restarted), duration_ms(leaf.after), span_of(leaf.window).meaning]
    if isinstance(leaf, TraitLeaf):
        return ["trait", _canonical(leaf, leaf.trait)]
    if isinstance(leaf, BucketLeaf):
        return ["bucket", leaf.bucket.salt, leaf.bucket.from_, leaf.bucket.to]
    raise TypeError(f"{type(leaf).__name__} is no leaf")


def leaf_id(leaf: Condition) -> str:
    """16 hex characters of a hash of what the leaf means, not of how it is written. Raises TypeError for what is none.

    Defaults are filled in, filters are sorted, operators become an interval (``> 1`` is ``>= 2``), durations
    milliseconds: equal meaning, equal id, one state. Any other edit makes a new id, whose state starts empty.
    """
    return blake2b(json.dumps(_meaning(leaf)).encode(), digest_size=8).hexdigest()


def kept_id(computation: Computation) -> str:
    """As `leaf_id`, of what is kept for a computed trait: what is made of it is no part of that."""
    kept = {"first": "first", "last": "last", "days": "days", "count": "events"}.get(computation.compute, "numbers")
    meaning = [
        "computed",
        kept,
        _did(computation.of),
        computation.property,
        computation.cast,
        span_of(computation.window).meaning,
    ]
    return blake2b(json.dumps(meaning).encode(), digest_size=8).hexdigest()
