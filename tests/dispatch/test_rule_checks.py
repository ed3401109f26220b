"""What rules may say of an event, samples of it, and rules that are in one another's way."""

from __future__ import annotations

from typing import Any

import pytest
from test_rules import rule

from pipeline.dispatch.catalogue import check_restrictions, sample
from pipeline.dispatch.conflicts import conflicts
from pipeline.events.event_types import EventTypes
from pipeline.models.catalogue import catalogue
from pipeline.models.control import Restriction

TYPES = EventTypes([], catalogue())


def restriction(property: str, *values: Any) -> Restriction:
    return Restriction.model_validate({"property": property, "values": list(values)})


def faults(*restrictions: Restriction, event: str = "Wallet Transaction") -> list[tuple[str, str]]:
    return [tuple(fault) for fault in check_restrictions(list(restrictions), event, TYPES.find(event))]


def test_what_the_catalogue_declares_may_be_restricted() -> None:
    assert (
        faults(restriction("type", "reward", "redeem"), restriction("operation", "credited"), restriction("amount", 5))
        == []
    )
    assert faults(restriction("@.country", "DE")) == []


@pytest.mark.parametrize(
    ("wrong", "path", "says"),
    [
        (restriction("colour", "red"), "$.restrictions[0].property", "wallet_id"),
        (restriction("type", "reward", "steal"), "$.restrictions[0].values[1]", "'redeem'"),
        (restriction("amount", "5"), "$.restrictions[0].values[0]", "number"),
        (restriction("amount", True), "$.restrictions[0].values[0]", "number"),
    ],
)
def test_what_it_does_not_is_refused_with_its_place_and_what_there_is(wrong: Restriction, path: str, says: str) -> None:
    [(where, message)] = faults(wrong)
    assert where == path
    assert says in message


def test_of_an_event_that_nobody_declared_anything_may_be_said() -> None:
    assert faults(restriction("colour", "red"), event="Something Else") == []


def test_every_sample_is_one_that_its_source_would_take() -> None:
    for name in TYPES.names():
        TYPES.check(name, sample(TYPES.find(name)))


def test_two_rules_that_tell_a_tool_of_one_event_are_in_conflict_unless_they_exclude_each_other() -> None:
    both = rule(id="both", restrictions=[restriction("type", "reward", "redeem")])
    reward = rule(id="reward", restrictions=[restriction("type", "reward")])
    redeem = rule(id="redeem", restrictions=[restriction("type", "redeem"), restriction("amount", 1)])
    one = rule(id="one", restrictions=[restriction("amount", True)])
    other = rule(id="other", event="Coupon Created")
    off = rule(id="off", enabled=False)
    elsewhere = rule(id="elsewhere", integration="mail")
    found = {frozenset((a.id, b.id)) for a, b in conflicts([both, reward, redeem, one, other, off, elsewhere])}
    assert found == {
        frozenset(pair) for pair in [("both", "reward"), ("both", "redeem"), ("both", "one"), ("reward", "one")]
    }
