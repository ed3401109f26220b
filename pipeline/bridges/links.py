"""Tracked links and pixels: a click or an opened mail as an event of whoever was sent it, with a verdict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import uuid4

from pydantic import AfterValidator, Field

from pipeline.bridges.base import Answer, BridgeRequest, Door, Parsed, Refused
from pipeline.bridges.link_token import Tracked, peek, signed_by
from pipeline.bridges.machines import PERSON, verdict
from pipeline.bridges.outgoing import raw_out
from pipeline.models.base import Millis, Model
from pipeline.models.control import Source

__all__ = ["CLICK", "METHOD", "NEVER_KEPT", "OPEN", "PIXEL", "LinksBridge", "LinksSettings"]

#: Kinds of request, and the pseudo-header in which the gateway tells the method.
CLICK, OPEN, METHOD = "click", "open", ":method"
#: A transparent GIF of one pixel.
PIXEL = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c000000000100010000020144003b")
_COOKIE = re.compile(r"(?:^|;)\s*hr_aid=([\w-]{8,64})\s*(?:;|$)", re.ASCII)
_WHOSE = {"u": ("userId",), "a": ("anonymousId",), "e": ("traits", "email"), "p": ("traits", "phone")}
NEVER_KEPT = {"cache-control": "no-store, no-cache, must-revalidate, max-age=0", "x-robots-tag": "noindex, nofollow"}


def _base(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("the address of the gateway, such as https://click.shop.example")
    return address.rstrip("/")


class LinksSettings(Model):
    """Where the links of a source lead to: its own name for the gateway, if it has one."""

    address: Annotated[str, Field(max_length=200), AfterValidator(_base)] | None = Field(
        None,
        description="the gateway as readers of the mail reach it, a name of the partner's own if possible; else "
        "HEADRACE_PUBLIC_URL",
        examples=["https://click.shop.example"],
    )


class LinksBridge:
    """The token says where to and whose; it alone is trusted. The answer does not depend on the events' fate."""

    name = "links"
    title = "tracked links and e-mail opens"
    door: Door = "link"
    channel = "E-mail"
    Settings = LinksSettings

    def parse(self, request: BridgeRequest, source: Source, secrets: Sequence[bytes], now_ms: Millis) -> Parsed:
        """The event, and the redirect or the GIF. ``request``: of kind ``click`` or ``open``, its body the token.

        Raises `Refused` 404 for a token that the source did not sign, or of the other kind.
        """
        token = request.body.decode("ascii", "replace")
        try:
            tracked = peek(token)
            ours = signed_by(token, secrets) and (tracked.partner, tracked.source) == (source.partner, source.id)
        except ValueError:
            ours = False
        if not ours or (tracked.url is None) != (request.kind == OPEN):
            raise Refused(404, "bad_link", "this link is not one of ours, or it is not whole")
        return _parsed(tracked, request, source, now_ms)


def _parsed(tracked: Tracked, request: BridgeRequest, source: Source, now_ms: Millis) -> Parsed:
    found = verdict(request.headers.get(METHOD, "GET"), request.headers, pixel=tracked.url is None)
    flags = [found.flag] if found.flag else []
    if tracked.expires is not None and now_ms > tracked.expires:
        flags.append("expired")
    properties = {
        "url": tracked.url,
        "link": tracked.link,
        "campaign": tracked.campaign,
        "machine": found.kind == "machine",
        "rule": found.rule,
    }
    event: dict[str, Any] = {
        "type": "track",
        "event": "Email Opened" if tracked.url is None else "Link Clicked",
        "properties": {name: value for name, value in properties.items() if value is not None},
    }
    if tracked.campaign is not None:
        event["context"] = {"campaign": {"name": tracked.campaign}}
    event |= _whose(tracked, request, by_person=found == PERSON)
    return Parsed([raw_out(event, source, str(uuid4()))], answer=_answer(tracked), flags=flags)


def _whose(tracked: Tracked, request: BridgeRequest, by_person: bool) -> dict[str, Any]:
    """The one it was sent to; else the visitor whom the gateway's own cookie tells; else a visitor of its own."""
    if tracked.whose is not None and tracked.who:
        first, *inside = _WHOSE[tracked.whose]
        return {first: {inside[0]: tracked.who} if inside else tracked.who}
    cookie = _COOKIE.search(request.headers.get("cookie", "")) if by_person else None
    return {"anonymousId": cookie[1] if cookie else str(uuid4())}


def _answer(tracked: Tracked) -> Answer:
    if tracked.url is None:
        return Answer(PIXEL, "image/gif", headers=NEVER_KEPT)
    return Answer(b"", "text/plain", 302, {**NEVER_KEPT, "location": tracked.url})
