"""Declared mappings: paths, templates, casts, lists, and what does not fit."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.events.mapping import MappingError, compile_mapping
from pipeline.models.mapping import Mapping

ORDER: dict[str, Any] = {
    "type": "order.paid",
    "created": 1_700_000_000,
    "live": False,
    "customer": {"id": 17, "mail": " Ann@Shop.example ", "phone": "+49 (30) 123-456"},
    "total": 1999,
    "items": [{"sku": "a", "n": 1}, {"sku": "b", "n": 2}],
    "odd key": {"x": 1},
}


def run(event: dict[str, Any], document: Any = ORDER, others: str = "reject") -> list[dict[str, Any]]:
    return compile_mapping(Mapping.model_validate({"events": [event], "others": others}))(document, {"x-id": "h-1"})


def test_paths_templates_casts_and_constants_make_an_event() -> None:
    made = run(
        {
            "when": {"$.type": ["order.paid", "order.done"], "$.live": False, "$.customer": True, "$.gone": False},
            "event": "Order Completed",
            "userId": {"path": "$.customer.id", "as": "string"},
            "messageId": "$header.X-Id",
            "timestamp": {"path": "$.created", "as": "seconds"},
            "properties": {
                "total": {"path": "$.total", "scale": 0.01},
                "first": "$.items[0].sku",
                "last": "$.items[-1].sku",
                "odd": '$["odd key"].x',
                "text": "{$.type} of {$.customer.id}",
                "gone": "$.gone.deeper[0]",
                "kept": {"path": "$.gone", "default": 7},
                "shop": "north",
            },
            "traits": {
                "email": {"path": "$.customer.mail", "as": "lower"},
                "phone": {"path": "$.customer.phone", "as": "phone"},
            },
        }
    )
    assert made == [
        {
            "type": "track",
            "event": "Order Completed",
            "userId": "17",
            "messageId": "h-1",
            "timestamp": "2023-11-14T22:13:20.000Z",
            "properties": {
                "total": 19.99,
                "first": "a",
                "last": "b",
                "odd": 1,
                "text": "order.paid of 17",
                "kept": 7,
                "shop": "north",
            },
            "traits": {"email": "ann@shop.example", "phone": "+4930123456"},
        }
    ]


def test_each_makes_an_event_per_element() -> None:
    made = run({"each": "$.items", "event": "Bought", "properties": {"sku": "@.sku", "order": "$.total"}})
    assert [event["properties"] for event in made] == [{"sku": "a", "order": 1999}, {"sku": "b", "order": 1999}]
    assert run({"each": "$.items", "event": "Bought", "properties": "@"})[1]["properties"] == {"sku": "b", "n": 2}


@pytest.mark.parametrize("wanted", [17.0, "17", True, [16, "17"]])
def test_conditions_compare_strictly_by_type(wanted: Any) -> None:
    assert run({"when": {"$.customer.id": 17}, "event": "E"})
    if wanted is True:
        assert run({"when": {"$.customer.id": True}, "event": "E"})  # it is there
        return
    assert run({"when": {"$.customer.id": wanted}, "event": "E"}, others="ignore") == []


def test_what_does_not_fit_is_said_with_its_path() -> None:
    with pytest.raises(MappingError, match="no event of"):
        run({"when": {"$.type": "other"}, "event": "E"})
    with pytest.raises(MappingError, match="no number") as no:
        run({"event": "E", "properties": {"n": {"path": "$.customer.mail", "as": "number"}}})
    assert no.value.path == "$.customer.mail"
    with pytest.raises(MappingError, match="is no list"):
        run({"each": "$.customer", "event": "E"})
    with pytest.raises(MappingError, match="no path") as bad:
        run({"event": "$.a..b"})
    assert bad.value.path == "$.events[0].event"


def test_templates_cast_and_names_of_programs_become_names_for_people() -> None:
    count = {"path": "$.commits", "as": "count"}
    mapping = {"event": "GitHub {$header.x-event|title} {$.action|title}", "userId": "u", "properties": {"n": count}}
    run = compile_mapping(Mapping.model_validate({"events": [mapping]}))
    [made] = run({"action": "review_requested", "commits": [1, 2]}, {"x-event": "pull_request"})
    assert made["event"] == "GitHub Pull Request Review Requested"
    assert made["properties"] == {"n": 2}
    [made] = run({"action": "orders/create-now"}, {"x-event": "shop"})
    assert made["event"] == "GitHub Shop Orders Create Now"
    assert "properties" not in made
    with pytest.raises(MappingError, match="no cast 'upper'"):
        compile_mapping(Mapping.model_validate({"events": [{"event": "{$.a|upper}"}]}))
