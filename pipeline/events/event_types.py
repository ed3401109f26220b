"""Events against the catalogue: known names, and their properties' types, allowed values and required ones. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from pipeline.events.facts import FACT_TYPES, FACTS
from pipeline.events.verdicts import RejectError
from pipeline.models.catalogue import Catalogue, EventType, Property
from pipeline.models.control import PartnerEventType

__all__ = ["EventTypes", "property_types"]

_Check = Callable[[dict[str, Any]], None]
#: Of a value in an error's sentence.
_SHOWN = 80


class EventTypes:
    """A partner's own types, and those of the shipped catalogue that it has none of its own for."""

    def __init__(self, own: Iterable[PartnerEventType], shipped: Catalogue) -> None:
        self._own = Catalogue(events={each.event: each.type for each in own})
        self._shipped = shipped
        #: By the type's own identity: names come from outside, types do not.
        self._checks: dict[int, tuple[EventType, list[_Check]]] = {}

    def find(self, name: str) -> EventType | None:
        """The type of an event by its name; None for one that nobody declared."""
        return self._own.find(name) or self._shipped.find(name)

    def names(self) -> Iterator[str]:
        """The declared names, families as they are written, the partner's own first."""
        yield from self._own.events
        yield from (name for name in self._shipped.events if name not in self._own.events)

    def check(self, name: str, properties: dict[str, Any] | None) -> None:
        """Raises RejectError `unknown_event` or `bad_property` for what the type does not allow."""
        found = self.find(name)
        if found is None:
            raise RejectError(
                "unknown_event",
                f"the source takes events of the catalogue only, and {name[:_SHOWN]!r} is not in it: "
                "add it with `headrace event-types add`, or let the source accept any",
                "$.event",
            )
        known = self._checks.get(id(found))
        if known is None:
            checks = [_check(name, each, name in found.required) for name, each in found.properties.items()]
            known = self._checks[id(found)] = (found, checks)
        for check in known[1]:
            check(properties or {})


def property_types(types: EventTypes) -> Mapping[str, Mapping[str, str]]:
    """Event name -> property -> type, as the checks of segment definitions take it; what intake adds is there too."""
    return _PropertyTypes(types)


class _PropertyTypes(Mapping[str, Mapping[str, str]]):
    def __init__(self, types: EventTypes) -> None:
        self._types = types

    def __getitem__(self, name: str) -> Mapping[str, str]:
        found = self._types.find(name)
        if found is None:
            raise KeyError(name)
        return {key: each.type for key, each in found.properties.items()} | _FACT_TYPES

    def __iter__(self) -> Iterator[str]:
        return self._types.names()

    def __len__(self) -> int:
        return sum(1 for _ in self._types.names())


_FACT_TYPES = {f"{FACTS}.{name}": kind for name, kind in FACT_TYPES.items()}


def _check(name: str, declared: Property, required: bool) -> _Check:
    path = f"$.properties.{name}"
    steps = name.split(".")
    fits, wanted = _KINDS[declared.type]
    allowed = declared.allowed

    def check(properties: dict[str, Any]) -> None:
        value = properties.get(name)
        if value is None and len(steps) > 1:
            value = _at(properties, steps)
        if value is None:
            if required:
                raise RejectError("bad_property", f"the property {name!r} is required", path)
            return
        if not fits(value):
            raise RejectError("bad_property", f"{_shown(value)} is no {wanted}", path)
        if allowed is not None and not any(value == one and type(value) is type(one) for one in allowed):
            some = ", ".join(map(repr, allowed[:10])) + (", …" if len(allowed) > 10 else "")
            raise RejectError("bad_property", f"{_shown(value)} is none of {some}", path)

    return check


def _at(properties: dict[str, Any], steps: list[str]) -> Any:
    found: Any = properties
    for step in steps:
        if type(found) is not dict:
            return None
        found = found.get(step)
    return found


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _moment(value: Any) -> bool:
    if type(value) is not str:
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "string": (lambda value: type(value) is str, "text"),
    "number": (lambda value: type(value) in (int, float), "number"),
    "integer": (
        lambda value: type(value) is int or (type(value) is float and value.is_integer()),
        "whole number",
    ),
    "boolean": (lambda value: type(value) is bool, "true or false"),
    "array": (lambda value: type(value) is list, "list"),
    "object": (lambda value: type(value) is dict, "object"),
    "date-time": (_moment, "RFC 3339 time such as 2026-01-31T12:00:00Z"),
}
