"""What rules may say of an event: the properties that it is declared with, their values, a sample of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pipeline.models.catalogue import EventType, Property
from pipeline.models.control import Restriction

__all__ = ["Fault", "check_restrictions", "sample"]

_WANTED: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "date-time": (str,),
    "number": (int, float),
    "integer": (int, float),
    "boolean": (bool,),
}
_SAMPLES: dict[str, Any] = {
    "string": "text",
    "number": 12.5,
    "integer": 1,
    "boolean": True,
    "array": [],
    "object": {},
    "date-time": "2026-01-31T12:00:00Z",
}


class Fault(NamedTuple):
    """``path`` reads like ``$.restrictions[0].values[1]``."""

    path: str
    message: str


def check_restrictions(restrictions: list[Restriction], name: str, declared: EventType | None) -> Iterator[Fault]:
    """What is wrong with restrictions on an event of this name; nothing is known of one that is not ``declared``."""
    if declared is None:
        return
    for at, restriction in enumerate(restrictions):
        path = f"$.restrictions[{at}]"
        known = declared.properties.get(restriction.property)
        if known is None:
            if restriction.property.partition(".")[0] not in declared.properties and not _is_fact(restriction.property):
                some = ", ".join(declared.properties) or "none"
                yield Fault(f"{path}.property", f"{name!r} has no property {restriction.property!r}; it has {some}")
            continue
        for index, value in enumerate(restriction.values):
            if message := _wrong(value, known):
                yield Fault(f"{path}.values[{index}]", f"{restriction.property!r} is {message}")


def _is_fact(path: str) -> bool:
    return path.startswith("@.")


def _wrong(value: Any, known: Property) -> str | None:
    kinds = _WANTED.get(known.type)
    if kinds is None:
        return f"of type {known.type}: it is never one of some values"
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        return f"of type {known.type}, so it is never {value!r}"
    if known.allowed is not None and value not in known.allowed:
        return f"never {value!r}; it is one of {', '.join(map(repr, known.allowed))}"
    return None


def sample(declared: EventType | None) -> dict[str, Any]:
    """Properties that an event of this type may have: the first allowed value of each, or one of its type."""
    made: dict[str, Any] = {}
    for name, known in (declared.properties if declared else {}).items():
        value = known.allowed[0] if known.allowed else _SAMPLES[known.type]
        *outer, last = name.split(".")
        here = made
        for step in outer:
            inner = here.setdefault(step, {})
            here = inner if isinstance(inner, dict) else {}
        here.setdefault(last, value)
    return made
