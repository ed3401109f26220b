"""Case 7: two records that are one person."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest
from customers_world import Happening, T, memberships, program

from pipeline.customers.apply import MAX_TRAITS, apply_event
from pipeline.customers.evaluate import evaluate, release
from pipeline.customers.merge import merge
from pipeline.customers.record import Record
from pipeline.models.segment import MAX_COUNT
from pipeline.segments.counts import Tally

VIEWED = {"event": "View", "count": {"op": ">=", "value": 2}}


def person(identifier, *log, compiled, now=T):
    record = Record(identifier, "acme", log[0].time if log else T)
    for happening in log:
        apply_event(record, happening, compiled)
    return record, evaluate(record, compiled, now, "event")


def identify(traits, time, **fields):
    return Happening("Identified", time, f"i{time}", type="identify", traits=traits, **fields)


def test_anonymous_browsing_then_identify_is_one_person_counted_once():
    compiled = program(s=VIEWED)
    tally = Tally()
    anonymous, first = person(
        "acme|a|1", Happening(time=T + 1, id="a"), Happening(time=T + 2, id="b"), compiled=compiled
    )
    user, second = person("acme|u|7", Happening(time=T + 3, id="c"), compiled=compiled)
    for change in first + second:
        tally.apply(change)
    assert tally.rows()["s", "*", "*"] == (1, 0)
    gone = release(anonymous, T + 4, "merge")
    merge(user, anonymous)
    changes = gone + evaluate(user, compiled, T + 4, "merge")
    for change in changes:
        tally.apply(change)
    assert [(c.kind, c.cause) for c in changes] == [("left", "merge"), ("entered", "merge")]
    assert tally.rows()["s", "*", "*"] == (1, 1)
    assert user.identifiers == ["acme|u|7", "acme|a|1"]
    assert user.id == "acme|u|7"
    assert (user.first_seen, user.last_seen) == (T + 1, T + 3)
    merge(user, anonymous)
    assert evaluate(user, compiled, T + 4, "merge") == []


def test_two_halves_make_a_whole_and_the_same_event_in_both_is_one():
    compiled = program(s=VIEWED)
    one, _ = person("acme|u|7", Happening(id="a"), compiled=compiled)
    same, _ = person("acme|a|1", Happening(id="a"), compiled=compiled)
    other, _ = person("acme|a|2", Happening(id="a", source="app", channel="Mobile"), compiled=compiled)
    merge(one, same)
    evaluate(one, compiled, T, "merge")
    assert memberships(one) == {}
    merge(one, other)
    evaluate(one, compiled, T, "merge")
    assert memberships(one) == {"s": {"*"}}
    assert one.origins == ["app|Mobile", "web|Web"]


def test_a_chain_of_merges_in_any_order_is_the_same_person():
    compiled = program(s={"event": "View", "count": {"op": "=", "value": 3}, "window": {"rolling": "10ms"}})
    found = set()
    for order in permutations(range(4)):
        records = [
            person(f"acme|a|{i}", Happening(time=T + i % 3, id=f"m{i % 3}"), compiled=compiled)[0] for i in range(4)
        ]
        for left, right in pairwise(order):
            merge(records[right], records[left], compiled)
        last = records[order[-1]]
        evaluate(last, compiled, T + 10, "merge")
        assert memberships(last) == {"s": {"*", "s:web", "c:Web"}}
        found.add((str(last.leaves), last.deadline))
    assert len(found) == 1


def test_a_merge_during_back_fill_does_not_depend_on_which_came_first():
    """History reaches either record before the merge or the merged one after it."""
    compiled = program(s={"event": "View", "count": {"op": "between", "value": 2, "to": 3}})
    history = [Happening(time=T + i, id=f"m{i}") for i in range(3)]
    live = Happening(time=T + 9, id="live")
    results = set()
    for cut in range(4):
        user, _ = person("acme|u|7", live, compiled=compiled)
        anonymous, _ = person("acme|a|1", live, compiled=compiled)
        for happening in history[:cut]:
            apply_event(anonymous, happening, compiled)
        merge(user, anonymous, compiled)
        for happening in history[cut:]:
            apply_event(user, happening, compiled)
        evaluate(user, compiled, T + 10, "merge")
        results.add((str(user.leaves), str(memberships(user))))
    assert len(results) == 1


def test_merging_keeps_no_more_than_k():
    compiled = program(s=VIEWED)
    one, other = (
        person(f"acme|a|{i}", *(Happening(time=T + 2 * n + i, id=f"{i}{n}") for n in range(2)), compiled=compiled)[0]
        for i in range(2)
    )
    (leaf,) = one.leaves
    merge(one, other, compiled)
    assert one.leaves[leaf] == {"web|Web": [(T + 3, "11"), (T + 2, "01")]}
    # A leaf that the program does not know (yet) is kept as far as any leaf could need it.
    one.leaves["unknown"] = {"web|Web": [(T + n, "x") for n in range(MAX_COUNT, 0, -1)]}
    other.leaves["unknown"] = {"web|Web": [(T + n, "y") for n in range(MAX_COUNT, 0, -1)]}
    merge(one, other, compiled)
    assert len(one.leaves["unknown"]["web|Web"]) == MAX_COUNT + 1
    assert one.leaves["unknown"]["web|Web"][0] == (T + MAX_COUNT, "y")


def test_the_user_s_traits_win_over_the_anonymous_ones():
    for swap in (False, True):
        compiled = program()
        user, _ = person("acme|u|7", identify({"plan": "pro"}, T, user_id="7"), compiled=compiled)
        anonymous, _ = person("acme|a|1", identify({"plan": "free", "city": "Lund"}, T + 9), compiled=compiled)
        into, other = (anonymous, user) if swap else (user, anonymous)
        merge(into, other)
        assert into.traits == {"plan": "pro", "city": "Lund"}
        assert into.identified


def test_between_equals_the_newer_trait_wins():
    compiled = program()
    for swap in (False, True):
        old, _ = person("acme|a|1", identify({"plan": "free", "a": 1}, T), compiled=compiled)
        new, _ = person("acme|a|2", identify({"plan": "pro"}, T + 1), compiled=compiled)
        into, other = (old, new) if swap else (new, old)
        merge(into, other)
        assert into.traits == {"plan": "pro", "a": 1}


def test_the_other_record_stays_as_it_is_and_shares_nothing():
    compiled = program(s=VIEWED)
    one, _ = person("acme|a|1", Happening(id="a"), compiled=compiled)
    other, _ = person("acme|a|2", Happening(id="b", source="app"), identify({"x": 1}, T), compiled=compiled)
    before = other.encode()
    merge(one, other)
    apply_event(one, Happening(time=T + 1, id="c", source="app"), compiled)
    assert other.encode() == before


def test_merged_traits_stay_within_bounds():
    compiled = program()
    one, other = (
        person(f"acme|a|{i}", identify({f"{i}{n}": n for n in range(MAX_TRAITS)}, T), compiled=compiled)[0]
        for i in range(2)
    )
    merge(one, other)
    assert len(one.traits) == MAX_TRAITS


def test_a_merged_record_is_evaluated_whole_before_it_is_written():
    compiled = program(s=VIEWED)
    one, _ = person("acme|u|7", Happening(id="a"), compiled=compiled)
    other, _ = person("acme|a|1", Happening(time=T + 1, id="b"), compiled=compiled)
    merge(one, other)
    with pytest.raises(ValueError, match="evaluate before encode"):
        one.encode()
    (change,) = evaluate(one, compiled, T + 1, "event", "c")
    assert change.kind == "entered"
