"""Browser, system, device and bots, from user agents as they are in the wild."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.events.user_agents import agent_of

WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (
            f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/126.0.0.0 Safari/537.36",
            {"browser": "Chrome", "browser_version": "126", "os": "Windows", "device": "desktop"},
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
            "Version/17.5 Mobile/15E148 Safari/604.1",
            {"browser": "Mobile Safari", "browser_version": "17", "os": "iOS", "device": "phone"},
        ),
        (
            f"Mozilla/5.0 (Linux; Android 13; SM-X710) {WEBKIT} Chrome/126.0.0.0 Safari/537.36",
            {"browser": "Chrome", "browser_version": "126", "os": "Android", "device": "tablet"},
        ),
        (
            f"Mozilla/5.0 (Linux; Android 11; CUBOT NOTE 20) {WEBKIT} Chrome/120.0.0.0 Mobile Safari/537.36",
            {"browser": "Chrome Mobile", "browser_version": "120", "os": "Android", "device": "phone"},
        ),
        (
            "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
            {"browser": "Firefox", "browser_version": "128", "os": "Linux", "device": "desktop"},
        ),
    ],
)
def test_people(text: str, facts: dict[str, str]) -> None:
    found = agent_of(text)
    assert json.loads(b"{" + found.facts + b"}") == facts
    assert (found.bot, found.tool) == (None, False)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "spider"),
        (f"Mozilla/5.0 {WEBKIT.rstrip(')')}; compatible; ClaudeBot/1.0; +claudebot@anthropic.com)", "spider"),
        ("facebookexternalhit/1.1", "spider"),
        ("Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)", "spider"),
        (f"Mozilla/5.0 (X11; Linux x86_64) {WEBKIT} HeadlessChrome/126.0.0.0 Safari/537.36", "headless"),
    ],
)
def test_machines(text: str, rule: str) -> None:
    assert agent_of(text).bot == rule


@pytest.mark.parametrize("text", ["curl/8.5.0", "python-requests/2.31", "Go-http-client/1.1", "analytics-python/2.3.2"])
def test_programs_are_machines_only_where_pages_send(text: str) -> None:
    found = agent_of(text)
    assert (found.bot, found.tool) == (None, True)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=2000))
def test_whatever_it_is_there_is_an_answer(text: str) -> None:
    json.loads(b"{" + agent_of(text).facts + b"}")
