"""Batched producing: many callers share one record batch per partition; each hears of its own records.

A third of the cost a record of ``AIOKafkaProducer.send`` (engine.md). Knows nothing of what it carries.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Generator, Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from pipeline.stream.kafka import Kafka, disconnect, know
from pipeline.stream.transaction import partition_for

__all__ = ["BatchProducer", "BufferFull", "Delivery", "ProduceError", "Record", "RecordRefused", "Unavailable"]

#: Uncompressed bytes of a batch, and so of a record; below every broker's usual ``max.message.bytes``.
MAX_BATCH_BYTES = 1_000_000
#: A topic's partition count is looked up again after so many seconds.
_COUNT_SECONDS = 5.0
#: Splits of one batch that the broker refused; enough to find two bad records among a thousand.
_MAX_SPLITS = 24
#: What the broker will never take, however often it is sent.
_REFUSALS = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
    kafka_errors.InvalidTimestampError,
    kafka_errors.PolicyViolationError,
)

_log = logging.getLogger(__name__)


class ProduceError(Exception):
    """A record was not (or not known to be) written."""


class BufferFull(ProduceError):
    """More bytes wait for the broker than the producer may hold; nothing of this call was taken."""


class Unavailable(ProduceError):
    """No acknowledgement in time. The record may have been written or may be yet: send it again, same id."""


class RecordRefused(ProduceError):
    """The broker will never take this record (too large, a timestamp out of range); do not send it again."""


class Record(NamedTuple):
    """One record. ``partition`` None: by the key as Kafka's Java clients do, any when there is no key."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int | None = None
    timestamp_ms: int | None = None


