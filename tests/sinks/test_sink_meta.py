"""Meta's Conversions API: where it happened, who it is, what is a test, what an answer means."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
import pytest
from tool_world import NOW, asked, dispatch

from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Request
from pipeline.sinks.meta import MetaSink

SINK = MetaSink()
SETTINGS = {"pixel": "1234567890"}
TOKEN = "meta-token"
WEEK = 7 * 86_400_000


def event(told: Dispatch) -> dict[str, Any]:
    [made] = orjson.loads(asked("meta", SETTINGS, TOKEN, told).body)["data"]
    return dict(made)


def sent(*told: Dispatch, **settings: Any) -> dict[str, Any]:
    config = SINK.config(SETTINGS | settings)
    request = SINK.request_of([SINK.part(each, config, NOW) for each in told], config, TOKEN, NOW)
    assert isinstance(request, Request)
    assert TOKEN not in request.url
    return dict(orjson.loads(request.body))


PAGE = {"page": {"url": "https://shop.example/thanks"}}


@pytest.mark.parametrize(
    ("event_of", "source"),
    [
        ({"channel": "Web"}, "website"),
        ({"channel": "E-mail"}, "email"),
        ({"channel": "Call Center"}, "phone_call"),
        ({"channel": "Messenger"}, "chat"),
        ({"channel": "CRM"}, "other"),
        # Meta wants `app_data` with an app's event, and a browser's name and a page with a site's.
        ({"channel": "Mobile"}, "other"),
        ({"context": {"userAgent": "Mozilla/5.0"}}, "other"),
        ({"context": PAGE}, "other"),
        ({"context": {"userAgent": 7, "page": "x"}}, "other"),
        ({"context": PAGE, "ua": "Mozilla/5.0"}, "website"),
    ],
)
def test_where_it_happened(event_of: dict[str, Any], source: str) -> None:
    made = event(dispatch(event=event_of))
    assert made["action_source"] == source
    assert ("event_source_url" in made) == (source == "website")


def test_a_page_view_tells_its_page_itself() -> None:
    told = {"context": None, "ua": "Mozilla/5.0", "properties": {"url": "https://shop.example/a"}}
    assert event(dispatch(event=told | {"type": "page"}))["event_source_url"] == "https://shop.example/a"
    assert "event_source_url" not in event(dispatch(event=told))


def test_a_server_that_passes_events_on_is_not_their_agent() -> None:
    edge = {"ua": "analytics-node/3", "ip": "198.51.100.1"}
    user = event(dispatch(event=edge | {"context": {"userAgent": "Mozilla/5.0", "ip": "203.0.113.7"}}))["user_data"]
    assert (user["client_user_agent"], user["client_ip_address"]) == ("Mozilla/5.0", "203.0.113.7")
    user = event(dispatch(event=edge | {"context": {}}))["user_data"]
    assert (user["client_user_agent"], user["client_ip_address"]) == ("analytics-node/3", "198.51.100.1")


@pytest.mark.parametrize("address", ["not one", "999.1.1.1", 7, ["203.0.113.9"]])
def test_an_address_that_is_none_is_left_out(address: Any) -> None:
    """Meta would refuse all of the request for it."""
    assert "client_ip_address" not in event(dispatch(event={"context": {"ip": address}}))["user_data"]


def test_who_it_is_is_hashed_as_segments_own_destination_does() -> None:
    """segmentio/action-destinations, fb-capi-user-data.ts: no spaces, lower case, a phone's digits alone; SHA-256."""
    who = {
        "email": " Ada@Shop.example ",
        "phone": "+49 (30) 123-4567",
        "traits": {"first_name": "Ada", "last_name": "L"},
    }
    user = event(dispatch(customer=who))["user_data"]
    for name, value in {
        "em": "ada@shop.example",
        "ph": "49301234567",
        "fn": "ada",
        "ln": "l",
        "external_id": "7",
    }.items():
        assert user[name] == [hashlib.sha256(value.encode()).hexdigest()]


def test_only_tests_go_where_tests_are_shown() -> None:
    live, trial = dispatch(), dispatch(test=True)
    assert sent(trial, testing_code="TEST1")["test_event_code"] == "TEST1"
    assert "test_event_code" not in sent(live, testing_code="TEST1")
    assert "test_event_code" not in sent(trial)
    assert sent(live, trial, testing_code="TEST1")["test_event_code"] == "TEST1"
    assert sent(trial, testing_code="TEST1")["data"] == sent(live)["data"]


def test_what_is_nearly_a_week_old_is_not_sent_with_others() -> None:
    assert event(dispatch(event={"time": NOW - WEEK + 3_600_000}))["event_time"] == (NOW - WEEK + 3_600_000) // 1000
    with pytest.raises(ValueError, match="week"):
        event(dispatch(event={"time": NOW - WEEK + 3_599_999}))


def test_what_it_was_worth() -> None:
    made = event(dispatch())
    assert (made["custom_data"]["value"], made["custom_data"]["currency"]) == (99.5, "EUR")
    assert (made["event_id"], made["event_name"]) == (dispatch().id, "Order Completed")


@pytest.mark.parametrize("code", ["1e999", "1e300", '"x"', "null", "[1]", "true"])
def test_a_code_that_is_none_is_what_the_status_says(code: str) -> None:
    body = b'{"error":{"code":%b,"message":"x"}}' % code.encode()
    assert SINK.classify(400, {}, body).outcome in ("invalid", "transient")
    assert SINK.classify(503, {}, body).outcome == "transient"
