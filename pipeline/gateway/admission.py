"""Whose event is it, and may it come in by this door: keys, switches, bridges, domains.

Asks the control log's state as it is now, so a change acts on the next request. The codes are those that
intake gives (`models.failures.REASONS`), since it judges all again by the same rules.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.bridges.base import Bridge, Refused
from pipeline.bridges.registry import BRIDGES, TOPIC, bridge
from pipeline.bridges.segment import first_part
from pipeline.control.reducer import ControlState
from pipeline.gateway.keys import key_of, split_key
from pipeline.models.control import Source

__all__ = ["Admitted", "admit", "admit_server", "admit_webhook", "check_secret", "given_key"]

#: What is repeated of a client's own text in a message.
_ECHO = 120


def given_key(headers: Mapping[str, str], query: Mapping[str, str], document: Mapping[str, Any]) -> str:
    """The key of a tracking request: Basic user name, X-Write-Key, ``?writeKey=``, or the body's writeKey.

    Of a key in two parts, as Jitsu's client insists on (``acme.shop:any``, and ``acme.shop:***`` in the body), it is
    the first. Raises `Refused`: 401 without one, 400 when the body's own is another than the one that came with it.
    """
    inside = document.get("writeKey")
    if inside is not None and not isinstance(inside, str):
        raise Refused(400, "shape", "`writeKey` must be text", "$.writeKey")
    outside = _basic(headers.get("authorization")) or headers.get("x-write-key") or query.get("writeKey")
    outside, inside = first_part(outside), first_part(inside)
    if outside and inside and outside != inside:
        # A server's library repeats the public part in the body; the secret came in the header.
        if split_key(outside)[0] == inside:
            return outside
        raise Refused(400, "wrong_code", "the body's writeKey is not the key the request came with", "$.writeKey")
    key = outside or inside
    if not key:
        raise Refused(
            401,
            "no_key",
            "no key: pass `<partner-id>.<source code>` as the Basic user name, as X-Write-Key or as writeKey",
        )
    return key


def _basic(authorization: str | None) -> str | None:
    if not authorization:
        return None
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise Refused(401, "bad_key", "the Basic credentials are not base64 of `<key>:`") from None


class Admitted(NamedTuple):
    """``key``: the id of the secret key that was used, if any."""

    source: Source
    bridge: Bridge
    key: str | None = None


def admit(state: ControlState, key: str, origin: str | None) -> Admitted:
    """The source of ``key`` and its bridge, for a tracking request from ``origin``.

    A source with a domain takes pages of that domain only. One whose bridge is ``js`` is fed by pages alone,
    so it then wants Origin or Referer; servers may post to ``rest`` sources without. Raises `Refused`.
    """
    public, secret = split_key(key)
    source = _source(state, public)
    found = bridge(source.bridge, "tracking")
    if found is None:
        raise Refused(403, "wrong_bridge", f"source {source.id} takes no tracking calls; {_other_door(source)}")
    if source.domain is not None:
        if origin is None and source.bridge == "js":
            raise Refused(
                403,
                "wrong_domain",
                f"source {source.id} is fed by pages of {source.domain}, and this request names no page (no Origin "
                "or Referer); servers need a source whose bridge is `rest`",
            )
        if origin is not None and not source.allows_origin(origin):
            raise Refused(
                403,
                "wrong_domain",
                f"{origin} is not {source.domain}, the domain of source {source.id}; send from that domain, or "
                "correct the source's",
            )
    return Admitted(source, found, check_secret(source, secret))


def check_secret(source: Source, secret: str | None) -> str | None:
    """The id of the source's secret key that ``secret`` is; None for a source of public key that was given none.

    Raises `Refused` 401. A revoked key is as unknown as one that never was.
    """
    if secret is None and source.policy.key == "public":
        return None
    if secret is None:
        raise Refused(
            401, "no_secret_key", f"source {source.id} wants a secret key: pass `{source.key}.<secret>`, from a server"
        )
    found = key_of(source, secret)
    if found is None:
        raise Refused(
            401,
            "wrong_secret_key",
            f"source {source.id} ({source.name}) has no such secret key: it was revoked, or it is mistyped",
        )
    return found.id


def admit_webhook(state: ControlState, partner: str, code: str) -> tuple[Source, Bridge]:
    """The source and the bridge of a webhook's address. Raises `Refused`."""
    source = _source(state, f"{partner}.{code}")
    found = bridge(source.bridge, "webhook")
    if found is None:
        raise Refused(403, "wrong_bridge", f"source {source.id} takes no webhooks; {_other_door(source)}")
    return source, found


def admit_server(state: ControlState, partner: str, code: str, name: str) -> tuple[Source, Bridge]:
    """The source of an address that is for the bridge ``name``. Raises `Refused`."""
    source = _source(state, f"{partner}.{code}")
    found = bridge(source.bridge, "server")
    if found is None or found.name != name:
        raise Refused(403, "wrong_bridge", f"source {source.id} is no source of bridge {name}; {_other_door(source)}")
    return source, found


def _source(state: ControlState, key: str) -> Source:
    source = state.source_by_key(key)
    if source is None:
        partner, _, code = key.partition(".")
        former = state.sources.get((partner, state.retired.get((partner, code), "")))
        if former is not None and former.removed:
            raise Refused(403, "inactive_source", f"source {former.id} ({former.name}) was removed")
        if former is not None:
            raise Refused(
                401,
                "wrong_code",
                f"{code!r} is an old code of source {former.id} ({former.name}); use the code that it has now",
            )
        raise Refused(
            401,
            "unknown_source",
            f"no source has the key {key[:_ECHO]!r}; a key is `<partner-id>.<source code>`: check both, and their case",
        )
    if source.removed or not source.active:
        raise Refused(403, "inactive_source", f"source {source.id} ({source.name}) is switched off")
    return source


def _other_door(source: Source) -> str:
    if source.bridge == TOPIC:
        return f"its producers write to the Kafka topic {source.topic}"
    doors: dict[str, str] = {
        "tracking": "it takes tracking calls (/v1/batch and so on)",
        "webhook": f"its provider posts to /v1/webhooks/{source.partner}/{source.code}",
        "server": "servers reach it by the address of its own, with a secret key",
        "link": "it is fed by tracked links and pixels",
        "feed": "the bridge role fetches what it takes",
    }
    found = BRIDGES.get(source.bridge)
    return doors.get(found.door if found is not None else "", f"its bridge is {source.bridge}")