class _Batch:
    """Records of one partition that are sent together, and what became of each."""

    __slots__ = ("done", "errors", "records", "size")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.records: list[Record] = []
        self.size = 0
        self.done: asyncio.Future[None] = loop.create_future()
        self.errors: dict[int, ProduceError] = {}

    def resolve(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Delivery:
    """The fate of one record: ``await`` it for the broker's acknowledgement.

    Raises `Unavailable` or `RecordRefused`. A cancelled waiter cancels nothing for others.
    """

    __slots__ = ("_batch", "_index")

    def __init__(self, batch: _Batch, index: int) -> None:
        self._batch = batch
        self._index = index

    def __await__(self) -> Generator[object, None, None]:
        batch = self._batch
        if not batch.done.done():
            yield from asyncio.shield(batch.done).__await__()
        if batch.errors and (error := batch.errors.get(self._index)) is not None:
            raise type(error)(*error.args)  # a copy: awaiting one instance twice would pile up tracebacks


class _Lane:
    """One partition: batches in order, one at a time on its way."""

    __slots__ = ("batches", "task", "tp")

    def __init__(self, tp: tuple[str, int]) -> None:
        self.tp = tp
        self.batches: deque[_Batch] = deque()
        self.task: asyncio.Task[None] | None = None


class BatchProducer:
    """Records in, acknowledgements out; order holds per partition; memory is bounded.

    ``linger_ms``: how long the first record of an idle partition waits for company; 0 is best as a rule, since
    records gather by themselves while a batch is in flight. ``timeout_ms``: the broker's time to acknowledge
    a batch. ``buffer_bytes``: what may wait in all. ``block_ms``: how long a
    call waits for room. ``settings`` go to the aiokafka producer (``compression_type``, …).

    Not idempotent in Kafka's sense, on purpose: aiokafka never gives up on a batch of an idempotent
    producer, so callers and memory would hang for as long as Kafka is away, and a batch that is refused
    leaves a hole in the sequence that fails all after it. One batch a partition is in flight, so order
    holds through retries; the price is a record twice after a lost acknowledgement, which consumers drop
    by its id.
    """

    def __init__(
        self,
        kafka: Kafka,
        *,
        linger_ms: float = 0.0,
        timeout_ms: int = 10_000,
        buffer_bytes: int = 64 << 20,
        block_ms: float = 500.0,
        **settings: object,
    ) -> None:
        self._kafka = kafka
        self._linger = linger_ms / 1000
        self._timeout = timeout_ms / 1000
        self._limit = buffer_bytes
        self._block = block_ms / 1000
        self._settings = {
            "enable_idempotence": False,
            "request_timeout_ms": timeout_ms,
            "max_batch_size": 2 * MAX_BATCH_BYTES,
            "max_request_size": 2 * MAX_BATCH_BYTES,
        } | settings
        self._producer: AIOKafkaProducer | None = None
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._counts: dict[str, tuple[int, float]] = {}
        self._buffered = 0
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()
        self._closing = False

    async def start(self) -> None:
        """Connect. Raises aiokafka's KafkaConnectionError when no broker answers."""
        producer = self._kafka.producer(**self._settings)
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        self._producer = producer

    async def stop(self) -> None:
        """Take nothing more, deliver what was taken (or fail it after the timeout), disconnect."""
        self._closing = True
        while tasks := [lane.task for lane in self._lanes.values() if lane.task is not None]:
            await asyncio.wait(tasks)
        if self._producer is not None:
            await disconnect(self._producer)

    async def answers(self, timeout_s: float = 2.0) -> bool:
        """Whether a broker answers now."""
        if self._producer is None or self._closing:
            return False
        try:
            return bool(await asyncio.wait_for(self._producer.client.force_metadata_update(), timeout_s))
        except (kafka_errors.KafkaError, TimeoutError):
            return False

    @property
    def buffered_bytes(self) -> int:
        """Bytes taken and not yet acknowledged or failed."""
        return self._buffered

    async def send(
        self,
        topic: str,
        partition: int | None,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        timestamp_ms: int | None = None,
    ) -> Delivery:
        """Take one record; await what is returned for its acknowledgement. Raises as `send_many`."""
        return (await self.send_many(topic, [Record(key, value, headers, partition, timestamp_ms)]))[0]

    async def send_many(self, topic: str, records: Sequence[Record]) -> list[Delivery]:
        """Take all of ``records`` or none; one `Delivery` each, in order.

        Raises `BufferFull` when there is no room in time, `RecordRefused` when one is larger than
        1,000,000 bytes, `Unavailable` when the topic is not known or the producer is not running,
        ValueError for a partition that the topic does not have.
        """
        sizes = [_size(record) for record in records]
        if sizes and max(sizes) > MAX_BATCH_BYTES:
            raise RecordRefused(f"a record of {max(sizes)} bytes for {topic}: at most {MAX_BATCH_BYTES} go in one")
        count = await self._partitions(topic)
        await self._reserve(sum(sizes))
        try:
            chosen = [_choose(topic, record, count) for record in records]
        except ValueError:
            self._release(sum(sizes))
            raise
        return [
            self._append((topic, partition), record, size)
            for record, partition, size in zip(records, chosen, sizes, strict=True)
        ]

    async def _partitions(self, topic: str) -> int:
        known = self._counts.get(topic)
        now = time.monotonic()
        if known is not None and now < known[1]:
            return known[0]
        if self._producer is None:
            raise Unavailable("the producer was not started")
        try:
            await asyncio.wait_for(know(self._producer, topic), self._timeout)
            count = len(await asyncio.wait_for(self._producer.partitions_for(topic), self._timeout))
        except (kafka_errors.KafkaError, TimeoutError) as error:
            raise Unavailable(f"{topic}: its partitions could not be looked up: {error!r}") from error
        self._counts[topic] = (count, now + _COUNT_SECONDS)
        return count

    async def _reserve(self, size: int) -> None:
        """Take ``size`` bytes of the buffer, first come first served."""
        if self._turn.locked() or self._buffered + size > self._limit:
            try:
                async with asyncio.timeout(self._block), self._turn:
                    while self._buffered + size > self._limit:
                        self._room.clear()
                        await self._room.wait()
            except TimeoutError:
                raise BufferFull(f"{self._buffered} bytes wait for Kafka; at most {self._limit} may") from None
        if self._closing:
            raise Unavailable("the producer is stopping")
        self._buffered += size

    def _release(self, size: int) -> None:
        self._buffered -= size
        self._room.set()

    def _append(self, tp: tuple[str, int], record: Record, size: int) -> Delivery:
        lane = self._lanes.get(tp)
        if lane is None:
            lane = self._lanes[tp] = _Lane(tp)
        if not lane.batches or lane.batches[-1].size + size > MAX_BATCH_BYTES:
            lane.batches.append(_Batch(asyncio.get_running_loop()))
        batch = lane.batches[-1]
        batch.records.append(record)
        batch.size += size
        if lane.task is None:
            lane.task = asyncio.create_task(self._ship(lane), name=f"ship {tp}")
        return Delivery(batch, len(batch.records) - 1)

    async def _ship(self, lane: _Lane) -> None:
        """Send a partition's batches, one after the other, until there are none."""
        if len(lane.batches) == 1:
            await asyncio.sleep(self._linger)
        while lane.batches:
            batch = lane.batches.popleft()
            try:
                await self._deliver(lane.tp, batch)
            except Exception as error:
                # One failure is enough of a wait: what stands behind it would wait as long again each.
                if not isinstance(error, Unavailable):
                    _log.exception("sending to %s failed", lane.tp)
                self._fail(batch, error)
                while lane.batches:
                    self._fail(lane.batches.popleft(), error)
        lane.task = None
        del self._lanes[lane.tp]

    def _fail(self, batch: _Batch, error: Exception) -> None:
        fault = error if isinstance(error, ProduceError) else Unavailable(f"our fault: {error!r}")
        batch.errors = dict.fromkeys(range(len(batch.records)), fault) | batch.errors
        self._settle(batch)

    def _settle(self, batch: _Batch) -> None:
        self._release(batch.size)
        batch.resolve()

    async def _deliver(self, tp: tuple[str, int], batch: _Batch) -> None:
        """Send a batch; one that the broker refuses is halved until only the records at fault are left."""
        parts = deque([(0, len(batch.records))])
        splits = 0
        while parts:
            start, stop = parts.popleft()
            try:
                await self._send(tp, batch.records[start:stop])
            except RecordRefused as error:
                if stop - start > 1 and splits < _MAX_SPLITS:
                    splits += 1
                    middle = (start + stop) // 2
                    parts.extendleft([(middle, stop), (start, middle)])
                else:
                    batch.errors |= dict.fromkeys(range(start, stop), error)
        self._settle(batch)

    async def _send(self, tp: tuple[str, int], records: Sequence[Record]) -> None:
        """One record batch, acknowledged. Raises `RecordRefused` or `Unavailable`."""
        producer = self._producer
        assert producer is not None
        topic, partition = tp
        builder = producer.create_batch()
        now = int(time.time() * 1000)
        for record in records:
            added = builder.append(
                timestamp=now if record.timestamp_ms is None else record.timestamp_ms,
                key=record.key,
                value=record.value,
                headers=list(record.headers),
            )
            assert added is not None, "batches are cut well below the builder's size"
        builder.close()
        try:
            # aiokafka expires a batch by itself; the wait ends also where it does not (a metadata look-up).
            async with asyncio.timeout(2 * self._timeout + 1):
                await (await producer.send_batch(builder, topic, partition=partition))
        except _REFUSALS as error:
            raise RecordRefused(f"{topic}/{partition}: {error!r}") from error
        except (kafka_errors.KafkaError, TimeoutError, AssertionError) as error:
            self._counts.pop(topic, None)
            raise Unavailable(f"{topic}/{partition}: {error!r}") from error


def _size(record: Record) -> int:
    """Bytes in a batch, rounded up. ``estimate_size_in_bytes`` counts a batch's overhead too."""
    return int(DefaultRecordBatchBuilder.estimate_size_in_bytes(record.key, record.value, list(record.headers)))


def _choose(topic: str, record: Record, count: int) -> int:
    if record.partition is not None:
        if not 0 <= record.partition < count:
            raise ValueError(f"{topic} has partitions 0 to {count - 1}, not {record.partition}")
        return record.partition
    if record.key is None:
        return random.randrange(count)
    return partition_for(record.key, count)
