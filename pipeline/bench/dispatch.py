"""`headrace bench dispatch`: from a record on its dispatch topic to a tool, beside bare aiohttp with the same requests.

The tool is a process of its own (`dispatch_receiver`), for ours and the peer alike; its clock gives all rates and ages.
Ours is the delivery engine whole: a real Kafka, signatures, order, the delivery log, offsets.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import orjson
from rich.console import Console

from pipeline.bench.dispatch_engine import IN_FLIGHT, PARTNER, SECRET, Tools, child, engine, size
from pipeline.bench.harness import Figure, Row, play
from pipeline.broker.cluster import cluster
from pipeline.dispatch.rules import RuleBook
from pipeline.models.control import Integration, Partner, Rule
from pipeline.models.delivery import Dispatch
from pipeline.settings import KafkaSettings, Settings
from pipeline.sinks.record import Place, delayed, headers_of, read_dispatch
from pipeline.sinks.webhook import WebhookSink
from pipeline.stream.kafka import Kafka
from pipeline.stream.transaction import partition_for
from pipeline.topics.apply import ensure
from pipeline.topics.spec import load, of_integration

__all__ = ["ROWS", "run"]

_BYTES = 700


class Behind(NamedTuple):
    """New records beside parked ones. ``start``: seconds until all lanes deliver; ``rate``: deliveries/s after that."""

    start: float
    rate: float


@dataclass
class Bench:
    """What the rows share; of a round, what rows have in common is run once. ``count``: records of a row."""

    kafka: Kafka
    settings: Settings
    receiver: str
    count: int
    seconds: float
    parked: int
    session: aiohttp.ClientSession
    _behind: list[Behind] = field(default_factory=list)

    def forget(self) -> None:
        """Another round."""
        self._behind.clear()

    async def behind(self) -> list[Behind]:
        """With a million parked retries, and without."""
        if not self._behind:
            self._behind = [await _behind(self, count) for count in (self.parked, 0)]
        return self._behind

    async def taken(self, *, forget: bool = False) -> dict[str, float]:
        """What the receiver noted."""
        async with self.session.get(f"{self.receiver}/taken", params={"forget": "1"} if forget else {}) as answer:
            found: dict[str, float] = await answer.json()
            return found

    async def all_taken(self, count: int) -> dict[str, float]:
        """Wait for so many, and forget them."""
        while (await self.taken())["count"] < count:  # noqa: ASYNC110 - another process counts
            await asyncio.sleep(0.2)
        return await self.taken(forget=True)

    def engine(self, control: Tools) -> AbstractAsyncContextManager[None]:
        """The engine, with all lanes."""
        return engine(self.kafka, self.settings, control)

    async def topics(self, integration: Integration, *tiers: str) -> None:
        """Its dispatch topic, and the retry topics of ``tiers``."""
        specs = of_integration(load(), self.settings.lanes, 1, PARTNER, integration.id, list(tiers))
        wanted = {integration.topic, *(f"{integration.topic}.retry.{tier}" for tier in tiers)}
        await ensure(self.kafka, [spec for spec in specs if spec.name in wanted])

    async def park(self, integration: Integration, count: int) -> None:
        """Records that failed once, each of another customer, due in an hour."""
        producer = self.kafka.producer(linger_ms=5)
        await producer.start()
        try:
            sent, due = [], int(time.time() * 1000) + 3_600_000
            for number in range(count):
                key = f"bench|p|{number}".encode()
                lane = partition_for(key, self.settings.lanes)
                value = delayed(read_dispatch(_record(number, integration), PARTNER, integration.id), 1, due, due)
                # Before all that is in the dispatch topic: that was given up by retention, as it may be after a week.
                headers = headers_of(Place(-1 - number, 1))
                topic = f"{integration.topic}.retry.1h"
                sent.append(await producer.send(topic, value, key, lane, headers=headers))
                if len(sent) >= 10_000:
                    await asyncio.gather(*sent)
                    sent.clear()
            await asyncio.gather(*sent)
        finally:
            await producer.stop()

    async def write(self, integrations: Sequence[Integration], count: int, per_second: float | None = None) -> None:
        """Records, each of another customer, to the integrations in turn; at a pace where one is given."""
        producer = self.kafka.producer(linger_ms=5)
        await producer.start()
        try:
            began, sent = time.monotonic(), []
            for number in range(count):
                tool = integrations[number % len(integrations)]
                value, key = _record(number, tool), f"bench|u|{number}".encode()
                lane = partition_for(key, self.settings.lanes)
                sent.append(await producer.send(tool.topic, value, key, lane))
                if per_second is not None and (wait := began + number / per_second - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
            await asyncio.gather(*sent)
        finally:
            await producer.stop()


def _record(number: int, integration: Integration) -> bytes:
    now = int(time.time() * 1000)
    event: dict[str, Any] = {
        "id": f"m{number}",
        "partner": PARTNER,
        "source": "app",
        "channel": "Mobile",
        "type": "track",
        "name": "Order Completed",
        "time": now,
        "received": now,
        "properties": {"n": number, "total": 99.5, "note": ""},
    }
    customer = {"id": f"bench|u|{number}", "user_id": str(number), "traits": {"plan": "gold"}}
    record = {
        "id": f"{number:032x}",
        "partner": PARTNER,
        "integration": integration.id,
        "rule": "r",
        "name": "Order Completed",
        "event": event,
        "customer": customer,
        "created": now,
    }
    body = len(orjson.dumps({"type": "", "timestamp": "", "data": {"customer": customer, "event": event}}))
    event["properties"]["note"] = "x" * max(0, _BYTES - body - 60)
    return orjson.dumps(record)


async def _deliveries(bench: Bench) -> tuple[float, float]:
    control = Tools()
    tool = control.put(f"t{uuid.uuid4().hex[:12]}", f"{bench.receiver}/hook/0")
    await bench.topics(tool)
    await bench.write([tool], bench.count)
    await bench.taken(forget=True)
    async with bench.engine(control):
        ours = await bench.all_taken(bench.count)
    theirs = await _bare(bench, tool)
    return (bench.count - 1) / ours["seconds"], (bench.count - 1) / theirs["seconds"]


async def _bare(bench: Bench, tool: Integration) -> dict[str, float]:
    """The same requests by aiohttp alone: records in memory, signed, 64 at a time."""
    dispatches = [Dispatch.model_validate_json(_record(number, tool)) for number in range(bench.count)]
    sink = WebhookSink()
    config = sink.config(tool.settings)
    waiting = iter(dispatches)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:

        async def work() -> None:
            for dispatch in waiting:
                request = sink.request(dispatch, config, SECRET, int(time.time() * 1000))
                async with session.post(request.url, data=request.body, headers=request.headers) as answer:
                    await answer.read()

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return await bench.all_taken(bench.count)


async def _hanging(bench: Bench) -> tuple[float, float]:
    """p99 of 19 endpoints while a twentieth hangs, and of the same where it does not."""
    found = []
    for path in ("hang", "hook/19"):
        control = Tools()
        mark = uuid.uuid4().hex[:8]
        tools = [control.put(f"t{mark}-{n}", f"{bench.receiver}/{path if n == 19 else f'hook/{n}'}") for n in range(20)]
        for tool in tools:
            await bench.topics(tool)
        per_second, count = 400.0, int(400 * bench.seconds)
        async with bench.engine(control):
            await bench.write(tools, 200)
            await bench.all_taken(190 if path == "hang" else 200)
            await bench.write(tools, count, per_second)
            found.append((await bench.all_taken(count * 19 // 20 if path == "hang" else count))["p99"])
    return found[0], found[1]


async def _accepted(bench: Bench) -> tuple[float, None]:
    """From a record's event to the request at the tool, at half of what the row before took."""
    control = Tools()
    tool = control.put(f"t{uuid.uuid4().hex[:12]}", f"{bench.receiver}/hook/0")
    await bench.topics(tool)
    per_second, count = 500.0, int(500 * bench.seconds)
    async with bench.engine(control):
        await bench.write([tool], 200)
        await bench.all_taken(200)
        await bench.write([tool], count, per_second)
        return (await bench.all_taken(count))["p99"], None


