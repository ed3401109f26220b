"""A condition in English, for people who check what they built."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pipeline.models.segment import (
    AggregateLeaf,
    AllOf,
    AnyOf,
    BucketLeaf,
    Compare,
    Condition,
    Count,
    CountLeaf,
    DaysLeaf,
    Did,
    Filter,
    FirstLeaf,
    LastLeaf,
    MemberLeaf,
    Not,
    RestartLeaf,
    SequenceLeaf,
    TraitLeaf,
)
from pipeline.models.window import Between, Window

__all__ = ["describe"]

_UNITS = {"ms": "millisecond", "s": "second", "m": "minute", "h": "hour", "d": "day"}
_KINDS = {"sum": "the sum", "min": "the least", "max": "the greatest"}
_OPS = {
    "equals": "is",
    "not_equals": "is not",
    "in": "is one of",
    "contains": "contains",
    ">": "is more than",
    ">=": "is at least",
    "<": "is less than",
    "<=": "is at most",
}


def describe(condition: Condition, sources: Mapping[str, str] | None = None) -> str:
    """One sentence without its full stop; ``sources``: source id -> name."""
    return f"Customers who {_say(condition, sources or {})}"


def _say(node: Condition, sources: Mapping[str, str]) -> str:
    if isinstance(node, Not):
        inner = node.not_
        if isinstance(inner, CountLeaf) and inner.count == Count():
            return _leaf(inner, "never did", "", sources)
        return f"not ({_say(inner, sources)})"
    if isinstance(node, AllOf):
        return " and ".join(_part(child, AnyOf, sources) for child in node.all)
    if isinstance(node, AnyOf):
        return " or ".join(_part(child, AllOf, sources) for child in node.any)
    return _say_leaf(node, sources)


def _say_leaf(leaf: Condition, sources: Mapping[str, str]) -> str:
    if isinstance(leaf, CountLeaf):
        if leaf.count in (Count(op="=", value=0), Count(op="<", value=1), Count(op="<=", value=0)):
            return _leaf(leaf, "never did", "", sources)
        return _leaf(leaf, "did", f" {_count(leaf.count)}", sources)
    if isinstance(leaf, FirstLeaf | LastLeaf):
        when, did = ("first", leaf.first) if isinstance(leaf, FirstLeaf) else ("last", leaf.last)
        return f"{when} did {_did(did, sources)}{_when(leaf)}"
    if isinstance(leaf, DaysLeaf):
        days = _count(leaf.count).replace("once", "1 day").replace("twice", "2 days").replace(" times", " days")
        return f"did {_did(leaf.days, sources)} on {days}{_window(leaf.window)}"
    if isinstance(leaf, SequenceLeaf):
        steps = ", then ".join(_did(step, sources) for step in leaf.sequence)
        within = "" if leaf.within is None else f", all within {_duration(leaf.within)}"
        return f"did {steps}{within}{_window(leaf.window, ', the last')}"
    if isinstance(leaf, RestartLeaf):
        again = _window(leaf.window, ", and that")
        return f"did {_did(leaf.restarted, sources)} again after {_duration(leaf.after)} or more without{again}"
    if isinstance(leaf, AggregateLeaf):
        of = f"{_KINDS[leaf.aggregate]} of {leaf.property} of {_did(leaf.of, sources)}{_window(leaf.window)}"
        return f"have {of} {_compare(leaf.is_)}"
    if isinstance(leaf, TraitLeaf):
        return f"have a trait: {_test(leaf, leaf.trait)}"
    if isinstance(leaf, MemberLeaf):
        return f"are in segment {leaf.segment}"
    assert isinstance(leaf, BucketLeaf)
    return f"are in the {leaf.bucket.from_:g} % to {leaf.bucket.to:g} % of “{leaf.bucket.salt}”"


def _part(node: Condition, other: type[AllOf] | type[AnyOf], sources: Mapping[str, str]) -> str:
    """In brackets where `and` and `or` would otherwise stand side by side."""
    text = _say(node, sources)
    return f"({text})" if isinstance(node, other) and " " in text else text


def _leaf(leaf: CountLeaf, verb: str, count: str, sources: Mapping[str, str]) -> str:
    return f"{verb} {_did(leaf, sources)}{count}{_window(leaf.window)}"


def _did(did: Did, sources: Mapping[str, str]) -> str:
    text = f"“{did.event}”"
    if did.where:
        text += " where " + " and ".join(_test(test, test.property) for test in did.where)
    if did.source is not None:
        text += f" in {sources.get(did.source, did.source)}"
    if did.channel is not None:
        text += f" on channel {did.channel}"
    return text


def _test(condition: Filter | TraitLeaf, name: str) -> str:
    value = condition.value
    if condition.op == "exists":
        return f"{name} is present" if value else f"{name} is missing"
    values = value if condition.op == "in" else [value]
    cast = "" if condition.cast is None else f" (as {condition.cast})"
    return f"{name}{cast} {_OPS[condition.op]} {', '.join(map(_value, values))}"


def _value(value: Any) -> str:
    return f"“{value}”" if isinstance(value, str) else json.dumps(value)


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _count(count: Count) -> str:
    if count.op == "between":
        return f"{count.value} to {count.to} times"
    if count.op == ">":
        return f"more than {_times(count.value)}"
    if count.op == "<":
        return f"less than {_times(count.value)}"
    words = {">=": "at least", "=": "exactly", "<=": "at most"}
    return f"{words[count.op]} {_times(count.value)}"


def _compare(compare: Compare) -> str:
    if compare.op == "between":
        return f"between {compare.value:g} and {compare.to:g}"
    words = {">=": "of at least", ">": "of more than", "=": "of exactly", "<=": "of at most", "<": "of less than"}
    return f"{words[compare.op]} {compare.value:g}"


def _when(leaf: FirstLeaf | LastLeaf) -> str:
    if leaf.within is not None:
        return _window(leaf.within)
    assert leaf.before is not None
    return ", before" + _window(leaf.before).removeprefix(" in").removeprefix(" between")


def _duration(text: str) -> str:
    match = re.fullmatch(r"(\d+)(\D+)", text)
    assert match is not None
    number, unit = int(match[1]), _UNITS[match[2]]
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def _window(window: Window, before: str = "") -> str:
    """`` in the last 7 days``, after ``before``; nothing where it has no end."""
    if window.rolling is not None:
        return f"{before} in the last {_duration(window.rolling).removeprefix('1 ')}"
    if window.calendar is not None:
        days, zone = window.calendar.days, window.calendar.zone
        which = "today" if days == 1 else f"in the last {days} calendar days"
        return f"{before} {which} ({zone})"
    if window.between is not None:
        return before + _between(window.between)
    return ""


def _between(between: Between) -> str:
    dates = any(text is not None and len(text) == 10 for text in (between.from_, between.to))
    zone = f" ({between.zone})" if dates else ""
    if between.from_ is None:
        return f" until {between.to}{zone}"
    if between.to is None:
        return f" since {between.from_}{zone}"
    return f" between {between.from_} and {between.to}{zone}"
