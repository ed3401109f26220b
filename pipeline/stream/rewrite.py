"""Writing records again, each once: the records and the markers that say so in one transaction.

Of one transactional id there is one writer: a newer one fences an older, and what that had begun is aborted. Whoever
fences first and reads the markers then, to the high watermark, knows all that was ever written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerFenced
from aiokafka.producer.message_accumulator import BatchBuilder

from pipeline.stream.dead_letters import Header, Place
from pipeline.stream.kafka import Kafka, disconnect, know
from pipeline.stream.refusals import NEVER_TAKEN

__all__ = ["Refused", "Rewriter", "Row"]

#: Of a batch; a larger record goes in one of its own, and the broker judges it compressed.
_BATCH_BYTES = 900_000
#: Readers of the topics wait behind an open transaction, so one that a crash leaves open must end soon.
_TRANSACTION_TIMEOUT_MS = 30_000
_SEND_SECONDS = 25.0
_START_SECONDS = 30.0


class Refused(Exception):
    """The broker will not take a record of the transaction; nothing of it was done, and the producer is spent."""


class Row(NamedTuple):
    """A record to write."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[Header]


class Rewriter:
    """The transactional producer. ``what``: for sentences, such as `redrive of fanout`; ``failure``: what is raised
    when it can't go on.
    """

    def __init__(self, kafka: Kafka, transactional_id: str, what: str, failure: type[Exception]) -> None:
        self._kafka = kafka
        self._id = transactional_id
        self._what = what
        self._failure = failure
        self._producer: AIOKafkaProducer | None = None
        self._known: set[str] = set()

    async def fence(self) -> None:
        """From here on nobody else writes under this id."""
        await self.close()
        self._known = set()
        self._producer = self._kafka.producer(
            transactional_id=self._id,
            transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS,
            max_batch_size=_BATCH_BYTES,
            linger_ms=0,
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._producer.start()
        except TimeoutError:
            raise self._failure(f"Kafka gave no producer id within {_START_SECONDS:g} s; nothing was done") from None

    async def close(self) -> None:
        """Disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await disconnect(producer, 10)

    async def send(self, rows: Sequence[Row], markers: Callable[[list[Place]], Iterable[Row]]) -> list[Place]:
        """One transaction: ``rows``, and the markers made of where they are now, which it returns.

        Raises `Refused`, and the failure of this writer.
        """
        producer = self._producer
        assert producer is not None
        committing = False
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await producer.begin_transaction()
                offsets = await self._write(producer, rows)
                places = [Place(row.topic, row.partition, at) for row, at in zip(rows, offsets, strict=True)]
                await self._write(producer, markers(places))
                committing = True
                await producer.commit_transaction()
        except BaseException as error:
            # So that readers need not wait for the transaction's timeout, which ends it where this can't.
            with suppress(Exception):
                await asyncio.wait_for(producer.abort_transaction(), 5)
            if isinstance(error, ProducerFenced):
                raise self._failure(
                    f"another {self._what} has begun, and stopped this one; what was told is done"
                ) from None
            if isinstance(error, NEVER_TAKEN):
                raise Refused(f"the broker refuses the record: {type(error).__name__}") from None
            if isinstance(error, KafkaError | TimeoutError):
                last = "whether the last ones were written is not known" if committing else "the last were not written"
                raise self._failure(f"{error!r}: {last}; run it again, nothing is written twice") from error
            raise
        return places

    async def _write(self, producer: AIOKafkaProducer, rows: Iterable[Row]) -> list[int]:
        """Send; the offsets that the rows got, when all are acknowledged."""
        now = int(time.time() * 1000)
        batches: dict[tuple[str, int], list[BatchBuilder]] = {}
        spots: list[tuple[BatchBuilder, int]] = []
        for row in rows:
            builders = batches.setdefault((row.topic, row.partition), [producer.create_batch()])
            if builders[-1].append(timestamp=now, key=row.key, value=row.value, headers=row.headers) is None:
                builders.append(producer.create_batch())
                # The first record of a batch is taken whatever its size.
                builders[-1].append(timestamp=now, key=row.key, value=row.value, headers=row.headers)
            spots.append((builders[-1], builders[-1].record_count() - 1))
        acknowledged = {}
        for (topic, partition), builders in batches.items():
            if topic not in self._known:
                await know(producer, topic)
                self._known.add(topic)
            for builder in builders:
                builder.close()
                acknowledged[builder] = await producer.send_batch(builder, topic, partition=partition)
        await asyncio.gather(*acknowledged.values())
        return [acknowledged[builder].result().offset + index for builder, index in spots]
