"""`headrace bench path`: the main path's parts, each beside plain aiokafka moving the same bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiokafka import TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder
from rich.console import Console

from pipeline.agents.fanout import Fanout
from pipeline.agents.intake import Intake
from pipeline.bench.harness import ROUNDS, Figure, measure, submit
from pipeline.broker.cluster import cluster
from pipeline.control.log import ControlLog
from pipeline.query.reader import Reader
from pipeline.settings import KafkaSettings, Settings
from pipeline.stream.kafka import Kafka
from pipeline.stream.lanes import LaneApp
from pipeline.supervisor import Supervisor
from pipeline.topics.wanted import apply_all, ensure_for

__all__ = ["run"]

PARTNER = "bench"
#: As the engine's own measurements: 490 bytes an event.
EVENT_BYTES = 490
_BATCH = 100
_IN_FLIGHT = 64


def event(number: int, users: int) -> bytes:
    """A tracked view of about `EVENT_BYTES` bytes."""
    body = {
        "type": "track",
        "event": "Category Viewed",
        "messageId": f"{number:032x}",
        "userId": f"user-{number % users}",
        "properties": {"category": "Jacket" if number % 2 else "Hat", "price": 19.5, "currency": "EUR", "position": 3},
        "context": {"page": {"url": "https://shop.example/jackets?page=2", "title": "Jackets"}, "locale": "en"},
    }
    value = orjson.dumps(body)
    padding = "x" * max(0, EVENT_BYTES - len(value) - 8)
    return orjson.dumps(body | {"pad": padding})


class Bench:
    """What the figures share: a cluster, a partner with a segment, and fresh data for each round."""

    def __init__(self, kafka: Kafka, settings: Settings, console: Console, quick: bool) -> None:
        self.kafka = kafka
        self.settings = settings
        self.console = console
        self.events = 100_000 if quick else 400_000
        self.requests = 3000 if quick else 10_000
        self.probes = 60 if quick else 200
        self.users = 20_000
        self.control = ControlLog(kafka)

    async def setup(self) -> None:
        """Topics, partner, segment; the control log followed."""
        await apply_all(self.kafka, self.settings)
        await self.control.start()
        await submit(self.control, PARTNER, "partner.create", id=PARTNER, name="Bench")
        for source in self.control.state.sources.values():
            await ensure_for(self.kafka, self.settings, source)
        condition = {
            "event": "Category Viewed",
            "where": [{"property": "category", "value": "Jacket"}],
            "window": {"rolling": "30d"},
        }
        await submit(self.control, PARTNER, "segment.create", id="jackets", name="Jackets", condition=condition)

    async def source(self) -> str:
        """A source nobody has used yet; its topic."""
        name = f"s{uuid.uuid4().hex[:8]}"
        await submit(self.control, PARTNER, "source.create", id=name, name=name, code=name, bridge="rest")
        made = self.control.state.sources[PARTNER, name]
        await ensure_for(self.kafka, self.settings, made)
        return made.topic

    async def fill(self, topic: str, count: int) -> None:
        """``count`` events on ``topic``, spread over its partitions, with ids of their own."""
        salt = uuid.uuid4().int & 0xFFFFFFFF
        await write(self.kafka, topic, self.settings.lanes, (event((salt << 40) + n, self.users) for n in range(count)))


async def write(kafka: Kafka, topic: str, lanes: int, values: Any) -> None:
    """Plain aiokafka, batched: every value on the next lane."""
    producer = kafka.producer(max_batch_size=1_000_000)
    await producer.start()
    try:
        builders: list[BatchBuilder] = [producer.create_batch() for _ in range(lanes)]
        acks: list[asyncio.Future[Any]] = []
        for number, value in enumerate(values):
            lane = number % lanes
            if builders[lane].append(timestamp=None, key=None, value=value) is None:
                acks.append(await producer.send_batch(builders[lane], topic, partition=lane))
                builders[lane] = producer.create_batch()
                builders[lane].append(timestamp=None, key=None, value=value)
        for lane, builder in enumerate(builders):
            if builder.record_count():
                acks.append(await producer.send_batch(builder, topic, partition=lane))
        await asyncio.gather(*acks)
    finally:
        await producer.stop()


async def move(kafka: Kafka, source: str, target: str, lanes: int, count: int) -> float:
    """The peer: plain aiokafka reads ``count`` records and writes them to ``target``; records a second."""
    consumer = kafka.consumer(max_poll_records=5000, max_partition_fetch_bytes=4 << 20)
    producer = kafka.producer(max_batch_size=1_000_000)
    await consumer.start()
    await producer.start()
    try:
        consumer.assign([TopicPartition(source, lane) for lane in range(lanes)])
        await consumer.seek_to_beginning()
        done, started, acks = 0, 0.0, []
        while done < count:
            for tp, records in (await consumer.getmany(timeout_ms=500, max_records=5000)).items():
                started = started or time.perf_counter()
                builder = producer.create_batch()
                for record in records:
                    if builder.append(timestamp=None, key=record.key, value=record.value) is None:
                        acks.append(await producer.send_batch(builder, target, partition=tp.partition))
                        builder = producer.create_batch()
                        builder.append(timestamp=None, key=record.key, value=record.value)
                acks.append(await producer.send_batch(builder, target, partition=tp.partition))
                done += len(records)
        await asyncio.gather(*acks)
        return count / (time.perf_counter() - started)
    finally:
        await consumer.stop()
        await producer.stop()


async def drain(role: Intake | Fanout, count: int) -> float:
    """Run a role until its lanes have committed ``count`` records; records a second from the first batch on."""
    lanes: LaneApp = role.lanes
    await role.start()
    try:
        started, before = 0.0, 0
        async with asyncio.timeout(300):
            while True:
                if lanes.failure.done():
                    lanes.failure.result()
                done = sum(lane.records for lane in lanes.running.values())
                if done and not started:
                    started, before = time.perf_counter(), done
                if done >= count:
                    return (done - before) / max(1e-9, time.perf_counter() - started)
                await asyncio.sleep(0.005)
    finally:
        await role.stop()


async def intake_figure(bench: Bench, rounds: int) -> Figure:
    """Raw topics in, events out, in one process; nothing else runs beside it."""
    topic = ""

    async def ours() -> float:
        nonlocal topic
        topic = await bench.source()
        await bench.fill(topic, bench.events)
        return await drain(Intake(bench.kafka, bench.control, bench.settings), bench.events)

    async def peer() -> float:
        target = await bench.source()
        return await move(bench.kafka, topic, target, bench.settings.lanes, bench.events)

    figure = Figure("intake events/s, one process, exactly once", "events/s", "plain aiokafka, at least once")
    return await measure(figure, ours, peer, rounds, bench.console)


async def fanout_figure(bench: Bench, rounds: int) -> Figure:
    """What intake left on `events`, round by round: dedup, identity, one leaf, counts, history."""
    topic = ""

    async def ours() -> float:
        nonlocal topic
        topic = await bench.source()
        await bench.fill(topic, bench.events)
        await drain(Intake(bench.kafka, bench.control, bench.settings), bench.events)
        return await drain(Fanout(bench.kafka, bench.control, bench.settings), bench.events)

    async def peer() -> float:
        target = await bench.source()
        return await move(bench.kafka, topic, target, bench.settings.lanes, bench.events)

    figure = Figure("fan-out events/s, one process, exactly once", "events/s", "plain aiokafka, at least once")
    return await measure(figure, ours, peer, rounds, bench.console)


async def gateway_figures(bench: Bench, rounds: int) -> list[Figure]:
    """One client process' worth of requests over 64 connections, and the same bytes by a plain producer."""
    topic = await bench.source()
    key = f"{PARTNER}.{topic.rpartition('.')[2]}"
    bodies = [orjson.dumps(orjson.loads(event(n, bench.users)) | {"writeKey": key}) for n in range(1000)]
    batches = [
        orjson.dumps({"writeKey": key, "batch": [orjson.loads(b) for b in bodies[n : n + _BATCH]]})
        for n in range(0, 1000, _BATCH)
    ]
    async with Served(bench) as address:

        async def single() -> float:
            return await post(f"{address}/v1/track", bodies, bench.requests)

        async def batched() -> float:
            return _BATCH * await post(f"{address}/v1/batch", batches, max(50, bench.requests // 20))

        async def one_by_one() -> float:
            return await send(bench.kafka, topic, bodies, bench.requests, wait=True)

        async def all_at_once() -> float:
            return await send(bench.kafka, topic, bodies, bench.requests * 5, wait=False)

        first = Figure("gateway requests/s, one event each", "requests/s", "plain aiokafka, 64 in flight")
        second = Figure("gateway events/s, batches of 100", "events/s", "plain aiokafka, send")
        return [
            await measure(first, single, one_by_one, rounds, bench.console),
            await measure(second, batched, all_at_once, rounds, bench.console),
        ]


class Served:
    """A gateway in a process of its own for the time of a block; its address."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    async def __aenter__(self) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {
            "KAFKA_BOOTSTRAP_SERVERS": self.bench.kafka.bootstrap_servers,
            "HEADRACE_DATA_DIR": str(self.bench.settings.data_dir),
            "HEADRACE_GATEWAY_PORT": str(port),
            "HEADRACE_LOG_LEVEL": "WARNING",
        }
        self.supervisor = Supervisor(environment)
        await self.supervisor.start("gateway", [sys.executable, "-m", "pipeline.cli.main", "gateway"])
        address = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as session:
            deadline = time.perf_counter() + 60
            while time.perf_counter() < deadline:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{address}/readyz") as answer:
                        if answer.status == 200:
                            return address
                await asyncio.sleep(0.05)
        await self.supervisor.stop()
        raise TimeoutError("the gateway was not ready within 60 s")

    async def __aexit__(self, *error: object) -> None:
        await self.supervisor.stop()


async def in_flight(count: int, one: Callable[[int], Awaitable[None]]) -> float:
    """``one(n)`` for n below ``count``, 64 at a time; how many a second."""
    numbers = iter(range(count))

    async def take() -> None:
        for number in numbers:
            await one(number)

    started = time.perf_counter()
    await asyncio.gather(*(take() for _ in range(_IN_FLIGHT)))
    return count / (time.perf_counter() - started)


async def post(url: str, bodies: list[bytes], count: int) -> float:
    """Requests a second; every one must be answered with 200."""
    connector = aiohttp.TCPConnector(limit=_IN_FLIGHT)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one(number: int) -> None:
            async with session.post(url, data=bodies[number % len(bodies)]) as answer:
                if answer.status != 200:
                    raise RuntimeError(f"{url}: {answer.status} {await answer.text()}")

        return await in_flight(count, one)


async def send(kafka: Kafka, topic: str, bodies: list[bytes], count: int, *, wait: bool) -> float:
    """The peer of the gateway: the same values by ``AIOKafkaProducer.send``."""
    producer = kafka.producer(linger_ms=2)
    await producer.start()
    try:
        if wait:

            async def one(number: int) -> None:
                await producer.send_and_wait(topic, bodies[number % len(bodies)])

            return await in_flight(count, one)
        started = time.perf_counter()
        acks = [await producer.send(topic, bodies[n % len(bodies)]) for n in range(count)]
        await asyncio.gather(*acks)
        return count / (time.perf_counter() - started)
    finally:
        await producer.stop()


async def latency_figures(bench: Bench, rounds: int) -> list[Figure]:
    """HTTP 200 to the count being visible to a reader, one event at a time, everything running."""
    topic = await bench.source()
    key = f"{PARTNER}.{topic.rpartition('.')[2]}"
    intake = Intake(bench.kafka, bench.control, bench.settings)
    fanout = Fanout(bench.kafka, bench.control, bench.settings)
    reader = Reader(bench.kafka, bench.settings.lanes, bench.settings.data_dir / "bench-query")
    await intake.start()
    await fanout.start()
    await reader.start()
    half = Figure("HTTP 200 to visible count, p50", "s", "plain aiokafka, acknowledged to read")
    tail = Figure("HTTP 200 to visible count, p99", "s", "plain aiokafka, acknowledged to read")
    try:
        async with Served(bench) as address, aiohttp.ClientSession() as session:

            def size() -> int:
                return reader.counts.of(PARTNER, "jackets", 1, 0).total.customers

            async def probe(number: int) -> float:
                person = {"userId": f"probe-{uuid.uuid4().hex}", "messageId": uuid.uuid4().hex, "writeKey": key}
                body = orjson.loads(event(2 * number + 1, 1)) | person
                before = size()
                async with session.post(f"{address}/v1/track", data=orjson.dumps(body)) as answer:
                    if answer.status != 200:
                        raise RuntimeError(await answer.text())
                started = time.perf_counter()
                await wait_until(lambda: size() > before)
                return time.perf_counter() - started

            # What the other figures left behind is counted first.
            await wait_until(lambda: all(_idle(role.lanes, bench.settings.lanes) for role in (intake, fanout)))
            await probe(0)
            for number in range(rounds):
                ours = sorted([await probe(n) for n in range(bench.probes)])
                theirs = sorted(await echo(bench, bench.probes))
                for figure, at in ((half, 0.5), (tail, 0.99)):
                    figure.values.append(ours[int(at * (len(ours) - 1))])
                    figure.peer_values.append(theirs[int(at * (len(theirs) - 1))])
                bench.console.print(f"  {half.figure} {number + 1}/{rounds}: {statistics.median(ours):.4f} s")
    finally:
        await reader.stop()
        await fanout.stop()
        await intake.stop()
    return [half, tail]


def _idle(app: LaneApp, lanes: int) -> bool:
    return len(app.running) == lanes and all(lane.caught_up for lane in app.running.values())


async def wait_until(condition: Callable[[], bool], timeout: float = 120) -> None:
    """Ask every 2 ms. Raises TimeoutError."""
    deadline = time.perf_counter() + timeout
    while not condition():
        if time.perf_counter() > deadline:
            raise TimeoutError(f"not within {timeout:g} s")
        await asyncio.sleep(0.002)


async def echo(bench: Bench, count: int) -> list[float]:
    """The peer: from the acknowledgement of a record to its being read by a consumer."""
    topic = await bench.source()
    consumer, producer = bench.kafka.consumer(fetch_max_wait_ms=250), bench.kafka.producer()
    await consumer.start()
    await producer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.seek_to_end()
        taken = []
        for number in range(count):
            await producer.send_and_wait(topic, event(number, 1), partition=0)
            started = time.perf_counter()
            await consumer.getone()
            taken.append(time.perf_counter() - started)
        return taken
    finally:
        await consumer.stop()
        await producer.stop()


async def run(quick: bool, console: Console) -> list[Figure]:
    """All figures, on a broker and data of their own (or the cluster that ``KAFKA_BOOTSTRAP_SERVERS`` names)."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        settings = Settings(data_dir=Path(folder))
        rounds = ROUNDS
        async with cluster(settings, KafkaSettings()) as kafka:
            bench = Bench(kafka, settings, console, quick)
            await bench.setup()
            console.print(
                f"path: {bench.events:,} events of {EVENT_BYTES} bytes, {settings.lanes} lanes, {os.cpu_count()} cores"
            )
            try:
                figures = [await intake_figure(bench, rounds), await fanout_figure(bench, rounds)]
                figures += await gateway_figures(bench, rounds)
                figures += await latency_figures(bench, rounds)
            finally:
                await bench.control.stop()
    return figures
