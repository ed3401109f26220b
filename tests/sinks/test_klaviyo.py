"""Klaviyo: against its own OpenAPI, and against what its own client sends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft4Validator
from klaviyo_api import KlaviyoAPI
from tool_world import NOW, asked, dispatch, vendor

from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Request, SetupError
from pipeline.sinks.klaviyo import KlaviyoSink

CONTRACT = Path(__file__).parents[3] / "shared" / "data" / "klaviyo"
KEY = "pk_0123456789"
SINK = KlaviyoSink()


def validator(file: str, root: str) -> Draft4Validator:
    """Of a schema of Klaviyo's, which is not ours to copy."""
    if not CONTRACT.exists():
        pytest.skip("Klaviyo's OpenAPI is not here")
    document = orjson.loads((CONTRACT / f"{file}.json").read_bytes())

    def strict(node: Any) -> Any:
        """OpenAPI 3.0 says `nullable`; what is not named is no part of the contract."""
        if isinstance(node, list):
            return [strict(each) for each in node]
        if not isinstance(node, dict):
            return node
        made = {key: strict(value) for key, value in node.items() if key != "nullable"}
        if node.get("nullable") and isinstance(node.get("type"), str):
            made["type"] = [node["type"], "null"]
        if "properties" in made and node.get("type") == "object":
            made.setdefault("additionalProperties", False)
        return made

    schemas = strict(document["components"]["schemas"])
    return Draft4Validator({"$ref": f"#/components/schemas/{root}", "components": {"schemas": schemas}})


def sent(told: Dispatch, **changes: Any) -> Any:
    return orjson.loads(asked("klaviyo", changes, KEY, told).body)


def together(*records: Dispatch, **changes: Any) -> Request:
    """The request of several."""
    config = SINK.config({"batch": 1000} | changes)
    return SINK.request_of([SINK.part(each, config, NOW) for each in records], config, KEY, NOW)


def bulk(*records: Dispatch) -> Any:
    return orjson.loads(together(*records).body)


json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
values = st.dictionaries(st.text(max_size=20), json, max_size=6)


@settings(deadline=None)
@given(
    properties=values, traits=values, phone=st.sampled_from([None, "+49 30 1234567", "030 1234"]), test=st.booleans()
)
def test_what_is_sent_fits_klaviyos_contract(
    properties: dict[str, Any], traits: dict[str, Any], phone: str | None, test: bool
) -> None:
    told = dispatch(event={"properties": properties}, customer={"traits": traits, "phone": phone}, replayed=test)
    validator("create_event", "EventCreateQueryV2").validate(sent(told))
    validator("create_or_update_profile", "ProfileUpsertQuery").validate(sent(told, mode="profiles"))
    validator("bulk_create_events", "EventsBulkCreateJob").validate(bulk(told, dispatch(id="f" * 32)))


def ours(way: str, address: str) -> Request:
    if way == "bulk_create_events":
        return together(dispatch(), dispatch(id="f" * 32, replayed=True), address=address)
    mode = "profiles" if way == "create_or_update_profile" else "events"
    return asked("klaviyo", {"address": address, "mode": mode}, KEY)


def as_theirs(value: Any) -> Any:
    """Its client writes a moment's offset as +00:00, and the default of `backfill` out."""
    if isinstance(value, list):
        return [as_theirs(each) for each in value]
    if not isinstance(value, dict):
        return value
    made = {name: as_theirs(each) for name, each in value.items()}
    if "unique_id" in made:
        made |= {"backfill": made.get("backfill", False), "time": made["time"].replace("123Z", "123000+00:00")}
    return made


@pytest.mark.parametrize(
    ("way", "status"), [("create_event", 202), ("bulk_create_events", 202), ("create_or_update_profile", 201)]
)
def test_it_is_what_klaviyos_own_client_sends(way: str, status: int) -> None:
    with vendor(status, b'{"data":{"type":"profile","id":"1","attributes":{},"links":{"self":"x"}}}') as (host, calls):
        client = KlaviyoAPI(KEY, max_delay=1, max_retries=1, test_host=host)
        request = ours(way, host)
        call = getattr(client.Profiles if "profile" in way else client.Events, way)
        call(orjson.loads(request.body))
    [theirs] = calls
    assert (theirs.method, host + theirs.path) == (request.method, request.url)
    assert {name: theirs.headers[name] for name in ("authorization", "content-type", "accept")} == {
        name: request.headers[name] for name in ("authorization", "content-type", "accept")
    }
    # Which revision is ours to choose: that of the contract.
    assert len(theirs.headers["revision"]) == len(request.headers["revision"])
    written = orjson.loads(theirs.body)
    if way == "bulk_create_events":
        for entry in written["data"]["attributes"]["events-bulk-create"]["data"]:
            assert entry["attributes"].pop("backfill") is False
    assert written == as_theirs(orjson.loads(request.body))


