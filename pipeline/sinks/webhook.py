"""Webhook: POST of JSON, signed as Standard Webhooks 1.0 says (v1 HMAC-SHA256, v1a ed25519).

Dedup key: the header ``webhook-id``, the same on every attempt.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import HttpUrl, field_validator

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Classified, Request, SetupError, Sink, SinkConfig, iso
from pipeline.sinks.classify import classify_status

__all__ = ["WebhookConfig", "WebhookSink", "sign"]

_HMAC, _ED25519 = "whsec_", "whsk_"


class WebhookConfig(SinkConfig):
    """``url``: http or https, without user or password."""

    url: HttpUrl

    @field_validator("url")
    @classmethod
    def _without_credentials(cls, value: HttpUrl) -> HttpUrl:
        if value.username or value.password:
            raise ValueError("leave user and password out of the address; settings are shown")
        return value


class WebhookSink(Sink[WebhookConfig]):
    """Any endpoint that takes Standard Webhooks. Its secret may hold several, with spaces between: while a
    secret is being replaced, each signs, so that the receiver may know either."""

    kind = "webhook"
    Config = WebhookConfig

    def request(self, dispatch: Dispatch, config: WebhookConfig, secret: str | None, now: Millis) -> Request:
        """``{"type", "timestamp", "data": {customer, event, rule, test}}``; the timestamp is the event's.

        ``data.mapped``: the fields that a mapping sets, where there is one; ``data.replayed``: true where it is.
        """
        told = self.told(dispatch, config)
        data = {
            "customer": dispatch.customer,
            "event": dispatch.event,
            "rule": dispatch.rule,
            "test": dispatch.test,
        }
        if mapped := {**config.mapping, **dispatch.mapping}:
            data["mapped"] = {name: getattr(told, name) for name in mapped}
        if told.replayed:
            data["replayed"] = True
        body = orjson.dumps({"type": told.name, "timestamp": iso(told.time), "data": data})
        seconds = now // 1000
        headers = {
            "content-type": "application/json",
            "user-agent": "headrace",
            "webhook-id": told.id,
            "webhook-timestamp": str(seconds),
            "webhook-signature": sign(secret, told.id, seconds, body),
        }
        return Request("POST", str(config.url), headers, body, frozenset({"webhook-signature"}))

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status alone."""
        return classify_status(status, headers)


def sign(secret: str | None, message: str, seconds: int, body: bytes) -> str:
    """The signature header: one per secret, a space between. Raises SetupError for a secret that is none.

    ``whsec_`` + base64: a shared secret (v1); ``whsk_`` + base64 of seed and public key: an ed25519 key (v1a).
    """
    text = b"%b.%d.%b" % (message.encode(errors="surrogatepass"), seconds, body)
    signatures = [_sign(part, text) for part in (secret or "").split()]
    if not signatures:
        raise SetupError("a webhook is signed: give the integration a secret (whsec_ and 24 to 64 bytes in base64)")
    return " ".join(signatures)


def _sign(secret: str, text: bytes) -> str:
    asymmetric = secret.startswith(_ED25519)
    encoded = secret.removeprefix(_ED25519 if asymmetric else _HMAC)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key or (asymmetric and len(key) not in (32, 64)):
        raise SetupError(
            "the webhook's secret is not one: write whsec_ and 24 to 64 bytes in base64, or whsk_ and an ed25519 "
            "key in base64; several with a space between"
        )
    if asymmetric:
        return "v1a," + base64.b64encode(Ed25519PrivateKey.from_private_bytes(key[:32]).sign(text)).decode()
    return "v1," + base64.b64encode(hmac.digest(key, text, "sha256")).decode()
