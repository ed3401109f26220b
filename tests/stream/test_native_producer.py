"""Producing through librdkafka on a real Kafka: once, in order, and refusals that say what they are."""

from __future__ import annotations

import asyncio

import pytest
from records import make_topic, read_all

from pipeline.stream.batch import BufferFull, Record, RecordRefused, Unavailable
from pipeline.stream.kafka import Kafka
from pipeline.stream.native import NativeProducer
from pipeline.stream.transaction import partition_for

pytestmark = pytest.mark.kafka


async def test_what_is_acknowledged_lies_there_once_in_order_and_where_javas_clients_put_it(
    kafka: Kafka, prefix: str
) -> None:
    topic = f"{prefix}.native"
    await make_topic(kafka, topic, 4)
    producer = NativeProducer(kafka)
    await producer.start()

    async def caller(number: int) -> None:
        for n in range(50):
            records = [Record(b"key-%d" % number, b"%d-%d-%d" % (number, n, m), [("h", b"\xff")]) for m in range(3)]
            if n % 2:
                await producer.write(topic, records)
            else:
                for delivery in await producer.send_many(topic, records):
                    await delivery

    await asyncio.gather(*(caller(number) for number in range(20)))
    assert producer.buffered_bytes == 0
    await producer.write(topic, [])
    await producer.write(topic, [Record(None, b"placed", (), 3, 1_790_000_000_000)])
    # What was taken before the end is delivered by it.
    last = producer.write(topic, [Record(b"last", b"last")])
    await producer.stop()
    assert last.done()
    last.result()
    found = await read_all(kafka, topic)
    assert len(found) == 3002
    for number in range(20):
        own = [record for record in found if record.key == b"key-%d" % number]
        assert [record.value for record in own] == [b"%d-%d-%d" % (number, n, m) for n in range(50) for m in range(3)]
        assert {record.partition for record in own} == {partition_for(b"key-%d" % number, 4)}
        assert own[0].headers == (("h", b"\xff"),)
    assert [record.partition for record in found if record.value == b"placed"] == [3]


async def test_what_cannot_be_taken_is_refused_and_costs_nobody_else(kafka: Kafka, prefix: str) -> None:
    topic = f"{prefix}.native"
    await make_topic(kafka, topic, 1)
    producer = NativeProducer(kafka, buffer_bytes=1_000_000, timeout_ms=3000)
    with pytest.raises(Unavailable):
        producer.write(topic, [Record(b"k", b"v")])
    await producer.start()
    assert await producer.answers()
    with pytest.raises(RecordRefused, match="1000000"):
        producer.write(topic, [Record(b"k", bytes(1_000_000))])
    held = [producer.write(topic, [Record(b"k", bytes(400_000))]) for _ in range(2)]
    with pytest.raises(BufferFull):
        producer.write(topic, [Record(b"k", bytes(400_000))])
    await asyncio.gather(*held)
    await producer.write(topic, [Record(b"k", bytes(400_000))])
    with pytest.raises(Unavailable):
        await producer.write(f"{prefix}.not-there", [Record(b"k", b"v")])
    await producer.write(topic, [Record(b"k", b"after")])
    await producer.stop()
    assert not await producer.answers()
    with pytest.raises(Unavailable):
        producer.write(topic, [Record(b"k", b"v")])
    assert len(await read_all(kafka, topic)) == 4
