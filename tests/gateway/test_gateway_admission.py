"""Who may come in by which door."""

from __future__ import annotations

import base64

import pytest
from gateway_world import COMMANDS, state_of

from pipeline.bridges.base import Refused
from pipeline.gateway.admission import admit, admit_webhook, given_key
from pipeline.gateway.origin import origin_of

STATE = state_of(COMMANDS)


def basic(text: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize(
    ("key", "origin", "source"),
    [
        ("acme.web", None, "web-id"),
        ("acme.web", "https://anything.example", "web-id"),
        ("acme.shop", "https://shop.example", "shop-id"),
        ("acme.shop", "https://shop.example:8443", "shop-id"),
        ("acme.sub", "https://www.shop.example", "sub-id"),
        ("acme.sub", "https://a.b.shop.example", "sub-id"),
        ("acme.port", "http://localhost:8000", "port-id"),
        ("acme.rest", None, "rest-id"),
        ("acme.restd", None, "restd-id"),
        ("acme.restd", "https://shop.example", "restd-id"),
        ("acme.now", None, "before-id"),
    ],
)
def test_admitted(key: str, origin: str | None, source: str) -> None:
    assert admit(STATE, key, origin)[0].id == source


@pytest.mark.parametrize(
    ("key", "origin", "status", "code", "says"),
    [
        ("acme.nobody", None, 401, "unknown_source", "acme.nobody"),
        ("other.web", None, 401, "unknown_source", "<partner-id>.<source code>"),
        ("acme", None, 401, "unknown_source", "acme"),
        ("acme.WEB", None, 401, "unknown_source", "case"),
        ("", None, 401, "unknown_source", ""),
        ("acme.web.", None, 401, "wrong_secret_key", "mistyped"),
        ("acme.off", None, 403, "inactive_source", "switched off"),
        ("acme.gone", None, 403, "inactive_source", "removed"),
        ("acme.before", None, 401, "wrong_code", "old code of source before-id"),
        ("acme.kafka", None, 403, "wrong_bridge", "raw.acme.kafka-id"),
        ("acme.gh", None, 403, "wrong_bridge", "/v1/webhooks/acme/gh"),
        ("acme.shop", "https://evil.example", 403, "wrong_domain", "shop.example"),
        ("acme.shop", "https://www.shop.example", 403, "wrong_domain", "www.shop.example is not"),
        ("acme.shop", "https://shop.example.evil.example", 403, "wrong_domain", ""),
        ("acme.shop", "https://notshop.example", 403, "wrong_domain", ""),
        ("acme.shop", "null", 403, "wrong_domain", ""),
        ("acme.shop", None, 403, "wrong_domain", "names no page"),
        ("acme.sub", "https://evilshop.example", 403, "wrong_domain", ""),
        ("acme.port", "http://localhost:9000", 403, "wrong_domain", ""),
        ("acme.port", "http://localhost", 403, "wrong_domain", ""),
        ("acme.restd", "https://evil.example", 403, "wrong_domain", ""),
    ],
)
def test_refused(key: str, origin: str | None, status: int, code: str, says: str) -> None:
    with pytest.raises(Refused) as caught:
        admit(STATE, key, origin)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [("nobody", 401, "unknown_source"), ("off", 403, "inactive_source"), ("web", 403, "wrong_bridge")],
)
def test_webhooks_have_doors_of_their_own(code: str, status: int, reason: str) -> None:
    assert admit_webhook(STATE, "acme", "gh")[0].id == "gh-id"
    with pytest.raises(Refused) as caught:
        admit_webhook(STATE, "acme", code)
    assert (caught.value.status, caught.value.code) == (status, reason)


def test_a_key_comes_four_ways() -> None:
    assert given_key(basic("acme.web:"), {}, {}) == "acme.web"
    assert given_key({"x-write-key": "acme.web"}, {}, {}) == "acme.web"
    assert given_key({}, {"writeKey": "acme.web"}, {}) == "acme.web"
    assert given_key({}, {}, {"writeKey": "acme.web"}) == "acme.web"
    assert given_key(basic("acme.web:"), {}, {"writeKey": "acme.web"}) == "acme.web"


def test_of_a_key_in_two_parts_it_is_the_first() -> None:
    assert given_key({"x-write-key": "acme.web:any"}, {}, {"writeKey": "acme.web:***"}) == "acme.web"
    assert given_key({}, {}, {"writeKey": "acme.web:any"}) == "acme.web"


@pytest.mark.parametrize(
    ("headers", "document", "status"),
    [
        ({}, {}, 401),
        ({}, {"writeKey": ""}, 401),
        ({"authorization": "Bearer x"}, {}, 401),
        ({"authorization": "Basic !!!"}, {}, 401),
        ({"authorization": "Basic /w=="}, {}, 401),
        ({}, {"writeKey": 7}, 400),
        (basic("acme.web:"), {"writeKey": "acme.rest"}, 400),
        ({"x-write-key": "acme.web:any"}, {"writeKey": "acme.rest:***"}, 400),
        ({"x-write-key": ":any"}, {}, 401),
    ],
)
def test_no_key_or_two(headers: dict[str, str], document: dict[str, object], status: int) -> None:
    with pytest.raises(Refused) as caught:
        given_key(headers, {}, document)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("headers", "origin"),
    [
        ({}, None),
        ({"origin": "https://shop.example", "referer": "https://other.example/"}, "https://shop.example"),
        ({"referer": "https://shop.example/a?b=c"}, "https://shop.example"),
        ({"referer": "https://u:p@shop.example:8443/a"}, "https://shop.example:8443"),
        ({"referer": "https://[::1"}, "null"),
        ({"referer": "https://a:99999999/"}, "null"),
        ({"referer": "nonsense"}, "://"),
    ],
)
def test_the_page_is_known_by_origin_or_referer(headers: dict[str, str], origin: str | None) -> None:
    assert origin_of(headers) == origin
