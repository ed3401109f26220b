"""Google Analytics 4: what it would drop without a word is refused here, with one."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from tool_world import NOW, asked, dispatch

from pipeline.sinks.ga4 import Ga4Sink

SETTINGS = {"measurement": "G-ABC123"}
SECRET = "ga-secret"
DAYS = 3 * 86_400_000


def event(**changes: Any) -> dict[str, Any]:
    [made] = orjson.loads(asked("ga4", SETTINGS, SECRET, dispatch(**changes)).body)["events"]
    return dict(made)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("Order Completed", "order_completed"),
        ("  Plan: Gold!  ", "plan_gold"),
        ("x" * 60, "x" * 40),
        ("page_view", "page_view"),
    ],
)
def test_a_name_is_made_one_that_google_takes(name: str, theirs: str) -> None:
    assert event(name=name)["name"] == theirs


@pytest.mark.parametrize("name", ["7 up", "!!!", "ga_x", "google_x", "firebase_x", "Заказ"])
def test_a_name_that_can_be_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="event name"):
        event(name=name)


@pytest.mark.parametrize("name", ["Session Start", "first_visit", "Error", "user_engagement"])
def test_a_name_that_google_keeps_is_refused(name: str) -> None:
    """https://support.google.com/analytics/answer/13316687"""
    with pytest.raises(ValueError, match="keeps the event name"):
        event(name=name)


def test_what_happened_72_hours_ago_is_the_oldest() -> None:
    assert event(event={"time": NOW - DAYS})["name"] == "order_completed"
    with pytest.raises(ValueError, match="3 days"):
        event(event={"time": NOW - DAYS - 1})


def test_parameters_are_within_googles_limits() -> None:
    properties = {f"p{n}": "x" * 200 for n in range(40)} | {"ga_x": 1, "7": 1, "_x": 1, "x" * 41: 1}
    found = event(event={"properties": {"total": 5, "currency": "EUR", "bad": {"a": 1}} | properties})["params"]
    assert len(found) == 25
    assert (found["value"], found["currency"]) == (5, "EUR")
    assert {len(value) for name, value in found.items() if name.startswith("p")} == {100}
    assert not set(found) & {"ga_x", "7", "_x", "bad", "x" * 41}


def test_a_request_holds_one_clients_event() -> None:
    body = orjson.loads(asked("ga4", SETTINGS, SECRET).body)
    assert (body["client_id"], len(body["events"])) == ("a1", 1)
    body = orjson.loads(asked("ga4", SETTINGS, SECRET, dispatch(customer={"anonymous_id": None})).body)
    assert body["client_id"] == "7"


def test_nothing_can_be_asked_about_the_set_up() -> None:
    """Google's validation server looks at neither the secret nor the stream, so its answer would promise too much."""
    sink = Ga4Sink()
    assert sink.probe(sink.config(SETTINGS), SECRET, NOW) is None
