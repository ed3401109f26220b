"""Shopify: orders, checkouts, customers, and what must not be recorded."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from webhook_world import deliver, made, nonsense_is_taken_or_refused, refusal, source_of

from pipeline.bridges.signatures import signature

SECRET = b"hush"
SOURCE = source_of("webhook-shopify")


def sign(body: bytes, topic: str = "orders/create", secret: bytes = SECRET) -> dict[str, str]:
    return {
        "X-Shopify-Topic": topic,
        "X-Shopify-Hmac-SHA256": signature(secret, body, "sha256", "base64"),
        "X-Shopify-Webhook-Id": "b54557e4-bdd9-4b37-8a5f-bf7d70bcd043",
        "X-Shopify-Shop-Domain": "acme.myshopify.com",
    }


def event(payload: dict[str, Any], topic: str = "orders/create") -> list[dict[str, Any]]:
    body = orjson.dumps(payload)
    return made(deliver(SOURCE, body, sign(body, topic), SECRET), SOURCE)


ORDER = {
    "id": 820982911946154508,
    "name": "#9999",
    "email": "jon@example.com",
    "created_at": "2021-12-31T19:00:00-05:00",
    "updated_at": "2021-12-31T19:00:00-05:00",
    "total_price": "414.95",
    "total_tax": "0.00",
    "total_discounts": "20.00",
    "currency": "USD",
    "discount_codes": [{"code": "SALE"}],
    "line_items": [{"id": 1}, {"id": 2}],
    "customer": {"id": 115310627314723954, "email": "john@example.com", "phone": "+15142546011"},
}


def test_the_published_vector_and_a_changed_byte() -> None:
    body = b'{"a":1}'
    headers = sign(body)
    assert headers["X-Shopify-Hmac-SHA256"] == "3+Yq/TpwjqJ7IXuMq8EfED7b+y0XbokqOKLUdagDxMI="
    assert deliver(SOURCE, body, headers, b"old", SECRET).events == []
    assert refusal(SOURCE, b'{"a":2}', headers, SECRET) == (401, "bad_signature")


def test_an_order() -> None:
    [order] = event(ORDER)
    assert order == {
        "type": "track",
        "event": "Order Completed",
        "messageId": "b54557e4-bdd9-4b37-8a5f-bf7d70bcd043",
        "traits": {"email": "jon@example.com", "phone": "+15142546011"},
        "timestamp": "2021-12-31T19:00:00-05:00",
        "properties": {
            "order_id": "820982911946154508",
            "number": "#9999",
            "total": 414.95,
            "tax": 0,
            "discount": 20,
            "currency": "USD",
            "coupon": "SALE",
            "items": 2,
            "shop": "acme.myshopify.com",
        },
    }


@pytest.mark.parametrize(
    ("topic", "name"),
    [
        ("orders/paid", "Order Paid"),
        ("orders/fulfilled", "Order Fulfilled"),
        ("orders/cancelled", "Order Cancelled"),
        ("checkouts/create", "Checkout Started"),
    ],
)
def test_topics_have_names(topic: str, name: str) -> None:
    assert [each["event"] for each in event(ORDER, topic)] == [name]


def test_whose_it_is_when_no_contact_is_known_and_when_nobody_is() -> None:
    bare = {name: value for name, value in ORDER.items() if name not in ("email", "customer")}
    assert event(bare | {"customer": {"id": 7}})[0]["userId"] == "shopify:7"
    assert event(bare) == []


def test_a_customer_is_identified_and_a_request_to_forget_one_is_no_event() -> None:
    [customer] = event({"id": 7, "email": "a@b.example", "first_name": "Ann"}, "customers/update")
    assert (customer["type"], customer["userId"]) == ("identify", "shopify:7")
    assert customer["traits"] == {"email": "a@b.example", "first_name": "Ann"}
    redact = {"shop_id": 954889, "customer": {"id": 191167, "email": "john@example.com", "phone": "555-625-1199"}}
    assert event(redact, "customers/redact") == []


NONSENSE = st.recursive(
    st.none() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "email", "customer", "total_price", "line_items", "discount_codes", "created_at"]),
            inner,
        )
    ),
)


@given(NONSENSE.map(orjson.dumps) | st.binary(max_size=50), st.sampled_from(["orders/create", "customers/create"]))
def test_signed_nonsense_raises_nothing_but_refusals(body: bytes, topic: str) -> None:
    nonsense_is_taken_or_refused(SOURCE, body, sign(body, topic), SECRET)
