"""Standard Webhooks, as many providers sign today: symmetric (v1) and by public key (v1a).

Source: the Standard Webhooks specification.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, ClassVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pipeline.bridges.base import BridgeRequest, Refused
from pipeline.bridges.provider import Provider, named
from pipeline.bridges.signatures import any_signed, check_time, signature
from pipeline.models.base import Millis
from pipeline.models.mapping import Mapping

__all__ = ["COMMON", "StandardBridge"]

#: Of public-key signatures, each of which costs more than an HMAC; a rotation has two.
_MAX_ASYMMETRIC = 8
#: Where payloads usually say whose event it is, and its name; tried in this order.
_WHOSE = ("$.data.user_id", "$.data.userId", "$.user_id", "$.userId", "$.data.customer_id", "$.customer_id")


def _event(name: str, when: dict[str, Any], whose: dict[str, Any]) -> dict[str, Any]:
    return {"when": when, "event": name, "timestamp": "$.timestamp", "properties": "$.data", **whose}


#: A payload in the form that the specification recommends: ``{"type", "timestamp", "data"}``.
COMMON: Mapping = Mapping.model_validate(
    {
        "events": [
            *(_event("$.type", {"$.type": True, place: True}, {"userId": place}) for place in _WHOSE),
            *(
                _event("$.type", {"$.type": True, place: True}, {"traits": {"email": place}})
                for place in ("$.data.email", "$.email")
            ),
        ],
        "others": "reject",
    }
)


class StandardBridge(Provider):
    """Signed with a shared secret (``whsec_…``) or the sender's key (``whpk_…``); ``webhook-id`` is the message id."""

    name = "webhook-standard"
    title = "Standard Webhooks: any provider that signs by the specification"
    channel = "Web"
    mapping: ClassVar[Mapping] = COMMON

    def check(self, request: BridgeRequest, settings: Any, secrets: Sequence[bytes], now_ms: Millis) -> None:
        """``webhook-signature``: some of ``v1,<base64>`` and ``v1a,<base64>``, over ``<id>.<timestamp>.<body>``."""
        moment = check_time(request.headers.get("webhook-timestamp", ""), "webhook-timestamp", now_ms)
        name = self.message_id(request, None, settings)
        signed = b".".join([name.encode(), moment.encode(), request.body])
        given = request.headers.get("webhook-signature", "").split(" ")
        shared = [key for secret in secrets if (key := _key(secret)) is not None]
        v1 = any_signed(shared, given, lambda key: ["v1," + signature(key, signed, "sha256", "base64")])
        if not (v1 or _v1a(secrets, given, signed)):
            raise Refused(401, "bad_signature", "webhook-signature is missing or not made with the source's secret")

    def message_id(self, request: BridgeRequest, document: Any, settings: Any) -> str:
        """The same in every attempt to deliver."""
        return named(request.headers.get("webhook-id"), "webhook-id")


def _key(secret: bytes) -> bytes | None:
    """The bytes of a shared secret; None for a public key, and for what is no base64."""
    if secret.startswith((b"whpk_", b"whsk_")):
        return None
    return _unpacked(secret.removeprefix(b"whsec_"))


def _unpacked(text: bytes | str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _v1a(secrets: Sequence[bytes], given: Sequence[str], signed: bytes) -> bool:
    """Whether the sender's key made one of the signatures. Nothing here is secret, so it may end early."""
    signatures = [_unpacked(each.removeprefix("v1a,")) for each in given if each.startswith("v1a,")]
    for secret in secrets:
        key = _unpacked(secret.removeprefix(b"whpk_")) if secret.startswith(b"whpk_") else None
        if key is None or len(key) != 32:
            continue
        for each in signatures[:_MAX_ASYMMETRIC]:
            try:
                Ed25519PublicKey.from_public_bytes(key).verify(each or b"", signed)
            except (InvalidSignature, ValueError):
                continue
            return True
    return False
