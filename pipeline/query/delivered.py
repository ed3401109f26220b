"""Attempts of one record on `deliveries`: the first that comes, as of a test event, and all that were."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiokafka import TopicPartition

from pipeline.models.base import Millis
from pipeline.models.delivery import Delivery
from pipeline.stream.kafka import Kafka, disconnect
from pipeline.stream.reader import open_reader

__all__ = ["attempts", "watch_delivery"]

_TAKE_SECONDS = 0.5
_TAKE_RECORDS = 1000
#: Records that a look back at one record's attempts reads.
_LOOK_RECORDS = 200_000


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


async def attempts(kafka: Kafka, lane: int, name: str, since: Millis) -> list[Delivery]:
    """All attempts of the dispatch record ``name`` that came to ``lane`` since then (ms). Raises KafkaError."""
    reader = open_reader(kafka, fetch_max_wait_ms=100)
    await reader.start()
    tp, wanted, found, read = TopicPartition("deliveries", lane), name.encode(), [], 0
    try:
        await reader.existing([tp])
        end = (await reader.end_offsets([tp]))[tp]
        begin = (await reader.offsets_for_times({tp: max(0, since)}))[tp]
        reader.read_from({tp: end if begin is None else begin.offset})
        while reader.positions()[tp] < end and read < _LOOK_RECORDS:
            for batch in await reader.take(_TAKE_SECONDS, _TAKE_RECORDS):
                read += len(batch.records)
                told = (record.value for record in batch.records if record.value and wanted in record.value)
                found += [each for each in map(Delivery.model_validate_json, told) if each.id == name]
    finally:
        await disconnect(reader)
    return found
