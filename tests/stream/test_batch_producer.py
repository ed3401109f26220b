"""BatchProducer on a real Kafka: acknowledgements, order, partitions, limits, refusals, a broker that is away."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest
from aiokafka.partitioner import DefaultPartitioner
from eventually import eventually
from hypothesis import given
from hypothesis import strategies as st
from records import make_topic, read_all

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.stream.batch import BatchProducer, BufferFull, Record, RecordRefused, Unavailable
from pipeline.stream.kafka import Kafka
from pipeline.stream.transaction import partition_for

pytestmark = pytest.mark.kafka


@contextlib.asynccontextmanager
async def producing(kafka: Kafka, **settings: Any) -> AsyncIterator[BatchProducer]:
    producer = BatchProducer(kafka, **settings)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def test_what_is_acknowledged_is_there_in_order_with_key_value_headers_and_time(
    kafka: Kafka, prefix: str
) -> None:
    await make_topic(kafka, prefix, 4)
    sent: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    async with producing(kafka) as producer:
        deliveries = []
        for n in range(3000):
            key = b"k%d" % (n % 50)
            headers = [("ce_id", b"%d" % n), ("text", "é😀".encode())]
            deliveries.append(await producer.send(prefix, None, key, b"v%d" % n, headers, 1_700_000_000_000 + n))
            sent[partition_for(key, 4)].append((key, b"v%d" % n, tuple(headers), 1_700_000_000_000 + n))
        for delivery in deliveries:
            await delivery
        assert producer.buffered_bytes == 0
        found: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
        for record in await read_all(kafka, prefix):
            found[record.partition].append((record.key, record.value, record.headers, record.timestamp))
    assert found == sent


async def test_concurrent_callers_share_batches(kafka: Kafka, prefix: str) -> None:
    await make_topic(kafka, prefix, 1)
    async with producing(kafka, linger_ms=20) as producer:

        async def call(n: int) -> None:
            await (await producer.send(prefix, 0, None, b"%d" % n))

        await asyncio.gather(*(call(n) for n in range(500)))
        built = 0
        inner = producer._producer
        assert inner is not None
        create = inner.create_batch

        def counted() -> Any:
            nonlocal built
            built += 1
            return create()

        inner.create_batch = counted
        await asyncio.gather(*(call(n) for n in range(500)))
    assert built <= 3
    assert len(await read_all(kafka, prefix)) == 1000


async def test_more_than_a_megabyte_goes_in_several_batches_in_order(kafka: Kafka, prefix: str) -> None:
    await make_topic(kafka, prefix, 1, **{"max.message.bytes": "1048588", "compression.type": "producer"})
    values = [b"%06d" % n + b"x" * 30_000 for n in range(200)]
    async with producing(kafka, compression_type=None) as producer:
        for delivery in await producer.send_many(prefix, [Record(None, v, partition=0) for v in values]):
            await delivery
    assert [record.value for record in await read_all(kafka, prefix)] == values


async def test_a_record_that_is_too_large_is_refused_before_it_meets_others(kafka: Kafka, prefix: str) -> None:
    await make_topic(kafka, prefix, 1)
    async with producing(kafka) as producer:
        with pytest.raises(RecordRefused, match="at most 1000000"):
            await producer.send(prefix, 0, b"k", b"x" * 1_000_001)
        assert producer.buffered_bytes == 0
        with pytest.raises(ValueError, match="partitions 0 to 0"):
            await producer.send(prefix, 1, b"k", b"v")
        assert producer.buffered_bytes == 0


async def test_a_record_that_the_broker_refuses_fails_for_its_sender_alone(kafka: Kafka, prefix: str) -> None:
    await make_topic(kafka, prefix, 1, **{"max.message.bytes": "5000"})
    async with producing(kafka, compression_type=None) as producer:
        records = [Record(None, b"%03d" % n, partition=0) for n in range(300)]
        records[137] = Record(None, b"137" + b"x" * 10_000, partition=0)
        results = []
        for delivery in await producer.send_many(prefix, records):
            try:
                await delivery
                results.append(True)
            except RecordRefused:
                results.append(False)
        assert [n for n, ok in enumerate(results) if not ok] == [137]
        # The lane goes on: nothing of the refusal stands in the way of what comes after.
        await (await producer.send(prefix, 0, None, b"after"))
    expected = [b"%03d" % n for n in range(300) if n != 137] + [b"after"]
    assert [record.value for record in await read_all(kafka, prefix)] == expected


async def test_a_cancelled_waiter_takes_nobody_with_it(kafka: Kafka, prefix: str) -> None:
    await make_topic(kafka, prefix, 1)
    async with producing(kafka, linger_ms=100) as producer:
        first = await producer.send(prefix, 0, None, b"first")
        second = await producer.send(prefix, 0, None, b"second")

        async def wait(delivery: Any) -> None:
            await delivery

        task = asyncio.create_task(wait(first))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await second
    assert len(await read_all(kafka, prefix)) == 2


async def test_an_unknown_topic_is_unavailable_in_bounded_time(kafka: Kafka, prefix: str) -> None:
    async with producing(kafka, timeout_ms=500) as producer:
        started = time.monotonic()
        with pytest.raises(Unavailable, match=prefix):
            await producer.send(prefix, None, b"k", b"v")
        assert time.monotonic() - started < 3
        assert producer.buffered_bytes == 0


async def test_stopping_delivers_what_was_taken(kafka: Kafka, prefix: str) -> None:
    await make_topic(kafka, prefix, 2)
    producer = BatchProducer(kafka, linger_ms=50)
    await producer.start()
    deliveries = [await producer.send(prefix, n % 2, None, b"%d" % n) for n in range(100)]
    await producer.stop()
    for delivery in deliveries:
        await delivery
    with pytest.raises(Unavailable):
        await producer.send(prefix, 0, None, b"late")
    assert len(await read_all(kafka, prefix)) == 100


async def test_a_broker_that_is_away_bounds_time_and_memory_and_all_goes_on_when_it_is_back(
    broker_factory: Callable[..., EmbeddedBroker], prefix: str
) -> None:
    broker = broker_factory()
    with broker:
        kafka = Kafka(broker.bootstrap_servers)
        await make_topic(kafka, prefix, 1)
        async with producing(kafka, timeout_ms=1500, buffer_bytes=10_000, block_ms=100) as producer:
            await (await producer.send(prefix, 0, None, b"before"))
            assert await producer.answers()
            assert broker._process is not None
            family = [psutil.Process(broker._process.pid), *psutil.Process(broker._process.pid).children(True)]
            for process in family:
                process.suspend()
            try:
                started = time.monotonic()
                delivery = await producer.send(prefix, 0, None, b"lost or late")
                queued = await producer.send(prefix, 0, None, b"x" * 9000)
                with pytest.raises(BufferFull, match="at most 10000"):
                    await producer.send(prefix, 0, None, b"x" * 2000)
                with pytest.raises(Unavailable):
                    await delivery
                with pytest.raises(Unavailable):
                    await queued
                assert time.monotonic() - started < 6
                assert producer.buffered_bytes == 0
                assert not await producer.answers(0.5)
            finally:
                for process in family:
                    process.resume()

            async def goes_again() -> bool:
                try:
                    await (await producer.send(prefix, 0, None, b"after"))
                except Unavailable:
                    return False
                return True

            await eventually(goes_again, 30)
            assert await producer.answers()
        values = [record.value for record in await read_all(kafka, prefix)]
        assert values[0] == b"before"
        assert values[-1] == b"after"


@given(st.binary(max_size=200), st.integers(1, 512))
def test_keys_go_where_kafkas_own_partitioner_puts_them(key: bytes, count: int) -> None:
    everything = list(range(count))
    assert partition_for(key, count) == DefaultPartitioner()(key, everything, everything)


def test_keys_go_where_the_java_client_puts_them() -> None:
    # Murmur2 values of Apache Kafka's own UtilsTest.testMurmur2.
    for key, hashed in {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}.items():
        assert partition_for(key, 1 << 20) == (hashed & 0x7FFFFFFF) % (1 << 20)
