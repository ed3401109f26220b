"""The delivery log: every attempt is written to `deliveries` before its record counts as done.

In group commits (`stream.producer`): what is written while a request is on its way leaves in the next one. A future and
a wake-up for each record, as aiokafka's own producer has them, took a sixth of a delivery's processor time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import orjson

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.stream.kafka import Kafka, disconnect
from pipeline.stream.producer import BufferFull, Producer, Record

if TYPE_CHECKING:
    from pipeline.sinks.asking import Attempt

__all__ = ["TOPIC", "DeliveryLog", "entry"]

TOPIC = "deliveries"
#: As long as aiokafka's producers wait for a broker that is away, before the process ends and is started anew.
_TIMEOUT_MS = 40_000
_FULL_SECONDS = 0.05
_CUSTOMER_CHARACTERS = 2_000
_TEXT_CHARACTERS = 2_000


class DeliveryLog:
    """Writes entries, in order per lane. Use from one event loop."""

    def __init__(self, kafka: Kafka) -> None:
        self._producer = Producer(kafka, timeout_ms=_TIMEOUT_MS, compression_type="zstd")

    async def start(self) -> None:
        """Connect. Raises KafkaError."""
        await self._producer.start()

    async def stop(self) -> None:
        """Disconnect; what no broker has acknowledged within seconds is given up."""
        await disconnect(self._producer)

    async def write(self, dispatch: Dispatch, attempt: Attempt, lane: int, started: Millis, duration_ms: int) -> None:
        """Write an attempt down; returns once Kafka has acknowledged it. Raises ProduceError."""
        customer = str(dispatch.customer.get("id", ""))[:_CUSTOMER_CHARACTERS]
        record = Record(
            customer.encode() or None, entry(dispatch, attempt, customer, started, duration_ms), partition=lane
        )
        while True:
            try:
                written = self._producer.write(TOPIC, [record])
                break
            except BufferFull:
                await asyncio.sleep(_FULL_SECONDS)
        await written


def entry(dispatch: Dispatch, attempt: Attempt, customer: str, started: Millis, duration_ms: int) -> bytes:
    """A value of `models.delivery.Delivery`, to the byte as its ``to_json`` gives it, at a tenth of the price: nothing
    here comes unchecked from outside but texts, and those are cut."""
    request, answer, result = attempt
    return orjson.dumps(
        {
            "id": dispatch.id,
            "partner": dispatch.partner,
            "integration": dispatch.integration,
            "rule": dispatch.rule,
            "customer": customer,
            "name": dispatch.name,
            "attempt": dispatch.attempt + 1,
            "outcome": result.outcome,
            "status": answer.status if answer is not None else None,
            "detail": result.detail[:_TEXT_CHARACTERS],
            "request": request.shown() if request is not None else {},
            "answer": answer.body.decode(errors="replace")[:_TEXT_CHARACTERS] if answer is not None else "",
            "started": started,
            "duration_ms": duration_ms,
            "test": dispatch.test,
        }
    )
