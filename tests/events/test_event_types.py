"""Events against the catalogue and a partner's own types."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.events.event_types import EventTypes, property_types
from pipeline.events.verdicts import RejectError
from pipeline.models.catalogue import Catalogue, EventType, Property, catalogue
from pipeline.models.control import PartnerEventType

BOOKED = EventType(
    title="Trip booked",
    description="A trip was booked.",
    properties={
        "price": Property(type="number"),
        "seats": Property(type="integer"),
        "class": Property(type="string", allowed=["economy", "business"]),
        "refundable": Property(type="boolean"),
        "legs": Property(type="array"),
        "leaves": Property(type="date-time"),
        "from.city": Property(type="string"),
    },
    required=["price", "from.city"],
)
GOOD: dict[str, Any] = {"price": 89.9, "from": {"city": "Riga"}}


def own(event: str, kind: EventType) -> PartnerEventType:
    return PartnerEventType(id="t", partner="acme", event=event, type=kind, version=1, created=0, updated=0)


TYPES = EventTypes([own("Trip Booked", BOOKED), own("Order Completed", BOOKED)], catalogue())


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"seats": 2, "class": "economy", "refundable": False, "legs": [], "leaves": "2026-01-31T12:00:00Z"},
        {"seats": 2.0, "unknown": {"is": "let through"}, "class": None},
    ],
)
def test_what_the_type_allows_is_taken(more: dict[str, Any]) -> None:
    TYPES.check("Trip Booked", GOOD | more)


@pytest.mark.parametrize(
    ("properties", "path", "says"),
    [
        (None, "$.properties.price", "required"),
        ({"price": 1}, "$.properties.from.city", "required"),
        (GOOD | {"price": "89.9"}, "$.properties.price", "no number"),
        (GOOD | {"price": True}, "$.properties.price", "no number"),
        (GOOD | {"seats": 2.5}, "$.properties.seats", "no whole number"),
        (GOOD | {"class": "first"}, "$.properties.class", "none of 'economy', 'business'"),
        (GOOD | {"refundable": 1}, "$.properties.refundable", "true or false"),
        (GOOD | {"legs": {}}, "$.properties.legs", "no list"),
        (GOOD | {"leaves": "soon"}, "$.properties.leaves", "RFC 3339"),
        ({"price": 1, "from": {"city": 7}}, "$.properties.from.city", "no text"),
        (GOOD | {"class": "x" * 500}, "$.properties.class", "…"),
    ],
)
def test_a_property_that_the_type_does_not_allow_is_named(properties: Any, path: str, says: str) -> None:
    with pytest.raises(RejectError, match=says) as caught:
        TYPES.check("Trip Booked", properties)
    assert (caught.value.reason, caught.value.path) == ("bad_property", path)
    assert len(str(caught.value)) < 300


def test_the_partners_type_goes_before_the_catalogues_and_others_stay() -> None:
    assert TYPES.find("Order Completed") is BOOKED
    assert EventTypes([], catalogue()).find("Order Completed") is catalogue().events["Order Completed"]
    TYPES.check("Page Viewed", None)
    TYPES.check("GitHub Fork", {"event": "fork", "anything": 1})
    with pytest.raises(RejectError) as caught:
        TYPES.check("Page Veiwed", None)
    assert (caught.value.reason, caught.value.path) == ("unknown_event", "$.event")


def test_a_name_that_ends_in_a_star_stands_for_its_family() -> None:
    types = EventTypes([own("Trip *", BOOKED)], Catalogue(events={}))
    types.check("Trip Cancelled", GOOD)
    with pytest.raises(RejectError):
        types.check("Tripped", GOOD)


def test_segments_are_checked_against_both_and_against_what_intake_finds_out() -> None:
    types = property_types(TYPES)
    assert types["Trip Booked"]["seats"] == "integer"
    assert types["Page Viewed"]["@.country"] == "string"
    assert types["Page Viewed"]["@.campaign.source"] == "string"
    assert {"Trip Booked", "Page Viewed"} <= set(types)
    assert len(types) == len(list(types)) == len(set(types))
    assert types.get("Nonsense") is None
