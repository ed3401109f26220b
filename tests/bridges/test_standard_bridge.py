"""Standard Webhooks: the specification's vectors, its own library as signer, rotation, both schemes."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook
from webhook_world import NOW_MS, deliver, made, nonsense_is_taken_or_refused, refusal, source_of

# The specification's own.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PRIVATE = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
ID, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
V1 = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
V1A = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
SOURCE = source_of("webhook-standard")


def headers(signature: str, at: int = AT, name: str = ID) -> dict[str, str]:
    return {"webhook-id": name, "webhook-timestamp": str(at), "webhook-signature": signature}


def refused(signature: str, *secrets: str, body: bytes = BODY) -> tuple[int, str]:
    return refusal(SOURCE, body, headers(signature), *(each.encode() for each in secrets), now_ms=AT * 1000)


@pytest.mark.parametrize(
    ("signature", "secrets"),
    [
        (V1, (SECRET,)),
        (V1, (SECRET.removeprefix("whsec_"),)),
        (f"v1,AAAA v2,x {V1}", ("whsec_AAAA", SECRET)),
        (V1A, (PUBLIC,)),
        (f"{V1} {V1A}", (PUBLIC,)),
        (f"v1a,AAAA {V1A}", ("no base64!", SECRET, PUBLIC)),
    ],
)
def test_published_vectors(signature: str, secrets: tuple[str, ...]) -> None:
    # Signed rightly; and then there is nothing in it that the common mapping knows.
    assert refused(signature, *secrets) == (400, "mapping")


@pytest.mark.parametrize(
    ("signature", "secrets"),
    [
        (V1.replace("1OE=", "1OA="), (SECRET,)),
        (V1A.replace("hnO3", "hnO4"), (PUBLIC,)),
        (V1, (PUBLIC,)),
        (V1A, (SECRET,)),
        (V1A, (PRIVATE,)),
        (V1.removeprefix("v1,"), (SECRET,)),
        (V1.replace("v1,", "v1a,"), (SECRET, PUBLIC)),
        ("", (SECRET,)),
    ],
)
def test_others_are_refused(signature: str, secrets: tuple[str, ...]) -> None:
    assert refused(signature, *secrets) == (401, "bad_signature")


def test_body_id_and_time_are_signed() -> None:
    assert refused(V1, SECRET, body=BODY + b" ") == (401, "bad_signature")
    for wrong in (headers(V1, name="msg_other"), headers(V1, at=AT + 1)):
        assert refusal(SOURCE, BODY, wrong, SECRET.encode(), now_ms=AT * 1000) == (401, "bad_signature")
    assert refusal(SOURCE, BODY, headers(V1), SECRET.encode(), now_ms=(AT + 301) * 1000) == (401, "old_signature")


def event(payload: dict[str, Any]) -> list[dict[str, Any]]:
    body = orjson.dumps(payload)
    moment = datetime.fromtimestamp(NOW_MS / 1000, UTC)
    made_by = Webhook(SECRET).sign(msg_id="msg_1", timestamp=moment, data=body.decode())
    return made(deliver(SOURCE, body, headers(made_by, NOW_MS // 1000, "msg_1"), SECRET.encode()), SOURCE)


@pytest.mark.parametrize(
    ("payload", "whose"),
    [
        ({"data": {"user_id": "u-1"}}, {"userId": "u-1"}),
        ({"userId": "u-2", "data": {"email": "a@b.example"}}, {"userId": "u-2"}),
        ({"data": {"email": "a@b.example"}}, {"traits": {"email": "a@b.example"}}),
    ],
)
def test_the_form_that_the_specification_recommends(payload: dict[str, Any], whose: dict[str, Any]) -> None:
    [made_of] = event(payload | {"type": "user.created", "timestamp": "2026-09-21T13:00:00Z"})
    assert made_of == {
        "type": "track",
        "event": "user.created",
        "messageId": "msg_1",
        "timestamp": "2026-09-21T13:00:00Z",
        "properties": payload["data"],
        **whose,
    }


@given(st.dictionaries(st.sampled_from(["type", "data", "userId", "timestamp"]), st.text(max_size=3) | st.none()))
def test_signed_nonsense_raises_nothing_but_refusals(payload: dict[str, Any]) -> None:
    body = orjson.dumps(payload)
    key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(PRIVATE.removeprefix("whsk_"))[:32])
    signed = key.sign(b".".join([b"m", str(NOW_MS // 1000).encode(), body]))
    given_ = headers("v1a," + base64.b64encode(signed).decode(), NOW_MS // 1000, "m")
    nonsense_is_taken_or_refused(SOURCE, body, given_, PUBLIC.encode())
