"""Mailchimp: names and properties that it takes, the key's data centre, a member that there is not."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tool_world import NOW, asked, dispatch

from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Request, SetupError
from pipeline.sinks.mailchimp import MailchimpSink

KEY = "0123456789abcdef0123456789abcdef-us21"
AUDIENCE = "abcdef0123"
SINK = MailchimpSink()
#: As Mailchimp answers for a member that is not in the audience, and for an audience that there is not.
NOT_FOUND = orjson.dumps(
    {
        "type": "https://mailchimp.com/developer/marketing/docs/errors/",
        "title": "Resource Not Found",
        "status": 404,
        "detail": "The requested resource could not be found.",
        "instance": "1203266a-4b3e-463e-94a5-4727ccddb14c",
    }
)


def made(told: Dispatch | None = None, secret: str = KEY, **settings: Any) -> tuple[Request, Any]:
    request = asked("mailchimp", {"audience": AUDIENCE} | settings, secret, told)
    return request, orjson.loads(request.body)


def test_an_event_goes_to_the_member_that_its_mail_is_the_hash_of() -> None:
    request, body = made()
    member = hashlib.md5(b"ada@shop.example").hexdigest()
    assert request.method == "POST"
    assert request.url == f"https://us21.api.mailchimp.com/3.0/lists/{AUDIENCE}/members/{member}/events"
    assert request.headers["authorization"] == "Basic " + base64.b64encode(f"headrace:{KEY}".encode()).decode()
    assert body == {
        "name": "order_completed",
        "properties": {
            "order_id": "o7",
            "total": "99.5",
            "currency": "EUR",
            "items": '[{"sku":"a"}]',
            "gift": "false",
        },
        "occurred_at": "2023-11-14T22:13:20.123Z",
    }


def test_what_is_replayed_sets_off_no_automation() -> None:
    assert made(dispatch(replayed=True))[1]["is_syncing"] is True


@pytest.mark.parametrize(
    ("name", "sent_as"),
    [
        ("Order Completed", "order_completed"),
        ("order-completed_2", "order-completed_2"),
        ("  Größe gewählt! ", "gr_e_gew_hlt"),
        ("A" * 40, "a" * 30),
        ("ab", "ab"),
    ],
)
def test_a_name_is_written_as_mailchimp_takes_it(name: str, sent_as: str) -> None:
    assert made(dispatch(name=name))[1]["name"] == sent_as


@pytest.mark.parametrize("name", ["", "a", "Заказ", "!?", "_x_"])
def test_a_name_of_which_nothing_is_left_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="2 to 30"):
        made(dispatch(name=name))


json = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.lists(st.integers(0, 9), max_size=3)


@given(properties=st.dictionaries(st.text(max_size=20), json, max_size=6), name=st.text(max_size=60))
def test_all_that_is_sent_is_text(properties: dict[str, Any], name: str) -> None:
    _, body = made(dispatch(event={"properties": properties}, name=f"ab{name}"))
    assert re.fullmatch(r"[a-z0-9_-]{2,30}", body["name"])
    assert all(isinstance(value, str) for value in body["properties"].values())
    assert len(body["properties"]) <= sum(value is not None for value in properties.values())


def test_a_member_is_put_once_under_its_hash() -> None:
    merge = {"FNAME": "{$.customer.traits.first_name}", "PLAN": "{$.customer.traits.plan}"}
    request, body = made(dispatch(customer={"email": " Ada@Shop.example "}), mode="members", merge=merge)
    member = hashlib.md5(b"ada@shop.example").hexdigest()
    assert (request.method, request.url.rpartition("/")[2]) == ("PUT", member)
    assert body == {
        "email_address": "Ada@Shop.example",
        "status_if_new": "transactional",
        "merge_fields": {"FNAME": "Ada", "PLAN": "gold"},
    }
    assert made(mode="members", status="subscribed")[1]["status_if_new"] == "subscribed"


def test_who_has_no_mail_is_refused() -> None:
    with pytest.raises(ValueError, match="by e-mail"):
        made(dispatch(customer={"email": None}))


def test_who_is_no_member_holds_up_nobody() -> None:
    """Mailchimp says the same of an audience that there is not: it is not the integration that pauses for it."""
    found = SINK.classify(404, {}, NOT_FOUND)
    assert found.outcome == "invalid"
    assert "no such member" in found.detail
    assert "no such audience" in found.detail


def test_a_refusal_names_the_fields() -> None:
    problem = {"title": "Invalid Resource", "status": 400, "detail": "Not valid.", "instance": "1"}
    fields = [{"field": "name", "message": "Too long"}, {"field": "", "message": "Schema describes object"}]
    found = SINK.classify(400, {}, orjson.dumps(problem | {"errors": fields}))
    assert found.outcome == "invalid"
    assert found.detail.endswith("Not valid.; name: Too long; : Schema describes object")
    assert SINK.classify(400, {}, orjson.dumps(problem)).detail.endswith("Not valid.")


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "ok"), (204, "ok"), (401, "setup"), (403, "setup"), (429, "throttle"), (503, "transient")],
)
def test_other_answers_are_told_by_status(status: int, outcome: str) -> None:
    assert SINK.classify(status, {}, b"").outcome == outcome


@pytest.mark.parametrize(
    "secret", ["0123456789abcdef", "0123456789abcdef-us21.evil.example/", "0123456789abcdef-", "x-us1"]
)
def test_a_key_without_its_data_centre_is_the_set_ups_fault(secret: str) -> None:
    """The key says which host it goes to, so it may say nothing else."""
    with pytest.raises(SetupError, match="data centre"):
        made(secret=secret)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, "audience"),
        ({"audience": "../x"}, "audience"),
        ({"audience": AUDIENCE, "max_in_flight": 11}, "max_in_flight"),
        ({"audience": AUDIENCE, "status": "cleaned"}, "status"),
        ({"audience": AUDIENCE, "merge": {"FNAME": "{$.a[}"}}, "merge"),
    ],
)
def test_settings_that_are_none_are_named(settings: dict[str, Any], names: str) -> None:
    with pytest.raises(SetupError, match=f"setting {names}"):
        SINK.config(settings)


def test_no_more_are_under_way_than_mailchimp_takes() -> None:
    assert SINK.config({"audience": AUDIENCE}).max_in_flight == 10


def test_another_address_stands_in_the_data_centres_place() -> None:
    settings = {"audience": AUDIENCE, "address": "http://127.0.0.1:8080/"}
    assert asked("mailchimp", settings, KEY).url.startswith(f"http://127.0.0.1:8080/3.0/lists/{AUDIENCE}/members/")
    request = SINK.probe(SINK.config(settings), KEY, NOW)
    assert (request.method, request.url) == ("GET", f"http://127.0.0.1:8080/3.0/lists/{AUDIENCE}?fields=id")
