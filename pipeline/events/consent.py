"""Consent: who refused to be tracked, and what of an event may be kept without saying whose it is. Pure."""

from __future__ import annotations

from typing import Any

__all__ = ["GPC_HEADER", "anonymous", "refused"]

#: Set by the gateway for a client that sends `Sec-GPC: 1`.
GPC_HEADER = "headrace_gpc"

_KEPT = ("type", "event", "name", "messageId", "timestamp", "originalTimestamp", "sentAt", "properties", "writeKey")
_CONTEXT = ("campaign", "locale", "timezone", "library", "consent", "gpc", "userAgent", "ip")
#: What says nothing without whom it is about.
_PERSONAL = ("identify", "group", "alias")


def refused(document: Any, header: str | None) -> bool:
    """Whether the client refused: by `Sec-GPC: 1`, or in its context.

    ``context.gpc`` true, ``context.consent`` false, or ``context.consent.categoryPreferences`` with every one false.
    """
    if header == "1":
        return True
    context = document.get("context") if type(document) is dict else None
    if type(context) is not dict:
        return False
    consent = context.get("consent")
    if context.get("gpc") is True or consent is False:
        return True
    categories = consent.get("categoryPreferences") if type(consent) is dict else None
    return type(categories) is dict and bool(categories) and all(each is False for each in categories.values())


def anonymous(document: dict[str, Any]) -> dict[str, Any] | None:
    """The event without whose it is: no ids, no traits, no session, of the page its address alone; None where nothing
    is left to say. What stands in its properties is the partner's own. Agent and address serve the facts, and go then.
    """
    if document.get("type", "track") in _PERSONAL:
        return None
    left = {name: document[name] for name in _KEPT if name in document}
    context = document.get("context")
    if type(context) is dict:
        kept = {name: context[name] for name in _CONTEXT if name in context}
        page = context.get("page")
        if type(page) is dict:
            # A query may say who it is; the campaign in it is read before it goes.
            kept["page"] = {name: page[name] for name in ("path", "title", "search", "referrer") if name in page}
        left["context"] = kept
    return left
