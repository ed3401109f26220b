"""Intake's judgement by a source's policy: what is changed, refused, dropped and found out. No Kafka."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from pipeline.agents.geoip import open_countries
from pipeline.agents.judge import judge, rejected
from pipeline.agents.judge_policy import judge_all
from pipeline.agents.policies import Policies
from pipeline.control.reducer import ControlState
from pipeline.events.verdicts import DropError, RejectError
from pipeline.models.catalogue import EventType
from pipeline.models.control import PartnerEventType, Source
from pipeline.models.event import Event
from pipeline.models.failures import REASONS, Rejected

NOW = 1_790_000_000_000
FIREFOX = b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
Headers = list[tuple[str, bytes | None]]


def source(bridge: str = "js", **policy: Any) -> Source:
    fields = {"id": "app", "partner": "acme", "name": "App", "code": "app", "bridge": bridge, "policy": policy}
    return Source.model_validate(fields | {"version": 1, "created": 0, "updated": 0})


def events(body: Any, headers: Headers | None = None, country_of: Any = None, **policy: Any) -> list[dict[str, Any]]:
    value = body if isinstance(body, bytes) else orjson.dumps(body)
    made = judge_all(
        source(**policy),
        value,
        headers or [],
        appended=NOW,
        control=7,
        fallback_id="k:0:1",
        country_of=country_of,
    )
    for _, event in made:
        Event.model_validate_json(event)
    return [orjson.loads(event) | {"key": key.decode()} for key, event in made]


def refuse(body: Any, headers: Headers | None = None, **policy: Any) -> RejectError:
    with pytest.raises(RejectError) as caught:
        events(body, headers, **policy)
    assert caught.value.reason in REASONS
    return caught.value


GOOD = {"event": "Category Viewed", "userId": "u", "messageId": "m", "properties": {"category": "Jacket"}}


def test_what_was_found_out_stands_beside_the_properties() -> None:
    headers: Headers = [("headrace_ua", FIREFOX), ("headrace_ip", b"192.0.2.1"), ("headrace_flags", b"machine:proxy")]
    (event,) = events(GOOD, headers, {"192.0.2.1": "LV"}.get)
    assert event["properties"] == {"category": "Jacket"}
    assert event["facts"] == {
        "browser": "Firefox",
        "browser_version": "128",
        "os": "Linux",
        "device": "desktop",
        "country": "LV",
        "flags": ["machine:proxy"],
    }
    assert event["flags"] == ["machine:proxy"]


def test_a_bot_is_tagged_and_taken() -> None:
    (event,) = events(GOOD, [("headrace_ua", b"curl/8.5.0")])
    assert (event["flags"], event["facts"]["bot"]) == (["bot"], "tool")
    assert "flags" not in events(GOOD, [("headrace_ua", b"curl/8.5.0")], bridge="rest")[0]


def test_a_transient_event_and_a_test_say_so() -> None:
    assert events(GOOD, transient=True)[0]["flags"] == ["transient"]
    assert events(GOOD | {"context": {"test": True}})[0]["flags"] == ["test"]
    assert events(GOOD, [("headrace_flags", b"test")])[0]["flags"] == ["test"]


@pytest.mark.parametrize(
    ("policy", "kept", "inside"),
    [("keep", "192.0.2.17", "198.51.100.17"), ("cut", "192.0.2.0", "198.51.100.0"), ("remove", None, None)],
)
def test_addresses_are_kept_as_the_policy_says_and_the_country_is_told_before(
    policy: str, kept: str | None, inside: str | None
) -> None:
    body = GOOD | {"context": {"ip": "198.51.100.17", "locale": "lv"}}
    (event,) = events(body, [("headrace_ip", b"192.0.2.17")], {"198.51.100.17": "LV"}.get, ip=policy)
    assert event.get("ip") == kept
    assert event["context"] == {"locale": "lv"} | ({"ip": inside} if inside else {})
    assert event["facts"]["country"] == "LV"
    assert b"192.0.2.17" not in orjson.dumps(event) or policy == "keep"


def test_a_rejection_keeps_no_more_of_the_address() -> None:
    error = refuse(b"garbage", [("headrace_ip", b"192.0.2.17")], ip="cut")
    place = {"topic": "raw.acme.app", "partition": 0, "offset": 1, "timestamp": NOW, "key": None, "value": b"garbage"}
    headers: Headers = [("headrace_ip", b"192.0.2.17"), ("x", b"y")]
    row = Rejected.model_validate_json(rejected(error, headers=headers, source=source(ip="cut"), **place))
    assert [(name, base64.b64decode(content)) for name, content in row.headers] == [
        ("headrace_ip", b"192.0.2.0"),
        ("x", b"y"),
    ]


MAPPING = {
    "events": [
        {
            "when": {"$.kind": "sale"},
            "each": "$.lines",
            "event": "Item Sold",
            "userId": "$.customer",
            "properties": {"sku": "@.sku", "shop": "$header.x-shop"},
        },
        {"when": {"$.kind": "visit"}, "type": "page", "userId": "$.customer", "messageId": "$.id"},
    ]
}


def test_a_mapping_makes_events_of_records_of_any_shape() -> None:
    body = {"kind": "sale", "customer": 17, "lines": [{"sku": "a"}, {"sku": "b"}, {"sku": "c"}]}
    made = events(body, [("X-Shop", b"riga"), ("ce_id", b"doc-1")], mapping=MAPPING)
    assert [(e["name"], e["key"], e["properties"]["sku"], e["properties"]["shop"], e["id"]) for e in made] == [
        ("Item Sold", "acme|u|17", "a", "riga", "doc-1"),
        ("Item Sold", "acme|u|17", "b", "riga", "doc-1:1"),
        ("Item Sold", "acme|u|17", "c", "riga", "doc-1:2"),
    ]
    (bare, *_) = events(body, mapping=MAPPING)
    assert bare["id"] == "k:0:1"
    (page,) = events({"kind": "visit", "customer": "u", "id": "x"}, mapping=MAPPING)
    assert (page["name"], page["id"]) == ("Page Viewed", "x")
    listed = {"events": [{"each": "$", "event": "Row", "userId": "@.id"}]}
    assert [e["key"] for e in events([{"id": 1}, {"id": 2}], mapping=listed)] == ["acme|u|1", "acme|u|2"]


def test_a_record_that_no_mapping_fits_is_rejected_or_ignored() -> None:
    assert refuse({"kind": "other"}, mapping=MAPPING).reason == "mapping"
    assert refuse(b"{", mapping=MAPPING).reason == "not_json"
    assert refuse(b'{"a":' * 5000, mapping=MAPPING).reason == "not_json"
    wrong = refuse({"kind": "sale", "lines": 7}, mapping=MAPPING)
    assert (wrong.reason, wrong.path) == ("mapping", "$.lines")
    with pytest.raises(DropError) as caught:
        events({"kind": "other"}, mapping=MAPPING | {"others": "ignore"})
    assert caught.value.why == "ignored"


def test_of_a_record_that_becomes_several_events_one_bad_one_refuses_all() -> None:
    body = {"kind": "sale", "customer": 17, "lines": [{"sku": "a"}, {"sku": "b"}]}
    assert refuse(body, mapping=MAPPING, events=["Page Viewed"]).reason == "event_not_allowed"


def test_a_mapping_can_not_make_more_than_is_bounded() -> None:
    body = {"big": "x" * 10_000, "lines": [{}] * 1000}
    mapping = {"events": [{"each": "$.lines", "event": "E", "userId": "u", "properties": "$"}]}
    assert refuse(body, mapping=mapping).reason == "too_large"


def test_checks_come_after_the_mapping() -> None:
    schema = {"type": "object", "properties": {"properties": {"required": ["shop"]}}}
    policy = {"mapping": MAPPING, "accepts": "payload", "payload": schema}
    body = {"kind": "sale", "customer": 17, "lines": [{"sku": "a"}]}
    assert refuse(body, **policy).path == "$.properties"
    assert len(events(body, [("x-shop", b"riga")], **policy)) == 1


REFUSING: list[tuple[dict[str, Any], Headers]] = [
    ({}, [("headrace_gpc", b"1")]),
    ({"context": {"gpc": True}}, []),
    ({"context": {"consent": False}}, []),
    ({"context": {"consent": {"categoryPreferences": {"Advertising": False}}}}, []),
]


@pytest.mark.parametrize(("more", "headers"), REFUSING)
def test_of_those_who_refused_nothing_is_kept_where_the_policy_says_drop(more: Any, headers: Headers) -> None:
    with pytest.raises(DropError) as caught:
        events(GOOD | more, headers, gpc="drop")
    assert caught.value.why == "consent"
    assert events(GOOD | more, headers)[0]["key"] == "acme|u|u"
    assert events(GOOD, gpc="drop")[0]["key"] == "acme|u|u"


@pytest.mark.parametrize(("more", "headers"), REFUSING)
def test_of_those_who_refused_no_identifier_is_kept_under_anonymous(more: Any, headers: Headers) -> None:
    secret = {
        "userId": "SECRET",
        "anonymousId": "SECRET",
        "traits": {"email": "SECRET@x.example"},
        "context": {
            "traits": {"phone": "SECRET"},
            "ip": "198.51.100.17",
            "userAgent": FIREFOX.decode(),
            "session": "SECRET",
            "page": {"search": "?utm_source=ads&email=SECRET", "path": "/j"},
        }
        | more.get("context", {}),
    }
    known = [("headrace_ip", b"192.0.2.17"), ("headrace_ua", b"SECRET"), *headers]
    (event,) = events(GOOD | secret, known, {"198.51.100.17": "LV"}.get, gpc="anonymous")
    text = orjson.dumps(event)
    for name in (b"SECRET", b"192.0.2.17", b"198.51.100.17", b"rv:128"):
        assert name not in text
    assert event["key"] == "acme|n|m"
    assert event["flags"] == ["anonymous"]
    assert event["context"]["page"] == {"path": "/j"}
    assert (event["facts"]["country"], event["facts"]["campaign"], event["facts"]["browser"]) == (
        "LV",
        {"source": "ads"},
        "Firefox",
    )


def test_an_identify_of_one_who_refused_is_nobodys_business() -> None:
    with pytest.raises(DropError):
        events({"type": "identify", "userId": "u"}, [("headrace_gpc", b"1")], gpc="anonymous")


def test_a_rejection_of_one_who_refused_keeps_no_bytes() -> None:
    for body, headers in ((b"garbage SECRET", [("headrace_gpc", b"1")]), ({"context": {"gpc": True}}, [])):
        error = refuse(body, headers, gpc="anonymous")
        value = body if isinstance(body, bytes) else orjson.dumps(body)
        place = {"topic": "raw.acme.app", "partition": 0, "offset": 1, "timestamp": NOW, "key": b"SECRET"}
        row = Rejected.model_validate_json(
            rejected(error, value=value, headers=[("x", b"SECRET")], source=source(gpc="anonymous"), **place)
        )
        assert (row.key, row.value, row.headers, row.withheld) == (None, None, [], True)
        assert row.reason == error.reason


def test_a_policy_that_can_not_be_read_takes_nothing() -> None:
    error = refuse(GOOD, accepts="payload", payload={"type": "objekt"})
    assert (error.reason, "objekt" in error.detail) == ("policy", True)


def test_rules_are_made_once_per_change_of_their_source_or_its_partners_types() -> None:
    state, policies = ControlState(), Policies()
    app = source(accepts="catalogue")
    state.sources["acme", "app"] = app
    state.sources["acme", "web"] = source().model_copy(update={"id": "web"})
    state.offset = 1
    policies.follow(state)
    assert policies.topics == {"raw.acme.app", "raw.acme.web"}
    first, other = policies.of("raw.acme.app"), policies.of("raw.acme.web")
    assert first is not None
    with pytest.raises(RejectError):
        first.check("Trip Booked", None, None)
    state.offset = 2
    policies.follow(state)
    assert policies.of("raw.acme.app") is first
    kind = EventType(title="Trip booked", description="A trip was booked.")
    stamps = {"version": 1, "created": 0, "updated": 0}
    state.event_types["acme", "t"] = PartnerEventType(id="t", partner="acme", event="Trip Booked", type=kind, **stamps)
    state.offset = 3
    policies.follow(state)
    second = policies.of("raw.acme.app")
    assert second is not None
    second.check("Trip Booked", None, None)
    state.sources["acme", "app"] = app.model_copy(update={"active": False})
    state.offset = 4
    policies.follow(state)
    third = policies.of("raw.acme.app")
    assert third is not None
    assert not third.source.active
    assert policies.of("raw.acme.none") is None
    assert other is not None


def test_countries_come_from_a_local_database(tmp_path: Path) -> None:
    file = tmp_path / "countries.mmdb"
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="Test-Country")
    writer.insert_network(IPSet(["192.0.2.0/24"]), {"country": {"iso_code": "LV"}})
    writer.insert_network(IPSet(["2001:db8::/32"]), {"country": {"iso_code": "DE"}})
    writer.insert_network(IPSet(["198.51.100.0/24"]), {"continent": {"code": "EU"}})
    writer.to_db_file(str(file))
    country_of = open_countries(file)
    assert country_of is not None
    asked = ["192.0.2.1", "2001:db8::1", "198.51.100.1", "203.0.113.1", "nonsense", "192.0.2.1", "x" * 1000]
    assert [country_of(address) for address in asked] == ["LV", "DE", None, None, None, "LV", None]
    assert open_countries(None) is None


@pytest.mark.parametrize("content", [None, b"", b"no database"])
def test_a_database_that_can_not_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "countries.mmdb"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"HEADRACE_GEOIP .*countries\.mmdb"):
        open_countries(file)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
names = st.sampled_from(["event", "type", "userId", "context", "properties", "traits", "messageId", "kind", "lines"])
documents = st.binary(max_size=60) | (st.dictionaries(names, json_values) | json_values).map(msgspec.json.encode)
header_names = ["ce_id", "headrace_gpc", "headrace_ip", "headrace_ua", "headrace_flags", "x-any"]
some_headers = st.lists(st.tuples(st.sampled_from(header_names), st.none() | st.just(b"1") | st.binary(max_size=30)))
policies = st.fixed_dictionaries(
    {"gpc": st.sampled_from(["keep", "anonymous", "drop"]), "ip": st.sampled_from(["keep", "cut", "remove"])},
    optional={"mapping": st.just(MAPPING), "events": st.just(["Item Sold"]), "transient": st.booleans()},
)


@settings(max_examples=500, deadline=None)
@given(documents, some_headers, policies)
def test_whatever_comes_under_whatever_policy_ends_in_events_or_a_reason(
    value: bytes, headers: Headers, policy: dict[str, Any]
) -> None:
    app = source(**policy)
    more: dict[str, Any] = {"appended": NOW, "control": 0, "fallback_id": "f"}
    made: list[Any] = []
    refusal: RejectError | DropError | None = None
    try:
        made = judge_all(app, value, headers, **more)
    except (RejectError, DropError) as error:
        refusal = error
    if isinstance(refusal, RejectError):
        assert refusal.reason in REASONS
        assert refusal.detail
    elif refusal is not None:
        assert refusal.why in ("consent", "ignored")
    else:
        assert made
        for _, event in made:
            assert Event.model_validate_json(event).received == NOW
        if policy.keys() <= {"gpc", "ip"} and policy["gpc"] == "keep":
            assert made == [judge(app, value, headers, **more)]


def test_events_of_a_record_that_was_written_again_keep_their_ids() -> None:
    body = orjson.dumps({"kind": "sale", "customer": 17, "lines": [{"sku": "a"}, {"sku": "b"}]})
    app = source(mapping=MAPPING)
    first = judge_all(app, body, [], appended=NOW, control=0, fallback_id="k:3:7")
    headers: Headers = [("headrace_original", b"raw.acme.app[3]@7")]
    again = judge_all(app, body, headers, appended=NOW, control=0, fallback_id="k:0:99")
    assert again == first
    assert [orjson.loads(event)["id"] for _, event in again] == ["k:3:7", "k:3:7:1"]