async def _behind(bench: Bench, parked: int) -> Behind:
    control = Tools()
    tool = control.put(f"t{uuid.uuid4().hex[:12]}", f"{bench.receiver}/hook/0")
    await bench.topics(tool, "1h")
    await bench.park(tool, parked)
    await bench.write([tool], 200)
    await bench.taken(forget=True)
    began = time.perf_counter()
    async with bench.engine(control):
        await bench.all_taken(200)
        start = time.perf_counter() - began
        await bench.write([tool], bench.count)
        return Behind(start, (bench.count - 1) / (await bench.all_taken(bench.count))["seconds"])


async def _parked(bench: Bench) -> tuple[float, float]:
    """What is new is delivered as fast behind so many retries as without them, once all lanes are open."""
    with_, without = await bench.behind()
    return with_.rate, without.rate


async def _parked_start(bench: Bench) -> tuple[float, float]:
    """From the start of the engine until all lanes deliver: retries are looked through first."""
    with_, without = await bench.behind()
    return with_.start, without.start


async def _parked_memory(bench: Bench) -> tuple[float, float]:
    """Size of a process that knows of all of them and has delivered something new, and of one that has none."""
    found = []
    for count in (bench.parked, 0):
        tool = Tools().put(f"t{uuid.uuid4().hex[:12]}", f"{bench.receiver}/hook/0")
        await bench.topics(tool, "1h")
        await bench.park(tool, count)
        await bench.write([tool], 200)
        await bench.taken(forget=True)
        async with child(bench.kafka, bench.settings, tool) as process:
            await bench.all_taken(200)
            found.append(await size(process) / 1e6)
    return found[0], found[1]


