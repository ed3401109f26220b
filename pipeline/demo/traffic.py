"""Traffic through the doors that are not the shop: a Segment client, a producer to Kafka, GitHub webhooks."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import random
import uuid
from collections.abc import Sequence
from typing import Any

import httpx

from pipeline.demo.ledger import Ledger, Sent
from pipeline.demo.partner import DemoPartner
from pipeline.stream.kafka import Kafka

__all__ = ["deliver_github", "knock", "produce", "segment_missing", "tell_segment", "trickle"]

_CATEGORIES = ("Jacket", "Hat", "Shoes", "Bag")
_APP_USERS = 24
_APP_DEVICES = 5
_CRM_CUSTOMERS = 12


def _view(category: str, **who: Any) -> dict[str, Any]:
    return {"event": "Category Viewed", "properties": {"category": category}} | who


def _order(total: float, **who: Any) -> dict[str, Any]:
    order = {"order_id": uuid.uuid4().hex[:8], "total": total, "currency": "EUR"}
    return {"event": "Order Completed", "properties": order} | who


def _app_events() -> list[dict[str, Any]]:
    events = []
    for n in range(_APP_USERS):
        user = {"userId": f"app-{n:02}"}
        events.append({"type": "screen", "name": "Start"} | user)
        events += [_view(_CATEGORIES[(n + shift) % 4], **user) for shift in range(1 + n % 3)]
        if n % 5 == 0:
            events.append(_order(20 + n, **user))
    events += [_view(_CATEGORIES[n % 2], anonymousId=f"device-{n}") for n in range(_APP_DEVICES)]
    # Two customers of the shop have the app too, and count once over both.
    events += [_view("Jacket", userId="ann"), _view("Hat", userId="boris")]
    return events


async def produce(kafka: Kafka, partner: DemoPartner, ledger: Ledger) -> None:
    """The mobile application's backend, straight to Kafka: good events, one of them twice, and three bad ones."""
    source = partner.sources["app"]
    events = [event | {"messageId": str(uuid.uuid4())} for event in _app_events()]
    bad = {
        "not_json": b'\xf0\x9f\xa7\xa5 {"event":',
        "no_identity": b'{"event": "Category Viewed"}',
        "wrong_code": json.dumps(_view("Jacket", userId="app-00", writeKey=f"{partner.id}.other")).encode(),
    }
    await _write(
        kafka, source["topic"], [*(json.dumps(event).encode() for event in [*events, events[1]]), *bad.values()]
    )
    ledger.add(*(_sent(event, source) for event in events))
    ledger.refused.update(dict.fromkeys(bad, 1))


async def _write(kafka: Kafka, topic: str, values: Sequence[bytes]) -> None:
    producer = kafka.producer(linger_ms=5)
    await producer.start()
    try:
        # One key keeps what one backend says in its order.
        acknowledged = [await producer.send(topic, value, key=b"backend") for value in values]
        await asyncio.gather(*acknowledged)
    finally:
        await producer.stop()


def segment_missing() -> str:
    """Why the Segment client can't be used, and what to do; empty when it can."""
    try:
        import segment.analytics.client  # type: ignore[import-untyped] # noqa: F401
    except ImportError:
        return "no segment-analytics-python in this environment (pip install segment-analytics-python)"
    return ""


async def tell_segment(gateway: str, partner: DemoPartner, ledger: Ledger) -> None:
    """A CRM's import by the official Segment client for Python, as it comes, with our host and key."""
    await asyncio.to_thread(_tell_segment, gateway, partner.sources["crm"], ledger)


def _tell_segment(gateway: str, source: dict[str, Any], ledger: Ledger) -> None:
    from segment.analytics.client import Client

    logging.getLogger("segment").setLevel(logging.CRITICAL)
    faults: list[str] = []
    client = Client(
        source["key"],
        host=gateway,
        gzip=True,
        max_retries=3,
        proxies={"http": ""},
        on_error=lambda error, items: faults.append(f"the Segment client: {error} ({len(items)} events)"),
    )
    told: list[dict[str, Any]] = []
    try:
        for n in range(_CRM_CUSTOMERS):
            user = f"crm-{n:02}"
            told.append(client.identify(user, {"name": f"Customer {n}", "email": f"{user}@crm.example"})[1])
            if n % 3 == 0:
                told.append(client.track(user, "Category Viewed", {"category": "Jacket"})[1])
            if n % 4 == 0:
                told.append(client.track(user, "Order Completed", _order(50 + n)["properties"])[1])
        client.flush()
    finally:
        client.join()
    ledger.problems += faults
    ledger.add(*(_sent(event, source) for event in told))


