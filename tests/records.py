"""Topics made and read whole, on the tests' Kafka."""

from __future__ import annotations

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.admin import NewTopic

from pipeline.stream.kafka import Kafka

__all__ = ["make_topic", "read_all"]


async def make_topic(kafka: Kafka, name: str, partitions: int, **config: str) -> None:
    """A topic of this test's own; ``config`` as the broker names it, ``.`` and all."""
    admin = kafka.admin()
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=config)])
    finally:
        await admin.close()


async def read_all(kafka: Kafka, topic: str) -> list[ConsumerRecord]:
    """Every record of the topic as of now; in order within each partition."""
    consumer = kafka.consumer(topic)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
        assert partitions, f"{topic} is not there"
        ends = await consumer.end_offsets(partitions)
        found: list[ConsumerRecord] = []
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                found.extend(batch)
        return found
    finally:
        await consumer.stop()
