"""What intake adds to an event: who sent it, from where, on which visit (docs/events.md). Pure.

Facts stand in a field of their own, as JSON that is put together from parts that are kept encoded; nobody's
properties are touched. Segments and rules read them as properties under ``@``: ``@.country``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from pipeline.events.user_agents import agent_of

__all__ = ["FACTS", "FACT_TYPES", "MAX_FLAGS", "CountryOf", "facts", "flags_of", "show_facts"]

#: The name under which filters find the facts of an event.
FACTS = "@"
#: Fact -> its type, as the checks of segments take it.
FACT_TYPES: dict[str, str] = {
    "browser": "string",
    "browser_version": "string",
    "os": "string",
    "device": "string",
    "bot": "string",
    "country": "string",
    "session": "string",
    "referrer": "string",
    "campaign": "object",
    "campaign.source": "string",
    "campaign.medium": "string",
    "campaign.name": "string",
    "campaign.term": "string",
    "campaign.content": "string",
    "flags": "array",
}
#: An address -> ISO 3166-1 alpha-2, or None.
CountryOf = Callable[[str], str | None]

_UTM = {f"utm_{name}": name for name in ("source", "medium", "term", "content")} | {"utm_campaign": "name"}
_CAMPAIGN = ("source", "medium", "name", "term", "content")
_MAX_TEXT = 200
_MAX_URL = 4000
MAX_FLAGS = 10
_FLAG_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.:")
#: Said by intake alone.
_RESERVED = frozenset({"future", "bot", "transient", "anonymous"})

_encode = msgspec.json.encode


@lru_cache(1000)
def flags_of(header: str) -> tuple[str, ...]:
    """The flags in the header ``headrace_flags``, ``a,b:rule``; at most 10, of 1 to 60 lower-case characters each."""
    wanted = [flag.strip() for flag in header.split(",")]
    good = [flag for flag in wanted if 0 < len(flag) <= 60 and _FLAG_CHARS.issuperset(flag) and flag not in _RESERVED]
    return tuple(dict.fromkeys(good))[:MAX_FLAGS]


def facts(
    context: dict[str, Any] | None,
    page: dict[str, Any] | None,
    agent: str | None,
    address: str | None,
    flags: Sequence[str],
    country_of: CountryOf | None,
    pages: bool,
) -> tuple[bytes | None, str | None]:
    """The facts as a JSON object (None: there is nothing to say), and the rule that takes the sender for a machine.

    ``page``: the properties of a page view, which may tell its address. ``agent``, ``address``: what the edge saw; the
    context's own ``userAgent`` and ``ip`` go before them, since a server that passes events on is not their agent.
    ``pages``: events come from browsers only, so a program's user agent is a machine's. ``flags``: what a bridge said.
    """
    parts: list[bytes] = []
    bot: str | None = None
    if context is not None:
        given = context.get("userAgent")
        if type(given) is str and given:
            agent = given
        given = context.get("ip")
        if type(given) is str and given:
            address = given
    if agent:
        found = agent_of(agent)
        if found.facts:
            parts.append(found.facts)
        bot = found.bot or ("tool" if pages and found.tool else None)
        if bot:
            parts.append(_BOT[bot])
    if address and country_of is not None:
        country = country_of(address)
        if country:
            parts.append(b'"country":' + _encode(country))
    if context is not None:
        _visit(context, page, parts)
    elif page is not None:
        _visit({}, page, parts)
    if flags:
        parts.append(b'"flags":' + _encode(flags))
    return (b"{" + b",".join(parts) + b"}" if parts else None), bot


def show_facts(event: Any) -> None:
    """Let filters find a decoded event's facts among its properties, and nothing else there by that name."""
    properties = event.properties
    if event.facts is not None:
        if properties is None:
            event.properties = {FACTS: event.facts}
        else:
            properties[FACTS] = event.facts
    elif properties is not None and FACTS in properties:
        del properties[FACTS]


_BOT = {rule: b'"bot":' + _encode(rule) for rule in ("spider", "headless", "tool")}


def _visit(context: dict[str, Any], page: dict[str, Any] | None, parts: list[bytes]) -> None:
    session = context.get("session") or context.get("sessionId")
    if session is not None:
        if type(session) is dict:
            session = session.get("id")
        if type(session) is int:
            session = str(session)
        if type(session) is str and 0 < len(session) <= _MAX_TEXT:
            parts.append(b'"session":' + _encode(session))
    here = context.get("page")
    if type(here) is not dict:
        here = page or {}
    campaign = _campaign(context.get("campaign"), here)
    if campaign:
        parts.append(b'"campaign":' + campaign)
    referrer = context.get("referrer") or here.get("referrer")
    if type(referrer) is dict:
        referrer = referrer.get("url")
    if type(referrer) is str and referrer:
        host = _host(referrer)
        if host:
            parts.append(b'"referrer":' + _encode(host))


def _campaign(given: Any, page: dict[str, Any]) -> bytes | None:
    """What the context says; else the UTM parameters of the page's address."""
    if type(given) is dict:
        found = {name: value[:_MAX_TEXT] for name in _CAMPAIGN if type(value := given.get(name)) is str and value}
        if found:
            return _encode(found)
    for name in ("search", "url"):
        address = page.get(name)
        if type(address) is str and "utm_" in address:
            return _of_query(address[:_MAX_URL])
    return None


@lru_cache(5000)
def _of_query(address: str) -> bytes | None:
    query = address.partition("#")[0].partition("?")[2]
    try:
        pairs = parse_qsl(query, max_num_fields=100)
    except ValueError:
        return None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in _UTM and value:
            found.setdefault(_UTM[name], value[:_MAX_TEXT])
    return _encode(found) if found else None


@lru_cache(5000)
def _host(address: str) -> str | None:
    """The host of an address, in lower case; None where it has none."""
    try:
        host = urlsplit(address[:_MAX_URL]).hostname
    except ValueError:
        return None
    return host[:_MAX_TEXT] if host else None