def test_the_revision_is_the_contracts() -> None:
    validator("create_event", "EventCreateQueryV2")
    contract = orjson.loads((CONTRACT / "create_event.json").read_bytes())
    assert ours("create_event", "https://a.klaviyo.com").headers["revision"] == contract["info"]["version"]


def test_the_dedup_key_is_always_set_and_what_is_replayed_sets_off_no_flow() -> None:
    event = sent(dispatch(replayed=True))["data"]["attributes"]
    assert (event["unique_id"], event["backfill"]) == (dispatch().id, True)
    assert (event["value"], event["value_currency"], event["time"]) == (99.5, "EUR", "2023-11-14T22:13:20.123Z")
    who = event["profile"]["data"]["attributes"]
    assert who == {
        "email": "Ada@Shop.example",
        "phone_number": "+49301234567",
        "external_id": "7",
        "first_name": "Ada",
        "last_name": "Lovelace",
    }
    assert "backfill" not in sent(dispatch())["data"]["attributes"]


@pytest.mark.parametrize(("currency", "sent_as"), [("EUR", "EUR"), ("eur", "EUR"), ("coins", None), ("€", None)])
def test_a_currency_that_is_none_of_iso_4217_is_a_property_alone(currency: str, sent_as: str | None) -> None:
    """Klaviyo would refuse the event for it, and in bulk all others with it."""
    event = sent(dispatch(event={"properties": {"amount": 50, "currency": currency}}))["data"]["attributes"]
    assert (event["value"], event.get("value_currency")) == (50, sent_as)
    assert event["properties"]["currency"] == currency


