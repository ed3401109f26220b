"""The segment language: JSON that the console's builder draws exactly (design: segments).

A definition is ``{"all": […]}``, ``{"any": […]}``, ``{"not": …}`` or a leaf, nested freely. A leaf is known by one key:
``event`` (how often), ``first`` and ``last`` (when), ``aggregate`` (sum, min, max of a property), ``days`` (on how many
days), ``sequence``, ``restarted``, ``trait``, ``segment``, ``bucket``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from pipeline.models.base import Label, Model, Slug
from pipeline.models.window import Duration, Window, dropped, moment_ms

__all__ = [
    "TAGS",
    "AggregateLeaf",
    "AllOf",
    "AnyOf",
    "BucketLeaf",
    "Compare",
    "Condition",
    "Count",
    "CountLeaf",
    "DaysLeaf",
    "Definition",
    "Did",
    "Filter",
    "FirstLeaf",
    "LastLeaf",
    "MemberLeaf",
    "Not",
    "RestartLeaf",
    "SequenceLeaf",
    "TraitLeaf",
    "children_of",
    "dids_of",
    "leaves_of",
    "members_of",
]

MAX_COUNT = 1000
#: Events of one source and channel that a sum, a sequence or a restart looks at: a record must stay far below the
#: largest message of a topic, whatever is sent under one identifier.
MAX_KEPT = 250
MAX_DEPTH = 20
MAX_LEAVES = 200
MAX_STEPS = 10
Cast = Literal["number", "text", "date", "boolean"]


class _Test(Model):
    """A comparison of one value, strict by type: text never equals a number, unless ``cast`` says what to make of it.

    ``op``: equals, not_equals, in (value: a list), contains (text in text, or item in list), exists
    (value: true or false), >, >=, <, <= (numbers with numbers only; with ``cast: date`` dates with dates).
    """

    op: Literal["equals", "not_equals", "in", "contains", "exists", ">", ">=", "<", "<="] = "equals"
    value: Any = None
    cast: Cast | None = Field(
        None,
        description="read the value found as this first: text as a number, a number as text, RFC 3339 text or "
        "milliseconds as a date, `true`, `false`, 1 and 0 as a boolean; what can't be read so does not match",
    )

    @model_validator(mode="after")
    def _fits(self) -> _Test:
        op, kind = self.op, type(self.value)
        if op == "in" and not (isinstance(self.value, list) and 0 < len(self.value) <= 1000):
            raise ValueError("`in` compares with a list of 1 to 1000 values")
        if op == "exists":
            if kind is not bool:
                raise ValueError("`exists` compares with true or false")
            if self.cast is not None:
                raise ValueError("`exists` looks at no value: leave `cast` out")
        elif self.cast is not None:
            self._fits_cast(self.cast)
        elif op in (">", ">=", "<", "<=") and (kind is bool or kind not in (int, float)):
            raise ValueError(f"`{op}` compares with a number, not with {kind.__name__}")
        elif op in ("equals", "not_equals", "contains") and kind not in (str, int, float, bool):
            raise ValueError(f"`{op}` compares with text, a number, true or false, not with {kind.__name__}")
        return self

    def _fits_cast(self, cast: Cast) -> None:
        if self.op == "contains" and cast != "text":
            raise ValueError("`contains` takes `cast: text` only")
        if self.op in (">", ">=", "<", "<=") and cast not in ("number", "date"):
            raise ValueError(f"`{self.op}` orders numbers and dates: cast to one of them")
        for value in self.value if self.op == "in" else [self.value]:
            kind = type(value)
            if cast == "date":
                if kind is not str:
                    raise ValueError("with `cast: date` compare with a date, written as text")
                moment_ms(value)
            elif cast == "number" and kind not in (int, float):
                raise ValueError("with `cast: number` compare with a number")
            elif cast == "text" and kind is not str:
                raise ValueError("with `cast: text` compare with text")
            elif cast == "boolean" and kind is not bool:
                raise ValueError("with `cast: boolean` compare with true or false")

    @model_serializer(mode="wrap")
    def _without(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return dropped(handler(self), "cast")


class Filter(_Test):
    """A `_Test` of one event property; ``property``: dotted path into the event's properties."""

    property: Annotated[str, Field(min_length=1, max_length=200)]


