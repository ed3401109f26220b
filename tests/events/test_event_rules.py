"""A source's policy, compiled: what it takes, and what of it can't be read."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.events.event_types import EventTypes
from pipeline.events.rules import PolicyError, Rules, check_policy
from pipeline.events.verdicts import RejectError
from pipeline.models.catalogue import catalogue
from pipeline.models.control import Source
from pipeline.models.policy import Policy


def source(**policy: Any) -> Source:
    stamps = {"version": 1, "created": 0, "updated": 0}
    return Source(id="app", partner="acme", name="App", code="app", policy=Policy.model_validate(policy), **stamps)


def rules(**policy: Any) -> Rules:
    return Rules(source(**policy), EventTypes([], catalogue()))


def refused(made: Rules, name: str, properties: Any = None, event: Any = None) -> tuple[str, str | None]:
    with pytest.raises(RejectError) as caught:
        made.check(name, properties, event)
    return caught.value.reason, caught.value.path


def test_the_plain_policy_asks_for_nothing_more() -> None:
    made = rules()
    assert made.plain
    assert not made.strict
    assert made.fault is None


def test_only_the_events_it_names() -> None:
    made = rules(events=["Order Completed", "Identified"])
    made.check("Identified", None, None)
    assert refused(made, "Page Viewed") == ("event_not_allowed", "$.event")


def test_only_the_catalogue() -> None:
    made = rules(accepts="catalogue")
    made.check("Order Completed", {"order_id": "o"}, None)
    assert refused(made, "Order Completed", {"order_id": 7}) == ("bad_property", "$.properties.order_id")
    assert refused(made, "Order Finished") == ("unknown_event", "$.event")


PAYLOAD = {
    "type": "object",
    "required": ["properties"],
    "properties": {
        "properties": {
            "type": "object",
            "required": ["lines"],
            "properties": {"lines": {"type": "array", "items": {"$ref": "#/$defs/line"}}},
            "additionalProperties": False,
        }
    },
    "$defs": {"line": {"type": "object", "properties": {"sku": {"type": "string", "pattern": "^[A-Z]+$"}}}},
}


def test_only_exactly_this_payload() -> None:
    made = rules(accepts="payload", payload=PAYLOAD)
    assert made.whole
    good = {"event": "E", "properties": {"lines": [{"sku": "A"}]}}
    made.check("E", good["properties"], good)
    bad = {"event": "E", "properties": {"lines": [{"sku": "A"}, {"sku": "a" * 1000}]}}
    assert refused(made, "E", bad["properties"], bad) == ("payload", "$.properties.lines[1].sku")
    assert refused(made, "E", None, {"event": "E"}) == ("payload", "$")


@pytest.mark.parametrize(
    ("policy", "path", "says"),
    [
        ({"accepts": "payload", "payload": {"type": "objekt"}}, "$.payload.type", "no JSON Schema"),
        ({"accepts": "payload", "payload": {"properties": {"a": {"pattern": "(a"}}}}, "$.payload", "no JSON Schema"),
        ({"accepts": "payload", "payload": {"pattern": "(a)\\1"}}, "$.payload", "no JSON Schema"),
        ({"accepts": "payload", "payload": {"$ref": "http://127.0.0.1:9/x"}}, "$.payload", "another document"),
        ({"accepts": "payload", "payload": {"$ref": "file:///etc/passwd"}}, "$.payload", "another document"),
        ({"mapping": {"events": [{"event": "$.a..b"}]}}, "$.mapping.events[0].event", "no path"),
    ],
)
def test_a_policy_that_can_not_be_read_is_named_and_takes_nothing(policy: Any, path: str, says: str) -> None:
    with pytest.raises(PolicyError, match=says) as caught:
        check_policy(Policy.model_validate(policy))
    assert caught.value.path.startswith(path)
    assert says in (rules(**policy).fault or "")


def test_a_pattern_costs_no_more_than_the_text_is_long() -> None:
    made = rules(accepts="payload", payload={"properties": {"event": {"pattern": "^(a+)+$"}}})
    assert refused(made, "E", None, {"event": "a" * 100_000 + "!"}) == ("payload", "$.event")
