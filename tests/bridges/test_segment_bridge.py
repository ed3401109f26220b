"""The Segment bridge: what it fills in, what it refuses, and that it judges as intake does."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.agents.judge import RejectError, judge
from pipeline.bridges.base import BridgeRequest, Parsed, Refused
from pipeline.bridges.segment import MAX_EVENT_BYTES, SegmentBridge
from pipeline.models.control import Source

SEGMENT = SegmentBridge("rest", "", "Web")
SOURCE = Source(
    id="web", partner="acme", name="Web", code="web", bridge="rest", version=1, created=0, updated=0, domain=None
)
NOW = 1_790_000_000_000


def parse(kind: str, document: Any) -> Parsed:
    return SEGMENT.parse(BridgeRequest(kind, {}, orjson.dumps(document)), SOURCE, (), NOW)


def one(kind: str, document: dict[str, Any]) -> dict[str, Any]:
    [event] = parse(kind, document).events
    decoded: dict[str, Any] = orjson.loads(event.value)
    assert decoded["messageId"] == event.message_id
    return decoded


def refused(kind: str, document: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        parse(kind, document)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        ("track", "track"),
        ("t", "track"),
        ("p", "page"),
        ("s", "screen"),
        ("i", "identify"),
        ("g", "group"),
        ("a", "alias"),
    ],
)
def test_the_path_says_the_type(kind: str, type_: str) -> None:
    event = one(kind, {"event": "X", "userId": "u", "type": "group", "extra": [1, {"é": None}]})
    assert event["type"] == type_
    assert event["extra"] == [1, {"é": None}]


def test_a_key_that_a_client_has_masked_is_written_as_the_sources_own() -> None:
    assert one("t", {"event": "X", "userId": "u", "writeKey": "acme.web:***"})["writeKey"] == "acme.web"
    assert refused("t", {"event": "X", "userId": "u", "writeKey": "acme.other:***"}).code == "wrong_code"


def test_a_message_id_is_kept_and_made_where_it_is_missing() -> None:
    assert one("t", {"event": "X", "userId": "u", "messageId": "m-1"})["messageId"] == "m-1"
    made = {one("t", {"event": "X", "userId": "u", "messageId": missing})["messageId"] for missing in ("", None)}
    assert len(made) == 2
    assert all(len(text) == 36 for text in made)


def test_a_batch_lends_its_context_and_its_sent_at() -> None:
    batch = {
        "sentAt": "2026-01-02T00:00:00Z",
        "context": {"library": {"name": "lib"}, "locale": "de"},
        "batch": [
            {"type": "track", "event": "X", "userId": 7},
            {"type": "page", "anonymousId": "a", "context": {"locale": "fr"}, "sentAt": "2026-01-01T00:00:00Z"},
        ],
    }
    first, second = (orjson.loads(event.value) for event in parse("batch", batch).events)
    assert first["context"] == {"library": {"name": "lib"}, "locale": "de"}
    assert first["sentAt"] == "2026-01-02T00:00:00Z"
    assert first["userId"] == 7
    assert second["context"] == {"library": {"name": "lib"}, "locale": "fr"}
    assert second["sentAt"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("event", "key"),
    [
        ({"userId": "u", "anonymousId": "a"}, b"acme|u|u"),
        ({"userId": 42}, b"acme|u|42"),
        ({"userId": " ", "anonymousId": "a"}, b"acme|a|a"),
        ({"traits": {"email": "Ada@Example.com", "phone": "1"}}, b"acme|e|ada@example.com"),
        ({"context": {"traits": {"phone": "+1"}}}, b"acme|p|+1"),
    ],
)
def test_the_key_is_the_strongest_identifier(event: dict[str, Any], key: bytes) -> None:
    [out] = parse("identify", event).events
    assert out.key == key


def test_good_events_of_a_batch_go_in_and_bad_ones_are_named_one_by_one() -> None:
    parsed = parse(
        "batch",
        {
            "batch": [
                {"type": "track", "event": "X", "userId": "u"},
                {"type": "track", "userId": "u"},
                17,
                {"type": "track", "event": "X"},
                {"type": "dance", "userId": "u"},
                {"type": "track", "event": "X", "userId": {"a": 1}},
                {"type": "track", "event": "X", "userId": "u", "writeKey": "acme.other"},
                {"type": "track", "event": "X", "userId": "u", "properties": {"x": "y" * MAX_EVENT_BYTES}},
                {"type": "page", "userId": "u"},
            ]
        },
    )
    assert len(parsed.events) == 2
    assert [(f.index, f.code, f.path) for f in parsed.faults] == [
        (1, "no_event_name", "$.batch[1].event"),
        (2, "not_an_object", "$.batch[2]"),
        (3, "no_identity", "$.batch[3].userId"),
        (4, "shape", "$.batch[4].type"),
        (5, "shape", "$.batch[5].userId"),
        (6, "wrong_code", "$.batch[6].writeKey"),
        (7, "too_large", "$.batch[7]"),
    ]


def test_the_limit_is_on_what_the_client_sent() -> None:
    event = {"type": "track", "event": "X", "userId": "u", "properties": {"x": ""}}
    event["properties"] = {"x": "y" * (MAX_EVENT_BYTES - len(orjson.dumps(event)))}
    assert len(orjson.dumps(event)) == MAX_EVENT_BYTES
    assert (
        len(parse("batch", {"batch": [event], "sentAt": "2026-01-01T00:00:00Z", "context": {"a": "b" * 99}}).events)
        == 1
    )
    event["properties"]["x"] += "y"  # type: ignore[index]
    assert parse("batch", {"batch": [event]}).faults[0].code == "too_large"
    assert refused("track", event).status == 413


def test_a_batch_that_is_none_is_refused_whole() -> None:
    assert refused("batch", {"batch": {}}).path == "$.batch"
    assert refused("batch", {}).path == "$.batch"
    assert refused("batch", {"batch": [], "context": []}).path == "$.context"
    assert refused("batch", {"batch": [], "sentAt": True}).path == "$.sentAt"
    assert refused("batch", {"batch": [1] * 2501}).status == 413
    assert parse("batch", {"batch": []}) == Parsed([], [])


@pytest.mark.parametrize("body", [b"", b"  ", b"{", b"\xff\xfe", b"[1]", b'"x"', b"null", b"NaN", b"[" * 3000])
def test_a_body_that_is_no_object_is_refused_with_a_code(body: bytes) -> None:
    with pytest.raises(Refused) as caught:
        SEGMENT.parse(BridgeRequest("batch", {}, body), SOURCE, (), NOW)
    assert caught.value.status == 400
    assert caught.value.code in ("empty", "not_json", "not_an_object")


def test_nesting_that_could_not_be_written_out_is_refused() -> None:
    deep: Any = 1
    for _ in range(400):
        deep = [deep]
    body = b'{"event":"X","userId":"u","properties":{"x":' + b"[" * 400 + b"1" + b"]" * 400 + b"}}"
    with pytest.raises(Refused, match="nested"):
        SEGMENT.parse(BridgeRequest("track", {}, body), SOURCE, (), NOW)


ODD = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
JSON = st.recursive(
    ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
IDS = st.sampled_from(["", " ", "u", "x" * 512, "x" * 513, 0, 42, -1, 2**63, "😀", None]) | JSON
TRAITS = st.fixed_dictionaries({}, optional={"email": IDS | JSON, "phone": IDS | JSON}) | JSON
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["track", "page", "identify", "group", "alias", "screen", "dance", None, 1]),
        "event": st.sampled_from(["X", "", "x" * 200, "x" * 201, None, 1]),
        "name": st.sampled_from(["n", "", None, 1, "x" * 1001]),
        "userId": IDS,
        "anonymousId": IDS,
        "messageId": st.sampled_from(["m", "", None, 1, "x" * 512, "x" * 513]),
        "sentAt": st.sampled_from(["2026-01-01T00:00:00Z", 1_790_000_000_000, None, True, []]),
        "timestamp": st.sampled_from(["2026-01-01T00:00:00Z", 1_790_000_000_000, 1.7e12, None, {}]),
        "properties": JSON,
        "traits": TRAITS,
        "context": st.fixed_dictionaries({}, optional={"traits": TRAITS}) | JSON,
        "groupId": IDS,
        "previousId": IDS,
        "writeKey": st.sampled_from(["acme.web", "acme.old", None, 1]),
        "unknown": JSON,
    },
)


@given(EVENTS)
def test_intake_takes_what_the_edge_takes_and_refuses_what_it_refuses(event: dict[str, Any]) -> None:
    """One set of rules: a client that got 200 is counted, one that got 400 would not have been."""
    parsed = parse("batch", {"batch": [event]})
    if parsed.events:
        [out] = parsed.events
        key, value = judge(
            SOURCE, out.value, [("ce_id", out.message_id.encode())], appended=NOW, control=1, fallback_id="none"
        )
        assert key == out.key
        assert orjson.loads(value)["id"] == out.message_id
    else:
        [fault] = parsed.faults
        with pytest.raises(RejectError) as caught:
            judge(SOURCE, orjson.dumps(event), [], appended=NOW, control=1, fallback_id="none")
        assert caught.value.reason == fault.code


def outcome(kind: str, document: dict[str, Any], body: bytes, given: dict[str, Any] | None) -> Any:
    """What became of it, made ids aside; ``given``: the document decoded already, which makes it go the long way."""
    brought = {
        item["messageId"] for item in document.get("batch", [document]) if isinstance(item.get("messageId"), str)
    }
    try:
        parsed = SEGMENT.parse(BridgeRequest(kind, {}, body, given), SOURCE, (), NOW)
    except Refused as fault:
        return fault.status, fault.code, fault.message, fault.path
    values = [orjson.loads(event.value) for event in parsed.events]
    for value in values:
        if value["messageId"] not in brought or not value["messageId"]:
            assert len(value.pop("messageId")) == 36
    return [event.key for event in parsed.events], values, parsed.faults


@given(
    kind=st.sampled_from(["track", "page", "identify", "batch"]),
    events=st.lists(EVENTS, min_size=1, max_size=3),
    shared=st.fixed_dictionaries(
        {},
        optional={
            "sentAt": st.sampled_from(["2026-01-02T00:00:00Z", 1_790_000_000_000, None, True]),
            "context": st.sampled_from([{}, {"locale": "de", "é": [1.5]}, None, []]),
            "writeKey": st.sampled_from(["acme.web", None]),
        },
    ),
    spaced=st.booleans(),
)
def test_the_quick_way_makes_what_the_long_way_makes(
    kind: str, events: list[dict[str, Any]], shared: dict[str, Any], spaced: bool
) -> None:
    document = {**shared, "batch": events} if kind == "batch" else {**events[0], **shared}
    body = orjson.dumps(document, option=orjson.OPT_INDENT_2 if spaced else 0)
    assert outcome(kind, document, body, None) == outcome(kind, document, body, orjson.loads(body))


@pytest.mark.parametrize(
    "odd",
    [
        b'{"event":"X","userId":"u","properties":{"x":"\\ud800"}}',
        b'{"event":"X","userId":"u","unknown":"\\udc00"}',
        b'{"event":"X","userId":"u","properties":{"x":"\xff"}}',
        b'{"event":"X","userId":"u","unknown":"\xc3"}',
        b'{"event":"X","userId":"u","unknown":tru}',
        b'{"event":"X","userId":"u",}',
        b'{"event":"X","userId":"u"}x',
    ],
)
def test_what_is_no_good_text_is_refused_also_where_nobody_reads_it(odd: bytes) -> None:
    for kind, body in (("track", odd), ("batch", b'{"batch":[%b]}' % odd)):
        with pytest.raises(Refused) as caught:
            SEGMENT.parse(BridgeRequest(kind, {}, body), SOURCE, (), NOW)
        assert caught.value.code == "not_json"


def test_a_pair_of_surrogates_is_good_text() -> None:
    assert one("track", {"event": "X", "userId": "u", "properties": {"x": "😀"}})["properties"] == {"x": "😀"}
    body = b'{"event":"\\ud83d\\ude00","userId":"u"}'
    [event] = SEGMENT.parse(BridgeRequest("track", {}, body), SOURCE, (), NOW).events
    assert orjson.loads(event.value)["event"] == "😀"