def _check_range(op: str, value: float, to: float | None) -> None:
    if (op == "between") != (to is not None):
        raise ValueError("`to` goes with `between`, and only with it")
    if to is not None and to < value:
        raise ValueError(f"`to` ({to:g}) is smaller than `value` ({value:g})")


class Count(Model):
    """How often: ``op`` one of >=, =, <=, <, >, between (inclusive, with ``to``); ``value`` 0 to 1000."""

    op: Literal[">=", "=", "<=", "<", ">", "between"] = ">="
    value: Annotated[int, Field(ge=0, le=MAX_COUNT, strict=True)] = 1
    to: Annotated[int, Field(ge=0, le=MAX_COUNT, strict=True)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Count:
        _check_range(self.op, self.value, self.to)
        return self


class Compare(Model):
    """A number compared: ``op`` one of >=, =, <=, <, >, between (inclusive, with ``to``)."""

    op: Literal[">=", "=", "<=", "<", ">", "between"] = ">="
    value: Annotated[float, Field(strict=True, allow_inf_nan=False)]
    to: Annotated[float, Field(strict=True, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Compare:
        _check_range(self.op, self.value, self.to)
        return self


class Did(Model):
    """Events of one name, with these properties, of one source or channel."""

    event: Annotated[str, Field(min_length=1, max_length=200)]
    where: list[Filter] = Field(default_factory=list, max_length=20, description="all must hold")
    source: Slug | None = Field(None, description="only events of this source id")
    channel: str | None = Field(None, description="only events of this channel")


class CountLeaf(Did):
    """Who performed ``event`` so often in a window."""

    count: Count = Field(default_factory=Count)
    window: Window = Field(default_factory=Window)


class _WhenLeaf(Model):
    """``within`` a window, or ``before`` it: exactly one of the two."""

    within: Window | None = None
    before: Window | None = None

    @model_validator(mode="after")
    def _one(self) -> _WhenLeaf:
        given = [window for window in (self.within, self.before) if window is not None]
        if len(given) != 1:
            raise ValueError("say `within` or `before` which window")
        if given[0] == Window():
            raise ValueError("a window without an end says nothing here; count the event instead")
        if self.before is not None and self.before.between is not None and self.before.between.from_ is None:
            raise ValueError("nothing is before a window that has no `from`")
        return self


class FirstLeaf(_WhenLeaf):
    """Who performed it for the first time ever within the window, or before it."""

    first: Did


class LastLeaf(_WhenLeaf):
    """Who performed it for the last time within the window, or before it (and not since)."""

    last: Did


class AggregateLeaf(Model):
    """The sum, the least or the greatest of a numeric property, over the newest `MAX_KEPT` such events of a source
    and channel.

    Events whose property is no number are left out. The sum of nothing is 0; there is no least or greatest of nothing.
    """

    aggregate: Literal["sum", "min", "max"]
    property: Annotated[str, Field(min_length=1, max_length=200)]
    cast: Literal["number"] | None = Field(None, description="take text that is a number, too")
    of: Did
    is_: Compare = Field(alias="is")
    window: Window = Field(default_factory=Window)


class DaysLeaf(Model):
    """On how many different days of a calendar window: "on at least 3 of the last 7 days"."""

    days: Did
    count: Count = Field(default_factory=Count)
    window: Window

    @model_validator(mode="after")
    def _calendar(self) -> DaysLeaf:
        if self.window.calendar is None:
            raise ValueError("days are counted in a `calendar` window")
        return self


class SequenceLeaf(Model):
    """Who performed these one after the other, each in a later millisecond, all ``within`` a time; the last step in
    the window. Looks at the newest `MAX_KEPT` such events of a source and channel.
    """

    sequence: list[Did] = Field(min_length=2, max_length=MAX_STEPS)
    within: Duration | None = Field(None, description="from the first to the last, e.g. `1d`; left out: however long")
    window: Window = Field(default_factory=Window)


class RestartLeaf(Model):
    """Who performed it, then not for ``after`` at least, and then again, that in the window.

    Looks at the newest `MAX_KEPT` such events of a source and channel.
    """

    restarted: Did
    after: Duration
    window: Window = Field(default_factory=Window)


class TraitLeaf(_Test):
    """A `_Test` of a trait (from identify and CRM); ``trait``: dotted path into the customer's traits."""

    trait: Annotated[str, Field(min_length=1, max_length=200)]


class MemberLeaf(Model):
    """Members of another segment of the partner, by its condition."""

    segment: Slug


class Bucket(Model):
    """The part of all customers between two percentages (``from`` included), by a hash of their id and ``salt``."""

    salt: Annotated[str, Field(min_length=1, max_length=100)]
    from_: Annotated[float, Field(ge=0, le=100)] = Field(0, alias="from")
    to: Annotated[float, Field(ge=0, le=100)] = 100

    @model_validator(mode="after")
    def _fits(self) -> Bucket:
        if self.to <= self.from_:
            raise ValueError(f"nobody is between {self.from_:g} % and {self.to:g} %")
        return self


class BucketLeaf(Model):
    """A random part of the customers, always the same: for hold-outs."""

    bucket: Bucket


_TAGS = {
    "AllOf": "all",
    "AnyOf": "any",
    "Not": "not",
    "CountLeaf": "event",
    "FirstLeaf": "first",
    "LastLeaf": "last",
    "AggregateLeaf": "aggregate",
    "DaysLeaf": "days",
    "SequenceLeaf": "sequence",
    "RestartLeaf": "restarted",
    "TraitLeaf": "trait",
    "MemberLeaf": "segment",
    "BucketLeaf": "bucket",
}
#: The keys that conditions are known by.
TAGS = frozenset(_TAGS.values())


def _kind(value: Any) -> str | None:
    if isinstance(value, dict):
        keys = TAGS & value.keys()
        return next(iter(keys)) if len(keys) == 1 else None
    return _TAGS.get(type(value).__name__)


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
    | Annotated[CountLeaf, Tag("event")]
    | Annotated[FirstLeaf, Tag("first")]
    | Annotated[LastLeaf, Tag("last")]
    | Annotated[AggregateLeaf, Tag("aggregate")]
    | Annotated[DaysLeaf, Tag("days")]
    | Annotated[SequenceLeaf, Tag("sequence")]
    | Annotated[RestartLeaf, Tag("restarted")]
    | Annotated[TraitLeaf, Tag("trait")]
    | Annotated[MemberLeaf, Tag("segment")]
    | Annotated[BucketLeaf, Tag("bucket")],
    Discriminator(
        _kind,
        custom_error_type="condition",
        custom_error_message="a condition has exactly one of the keys "
        + ", ".join(f"`{tag}`" for tag in _TAGS.values()),
    ),
]

AllOf.model_rebuild()
AnyOf.model_rebuild()
Not.model_rebuild()


def children_of(node: Condition) -> list[tuple[str, Condition]]:
    """The conditions right below, each with what a path says of it; none of a leaf."""
    if isinstance(node, Not):
        return [(".not", node.not_)]
    if isinstance(node, AllOf):
        return [(f".all[{at}]", child) for at, child in enumerate(node.all)]
    if isinstance(node, AnyOf):
        return [(f".any[{at}]", child) for at, child in enumerate(node.any)]
    return []


def dids_of(leaf: Condition) -> list[tuple[str, Did]]:
    """The events that a leaf asks about, each with what a path says of it."""
    if isinstance(leaf, CountLeaf):
        return [("", leaf)]
    if isinstance(leaf, SequenceLeaf):
        return [(f".sequence[{at}]", step) for at, step in enumerate(leaf.sequence)]
    if isinstance(leaf, FirstLeaf):
        return [(".first", leaf.first)]
    if isinstance(leaf, LastLeaf):
        return [(".last", leaf.last)]
    if isinstance(leaf, AggregateLeaf):
        return [(".of", leaf.of)]
    if isinstance(leaf, DaysLeaf):
        return [(".days", leaf.days)]
    if isinstance(leaf, RestartLeaf):
        return [(".restarted", leaf.restarted)]
    return []


def leaves_of(node: Condition, path: str = "$") -> Iterator[tuple[str, Condition]]:
    """Every leaf with its path. Call it on conditions of bounded depth only."""
    children = children_of(node)
    if not children:
        yield path, node
    for step, child in children:
        yield from leaves_of(child, path + step)


def members_of(node: Condition) -> list[str]:
    """The segments that the condition names, as `leaves_of`."""
    return [leaf.segment for _, leaf in leaves_of(node) if isinstance(leaf, MemberLeaf)]


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
            children = children_of(node)
            leaves += not children
            stack += [(child, depth + 1) for _, child in children]
        if leaves > MAX_LEAVES:
            raise ValueError(f"{leaves} leaves; at most {MAX_LEAVES}")
        return self
