"""Twilio's messages: its own library signs."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator
from webhook_world import deliver, made, nonsense_is_taken_or_refused, refusal, source_of

from pipeline.bridges.base import Parsed
from pipeline.models.control import Source

SECRET = b"12345"
URL = "https://hooks.acme.example/v1/webhooks/acme/sms"
SOURCE = source_of("webhook-twilio")
MESSAGE = {"MessageSid": "SM1", "SmsSid": "SM1", "From": "+14017122661", "To": "+15558675310", "Body": "Ahoy"}


def headers(fields: dict[str, str], url: str = URL) -> dict[str, str]:
    made_by = RequestValidator(SECRET.decode()).compute_signature(url, fields)
    return {"X-Twilio-Signature": made_by, "Content-Type": "application/x-www-form-urlencoded"}


def post(fields: dict[str, str], source: Source = SOURCE, url: str = URL, signed: str = URL) -> Parsed:
    return deliver(source, urlencode(fields).encode(), headers(fields, signed), b"old", SECRET, url=url)


def test_a_message_of_a_customer_belongs_to_the_number_it_came_from() -> None:
    parsed = post(MESSAGE)
    [event] = made(parsed, SOURCE)
    assert event == {
        "type": "track",
        "event": "Message Sent",
        "messageId": "SM1",
        "traits": {"phone": "+14017122661"},
        "properties": {
            "message_id": "SM1",
            "channel": "sms",
            "from": "+14017122661",
            "to": "+15558675310",
            "text": "Ahoy",
        },
    }
    assert parsed.answer is not None
    assert parsed.answer.media_type == "text/xml"
    assert b"<Response/>" in parsed.answer.body


def test_a_whatsapp_number_is_a_phone_number() -> None:
    [event] = made(post(MESSAGE | {"From": "whatsapp:+14017122661"}), SOURCE)
    assert (event["traits"]["phone"], event["properties"]["channel"]) == ("+14017122661", "whatsapp")


@pytest.mark.parametrize(
    ("status", "name"), [("sent", "SMS Sent"), ("delivered", "SMS Delivered"), ("undelivered", "SMS Undelivered")]
)
def test_what_became_of_a_message_belongs_to_the_number_it_went_to(status: str, name: str) -> None:
    [event] = made(post(MESSAGE | {"MessageStatus": status}), SOURCE)
    assert (event["event"], event["messageId"]) == (name, f"SM1:{status}")
    assert event["traits"]["phone"] == "+15558675310"


def test_what_is_no_message_is_acknowledged() -> None:
    assert post({"CallSid": "CA1", "MessageSid": "SM2", "From": "", "To": ""}).events == []


def test_behind_a_proxy_the_address_is_told() -> None:
    inside = "http://10.0.0.5:8080/v1/webhooks/acme/sms"
    fields = MESSAGE
    body = urlencode(fields).encode()
    assert refusal(SOURCE, body, headers(fields), SECRET, url=inside) == (401, "bad_signature")
    assert len(post(fields, source_of("webhook-twilio", url=URL), inside).events) == 1


@given(st.dictionaries(st.sampled_from([*MESSAGE, "MessageStatus", "x"]), st.text(max_size=8)))
def test_signed_nonsense_raises_nothing_but_refusals(fields: dict[str, str]) -> None:
    body = urlencode(fields).encode()
    nonsense_is_taken_or_refused(SOURCE, body, headers(fields), SECRET, url=URL)
