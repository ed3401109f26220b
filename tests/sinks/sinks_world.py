"""What the delivery engine needs around it in tests: a receiver that misbehaves on demand, control, Kafka."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aiohttp import web
from aiokafka import TopicPartition

from pipeline.control.secrets import SecretError
from pipeline.models.control import Command, Integration, Partner, Verdict
from pipeline.settings import Settings
from pipeline.sinks.engine import DeliveryEngine
from pipeline.stream.kafka import Kafka
from pipeline.stream.transaction import partition_for
from pipeline.topics.apply import ensure
from pipeline.topics.spec import load, of_integration

__all__ = ["LANES", "SECRET", "Hit", "Receiver", "World"]

LANES = 2
SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes, ok").decode()


@dataclass(frozen=True)
class Hit:
    """One request as it came. ``number``: of the event, as `World.send` numbered it; ``at``: the loop's clock."""

    id: str
    customer: str
    number: int
    status: int
    headers: dict[str, str]
    body: bytes
    at: float


Answer = Callable[[dict[str, Any]], Awaitable[web.StreamResponse] | web.StreamResponse]


class Receiver:
    """A real HTTP server. ``answer``: from the decoded body to the response; 200 by default."""

    def __init__(self) -> None:
        self.hits: list[Hit] = []
        self.begun = 0
        self.answer: Answer = lambda body: web.Response()
        self.url = ""

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw) if raw else {}
        self.begun += 1
        response = self.answer(body)
        if not isinstance(response, web.StreamResponse):
            response = await response
        data = body.get("data", {})
        self.hits.append(
            Hit(
                request.headers.get("webhook-id", ""),
                data.get("customer", {}).get("id", ""),
                data.get("event", {}).get("properties", {}).get("n", -1),
                response.status,
                {name.lower(): value for name, value in request.headers.items()},
                raw,
                asyncio.get_running_loop().time(),
            )
        )
        return response

    def taken(self) -> list[Hit]:
        """What was answered with 2xx."""
        return [hit for hit in self.hits if hit.status < 300]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Receiver]:
        """Serve on a free port of loopback."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        try:
            yield self
        finally:
            await runner.cleanup()


class _Secrets(dict[str, str]):
    def get(self, name: str) -> str:  # type: ignore[override]
        if name not in self:
            raise SecretError(f"secret {name} is unknown")
        return self[name]


@dataclass
class World:
    """One partner, named as the test's prefix, with one integration ``hook`` unless more are put."""

    kafka: Kafka
    partner: str
    receiver: Receiver
    data_dir: Path
    schedule: str = "200ms,400ms"
    secrets: _Secrets = field(default_factory=lambda: _Secrets(signing=SECRET))
    sent: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._callbacks: list[Callable[[Any], None]] = []
        self.state = SimpleNamespace(partners={}, integrations={})
        self.engines: list[DeliveryEngine] = []
        self.settings = Settings(
            lanes=LANES, allow_networks="127.0.0.0/8", retry_schedule=self.schedule, data_dir=self.data_dir
        )
        self.switch(True)
        self.put()

    # In place of pipeline.control.log.ControlLog, an interface within the process.
    def subscribe(self, callback: Callable[[Any], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    async def submit(self, command: Command) -> Verdict:
        """As the control log judges an edit of an integration."""
        before = self.state.integrations[self.partner, command.entity]
        if before.version != command.expect:
            return Verdict(offset=0, command_id=command.id, status=409, code="stale")
        self.put(before.id, **before.model_dump(exclude={"version", "name"}) | command.data)
        return Verdict(offset=0, command_id=command.id, status=200)

    def _tell(self) -> None:
        for callback in self._callbacks:
            callback(self.state)

    def switch(self, sending: bool) -> None:
        """The partner's master switch."""
        self.state.partners[self.partner] = Partner(
            id=self.partner, name="P", sending=sending, version=1, created=0, updated=0
        )
        self._tell()

    def put(self, name: str = "hook", **fields: Any) -> Integration:
        """Create or edit an integration."""
        before = self.state.integrations.get((self.partner, name))
        values: dict[str, Any] = {
            "id": name,
            "partner": self.partner,
            "name": name,
            "kind": "webhook",
            "settings": {"url": self.receiver.url, "timeout_s": 5},
            "secret": "signing",
            "version": before.version + 1 if before else 1,
            "created": 0,
            "updated": 0,
        }
        made = Integration(**values | fields)
        self.state.integrations[self.partner, name] = made
        self._tell()
        return made

    async def engine(self) -> DeliveryEngine:
        """Start one that owns every lane."""
        made = DeliveryEngine(self.kafka, self, self.secrets, self.settings, group=f"{self.partner}-offsets")
        await made.start()
        self.engines.append(made)
        await made.assign(set(range(LANES)))
        return made

    async def make_topics(self, name: str = "hook") -> None:
        """The integration's dispatch topic, as whoever creates the integration makes it."""
        topics = of_integration(load(), LANES, 1, self.partner, name, [])
        await ensure(self.kafka, topics[:1])

    async def send(self, customers: list[str], name: str = "hook", **fields: Any) -> None:
        """One dispatch record per customer named, numbered in order, in one transaction, as fan-out does."""
        await self.make_topics(name)
        producer = self.kafka.producer(transactional_id=f"{self.partner}-{name}-fanout")
        await producer.start()
        try:
            async with producer.transaction():
                for customer in customers:
                    number = len(self.sent)
                    self.sent.append(customer)
                    record = self.record(customer, number, name) | fields
                    await self.produce(producer, name, customer, json.dumps(record).encode())
        finally:
            await producer.stop()

    async def produce(self, producer: Any, name: str, customer: str, value: bytes) -> None:
        key = customer.encode()
        topic = f"dispatch.{self.partner}.{name}"
        await producer.send(topic, value, key, partition_for(key, LANES))

    def record(self, customer: str, number: int, name: str = "hook") -> dict[str, Any]:
        """A dispatch record as plain JSON."""
        return {
            "id": f"{self.partner}-{number}",
            "partner": self.partner,
            "integration": name,
            "rule": "r",
            "name": "Wallet Coins Rewarded",
            "event": {"id": f"m{number}", "time": 1_700_000_000_000, "properties": {"n": number}},
            "customer": {"id": customer, "traits": {}},
            "created": 1_700_000_000_000,
        }

    async def read(self, topic: str) -> list[dict[str, Any]]:
        """Every record of a topic as of now, decoded; none where there is no such topic."""
        admin = self.kafka.admin()
        await admin.start()
        try:
            if topic not in await admin.list_topics():
                return []
        finally:
            await admin.close()
        consumer = self.kafka.consumer()
        await consumer.start()
        try:
            tps = [TopicPartition(topic, n) for n in range(LANES)]
            consumer.assign(tps)
            ends = await consumer.end_offsets(tps)
            await consumer.seek_to_beginning(*tps)
            found: list[dict[str, Any]] = []
            while any([await consumer.position(tp) < end for tp, end in ends.items()]):
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    found += [json.loads(record.value) for record in batch]
            return found
        finally:
            await consumer.stop()

    async def undeliverable(self, name: str = "hook") -> list[dict[str, Any]]:
        return await self.read(f"dispatch.{self.partner}.{name}.undeliverable")

    async def deliveries(self) -> list[dict[str, Any]]:
        return [entry for entry in await self.read("deliveries") if entry["partner"] == self.partner]

    def order(self) -> dict[str, list[int]]:
        """Customer -> numbers taken, each at its first time."""
        out: dict[str, list[int]] = defaultdict(list)
        for hit in self.receiver.taken():
            if hit.number not in out[hit.customer]:
                out[hit.customer].append(hit.number)
        return dict(out)

    def expected(self) -> dict[str, list[int]]:
        """Customer -> numbers sent."""
        out: dict[str, list[int]] = defaultdict(list)
        for number, customer in enumerate(self.sent):
            out[customer].append(number)
        return dict(out)


async def crash(engine: DeliveryEngine) -> None:
    """End the engine as kill -9 would: nothing is finished, nothing committed."""
    tasks = [engine._task, *engine._reader._tasks]
    for outlet in engine._outlets.values():
        for lane in outlet.lanes.values():
            lane._closing = True
            tasks += [queue.task for queue in lane._queues.values()]
            for queue in lane._queues.values():
                if queue.timer is not None:
                    queue.timer.cancel()
    found = [task for task in tasks if task is not None]
    for task in found:
        task.cancel()
    await asyncio.gather(*found, return_exceptions=True)
    await engine._disconnect()
