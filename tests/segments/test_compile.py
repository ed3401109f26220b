"""Leaves: ids, intervals, windows; programs: shared state, indexes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.control import Segment
from pipeline.models.segment import CountLeaf
from pipeline.segments.compile import Matchers, Program
from pipeline.segments.leaf import Leaf, leaf_of
from pipeline.segments.meaning import leaf_id
from pipeline.segments.scopes import scopes_of

ONE = scopes_of(("web|Web",))
TWO = scopes_of(("app|Mobile", "web|Web"))


def leaf(**fields):
    return CountLeaf.model_validate({"event": "View", **fields})


def count(op, value, to=None):
    return {"op": op, "value": value, "to": to}


class Person:
    """Somebody with the state of one leaf."""

    def __init__(self, leaf: Leaf, buckets):
        self.id = "acme|u|ada"
        self.traits = {}
        self.leaves = {leaf.id: buckets} if buckets else {}


def truth(leaf: Leaf, buckets, scopes, now):
    return leaf.truth(Person(leaf, buckets), scopes, now)


def segment(id, condition, **fields):
    return Segment.model_validate(
        {
            "id": id,
            "partner": "acme",
            "name": id,
            "condition": condition,
            "version": 1,
            "created": 0,
            "updated": 0,
            "since": 0,
            **fields,
        }
    )


EQUAL = [
    (leaf(), leaf(count=count(">=", 1), window={}, where=[], source=None)),
    (leaf(count=count(">", 1)), leaf(count=count(">=", 2))),
    (leaf(count=count("<", 1)), leaf(count=count("=", 0))),
    (leaf(count=count("between", 2, 2)), leaf(count=count("=", 2))),
    (leaf(window={"rolling": "24h"}), leaf(window={"rolling": "1d"})),
    (
        leaf(where=[{"property": "a", "value": 1}, {"property": "b", "value": "x"}]),
        leaf(where=[{"property": "b", "value": "x"}, {"property": "a", "value": 1.0}]),
    ),
    (leaf(where=[{"property": "a", "value": 1}] * 2), leaf(where=[{"property": "a", "value": 1}])),
    (
        leaf(where=[{"property": "a", "op": "in", "value": ["x", 1, "x"]}]),
        leaf(where=[{"property": "a", "op": "in", "value": [1.0, "x"]}]),
    ),
]
DIFFERENT = [
    leaf(),
    leaf(event="Buy"),
    leaf(source="web"),
    leaf(channel="web"),
    leaf(count=count(">=", 2)),
    leaf(count=count("=", 1)),
    leaf(count=count("<=", 1)),
    leaf(window={"rolling": "1d"}),
    leaf(window={"rolling": "1ms"}),
    leaf(where=[{"property": "a", "value": 1}]),
    leaf(where=[{"property": "a", "value": "1"}]),
    leaf(where=[{"property": "a", "value": True}]),
    leaf(where=[{"property": "a", "op": "in", "value": [1]}]),
    leaf(where=[{"property": "a", "op": "in", "value": [True]}]),
    leaf(where=[{"property": "a", "op": "in", "value": ["1"]}]),
    leaf(where=[{"property": "a", "op": "exists", "value": True}]),
    leaf(where=[{"property": "a", "op": ">", "value": 10**30}]),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_meaning_gives_an_equal_id(one, other):
    assert leaf_id(one) == leaf_id(other)


def test_an_edit_makes_a_new_id():
    ids = [leaf_id(x) for x in DIFFERENT]
    assert len(set(ids)) == len(ids)
    assert all(len(i) == 16 and int(i, 16) >= 0 for i in ids)


def test_ids_stay_for_good():
    """State on disk is found by them."""
    assert leaf_id(leaf()) == "36f847e7b596d4dc"
    where = [{"property": "category", "value": "Jacket"}]
    assert leaf_id(leaf(where=where, source="online-store", window={"rolling": "30d"})) == "d1d81ee20c8ebb02"


@pytest.mark.parametrize(
    ("op", "value", "to", "k", "holds"),
    [
        (">=", 2, None, 2, {2, 3, 4}),
        (">=", 0, None, 0, {0, 1, 2, 3, 4}),
        (">", 2, None, 3, {3, 4}),
        ("=", 0, None, 1, {0}),
        ("=", 2, None, 3, {2}),
        ("<=", 2, None, 3, {0, 1, 2}),
        ("<", 2, None, 2, {0, 1}),
        ("<", 1, None, 1, {0}),
        ("<", 0, None, 0, set()),
        ("between", 1, 2, 3, {1, 2}),
        ("between", 0, 0, 1, {0}),
    ],
)
def test_k_pairs_tell_every_count(op, value, to, k, holds):
    compiled = leaf_of(leaf(count=count(op, value, to)))
    assert compiled.k == k
    for n in range(5):
        pairs = [(100 - i, f"m{i}") for i in range(n)][: compiled.k]
        mask, flip = truth(compiled, {"web|Web": pairs} if pairs else None, ONE, 100)
        assert (mask == ONE.all) is (n in holds)
        assert mask in (0, ONE.all)
        assert flip is None


def test_in_at_exactly_the_end_of_the_window_and_out_a_millisecond_later():
    compiled = leaf_of(leaf(window={"rolling": "10ms"}))
    state = {"web|Web": [(100, "m")]}
    assert truth(compiled, state, ONE, 109) == (ONE.all, 111)
    assert truth(compiled, state, ONE, 110) == (ONE.all, 111)
    assert truth(compiled, state, ONE, 111) == (0, None)


def test_the_deadline_is_the_next_moment_when_the_truth_changes_not_the_next_expiry():
    compiled = leaf_of(leaf(count=count("=", 1), window={"rolling": "10ms"}))
    state = {"web|Web": [(105, "b"), (100, "a")]}
    assert truth(compiled, state, ONE, 110) == (0, 111)
    assert truth(compiled, state, ONE, 111) == (ONE.all, 116)
    assert truth(compiled, state, ONE, 116) == (0, None)
    at_least_one = leaf_of(leaf(window={"rolling": "10ms"}))
    assert truth(at_least_one, state, ONE, 110) == (ONE.all, 116)
    three = leaf_of(leaf(count=count(">=", 3), window={"rolling": "10ms"}))
    assert truth(three, state, ONE, 110) == (0, None)


def test_one_of_each_source_is_two_in_all_and_neither_alone():
    compiled = leaf_of(leaf(count=count(">=", 2)))
    mask, _ = truth(compiled, {"web|Web": [(1, "m")], "app|Mobile": [(1, "m")]}, TWO, 5)
    assert TWO.named(mask) == ("*",)


def test_one_source_s_event_is_one_event_whatever_channels_it_was_labelled_with():
    scopes = scopes_of(("web|Mobile", "web|Web"))
    compiled = leaf_of(leaf(count=count(">=", 2)))
    mask, _ = truth(compiled, {"web|Web": [(1, "m")], "web|Mobile": [(1, "m")]}, scopes, 5)
    assert mask == 0
    mask, _ = truth(compiled, {"web|Web": [(1, "m")], "web|Mobile": [(2, "n")]}, scopes, 5)
    assert scopes.named(mask) == ("*", "s:web")


def test_absence_holds_where_the_customer_was_seen():
    compiled = leaf_of(leaf(count=count("=", 0)))
    mask, _ = truth(compiled, {"web|Web": [(1, "m")]}, TWO, 5)
    assert TWO.named(mask) == ("s:app", "c:Mobile")
    assert TWO.named(truth(compiled, None, TWO, 5)[0]) == TWO.names


@given(st.lists(st.integers(0, 400), max_size=300), st.integers(0, 400), st.integers(0, 300))
def test_long_states_count_like_short_ones(times, now, wanted):
    pairs = sorted(((t, f"m{i}") for i, t in enumerate(times)), reverse=True)
    compiled = leaf_of(leaf(count=count("=", wanted), window={"rolling": "100ms"}))
    mask, flip = truth(compiled, {"web|Web": pairs} if pairs else None, ONE, now)
    inside = [t for t in times if t >= now - 100]
    assert bool(mask) is (len(inside) == wanted)
    later = [n for n in range(now + 1, 502) if (sum(t >= n - 100 for t in times) == wanted) is not bool(mask)]
    assert flip == (later[0] if later else None)


def test_a_program_shares_leaves_and_leaves_archived_segments_out():
    jacket = {"event": "View", "where": [{"property": "category", "value": "Jacket"}]}
    buy = {"event": "Buy"}
    program = Program(
        [
            segment("a", jacket),
            segment("b", {"all": [jacket, {"not": buy}]}),
            segment("c", {"any": [buy, {"event": "Visit"}]}, archived=True),
        ]
    )
    assert set(program.segments) == {"a", "b"}
    assert len(program.leaves) == 2
    (shared,) = Matchers(program.leaves.values()).by_event["View"]
    assert [s.id for s in shared.leaf.segments] == ["a", "b"]
    assert "Visit" not in Matchers(program.leaves.values()).by_event
    assert program.on_nothing == []


def test_matching_finds_what_asking_every_leaf_finds():
    conditions = [
        {"event": "View"},
        {"event": "View", "source": "web"},
        {"event": "View", "channel": "Mobile"},
        {"event": "View", "where": [{"property": "category", "value": "Jacket"}]},
        {"event": "View", "where": [{"property": "category", "value": "Shoes"}]},
        {
            "event": "View",
            "where": [{"property": "n", "op": ">", "value": 1}, {"property": "category", "value": "Jacket"}],
        },
        {"event": "View", "where": [{"property": "n", "value": 1}]},
        {"event": "View", "where": [{"property": "n", "op": "exists", "value": False}]},
        {"event": "View", "where": [{"property": "category", "op": "not_equals", "value": "Jacket"}]},
    ]
    program = Program(segment(f"s{i}", c) for i, c in enumerate(conditions))
    assert len(Matchers(program.leaves.values()).by_event["View"]) == len(conditions)
    seen = set()
    for source, channel in [("web", "Web"), ("app", "Mobile")]:
        for category in ["Jacket", "Shoes", "Hat", 1, ["Jacket"], None]:
            for n in [None, 1, 2, "1", True]:
                properties = {"category": category, "n": n} if n is not None else {"category": category}
                found = program.matching("View", source, channel, properties)
                expected = [
                    x
                    for x in Matchers(program.leaves.values()).by_event["View"]
                    if x.source in (None, source) and x.channel in (None, channel) and x.matches(properties)
                ]
                assert {x.leaf.id for x in found} == {x.leaf.id for x in expected}
                assert len(found) == len(expected)
                seen |= {x.leaf.id for x in found}
    assert seen == set(program.leaves)
    assert len(program.matching("View", "web", "Web", None)) == 3
    assert program.matching("Nothing", "web", "Web", None) == []


def test_a_hundred_leaves_twenty_deep():
    condition = {"event": "E0"}
    for depth in range(1, 20):
        condition = {"not": condition} if depth % 3 == 0 else {"any" if depth % 2 else "all": [condition]}
    wide = {"any": [condition, *({"event": f"E{i}"} for i in range(1, 120))]}
    program = Program([segment("s", wide)])
    assert len(program.segments["s"].leaves) == 120
    assert program.segments["s"].on_nothing is False


def test_a_segment_named_many_times_is_made_and_asked_once():
    """Twenty levels, each naming the one below 201 times: 201 ** 19 ways down."""
    segments = [segment("s0", {"event": "View"})]
    for level in range(1, 20):
        below = {"segment": f"s{level - 1}"}
        segments.append(
            segment(f"s{level}", {"any": [{"all": [below] * 100}, {"not": {"not": below}}, *[below] * 100]})
        )
    program = Program(reversed(segments))
    top = program.segments["s19"]
    (leaf,) = top.leaves
    assert top.holds({leaf.id: 1}, 1) == 1
    assert top.holds({leaf.id: 0}, 1) == 0
    assert len(leaf.segments) == 20


def test_segments_that_would_be_made_of_each_other_hold_for_nobody():
    program = Program([segment("a", {"segment": "b"}), segment("b", {"segment": "a"})])
    assert [each.holds({}, 1) for each in program.segments.values()] == [0, 0]
