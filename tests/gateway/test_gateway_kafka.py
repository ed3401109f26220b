"""The gateway as a role on a real Kafka: stock clients in, records on the raw topic; changes, outages, the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, cast

import httpx
import orjson
import pytest
from control_topics import make_control_topics
from eventually import eventually
from frozen import frozen
from gateway_world import COMMANDS, StandIn, state_of
from records import make_topic, read_all
from segment.analytics import Client

from pipeline.agents.judge import judge
from pipeline.bridges.github import sign
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.control.log import ControlLog
from pipeline.control.secrets import Secrets
from pipeline.gateway.app import create_app
from pipeline.gateway.role import run_gateway
from pipeline.models.control import Command
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka
from pipeline.stream.producer import Producer

pytestmark = pytest.mark.kafka


@dataclass
class Gateway:
    """A running gateway, and a partner of this test's own with sources to send to."""

    kafka: Kafka
    control: ControlLog
    secrets: Secrets
    partner: str
    url: str
    stop: asyncio.Event
    role: asyncio.Task[None]

    async def source(self, code: str, **more: Any) -> str:
        """Make a source and its topic; its key."""
        await self.command("source.create", id=f"{code}-id", name=code, code=code, **more)
        await make_topic(self.kafka, f"raw.{self.partner}.{code}-id", 4)
        return f"{self.partner}.{code}"

    async def command(self, verb: str, entity: str | None = None, expect: int | None = None, **data: Any) -> None:
        written = Command(
            id=os.urandom(8).hex(), command=verb, partner=self.partner, entity=entity, expect=expect, data=data
        )
        verdict = await self.control.submit(written)
        assert verdict.status < 300, verdict


@pytest.fixture
async def gateway(kafka: Kafka, prefix: str) -> AsyncIterator[Gateway]:
    await make_control_topics(kafka)
    control, secrets = ControlLog(kafka), Secrets(kafka, [os.urandom(32)])
    await control.start()
    await secrets.start()
    stop = asyncio.Event()
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    role = asyncio.create_task(run_gateway(kafka, control, secrets, Settings(gateway_port=0), stop, address.set_result))
    await asyncio.wait({role, address}, return_when=asyncio.FIRST_COMPLETED)
    if role.done():
        role.result()
    made = Gateway(kafka, control, secrets, prefix, await address, stop, role)
    await made.command("partner.create", id=prefix, name="Test")
    try:
        yield made
    finally:
        stop.set()
        await role
        await secrets.stop()
        await control.stop()


@pytest.mark.parametrize("packed", [False, True])
async def test_every_event_of_the_official_client_lands_once_and_as_it_was(gateway: Gateway, packed: bool) -> None:
    key = await gateway.source("server", bridge="rest")
    errors: list[Any] = []
    sent: dict[str, dict[str, Any]] = {}

    def run() -> None:
        client = Client(key, host=gateway.url, gzip=packed, on_error=lambda *a: errors.append(a), upload_interval=0.05)
        for n in range(150):
            user = f"user-{n % 20}"
            product = {"category": "Jacket", "price": n / 4, "n": n, "text": "é😀\u2028"}
            for ok, message in (
                client.track(user, "Product Viewed", product),
                client.identify(user, {"plan": "gold", "n": n}, context={"ip": "198.51.100.7"}),
                client.page(anonymous_id=f"anon-{n % 20}", name="Home", properties={"n": n}),
            ):
                assert ok
                sent[message["messageId"]] = message
        client.shutdown()

    await asyncio.to_thread(run)
    assert errors == []
    records = await read_all(gateway.kafka, f"raw.{gateway.partner}.server-id")
    found = {}
    orders: dict[bytes, list[int]] = {}
    for record in records:
        event = orjson.loads(record.value)
        assert event.pop("sentAt")
        found[event["messageId"]] = event
        body = event.get("properties") or event.get("traits")
        if event["type"] == "track":
            orders.setdefault(record.key, []).append(body["n"])
    assert len(records) == len(sent) == 450
    assert found == {name: orjson.loads(orjson.dumps(message)) for name, message in sent.items()}
    assert all(numbers == sorted(numbers) for numbers in orders.values())
    # What the gateway took, intake takes.
    source = gateway.control.state.sources[gateway.partner, "server-id"]
    for record in records:
        key_, _ = judge(source, record.value, record.headers, appended=record.timestamp, control=1, fallback_id="x")
        assert key_ == record.key


async def test_the_official_client_hears_of_a_refusal(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "segment")
    heard: list[Any] = []

    def run() -> None:
        client = Client(f"{gateway.partner}.nobody", host=gateway.url, on_error=lambda *a: heard.append(a))
        client.track("u", "X")
        client.shutdown()

    await asyncio.to_thread(run)
    [(error, items)] = heard
    assert (error.status, error.code) == (401, "unknown_source")
    assert len(items) == 1