async def deliver_github(gateway: str, partner: DemoPartner, ledger: Ledger) -> None:
    """GitHub's webhooks, signed: stars, one of them taken back, an issue, a push, a ping, a redelivery."""
    source = partner.sources["github"]
    stars = [("star", {"action": "created"}, f"gazer-{n}") for n in range(6)]
    others: list[tuple[str, dict[str, Any], str]] = [
        ("star", {"action": "deleted"}, "gazer-0"),
        ("issues", {"action": "opened", "issue": {"number": 7}}, "gazer-1"),
        ("push", {"ref": "refs/heads/main", "commits": [{}, {}]}, "gazer-2"),
    ]
    names = {"star created": "Star Created", "star deleted": "Star Deleted", "issues opened": "Issue Opened"}
    secret = partner.webhook_secret
    async with httpx.AsyncClient(base_url=gateway, timeout=30, trust_env=False) as client:
        path = f"/v1/webhooks/{partner.id}/{source['code']}"
        for event, fields, login in [*stars, *others]:
            delivery = str(uuid.uuid4())
            payload = fields | {"sender": {"login": login}, "repository": {"full_name": "millrace/shop"}}
            for _ in range(2 if login == "gazer-5" else 1):
                ledger.problems += await _post_github(client, path, secret, event, delivery, payload, 200)
            name = names.get(f"{event} {fields.get('action')}", "Push Received")
            ledger.add(Sent("github", source["channel"], delivery, name, f"github:{login}"))
        ledger.problems += await _post_github(client, path, secret, "ping", str(uuid.uuid4()), {"zen": "Flow."}, 200)
        forged = {"action": "created", "sender": {"login": "forger"}}
        ledger.problems += await _post_github(client, path, "guess", "star", str(uuid.uuid4()), forged, 401)


async def _post_github(
    client: httpx.AsyncClient, path: str, secret: str, event: str, delivery: str, payload: Any, status: int
) -> list[str]:
    body = json.dumps(payload).encode()
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "content-type": "application/json",
        "x-github-event": event,
        "x-github-delivery": delivery,
        "x-hub-signature-256": f"sha256={signature}",
    }
    answer = await client.post(path, content=body, headers=headers)
    return _unless(answer, status, f"GitHub's {event}")


async def knock(gateway: str, partner: DemoPartner, ledger: Ledger) -> None:
    """Events that must be refused at the door and never counted: an unknown source, a foreign page."""
    shop = partner.sources["online-store"]["key"]
    async with httpx.AsyncClient(base_url=gateway, timeout=30, trust_env=False) as client:
        for key, origin, status, what in (
            (f"{partner.id}.nobody", None, 401, "an unknown source"),
            (shop, "https://elsewhere.example", 403, "a page of another domain"),
            (shop, None, 403, "no page at all"),
            (partner.sources["app"]["key"], None, 403, "a source of another door"),
        ):
            headers = {"origin": origin} if origin else {}
            event = {"writeKey": key} | _view("Jacket", userId="intruder")
            answer = await client.post("/v1/track", json=event, headers=headers)
            ledger.problems += _unless(answer, status, what)


def _unless(answer: httpx.Response, status: int, what: str) -> list[str]:
    if answer.status_code == status:
        return []
    return [f"{what}: the gateway should answer {status}, and said {answer.status_code} {answer.text[:200]}"]


async def trickle(kafka: Kafka, partner: DemoPartner) -> None:
    """Somebody uses the app now and then, until cancelled, so that numbers go up and, by time alone, down."""
    producer = kafka.producer(linger_ms=5)
    await producer.start()
    try:
        while True:
            user = f"app-{random.randrange(60):02}"
            event = _view(random.choice(_CATEGORIES), userId=user, messageId=str(uuid.uuid4()))
            if random.random() < 0.1:
                event = _order(30, userId=user, messageId=event["messageId"])
            await producer.send_and_wait(
                partner.sources["app"]["topic"], json.dumps(event).encode(), key=f"{partner.id}|u|{user}".encode()
            )
            await asyncio.sleep(random.uniform(0.5, 2.5))
    finally:
        await producer.stop()


def _sent(event: dict[str, Any], source: dict[str, Any]) -> Sent:
    kinds = {"identify": "Identified", "screen": "Screen Viewed"}
    return Sent(
        source=source["id"],
        channel=source["channel"],
        id=event["messageId"],
        name=kinds.get(event.get("type", "track")) or event["event"],
        user=event.get("userId"),
        anonymous=event.get("anonymousId"),
        properties=event.get("properties") or {},
    )
