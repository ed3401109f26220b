"""What signatures share: published vectors, one changed byte, empty secrets, times."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bridges.base import Refused
from pipeline.bridges.signatures import any_signed, check_time, signature

BODY = b'{"a":1}'


@pytest.mark.parametrize(
    ("secret", "message", "encoding", "wanted"),
    [
        # GitHub's documentation.
        (
            b"It's a Secret to Everybody",
            b"Hello, World!",
            "hex",
            "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        ),
        # Stripe: `t.body`, and the secret as it is.
        (
            b"whsec_test_secret",
            b"1614265330." + BODY,
            "hex",
            "0b8fa21a7388487d1017f446b6f816dc551f77ab6e54f07e0ec2b8bee36283c0",
        ),
        # Shopify and Typeform.
        (b"hush", BODY, "base64", "3+Yq/TpwjqJ7IXuMq8EfED7b+y0XbokqOKLUdagDxMI="),
    ],
)
def test_published_vectors(secret: bytes, message: bytes, encoding: str, wanted: str) -> None:
    assert signature(secret, message, "sha256", encoding) == wanted  # type: ignore[arg-type]


@given(st.binary(min_size=1, max_size=64), st.integers(0, 63), st.integers(1, 255), st.binary(min_size=1, max_size=20))
def test_one_changed_byte_is_noticed_and_any_secret_may_have_signed(
    body: bytes, at: int, by: int, secret: bytes
) -> None:
    at %= len(body)
    forged = body[:at] + bytes([body[at] ^ by]) + body[at + 1 :]
    made = signature(secret, body)
    assert any_signed([b"old", secret, b""], ["nonsense", made], lambda each: [signature(each, body)])
    assert not any_signed([secret], [made], lambda each: [signature(each, forged)])


def test_an_empty_secret_signs_nothing() -> None:
    with pytest.raises(ValueError, match="empty"):
        signature(b"", BODY)
    guessed = hmac.new(b"", BODY, hashlib.sha256).hexdigest()
    assert not any_signed([b""], [guessed], lambda each: [signature(each, BODY)])
    assert not any_signed([], [guessed], lambda each: [signature(each, BODY)])


@pytest.mark.parametrize("seconds", [-300, 0, 300])
def test_times_within_five_minutes(seconds: int) -> None:
    assert check_time(str(1_790_000_000 + seconds), "t", 1_790_000_000_000)


@pytest.mark.parametrize("given_", ["1789999699", "1790000301", "", "-1", "1e9", "١٧٩٠٠٠٠٠٠٠", "1790000000.0"])
def test_other_times_are_refused(given_: str) -> None:
    with pytest.raises(Refused) as caught:
        check_time(given_, "t", 1_790_000_000_000)
    assert caught.value.status == 401
