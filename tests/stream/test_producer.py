"""The producer on a real Kafka: once, in order, bounds, refusals that say what they are, brokers that are away."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiokafka import errors as kafka_errors
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.protocol.produce import ProduceRequest
from eventually import eventually
from frozen import frozen
from hypothesis import given
from hypothesis import strategies as st
from records import make_topic, read_all

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.stream.kafka import Kafka
from pipeline.stream.producer import BufferFull, Producer, Record, RecordRefused, Unavailable
from pipeline.stream.transaction import partition_for

pytestmark = pytest.mark.kafka


@contextlib.asynccontextmanager
async def producing(kafka: Kafka, **settings: Any) -> AsyncIterator[Producer]:
    producer = Producer(kafka, **settings)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


def on_send(producer: Producer, act: Callable[[Any], Any]) -> None:
    """``act`` is called with every Produce request's way: an async function ``send()``."""
    client = producer._client
    assert client is not None
    inner = client.send

    async def send(node: int, request: Any, **kwargs: Any) -> Any:
        if isinstance(request, ProduceRequest):
            return await act(lambda: inner(node, request, **kwargs))
        return await inner(node, request, **kwargs)

    client.send = send


async def test_what_is_acknowledged_lies_there_once_in_order_with_all_its_parts(kafka: Kafka, prefix: str) -> None:
    await make_topic(kafka, prefix, 4)
    sent: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    async with producing(kafka) as producer:
        written = []
        for n in range(1000):
            records = []
            for m in range(3):
                key = b"k%d" % ((3 * n + m) % 50)
                headers = [("ce_id", b"%d" % n), ("text", "é😀".encode())]
                records.append(Record(key, b"v%d-%d" % (n, m), headers, None, 1_700_000_000_000 + n))
                sent[partition_for(key, 4)].append((key, b"v%d-%d" % (n, m), tuple(headers), 1_700_000_000_000 + n))
            written.append(producer.write(prefix, records))
            if n % 97 == 0:
                await written[-1]
        await asyncio.gather(*written)
        assert producer.buffered_bytes == 0
        await producer.write(prefix, [])
    found: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for record in await read_all(kafka, prefix):
        found[record.partition].append((record.key, record.value, record.headers, record.timestamp))
    assert found == sent


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_every_codec_is_read_back(kafka: Kafka, prefix: str, codec: str | None) -> None:
    await make_topic(kafka, prefix, 1)
    values = [b"%d" % n * 1000 for n in range(100)]
    async with producing(kafka, compression_type=codec) as producer:
        await producer.write(prefix, [Record(None, value) for value in values])
    assert [record.value for record in await read_all(kafka, prefix)] == values


async def test_callers_share_requests_and_batches(kafka: Kafka, prefix: str) -> None:
    await make_topic(kafka, prefix, 8)
    requests = 0
    async with producing(kafka) as producer:
        # Each partition once: the broker may not be ready for all of a new topic's at the same time.
        await producer.write(prefix, [Record(None, b"first", partition=p) for p in range(8)])

        async def counted(send: Any) -> Any:
            nonlocal requests
            requests += 1
            return await send()

        on_send(producer, counted)
        await asyncio.gather(*(producer.write(prefix, [Record(b"%d" % n, b"")]) for n in range(500)))
        assert requests <= 2, "a request for all partitions"
    assert len(await read_all(kafka, prefix)) == 508


async def test_more_than_a_megabyte_goes_in_several_batches_in_order(kafka: Kafka, prefix: str) -> None:
    await make_topic(kafka, prefix, 1, **{"max.message.bytes": "1048588", "compression.type": "producer"})
    values = [b"%06d" % n + b"x" * 30_000 for n in range(200)]
    async with producing(kafka, compression_type=None) as producer:
        await producer.write(prefix, [Record(None, value, partition=0) for value in values])
    assert [record.value for record in await read_all(kafka, prefix)] == values


async def test_headers_that_are_larger_than_thought_are_split_off(kafka: Kafka, prefix: str) -> None:
    await make_topic(kafka, prefix, 1)
    async with producing(kafka) as producer:
        await producer.write(prefix, [Record(None, b"%d" % n, [("h", bytes(30_000))]) for n in range(200)])
    assert [record.value for record in await read_all(kafka, prefix)] == [b"%d" % n for n in range(200)]


