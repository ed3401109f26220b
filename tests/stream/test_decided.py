"""What a lane begins from is decided: it waits while a transaction is open on its changelog or holds its offsets.

A broker that loses the markers of a transaction (KAFKA-20734) leaves it so; here a producer does that still runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from eventually import eventually
from lane_world import lane_world
from records import make_topic

from pipeline.stream.decided import Undecided, committed, decided
from pipeline.stream.kafka import Consumer, Kafka, abandon

pytestmark = pytest.mark.kafka


@asynccontextmanager
async def begun(kafka: Kafka, name: str) -> AsyncIterator[AIOKafkaProducer]:
    """A producer with a transaction open, which the test ends."""
    producer = kafka.producer(transactional_id=name, transaction_timeout_ms=60_000)
    await producer.start()
    try:
        await producer.begin_transaction()
        yield producer
    finally:
        await abandon(producer)


@pytest.fixture
async def consumer(kafka: Kafka, prefix: str) -> AsyncIterator[Consumer]:
    """A member of nothing, which may read the offsets of a group."""
    await make_topic(kafka, prefix, 2)
    made = kafka.consumer(group_id=f"{prefix}-offsets")
    await made.start()
    made.assign([TopicPartition(prefix, 0), TopicPartition(prefix, 1)])
    yield made
    await made.stop()


async def test_offsets_that_a_transaction_holds_are_waited_for(
    kafka: Kafka, prefix: str, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (TopicPartition(prefix, number) for number in range(2))
    assert await committed(consumer, {first, second}) == {first: None, second: None}
    async with begun(kafka, prefix) as producer:
        await producer.send_offsets_to_transaction({first: 5}, f"{prefix}-offsets")
        assert await committed(consumer, {second}) == {second: None}
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.stream.decided._PATIENCE_SECONDS", 0.3)
            with pytest.raises(Undecided, match=rf"holds offsets of {prefix}\[0\]"):
                await committed(consumer, {first, second})
        waiting = asyncio.create_task(committed(consumer, {first, second}))
        await producer.commit_transaction()
        assert await asyncio.wait_for(waiting, 10) == {first: 5, second: None}


async def test_what_a_transaction_has_written_is_waited_for(
    kafka: Kafka, prefix: str, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (TopicPartition(prefix, number) for number in range(2))
    await decided(consumer, {first, second})
    async with begun(kafka, prefix) as producer:
        await producer.send_and_wait(prefix, b"x", partition=0)
        await decided(consumer, {second})
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.stream.decided._PATIENCE_SECONDS", 0.3)
            with pytest.raises(Undecided, match=rf"open on {prefix}\[0\], "):
                await decided(consumer, {first, second})
        waiting = asyncio.create_task(decided(consumer, {first, second}))
        await producer.abort_transaction()
        await asyncio.wait_for(waiting, 10)


@pytest.mark.parametrize("what", ["changelog", "offsets"])
async def test_a_lane_begins_when_what_it_begins_from_is_decided(
    kafka: Kafka,
    prefix: str,
    tmp_path: Path,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Else it would count from a state of before the transaction, and tell of its input twice."""
    monkeypatch.setattr("pipeline.stream.decided._PATIENCE_SECONDS", 0.5)
    async with lane_world(kafka, prefix, tmp_path, lanes=1) as world:
        await world.produce((b"k", b"1"), (b"k", b"1"))
        async with begun(kafka, f"{prefix}-left-open") as producer:
            # What a predecessor wrote of the first record: committed by its coordinator, but for the markers.
            if what == "changelog":
                await producer.send_and_wait(f"{prefix}.log", b"1", key=b"k", partition=0)
            else:
                await producer.send_offsets_to_transaction({TopicPartition(f"{prefix}.in0", 0): 1}, f"{prefix}-offsets")
            app = await world.run()
            await eventually(lambda: "none of ours is under way" in caplog.text, 60, what="the lane waiting")
            assert app.unready()
            assert await world.outputs() == []
            await producer.commit_transaction()
            await world.opened(app)
            counts = [output.value for output in await eventually(world.outputs, 30)]
            assert counts == ([b"2", b"3"] if what == "changelog" else [b"1"])
