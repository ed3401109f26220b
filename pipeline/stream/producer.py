"""Producing where each call waits for its acknowledgement: idempotent, in group commits, bounded in time and memory.

What is written while a request is on its way to a broker leaves in the next one, all partitions of that broker in one
request, so the busier, the larger the batches, and nobody waits for a clock (docs/decisions/0006-gateway-producer.md).
Knows nothing of what it carries. Source: Kafka's protocol guide (Produce, InitProducerId); KIP-98, KIP-360.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from pipeline.stream.kafka import Kafka
from pipeline.stream.refusals import NEVER_TAKEN
from pipeline.stream.transaction import partition_for

__all__ = ["BufferFull", "ProduceError", "Producer", "Record", "RecordRefused", "Unavailable"]

#: Bytes of a record, and of a batch before it is compressed; below every broker's usual ``max.message.bytes``.
MAX_BYTES = 1_000_000
#: Bytes of all batches of one request, before they are compressed.
_REQUEST_BYTES = 8 * MAX_BYTES
#: What a record costs beside its key and value; headers are not counted one by one.
_OVERHEAD = 200
#: Splits of one batch that the broker refused; enough to find two bad records among a thousand.
_MAX_SPLITS = 24
#: Seconds before a batch is sent again, and between looks at calls whose time is up.
_BACKOFF_S, _SWEEP_S = 0.05, 0.1
#: Above so many bytes a request's batches are compressed in a thread. Below, the way there costs more: a thread waits
#: up to 5 ms for the interpreter, twice (256 connections: 8,400 requests/s with a thread for each, 16,300 without).
_THREAD_BYTES = 2 << 20
_CODECS = {None: 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
#: The broker knows nothing of our sequence, or another one: a new identity begins a new one. Nothing was written.
_LOST_SEQUENCE = (
    kafka_errors.OutOfOrderSequenceNumber,
    kafka_errors.UnknownProducerId,
    kafka_errors.InvalidProducerEpoch,
    kafka_errors.InvalidProducerIdMapping,
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


class _Call:
    """The records of one `Producer.write`, until each one's fate is known or the time is up."""

    __slots__ = ("deadline", "done", "error", "left", "size")

    def __init__(self, left: int, size: int, deadline: float, done: asyncio.Future[None]) -> None:
        self.left = left
        self.size = size
        self.deadline = deadline
        self.done = done
        self.error: ProduceError | None = None


class _Batch:
    """Records of one partition that are sent together, and whose they are.

    Once it is built it has a place in a producer's sequence, and is sent again byte for byte.
    """

    __slots__ = ("calls", "data", "identity", "records", "sequence", "size", "splits")

    def __init__(self, splits: int = 0) -> None:
        self.records: list[Record] = []
        self.calls: list[_Call] = []
        self.size = 0
        self.splits = splits
        self.data: bytes | None = None
        self.identity: _Identity | None = None
        self.sequence = 0

    @property
    def unwanted(self) -> bool:
        """Nobody waits for it any more."""
        return all(call.done.done() for call in self.calls)

    def part(self, start: int, stop: int | None, splits: int) -> _Batch:
        found = _Batch(splits)
        found.records = self.records[start:stop]
        found.calls = self.calls[start:stop]
        found.size = sum(map(_size, found.records))
        return found


class _Lane:
    """One partition: its batches in order, one at a time on its way, and the place in the sequence."""

    __slots__ = ("batches", "busy", "identity", "sequence", "tp")

    def __init__(self, tp: TopicPartition) -> None:
        self.tp = tp
        self.batches: deque[_Batch] = deque()
        self.busy = False
        self.identity: _Identity | None = None
        self.sequence = 0


class _Topic:
    """A topic, and what waits for its partitions to be known."""

    __slots__ = ("lanes", "waiting")

    def __init__(self) -> None:
        self.lanes: list[_Lane] = []
        self.waiting: list[tuple[Record, _Call]] = []


class _Identity(NamedTuple):
    """What the broker knows a sequence by."""

    id: int
    epoch: int


