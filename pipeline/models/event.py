"""The validated event, as it stands on `events` and `history`, and the watermark beside it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipeline.models.base import Millis, Model, Slug

__all__ = [
    "ANONYMOUS",
    "IDENTIFYING",
    "NOBODYS",
    "TEST",
    "TRANSIENT",
    "WATERMARK_KEY",
    "Event",
    "Identifier",
    "Watermark",
    "identifier",
    "strongest",
]

#: Flags that say how fan-out takes an event. ``transient``: it counts and is dispatched, and `history` never has it.
#: ``anonymous``, ``test``: it is nobody's: it stands on `history` without a customer, counts nowhere, moves nobody.
ANONYMOUS, TEST, TRANSIENT = "anonymous", "test", "transient"
NOBODYS = frozenset({ANONYMOUS, TEST})

#: Record key of a watermark on `events`; no identifier can equal it, since each begins with a partner's slug.
WATERMARK_KEY = b"~watermark"

#: ``<partner>|<u|a|e|p>|<id>``: user id, anonymous id, e-mail, phone; strongest first (decision 5).
Identifier = str


#: Kind of an identifier -> the field of an event that has it, the strongest first.
IDENTIFYING: dict[str, str] = {"u": "user_id", "a": "anonymous_id", "e": "email", "p": "phone"}


def identifier(partner: str, kind: Literal["u", "a", "e", "p"], value: str) -> Identifier:
    """The identifier as key: e-mails are compared in lower case, the rest to the letter."""
    return f"{partner}|{kind}|{value.lower() if kind == 'e' else value}"


def strongest(
    partner: str,
    user_id: str | None,
    anonymous_id: str | None,
    email: str | None = None,
    phone: str | None = None,
) -> Identifier | None:
    """The key of an event: user id before anonymous id before e-mail before phone; None if it has none."""
    if user_id:
        return f"{partner}|u|{user_id}"
    if anonymous_id:
        return f"{partner}|a|{anonymous_id}"
    if email:
        return f"{partner}|e|{email.lower()}"
    if phone:
        return f"{partner}|p|{phone}"
    return None


class Event(Model):
    """A validated event. Key: its strongest identifier; times in milliseconds since 1970."""

    id: str = Field(description="message id, unique per source")
    partner: Slug
    source: Slug = Field(description="the source's immutable id")
    channel: str
    type: str
    name: str
    time: Millis = Field(description="when it happened, by the server's clock (skew corrected), <= received")
    received: Millis = Field(description="when the edge or the broker received it")
    user_id: str | None = None
    anonymous_id: str | None = None
    email: str | None = None
    phone: str | None = None
    properties: dict[str, Any] | None = None
    traits: dict[str, Any] | None = None
    context: dict[str, Any] | None = None
    ip: str | None = None
    ua: str | None = None
    control: int = Field(description="offset of the control log at which intake judged it (decision 7)")
    flags: list[str] = Field(
        default_factory=list,
        description="`future`: its time was clamped to received; `bot`; `transient`, `anonymous`, `test`: see "
        "docs/events.md; and what a bridge said, e.g. `machine:scanner`",
    )
    facts: dict[str, Any] | None = Field(
        None, description="what intake found out: browser, os, device, bot, country, session, referrer, campaign, flags"
    )
    customer: str | None = Field(
        None, description="canonical customer id; set on `history` (but of `anonymous` and `test`), never on `events`"
    )


class Watermark(Model):
    """On every partition of `events`: intake has published all it received before these moments (decision 8).

    ``received``: lane -> milliseconds. Each is a fact once true, so it needs no transaction and no fencing.
    """

    received: dict[str, Millis]
