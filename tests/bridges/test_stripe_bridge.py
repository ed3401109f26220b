"""Stripe: its own library signs; orders and payments in their currencies; whose they are."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st
from webhook_world import deliver, made, nonsense_is_taken_or_refused, refusal, source_of

SECRET = b"whsec_test_secret"
SOURCE = source_of("webhook-stripe")


def sign(body: bytes, at: int, secret: bytes = SECRET) -> dict[str, str]:
    made_by = stripe.WebhookSignature._compute_signature(f"{at}.{body.decode()}", secret.decode())
    return {"Stripe-Signature": f"t={at},v1={'0' * 64},v1={made_by},v0=x"}


def event(kind: str, thing: dict[str, Any]) -> list[dict[str, Any]]:
    body = orjson.dumps({"id": "evt_1", "type": kind, "created": 1_789_999_000, "data": {"object": thing}})
    return made(deliver(SOURCE, body, sign(body, 1_790_000_000), b"whsec_old", SECRET), SOURCE)


SESSION = {"object": "checkout.session", "id": "cs_1", "amount_total": 1999, "currency": "eur", "customer": "cus_1"}


def test_stripes_library_and_ours_agree() -> None:
    body = b'{"id":"evt_1","object":"event"}'
    at = int(time.time())
    header = sign(body, at)["Stripe-Signature"]
    assert stripe.Webhook.construct_event(body, header, SECRET.decode())["id"] == "evt_1"
    assert deliver(SOURCE, body, sign(body, at), SECRET, now_ms=at * 1000).events == []
    assert refusal(SOURCE, body + b" ", sign(body, at), SECRET, now_ms=at * 1000) == (401, "bad_signature")
    assert refusal(SOURCE, body, sign(body, at, b"other"), SECRET, now_ms=at * 1000) == (401, "bad_signature")


@pytest.mark.parametrize("seconds", [-301, 301])
def test_an_old_signature_is_refused_and_one_of_the_future_too(seconds: int) -> None:
    body = b"{}"
    assert refusal(SOURCE, body, sign(body, 1_790_000_000 + seconds), SECRET) == (401, "old_signature")


def test_a_checkout_is_an_order() -> None:
    [order] = event("checkout.session.completed", SESSION | {"customer_details": {"email": "Ann@Shop.example"}})
    assert order["event"] == "Order Completed"
    assert order["messageId"] == "evt_1"
    assert order["timestamp"] == "2026-09-21T13:56:40.000Z"
    assert order["traits"] == {"email": "Ann@Shop.example"}
    assert "userId" not in order
    assert order["properties"] == {
        "order_id": "cs_1",
        "total": 19.99,
        "currency": "EUR",
    }


@pytest.mark.parametrize(("currency", "total"), [("usd", 19.99), ("jpy", 1999), ("kwd", 1.999)])
def test_amounts_are_in_the_currency_not_in_its_parts(currency: str, total: float) -> None:
    [order] = event("checkout.session.completed", SESSION | {"currency": currency})
    assert order["properties"]["total"] == total


@pytest.mark.parametrize(
    ("more", "user"),
    [
        ({"client_reference_id": "u-17", "customer_email": "a@b.example"}, "u-17"),
        ({"metadata": {"user_id": "u-18"}}, "u-18"),
        ({"customer_email": "a@b.example"}, None),
        ({}, "stripe:cus_1"),
    ],
)
def test_whose_it_is_by_the_partners_own_id_first(more: dict[str, Any], user: str | None) -> None:
    [order] = event("checkout.session.completed", SESSION | more)
    assert order.get("userId") == user


def test_other_events_have_names_too_and_nobodys_are_acknowledged() -> None:
    [other] = event("customer.updated", {"object": "customer", "id": "cus_2"})
    assert (other["event"], other["userId"]) == ("Stripe Customer Updated", "stripe:cus_2")
    assert event("balance.available", {"object": "balance"}) == []


NONSENSE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "type", "created", "data", "object", "customer", "amount", "currency", "email"]),
            inner,
        )
    ),
)


@given(NONSENSE.map(orjson.dumps) | st.text(max_size=50).map(str.encode))
def test_signed_nonsense_raises_nothing_but_refusals(body: bytes) -> None:
    nonsense_is_taken_or_refused(SOURCE, body, sign(body, 1_790_000_000), SECRET)
