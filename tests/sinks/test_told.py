"""What a tool is told: the preset, the integration's and the rule's changes of it, what can't be told."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.events.mapping import MappingError
from pipeline.models.delivery import Dispatch
from pipeline.sinks.told import check_mapping, tell


def dispatch(**changes: Any) -> Dispatch:
    event = {
        "id": "m1",
        "name": "Order Completed",
        "time": 1_700_000_000_123,
        "properties": {"order_id": "o7", "total": 99.5, "currency": "EUR", "minor": 1250},
    }
    customer = {
        "id": "acme|u|7",
        "user_id": "7",
        "anonymous_id": "a1",
        "email": "ada@shop.example",
        "phone": None,
        "traits": {"first_name": "Ada", "phone": "+4930123456"},
    }
    base = {
        "id": "d1",
        "partner": "acme",
        "integration": "hook",
        "rule": "r",
        "name": "Shop Order Completed",
        "event": event,
        "customer": customer,
        "created": 1,
    }
    return Dispatch.model_validate(base | changes)


def test_the_preset_finds_who_what_when_and_how_much() -> None:
    told = tell(dispatch())
    assert (told.id, told.name, told.time) == ("d1", "Shop Order Completed", 1_700_000_000_123)
    assert (told.customer_id, told.email, told.phone, told.first_name) == (
        "7",
        "ada@shop.example",
        "+4930123456",
        "Ada",
    )
    assert (told.value, told.currency, told.last_name) == (99.5, "EUR", None)


def test_who_has_no_user_id_is_known_by_the_anonymous_and_then_by_the_canonical_id() -> None:
    assert tell(dispatch(customer={"id": "acme|a|x", "anonymous_id": "x"})).customer_id == "x"
    assert tell(dispatch(customer={"id": "acme|e|ada@shop.example"})).customer_id == "acme|e|ada@shop.example"


def test_the_rule_goes_before_the_integration_and_both_before_the_preset() -> None:
    integration = {"name": "{$.event.name} of {$.customer.traits.first_name}", "value": 1, "currency": "USD"}
    rule = {
        "value": {"path": "$.event.properties.minor", "scale": 0.01},
        "id": "order-{$.event.properties.order_id}",
        "properties": {"order": "$.event.properties.order_id", "missing": "$.event.properties.nothing"},
    }
    told = tell(dispatch(mapping=rule), integration)
    assert (told.name, told.value, told.currency) == ("Order Completed of Ada", 12.5, "USD")
    assert (told.id, told.properties) == ("order-o7", {"order": "o7"})


@pytest.mark.parametrize(
    ("mapping", "field"),
    [
        ({"value": "$.event.name"}, "value"),
        ({"time": "$.event.name"}, "time"),
        ({"id": "$.event.properties.nothing"}, "id"),
        ({"properties": "$.event.name"}, "properties"),
    ],
)
def test_what_a_mapping_makes_wrong_is_named(mapping: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        tell(dispatch(mapping=mapping))


@pytest.mark.parametrize(
    ("mapping", "path"),
    [
        ({"colour": "red"}, "$.mapping.colour"),
        ({"value": "$.event."}, "$.mapping.value"),
        ({"properties": {"a": "{$.x|nonsense}"}}, "$.mapping.properties.a"),
    ],
)
def test_a_mapping_that_can_not_be_read_is_refused_with_its_place(mapping: dict[str, Any], path: str) -> None:
    with pytest.raises(MappingError) as refused:
        check_mapping(mapping)
    assert refused.value.path == path
