"""A declared patch: how rejected events are mended before they are replayed. Tried in order, on one raw event."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.models.base import Model
from pipeline.models.mapping import Expression

__all__ = ["KeySet", "Operation", "Patch", "Removed", "Renamed", "Replaced", "ValueSet"]

#: As of the mapping language, into the event: ``$.properties.price``, ``$.context.page["a b"]``, ``$.items[0]``.
Path = Annotated[str, Field(pattern=r"""^\$(?:\.[A-Za-z0-9_-]+|\[-?\d{1,9}\]|\["[^"\]]*"\])+$""", max_length=500)]


class ValueSet(Model):
    """Set a value, whether there was one or not; objects on the way are made. The value is an expression of the
    mapping language: a text that begins with ``$`` is read from the event as it is by now."""

    op: Literal["set"]
    path: Path
    value: Expression


class Renamed(Model):
    """Move a value to another path; nothing where there is none."""

    op: Literal["rename"]
    path: Path
    to: Path


class Removed(Model):
    """Remove a value; nothing where there is none."""

    op: Literal["remove"]
    path: Path


class Replaced(Model):
    """One text for another: ``values`` says which for which; others stay."""

    op: Literal["replace"]
    path: Path
    values: dict[str, Any] = Field(min_length=1, max_length=500)


class KeySet(Model):
    """Give the record the key that its source has now, in place of the one that it came with."""

    op: Literal["key"]


Operation = Annotated[ValueSet | Renamed | Removed | Replaced | KeySet, Field(discriminator="op")]


class Patch(Model):
    """Operations, in order."""

    operations: list[Operation] = Field(min_length=1, max_length=50)
