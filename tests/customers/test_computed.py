"""Computed traits: each kind, to the millisecond, and random ones against an oracle that shares no code."""

from __future__ import annotations

import os
from typing import Any

import pytest
from computed_oracle import computed
from customers_world import DAY, NAMES, PLACES, Happening, T, memberships, numbered, plain, segment, trait
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle_world import World, steps
from pydantic import ValidationError
from test_language_oracle import BASE, UNITS, calendars, dids, windows

from pipeline.customers.apply import apply_event
from pipeline.customers.cut import cut
from pipeline.customers.evaluate import advance, evaluate
from pipeline.customers.merge import merge
from pipeline.customers.record import Record
from pipeline.models.trait import Computation
from pipeline.segments.compile import Program

EXAMPLES = int(os.environ.get("ORACLE_EXAMPLES", "500"))
quiet: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}

BUY = {"event": "Buy"}
SPEND = {"compute": "sum", "property": "total", "of": BUY}


class Person:
    """A customer in memory, and the program it is looked at with."""

    def __init__(self, *segments: Any, **traits: dict[str, Any]) -> None:
        self.program = Program(segments, [trait(computation, id) for id, computation in traits.items()])
        self.record = Record("acme|u|1", "acme", T)
        self.sent = 0

    def buy(self, time: int, total: Any = 1, now: int | None = None, **more: Any) -> list[str]:
        self.sent += 1
        event = Happening("Buy", time, f"b{self.sent}", properties={"total": total}, **more)
        apply_event(self.record, event, self.program)
        changes = evaluate(self.record, self.program, time if now is None else now, "event", event.id)
        return [f"{change.kind} {change.segment}" for change in changes]

    def at(self, now: int) -> dict[str, Any]:
        advance(self.record, self.program, now)
        found: dict[str, Any] = self.record.traits.get("computed", {})
        return found


def test_total_spend_is_exact_and_whole_where_it_is_whole() -> None:
    person = Person(spend=SPEND, most=SPEND | {"compute": "max"}, mean=SPEND | {"compute": "average"})
    for total in (0.1, 0.2, "3", None, True):
        person.buy(T, total)
    assert person.at(T) == {"spend": 0.3, "most": 0.2, "mean": 0.15}
    person.buy(T, 0.7)
    assert person.at(T)["spend"] == 1
    assert type(person.at(T)["spend"]) is int


def test_a_value_leaves_its_window_by_time_alone_to_the_millisecond() -> None:
    person = Person(spend=SPEND | {"window": {"rolling": "30d"}}, orders={"compute": "count", "of": BUY})
    person.buy(T, 5)
    person.buy(T + DAY, 7)
    assert person.at(T + 30 * DAY) == {"spend": 12, "orders": 2}
    assert person.at(T + 30 * DAY + 1) == {"spend": 7, "orders": 2}
    assert person.at(T + 31 * DAY) == {"spend": 7, "orders": 2}
    assert person.at(T + 31 * DAY + 1) == {"orders": 2}
    assert person.record.deadline is None


def test_recency_falls_by_a_score_at_each_bound() -> None:
    person = Person(
        recency={"compute": "last", "of": BUY, "scores": ["7d", "30d"]}, last={"compute": "last", "of": BUY}
    )
    person.buy(T)
    found = [person.at(T + age)["recency"] for age in (0, 7 * DAY, 7 * DAY + 1, 30 * DAY, 30 * DAY + 1, 999 * DAY)]
    assert found == [3, 3, 2, 2, 1, 1]
    assert person.at(T + 999 * DAY)["last"] == "2023-11-14T22:13:20.000Z"
    assert person.record.deadline is None


