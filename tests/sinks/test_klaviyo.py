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
from pipeline.sinks.base import SetupError
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
    config = SINK.config({"batch": 1000})
    parts = [SINK.part(each, config, NOW) for each in (told, dispatch(id="f" * 32))]
    bulk = orjson.loads(SINK.request_of(parts, config, KEY, NOW).body)
    validator("bulk_create_events", "EventsBulkCreateJob").validate(bulk)


def test_it_is_what_klaviyos_own_client_sends() -> None:
    told = dispatch()
    body = sent(told)
    with vendor(202, b"{}") as (address, calls):
        client = KlaviyoAPI(KEY, max_delay=1, max_retries=1)
        client.Events.api_client.configuration.host = address
        client.Events.create_event(body)
    ours = asked("klaviyo", {"address": address}, KEY, told)
    [theirs] = calls
    assert (theirs.method, address + theirs.path) == (ours.method, ours.url)
    for name in ("authorization", "content-type"):
        assert theirs.headers[name] == ours.headers[name]
    # Theirs writes the offset as +00:00, ours as Z; theirs writes the default out.
    written = orjson.loads(theirs.body.replace(b"123000+00:00", b"123Z"))
    assert written["data"]["attributes"].pop("backfill") is False
    assert written == orjson.loads(ours.body)


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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"customer": {"user_id": None, "email": None, "phone": "030 1"}}, "e-mail, phone"),
        ({"event": {"properties": {f"p{n}": n for n in range(401)}}}, "400 properties"),
        ({"event": {"properties": {"long": "x" * 5_000_000}}}, "bytes"),
        ({"name": "x" * 128}, "127"),
    ],
)
def test_what_klaviyo_would_refuse_is_refused_here(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        sent(dispatch(**changes))


def test_its_answers_are_told_with_what_it_says() -> None:
    body = b'{"errors":[{"id":"1","code":"invalid","title":"Invalid input.","detail":"Bad email"}]}'
    assert SINK.classify(400, {}, body)[:2] == ("invalid", "the tool refuses this record with 400: Bad email")
    assert SINK.classify(429, {"retry-after": "9"}, b"")[::2] == ("throttle", 9.0)
    assert SINK.classify(401, {}, body).outcome == "setup"
    assert SINK.classify(202, {}, b"").outcome == "ok"


@pytest.mark.parametrize("secret", [None, "", "two words", "line\nbreak"])
def test_a_key_that_is_none_is_the_set_ups_fault(secret: str | None) -> None:
    with pytest.raises(SetupError, match="private API key"):
        asked("klaviyo", {}, secret)


def test_its_limits_are_those_of_the_endpoint() -> None:
    assert SINK.limits(SINK.config({})) == (3500 / 60, 350)
    assert SINK.limits(SINK.config({"batch": 500})) == (2.5, 10)


def test_profiles_are_sent_one_by_one() -> None:
    with pytest.raises(SetupError, match="one by one"):
        SINK.config({"mode": "profiles", "batch": 10})
