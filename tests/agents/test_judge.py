"""Intake's judgement: what is accepted and how, what is rejected and why. No Kafka."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.agents.judge import RejectError, judge, parse_ms, rejected
from pipeline.models.control import Source
from pipeline.models.event import Event
from pipeline.models.failures import REASONS, Rejected
from pipeline.models.fast import struct_for
from pipeline.models.policy import Policy
from pipeline.models.raw import RawEvent

NOW = 1_790_000_000_000
SHOP = Source(
    id="online-store",
    partner="acme",
    name="Online Store",
    code="shop",
    domain="shop.example",
    version=1,
    created=0,
    updated=0,
)


def accept(
    body: Any, headers: list[tuple[str, bytes]] | None = None, source: Source = SHOP
) -> tuple[str, dict[str, Any]]:
    value = body if isinstance(body, bytes) else orjson.dumps(body)
    key, event = judge(source, value, headers or [], appended=NOW, control=7, fallback_id="k:0:1")
    Event.model_validate_json(event)
    return key.decode(), orjson.loads(event)


def refuse(body: Any, headers: list[tuple[str, bytes]] | None = None, source: Source | None = SHOP) -> RejectError:
    value = body if isinstance(body, bytes | None) else orjson.dumps(body)
    with pytest.raises(RejectError) as caught:
        judge(source, value, headers or [], appended=NOW, control=7, fallback_id="k:0:1")
    assert caught.value.reason in REASONS
    return caught.value


def test_a_phone_is_spelled_as_e164_where_it_can_be_and_else_stays() -> None:
    swedish = SHOP.model_copy(update={"policy": Policy(region="SE")})
    for source, phone, expected in (
        (SHOP, " +46 (0)70-123 45 67 ", "+46701234567"),
        (swedish, "070-123 45 67", "+46701234567"),
        (SHOP, "070-123 45 67", "070-123 45 67"),
        (swedish, "the blue one", "the blue one"),
    ):
        key, event = accept({"type": "identify", "traits": {"phone": phone}}, source=source)
        assert key == f"acme|p|{expected}"
        assert event["phone"] == expected
        assert event["traits"]["phone"] == phone


def test_the_contacts_of_a_group_are_not_those_of_who_joined_it() -> None:
    team = {"email": "info@team.example", "phone": "+46701234567"}
    _, event = accept({"type": "group", "groupId": "g", "userId": "ann", "traits": team})
    assert "email" not in event
    assert "phone" not in event
    _, event = accept(
        {"type": "group", "userId": "ann", "traits": team, "context": {"traits": {"email": "ann@x.example"}}}
    )
    assert event["email"] == "ann@x.example"
    assert "phone" not in event


def test_an_event_gets_the_sources_channel_and_what_the_edge_knows() -> None:
    headers = [
        ("ce_source", b"acme.shop"),
        ("ce_id", b"from-header"),
        ("ce_time", b"2026-09-21T14:13:19Z"),
        ("headrace_ip", b"192.0.2.1"),
        ("headrace_ua", b"Firefox"),
        ("headrace_origin", b"https://shop.example"),
    ]
    key, event = accept({"event": "Category Viewed", "userId": 42, "properties": {"category": "Jacket"}}, headers)
    assert key == "acme|u|42"
    assert event == {
        "id": "from-header",
        "partner": "acme",
        "source": "online-store",
        "channel": "Web",
        "type": "track",
        "name": "Category Viewed",
        "time": NOW - 1000,
        "received": NOW - 1000,
        "user_id": "42",
        "properties": {"category": "Jacket"},
        "control": 7,
        "ip": "192.0.2.1",
        "ua": "Firefox",
    }


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"userId": "u", "anonymousId": "a"}, "acme|u|u"),
        ({"userId": "", "anonymousId": "a"}, "acme|a|a"),
        ({"traits": {"email": "A@Shop.Example", "phone": "+1"}}, "acme|e|a@shop.example"),
        ({"context": {"traits": {"phone": "+15551234"}}}, "acme|p|+15551234"),
        ({"userId": "🧥|u|x"}, "acme|u|🧥|u|x"),
    ],
)
def test_the_key_is_the_strongest_identifier(body: dict[str, Any], key: str) -> None:
    assert accept({"event": "E"} | body)[0] == key


def test_pages_and_identifies_have_names_of_their_own() -> None:
    _, page = accept({"type": "page", "name": "Jackets", "anonymousId": "a", "properties": {"path": "/j"}})
    assert (page["name"], page["properties"]) == ("Page Viewed", {"name": "Jackets", "path": "/j"})
    _, bare = accept({"type": "page", "name": "Jackets", "anonymousId": "a"})
    assert bare["properties"] == {"name": "Jackets"}
    _, person = accept({"type": "identify", "userId": "u", "traits": {"email": "a@b.example"}})
    assert (person["name"], person["email"]) == ("Identified", "a@b.example")


@pytest.mark.parametrize(
    ("times", "time", "flags"),
    [
        ({}, NOW, None),
        ({"timestamp": NOW - 5000}, NOW - 5000, None),
        ({"timestamp": "2026-09-21T14:13:15Z"}, NOW - 5000, None),
        # A client clock an hour ahead: only the difference to its own sentAt counts.
        ({"originalTimestamp": NOW + 3_600_000, "sentAt": NOW + 3_603_000}, NOW - 3000, None),
        ({"timestamp": NOW + 60_000}, NOW, ["future"]),
        ({"timestamp": "1999-12-31T23:59:59.5+01:00"}, 946_681_199_500, None),
    ],
)
def test_event_time_is_by_the_servers_clock(times: dict[str, Any], time: int, flags: list[str] | None) -> None:
    _, event = accept({"event": "E", "userId": "u"} | times)
    assert (event["time"], event.get("flags")) == (time, flags)


def test_a_header_cannot_make_an_event_arrive_in_the_future() -> None:
    for claim in (b"2099-01-01T00:00:00Z", b"nonsense", b"\xff"):
        assert accept({"event": "E", "userId": "u"}, [("ce_time", claim)])[1]["received"] == NOW


def test_an_event_without_id_gets_the_same_one_on_every_reading() -> None:
    assert accept({"event": "E", "userId": "u"})[1]["id"] == "k:0:1"


@pytest.mark.parametrize(
    ("body", "reason", "path"),
    [
        (None, "empty", None),
        (b"", "empty", None),
        (b"garbage", "not_json", None),
        (b'{"event": "E"', "not_json", None),
        (b'{"event":"E","userId":"u","properties":{"a":"\xff"}}', "not_json", None),
        (b'{"event":"E","userId":"u","properties":' + b'{"a":' * 5000 + b"1" + b"}" * 5001, "not_json", None),
        (b"[1]", "not_an_object", "$"),
        (b"7", "not_an_object", "$"),
        ({"event": 7, "userId": "u"}, "shape", "$.event"),
        ({"event": "E", "userId": {"id": 1}}, "shape", "$.userId"),
        ({"event": "E", "userId": True}, "shape", "$.userId"),
        ({"event": "E", "userId": "u" * 513}, "shape", "$.userId"),
        ({"event": "E", "userId": "u", "properties": [1]}, "shape", "$.properties"),
        (b'{"event":"E","userId":"u","properties":{"a":1e999}}', "shape", "$.properties"),
        ({"type": "drop table", "userId": "u"}, "shape", "$.type"),
        ({"event": "E"}, "no_identity", "$.userId"),
        ({"event": "", "userId": "u"}, "no_event_name", "$.event"),
        ({"userId": "u"}, "no_event_name", "$.event"),
        ({"event": "E", "userId": "u", "timestamp": "yesterday"}, "bad_time", "$.timestamp"),
        ({"event": "E", "userId": "u", "timestamp": 1_700_000_000}, "bad_time", "$.timestamp"),
        ({"event": "E", "userId": "u", "timestamp": "0001-01-01T00:00:00Z"}, "bad_time", "$.timestamp"),
        ({"event": "E", "userId": "u", "timestamp": NOW, "sentAt": 10**15}, "bad_time", "$.sentAt"),
        ({"event": "E", "userId": "u", "writeKey": "acme.old"}, "wrong_code", None),
        (b'{"event":"E","userId":"u","properties":{"a":"' + b"x" * 1_000_000 + b'"}}', "too_large", None),
    ],
)
def test_what_breaks_the_contract_is_rejected_with_reason_and_path(body: Any, reason: str, path: str | None) -> None:
    error = refuse(body)
    assert (error.reason, error.path) == (reason, path)
    assert error.detail


def test_the_source_must_exist_be_active_and_have_this_code_and_domain() -> None:
    good = {"event": "E", "userId": "u"}
    assert refuse(good, source=None).reason == "unknown_source"
    assert refuse(good, source=SHOP.model_copy(update={"active": False})).reason == "inactive_source"
    assert refuse(good, source=SHOP.model_copy(update={"removed": True})).reason == "inactive_source"
    old = refuse(good, [("ce_source", b"acme.old")])
    assert old.reason == "wrong_code"
    assert "acme.old" in old.detail
    assert "acme.shop" in old.detail
    assert refuse(good, [("headrace_origin", b"https://evil.example")]).reason == "wrong_domain"


@pytest.mark.parametrize(
    ("domain", "origin", "allowed"),
    [
        ("shop.example", "https://shop.example", True),
        ("shop.example", "https://SHOP.example:8443", True),
        ("shop.example", "https://www.shop.example", False),
        ("shop.example", "https://notshop.example", False),
        ("*.shop.example", "https://www.shop.example", True),
        ("*.shop.example", "https://shop.example", False),
        ("*.shop.example", "https://evilshop.example", False),
        ("localhost:8090", "http://localhost:8090", True),
        ("localhost:8090", "http://localhost:8091", False),
        (None, "https://anywhere.example", True),
    ],
)
def test_domains(domain: str | None, origin: str, allowed: bool) -> None:
    assert SHOP.model_copy(update={"domain": domain}).allows_origin(origin) is allowed


def test_a_rejection_keeps_the_original_bytes() -> None:
    value, key = b"\xff\x00garbage", b"\x01"
    error = refuse(value)
    record = rejected(
        error,
        topic="raw.acme.online-store",
        partition=1,
        offset=9,
        timestamp=NOW,
        key=key,
        value=value,
        headers=[("x", b"\xfe"), ("y", None)],  # type: ignore[list-item]
    )
    back = Rejected.model_validate_json(record)
    assert base64.b64decode(back.value or "") == value
    assert base64.b64decode(back.key or "") == key
    assert (back.partner, back.source, back.offset, back.reason) == ("acme", "online-store", 9, "not_json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
almost = st.dictionaries(st.sampled_from(sorted(RawEvent.model_fields)), json_values)
headers = st.lists(
    st.tuples(
        st.sampled_from(["ce_id", "ce_time", "ce_source", "headrace_origin", "headrace_ip", "other"]),
        st.none() | st.binary(max_size=50),
    ),
    max_size=4,
)


@settings(max_examples=600, deadline=None)
@given(value=st.binary(max_size=200) | (almost | json_values).map(lambda v: msgspec.json.encode(v)), extra=headers)
def test_whatever_comes_ends_accepted_or_rejected_and_an_accepted_one_can_be_read(value: bytes, extra: Any) -> None:
    refusal: RejectError | None = None
    try:
        key, event = judge(SHOP, value, extra, appended=NOW, control=0, fallback_id="f")
    except RejectError as error:
        refusal = error
    if refusal is not None:
        assert refusal.reason in REASONS
        assert refusal.detail
    else:
        assert key.decode().startswith("acme|")
        read = msgspec.json.decode(event, type=struct_for(Event))
        assert read.time <= read.received <= NOW
        assert Event.model_validate_json(event).name == read.name


@settings(max_examples=300, deadline=None)
@given(almost)
def test_the_fast_decode_takes_what_the_pydantic_model_takes(body: dict[str, Any]) -> None:
    value = msgspec.json.encode(body)
    try:
        RawEvent.model_validate_json(value)
        taken = True
    except ValueError:
        taken = False
    try:
        judge(SHOP, value, [], appended=NOW, control=0, fallback_id="f")
        fast = True
    except RejectError as error:
        fast = error.reason not in ("shape", "not_json", "not_an_object", "empty")
    assert fast or not taken, value
    if not taken:
        assert not fast, value


@given(st.integers(100_000_000_000, 253_402_300_799_999))
def test_times_as_text_and_as_numbers_agree(ms: int) -> None:
    from datetime import UTC, datetime, timedelta

    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    assert parse_ms(moment.isoformat(), "$") == parse_ms(ms, "$") == ms