def test_a_segment_looks_at_a_computed_trait_and_moves_with_it_in_the_same_moment() -> None:
    rich = segment({"trait": "computed.spend", "op": ">=", "value": 10}, "rich")
    lost = segment({"not": {"trait": "computed.spend", "op": "exists", "value": True}}, "lost")
    person = Person(rich, lost, spend=SPEND | {"window": {"rolling": "30d"}})
    assert person.buy(T, 6) == []
    assert person.buy(T + DAY, 4) == ["entered rich"]
    changes = advance(person.record, person.program, T + 40 * DAY)
    assert [(c.kind, c.segment, c.at) for c in changes] == [
        ("left", "rich", T + 30 * DAY + 1),
        ("entered", "lost", T + 31 * DAY + 1),
    ]


def test_nobody_but_the_engine_sets_what_is_computed() -> None:
    person = Person(spend=SPEND)
    person.buy(T, 6)
    said = Happening("Identified", T + 1, "i1", type="identify", user_id="1", traits={"computed": {"spend": 9}, "a": 1})
    apply_event(person.record, said, person.program)
    evaluate(person.record, person.program, T + 1, "event", "i1")
    assert person.record.traits == {"computed": {"spend": 6}, "a": 1}


def test_a_trait_with_a_dot_in_its_name_hides_nothing_that_is_computed() -> None:
    person = Person(segment({"trait": "computed.spend", "op": ">=", "value": 9}), spend=SPEND)
    traits = {"computed.spend": 99, "computed.other": 1, "computedly": 2}
    said = Happening("Identified", T, "i1", type="identify", user_id="1", traits=traits)
    apply_event(person.record, said, person.program)
    assert evaluate(person.record, person.program, T, "event", "i1") == []
    assert person.record.traits == {"computedly": 2}


def test_a_segment_over_all_that_is_computed_moves_when_something_is_and_when_nothing_is_left() -> None:
    known = segment({"trait": "computed", "op": "exists", "value": True}, "known")
    person = Person(known, spend=SPEND | {"window": {"rolling": "30d"}})
    assert person.buy(T) == ["entered known"]
    assert person.buy(T + 1) == []
    changes = advance(person.record, person.program, T + 40 * DAY)
    assert [(c.kind, c.segment, c.at) for c in changes] == [("left", "known", T + 30 * DAY + 2)]


def test_the_value_of_a_computation_that_was_edited_to_nothing_goes() -> None:
    person = Person(spend=SPEND)
    person.buy(T, 6)
    edited = Program([], [trait(SPEND | {"of": {"event": "Return"}}, "spend")])
    evaluate(person.record, edited, T, "definition", full=True)
    assert "computed" not in person.record.traits


def test_two_records_that_become_one_have_one_sum_and_what_is_cut_is_in_none() -> None:
    one, other = Person(spend=SPEND), Person(spend=SPEND)
    one.buy(T, 6)
    other.buy(T + 5, 3, source="app")
    merge(one.record, other.record, one.program)
    evaluate(one.record, one.program, T + 5, "merge")
    assert one.at(T + 5) == {"spend": 9}
    cut(one.record, T + 5)
    evaluate(one.record, one.program, T + 5, "merge")
    assert one.at(T + 5) == {"spend": 3}


def test_what_is_defined_no_more_goes_and_what_is_new_stays_away_until_its_past_is_read() -> None:
    person = Person(spend=SPEND)
    person.buy(T, 6)
    after = Program([], [trait(SPEND | {"compute": "max"}, "most")])
    evaluate(person.record, after, T, "definition", full=True, dormant={"trait:most"})
    assert "computed" not in person.record.traits
    evaluate(person.record, after, T, "back-fill", full=True)
    # Sum and greatest are of the same kept events: the state served the new one at once.
    assert person.record.traits == {"computed": {"most": 6}}


def test_it_is_told_when_there_may_be_more_than_is_kept() -> None:
    person = Person(spend=SPEND | {"window": {"rolling": "30d"}}, last={"compute": "last", "of": BUY})
    spend, last = person.program.traits.values()
    for second in range(249):
        person.buy(T + second)
    assert not spend.is_cut(person.record, T + 249)
    person.buy(T + 249)
    assert spend.is_cut(person.record, T + 249)
    assert not spend.is_cut(person.record, T + 30 * DAY + 200)
    assert not last.is_cut(person.record, T + 249)


