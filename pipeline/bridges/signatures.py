"""What all signatures of webhooks share: HMACs of raw bytes, compared in constant time, never with an empty secret."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from pipeline.bridges.base import Refused
from pipeline.models.base import Millis

__all__ = ["TOLERANCE_S", "Algorithm", "Encoding", "any_signed", "check_time", "signature"]

Algorithm = Literal["sha1", "sha256", "sha512"]
Encoding = Literal["hex", "base64"]

#: A signed time may lie so many seconds before or after our clock (Stripe, Slack, Standard Webhooks: five minutes).
TOLERANCE_S = 300
_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)


def signature(secret: bytes, message: bytes, algorithm: Algorithm = "sha256", encoding: Encoding = "hex") -> str:
    """The HMAC of ``message``. Raises ValueError for an empty secret: anybody can sign with that."""
    if not secret:
        raise ValueError("the webhook's secret is empty")
    digest = hmac.digest(secret, message, algorithm)
    return digest.hex() if encoding == "hex" else base64.b64encode(digest).decode()


def any_signed(secrets: Sequence[bytes], given: Iterable[str], expect: Callable[[bytes], Iterable[str]]) -> bool:
    """Whether one of the signatures ``given`` is one that ``expect`` makes of a secret, in constant time.

    Every pair is compared, whatever came of those before it. Empty secrets never signed anything.
    """
    candidates = [each.encode() for each in given]
    matches = [
        hmac.compare_digest(wanted.encode(), candidate)
        for secret in secrets
        if secret
        for wanted in expect(secret)
        for candidate in candidates
    ]
    return any(matches)


def check_time(given: str, name: str, now_ms: Millis) -> str:
    """The time ``given`` in the header ``name``, whole seconds since 1970, within five minutes of now either way.

    An old one is a replay; one from the future would be good for a replay later. Raises `Refused` 401.
    """
    if not _SECONDS.fullmatch(given):
        raise Refused(401, "bad_signature", f"{name} is missing or no time in seconds since 1970")
    if abs(int(given) - now_ms / 1000) > TOLERANCE_S:
        raise Refused(
            401, "old_signature", f"{name} is more than {TOLERANCE_S} s from now; check the clocks, and send it anew"
        )
    return given