async def test_a_change_acts_on_the_next_request(gateway: Gateway) -> None:
    key = await gateway.source("shop", bridge="js", domain="shop.example")
    body = {"writeKey": key, "event": "X", "userId": "u"}
    async with httpx.AsyncClient(base_url=gateway.url) as http:

        async def post(document: dict[str, Any], origin: str = "https://shop.example") -> tuple[int, str]:
            response = await http.post("/v1/t", json=document, headers={"origin": origin})
            return response.status_code, response.json().get("code", "")

        assert await post(body) == (200, "")
        assert await post(body, "https://evil.example") == (403, "wrong_domain")
        await gateway.command("source.edit", "shop-id", 1, code="winter")
        assert await post(body) == (401, "wrong_code")
        assert await post(body | {"writeKey": f"{gateway.partner}.winter"}) == (200, "")
        await gateway.command("source.edit", "shop-id", 2, active=False)
        assert await post(body | {"writeKey": f"{gateway.partner}.winter"}) == (403, "inactive_source")
    assert len(await read_all(gateway.kafka, f"raw.{gateway.partner}.shop-id")) == 2


async def test_a_signed_webhook_with_a_secret_by_reference(gateway: Gateway) -> None:
    name = await gateway.secrets.put("It's a Secret to Everybody")
    await gateway.source("gh", bridge="webhook-github", secret=name)
    body = orjson.dumps({"action": "created", "sender": {"login": "ada"}, "repository": {"full_name": "a/b"}})
    headers = {"x-github-event": "star", "x-github-delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"}
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        for secret, status in ((b"It's a Secret to Everybody", 200), (b"it's a secret to everybody", 401)):
            signed = headers | {"x-hub-signature-256": sign(secret, body)}
            response = await http.post(f"/v1/webhooks/{gateway.partner}/gh", content=body, headers=signed)
            assert response.status_code == status, response.text
    [record] = await read_all(gateway.kafka, f"raw.{gateway.partner}.gh-id")
    assert orjson.loads(record.value)["event"] == "Star Created"
    assert dict(record.headers)["headrace_bridge"] == b"webhook-github"


async def test_what_was_answered_before_the_end_is_recorded_and_the_end_comes_soon(gateway: Gateway) -> None:
    key = await gateway.source("last", bridge="rest")
    taken = 0

    async def send(worker: int) -> None:
        nonlocal taken
        async with httpx.AsyncClient(base_url=gateway.url) as http:
            for n in range(1000):
                response = await http.post("/v1/t", json={"writeKey": key, "event": "X", "userId": f"{worker}-{n}"})
                assert response.status_code == 200
                taken += 1

    workers = [asyncio.create_task(send(worker)) for worker in range(4)]
    await eventually(lambda: taken > 40)
    started = time.monotonic()
    gateway.stop.set()
    await gateway.role
    assert time.monotonic() - started < 10
    for worker in workers:
        with contextlib.suppress(httpx.TransportError):
            await worker
    recorded = await read_all(gateway.kafka, f"raw.{gateway.partner}.last-id")
    # A request may have been recorded whose answer the connection's end cut off; never the other way round.
    assert taken <= len(recorded) <= taken + 4


async def test_a_taken_port_is_said_so(gateway: Gateway) -> None:
    port = int(gateway.url.rpartition(":")[2])
    with pytest.raises(OSError, match="HEADRACE_GATEWAY_PORT"):
        await run_gateway(gateway.kafka, gateway.control, gateway.secrets, Settings(gateway_port=port), asyncio.Event())


@pytest.mark.slow
async def test_without_kafka_a_client_hears_503_in_bounded_time_and_200_when_it_is_back(
    broker_factory: Callable[..., EmbeddedBroker],
) -> None:
    broker = broker_factory()
    with broker:
        kafka = Kafka(broker.bootstrap_servers)
        await make_topic(kafka, "raw.acme.rest-id", 4)
        producer = Producer(kafka, buffer_bytes=200_000)
        await producer.start()
        world = cast(Any, StandIn(state_of(COMMANDS), {}))
        transport = httpx.ASGITransport(create_app(world, world, producer))
        body = {"writeKey": "acme.rest", "event": "X", "userId": "u", "messageId": "m"}
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test", timeout=60) as http:
            assert (await http.post("/v1/t", json=body)).status_code == 200
            with frozen(broker):
                started = time.monotonic()
                large = body | {"properties": {"x": "y" * 20_000}}
                answers = await asyncio.gather(*(http.post("/v1/t", json=large) for _ in range(40)))
                assert time.monotonic() - started < 5
                assert [r.status_code for r in answers] == [503] * 40
                # What the producer may hold is bounded: the rest hears at once.
                assert {r.json()["code"] for r in answers} == {"busy", "unavailable"}
                assert producer.buffered_bytes <= 200_000
                assert all(int(r.headers["retry-after"]) > 0 for r in answers)
                assert (await http.get("/readyz")).status_code == 503

            async def taken() -> bool:
                return (await http.post("/v1/t", json=body)).status_code == 200

            await eventually(taken)
            assert (await http.get("/readyz")).status_code == 200
        await producer.stop()