@pytest.mark.parametrize(
    "wrong",
    [
        {"compute": "sum", "of": BUY},
        {"compute": "count", "of": BUY, "property": "total"},
        {"compute": "count", "of": BUY, "cast": "number"},
        {"compute": "days", "of": BUY},
        {"compute": "first", "of": BUY, "window": {"rolling": "1d"}},
        {"compute": "last", "of": BUY, "scores": [1]},
        {"compute": "count", "of": BUY, "scores": ["1d"]},
        {"compute": "count", "of": BUY, "scores": [2, 2]},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Computation.model_validate(wrong)


bounds = st.lists(st.sampled_from([0, 1, 2.5, 4]), min_size=1, max_size=3, unique=True).map(sorted)
ages = st.lists(st.sampled_from(["1ms", "5ms", "7h", "35h"]), min_size=1, max_size=3, unique=True).map(
    lambda found: sorted(found, key=lambda age: (age[-1] == "h", int(age.rstrip("msh"))))
)
computations = st.one_of(
    st.fixed_dictionaries(
        {
            "compute": st.sampled_from(["sum", "min", "max", "average"]),
            "property": st.just("p"),
            "of": dids,
            "window": windows,
        },
        optional={"cast": st.just("number"), "scores": bounds},
    ),
    st.fixed_dictionaries({"compute": st.just("count"), "of": dids, "window": windows}, optional={"scores": bounds}),
    st.fixed_dictionaries({"compute": st.just("days"), "of": dids, "window": calendars}, optional={"scores": bounds}),
    st.fixed_dictionaries({"compute": st.just("last"), "of": dids, "window": windows}, optional={"scores": ages}),
    st.fixed_dictionaries({"compute": st.just("first"), "of": dids}, optional={"scores": ages}),
)
definitions = st.lists(computations, min_size=1, max_size=3).map(
    lambda c: {f"t{at}": each for at, each in enumerate(c)}
)
looks = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([">=", "<", "equals", "exists"]), st.sampled_from([1, 2, 2.5])),
    max_size=2,
).map(
    lambda found: {
        f"s{at}": {"trait": f"computed.t{name}", "op": op, "value": True if op == "exists" else value}
        for at, (name, op, value) in enumerate(found)
    }
)
values = st.sampled_from([{"p": 1}, {"p": 2.5}, {"p": "1"}, {"p": 0}, {"p": True}, {"p": -0.1}, None])
rows = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(PLACES), st.integers(0, 40), values), min_size=1, max_size=12
)


@settings(max_examples=EXAMPLES, **quiet)
@given(definitions, looks, rows, steps, st.booleans(), st.sampled_from(UNITS))
def test_values_and_the_segments_over_them_equal_the_oracle_after_every_step(
    found: Any, segments: Any, log: Any, sequence: Any, full: bool, unit: int
) -> None:
    world = World(segments or {"s": {"event": "View"}}, numbered(log, BASE, unit), full, BASE, unit, found)
    for action, argument in sequence:
        getattr(world, action)(argument)
        world.check()
        for index, person in world.people.items():
            if index in world.stored:
                assert world.load(index).traits.get("computed", {}) == computed(found, person.events, world.now)


@settings(max_examples=EXAMPLES, **quiet)
@given(definitions, rows, st.sampled_from(UNITS), st.lists(st.integers(0, 60), min_size=1, max_size=6))
def test_values_are_right_at_every_moment_though_nothing_happens(
    found: Any, log: Any, unit: int, waits: list[int]
) -> None:
    person = Person(**found)
    now = BASE + 40 * unit
    events = numbered(log, BASE, unit)
    for event in events:
        apply_event(person.record, event, person.program)
    evaluate(person.record, person.program, now, "event", full=True)
    for wait in waits:
        now += wait * unit
        assert person.at(now) == computed(found, [plain(event) for event in events], now)
    assert memberships(person.record) == {}
