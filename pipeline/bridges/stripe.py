"""Stripe webhooks: orders, payments, subscriptions.

Source: Stripe's documentation of webhooks ("Verify webhook signatures manually") and of its event types.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pipeline.bridges.base import BridgeRequest, Refused, decode_object
from pipeline.bridges.provider import OURS, Provider, named
from pipeline.bridges.signatures import any_signed, check_time, signature
from pipeline.models.base import Millis
from pipeline.models.mapping import Mapping

__all__ = ["StripeBridge"]

#: Currencies whose amounts are not in hundredths (Stripe, "Supported currencies").
_WHOLE = frozenset(
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"]
)
_THOUSANDTHS = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])
_AMOUNTS = (
    "amount",
    "amount_due",
    "amount_paid",
    "amount_received",
    "amount_refunded",
    "amount_subtotal",
    "amount_total",
    "total",
)
#: Where Stripe's objects have the customer's e-mail, phone, and the id that the partner gave it.
_EMAILS = (
    ("customer_details", "email"),
    ("customer_email",),
    ("receipt_email",),
    ("billing_details", "email"),
    ("email",),
)
_PHONES = (("customer_details", "phone"), ("customer_phone",), ("billing_details", "phone"), ("phone",))
_USERS = (("client_reference_id",), ("metadata", "user_id"))

_SHARED = {"stripe_customer": {"path": "$.data.object.customer"}, "live": "$.livemode"}
_PAYMENT = _SHARED | {"payment_id": "$.data.object.id", "currency": "$.headrace.currency"}


def _event(kinds: str | list[str], name: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "when": {"$.type": kinds, "$.headrace.known": True},
        "event": name,
        "userId": "$.headrace.user",
        "traits": "$.headrace.contact",
        "timestamp": {"path": "$.created", "as": "seconds"},
        "properties": properties,
    }


_ORDER = {"order_id": "$.data.object.id", "total": "$.headrace.amount_total", "currency": "$.headrace.currency"}
_SUBSCRIPTION = _SHARED | {
    "subscription_id": "$.data.object.id",
    "plan": "$.data.object.items.data[0].price.id",
    "status": "$.data.object.status",
}
_INVOICE = _SHARED | {"invoice_id": "$.data.object.id", "currency": "$.headrace.currency"}


class StripeBridge(Provider):
    """Signed with the endpoint's secret (``whsec_…``, as it is); the event's id is the message id.

    Whose event it is: the id that the partner gave Stripe (``client_reference_id`` or ``metadata.user_id``), else
    e-mail and phone, else Stripe's own id of the customer.
    """

    name = "webhook-stripe"
    title = "Stripe webhooks: orders, payments, subscriptions"
    channel = "Web"
    mapping: ClassVar[Mapping] = Mapping.model_validate(
        {
            "events": [
                _event("checkout.session.completed", "Order Completed", _ORDER),
                _event("payment_intent.succeeded", "Payment Succeeded", _PAYMENT | {"amount": "$.headrace.amount"}),
                _event("payment_intent.payment_failed", "Payment Failed", _PAYMENT | {"amount": "$.headrace.amount"}),
                _event("charge.refunded", "Payment Refunded", _PAYMENT | {"amount": "$.headrace.amount_refunded"}),
                _event("invoice.paid", "Invoice Paid", _INVOICE | {"amount": "$.headrace.amount_paid"}),
                _event("invoice.payment_failed", "Invoice Failed", _INVOICE | {"amount": "$.headrace.amount_due"}),
                _event("customer.subscription.created", "Subscription Started", _SUBSCRIPTION),
                _event("customer.subscription.deleted", "Subscription Ended", _SUBSCRIPTION),
                {
                    **_event("", "Stripe {$.type|title}", _SHARED | {"object_id": "$.data.object.id"}),
                    "when": {"$.headrace.known": True, "$.type": True},
                },
            ],
            "others": "ignore",
        }
    )

    def check(self, request: BridgeRequest, settings: Any, secrets: Sequence[bytes], now_ms: Millis) -> None:
        """Stripe-Signature: ``t=<seconds>,v1=<hex>``, several v1 while a secret is rolled; ``t.body`` is signed."""
        parts = [part.partition("=") for part in request.headers.get("stripe-signature", "").split(",")]
        times = [value for name, _, value in parts if name.strip() == "t"]
        given = [value.strip() for name, _, value in parts if name.strip() == "v1"]
        moment = check_time(times[0] if times else "", "Stripe-Signature's t", now_ms)
        signed = moment.encode() + b"." + request.body
        if not any_signed(secrets, given, lambda secret: [signature(secret, signed)]):
            raise Refused(401, "bad_signature", "Stripe-Signature is missing or not made with the source's secret")

    def document(self, request: BridgeRequest, settings: Any) -> Any:
        """What Stripe sends, and under ``headrace``: ``user`` or ``contact``, ``currency``, and amounts in it."""
        found = decode_object(request.body)
        thing = _inside(found, "data", "object")
        if not isinstance(thing, dict):
            thing = {}
        contact = {
            name: value
            for name, places in (("email", _EMAILS), ("phone", _PHONES))
            if (value := _first(thing, places)) is not None
        }
        user = _first(thing, _USERS)
        customer = thing.get("id") if thing.get("object") == "customer" else thing.get("customer")
        if user is None and not contact and isinstance(customer, str) and customer:
            user = f"stripe:{customer}"
        ours: dict[str, Any] = {"user": user, "contact": contact}
        if user or contact:
            ours["known"] = "yes"
        currency = thing.get("currency")
        if isinstance(currency, str):
            ours["currency"] = currency.upper()
            parts = 1 if currency in _WHOLE else 1000 if currency in _THOUSANDTHS else 100
            for name in _AMOUNTS:
                value = thing.get(name)
                if isinstance(value, int) and not isinstance(value, bool):
                    ours[name] = value / parts
        return {**found, OURS: ours}

    def message_id(self, request: BridgeRequest, document: Any, settings: Any) -> str:
        """The event's, the same for every attempt and every endpoint."""
        return named(document.get("id"), "the event's id", "$.id")


def _inside(document: Any, *path: str) -> Any:
    for part in path:
        document = document.get(part) if isinstance(document, dict) else None
    return document


def _first(thing: dict[str, Any], places: Sequence[tuple[str, ...]]) -> str | None:
    """The first text at one of ``places`` that is not empty."""
    return next((value for place in places if isinstance(value := _inside(thing, *place), str) and value), None)
