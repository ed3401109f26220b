"""The segment benchmark's segments and events, which numbers alone determine; and the same question asked of DuckDB."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import orjson
import pyarrow as pa
from aiokafka import TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder

from pipeline.models.event import WATERMARK_KEY
from pipeline.query.counts import Counts
from pipeline.stream.kafka import Kafka
from pipeline.stream.transaction import partition_for

__all__ = ["NAME", "TOUCHED", "Traffic", "WrongCounts", "counts", "fill", "recompute", "watermark"]

NAME = "Category Viewed"
#: Leaves that the events of one customer count for.
TOUCHED = 8
_PASSES = 8
_SPAN_MS = 40 * 86_400_000
_WINDOW_MS = 30 * 86_400_000
_BATCH = 2000
_IN_FLIGHT = 32


class WrongCounts(Exception):
    """Fan-out's counts and DuckDB's differ; the figures would mean nothing."""


@dataclass(frozen=True)
class Traffic:
    """``customers`` customers with `_PASSES` events each; ``segments`` segments of two leaves each, one to a category.

    Events of a customer fall into `TOUCHED` categories, on two sources, over 40 days before ``now`` (ms), so that some
    are outside of the windows of 30 days.
    """

    partner: str
    customers: int
    segments: int
    sources: tuple[str, str]
    now: int
    control: int

    @property
    def events(self) -> int:
        return self.customers * _PASSES

    def definitions(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Id and condition of each segment: two leaves, at least 1, 2 or 3 times in 30 days, both or either."""
        for number in range(self.segments):
            leaves = [
                {
                    "event": NAME,
                    "where": [{"property": "category", "value": f"c{category}"}],
                    "count": {"op": ">=", "value": 1 + category % 3 // 2 * 2},
                    "window": {"rolling": "30d"},
                }
                for category in (2 * number, 2 * number + 1)
            ]
            yield f"s{number}", {"any" if number % 2 else "all": leaves}

    def category(self, customer: int, turn: int) -> int:
        every = 2 * self.segments
        return (customer * 13 + turn // 2 * (every // 4) + turn % 2) % every

    def event(self, number: int) -> tuple[bytes, bytes]:
        """Key and value, as intake writes them on `events`."""
        customer, turn = number % self.customers, number // self.customers
        source = self.sources[(customer + turn) % 2]
        at = self.now - _SPAN_MS * (1 + (customer * 7 + turn * 3) % 100) // 101
        body = {
            "id": f"{number:032x}",
            "partner": self.partner,
            "source": source,
            "channel": "Web" if source == self.sources[0] else "App",
            "type": "track",
            "name": NAME,
            "time": at,
            "received": self.now,
            "user_id": f"user-{customer}",
            "properties": {"category": f"c{self.category(customer, turn)}", "price": 19.5, "currency": "EUR"},
            "context": {"page": {"url": "https://shop.example/jackets?page=2", "title": "Jackets"}, "locale": "en"},
            "control": self.control,
        }
        return f"{self.partner}|u|user-{customer}".encode(), orjson.dumps(body)


async def fill(kafka: Kafka, traffic: Traffic, lanes: int) -> None:
    """All events onto `events`, each pass over all customers behind the one before."""
    producer = kafka.producer(max_batch_size=1_000_000)
    await producer.start()
    acks: set[asyncio.Future[Any]] = set()
    partitions = [partition_for(traffic.event(n)[0], lanes) for n in range(traffic.customers)]

    async def send(builder: BatchBuilder, lane: int) -> None:
        nonlocal acks
        acks.add(await producer.send_batch(builder, "events", partition=lane))
        if len(acks) >= _IN_FLIGHT:
            done, acks = await asyncio.wait(acks, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()

    try:
        builders = [producer.create_batch() for _ in range(lanes)]
        for number in range(traffic.events):
            key, value = traffic.event(number)
            lane = partitions[number % traffic.customers]
            full = builders[lane].record_count() >= _BATCH
            if full or builders[lane].append(timestamp=None, key=key, value=value) is None:
                await send(builders[lane], lane)
                builders[lane] = producer.create_batch()
                builders[lane].append(timestamp=None, key=key, value=value)
        for lane, builder in enumerate(builders):
            if builder.record_count():
                await send(builder, lane)
        await asyncio.gather(*acks)
    finally:
        await producer.stop()


async def watermark(kafka: Kafka, lanes: int, moment: int) -> None:
    """Tell every lane of fan-out that intake is past ``moment`` (ms)."""
    body = orjson.dumps({"received": {str(lane): moment for lane in range(lanes)}})
    async with kafka.producer() as producer:
        for lane in range(lanes):
            await producer.send_and_wait("events", body, key=WATERMARK_KEY, partition=lane)


async def counts(kafka: Kafka, lanes: int) -> Counts:
    """What `segments.counts` says now."""
    found = Counts(lanes)
    consumer = kafka.consumer(isolation_level="read_committed")
    await consumer.start()
    try:
        partitions = [TopicPartition("segments.counts", lane) for lane in range(lanes)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning()
        left = {tp for tp in partitions if ends[tp]}
        while left:
            for tp, records in (await consumer.getmany(timeout_ms=200, max_records=10_000)).items():
                for record in records:
                    found.apply(tp.topic, record.key, record.value)
            left = {tp for tp in left if await consumer.position(tp) < ends[tp]}
        return found
    finally:
        await consumer.stop()


def recompute(traffic: Traffic) -> tuple[float, dict[str, int]]:
    """Seconds that DuckDB takes, on all processors, to count the members of all segments anew, and the counts.

    The events lie in memory as it likes them best: typed columns, no JSON, no duplicates left to drop.
    """
    numbers = range(traffic.events)
    customers, categories, times = [], [], []
    for number in numbers:
        customer, turn = number % traffic.customers, number // traffic.customers
        customers.append(customer)
        categories.append(traffic.category(customer, turn))
        times.append(traffic.now - _SPAN_MS * (1 + (customer * 7 + turn * 3) % 100) // 101)
    events = pa.table(
        {
            "customer": pa.array(customers, pa.int32()),
            "category": pa.array(categories, pa.int32()),
            "time": pa.array(times, pa.int64()),
        }
    )
    del customers, categories, times
    with duckdb.connect() as database:
        database.register("incoming", events)
        database.execute("CREATE TABLE events AS SELECT * FROM incoming")
        # One pass over the events for all segments, which is the kindest way to ask.
        query = f"""
            WITH leaf AS (
                SELECT customer, category FROM events WHERE time >= {traffic.now - _WINDOW_MS}
                GROUP BY customer, category HAVING count(*) >= 1 + category % 3 // 2 * 2
            ), member AS (
                SELECT customer, category // 2 AS segment, count(*) AS leaves FROM leaf GROUP BY customer, segment
            )
            SELECT segment, count(*) FROM member WHERE leaves = 2 OR segment % 2 = 1 GROUP BY segment
        """
        began = time.perf_counter()
        rows = database.execute(query).fetchall()
        taken = time.perf_counter() - began
    return taken, {f"s{segment}": many for segment, many in rows}
