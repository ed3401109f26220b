"""The segment language as commands of versions 1 and 3 have it: what was refused then is refused on every replay.

Frozen (`pipeline.control.reducer`): change `pipeline.models.segment`, never this.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from pipeline.models.base import Model, Slug
from pipeline.models.segment import MAX_LEAVES, Count
from pipeline.models.window import duration_ms

__all__ = ["AllOf", "AnyOf", "Condition", "CountLeaf", "Filter", "Not", "Window"]


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


class Window(Model):
    """``{"rolling": "30d"}``: in while event time >= now - 30 d, in integer milliseconds; ``{}``: ever."""

    rolling: str | None = None

    @field_validator("rolling")
    @classmethod
    def _duration(cls, value: str | None) -> str | None:
        if value is not None:
            duration_ms(value)
        return value


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
