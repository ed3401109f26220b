"""The engine benchmark's input: events that a number alone determines, so every output can be judged."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiokafka import ConsumerRecord, TopicPartition

from pipeline.stream.kafka import Kafka
from pipeline.stream.transaction import partition_for

__all__ = ["CHANNELS", "PARTITIONS", "Judge", "Traffic", "WrongOutput", "fill", "verify"]

PARTITIONS = 4
#: What an event's source is looked up in.
CHANNELS = {
    "tracker-eu": "Web",
    "tracker-us": "Web",
    "app-ios": "Mobile",
    "app-android": "Mobile",
    "crm": "CRM",
    "call-centre": "Call Center",
    "links": "E-mail",
    "chat": "Messenger",
}
_SOURCES = tuple(CHANNELS)
_WORDS = b"""
linen jacket shirt hat scarf wool cotton summer winter blue green black white size medium large small new sale basket
order return delivery address payment card voucher gift wish list search filter sort page view click
""".split()
_PADS = 512
_BATCH_BYTES = 250_000
#: Batches on their way to the broker while more are made.
_IN_FLIGHT = 32


class WrongOutput(Exception):
    """A contender wrote what the job does not ask for; its figure would mean nothing."""


@dataclass
class Traffic:
    """``events`` numbered events of about 500 bytes by ``users`` customers, keyed by customer, over four partitions.

    ``order``: the numbers that each partition of the input topic holds, in its order; filled by `fill`.
    """

    events: int
    users: int
    order: list[array[int]] = field(default_factory=lambda: [array("I") for _ in range(PARTITIONS)])

    def __post_init__(self) -> None:
        chosen = random.Random(7)
        self._pads = [b" ".join(chosen.choices(_WORDS, k=30))[:160] for _ in range(_PADS)]

    def who(self, number: int) -> tuple[int, str]:
        """Customer and source of an event: uniform, so no cache helps, and without a generator's state."""
        mixed = (number * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        return (mixed >> 24) % self.users, _SOURCES[(mixed >> 13) & 7]

    def event(self, number: int) -> tuple[bytes, bytes]:
        """Key and value of an event."""
        user, source = self.who(number)
        key = b"user-%d" % user
        value = (
            b'{"messageId":"%012d","userId":"%s","source":"%s","type":"track","event":"Product Viewed",'
            b'"properties":{"product":"P%05d","category":"Jacket","price":%d.5,"currency":"EUR","position":%d},'
            b'"context":{"page":{"url":"https://shop.example/jackets/%d?page=2","title":"Jackets"},'
            b'"locale":"en-GB","timezone":"Europe/Berlin"},"pad":"%s"}'
        ) % (
            number,
            key,
            source.encode(),
            number % 30_011,
            number % 199,
            number % 24,
            number % 30_011,
            self._pads[number % _PADS],
        )
        return key, value


async def fill(kafka: Kafka, topic: str, traffic: Traffic) -> None:
    """Write all of ``traffic`` to ``topic``, each event to the partition of its key."""
    producer = kafka.producer(max_batch_size=_BATCH_BYTES)
    await producer.start()
    try:
        builders = [producer.create_batch() for _ in range(PARTITIONS)]
        acks: set[asyncio.Future[Any]] = set()
        for number in range(traffic.events):
            key, value = traffic.event(number)
            partition = partition_for(key, PARTITIONS)
            traffic.order[partition].append(number)
            if builders[partition].append(timestamp=None, key=key, value=value) is None:
                acks.add(await producer.send_batch(builders[partition], topic, partition=partition))
                builders[partition] = producer.create_batch()
                builders[partition].append(timestamp=None, key=key, value=value)
                if len(acks) > _IN_FLIGHT:
                    done, acks = await asyncio.wait(acks, return_when=asyncio.FIRST_COMPLETED)
                    for ack in done:
                        ack.result()
        for partition, builder in enumerate(builders):
            if builder.record_count():
                acks.add(await producer.send_batch(builder, topic, partition=partition))
        await asyncio.gather(*acks)
    finally:
        await producer.stop()


class Judge:
    """Goes through an output topic and compares it with what the input asks for."""

    def __init__(self, traffic: Traffic, stateful: bool) -> None:
        self.traffic = traffic
        self.stateful = stateful
        self.seen = bytearray(traffic.events)
        self.home = bytearray(traffic.events)
        for partition, order in enumerate(traffic.order):
            for number in order:
                self.home[number] = partition
        self.taken = [0] * PARTITIONS
        self.counts: defaultdict[tuple[int, str], int] = defaultdict(int)

    def take(self, partition: int, records: Iterable[ConsumerRecord]) -> None:
        """Judge records of one partition, in its order. Raises `WrongOutput`."""
        loads, who, seen, counts = orjson.loads, self.traffic.who, self.seen, self.counts
        for record in records:
            event = loads(record.value)
            number = int(event["messageId"])
            user, source = who(number)
            channel = CHANNELS[source]
            if seen[number]:
                raise WrongOutput(f"event {number} is in the output twice")
            seen[number] = 1
            if event["channel"] != channel or record.key != b"user-%d" % user or self.home[number] != partition:
                raise WrongOutput(f"event {number}: {record.key!r}, {event['channel']}, partition {partition}")
            if self.stateful:
                counts[user, channel] += 1
                if event["count"] != counts[user, channel]:
                    expected = counts[user, channel]
                    raise WrongOutput(f"event {number} of {user}, {channel}: {event['count']}, not {expected}")
            self.taken[partition] += 1

    def end(self) -> int:
        """How many records there were. Raises `WrongOutput` where one is missing before another of its partition."""
        for order, taken in zip(self.traffic.order, self.taken, strict=True):
            missing = [number for number in order[:taken] if not self.seen[number]]
            if missing:
                raise WrongOutput(f"{len(missing)} events are missing, first {missing[0]}")
        return sum(self.taken)


async def verify(kafka: Kafka, topic: str, traffic: Traffic, *, stateful: bool) -> int:
    """Read all of an output topic, committed records alone; returns how many.

    Raises `WrongOutput`: an event twice, one left out, in a wrong partition, or with a wrong channel or count.
    """
    judge = Judge(traffic, stateful)
    consumer = kafka.consumer(max_poll_records=5000, max_partition_fetch_bytes=4 << 20)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, n) for n in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for tp, records in (await consumer.getmany(timeout_ms=200, max_records=5000)).items():
                judge.take(tp.partition, records)
    finally:
        await consumer.stop()
    return judge.end()
