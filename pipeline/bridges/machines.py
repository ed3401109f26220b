"""Who fetches a tracked link or a pixel: a person, a machine, or a proxy that stands before persons. Pure.

Nothing is dropped on such a verdict: it is told beside the event. Sources: Google's, Yahoo's and Apple's notes on mail
images; the user agents that the tools themselves document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["PERSON", "Verdict", "verdict"]


class Verdict(NamedTuple):
    """``kind``: ``person``, ``machine`` (nobody did it), ``proxy`` (a person may have). ``rule``: what told."""

    kind: str
    rule: str | None = None

    @property
    def flag(self) -> str | None:
        """For the event's flags: ``machine:prefetch``; None for a person."""
        return None if self.rule is None else f"{self.kind}:{self.rule}"


PERSON = Verdict("person")

#: Fetched when the mail is shown, but not from the reader's place: one fetch may stand for a person, or for none.
_PROXIES = (("google-image-proxy", "googleimageproxy"), ("yahoo-mail-proxy", "yahoomailproxy"))
_PREFETCH = re.compile(r"prefetch|prerender|preview", re.IGNORECASE)
_PREFETCH_HEADERS = ("sec-purpose", "purpose", "x-purpose", "x-moz")
#: Rule -> user agents. The first that matches tells.
_AGENTS = (
    (
        "link-scanner",
        r"barracuda|mimecast|proofpoint|urldefense|safelinks|trendmicro|fireeye|symantec|messagelabs|forcepoint|"
        r"zscaler|checkpoint|sophos|cloudmark|ms-office|microsoft office|microsoft outlook|skypeuripreview",
    ),
    (
        "preview",
        r"facebookexternalhit|facebot|twitterbot|slackbot|slack-imgproxy|whatsapp|telegrambot|linkedinbot|discordbot|"
        r"pinterest|bingpreview|google-read-aloud|googlemessages|redditbot|vkshare|viber|embedly|iframely",
    ),
    ("bot", r"bot\b|bot/|crawler|spider|slurp|archiver|headlesschrome|phantomjs|lighthouse|monitor|uptime"),
    (
        "tool",
        r"^(?:curl|wget|python|java|go-http-client|okhttp|axios|node-fetch|undici|ruby|perl|libwww|apache-httpclient|"
        r"postmanruntime|guzzlehttp|php|httpx|aiohttp)\b|python-requests|python-urllib",
    ),
)
_COMPILED = tuple((rule, re.compile(pattern, re.IGNORECASE)) for rule, pattern in _AGENTS)
_MAX_AGENT = 1000


def verdict(method: str, headers: Mapping[str, str], *, pixel: bool = False) -> Verdict:
    """Of one fetch. ``headers``: names in lower case; ``pixel``: an image of a mail, not a link."""
    if method == "HEAD":
        return Verdict("machine", "head")
    if any(_PREFETCH.search(headers.get(name, "")) for name in _PREFETCH_HEADERS):
        return Verdict("machine", "prefetch")
    agent = headers.get("user-agent", "")[:_MAX_AGENT]
    if not agent.strip():
        return Verdict("machine", "no-agent")
    lower = agent.lower()
    for rule, mark in _PROXIES:
        if mark in lower:
            return Verdict("proxy", rule)
    if agent.strip() == "Mozilla/5.0":
        # Apple fetches the images of every mail that arrives, whether anybody reads it or not.
        return Verdict("machine", "apple-mail-privacy" if pixel else "bare-agent")
    for rule, pattern in _COMPILED:
        if pattern.search(agent):
            return Verdict("machine", rule)
    return PERSON
