"""What the customer tests are written with: events, segments, and Hypothesis strategies for both."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from pipeline.customers.record import Record
from pipeline.models.control import Segment, Trait
from pipeline.segments.compile import Program

DAY = 86_400_000
#: A moment to count from.
T = 1_700_000_000_000


@dataclass
class Happening:
    """An event as `apply_event` reads it."""

    name: str = "View"
    time: int = T
    id: str = "m1"
    source: str = "web"
    channel: str = "Web"
    type: str = "track"
    user_id: str | None = None
    anonymous_id: str | None = None
    email: str | None = None
    phone: str | None = None
    properties: dict[str, Any] | None = None
    traits: dict[str, Any] | None = None


def segment(condition: dict[str, Any], id: str = "s", version: int = 1, archived: bool = False) -> Segment:
    return Segment.model_validate(
        {
            "id": id,
            "partner": "acme",
            "name": id,
            "condition": condition,
            "version": version,
            "archived": archived,
            "created": 0,
            "updated": 0,
            "since": 0,
        }
    )


def trait(computation: dict[str, Any], id: str = "t") -> Trait:
    return Trait.model_validate(
        {
            "id": id,
            "partner": "acme",
            "name": id,
            "computation": computation,
            "version": 1,
            "created": 0,
            "updated": 0,
            "since": 0,
        }
    )


def program(**conditions: dict[str, Any]) -> Program:
    return Program(segment(condition, id) for id, condition in conditions.items())


def memberships(record: Record) -> dict[str, set[str]]:
    return {key: set(membership.scopes) for key, membership in record.segments.items()}


def numbered(rows: list[Any], base: int = T, unit: int = 1) -> list[Happening]:
    """Events with message ids that repeat across sources and never within one."""
    sent: Counter[str] = Counter()
    made = []
    for name, (source, channel), time, props in rows:
        made.append(Happening(name, base + time * unit, f"m{sent[source]}", source, channel, properties=props))
        sent[source] += 1
    return made


NAMES = ["View", "Buy"]
PLACES = [("web", "Web"), ("app", "Mobile"), ("crm", "Web"), ("web", "Mobile")]
WINDOWS = ["1ms", "5ms", "20ms", "1s"]
VALUES: list[Any] = ["a", "b", "1", "", 1, 1.0, 0, 2.5, True, False]

filters = st.one_of(
    st.fixed_dictionaries(
        {
            "property": st.just("p"),
            "op": st.sampled_from(["equals", "not_equals", "contains"]),
            "value": st.sampled_from(VALUES),
        }
    ),
    st.fixed_dictionaries(
        {
            "property": st.just("p"),
            "op": st.just("in"),
            "value": st.lists(st.sampled_from(VALUES), min_size=1, max_size=3),
        }
    ),
    st.fixed_dictionaries({"property": st.just("p"), "op": st.just("exists"), "value": st.booleans()}),
    st.fixed_dictionaries(
        {
            "property": st.just("p"),
            "op": st.sampled_from([">", ">=", "<", "<="]),
            "value": st.sampled_from([0, 1, 1.0, 2.5]),
        }
    ),
)
count_ops = st.one_of(
    st.fixed_dictionaries(
        {"op": st.sampled_from([">=", "=", "<=", "<", ">"]), "value": st.integers(0, 4)},
    ),
    st.tuples(st.integers(0, 3), st.integers(0, 2)).map(lambda x: {"op": "between", "value": x[0], "to": x[0] + x[1]}),
)
leaves = st.fixed_dictionaries(
    {"event": st.sampled_from(NAMES)},
    optional={
        "where": st.lists(filters, max_size=2),
        "source": st.sampled_from(["web", "app"]),
        "channel": st.sampled_from(["Web", "Mobile"]),
        "count": count_ops,
        "window": st.sampled_from([{"rolling": w} for w in WINDOWS] + [{}]),
    },
)
conditions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"all": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"any": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=5,
)
definitions = st.lists(conditions, min_size=1, max_size=4).map(lambda cs: {f"s{i}": c for i, c in enumerate(cs)})
properties = st.one_of(
    st.none(),
    st.fixed_dictionaries({}, optional={"p": st.sampled_from([*VALUES, None, ["a", 1], [True]])}),
)
#: Events of a small world, in no order.
happenings = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from(PLACES),
        st.integers(0, 40),
        properties,
    ),
    min_size=1,
    max_size=14,
).map(numbered)


def plain(happening: Happening) -> dict[str, Any]:
    """The event as the oracle reads it."""
    return {key: getattr(happening, key) for key in ("source", "channel", "id", "time", "name", "properties")}
