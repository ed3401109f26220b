"""What one event does to a record."""

from __future__ import annotations

from itertools import permutations

import pytest
from customers_world import Happening, T, program

from pipeline.customers.apply import (
    MAX_IDENTIFIERS,
    MAX_TRAIT_BYTES,
    MAX_TRAITS,
    add_identifier,
    apply_event,
)
from pipeline.customers.evaluate import evaluate
from pipeline.customers.record import Record

NOTHING = program()


def new(identifier="acme|a|1", time=T):
    return Record(identifier, "acme", time)


def identify(traits, time=T, **fields):
    return Happening("Identified", time, "i", type="identify", traits=traits, **fields)


def pairs(record):
    (buckets,) = record.leaves.values()
    return buckets


def test_a_leaf_keeps_the_newest_pairs_of_each_origin():
    compiled = program(s={"event": "View", "count": {"op": "=", "value": 1}})
    log = [Happening(time=T + t, id=f"m{t}") for t in (3, 1, 2)]
    log += [Happening(time=T, id="m0", source="app", channel="Mobile"), Happening("Buy", T + 9)]
    for order in permutations(log):
        record = new()
        for happening in (*order, *order):
            apply_event(record, happening, compiled)
        assert pairs(record) == {"web|Web": [(T + 3, "m3"), (T + 2, "m2")], "app|Mobile": [(T, "m0")]}
        assert record.origins == ["app|Mobile", "web|Web"]
        assert (record.first_seen, record.last_seen) == (T, T + 9)


def test_events_of_the_same_millisecond_are_told_apart_and_ordered_by_id():
    compiled = program(s={"event": "View", "count": {"value": 2}})
    for order in permutations("abc"):
        record = new()
        for id in order:
            apply_event(record, Happening(id=id), compiled)
        assert pairs(record) == {"web|Web": [(T, "c"), (T, "b")]}


def test_an_event_that_changes_no_state_touches_no_segment():
    compiled = program(s={"event": "View"}, zero={"event": "View", "count": {"value": 0}})
    record = new()
    apply_event(record, Happening(time=T + 5, id="a"), compiled)
    assert list(record.touched) == ["s"]
    evaluate(record, compiled, T, "event")
    for happening in (
        Happening(time=T + 5, id="a"),
        Happening(time=T, id="b"),
        Happening("Buy", T + 6, "c"),
    ):
        apply_event(record, happening, compiled)
        assert record.touched == {}
    assert len(record.leaves) == 1


def test_long_message_ids_are_kept_short_and_apart():
    compiled = program(s={"event": "View", "count": {"value": 1000}})
    record = new()
    ids = ["x" * 512, "x" * 511 + "y", "0f8fad5b-d9cb-469f-a165-70867728950e", "🧥" * 100]
    for id in ids * 2:
        apply_event(record, Happening(id=id), compiled)
    kept = [id for _, id in pairs(record)["web|Web"]]
    assert len(set(kept)) == len(kept) == 4
    assert max(map(len, kept)) <= 36
    assert ids[2] in kept


def test_traits_merge_at_the_top_and_the_newest_stays_whatever_the_order():
    log = [
        identify({"plan": "free", "city": "Lund"}, T + 1),
        identify({"plan": "pro", "nested": {"a": 1}}, T + 2),
        identify({"nested": {"b": 2}, "gone": None}, T + 3),
    ]
    for order in permutations(log):
        record = new()
        for happening in order:
            apply_event(record, happening, NOTHING)
        assert record.traits == {"plan": "pro", "city": "Lund", "nested": {"b": 2}, "gone": None}


def test_only_identify_sets_traits():
    record = new()
    apply_event(record, Happening(traits={"plan": "pro"}), NOTHING)
    assert record.traits == {}


def test_e_mail_and_phone_are_traits_and_identifiers():
    record = new()
    apply_event(record, identify({"email": "Ann@Shop.example", "phone": "+46 1"}, T + 1), NOTHING)
    assert record.identified
    assert record.identifiers == ["acme|a|1", "acme|e|ann@shop.example", "acme|p|+46 1"]
    apply_event(record, Happening(time=T + 2, email="b@shop.example"), NOTHING)
    apply_event(record, Happening(time=T, email="old@shop.example"), NOTHING)
    assert record.traits == {"email": "b@shop.example", "phone": "+46 1"}
    assert "acme|e|old@shop.example" in record.identifiers


@pytest.mark.parametrize("value", [None, 7, ["a@b.example"], {"a": 1}, True, ""])
def test_an_e_mail_that_is_no_text_identifies_nobody(value):
    record = new()
    apply_event(record, identify({"email": value, "phone": value}), NOTHING)
    assert record.identifiers == ["acme|a|1"]
    assert not record.identified


def test_an_anonymous_id_beside_a_user_id_is_only_a_claim():
    record = new("acme|u|7")
    apply_event(record, Happening(user_id="7", anonymous_id="shared-tablet"), NOTHING)
    assert record.identifiers == ["acme|u|7"]
    add_identifier(record, "acme|a|shared-tablet")
    assert record.identifiers == ["acme|u|7", "acme|a|shared-tablet"]
    anonymous = new("acme|a|1")
    apply_event(anonymous, Happening(anonymous_id="1"), NOTHING)
    assert anonymous.identifiers == ["acme|a|1"]


def test_a_record_stays_small_whatever_is_sent_under_one_identifier():
    record = new("acme|u|undefined")
    for i in range(MAX_IDENTIFIERS + 5):
        add_identifier(record, f"acme|a|{i}")
    assert len(record.identifiers) == MAX_IDENTIFIERS
    apply_event(record, identify({f"t{i}": i for i in range(MAX_TRAITS + 5)}), NOTHING)
    assert len(record.traits) == MAX_TRAITS
    apply_event(record, identify({"t0": "new", "unknown": 1}, T + 1), NOTHING)
    assert record.traits["t0"] == "new"
    assert "unknown" not in record.traits
    apply_event(record, identify({"t0": "x" * MAX_TRAIT_BYTES}, T + 2), NOTHING)
    assert record.traits["t0"] == "new"
    apply_event(record, identify({"t0": 10**30}, T + 3), NOTHING)
    assert record.traits["t0"] == 10**30
