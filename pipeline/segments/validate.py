"""Checks of a condition that its model cannot make alone: against the catalogue of events, and for sense."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple

from pipeline.models.segment import AllOf, AnyOf, Condition, CountLeaf, Filter, Not
from pipeline.segments.compile import UNLIMITED, bounds

__all__ = ["Catalogue", "Fault", "validate"]

#: Event name -> property -> type: string, number, integer, boolean, array or object; others are not checked.
Catalogue = Mapping[str, Mapping[str, str]]

_ORDER = frozenset({">", ">=", "<", "<="})
_SAME = frozenset({"equals", "not_equals", "in", "exists"})
#: Property type -> the operators that can hold for it.
_OPS: dict[str, frozenset[str]] = {
    "string": _SAME | {"contains"},
    "number": _SAME | _ORDER,
    "integer": _SAME | _ORDER,
    "boolean": _SAME,
    "array": frozenset({"contains", "exists"}),
    "object": frozenset({"exists"}),
}
_KINDS: dict[type, str] = {str: "text", int: "a number", float: "a number", bool: "true or false"}
_WANTED = {"string": "text", "number": "a number", "integer": "a number", "boolean": "true or false"}


class Fault(NamedTuple):
    """``path`` reads like ``$.condition.all[0].where[1].value``.

    ``level``: an error is refused; a warning is probably not what was meant; a note is worth knowing.
    """

    path: str
    level: Literal["error", "warning", "note"]
    message: str


def validate(condition: Condition, catalogue: Catalogue, root: str = "$.condition") -> list[Fault]:
    """The faults of ``condition``, in the order of its text.

    Events that are not in the catalogue are the partner's own: a warning, and their properties are not checked.
    """
    faults = list(_check(condition, catalogue, root))
    if _on_nothing(condition):
        message = (
            "holds for customers who did none of this: it counts all known customers, and under a source or a "
            "channel those who were seen there"
        )
        faults.append(Fault(root, "note", message))
    return faults


def _on_nothing(node: Condition) -> bool:
    if isinstance(node, AllOf):
        return all(map(_on_nothing, node.all))
    if isinstance(node, AnyOf):
        return any(map(_on_nothing, node.any))
    if isinstance(node, Not):
        return not _on_nothing(node.not_)
    least, most = bounds(node.count)
    return least == 0 <= most


def _check(node: Condition, catalogue: Catalogue, path: str) -> Iterator[Fault]:
    if isinstance(node, Not):
        yield from _check(node.not_, catalogue, f"{path}.not")
    elif isinstance(node, AllOf):
        for i, child in enumerate(node.all):
            yield from _check(child, catalogue, f"{path}.all[{i}]")
    elif isinstance(node, AnyOf):
        for i, child in enumerate(node.any):
            yield from _check(child, catalogue, f"{path}.any[{i}]")
    else:
        yield from _check_leaf(node, catalogue, path)


def _check_leaf(leaf: CountLeaf, catalogue: Catalogue, path: str) -> Iterator[Fault]:
    properties = catalogue.get(leaf.event)
    if properties is None:
        yield Fault(
            f"{path}.event",
            "warning",
            f"event {leaf.event!r} is not in the catalogue{_meant(leaf.event, catalogue)}",
        )
    for i, condition in enumerate(leaf.where):
        where = f"{path}.where[{i}]"
        unsound = list(_check_values(condition, where))
        yield from unsound
        if properties is not None and not unsound:
            yield from _check_filter(condition, leaf.event, properties, where)
    least, most = bounds(leaf.count)
    if most < 0:
        yield Fault(f"{path}.count", "warning", "never holds: no count is less than 0")
    elif least == 0 and most == UNLIMITED:
        yield Fault(f"{path}.count", "warning", "always holds: every count is at least 0")


def _meant(name: str, known: Mapping[str, object]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _values(condition: Filter, path: str) -> Iterator[tuple[str, Any]]:
    if condition.op == "in":
        for i, value in enumerate(condition.value):
            yield f"{path}.value[{i}]", value
    elif condition.op != "exists":
        yield f"{path}.value", condition.value


def _check_values(condition: Filter, path: str) -> Iterator[Fault]:
    for where, value in _values(condition, path):
        if type(value) not in _KINDS:
            yield Fault(where, "error", "compare with text, a number, true or false")
        elif type(value) in (int, float) and not (math.isfinite(value) and abs(value) < 2**63):
            yield Fault(where, "error", "the number is out of range (64 bits)")


def _check_filter(condition: Filter, event: str, properties: Mapping[str, str], path: str) -> Iterator[Fault]:
    name, op = condition.property, condition.op
    kind = properties.get(name)
    if kind is None:
        parent, dotted, _ = name.partition(".")
        if dotted and parent in properties:
            if properties[parent] in _OPS and properties[parent] != "object":
                yield Fault(f"{path}.property", "error", f"{parent!r} is no object: it has nothing inside")
        else:
            message = f"{event!r} has no property {name!r} in the catalogue{_meant(name, properties)}"
            yield Fault(f"{path}.property", "warning", message)
        return
    if kind not in _OPS:
        return
    if op not in _OPS[kind]:
        can = ", ".join(sorted(_OPS[kind]))
        yield Fault(f"{path}.op", "error", f"{name!r} is of type {kind}: `{op}` never holds; use one of {can}")
        return
    wanted = _WANTED.get(kind)
    for where, value in _values(condition, path):
        if wanted and _KINDS[type(value)] != wanted:
            yield Fault(where, "error", f"{name!r} is of type {kind}: compare with {wanted}, not {_KINDS[type(value)]}")