class Producer:
    """Records in, acknowledgements out; order holds per partition; memory and time are bounded.

    ``timeout_ms``: within it every call hears: acknowledged, refused or `Unavailable`, also when the broker is frozen.
    ``linger_ms``: how long the first record after a rest waits for company. ``buffer_bytes``: what may wait in all;
    beyond it `BufferFull`. ``compression_type``: None, "gzip", "snappy", "lz4" or "zstd".

    acks=all and idempotent, always: a record is written once however often it had to be sent. A batch that is given
    up leaves its fate open, and with it the sequence: what follows has a new identity, so nothing waits for it.
    """

    def __init__(
        self,
        kafka: Kafka,
        *,
        timeout_ms: int = 4_000,
        linger_ms: float = 0.0,
        buffer_bytes: int = 64 << 20,
        compression_type: str | None = "lz4",
    ) -> None:
        self._kafka = kafka
        self._timeout_ms = timeout_ms
        self._timeout = timeout_ms / 1000
        self._linger = linger_ms / 1000
        self._limit = buffer_bytes
        self._codec = _CODECS[compression_type]
        self._client: AIOKafkaClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._topics: dict[str, _Topic] = {}
        self._ready: dict[int, dict[_Lane, None]] = {}
        self._sending: dict[int, asyncio.Task[None]] = {}
        self._leaderless: dict[_Lane, None] = {}
        self._identity: _Identity | None = None
        self._identifying = asyncio.Lock()
        self._calls: deque[_Call] = deque()
        self._buffered = 0
        self._sweeping: asyncio.TimerHandle | None = None
        self._answered = -math.inf
        self._closing = False

    async def start(self) -> None:
        """Connect. Raises aiokafka's KafkaConnectionError when no broker answers."""
        client = AIOKafkaClient(
            **self._kafka.auth(), request_timeout_ms=self._timeout_ms, metadata_max_age_ms=30_000, retry_backoff_ms=50
        )
        try:
            await client.bootstrap()
        except BaseException:
            await client.close()
            raise
        client.cluster.add_listener(self._on_metadata)
        self._loop = asyncio.get_running_loop()
        self._client = client

    async def stop(self) -> None:
        """Take nothing more; deliver what was taken, or fail it after the timeout; disconnect.

        Cancelled, it disconnects at once.
        """
        self._closing = True
        try:
            while self._calls:
                await asyncio.wait([self._calls[-1].done])
                self._sweep()
        finally:
            if self._sweeping is not None:
                self._sweeping.cancel()
            for task in self._sending.values():
                task.cancel()
            if self._client is not None:
                await self._client.close()
            await asyncio.gather(*self._sending.values(), return_exceptions=True)

    async def answers(self, timeout_s: float = 2.0) -> bool:
        """Whether a broker answers: it did within the last second, or does within ``timeout_s``."""
        if self._client is None or self._loop is None or self._closing:
            return False
        if self._loop.time() - self._answered < 1:
            return True
        with contextlib.suppress(kafka_errors.KafkaError, TimeoutError):
            async with asyncio.timeout(timeout_s):
                # One look may have begun while the broker was away, and fails when it is back.
                while True:
                    if await self._client.force_metadata_update():
                        return True
                    await asyncio.sleep(_BACKOFF_S)
        return False

    @property
    def buffered_bytes(self) -> int:
        """Bytes taken whose fate is not told yet. Beside them a partition holds two batches at most."""
        return self._buffered

    def write(self, topic: str, records: Sequence[Record]) -> asyncio.Future[None]:
        """Take all of ``records`` or none; the future is done when the broker has acknowledged every one.

        Raises `BufferFull`, `RecordRefused` for a record larger than 1,000,000 bytes, `Unavailable` when not running,
        ValueError for a partition that the topic does not have. The future raises `Unavailable` (some may have been
        written) or `RecordRefused` (the others were written).
        """
        loop = self._loop
        if loop is None or self._closing:
            raise Unavailable("the producer is not running")
        size = 0
        for record in records:
            one = _size(record)
            if one > MAX_BYTES:
                raise RecordRefused(f"a record of {one} bytes for {topic}: at most {MAX_BYTES}")
            size += one
        if self._buffered + size > self._limit:
            raise BufferFull(f"{self._buffered} bytes wait for Kafka; at most {self._limit} may")
        done = loop.create_future()
        if not records:
            done.set_result(None)
            return done
        found = self._topics.get(topic)
        if found is None:
            found = self._know(topic)
        count = len(found.lanes)
        if count:
            for record in records:
                if record[3] is not None and not 0 <= record[3] < count:
                    raise ValueError(f"{topic} has partitions 0 to {count - 1}, not {record.partition}")
        call = _Call(len(records), size, loop.time() + self._timeout, done)
        self._buffered += size
        self._calls.append(call)
        if self._sweeping is None:
            self._sweeping = loop.call_later(_SWEEP_S, self._tick)
        if count:
            for record in records:
                self._append(_choose(record, found.lanes), record, call)
        else:
            found.waiting += [(record, call) for record in records]
        return done

    # Topics and their partitions

    def _know(self, topic: str) -> _Topic:
        assert self._client is not None
        found = self._topics[topic] = _Topic()
        self._client.add_topic(topic)  # from now on its metadata is kept
        self._grow(topic, found)
        return found

    def _grow(self, name: str, topic: _Topic) -> None:
        """The partitions that are known by now; partitions are only ever added."""
        assert self._client is not None
        known = self._client.cluster.partitions_for_topic(name) or ()
        if set(known) == set(range(len(known))):
            topic.lanes += [_Lane(TopicPartition(name, n)) for n in range(len(topic.lanes), len(known))]

    def _on_metadata(self, cluster: Any) -> None:
        """What the brokers say has changed, or has been looked up again."""
        for name, topic in self._topics.items():
            self._grow(name, topic)
            if name in cluster.unauthorized_topics:
                why = Unavailable(f"{name}: these credentials may not write there")
                for _, call in topic.waiting:
                    self._end(call, why)
                topic.waiting = []
            elif topic.lanes and topic.waiting:
                waiting, topic.waiting = topic.waiting, []
                for record, call in waiting:
                    if record.partition is not None and not 0 <= record.partition < len(topic.lanes):
                        self._end(call, RecordRefused(f"{name} has no partition {record.partition}"))
                    else:
                        self._append(_choose(record, topic.lanes), record, call)
        leaderless, self._leaderless = self._leaderless, {}
        for lane in leaderless:
            self._schedule(lane)

    # A record's way

    def _append(self, lane: _Lane, record: Record, call: _Call) -> None:
        batches = lane.batches
        size = _size(record)
        batch = batches[-1] if batches else None
        if batch is None or batch.data is not None or batch.splits or batch.size + size > MAX_BYTES:
            batch = _Batch()
            batches.append(batch)
        batch.records.append(record)
        batch.calls.append(call)
        batch.size += size
        if not lane.busy:
            lane.busy = True
            self._schedule(lane)

    def _schedule(self, lane: _Lane) -> None:
        """Have a busy lane's first batch sent to the partition's leader."""
        assert self._client is not None
        assert self._loop is not None
        if self._closing and not self._calls:
            return
        leader = self._client.cluster.leader_for_partition(lane.tp)
        if leader is None or leader == -1:
            self._leaderless[lane] = None
            return
        self._ready.setdefault(leader, {})[lane] = None
        if leader not in self._sending:
            self._sending[leader] = self._loop.create_task(self._send(leader), name=f"produce to {leader}")

    async def _send(self, node: int) -> None:
        """One request after the other to a broker, until nothing is left for it."""
        ready = self._ready[node]
        await asyncio.sleep(self._linger)
        try:
            while lanes := self._take(ready):
                batches = [lane.batches[0] for lane in lanes]
                try:
                    await self._commit(node, lanes)
                except Exception:
                    _log.exception("producing to broker %s failed", node)
                    for lane, batch in zip(lanes, batches, strict=True):
                        if lane.batches and lane.batches[0] is batch:
                            self._give_up(lane, Unavailable("our fault; it was logged"))
        finally:
            del self._sending[node]

    def _take(self, ready: dict[_Lane, None]) -> list[_Lane]:
        """The lanes of the next request; what nobody waits for any more is left out."""
        taken: list[_Lane] = []
        size = 0
        for lane in list(ready):
            batches = lane.batches
            while batches and batches[0].data is None and batches[0].unwanted:
                batches.popleft()
            if not batches:
                lane.busy = False
                del ready[lane]
                continue
            size += batches[0].size
            if taken and size > _REQUEST_BYTES:
                break
            del ready[lane]
            taken.append(lane)
        return taken

    async def _commit(self, node: int, lanes: list[_Lane]) -> None:
        """One request with the first batch of each of ``lanes``, and what becomes of it."""
        assert self._client is not None
        error: kafka_errors.KafkaError
        try:
            identity = self._identity or await self._identify(node)
            new = [builder for lane in lanes if (builder := _fill(lane, identity, self._codec)) is not None]
            if sum(builder.size() for _, builder in new) > _THREAD_BYTES:
                await asyncio.to_thread(_build, new)
            else:
                _build(new)
            topics: dict[str, list[tuple[int, bytes]]] = {}
            for lane in lanes:
                data = lane.batches[0].data
                assert data is not None
                topics.setdefault(lane.tp.topic, []).append((lane.tp.partition, data))
            response = await self._client.send(
                node,
                ProduceRequest(
                    transactional_id=None, required_acks=-1, timeout=self._timeout_ms, topics=list(topics.items())
                ),
            )
        except kafka_errors.KafkaError as failure:
            error = failure
        else:
            assert self._loop is not None
            self._answered = self._loop.time()
            told = {(topic, one[0]): one[1] for topic, partitions in response.topics for one in partitions}
            for lane in lanes:
                kind = kafka_errors.for_code(told.get((lane.tp.topic, lane.tp.partition), -1))
                if kind in (kafka_errors.NoError, kafka_errors.DuplicateSequenceNumber):
                    self._written(lane)
                else:
                    self._failed(lane, kind())
            return
        for lane in lanes:
            self._failed(lane, error)

    async def _identify(self, node: int) -> _Identity:
        """A new identity. Raises KafkaError."""
        assert self._client is not None
        async with self._identifying:
            if self._identity is None:
                response = await self._client.send(node, InitProducerIdRequest(None, self._timeout_ms))
                kind = kafka_errors.for_code(response.error_code)
                if kind is not kafka_errors.NoError:
                    raise kind()
                self._identity = _Identity(response.producer_id, response.producer_epoch)
            return self._identity

    # A batch's fate

    def _written(self, lane: _Lane) -> None:
        batch = lane.batches.popleft()
        lane.sequence = (batch.sequence + len(batch.records)) & 0x7FFFFFFF
        self._settle(batch, None)
        self._next(lane)

    def _failed(self, lane: _Lane, error: kafka_errors.KafkaError) -> None:
        assert self._client is not None
        assert self._loop is not None
        batch = lane.batches[0]
        if isinstance(error, NEVER_TAKEN):
            lane.batches.popleft()
            self._refused(lane, batch, error)
            self._next(lane)
            return
        for call in batch.calls:
            call.error = Unavailable(f"{lane.tp.topic}/{lane.tp.partition}: {error!r}")
        if isinstance(error, _LOST_SEQUENCE):
            batch.data = None
            if self._identity is batch.identity:
                self._identity = None
        elif not (error.retriable or isinstance(error, kafka_errors.UnknownError)):
            self._give_up(lane, Unavailable(f"{lane.tp.topic}/{lane.tp.partition}: {error!r}"))
            return
        if batch.unwanted:
            self._give_up(lane, Unavailable("no acknowledgement in time"))
            return
        if error.invalid_metadata:
            self._client.force_metadata_update()
        self._loop.call_later(_BACKOFF_S, self._schedule, lane)

    def _refused(self, lane: _Lane, batch: _Batch, error: kafka_errors.KafkaError) -> None:
        """Halve until only the records at fault are left. A refused batch has taken no place in the sequence."""
        count = len(batch.records)
        if count > 1 and batch.splits < _MAX_SPLITS:
            lane.batches.appendleft(batch.part(count // 2, None, batch.splits + 1))
            lane.batches.appendleft(batch.part(0, count // 2, batch.splits + 1))
        else:
            self._settle(batch, RecordRefused(f"{lane.tp.topic}/{lane.tp.partition}: {error!r}"))

    def _give_up(self, lane: _Lane, error: Unavailable) -> None:
        """Whether it was written is open, so nobody may build on its place in the sequence."""
        batch = lane.batches.popleft()
        if batch.data is not None:
            lane.identity = None
            if self._identity is batch.identity:
                self._identity = None
        for call in batch.calls:
            self._end(call, error)
        self._next(lane)

    def _next(self, lane: _Lane) -> None:
        if lane.batches:
            self._schedule(lane)
        else:
            lane.busy = False

    # Calls

    def _settle(self, batch: _Batch, error: ProduceError | None) -> None:
        for call in batch.calls:
            if error is not None:
                call.error = error
            elif isinstance(call.error, Unavailable):
                call.error = None
            call.left -= 1
            if not call.left:
                self._end(call, call.error)

    def _end(self, call: _Call, error: ProduceError | None) -> None:
        """Tell who waits, once."""
        if call.size:
            self._buffered -= call.size
            call.size = 0
        if not call.done.done():
            if error is None:
                call.done.set_result(None)
            else:
                call.done.set_exception(error)
                call.done.exception()  # seen, though nobody may wait any more

    def _tick(self) -> None:
        assert self._loop is not None
        assert self._client is not None
        self._sweep()
        if self._leaderless or any(topic.waiting for topic in self._topics.values()):
            self._client.force_metadata_update()
        self._sweeping = self._loop.call_later(_SWEEP_S, self._tick) if self._calls else None

    def _sweep(self) -> None:
        """Forget calls that have heard; fail those whose time is up, whatever becomes of their records."""
        assert self._loop is not None
        calls, now = self._calls, self._loop.time()
        expired = False
        while calls and (calls[0].done.done() or calls[0].deadline <= now):
            call = calls.popleft()
            if not call.done.done():
                expired = True
            self._end(call, call.error or Unavailable("no acknowledgement in time"))
        if expired:
            for topic in self._topics.values():
                topic.waiting = [(record, call) for record, call in topic.waiting if not call.done.done()]
                for lane in topic.lanes:
                    # The first is on its way, perhaps; what stands behind it and is not wanted gives its memory back.
                    while len(lane.batches) > 1 and lane.batches[1].data is None and lane.batches[1].unwanted:
                        del lane.batches[1]


def _size(record: Record) -> int:
    key, value = record[0], record[1]
    return _OVERHEAD + (len(key) if key else 0) + (len(value) if value else 0)


def _choose(record: Record, lanes: list[_Lane]) -> _Lane:
    key, _, _, partition, _ = record
    if partition is not None:
        return lanes[partition]
    if key is None:
        return random.choice(lanes)
    return lanes[partition_for(key, len(lanes))]


def _fill(lane: _Lane, identity: _Identity, codec: int) -> tuple[_Batch, DefaultRecordBatchBuilder] | None:
    """Give a lane's first batch its place in the sequence; None for one that has it. What does not fit comes next."""
    batch = lane.batches[0]
    if batch.data is not None:
        return None
    if lane.identity is not identity:
        lane.identity, lane.sequence = identity, 0
    batch.identity, batch.sequence = identity, lane.sequence
    builder = DefaultRecordBatchBuilder(2, codec, 0, identity.id, identity.epoch, lane.sequence, 2 * MAX_BYTES)
    now = int(time.time() * 1000)
    append = builder.append
    for at, (key, value, headers, _, timestamp) in enumerate(batch.records):
        sent = headers if isinstance(headers, list) else list(headers)
        if append(at, now if timestamp is None else timestamp, key, value, sent) is None:
            lane.batches.insert(1, batch.part(at, None, batch.splits))
            batch.records, batch.calls = batch.records[:at], batch.calls[:at]
            break
    return batch, builder


def _build(new: list[tuple[_Batch, DefaultRecordBatchBuilder]]) -> None:
    for batch, builder in new:
        batch.data = bytes(builder.build())