async def test_what_cannot_be_taken_is_refused_and_costs_nobody_else(kafka: Kafka, prefix: str) -> None:
    await make_topic(kafka, prefix, 1)
    producer = Producer(kafka, buffer_bytes=1_000_000, timeout_ms=1500)
    with pytest.raises(Unavailable):
        producer.write(prefix, [Record(b"k", b"v")])
    await producer.start()
    assert await producer.answers()
    with pytest.raises(RecordRefused, match="at most 1000000"):
        producer.write(prefix, [Record(b"k", bytes(1_000_000))])
    held = [producer.write(prefix, [Record(b"k", bytes(400_000))]) for _ in range(2)]
    with pytest.raises(BufferFull, match="at most 1000000"):
        producer.write(prefix, [Record(b"k", bytes(400_000))])
    await asyncio.gather(*held)
    with pytest.raises(ValueError, match="partitions 0 to 0"):
        producer.write(prefix, [Record(b"k", b"v", partition=1)])
    assert producer.buffered_bytes == 0
    started = time.monotonic()
    with pytest.raises(Unavailable):
        await producer.write(f"{prefix}.not-there", [Record(b"k", b"v")])
    assert time.monotonic() - started < 3
    assert producer.buffered_bytes == 0
    # What was taken before the end is delivered by it.
    last = [producer.write(prefix, [Record(b"k", b"%d" % n)]) for n in range(100)]
    await producer.stop()
    for done in last:
        done.result()
    assert not await producer.answers()
    with pytest.raises(Unavailable):
        producer.write(prefix, [Record(b"k", b"v")])
    assert len(await read_all(kafka, prefix)) == 102


async def test_a_topic_that_comes_later_is_found(kafka: Kafka, prefix: str) -> None:
    async with producing(kafka, timeout_ms=20_000) as producer:
        written = producer.write(prefix, [Record(b"k", b"v"), Record(None, b"placed", (), 3)])
        nowhere = producer.write(prefix, [Record(None, b"nowhere", (), 4)])
        await make_topic(kafka, prefix, 4)
        await written
        with pytest.raises(RecordRefused, match="no partition 4"):
            await nowhere
    found = {record.value: record.partition for record in await read_all(kafka, prefix)}
    assert found == {b"v": partition_for(b"k", 4), b"placed": 3}


async def test_a_record_that_the_broker_refuses_fails_for_its_sender_alone(kafka: Kafka, prefix: str) -> None:
    await make_topic(kafka, prefix, 1, **{"max.message.bytes": "5000"})
    async with producing(kafka, compression_type=None) as producer:
        values = [b"%03d" % n for n in range(300)]
        values[137] += b"x" * 10_000
        results = await asyncio.gather(
            *(producer.write(prefix, [Record(None, value, partition=0)]) for value in values), return_exceptions=True
        )
        assert [n for n, result in enumerate(results) if result is not None] == [137]
        assert isinstance(results[137], RecordRefused)
        # The lane goes on: nothing of the refusal stands in the way of what comes after.
        await producer.write(prefix, [Record(None, b"after", partition=0)])
    expected = [b"%03d" % n for n in range(300) if n != 137] + [b"after"]
    assert [record.value for record in await read_all(kafka, prefix)] == expected


async def test_a_cancelled_waiter_takes_nobody_with_it(kafka: Kafka, prefix: str) -> None:
    await make_topic(kafka, prefix, 1)
    async with producing(kafka, linger_ms=50) as producer:
        first = producer.write(prefix, [Record(None, b"first")])
        second = producer.write(prefix, [Record(None, b"second")])
        first.cancel()
        await second
    assert len(await read_all(kafka, prefix)) == 2