async def _rules(bench: Bench) -> tuple[float, None]:
    """200 rules over 20 event names, restricted and filtered; of an event that fires none."""
    partner = Partner(id=PARTNER, name="Bench", sending=True, version=1, created=0, updated=0)
    tool = Tools().put("tool", f"{bench.receiver}/hook/0")
    rules = [
        Rule.model_validate(
            {
                "id": f"r{number}",
                "partner": PARTNER,
                "event": f"Event {number % 20}",
                "integration": "tool",
                "restrictions": [{"property": "type", "values": ["reward", f"bonus {number}"]}],
                "filter": "properties.total > 100.0",
                "version": 1,
                "created": 0,
                "updated": 0,
            }
        )
        for number in range(200)
    ]
    book = RuleBook(partner, rules, [tool])
    properties = {"type": "redeem", "total": 99.5, "currency": "EUR"}
    names = [f"Event {number % 20}" for number in range(1000)]
    rounds = 40
    began = time.perf_counter()
    for _ in range(rounds):
        for name in names:
            if book.match(name, properties, dict):
                raise RuntimeError("no rule should match")
    return (time.perf_counter() - began) / (rounds * len(names)), None


ROWS: tuple[Row[Bench], ...] = (
    Row(
        "deliveries",
        "deliveries/s, signed 700-byte POSTs, 64 in flight, one core",
        "deliveries/s",
        "bare aiohttp + uvloop",
        _deliveries,
    ),
    Row(
        "hanging",
        "p99 of healthy endpoints with 1 of 20 endpoints hanging",
        "s",
        "the same without",
        _hanging,
    ),
    Row("rules", "rule evaluation, 200 rules over 20 event names", "s", None, _rules),
    Row("parked", "1 M parked retries", "deliveries/s", "the same without", _parked),
    Row("parked-start", "1 M parked retries, start to the first deliveries", "s", "the same without", _parked_start),
    Row("parked-memory", "1 M parked retries, size of the process", "MB", "the same without", _parked_memory),
    Row("accepted", "event accepted to request sent, p99 at half load", "s", None, _accepted),
)


async def run(quick: bool, console: Console, names: Sequence[str], rounds: int) -> list[Figure]:
    """All rows, or those that are named."""
    rows = [row for row in ROWS if not names or row.name in names]
    count, seconds, parked = (5_000, 6.0, 20_000) if quick else (30_000, 20.0, 1_000_000)
    # Ours and the peer have one processor; broker and receiver the others.
    cores = sorted(os.sched_getaffinity(0))
    gc.set_threshold(50_000, 20, 50)  # as the sink role has it
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        settings = Settings(data_dir=Path(folder), allow_networks="127.0.0.0/8")
        async with cluster(settings, KafkaSettings()) as kafka:
            return await _run(kafka, settings, rows, rounds, console, count, seconds, parked, cores)


async def _run(
    kafka: Kafka,
    settings: Settings,
    rows: Sequence[Row[Bench]],
    rounds: int,
    console: Console,
    count: int,
    seconds: float,
    parked: int,
    cores: list[int],
) -> list[Figure]:
    receiver = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pipeline.bench.dispatch_receiver",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert receiver.stdout is not None
    assert receiver.stdin is not None
    try:
        port = int(await receiver.stdout.readline())
        os.sched_setaffinity(0, {cores[0]})
        os.sched_setaffinity(receiver.pid, {cores[-1]})
        async with aiohttp.ClientSession() as session:
            bench = Bench(kafka, settings, f"http://127.0.0.1:{port}", count, seconds, parked, session)
            return await play(rows, bench, rounds, console, bench.forget)
    finally:
        os.sched_setaffinity(0, set(cores))
        receiver.stdin.close()
        await receiver.wait()
