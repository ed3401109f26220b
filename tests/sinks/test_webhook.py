"""Webhooks: the signature against published vectors and another's verifier, the body, the settings."""

from __future__ import annotations

import base64
import time
from typing import Any

import orjson
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook

from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import SetupError
from pipeline.sinks.registry import SINKS
from pipeline.sinks.webhook import WebhookConfig, WebhookSink, sign

# Standard Webhooks' own vectors.
ID, SECONDS, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
HMAC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HMAC_SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
ED25519 = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
ED25519_PUBLIC = "1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
ED25519_SIGNATURE = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="

DISPATCH = Dispatch(
    id="d1",
    partner="acme",
    integration="hook",
    rule="r",
    name="Nector Wallet Coins Rewarded",
    event={"id": "m1", "time": 1_700_000_000_123, "properties": {"note": "\N{PARTY POPPER}"}},
    customer={"id": "acme|u|7", "traits": {}},
    created=1,
    test=True,
)
CONFIG = WebhookConfig.model_validate({"url": "https://shop.example/hook"})


def test_v1_signs_as_the_vector_says() -> None:
    assert sign(HMAC, ID, SECONDS, BODY) == HMAC_SIGNATURE
    assert sign(HMAC.removeprefix("whsec_"), ID, SECONDS, BODY) == HMAC_SIGNATURE


def test_v1a_signs_with_the_key_of_the_vector() -> None:
    made = sign(ED25519, ID, SECONDS, BODY)
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(ED25519_PUBLIC))
    content = f"{ID}.{SECONDS}.".encode() + BODY
    public.verify(base64.b64decode(made.removeprefix("v1a,")), content)
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(made.removeprefix("v1a,")), content + b" ")


def test_several_secrets_sign_while_one_replaces_another() -> None:
    assert sign(f"{HMAC} {ED25519}", ID, SECONDS, BODY).split()[0] == HMAC_SIGNATURE
    old = "whsec_" + base64.b64encode(b"the secret before this one").decode()
    request = WebhookSink().request(DISPATCH, CONFIG, f"{HMAC} {old}", int(time.time() * 1000))
    for secret in (HMAC, old):
        Webhook(secret).verify(request.body, dict(request.headers))


@pytest.mark.parametrize("secret", [None, "", "  ", "whsec_", "whsec_not base64!", "whsk_AAAA", f"{HMAC} whsec_%"])
def test_a_secret_that_is_none_is_refused_without_being_shown(secret: str | None) -> None:
    with pytest.raises(SetupError) as refused:
        sign(secret, ID, SECONDS, BODY)
    assert "not base64!" not in str(refused.value)


def test_the_body_is_the_same_on_every_attempt_and_the_id_is_the_dispatch_s() -> None:
    first = WebhookSink().request(DISPATCH, CONFIG, HMAC, 1_000)
    later = WebhookSink().request(DISPATCH.model_copy(update={"attempt": 3}), CONFIG, HMAC, 9_000_000)
    assert first.body == later.body
    assert first.headers["webhook-id"] == later.headers["webhook-id"] == "d1"
    assert orjson.loads(first.body) == {
        "type": "Nector Wallet Coins Rewarded",
        "timestamp": "2023-11-14T22:13:20.123Z",
        "data": {"customer": DISPATCH.customer, "event": DISPATCH.event, "rule": "r", "test": True},
    }


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"url": "ftp://shop.example"},
        {"url": "https://"},
        {"url": "https://a:b@shop.example"},
        {"url": "https://shop.example", "timeout_s": 0},
        {"url": "https://shop.example", "more": 1},
    ],
)
def test_wrong_settings_are_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(SetupError, match=r"setting \w+ of this webhook integration"):
        SINKS["webhook"].config(settings)
