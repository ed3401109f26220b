"""Checks of a condition that its model cannot make alone: against the catalogue of events, and for sense."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple

from pipeline.models.segment import (
    AggregateLeaf,
    AllOf,
    AnyOf,
    BucketLeaf,
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
    children_of,
    dids_of,
    leaves_of,
)
from pipeline.models.trait import Computation, computed_in
from pipeline.models.window import Window
from pipeline.segments.leaf import leaf_of
from pipeline.segments.meaning import UNLIMITED, bounds
from pipeline.segments.spans import known_zone

__all__ = ["Catalogue", "Fault", "validate", "validate_computation"]

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


def validate(
    condition: Condition, catalogue: Catalogue, root: str = "$.condition", computed: Collection[str] | None = None
) -> list[Fault]:
    """The faults of ``condition``, in the order of its text.

    Events that are not in the catalogue are the partner's own: a warning, and their properties are not checked.
    ``computed``: ids of the partner's computed traits, None: they are not checked.
    """
    faults = list(_check(condition, catalogue, root))
    if computed is not None:
        faults += _check_computed(condition, computed, root)
    if _on_nothing(condition):
        message = (
            "holds for customers who did none of this: it counts all known customers, and under a source or a "
            "channel those who were seen there"
        )
        faults.append(Fault(root, "note", message))
    return faults


def validate_computation(computation: Computation, catalogue: Catalogue, root: str = "$.computation") -> list[Fault]:
    """As `validate`, of a computed trait."""
    faults = list(_check_did(computation.of, catalogue, f"{root}.of"))
    faults += _check_window(computation.window, f"{root}.window")
    faults += _check_number(computation, catalogue, root)
    return faults


def _check_computed(condition: Condition, computed: Collection[str], root: str) -> Iterator[Fault]:
    for path, leaf in leaves_of(condition, root):
        name = computed_in(leaf.trait) if isinstance(leaf, TraitLeaf) else None
        if name is not None and name not in computed:
            message = f"there is no computed trait {name!r}{_meant(name, computed)}; nobody has a value"
            yield Fault(f"{path}.trait", "warning", message)


def _on_nothing(node: Condition) -> bool:
    if isinstance(node, AllOf):
        return all(map(_on_nothing, node.all))
    if isinstance(node, AnyOf):
        return any(map(_on_nothing, node.any))
    if isinstance(node, Not):
        return not _on_nothing(node.not_)
    # Of another segment it is said where that one is made; of chance it need not be said.
    return not isinstance(node, MemberLeaf | BucketLeaf) and leaf_of(node).on_nothing


def _check(node: Condition, catalogue: Catalogue, path: str) -> Iterator[Fault]:
    children = children_of(node)
    for step, child in children:
        yield from _check(child, catalogue, path + step)
    if children:
        return
    for step, did in dids_of(node):
        yield from _check_did(did, catalogue, path + step)
    for step, window in _windows(node):
        yield from _check_window(window, path + step)
    if isinstance(node, CountLeaf | DaysLeaf):
        yield from _check_count(node.count, f"{path}.count")
    if isinstance(node, DaysLeaf) and node.window.calendar and bounds(node.count)[0] > node.window.calendar.days:
        yield Fault(
            f"{path}.count", "warning", f"never holds: there are {node.window.calendar.days} days in the window"
        )
    if isinstance(node, AggregateLeaf):
        yield from _check_number(node, catalogue, path)
    if isinstance(node, TraitLeaf):
        yield from _check_values(node, path)


def _windows(leaf: Condition) -> Iterator[tuple[str, Window]]:
    if isinstance(leaf, FirstLeaf | LastLeaf):
        if leaf.within is not None:
            yield ".within", leaf.within
        if leaf.before is not None:
            yield ".before", leaf.before
    elif isinstance(leaf, CountLeaf | AggregateLeaf | DaysLeaf | SequenceLeaf | RestartLeaf):
        yield ".window", leaf.window


def _check_window(window: Window, path: str) -> Iterator[Fault]:
    for name, part in (("calendar", window.calendar), ("between", window.between)):
        if part is not None and not known_zone(part.zone):
            message = f"there is no time zone {part.zone!r}; write an IANA name, e.g. Europe/Berlin"
            yield Fault(f"{path}.{name}.zone", "error", message)


def _check_did(did: Did, catalogue: Catalogue, path: str) -> Iterator[Fault]:
    properties = catalogue.get(did.event)
    if properties is None:
        yield Fault(
            f"{path}.event",
            "warning",
            f"event {did.event!r} is not in the catalogue{_meant(did.event, catalogue)}",
        )
    for i, condition in enumerate(did.where):
        where = f"{path}.where[{i}]"
        unsound = list(_check_values(condition, where))
        yield from unsound
        if properties is not None and not unsound:
            yield from _check_filter(condition, did.event, properties, where)


def _check_count(count: Count, path: str) -> Iterator[Fault]:
    least, most = bounds(count)
    if most < 0:
        yield Fault(path, "warning", "never holds: no count is less than 0")
    elif least == 0 and most == UNLIMITED:
        yield Fault(path, "warning", "always holds: every count is at least 0")


def _check_number(leaf: AggregateLeaf | Computation, catalogue: Catalogue, path: str) -> Iterator[Fault]:
    """The property is there, and a number."""
    properties = catalogue.get(leaf.of.event)
    if properties is None or leaf.property is None:
        return
    kind = properties.get(leaf.property)
    if kind is None:
        yield from _unknown_property(leaf.property, leaf.of.event, properties, f"{path}.property")
    elif kind not in ("number", "integer") and not (kind == "string" and leaf.cast) and kind in _OPS:
        wanted = "; say `cast: number` to read its text as numbers" if kind == "string" else ""
        message = f"{leaf.property!r} is of type {kind}: no number is made of it{wanted}"
        yield Fault(f"{path}.property", "error", message)


def _meant(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _values(condition: Filter | TraitLeaf, path: str) -> Iterator[tuple[str, Any]]:
    if condition.op == "in":
        for i, value in enumerate(condition.value):
            yield f"{path}.value[{i}]", value
    elif condition.op != "exists":
        yield f"{path}.value", condition.value


def _check_values(condition: Filter | TraitLeaf, path: str) -> Iterator[Fault]:
    for where, value in _values(condition, path):
        if type(value) not in _KINDS:
            yield Fault(where, "error", "compare with text, a number, true or false")
        elif type(value) in (int, float) and not (math.isfinite(value) and abs(value) < 2**63):
            yield Fault(where, "error", "the number is out of range (64 bits)")


def _check_filter(condition: Filter, event: str, properties: Mapping[str, str], path: str) -> Iterator[Fault]:
    name, op = condition.property, condition.op
    kind = properties.get(name)
    if kind is None:
        yield from _unknown_property(name, event, properties, f"{path}.property")
        return
    if condition.cast is not None:
        return  # what it is read as decides, not what it is
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


def _unknown_property(name: str, event: str, properties: Mapping[str, str], path: str) -> Iterator[Fault]:
    parent, dotted, _ = name.partition(".")
    if dotted and parent in properties:
        if properties[parent] in _OPS and properties[parent] != "object":
            yield Fault(path, "error", f"{parent!r} is no object: it has nothing inside")
    else:
        message = f"{event!r} has no property {name!r} in the catalogue{_meant(name, properties)}"
        yield Fault(path, "warning", message)
