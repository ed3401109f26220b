"""Dead letters as a lane parks them, on the tests' Kafka."""

from __future__ import annotations

from collections.abc import Iterable

from aiokafka import ConsumerRecord
from records import make_topic

from pipeline.stream.dead_letters import Place, letter
from pipeline.stream.kafka import Kafka

__all__ = ["failing_role", "park", "produce"]

Pair = tuple[bytes | None, bytes | None]


async def failing_role(kafka: Kafka, role: str, partitions: int = 2) -> str:
    """Topics of a role that fails: ``<role>.in`` and its dead letters. The former's name."""
    for topic in (f"{role}.in", f"dead.{role}"):
        await make_topic(kafka, topic, partitions, **{"message.timestamp.type": "LogAppendTime"})
    return f"{role}.in"


async def produce(
    kafka: Kafka,
    topic: str,
    pairs: Iterable[Pair],
    partition: int = 0,
    headers: Iterable[tuple[str, bytes]] = (),
) -> None:
    """Keys and values to one partition."""
    producer = kafka.producer()
    await producer.start()
    try:
        for key, value in pairs:
            await producer.send_and_wait(topic, value, key=key, partition=partition, headers=list(headers))
    finally:
        await producer.stop()


async def park(kafka: Kafka, role: str, records: Iterable[ConsumerRecord], cause: BaseException) -> list[Place]:
    """A letter for each record, all in one transaction; where the letters lie."""
    producer = kafka.producer(transactional_id=f"{role}-parks")
    await producer.start()
    try:
        async with producer.transaction():
            acks = [
                await producer.send(
                    f"dead.{role}",
                    letter(role, record.partition, record.topic, record.partition, record, cause),
                    partition=record.partition,
                )
                for record in records
            ]
        found = [await ack for ack in acks]
        return [Place(metadata.topic, metadata.partition, metadata.offset) for metadata in found]
    finally:
        await producer.stop()
