"""A condition in English, for people who check what they built."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pipeline.models.segment import AllOf, AnyOf, Condition, Count, CountLeaf, Filter, Not, Window

__all__ = ["describe"]

_UNITS = {"ms": "millisecond", "s": "second", "m": "minute", "h": "hour", "d": "day"}
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
    if node.count in (Count(op="=", value=0), Count(op="<", value=1), Count(op="<=", value=0)):
        return _leaf(node, "never did", "", sources)
    return _leaf(node, "did", f" {_count(node.count)}", sources)


def _part(node: Condition, other: type[AllOf] | type[AnyOf], sources: Mapping[str, str]) -> str:
    """In brackets where `and` and `or` would otherwise stand side by side."""
    text = _say(node, sources)
    return f"({text})" if isinstance(node, other) and " " in text else text


def _leaf(leaf: CountLeaf, verb: str, count: str, sources: Mapping[str, str]) -> str:
    text = f"{verb} “{leaf.event}”"
    if leaf.where:
        text += " where " + " and ".join(map(_filter, leaf.where))
    if leaf.source is not None:
        text += f" in {sources.get(leaf.source, leaf.source)}"
    if leaf.channel is not None:
        text += f" on channel {leaf.channel}"
    return text + count + _window(leaf.window)


def _filter(condition: Filter) -> str:
    name, value = condition.property, condition.value
    if condition.op == "exists":
        return f"{name} is present" if value else f"{name} is missing"
    values = value if condition.op == "in" else [value]
    return f"{name} {_OPS[condition.op]} {', '.join(map(_value, values))}"


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


def _window(window: Window) -> str:
    match = re.fullmatch(r"(\d+)(\D+)", window.rolling or "")
    if not match:
        return ""
    number, unit = int(match[1]), _UNITS[match[2]]
    return f" in the last {unit}" if number == 1 else f" in the last {number} {unit}s"
