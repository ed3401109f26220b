"""Why a customer is in a segment: what is said equals the membership, and names the events that make it so."""

from __future__ import annotations

from typing import Any

from customers_world import DAY, Happening, T, memberships, numbered, program, segment, trait
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_language_oracle import BASE, UNITS, definitions, rows

from pipeline.customers.apply import apply_event
from pipeline.customers.evaluate import evaluate
from pipeline.customers.explain import Reason, explain
from pipeline.customers.record import Record
from pipeline.segments.compile import Program


def person(compiled: Program, *happenings: Happening) -> Record:
    record = Record("acme|u|ada", "acme", T)
    for happening in happenings:
        apply_event(record, happening, compiled)
    evaluate(record, compiled, T + DAY, "event", full=True)
    return record


def said(condition: dict[str, Any], *happenings: Happening, **others: dict[str, Any]) -> Reason:
    compiled = program(s=condition, **others)
    return explain(segment(condition).condition, compiled, person(compiled, *happenings), T + DAY)


def test_the_events_that_count_are_named_and_when_time_alone_ends_it() -> None:
    view = {"event": "View", "window": {"rolling": "2d"}}
    old, first, second = Happening(time=T - 3 * DAY, id="old"), Happening(id="one"), Happening(time=T + 5, id="two")
    reason = said({"all": [view, {"not": {"event": "Buy"}}]}, old, first, second)
    assert reason.holds
    viewed, bought = reason.parts
    assert (viewed.path, viewed.holds, viewed.until) == ("$.condition.all[0]", True, T + 5 + 2 * DAY + 1)
    assert [(event.id, event.source, event.channel) for event in viewed.because] == [("two", "web", "Web")]
    assert (bought.path, bought.holds, bought.parts[0].because) == ("$.condition.all[1]", True, [])
    assert bought.parts[0].path == "$.condition.all[1].not"
    assert viewed.says == "Customers who did “View” at least once in the last 2 days"


def test_a_sum_and_a_sequence_name_their_events_by_their_own_ids() -> None:
    buys = [Happening("Buy", T + at, f"m {at}", properties={"p": 5}) for at in (1, 2)]
    total = said({"aggregate": "sum", "property": "p", "of": {"event": "Buy"}, "is": {"value": 10}}, *buys)
    assert (total.holds, [event.id for event in total.because]) == (True, ["m 2", "m 1"])
    twice = said({"sequence": [{"event": "Buy"}, {"event": "Buy"}]}, *buys)
    assert twice.holds
    assert {event.id for event in twice.because} == {"m 1", "m 2"}


def test_traits_and_other_segments_say_what_they_are_made_of() -> None:
    identified = Happening("Identified", type="identify", user_id="ada", traits={"plan": "gold"})
    gold = {"trait": "plan", "value": "gold"}
    reason = said({"any": [{"segment": "gold"}, {"trait": "plan", "value": "free"}]}, identified, gold=gold)
    assert reason.holds
    inside, free = reason.parts
    assert (inside.holds, inside.parts[0].value) == (True, "gold")
    assert (free.holds, free.value) == (False, "gold")


def test_a_computed_trait_says_its_worth_the_events_behind_it_and_the_moment_when_that_changes() -> None:
    spend = {"compute": "sum", "property": "total", "of": {"event": "Buy"}, "window": {"rolling": "30d"}}
    last = {"compute": "last", "of": {"event": "Buy"}, "scores": ["7d", "40d"]}
    conditions = [
        {"trait": "computed.spend", "op": ">=", "value": 10},
        {"trait": "computed.spend", "op": ">=", "value": 5},
        {"trait": "computed.spend", "op": "exists", "value": True},
        {"trait": "computed.last", "op": ">=", "value": 3},
        {"trait": "computed.last", "op": "exists", "value": True},
    ]
    compiled = Program([segment({"all": conditions})], [trait(spend, "spend"), trait(last, "last")])
    buys = [Happening("Buy", T + at, f"m {at}", properties={"total": total}) for at, total in ((0, 6), (DAY, 5))]
    record = person(compiled, *buys)
    reason = explain(segment({"all": conditions}).condition, compiled, record, T + DAY)
    rich, well, any_, fresh, ever = reason.parts
    assert [part.value for part in reason.parts] == [11, 11, 11, 3, 3]
    assert [event.id for event in rich.because] == ["m 86400000", "m 0"]
    assert [event.id for event in fresh.because] == ["m 86400000"]
    # The first order leaves the window; then the second, and nothing is left.
    assert rich.until == T + 30 * DAY + 1
    assert well.until == any_.until == T + 31 * DAY + 1
    assert (fresh.until, ever.until) == (T + 8 * DAY + 1, None)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(definitions, rows, st.sampled_from(UNITS))
def test_what_is_said_is_what_is_counted(definition: Any, found: Any, unit: int) -> None:
    compiled = program(**definition)
    record, now = Record("acme|a|1", "acme", BASE), BASE + 40 * unit
    for happening in numbered(found, BASE, unit):
        apply_event(record, happening, compiled)
    evaluate(record, compiled, now, "event", full=True)
    for name, written in compiled.definitions.items():
        reason = explain(written.condition, compiled, record, now)
        assert reason.holds is ("*" in memberships(record).get(name, ()))
