"""Twilio's signature: its own validator signs, and ours must agree."""

from __future__ import annotations

import hashlib
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from pipeline.bridges.base import BridgeRequest, Refused
from pipeline.bridges.twilio_signature import check_twilio, sign_twilio

TOKEN = b"12345"
URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
#: Twilio's documentation, "Validating Signatures from Twilio".
FIELDS = {
    "CallSid": "CA1234567890ABCDE",
    "Caller": "+14158675309",
    "Digits": "1234",
    "From": "+14158675309",
    "To": "+18005551212",
}
SIGNATURE = "RSOYDt4T1cUTdK1PDd93/VVr8B8="
FORM = {"content-type": "application/x-www-form-urlencoded; charset=UTF-8"}


def form(fields: dict[str, str] | dict[str, list[str]], signature: str, url: str = URL) -> BridgeRequest:
    headers = FORM | {"x-twilio-signature": signature}
    return BridgeRequest("webhook", headers, urlencode(fields, doseq=True).encode(), url=url)


def test_twilios_own_vector() -> None:
    assert sign_twilio(TOKEN, URL, {name: [value] for name, value in FIELDS.items()}) == SIGNATURE
    assert check_twilio(form(FIELDS, SIGNATURE), [b"old", TOKEN])["Digits"] == ["1234"]


@pytest.mark.parametrize(
    ("signed", "asked"),
    [
        ("https://a.example/x?y=1", "https://a.example:443/x?y=1"),
        ("https://a.example:443/x?y=1", "https://a.example/x?y=1"),
        ("http://a.example:80/x", "http://a.example/x"),
        ("https://a.example:8443/x", "https://a.example:8443/x"),
        ("https://a.example/x", "https://a.example:8443/x"),
    ],
)
def test_with_and_without_the_port(signed: str, asked: str) -> None:
    made = RequestValidator(TOKEN.decode()).compute_signature(signed, FIELDS)
    assert check_twilio(form(FIELDS, made, asked), [TOKEN])


def test_the_public_address_may_be_another() -> None:
    inside = form(FIELDS, SIGNATURE, "http://10.0.0.7:8080/myapp.php?foo=1&bar=2")
    with pytest.raises(Refused):
        check_twilio(inside, [TOKEN])
    assert check_twilio(inside, [TOKEN], URL)


@given(st.dictionaries(st.text(max_size=8), st.lists(st.text(max_size=8), min_size=1, max_size=3), max_size=5))
def test_twilios_validator_agrees(fields: dict[str, list[str]]) -> None:
    class Several(dict):  # type: ignore[type-arg]
        def getlist(self, name: str) -> list[str]:
            return self[name]  # type: ignore[no-any-return]

    made = RequestValidator(TOKEN.decode()).compute_signature(URL, Several(fields))
    assert check_twilio(form(fields, made), [TOKEN]) == fields


def test_json_is_covered_by_its_hash_in_the_address() -> None:
    body = b'{"a": 1}'
    url = f"{URL}&bodySHA256={hashlib.sha256(body).hexdigest()}"
    validator = RequestValidator(TOKEN.decode())
    made = validator.compute_signature(url, {})
    assert validator.validate(url, body.decode(), made)
    headers = {"content-type": "application/json", "x-twilio-signature": made}
    assert check_twilio(BridgeRequest("webhook", headers, body, url=url), [TOKEN]) == {}
    for forged, where in ((body + b" ", url), (body, URL)):
        with pytest.raises(Refused):
            check_twilio(BridgeRequest("webhook", headers, forged, url=where), [TOKEN])
    # As a form, the same signature of the address alone vouches for no fields.
    headers["content-type"] = FORM["content-type"]
    with pytest.raises(Refused):
        check_twilio(BridgeRequest("webhook", headers, b"From=%2B1", url=url), [TOKEN])


def test_the_newer_algorithm_by_its_header() -> None:
    made = RequestValidator(TOKEN.decode()).compute_signature(URL, FIELDS, "HMAC_SHA256")
    request = form(FIELDS, made)
    with pytest.raises(Refused):
        check_twilio(request, [TOKEN])
    settings = {"x-twilio-webhooks-signature-settings": "key=webhooks_sharedkey_1, algorithm=HMAC_SHA256"}
    assert check_twilio(BridgeRequest("webhook", {**request.headers, **settings}, request.body, url=URL), [TOKEN])
    settings["x-twilio-webhooks-signature-settings"] = "algorithm=NONE"
    with pytest.raises(Refused):
        check_twilio(BridgeRequest("webhook", {**request.headers, **settings}, request.body, url=URL), [TOKEN])


@pytest.mark.parametrize("tokens", [[], [b""]])
def test_without_a_token_nothing_is_taken(tokens: list[bytes]) -> None:
    with pytest.raises(Refused) as caught:
        check_twilio(form(FIELDS, SIGNATURE), tokens)
    assert caught.value.status == 403


@given(st.binary(max_size=60), st.text(max_size=40), st.sampled_from(["", FORM["content-type"], "application/json"]))
def test_nonsense_is_refused(body: bytes, url: str, kind: str) -> None:
    headers = {"content-type": kind, "x-twilio-signature": SIGNATURE}
    with pytest.raises(Refused):
        check_twilio(BridgeRequest("webhook", headers, body, url=url), [TOKEN])
