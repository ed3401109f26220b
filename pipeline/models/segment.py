"""The segment language: JSON that the console's builder draws exactly (design: segments).

A definition is ``{"all": […]}``, ``{"any": […]}``, ``{"not": …}`` or a count leaf, nested freely.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from pipeline.models.base import Label, Model, Slug

__all__ = [
    "AllOf",
    "AnyOf",
    "Condition",
    "Count",
    "CountLeaf",
    "Definition",
    "Filter",
    "Not",
    "Window",
    "duration_ms",
]

_DURATION = re.compile(r"^([1-9]\d{0,8})(ms|s|m|h|d)$")
_UNIT = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
MAX_COUNT = 1000
MAX_DEPTH = 20
MAX_LEAVES = 200


def duration_ms(text: str) -> int:
    """``30d``, ``12h``, ``5m``, ``90s``, ``250ms`` in milliseconds (1 ms to 10 years).

    Raises ValueError, saying what is expected.
    """
    match = _DURATION.match(text)
    if not match:
        raise ValueError(f"{text!r} is no duration; write a whole number and ms, s, m, h or d, e.g. 30d")
    value = int(match[1]) * _UNIT[match[2]]
    if value > 3650 * _UNIT["d"]:
        raise ValueError(f"{text!r} is longer than 10 years (3650d)")
    return value


class Filter(Model):
    """A comparison of one event property, strict by type: text never equals a number.

    ``property``: dotted path into the event's properties.
    ``op``: equals, not_equals, in (value: a list), contains (text in text, or item in list), exists
    (value: true or false), >, >=, <, <= (numbers with numbers only).
    """

    property: Annotated[str, Field(min_length=1, max_length=200)]
    op: Literal["equals", "not_equals", "in", "contains", "exists", ">", ">=", "<", "<="] = "equals"
    value: Any = None

    @model_validator(mode="after")
    def _fits(self) -> Filter:
        kind = type(self.value)
        if self.op == "in" and not (isinstance(self.value, list) and 0 < len(self.value) <= 1000):
            raise ValueError("`in` compares with a list of 1 to 1000 values")
        if self.op == "exists" and kind is not bool:
            raise ValueError("`exists` compares with true or false")
        if self.op in (">", ">=", "<", "<=") and (kind is bool or kind not in (int, float)):
            raise ValueError(f"`{self.op}` compares with a number, not with {kind.__name__}")
        if self.op in ("equals", "not_equals", "contains") and kind not in (str, int, float, bool):
            raise ValueError(f"`{self.op}` compares with text, a number, true or false, not with {kind.__name__}")
        return self


class Count(Model):
    """How often: ``op`` one of >=, =, <=, <, >, between (inclusive, with ``to``); ``value`` 0 to 1000."""

    op: Literal[">=", "=", "<=", "<", ">", "between"] = ">="
    value: Annotated[int, Field(ge=0, le=MAX_COUNT, strict=True)] = 1
    to: Annotated[int, Field(ge=0, le=MAX_COUNT, strict=True)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Count:
        if (self.op == "between") != (self.to is not None):
            raise ValueError("`to` goes with `between`, and only with it")
        if self.to is not None and self.to < self.value:
            raise ValueError(f"`to` ({self.to}) is smaller than `value` ({self.value})")
        return self


class Window(Model):
    """``{"rolling": "30d"}``: in while event time >= now - 30 d, in integer milliseconds; ``{}``: ever."""

    rolling: str | None = None

    @field_validator("rolling")
    @classmethod
    def _duration(cls, value: str | None) -> str | None:
        if value is not None:
            duration_ms(value)
        return value

    @property
    def ms(self) -> int | None:
        """Length in milliseconds; None: ever."""
        return None if self.rolling is None else duration_ms(self.rolling)


class CountLeaf(Model):
    """Who performed ``event`` (these properties, this source or channel) so often in a window."""

    event: Annotated[str, Field(min_length=1, max_length=200)]
    where: list[Filter] = Field(default_factory=list, max_length=20, description="all must hold")
    source: Slug | None = Field(None, description="only events of this source id")
    channel: str | None = Field(None, description="only events of this channel")
    count: Count = Field(default_factory=Count)
    window: Window = Field(default_factory=Window)


def _kind(value: Any) -> str | None:
    if isinstance(value, dict):
        keys = {"all", "any", "not", "event"} & value.keys()
        return keys.pop() if len(keys) == 1 else None
    return {"AllOf": "all", "AnyOf": "any", "Not": "not", "CountLeaf": "event"}.get(type(value).__name__)


class AllOf(Model):
    """Customers for whom every condition holds."""

    all: list[Condition] = Field(min_length=1, max_length=MAX_LEAVES)


class AnyOf(Model):
    """Customers for whom at least one condition holds."""

    any: list[Condition] = Field(min_length=1, max_length=MAX_LEAVES)


class Not(Model):
    """Known customers for whom the condition does not hold."""

    not_: Condition = Field(alias="not")


Condition = Annotated[
    Annotated[AllOf, Tag("all")]
    | Annotated[AnyOf, Tag("any")]
    | Annotated[Not, Tag("not")]
    | Annotated[CountLeaf, Tag("event")],
    Discriminator(
        _kind,
        custom_error_type="condition",
        custom_error_message="a condition has exactly one of the keys `all`, `any`, `not`, `event`",
    ),
]

AllOf.model_rebuild()
AnyOf.model_rebuild()
Not.model_rebuild()


class Definition(Model):
    """A named condition on customers: at most 200 leaves, 20 levels."""

    name: Label
    condition: Condition
    description: Annotated[str, Field(max_length=2000)] = ""

    @model_validator(mode="after")
    def _bounded(self) -> Definition:
        leaves = 0
        stack: list[tuple[Any, int]] = [(self.condition, 1)]
        while stack:
            node, depth = stack.pop()
            if depth > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
            if isinstance(node, AllOf):
                stack += [(child, depth + 1) for child in node.all]
            elif isinstance(node, AnyOf):
                stack += [(child, depth + 1) for child in node.any]
            elif isinstance(node, Not):
                stack.append((node.not_, depth + 1))
            else:
                leaves += 1
        if leaves > MAX_LEAVES:
            raise ValueError(f"{leaves} leaves; at most {MAX_LEAVES}")
        return self
