"""The session's shared broker is a real one, with the settings that the product leans on."""

from __future__ import annotations

import pytest
from aiokafka.admin import NewTopic
from aiokafka.errors import KafkaError

from pipeline.stream.kafka import Kafka


@pytest.mark.kafka
async def test_a_transaction_is_read_back(kafka: Kafka, prefix: str) -> None:
    admin = kafka.admin()
    await admin.start()
    try:
        await admin.create_topics([NewTopic(prefix, 8, 1)])
    finally:
        await admin.close()
    async with kafka.producer(transactional_id=prefix) as producer:
        async with producer.transaction():
            await producer.send(prefix, b"kept", partition=3)
        await producer.begin_transaction()
        await producer.send(prefix, b"dropped", partition=3)
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send(prefix, b"kept too", partition=3)
    async with kafka.consumer(prefix) as consumer:
        assert [(await consumer.getone()).value for _ in range(2)] == [b"kept", b"kept too"]


@pytest.mark.kafka
async def test_a_misspelt_topic_does_not_appear(kafka: Kafka, prefix: str) -> None:
    async with kafka.producer(request_timeout_ms=2000) as producer:
        with pytest.raises(KafkaError):
            await producer.send_and_wait(f"{prefix}-misspelt", b"x")
    async with kafka.consumer() as consumer:
        assert f"{prefix}-misspelt" not in await consumer.topics()
