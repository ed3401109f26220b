"""The token of a tracked link or pixel: where it leads and whose it is, signed with the source's secret. Pure.

Base64url of a 16-byte HMAC-SHA256 and of a MessagePack list. Since the destination is signed, the gateway leads
nowhere that the source's owner did not choose: it is no open redirect.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, urlsplit

import msgspec

from pipeline.models.base import Millis

__all__ = ["MAX_TOKEN", "MAX_URL", "Tracked", "Whose", "destination", "peek", "sign", "signed_by"]

#: Characters of a token, and of a destination: mail clients and proxies cut longer addresses.
MAX_TOKEN, MAX_URL = 4000, 2000
MAX_LABEL, MAX_WHOSE = 200, 320
_MAC = 16
#: The source's secret signs nothing else with this key.
_PURPOSE = b"headrace link 1"
_TOKEN = re.compile(rf"[A-Za-z0-9_-]{{24,{MAX_TOKEN}}}", re.ASCII)
#: What an address keeps as it is: reserved and unreserved characters, and percent signs.
_SAFE = "!#$%&'()*+,/:;=?@[]~-._"

#: Who was sent it: user id, anonymous id, e-mail, phone.
Whose = Literal["u", "a", "e", "p"]


@dataclass(frozen=True, slots=True)
class Tracked:
    """What a token says. ``url``: None for a pixel. ``expires``: since then a fetch is flagged, not refused."""

    partner: str
    source: str
    url: str | None
    link: str | None = None
    campaign: str | None = None
    whose: Whose | None = None
    who: str | None = None
    expires: Millis | None = None


class _Wire(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: Literal[1]
    partner: str
    source: str
    url: str | None = None
    link: str | None = None
    campaign: str | None = None
    whose: Whose | None = None
    who: str | None = None
    expires: int | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Wire).decode


def destination(url: str) -> str:
    """``url`` as it will stand in Location: absolute, http or https, ASCII. Raises ValueError that says why not."""
    url = url.strip(" \t\r\n\f")
    if any(ord(char) < 33 or ord(char) == 127 or char == "\\" for char in url):
        raise ValueError("it holds a space, a backslash or a control character; encode it with %")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("it is no web address") from None
    if parts.scheme.lower() not in ("http", "https") or not host:
        raise ValueError("it must begin with http:// or https:// and a host name")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it must not hold a user name or a password")
    try:
        netloc = parts.netloc.encode("ascii").decode() if parts.netloc.isascii() else _idna(parts.netloc)
        rest = quote(url[url.index("//") + 2 + len(parts.netloc) :], safe=_SAFE)
    except (UnicodeError, ValueError):
        raise ValueError("its host is no name that there can be") from None
    whole = f"{parts.scheme.lower()}://{netloc}{rest}"
    if len(whole) > MAX_URL:
        raise ValueError(f"it has {len(whole)} characters; at most {MAX_URL}")
    return whole


def _idna(netloc: str) -> str:
    host, colon, port = netloc.partition(":")
    return host.encode("idna").decode() + colon + port


def sign(tracked: Tracked, secret: bytes) -> str:
    """The token. Raises ValueError for an empty secret, and for a text that is too long."""
    if not secret:
        raise ValueError("the source has no secret")
    for name, limit in (("link", MAX_LABEL), ("campaign", MAX_LABEL), ("who", MAX_WHOSE)):
        if len(getattr(tracked, name) or "") > limit:
            raise ValueError(f"{name} is longer than {limit} characters")
    fields = [
        1, tracked.partner, tracked.source, tracked.url, tracked.link, tracked.campaign, tracked.whose, tracked.who,
        tracked.expires,
    ]  # fmt: skip
    while fields[-1] is None:
        fields.pop()
    body = _encode(fields)
    token = base64.urlsafe_b64encode(_mac(secret, body) + body).decode().rstrip("=")
    if len(token) > MAX_TOKEN:
        raise ValueError("what the link carries is too long: shorten its address or its names")
    return token


def peek(token: str) -> Tracked:
    """What ``token`` claims, not yet verified: it says whose secret to verify it with. Raises ValueError."""
    _, body = _taken_apart(token)
    try:
        wire = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ValueError("no token of ours") from None
    return Tracked(*(getattr(wire, name) for name in Tracked.__slots__))


def signed_by(token: str, secrets: Sequence[bytes]) -> bool:
    """Whether one of ``secrets`` signed ``token``; in constant time, all are tried. Raises ValueError."""
    mac, body = _taken_apart(token)
    matches = [hmac.compare_digest(_mac(secret, body), mac) for secret in secrets if secret]
    return any(matches)


def _taken_apart(token: str) -> tuple[bytes, bytes]:
    if not _TOKEN.fullmatch(token):
        raise ValueError("no token of ours")
    try:
        whole = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        raise ValueError("no token of ours") from None
    return whole[:_MAC], whole[_MAC:]


def _mac(secret: bytes, body: bytes) -> bytes:
    key = hmac.digest(secret, _PURPOSE, "sha256")
    return hmac.digest(key, body, "sha256")[:_MAC]
