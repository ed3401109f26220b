"""Shopify webhooks: orders, checkouts and customers of a shop.

Source: Shopify's documentation of webhooks ("Verify the webhook", "Ignore duplicates") and of the REST resources.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pipeline.bridges.base import BridgeRequest, Refused, decode_object
from pipeline.bridges.provider import OURS, Provider, named
from pipeline.bridges.signatures import any_signed, signature
from pipeline.models.base import Millis
from pipeline.models.mapping import Mapping

__all__ = ["ShopifyBridge"]

_MONEY = {"path": "$.total_price", "as": "number"}
_ORDER = {
    "order_id": {"path": "$.id", "as": "string"},
    "number": {"path": "$.name", "as": "string"},
    "total": _MONEY,
    "tax": {"path": "$.total_tax", "as": "number"},
    "discount": {"path": "$.total_discounts", "as": "number"},
    "currency": "$.currency",
    "coupon": "$.discount_codes[0].code",
    "items": {"path": "$.line_items", "as": "count"},
    "shop": "$header.x-shopify-shop-domain",
}
_CHECKOUT = {"cart_id": "$.token", "total": _MONEY, "currency": "$.currency", "shop": "$header.x-shopify-shop-domain"}


def _event(topic: str, name: str, properties: dict[str, Any], time: str) -> dict[str, Any]:
    return {
        "when": {"$header.x-shopify-topic": topic, "$.headrace": True},
        "event": name,
        "userId": "$.headrace.user",
        "traits": "$.headrace.contact",
        "timestamp": time,
        "properties": properties,
    }


class ShopifyBridge(Provider):
    """Signed with the app's client secret, or the one that the shop's settings show beside its webhooks."""

    name = "webhook-shopify"
    title = "Shopify webhooks: orders, checkouts, customers"
    channel = "Web"
    #: Topics of their own only: one of Shopify's asks to forget a customer, and must not be recorded as an event.
    mapping: ClassVar[Mapping] = Mapping.model_validate(
        {
            "events": [
                _event("orders/create", "Order Completed", _ORDER, "$.created_at"),
                _event("orders/paid", "Order Paid", _ORDER, "$.updated_at"),
                _event("orders/fulfilled", "Order Fulfilled", _ORDER, "$.updated_at"),
                _event("orders/cancelled", "Order Cancelled", _ORDER | {"reason": "$.cancel_reason"}, "$.cancelled_at"),
                _event("checkouts/create", "Checkout Started", _CHECKOUT, "$.created_at"),
                {
                    "when": {"$header.x-shopify-topic": ["customers/create", "customers/update"], "$.id": True},
                    "type": "identify",
                    "userId": "shopify:{$.id}",
                    "timestamp": "$.updated_at",
                    "traits": {
                        "email": "$.email",
                        "phone": "$.phone",
                        "first_name": "$.first_name",
                        "last_name": "$.last_name",
                    },
                },
            ],
            "others": "ignore",
        }
    )

    def check(self, request: BridgeRequest, settings: Any, secrets: Sequence[bytes], now_ms: Millis) -> None:
        """X-Shopify-Hmac-SHA256, over the raw body."""
        given = request.headers.get("x-shopify-hmac-sha256", "")
        if not any_signed(secrets, [given], lambda secret: [signature(secret, request.body, "sha256", "base64")]):
            raise Refused(401, "bad_signature", "X-Shopify-Hmac-SHA256 is missing or not made with the source's secret")

    def document(self, request: BridgeRequest, settings: Any) -> Any:
        """What Shopify sends, and under ``headrace`` whose it is: ``contact``, or ``user`` where there is none."""
        found = decode_object(request.body)
        customer = found["customer"] if isinstance(found.get("customer"), dict) else {}
        contact = {
            name: value
            for name in ("email", "phone")
            if isinstance(value := found.get(name) or customer.get(name), str) and value
        }
        whose: dict[str, Any] | None = {"contact": contact} if contact else None
        if whose is None and customer.get("id"):
            whose = {"user": f"shopify:{customer['id']}"}
        return {**found, OURS: whose}

    def message_id(self, request: BridgeRequest, document: Any, settings: Any) -> str:
        """The same in every attempt to deliver."""
        return named(request.headers.get("x-shopify-webhook-id"), "X-Shopify-Webhook-Id")
