"""What the outlets of a process share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aiokafka import AIOKafkaProducer

from pipeline.settings import Settings
from pipeline.sinks.delivery_log import DeliveryLog
from pipeline.sinks.parked import Parked
from pipeline.sinks.reader import Reader
from pipeline.sinks.state import SinkBoard
from pipeline.sinks.transports import Transports
from pipeline.stream.kafka import Kafka, know

__all__ = ["SecretSource", "Wires"]


class SecretSource(Protocol):
    """As `pipeline.control.secrets.Secrets`."""

    def get(self, name: str) -> str:
        """The secret's value. Raises SecretError."""
        ...


@dataclass(frozen=True)
class Wires:
    """What the outlets of a process share. ``fail``: tell the engine of an error that ends it."""

    kafka: Kafka
    reader: Reader
    producer: AIOKafkaProducer
    transports: Transports
    secrets: SecretSource
    settings: Settings
    fail: Callable[[Exception], None]
    board: SinkBoard
    deliveries: DeliveryLog
    parked: Parked

    async def submit(
        self, topic: str, partition: int, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> Awaitable[Any]:
        """Hand a record to the producer; await the result for Kafka's acknowledgement."""
        await know(self.producer, topic)
        sent: Awaitable[Any] = await self.producer.send(topic, value, key, partition, headers=list(headers))
        return sent

    async def produce(self, topic: str, partition: int, key: bytes | None, value: bytes) -> None:
        """Write a record; returns once Kafka has acknowledged it."""
        await (await self.submit(topic, partition, key, value))
