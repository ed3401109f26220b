"""Waiting for one delivery: a test event's entry on `deliveries`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiokafka import TopicPartition

from pipeline.models.delivery import Delivery
from pipeline.stream.kafka import Kafka, disconnect
from pipeline.stream.reader import open_reader

__all__ = ["watch_delivery"]

_TAKE_SECONDS = 0.5
_TAKE_RECORDS = 1000


@asynccontextmanager
async def watch_delivery(
    kafka: Kafka, lane: int, name: str
) -> AsyncIterator[Callable[[float], Awaitable[Delivery | None]]]:
    """From when this is entered, the attempts of the dispatch record ``name`` in ``lane`` are seen.

    The function that it gives waits for the first one, so many seconds; None: there was none. Raises KafkaError.
    """
    reader = open_reader(kafka, fetch_max_wait_ms=100)
    await reader.start()
    tp = TopicPartition("deliveries", lane)
    try:
        await reader.existing([tp])
        reader.read_from(await reader.end_offsets([tp]))

        async def first(seconds: float) -> Delivery | None:
            wanted = name.encode()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while True:
                        for batch in await reader.take(_TAKE_SECONDS, _TAKE_RECORDS):
                            for record in batch.records:
                                # Most are not it: they need not be decoded.
                                if record.value and wanted in record.value:
                                    found = Delivery.model_validate_json(record.value)
                                    if found.id == name:
                                        return found
            return None

        yield first
    finally:
        await disconnect(reader)
