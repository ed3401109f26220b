"""Which rows are of somebody who was erased: what is kept of them in files, and what is read of them, are one."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.lake.erasures import Told, but, without
from pipeline.lake.kinds import KINDS, MOMENT
from pipeline.models.erasure import Erasure

EVENTS = KINDS["events"]
NAMES = {"user_id": "u", "anonymous_id": "a", "email": "e", "phone": "p"}
_Row = tuple[str | None, str | None, str | None, str | None, str | None, int]


def table(*rows: _Row) -> pa.Table:
    """Rows of (customer, user id, anonymous id, e-mail, phone, time)."""
    columns = ("customer", *NAMES, "time")
    values = dict(zip(columns, zip(*rows, strict=True), strict=True)) if rows else {}
    return pa.table(
        {
            field.name: pa.array(values.get(field.name, [None] * len(rows)), pa.int64()).cast(MOMENT)
            if field.name == "time"
            else pa.array(values.get(field.name, [None] * len(rows)), field.type)
            for field in EVENTS.schema
        }
    )


def erased(at: int, *identifiers: str) -> Told:
    who = Erasure(id="e", partner="acme", customer=identifiers[0], identifiers=list(identifiers), requested=at, at=at)
    return Told(0, at, who)


def test_who_nobody_is_known_as_is_left_out_by_all_that_it_names() -> None:
    ann = ("acme|u|ann", "acme|e|ann@shop.example", "acme|a|visitor")
    rows = table(
        ("acme|u|ann", "ann", None, None, None, 5),
        ("acme|u|ann", "ann", None, None, None, 11),
        (None, None, None, "Ann@Shop.example", None, 5),
        (None, None, None, "Ann@Shop.example", None, 11),
        (None, None, "visitor", None, None, 5),
        (None, None, "other", "ben@shop.example", None, 5),
        ("acme|u|ben", "ben", "visitor", None, None, 5),
        (None, None, None, None, None, 5),
    )
    condition = but(EVENTS, [erased(10, *ann)])
    assert condition is not None
    kept = rows.filter(condition)
    assert kept.column("time").cast("int64").to_pylist() == [11, 11, 5, 5, 5]
    assert kept.column("anonymous_id").to_pylist() == [None, None, "other", "visitor", None]


_ID = st.sampled_from(["ann", "Ann", "ben", "x"])
_ROW = st.tuples(
    st.one_of(st.none(), _ID.map(lambda name: f"acme|u|{name}")),
    st.none() | _ID,
    st.none() | _ID,
    st.none() | _ID,
    st.none() | _ID,
    st.integers(0, 4),
)
_IDENTIFIER = st.builds("acme|{}|{}".format, st.sampled_from("uap"), _ID) | _ID.map(lambda n: f"acme|e|{n.lower()}")


@settings(deadline=None)
@given(
    rows=st.lists(_ROW, min_size=1, max_size=8),
    erasures=st.lists(st.tuples(st.integers(0, 4), st.lists(_IDENTIFIER, min_size=1, max_size=4)), max_size=3),
)
def test_what_is_read_and_what_is_kept_are_the_same_rows(
    rows: list[_Row], erasures: list[tuple[int, list[str]]]
) -> None:
    told = [erased(at, *identifiers) for at, identifiers in erasures]
    moments: dict[str, int] = {}
    for at, identifiers in erasures:
        for identifier in identifiers:
            moments[identifier] = max(at, moments.get(identifier, at))
    whole = table(*rows)
    condition = but(EVENTS, told)
    read = whole if condition is None else whole.filter(condition)
    assert read.equals(without(whole, EVENTS, "acme", moments))
