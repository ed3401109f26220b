"""Tracked links: tokens bound to their destination, whose they are, verdicts on machines."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bridges.base import BridgeRequest, Parsed, Refused
from pipeline.bridges.link_token import Tracked, destination, peek, sign, signed_by
from pipeline.bridges.links import CLICK, METHOD, OPEN, PIXEL, LinksBridge
from pipeline.bridges.machines import verdict
from pipeline.models.catalogue import catalogue
from pipeline.models.control import Source

SECRET = b"a secret of the source"
SOURCE = Source(id="mail", partner="acme", name="Mail", code="mail", bridge="links", version=1, created=0, updated=0)
PERSON = {"user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
LINK = Tracked("acme", "mail", "https://shop.example/a?b=c&d=%20#e", "header", "spring", "u", "u-1")


def parse(token: str, kind: str = CLICK, headers: dict[str, str] = PERSON, now_ms: int = 0) -> Parsed:
    return LinksBridge().parse(BridgeRequest(kind, headers, token.encode()), SOURCE, [b"new", SECRET], now_ms)


def event(token: str, kind: str = CLICK, headers: dict[str, str] = PERSON) -> dict[str, Any]:
    [out] = parse(token, kind, headers).events
    return orjson.loads(out.value)  # type: ignore[no-any-return]


def test_a_click_leads_on_and_is_an_event_of_whom_it_was_sent_to() -> None:
    parsed = parse(sign(LINK, SECRET))
    assert parsed.answer is not None
    assert (parsed.answer.status, parsed.answer.headers["location"]) == (302, LINK.url)
    assert "no-store" in parsed.answer.headers["cache-control"]
    assert parsed.flags == []
    made = orjson.loads(parsed.events[0].value)
    assert made.pop("messageId") == parsed.events[0].message_id
    assert made == {
        "type": "track",
        "event": "Link Clicked",
        "userId": "u-1",
        "context": {"campaign": {"name": "spring"}},
        "properties": {"url": LINK.url, "link": "header", "campaign": "spring", "machine": False},
    }


def test_an_open_is_a_gif() -> None:
    token = sign(Tracked("acme", "mail", None, None, "spring", "e", "Ann@Shop.example"), SECRET)
    parsed = parse(token, OPEN)
    assert parsed.answer is not None
    assert parsed.answer.body == PIXEL
    assert PIXEL.startswith(b"GIF89a\x01\x00\x01\x00")
    assert event(token, OPEN)["event"] == "Email Opened"
    assert parsed.events[0].key == b"acme|e|ann@shop.example"


@pytest.mark.parametrize("name", ["Link Clicked", "Email Opened"])
def test_its_events_are_in_the_catalogue(name: str) -> None:
    assert {"link", "campaign", "machine", "rule"} <= set(catalogue().events[name].properties)


def test_a_link_that_was_sent_to_nobody_is_a_visitors() -> None:
    token = sign(Tracked("acme", "mail", "https://a.example/"), SECRET)
    assert event(token, headers=PERSON | {"cookie": "x=1; hr_aid=12345-67890"})["anonymousId"] == "12345-67890"
    first, second = event(token), event(token)
    assert first["anonymousId"] != second["anonymousId"]


def test_after_its_time_it_leads_on_with_a_flag() -> None:
    token = sign(Tracked("acme", "mail", "https://a.example/", expires=1000), SECRET)
    assert parse(token, now_ms=1000).flags == []
    late = parse(token, now_ms=1001)
    assert late.flags == ["expired"]
    assert late.answer is not None
    assert late.answer.status == 302


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        (sign(LINK, b"another secret"), CLICK),
        (sign(LINK, SECRET), OPEN),
        (sign(Tracked("acme", "mail", None), SECRET), CLICK),
        (sign(Tracked("acme", "other", "https://a.example/"), SECRET), CLICK),
        (sign(Tracked("evil", "mail", "https://a.example/"), SECRET), CLICK),
        (sign(LINK, SECRET)[:-1], CLICK),
        (sign(LINK, SECRET) + "A", CLICK),
        ("", CLICK),
        ("A" * 4001, CLICK),
    ],
)
def test_nothing_leads_where_the_source_did_not_sign(token: str, kind: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(token, kind)
    assert caught.value.status == 404


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_one_changed_byte_is_noticed(at: int, by: int) -> None:
    token = sign(LINK, SECRET)
    whole = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    whole[at % len(whole)] ^= by
    forged = base64.urlsafe_b64encode(whole).decode().rstrip("=")
    with pytest.raises(Refused):
        parse(forged)


def test_an_empty_secret_signs_nothing_and_verifies_nothing() -> None:
    with pytest.raises(ValueError, match="no secret"):
        sign(LINK, b"")
    assert not signed_by(sign(LINK, SECRET), [b""])
    assert not signed_by(sign(LINK, SECRET), [])


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_nonsense_is_refused(token: str) -> None:
    with pytest.raises(Refused):
        parse(token)


labels = st.none() | st.text(min_size=1, max_size=30)


@given(labels, labels, st.sampled_from(["u", "a", "e", "p"]), st.text(min_size=1, max_size=30), st.integers(0, 2**50))
def test_what_is_signed_is_what_is_read(link: str | None, campaign: str | None, whose: Any, who: str, at: int) -> None:
    for url in ("https://a.example/ö?q=é", None):
        made = Tracked("acme", "mail", destination(url) if url else None, link, campaign, whose, who, at)
        assert peek(sign(made, SECRET)) == made


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("https://shop.example", "https://shop.example"),
        (" HTTPS://Shop.example/A?b=c#d ", "https://Shop.example/A?b=c#d"),
        ("https://bücher.example/ü?ä=ß", "https://xn--bcher-kva.example/%C3%BC?%C3%A4=%C3%9F"),
        ("http://a.example:8080/%20%zz", "http://a.example:8080/%20%zz"),
        ("https://a.example/(x)[y]{z}|^`", "https://a.example/(x)[y]%7Bz%7D%7C%5E%60"),
        ("https://[::1]:80/", "https://[::1]:80/"),
    ],
)
def test_a_destination_is_kept_as_it_is_but_for_what_no_header_may_hold(url: str, wanted: str) -> None:
    assert destination(url) == wanted
    assert destination(wanted) == wanted


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)", "data:text/html,x", "//evil.example", "/a", "", "https://", "http:///x", "mailto:a@b",
        "https://a.example/\r\nSet-Cookie: x", "https://a b.example", "https://user:pw@a.example", "https:\\\\evil",
        "ftp://a.example", "https://a.example:99999/", "https://[::1", "https://a.example/" + "x" * 2000,
    ],
)  # fmt: skip
def test_what_is_no_destination(url: str) -> None:
    with pytest.raises(ValueError, match="it"):
        destination(url)


GOOGLE = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"
YAHOO = "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html"
FIREFOX = PERSON["user-agent"]


@pytest.mark.parametrize(
    ("method", "headers", "pixel", "flag"),
    [
        ("GET", {"user-agent": FIREFOX}, False, None),
        ("HEAD", {"user-agent": FIREFOX}, False, "machine:head"),
        ("GET", {"user-agent": FIREFOX, "sec-purpose": "prefetch;prerender"}, False, "machine:prefetch"),
        ("GET", {"user-agent": FIREFOX, "purpose": "prefetch"}, False, "machine:prefetch"),
        ("GET", {"user-agent": FIREFOX, "x-moz": "prefetch"}, False, "machine:prefetch"),
        ("GET", {}, False, "machine:no-agent"),
        ("GET", {"user-agent": GOOGLE}, True, "proxy:google-image-proxy"),
        ("GET", {"user-agent": YAHOO}, True, "proxy:yahoo-mail-proxy"),
        ("GET", {"user-agent": "Mozilla/5.0"}, True, "machine:apple-mail-privacy"),
        ("GET", {"user-agent": "Mozilla/5.0"}, False, "machine:bare-agent"),
        ("GET", {"user-agent": "Mozilla/5.0 (compatible; BarracudaCentral)"}, False, "machine:link-scanner"),
        ("GET", {"user-agent": "Slackbot-LinkExpanding 1.0"}, False, "machine:preview"),
        ("GET", {"user-agent": "Mozilla/5.0 (compatible; Googlebot/2.1)"}, False, "machine:bot"),
        ("GET", {"user-agent": "python-requests/2.32"}, False, "machine:tool"),
        ("GET", {"user-agent": "Mozilla/5.0 (X11) Chrome/140 HeadlessChrome/140"}, False, "machine:bot"),
    ],
)
def test_verdicts(method: str, headers: dict[str, str], pixel: bool, flag: str | None) -> None:
    assert verdict(method, headers, pixel=pixel).flag == flag
    url = None if pixel else "https://a.example/"
    token = sign(Tracked("acme", "mail", url, whose="u", who="u"), SECRET)
    parsed = parse(token, OPEN if pixel else CLICK, headers | {METHOD: method})
    assert parsed.flags == ([flag] if flag else [])
    # Told, never dropped.
    properties = orjson.loads(parsed.events[0].value)["properties"]
    assert properties["machine"] == (flag is not None and flag.startswith("machine"))
    assert properties.get("rule") == (flag.partition(":")[2] if flag else None)
