"""Calls: whose they are, once each, by REST and as Twilio's own library signs them."""

from __future__ import annotations

from urllib.parse import urlencode

import orjson
import pytest
from twilio.request_validator import RequestValidator

from pipeline.bridges.base import BridgeRequest, Refused
from pipeline.bridges.call_center import MAX_CALLS, CallCenterBridge
from pipeline.models.catalogue import catalogue
from pipeline.models.control import Source
from pipeline.models.policy import Policy

NOW = 1_790_000_000_000
TOKEN = "twilio-token"
URL = "https://in.shop.example/v1/calls/acme/calls/twilio"
CUSTOMER, LINE = "+46701234567", "+46812345678"


def source(region=None):
    return Source(
        id="calls", partner="acme", name="Calls", code="calls", channel="Call Center", bridge="call-center",
        policy=Policy(region=region), version=1, created=0, updated=0,
    )  # fmt: skip


def rest(*calls, region=None):
    body = orjson.dumps(list(calls) if len(calls) != 1 else calls[0])
    return CallCenterBridge().parse(BridgeRequest("calls", {}, body), source(region), (), NOW)


def call(status="ended", **more):
    return {"call_id": "c1", "status": status, "direction": "inbound", "from": CUSTOMER, "to": LINE} | more


def test_a_call_is_the_customers_whichever_way_it_went():
    inbound = rest(call()).events[0]
    outbound = rest(call(direction="outbound", **{"from": LINE, "to": CUSTOMER})).events[0]
    assert inbound.key == outbound.key == f"acme|p|{CUSTOMER}".encode()
    properties = orjson.loads(outbound.value)["properties"]
    assert (properties["from"], properties["to"], properties["line"]) == (LINE, CUSTOMER, LINE)


def test_numbers_without_a_country_code_are_of_the_sources_region():
    [out] = rest(call(**{"from": "070-123 45 67"}), region="SE").events
    assert out.key == f"acme|p|{CUSTOMER}".encode()


@pytest.mark.parametrize("number", ["anonymous", "restricted", "1042", None])
def test_callers_whose_number_is_none_are_not_one_person(number):
    one, two = rest(call(**{"from": number}), call(call_id="c2", **{"from": number})).events
    assert (one.key, two.key) == (b"acme|a|call:c1", b"acme|a|call:c2")


def test_every_status_has_its_event_with_the_properties_of_the_catalogue():
    moments = [
        call("started", queue="Support"),
        call("answered", agent="Eve"),
        call("ended", duration=61.5, outcome="completed"),
        call("recorded", recording_id="r1", recording_url="https://calls.example/r1", duration=60),
        call("disposed", disposition="sold", note="Blue, size M", user_id="17"),
    ]
    parsed = rest(*moments)
    events = [orjson.loads(out.value) for out in parsed.events]
    assert [event["event"].removeprefix("Call ") for event in events] == [
        "Started",
        "Answered",
        "Ended",
        "Recorded",
        "Disposed",
    ]
    assert [event["messageId"] for event in events] == [
        "c1:started",
        "c1:answered",
        "c1:ended",
        "c1:recorded:r1",
        "c1:disposed",
    ]
    for event in events:
        kind = catalogue().find(event["event"])
        assert event["properties"].keys() <= kind.properties.keys()
        assert set(kind.required) <= event["properties"].keys()
    assert events[-1]["userId"] == "17"
    assert events[-1]["context"]["traits"] == {"phone": CUSTOMER}


def test_bad_calls_are_named_and_good_ones_go_in():
    parsed = rest(call(), call("lost"), {"status": "ended"}, call(duration=-1), call(extra=1), 7)
    assert len(parsed.events) == 1
    assert [(fault.index, fault.path) for fault in parsed.faults] == [
        (1, "$.status"), (2, "$.call_id"), (3, "$.duration"), (4, "$.extra"), (5, "$"),
    ]  # fmt: skip
    for body in (b"", b"{", orjson.dumps([call()] * (MAX_CALLS + 1))):
        with pytest.raises(Refused):
            CallCenterBridge().parse(BridgeRequest("calls", {}, body), source(), (), NOW)


def twilio(fields, url=URL, token=TOKEN, change=None):
    signed = RequestValidator(token).compute_signature(url, fields)
    headers = {"content-type": "application/x-www-form-urlencoded", "x-twilio-signature": signed}
    body = urlencode(fields | (change or {})).encode()
    return CallCenterBridge().parse(BridgeRequest("twilio", headers, body, url=url), source(), [TOKEN.encode()], NOW)


FIELDS = {
    "CallSid": "CA1", "AccountSid": "AC1", "From": CUSTOMER, "To": LINE, "Direction": "inbound",
    "CallStatus": "completed", "CallDuration": "61", "Timestamp": "Mon, 21 Sep 2026 14:13:20 +0000",
}  # fmt: skip


def test_twilios_callback_as_its_own_library_signs_it():
    parsed = twilio(FIELDS)
    event = orjson.loads(parsed.events[0].value)
    assert parsed.events[0].key == f"acme|p|{CUSTOMER}".encode()
    assert event["event"] == "Call Ended"
    assert event["timestamp"] == "2026-09-21T14:13:20+00:00"
    assert (event["properties"]["duration"], event["properties"]["outcome"]) == (61.0, "completed")
    assert parsed.answer.media_type == "text/xml"


@pytest.mark.parametrize(
    ("status", "name"),
    [
        ("initiated", "started"), ("ringing", "started"), ("in-progress", "answered"), ("completed", "ended"),
        ("busy", "ended"), ("no-answer", "ended"), ("failed", "ended"), ("canceled", "ended"),
    ],
)  # fmt: skip
def test_twilios_statuses_are_ours_and_each_counts_once(status, name):
    again = twilio(FIELDS | {"CallStatus": status, "SequenceNumber": "3"}).events[0]
    assert again.message_id == twilio(FIELDS | {"CallStatus": status}).events[0].message_id == f"CA1:{name}"


def test_an_outbound_call_of_twilio_is_the_called_ones():
    for direction in ("outbound-api", "outbound-dial"):
        [out] = twilio(FIELDS | {"Direction": direction, "From": LINE, "To": CUSTOMER}).events
        assert out.key == f"acme|p|{CUSTOMER}".encode()


def test_a_recording_is_the_customers_whose_number_stands_in_the_address():
    recording = {"CallSid": "CA1", "RecordingSid": "RE1", "RecordingDuration": "60", "RecordingStatus": "completed"}
    recording["RecordingUrl"] = "https://x.example/RE1"
    [out] = twilio(recording, url=f"{URL}?From=%2B46701234567&Direction=inbound").events
    assert (out.key, out.message_id) == (f"acme|p|{CUSTOMER}".encode(), "CA1:recorded:RE1")
    assert twilio(recording, url=f"{URL}?From={CUSTOMER}").events[0].key == out.key
    assert twilio(recording).events[0].key == b"acme|a|call:CA1"
    assert twilio(recording | {"RecordingStatus": "in-progress"}).events == []


def test_what_twilio_did_not_sign_is_refused():
    for wrong in ({"token": "other"}, {"change": {"From": "+46700000000"}}):
        with pytest.raises(Refused) as caught:
            twilio(FIELDS, **wrong)
        assert (caught.value.status, caught.value.code) == (401, "bad_signature")
    with pytest.raises(Refused) as caught:
        twilio(FIELDS | {"CallStatus": "teleported"})
    assert (caught.value.status, caught.value.path) == (400, "CallStatus")
