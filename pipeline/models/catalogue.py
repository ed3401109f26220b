"""The event catalogue: event types, their properties, types and allowed values (`schemas/catalogue/*.json`)."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import orjson
from pydantic import Field, model_validator

from pipeline.models.base import Label, Model
from pipeline.models.resources import resource

__all__ = ["Catalogue", "EventType", "Property", "catalogue"]

PropertyType = Literal["string", "number", "integer", "boolean", "array", "object", "date-time"]
_PYTHON: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "date-time": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "array": list,
    "object": dict,
}


class Property(Model):
    """A property of an event; ``allowed``: its only values, where there is such a list."""

    type: PropertyType
    description: str = ""
    allowed: list[Any] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Property:
        kinds = _PYTHON[self.type]
        for value in self.allowed or ():
            if not isinstance(value, kinds) or (isinstance(value, bool) and self.type != "boolean"):
                raise ValueError(f"allowed value {value!r} is no {self.type}")
        return self


class EventType(Model):
    """An event type. ``verified: false``: the payload is our own reading of a tool's public documents.

    ``properties``: a dotted name stands for what is inside an object, e.g. ``campaign.source``.
    """

    title: Label
    description: str
    channels: list[str] = Field(default_factory=list)
    properties: dict[str, Property] = Field(default_factory=dict)
    required: list[str] = Field(default_factory=list)
    verified: bool = True

    @model_validator(mode="after")
    def _known(self) -> EventType:
        for name in self.required:
            if name not in self.properties:
                raise ValueError(f"required property {name!r} is not among the properties")
        return self


class Catalogue(Model):
    """Event name -> its type.

    A name that ends in `` *`` stands for all that begin like it and have none of their own.
    """

    events: dict[str, EventType]

    def find(self, name: str) -> EventType | None:
        """The type of an event by its name, its family's where it has none of its own; None for an unknown one."""
        exact = self.events.get(name)
        if exact is not None:
            return exact
        families = [key for key in self.events if key.endswith(" *") and name.startswith(key[:-1])]
        return self.events[max(families, key=len)] if families else None


@cache
def catalogue() -> Catalogue:
    """The catalogue as shipped. Raises ValueError, naming the file, for one that breaks its model."""
    events: dict[str, EventType] = {}
    for path in sorted(resource("schemas").glob("catalogue/*.json")):
        try:
            found = Catalogue.model_validate(orjson.loads(path.read_bytes())).events
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from None
        double = events.keys() & found.keys()
        if double:
            raise ValueError(f"{path.name}: {sorted(double)[0]!r} stands in another file too")
        events |= found
    return Catalogue(events=events)
