"""A source that fetches, in the whole product: made by API, run by the role, its state told, its events counted."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from eventually import eventually
from records import make_topic
from stack import Stack

pytestmark = pytest.mark.kafka


def state(tenant: Any) -> dict[str, Any]:
    found: dict[str, Any] = tenant.get("/sources/orders/status")
    return found


async def send(stack: Stack, topic: str, numbers: range) -> None:
    async with stack.client().producer() as producer:
        for number in numbers:
            event = {"event": "Ordered", "userId": "customer-1", "properties": {"n": number}}
            await producer.send(topic, json.dumps(event).encode())


def counted(tenant: Any) -> int:
    answer = tenant.api.get("/customers/customer-1/timeline", params={"limit": 1000})
    return len(answer.json()["items"]) if answer.status_code == 200 else 0


async def test_a_queue_is_made_read_and_shown_and_goes_on_after_a_kill_of_its_process(
    stack: Stack, tenant: Any
) -> None:
    topic = f"{tenant.id}.orders"
    await make_topic(stack.client(), topic, 2)
    settings = {"brokers": stack.kafka, "topic": topic}
    bad = tenant.api.post("/sources", json={"name": "x", "bridge": "queue-kafka", "settings": {"topic": topic}})
    assert bad.status_code == 400
    assert bad.json()["path"] == "$.settings.brokers"
    tenant.create("sources", id="orders", name="Orders", bridge="queue-kafka", settings=settings)
    await eventually(lambda: state(tenant)["state"] == "running", 60)
    await send(stack, topic, range(20))
    await eventually(lambda: counted(tenant) == 20, 60)
    stack.process("bridge").kill()
    await send(stack, topic, range(20, 30))
    await eventually(lambda: counted(tenant) == 30, 90)
    # Its status is told a moment after the change; until then the last word is the new process' "connecting".
    (consumer,) = (await eventually(lambda: (s := state(tenant))["state"] == "running" and s))["consumers"]
    assert consumer["state"] == "running"
    tenant.edit("/sources/orders", active=False)
    await eventually(lambda: state(tenant)["state"] == "off")
    with pytest.raises(AssertionError, match="no_feed"):
        tenant.get("/sources/app/status")
    bridges = {each["name"]: each for each in httpx.get(f"{stack.api}/v1/bridges", timeout=30).json()["items"]}
    assert {"queue-kafka", "queue-mqtt", "queue-amqp", "imap", "files"} <= bridges.keys()
    assert bridges["imap"]["door"] == "feed"
