"""The lane's counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.segments.change import Change
from pipeline.segments.counts import Tally


def change(before, after, was=False, is_=False, segment="s"):
    return Change(segment, 1, None, "event", None, 0, tuple(before), tuple(after), was, is_)


def test_a_row_for_each_scope():
    tally = Tally()
    tally.apply(change([], ["*", "s:web", "c:Web: 2"]))
    tally.apply(change([], ["*"], True, True))
    expected = {("s", "*", "*"): (2, 1), ("s", "web", "*"): (1, 0), ("s", "*", "Web: 2"): (1, 0)}
    assert tally.rows() == expected
    assert tally.take() == expected
    assert tally.take() == {}


def test_becoming_identified_moves_only_the_identified():
    tally = Tally()
    tally.apply(change([], ["*", "s:web"]))
    tally.take()
    tally.apply(change(["*", "s:web"], ["*", "s:web"], False, True))
    assert tally.take() == {("s", "*", "*"): (1, 1), ("s", "web", "*"): (1, 1)}
    tally.apply(change(["*", "s:web"], ["*", "c:Web"], True, True))
    assert tally.take() == {("s", "web", "*"): (0, 0), ("s", "*", "Web"): (1, 1)}


def test_rows_that_fall_to_zero_are_published_once_and_rows_that_come_back_are_not():
    tally = Tally()
    tally.apply(change([], ["*"], True, True))
    tally.take()
    tally.apply(change(["*"], [], True, True))
    tally.apply(change([], ["*"], True, True))
    assert tally.take() == {}
    tally.apply(change(["*"], [], True, True))
    assert tally.take() == {("s", "*", "*"): (0, 0)}
    assert tally.take() == {}
    assert tally.rows() == {}


def test_restored_it_goes_on():
    tally = Tally()
    tally.apply(change([], ["*", "s:web", "c:Web"], True, True))
    restored = Tally(tally.rows().items())
    assert restored.take() == {}
    restored.apply(change(["*", "s:web", "c:Web"], ["*"], True, True))
    assert restored.take() == {("s", "web", "*"): (0, 0), ("s", "*", "Web"): (0, 0)}
    assert restored.rows() == {("s", "*", "*"): (1, 1)}


def test_a_count_never_goes_below_zero():
    with pytest.raises(ValueError, match="segment 's', scope 's:web'"):
        Tally().apply(change(["s:web"], []))
    tally = Tally()
    tally.apply(change([], ["*"]))
    with pytest.raises(ValueError, match="0 customers"):
        tally.apply(change(["*"], [], True, True))


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sets(st.sampled_from(["*", "s:web", "s:app", "c:Web"])), st.booleans()),
        max_size=30,
    ),
    st.integers(1, 5),
)
def test_counts_are_those_of_the_customers(steps, every):
    tally, state, published = Tally(), {}, {}
    for n, (customer, after, identified) in enumerate(steps):
        before, was = state.get(customer, (set(), False))
        tally.apply(change(sorted(before), sorted(after), was, identified))
        state[customer] = (after, identified)
        if n % every == 0:
            published |= tally.take()
    published |= tally.take()
    expected = {}
    for scopes, identified in state.values():
        for scope in scopes:
            key = {"*": ("s", "*", "*"), "s:web": ("s", "web", "*"), "s:app": ("s", "app", "*")}.get(
                scope, ("s", "*", "Web")
            )
            customers, known = expected.get(key, (0, 0))
            expected[key] = (customers + 1, known + identified)
    assert tally.rows() == expected
    assert {key: row for key, row in published.items() if row[0]} == expected
