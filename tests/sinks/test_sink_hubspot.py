"""HubSpot: its events' names, its dedup key, its quotas."""

from __future__ import annotations

from uuid import UUID

import orjson
import pytest
from hubspot.events.send import BehavioralEventHttpCompletionRequest
from tool_world import asked, dispatch

from pipeline.sinks.base import SetupError
from pipeline.sinks.hubspot import HubspotSink

SINK = HubspotSink()
TOKEN = "pat-token"


@pytest.mark.parametrize("event", ["order_completed", "pe_order", "pe12", "pe12_", "pe12_order completed", "x pe12_a"])
def test_a_name_that_is_not_fully_qualified_is_refused_as_a_setting(event: str) -> None:
    with pytest.raises(SetupError, match=r"event .*fully qualified"):
        SINK.config({"event": event})


def test_a_name_made_of_the_record_is_checked_with_the_record() -> None:
    """HubSpot would refuse all of the request."""
    settings = {"event": "pe123_{$.event.properties.kind}"}
    for kind in ("order", "order-2", "Order_3"):
        body = asked("hubspot", settings, TOKEN, dispatch(event={"properties": {"kind": kind}})).body
        assert orjson.loads(body)["inputs"][0]["eventName"] == f"pe123_{kind}"
    for properties in ({"kind": "two words"}, {"kind": ""}, {}):
        with pytest.raises(ValueError, match="fully qualified"):
            asked("hubspot", settings, TOKEN, dispatch(event={"properties": properties}))


def test_an_event_has_no_field_that_its_own_client_does_not_know() -> None:
    [event] = orjson.loads(asked("hubspot", {"event": "pe123_a"}, TOKEN).body)["inputs"]
    assert set(event) <= set(BehavioralEventHttpCompletionRequest.attribute_map.values())


def test_the_dedup_key_is_a_uuid_of_ours_alone() -> None:
    def key(name: str, attempt: int) -> str:
        told = dispatch(id=name, attempt=attempt)
        return str(orjson.loads(asked("hubspot", {"event": "pe123_a"}, TOKEN, told).body)["inputs"][0]["uuid"])

    assert str(UUID(key("a", 0))) == key("a", 0) == key("a", 5)
    assert key("a", 0) != key("b", 0)


def test_a_quota_of_the_day_waits_longer_than_one_of_seconds() -> None:
    day = SINK.classify(429, {}, b'{"status":"error","policyName":"DAILY"}')
    seconds = SINK.classify(429, {}, b'{"status":"error","policyName":"TEN_SECONDLY_ROLLING"}')
    assert (day.outcome, day.retry_after) == ("throttle", 3600)
    assert (seconds.outcome, seconds.retry_after) == ("throttle", None)
    assert SINK.classify(429, {"retry-after": "9"}, b'{"policyName":"DAILY"}').retry_after == 9


def test_a_refusal_says_why() -> None:
    found = SINK.classify(400, {}, b'{"message":"No event with that name"}')
    assert (found.outcome, found.detail.endswith("No event with that name")) == ("invalid", True)
