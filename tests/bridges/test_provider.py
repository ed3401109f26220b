"""The flow that all webhooks share: secrets, mappings of the source's own, samples, several events in one delivery."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from webhook_world import NOW_MS, deliver, made, refusal, source_of

from pipeline.bridges.base import BridgeRequest, Refused
from pipeline.bridges.provider import Provider, WebhookSettings
from pipeline.bridges.registry import BRIDGES
from pipeline.bridges.signatures import signature
from pipeline.models.catalogue import catalogue
from pipeline.models.mapping import Mapping

PROVIDERS = {name: bridge for name, bridge in BRIDGES.items() if isinstance(bridge, Provider)}
SECRET = b"hush"


def signed(body: bytes) -> dict[str, str]:
    return {"x-signature": signature(SECRET, body)}


def test_all_providers_are_there() -> None:
    assert set(PROVIDERS) >= {
        "webhook", "webhook-github", "webhook-stripe", "webhook-slack", "webhook-shopify", "webhook-typeform",
        "webhook-twilio", "webhook-standard",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(PROVIDERS))
@pytest.mark.parametrize("secrets", [(), (b"",)])
def test_without_a_secret_nothing_is_taken(name: str, secrets: tuple[bytes, ...]) -> None:
    assert refusal(source_of(name), b"{}", {}, *secrets) == (403, "no_secret")


@pytest.mark.parametrize("name", sorted(PROVIDERS))
@given(
    body=st.binary(max_size=50), headers=st.dictionaries(st.sampled_from(["x-signature", "authorization"]), st.text())
)
def test_what_nobody_signed_is_refused(name: str, body: bytes, headers: dict[str, str]) -> None:
    # Twilio signs a form's fields, so what is no form is refused as such.
    assert refusal(source_of(name), body, headers, SECRET)[0] in ((400, 401) if name == "webhook-twilio" else (401,))


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_every_name_that_a_provider_gives_is_in_the_catalogue(name: str) -> None:
    mapping = PROVIDERS[name].mapping
    for event in mapping.events:
        if event.type == "track" and isinstance(event.event, str) and not event.event.startswith("$"):
            known = catalogue().find(event.event)
            assert known is not None, event.event
            if isinstance(event.properties, dict):
                assert set(event.properties) <= set(known.properties), event.event


def test_a_mapping_of_the_sources_own_replaces_the_providers() -> None:
    mapping = {"events": [{"event": "Lead {$.kind|title}", "userId": "$.who", "messageId": "$.ref"}]}
    source = source_of("webhook", mapping=mapping)
    body = orjson.dumps({"kind": "hot_one", "who": 17, "ref": "r-1"})
    [event] = made(deliver(source, body, signed(body), SECRET), source)
    assert event == {"type": "track", "event": "Lead Hot One", "userId": 17, "messageId": "r-1"}
    assert refusal(source, b"{}", signed(b"{}"), SECRET) == (400, "no_identity")


def test_an_edit_of_the_source_acts_at_once() -> None:
    body = orjson.dumps({"who": "u"})
    for name in ("First", "Second"):
        source = source_of("webhook", mapping={"events": [{"event": name, "userId": "$.who"}]})
        assert made(deliver(source, body, signed(body), SECRET), source)[0]["event"] == name


def test_of_several_events_in_one_delivery_the_good_ones_go_in() -> None:
    source = source_of("webhook", mapping={"events": [{"each": "$", "event": "Mail Sent", "userId": "@.to"}]})
    body = orjson.dumps([{"to": "a"}, {}, {"to": "c"}])
    parsed = deliver(source, body, signed(body), SECRET)
    names = [event["messageId"] for event in made(parsed, source)]
    assert [name.rpartition("#")[2] for name in names] == ["0", "2"]
    assert [(fault.index, fault.code) for fault in parsed.faults] == [(1, "no_identity")]
    assert [out.message_id for out in deliver(source, body, signed(body), SECRET).events] == names


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"events": []}, "at least 1"),
        ({"events": [{"event": "$.a..b"}]}, "no path"),
        ({"events": [{"event": "{$.a|upper}"}]}, "no cast"),
        ({"events": [{"evnt": "x"}]}, "Extra inputs"),
    ],
)
def test_a_mapping_that_cannot_work_is_not_saved(mapping: Any, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        WebhookSettings.model_validate({"mapping": mapping})


def test_a_sample_needs_no_signature_and_takes_a_mapping_to_try() -> None:
    bridge = PROVIDERS["webhook-shopify"]
    request = BridgeRequest("webhook", {"x-shopify-topic": "orders/create"}, b'{"id": 7, "email": "a@b.example"}')
    [out] = bridge.sample(request, source_of(bridge.name)).events
    assert orjson.loads(out.value)["event"] == "Order Completed"
    mapping = Mapping.model_validate({"events": [{"event": "Tried", "userId": {"path": "$.id", "as": "string"}}]})
    [out] = bridge.sample(request, source_of(bridge.name), mapping).events
    assert orjson.loads(out.value) == {"type": "track", "event": "Tried", "userId": "7", "messageId": "sample"}
    wrong = Mapping.model_validate({"events": [{"event": "T", "userId": "u", "properties": {"n": N}}]})
    with pytest.raises(Refused) as caught:
        bridge.sample(request, source_of(bridge.name), wrong)
    assert (caught.value.code, caught.value.path) == ("mapping", "$.email")


N = {"path": "$.email", "as": "number"}


def test_settings_that_nobody_checked_refuse_by_name() -> None:
    assert refusal(source_of("webhook", header="no header"), b"{}", {}, SECRET, now_ms=NOW_MS) == (403, "bad_settings")
