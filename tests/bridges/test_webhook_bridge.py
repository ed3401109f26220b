"""Any other webhook: by HMAC in several forms, by a shared secret, by Basic."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from webhook_world import NOW_MS, deliver, made, nonsense_is_taken_or_refused, refusal, source_of

SECRET = b"hush"
BODY = orjson.dumps({"type": "lead.won", "userId": "u-1", "data": {"value": 7}})


def mac(body: bytes, algorithm: str = "sha256") -> hmac.HMAC:
    return hmac.new(SECRET, body, algorithm)


@pytest.mark.parametrize(
    ("settings", "headers"),
    [
        ({}, {"X-Signature": mac(BODY).hexdigest()}),
        (
            {"header": "X-Hook", "algorithm": "sha1", "encoding": "base64", "prefix": "sha1="},
            {"X-Hook": "sha1=" + base64.b64encode(mac(BODY, "sha1").digest()).decode()},
        ),
        ({"algorithm": "sha512"}, {"X-Signature": mac(BODY, "sha512").hexdigest()}),
        (
            {"timestamp": "X-Time"},
            {"X-Time": str(NOW_MS // 1000), "X-Signature": mac(b"%d." % (NOW_MS // 1000) + BODY).hexdigest()},
        ),
        ({"auth": "secret", "header": "X-Token"}, {"X-Token": "hush"}),
        ({"auth": "secret", "header": "Authorization", "prefix": "Bearer "}, {"Authorization": "Bearer hush"}),
    ],
)
def test_ways_to_say_who_it_is(settings: dict[str, Any], headers: dict[str, str]) -> None:
    source = source_of("webhook", **settings)
    [event] = made(deliver(source, BODY, headers, b"old", SECRET), source)
    assert event == {
        "type": "track",
        "event": "lead.won",
        "userId": "u-1",
        "properties": {"value": 7},
        "messageId": "sha256:" + hashlib.sha256(BODY).hexdigest(),
    }
    for name, value in headers.items():
        assert refusal(source, BODY, headers | {name: value[:-1]}, SECRET)[0] == 401
        assert refusal(source, BODY, headers | {name: ""}, SECRET)[0] == 401


def test_basic_credentials() -> None:
    source = source_of("webhook", auth="basic")
    right = {"Authorization": "Basic " + base64.b64encode(b"crm:hush").decode()}
    assert len(deliver(source, BODY, right, b"crm:hush").events) == 1
    wrong = {"Authorization": "Basic " + base64.b64encode(b"crm:hus").decode()}
    assert refusal(source, BODY, wrong, b"crm:hush") == (401, "bad_signature")


def test_an_old_time_is_refused() -> None:
    source = source_of("webhook", timestamp="X-Time")
    old = b"%d" % (NOW_MS // 1000 - 301)
    headers = {"X-Time": old.decode(), "X-Signature": mac(old + b"." + BODY).hexdigest()}
    assert refusal(source, BODY, headers, SECRET) == (401, "old_signature")


def test_the_id_may_come_in_a_header() -> None:
    source = source_of("webhook", id="X-Delivery")
    headers = {"X-Signature": mac(BODY).hexdigest()}
    assert deliver(source, BODY, headers | {"X-Delivery": "d-1"}, SECRET).events[0].message_id == "d-1"
    assert refusal(source, BODY, headers, SECRET) == (400, "shape")


def test_a_form_is_a_document_too() -> None:
    source = source_of("webhook", mapping={"events": [{"event": "Donated", "traits": {"email": "$.email"}}]})
    body = urlencode({"email": "a@b.example"}).encode()
    headers = {"X-Signature": mac(body).hexdigest(), "Content-Type": "application/x-www-form-urlencoded"}
    assert made(deliver(source, body, headers, SECRET), source)[0]["traits"] == {"email": "a@b.example"}


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.text(max_size=4), lambda inner: st.lists(inner) | st.dictionaries(st.just("type"), inner)
    ).map(orjson.dumps),
    st.sampled_from(["application/json", "application/x-www-form-urlencoded"]),
)
def test_signed_nonsense_raises_nothing_but_refusals(body: bytes, kind: str) -> None:
    headers = {"X-Signature": mac(body).hexdigest(), "Content-Type": kind}
    nonsense_is_taken_or_refused(source_of("webhook"), body, headers, SECRET)