async def test_requests_whose_answers_are_lost_are_written_once_and_in_order(kafka: Kafka, prefix: str) -> None:
    """Sent again byte for byte, with its place in the sequence: the broker knows a batch that it has."""
    await make_topic(kafka, prefix, 3)
    rng = random.Random(20261126)
    async with producing(kafka, timeout_ms=30_000) as producer:

        async def lossy(send: Any) -> Any:
            fate = rng.random()
            if fate < 0.2:
                raise kafka_errors.KafkaConnectionError("cut before")
            found = await send()
            if fate < 0.5:
                raise kafka_errors.RequestTimedOutError("cut after")
            return found

        on_send(producer, lossy)

        async def caller(number: int) -> None:
            for n in range(30):
                await producer.write(prefix, [Record(b"%d" % number, b"%d" % n)])

        await asyncio.gather(*(caller(number) for number in range(12)))
    found = defaultdict(list)
    for record in await read_all(kafka, prefix):
        found[record.key].append(int(record.value))
    assert found == {b"%d" % number: list(range(30)) for number in range(12)}


async def test_what_is_given_up_does_not_hold_up_what_follows(kafka: Kafka, prefix: str) -> None:
    await make_topic(kafka, prefix, 2)
    async with producing(kafka, timeout_ms=600) as producer:
        await producer.write(prefix, [Record(None, b"before", partition=0), Record(None, b"before", partition=1)])

        answered = False

        async def unanswered(send: Any) -> Any:
            found = await send()
            if answered:
                return found
            await asyncio.sleep(0.3)
            raise kafka_errors.RequestTimedOutError("no answer")

        on_send(producer, unanswered)
        with pytest.raises(Unavailable):
            await producer.write(prefix, [Record(None, b"open", partition=0)])
        answered = True
        for n in range(3):
            await producer.write(prefix, [Record(None, b"%d" % n, partition=p) for p in range(2)])
    found = await read_all(kafka, prefix)
    assert [r.value for r in found if r.partition == 1] == [b"before", b"0", b"1", b"2"]
    first = [r.value for r in found if r.partition == 0]
    # Its fate was open, and it was written; never twice.
    assert first == [b"before", b"open", b"0", b"1", b"2"]


async def test_a_sequence_that_the_broker_does_not_know_begins_anew(kafka: Kafka, prefix: str) -> None:
    await make_topic(kafka, prefix, 1)
    async with producing(kafka) as producer:
        await producer.write(prefix, [Record(None, b"before")])
        lane = producer._topics[prefix].lanes[0]
        first = lane.identity
        lane.sequence += 7  # as if the broker had lost what it acknowledged
        await asyncio.gather(*(producer.write(prefix, [Record(None, b"%d" % n)]) for n in range(5)))
        assert lane.identity != first
    assert [r.value for r in await read_all(kafka, prefix)] == [b"before", *(b"%d" % n for n in range(5))]


@pytest.mark.slow
async def test_a_broker_that_is_away_bounds_time_and_memory_and_all_goes_on_when_it_is_back(
    broker_factory: Callable[..., EmbeddedBroker], prefix: str
) -> None:
    broker = broker_factory()
    with broker:
        kafka = Kafka(broker.bootstrap_servers)
        await make_topic(kafka, prefix, 1)
        async with producing(kafka, timeout_ms=30_000) as patient:
            # A broker that has only begun says for a while that it can give no identity yet.
            await patient.write(prefix, [Record(None, b"before")])
        async with producing(kafka, timeout_ms=1500, buffer_bytes=10_000) as producer:
            await producer.write(prefix, [Record(None, b"before")])
            assert await producer.answers()
            with frozen(broker):
                for _ in range(3):
                    started = time.monotonic()
                    late = producer.write(prefix, [Record(None, b"lost or late")])
                    queued = producer.write(prefix, [Record(None, b"x" * 9000)])
                    with pytest.raises(BufferFull, match="at most 10000"):
                        producer.write(prefix, [Record(None, b"x" * 2000)])
                    results = await asyncio.gather(late, queued, return_exceptions=True)
                    assert all(isinstance(result, Unavailable) for result in results), results
                    assert time.monotonic() - started < 2.5
                    assert producer.buffered_bytes == 0
                assert sum(len(batch.records) for batch in producer._topics[prefix].lanes[0].batches) <= 6
                assert not await producer.answers(0.5)

            async def goes_again() -> bool:
                try:
                    await producer.write(prefix, [Record(None, b"after")])
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