def test_who_is_known_by_phone_first_is_not_told_of_by_mail_as_well() -> None:
    def who(selector: str, **customer: Any) -> dict[str, Any]:
        event = sent(dispatch(customer=customer), selector=selector)["data"]["attributes"]
        return {name: event["profile"]["data"]["attributes"].get(name) for name in ("email", "phone_number")}

    assert who("email") == {"email": "Ada@Shop.example", "phone_number": "+49301234567"}
    assert who("phone") == {"email": None, "phone_number": "+49301234567"}
    assert who("phone", phone="030 1") == {"email": "Ada@Shop.example", "phone_number": None}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"customer": {"user_id": None, "email": None, "phone": "030 1"}}, "e-mail, phone"),
        ({"event": {"properties": {f"p{n}": n for n in range(401)}}}, "400 properties"),
        ({"event": {"properties": {"long": ["x" * 90_000] * 60}}}, "5,242,880 bytes"),
        ({"event": {"properties": {"a": "x" * 90_000, "b": [{"c": "ü" * 60_000}]}}}, "'b'.*102,400 bytes"),
        ({"name": "x" * 128}, "127"),
        ({"name": ""}, "127"),
        ({"event": {"time": 631_151_999_999}}, "before 1990"),
        ({"event": {"time": NOW + 367 * 86_400_000}}, "a year ahead"),
    ],
)
def test_what_klaviyo_would_refuse_is_refused_here(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        sent(dispatch(**changes))


def test_what_klaviyo_takes_is_not_refused_here() -> None:
    for properties in ({f"p{n}": n for n in range(400)}, {"a": ["x" * 90_000] * 50}):
        assert sent(dispatch(event={"properties": properties}))["data"]["attributes"]["properties"] == properties
    for time in (631_152_000_000, NOW + 365 * 86_400_000):
        sent(dispatch(event={"time": time}))


def test_a_profile_is_smaller_than_an_event() -> None:
    assert sent(dispatch(customer={"traits": {"note": "x" * 99_000}}), mode="profiles")
    with pytest.raises(ValueError, match="102,400 bytes"):
        sent(dispatch(customer={"traits": {"note": "x" * 102_400}}), mode="profiles")


def test_a_bulk_request_holds_no_id_twice() -> None:
    """Of one profile and metric; Klaviyo refuses all of the request for one such."""
    first, other = dispatch(), dispatch(id="f" * 32)
    same = dispatch(customer={"email": "else@shop.example", "user_id": None})
    assert same.id == first.id
    elsewhere = dispatch(customer={"email": "else@shop.example", "user_id": "8", "phone": None})
    named = dispatch(name="Order Paid")

    def of(*records: Dispatch) -> list[tuple[str, str, str]]:
        found = []
        for entry in bulk(*records)["data"]["attributes"]["events-bulk-create"]["data"]:
            [event] = entry["attributes"]["events"]["data"]
            name = event["attributes"]["metric"]["data"]["attributes"]["name"]
            who = entry["attributes"]["profile"]["data"]["attributes"]["email"]
            found.append((event["attributes"]["unique_id"], name, who))
        return found

    ada, paid, else_ = "Ada@Shop.example", "Order Paid", "else@shop.example"
    # `same` is by phone who `first` is.
    assert of(first, other, first, same) == [(first.id, first.name, ada), (other.id, first.name, ada)]
    assert of(first, named, elsewhere) == [
        (first.id, first.name, ada),
        (first.id, paid, ada),
        (first.id, first.name, else_),
    ]
    # Where one is left it goes as one alone does.
    alone = together(first, first)
    assert (alone.url, alone.body) == (together(first).url, together(first).body)
    assert alone.url.endswith("/api/events")


@pytest.mark.parametrize("many", [60, 1000])
def test_a_full_bulk_request_keeps_below_five_megabytes(many: int) -> None:
    """However small its events are: what stands around each counts."""
    config = SINK.config({"batch": 1000})

    def part(number: int, fill: int) -> bytes:
        return SINK.part(dispatch(id=f"{number:032}", event={"properties": {"x": "x" * fill}}), config, NOW)

    fill = SINK.most_bytes // many - len(part(0, 0))
    parts = [part(number, fill) for number in range(many)]
    assert SINK.most_bytes - many < sum(map(len, parts)) <= SINK.most_bytes
    assert len(SINK.request_of(parts, config, KEY, NOW).body) <= 5_000_000


def test_its_answers_are_told_with_what_it_says_and_where() -> None:
    error = {"id": "1", "code": "invalid", "title": "Invalid input.", "detail": "Bad email"}
    body = orjson.dumps({"errors": [error | {"source": {"pointer": "/data/attributes/profile"}}, error]})
    said = "the tool refuses this record with 400: Bad email (/data/attributes/profile); Bad email"
    assert SINK.classify(400, {}, body)[:2] == ("invalid", said)
    taken = (
        b'{"errors":[{"code":"duplicate_profile","detail":"A profile already exists with one of these identifiers."}]}'
    )
    assert SINK.classify(409, {}, taken).outcome == "invalid"
    assert "already exists" in SINK.classify(409, {}, taken).detail
    assert SINK.classify(429, {"retry-after": "9"}, b"")[::2] == ("throttle", 9.0)
    for status in (401, 403, 410):
        assert SINK.classify(status, {}, body).outcome == "setup"
    for status in (200, 201, 202):
        assert SINK.classify(status, {}, b"").outcome == "ok"


def test_it_is_asked_whose_key_it_is() -> None:
    request = SINK.probe(SINK.config({"address": "https://proxy.example/k/"}), KEY, NOW)
    assert (request.method, request.url) == ("GET", "https://proxy.example/k/api/accounts")
    assert request.headers["authorization"] == f"Klaviyo-API-Key {KEY}"
    assert KEY not in str(request.shown())


@pytest.mark.parametrize("secret", [None, "", "two words", "line\nbreak"])
def test_a_key_that_is_none_is_the_set_ups_fault(secret: str | None) -> None:
    with pytest.raises(SetupError, match="private API key"):
        asked("klaviyo", {}, secret)


def test_its_limits_are_those_of_the_endpoint() -> None:
    assert SINK.limits(SINK.config({})) == (3500 / 60, 350)
    assert SINK.limits(SINK.config({"batch": 500})) == (2.5, 10)
    assert SINK.limits(SINK.config({"mode": "profiles"})) == (12.5, 75)


def test_profiles_are_sent_one_by_one() -> None:
    with pytest.raises(SetupError, match="one by one"):
        SINK.config({"mode": "profiles", "batch": 10})
