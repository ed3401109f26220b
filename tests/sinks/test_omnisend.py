"""Omnisend: its event as its guide has it, the contact, its dedup key, its limits."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
import pytest
from tool_world import NOW, asked, dispatch

from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Request, SetupError
from pipeline.sinks.omnisend import OmnisendSink

KEY = "omni-key"
SINK = OmnisendSink()


def made(told: Dispatch | None = None, **settings: Any) -> tuple[Request, Any]:
    request = asked("omnisend", settings, KEY, told)
    return request, orjson.loads(request.body)


def test_an_event_is_as_the_guide_has_it() -> None:
    request, body = made()
    assert (request.method, request.url) == ("POST", "https://api.omnisend.com/v5/events")
    assert (request.headers["x-api-key"], request.headers["content-type"]) == (KEY, "application/json")
    assert KEY not in str(request.shown())
    key = body.pop("eventID")
    assert body == {
        "eventName": "Order Completed",
        "origin": "api",
        "eventTime": "2023-11-14T22:13:20.123Z",
        "contact": {
            "email": "Ada@Shop.example",
            "phone": "+49301234567",
            "firstName": "Ada",
            "lastName": "Lovelace",
        },
        "properties": dispatch().event["properties"],
    }
    assert UUID(key).version == 5


def test_the_dedup_key_is_of_the_record_alone() -> None:
    """With the event's time: both are the same on every attempt and replay."""

    def key(**changes: Any) -> tuple[str, str]:
        body = made(dispatch(**changes))[1]
        return body["eventID"], body["eventTime"]

    assert key() == key(attempt=5) == key(replayed=True)
    assert key(id="other")[0] != key()[0]


def test_a_version_is_of_predefined_events() -> None:
    assert "eventVersion" not in made()[1]
    assert made(version="v2")[1]["eventVersion"] == "v2"


def test_who_is_known_by_phone_first_is_not_told_of_by_mail_as_well() -> None:
    def who(selector: str, **customer: Any) -> dict[str, Any]:
        contact = made(dispatch(customer=customer), selector=selector)[1]["contact"]
        return {name: contact.get(name) for name in ("email", "phone")}

    assert who("email") == {"email": "Ada@Shop.example", "phone": "+49301234567"}
    assert who("phone") == {"email": None, "phone": "+49301234567"}
    assert who("phone", phone="030 1") == {"email": "Ada@Shop.example", "phone": None}
    with pytest.raises(ValueError, match="here is none"):
        made(dispatch(customer={"email": None, "phone": "030 1"}))


def test_a_long_name_does_not_have_the_event_refused() -> None:
    contact = made(dispatch(customer={"traits": {"first_name": "x" * 51}}))[1]["contact"]
    assert contact["firstName"] == "x" * 50
    assert "lastName" not in contact


def test_a_refusal_says_why_and_where() -> None:
    found = SINK.classify(400, {}, b'{"error":"Validation failed","fields":[{"name":"contact.email"}]}')
    assert found.outcome == "invalid"
    assert found.detail.endswith("400: Validation failed [{'name': 'contact.email'}]")
    assert SINK.classify(400, {}, b'{"error":"No such event"}').detail.endswith("400: No such event")


def test_it_waits_for_the_rest_of_the_minute() -> None:
    def wait(**headers: str) -> float | None:
        found = SINK.classify(429, {name.replace("_", "-"): value for name, value in headers.items()}, b"")
        assert found.outcome == "throttle"
        return found.retry_after

    assert wait(x_rate_limit_reset="17") == 17
    assert wait(x_rate_limit_reset="17", retry_after="4") == 4
    assert wait() is None
    assert wait(x_rate_limit_reset="soon") is None


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(202, "ok"), (401, "setup"), (403, "setup"), (404, "setup"), (409, "invalid"), (500, "transient")],
)
def test_other_answers_are_told_by_status(status: int, outcome: str) -> None:
    assert SINK.classify(status, {}, b"").outcome == outcome


def test_its_limit_is_four_hundred_a_minute() -> None:
    rate, _ = SINK.limits(SINK.config({}))
    assert rate is not None
    assert round(rate * 60) == 400


def test_it_is_asked_whose_key_it_is() -> None:
    request = SINK.probe(SINK.config({"address": "http://127.0.0.1:8080/"}), KEY, NOW)
    assert (request.method, request.url) == ("GET", "http://127.0.0.1:8080/v5/brands/current")
    assert request.headers["x-api-key"] == KEY
    assert KEY not in str(request.shown())


@pytest.mark.parametrize("secret", [None, "", "two words"])
def test_a_key_that_is_none_is_the_set_ups_fault(secret: str | None) -> None:
    with pytest.raises(SetupError, match="API key of Omnisend"):
        asked("omnisend", {}, secret)


def test_an_address_with_credentials_is_refused() -> None:
    with pytest.raises(SetupError, match="setting address"):
        SINK.config({"address": "https://user:pass@proxy.example"})
