"""What intake finds out about an event, beyond what it says."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.events.facts import facts, flags_of, show_facts

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
DEFAULTS: dict[str, Any] = {
    "page": None,
    "agent": None,
    "address": None,
    "pages": True,
    "flags": (),
    "country_of": {"192.0.2.1": "LV", "198.51.100.1": "DE"}.get,
}


def found(context: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    body, _ = facts(context, **(DEFAULTS | more))
    return {} if body is None else json.loads(body)


def test_nothing_to_say_is_nothing_written() -> None:
    assert facts(None, **DEFAULTS) == (None, None)
    assert facts({"library": {"name": "x"}}, **DEFAULTS) == (None, None)


def test_agent_and_country_are_what_the_edge_saw_or_what_a_server_passes_on() -> None:
    assert found(agent=FIREFOX, address="192.0.2.1")["browser"] == "Firefox"
    assert found(agent=FIREFOX, address="192.0.2.1")["country"] == "LV"
    server = {"agent": "analytics-python/2.3", "address": "192.0.2.1", "pages": False}
    passed_on = found({"userAgent": FIREFOX, "ip": "198.51.100.1"}, **server)
    assert (passed_on["browser"], passed_on["country"]) == ("Firefox", "DE")
    assert "country" not in found(address="203.0.113.1")
    assert "country" not in found(address="192.0.2.1", country_of=None)


def test_a_bot_is_told_with_its_rule() -> None:
    assert facts(None, **DEFAULTS | {"agent": "curl/8.5"}) == (b'{"bot":"tool"}', "tool")
    assert facts(None, **DEFAULTS | {"agent": "curl/8.5", "pages": False})[1] is None
    assert found(agent="Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)")["bot"] == "spider"


@pytest.mark.parametrize(
    ("context", "page", "campaign"),
    [
        ({"campaign": {"source": "mail", "name": "spring", "x": 1}}, None, {"source": "mail", "name": "spring"}),
        ({"page": {"url": "https://s.example/?a=1&utm_source=ads&utm_campaign=sp%20ring#x"}}, None,
         {"source": "ads", "name": "sp ring"}),
        ({"page": {"search": "?utm_medium=cpc&utm_term=&utm_content=b"}}, None, {"medium": "cpc", "content": "b"}),
        ({}, {"url": "https://s.example/?utm_source=ads"}, {"source": "ads"}),
        ({"campaign": {"source": 7}, "page": {"url": "https://s.example/?utm_source=ads"}}, None, {"source": "ads"}),
        ({"page": {"url": "https://s.example/?utm_other=1"}}, None, None),
        ({"campaign": "spring", "page": [1]}, None, None),
    ],
)  # fmt: skip
def test_the_campaign_is_the_contexts_own_or_the_pages(context: Any, page: Any, campaign: Any) -> None:
    assert found(context, page=page).get("campaign") == campaign


@pytest.mark.parametrize(
    ("context", "fact", "value"),
    [
        ({"session": {"id": "s-1"}}, "session", "s-1"),
        ({"session": "s-1"}, "session", "s-1"),
        ({"sessionId": 1_790_000_000}, "session", "1790000000"),
        ({"session": {"id": ["s"]}}, "session", None),
        ({"page": {"referrer": "https://News.Example/a?b"}}, "referrer", "news.example"),
        ({"referrer": {"url": "http://t.example"}}, "referrer", "t.example"),
        ({"page": {"referrer": "http://[broken"}}, "referrer", None),
        ({"page": {"referrer": ""}}, "referrer", None),
    ],
)
def test_visit(context: Any, fact: str, value: Any) -> None:
    assert found(context).get(fact) == value


def test_flags_are_bounded_and_those_of_intake_are_its_own() -> None:
    assert flags_of("machine, machine:scanner ,machine") == ("machine", "machine:scanner")
    assert flags_of("Transient,transient,bot,anonymous,future,ok,no spaces here," + "x" * 61) == ("ok",)
    assert len(flags_of(",".join(f"f{n}" for n in range(99)))) == 10
    assert found(flags=("machine", "machine:scanner"))["flags"] == ["machine", "machine:scanner"]


def test_filters_find_the_facts_and_nobody_else_there() -> None:
    event = SimpleNamespace(facts={"country": "LV"}, properties={"a": 1})
    show_facts(event)
    assert event.properties == {"a": 1, "@": {"country": "LV"}}
    bare = SimpleNamespace(facts={"country": "LV"}, properties=None)
    show_facts(bare)
    assert bare.properties == {"@": {"country": "LV"}}
    forged = SimpleNamespace(facts=None, properties={"a": 1, "@": {"country": "LV"}})
    show_facts(forged)
    assert forged.properties == {"a": 1}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
context_names = st.sampled_from(["userAgent", "ip", "session", "sessionId", "page", "campaign", "referrer", "test"])
inner = st.dictionaries(
    st.sampled_from(["id", "url", "search", "referrer", "source", "name", "medium"]),
    json_values | st.just("https://x.example/?utm_source=%ff"),
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(context_names, json_values | inner))
def test_whatever_the_context_holds_the_facts_are_a_json_object(context: dict[str, Any]) -> None:
    body, _ = facts(context, **DEFAULTS)
    assert body is None or json.loads(body)
