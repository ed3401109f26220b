"""The Kafka side of the delivery engine: one consumer for all partitions of the process, offsets, look-backs.

Offsets are kept under a group of their own that nobody joins: Kafka refuses a commit from outside to a group
that has members, and the lanes' group has some.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from pipeline.sinks.offsets import OffsetTracker
from pipeline.stream.failpoints import passed
from pipeline.stream.kafka import FetchingEnded, Kafka, disconnect

__all__ = ["Feed", "LookBack", "Reader"]

log = logging.getLogger(__name__)

Feed = Callable[[list[ConsumerRecord]], None]

_POLL_MS = 100
#: Between commits at least: what is finished within it is repeated after a kill -9.
_COMMIT_SECONDS = 0.02
_RETRY_SECONDS = 0.5
#: Offsets of a group without members expire a while after their last commit; quiet partitions are committed anew.
_REFRESH_SECONDS = 3600.0


class _Stream:
    __slots__ = ("feed", "paused", "position", "tracker")

    def __init__(self, feed: Feed, tracker: OffsetTracker, position: int) -> None:
        self.feed = feed
        self.tracker = tracker
        self.position = position
        self.paused = False


class Reader:
    """Feeds records of the partitions that were added, each in order; commits what their trackers say.

    A partition is paused whenever it was fed; `resume` asks for more. So what waits in memory is bounded by one
    fetch a partition.
    """

    def __init__(self, kafka: Kafka, group: str) -> None:
        self._kafka = kafka
        self._group = group
        self._streams: dict[TopicPartition, _Stream] = {}
        self._reassign = False
        self._changed = asyncio.Event()
        self._dirty: set[TopicPartition] = set()
        self._marked = asyncio.Event()
        self._committing = asyncio.Lock()
        self._consumer: AIOKafkaConsumer | None = None
        self._admin: Any = None
        self._tasks: list[asyncio.Task[None]] = []
        #: Set with the exception when reading or committing ended by itself.
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Connect. Raises KafkaError."""
        self._admin = self._kafka.admin()
        await self._admin.start()
        self._consumer = self._kafka.consumer(
            group_id=self._group, fetch_max_wait_ms=_POLL_MS, max_partition_fetch_bytes=512 << 10, retry_backoff_ms=50
        )
        await self._consumer.start()
        self._tasks = [
            asyncio.create_task(self._guarded(self._read()), name="sink reader"),
            asyncio.create_task(self._guarded(self._commit_forever()), name="sink committer"),
        ]

    async def stop(self) -> None:
        """Disconnect; commits nothing (see `flush`)."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._consumer is not None:
            await disconnect(self._consumer)
        if self._admin is not None:
            await self._admin.close()
        if self.failure.done() and not self.failure.cancelled():
            self.failure.exception()

    def add(self, tp: TopicPartition, tracker: OffsetTracker, feed: Feed) -> None:
        """Read ``tp`` from the tracker's watermark; commit the tracker from now on."""
        self._streams[tp] = _Stream(feed, tracker, tracker.watermark)
        self._dirty.add(tp)
        self._marked.set()
        self._assign_soon()

    def remove(self, tps: Iterable[TopicPartition]) -> None:
        """Feed nothing more from them and commit them no more."""
        for tp in tps:
            self._streams.pop(tp, None)
            self._dirty.discard(tp)
        self._assign_soon()

    def resume(self, tp: TopicPartition) -> None:
        """Feed more from ``tp``."""
        stream = self._streams.get(tp)
        if stream is not None and stream.paused:
            stream.paused = False
            if not self._reassign and self._consumer is not None:
                self._consumer.resume(tp)

    def mark(self, tp: TopicPartition) -> None:
        """Its tracker has moved: commit it soon."""
        self._dirty.add(tp)
        self._marked.set()

    async def flush(self, tps: Iterable[TopicPartition]) -> None:
        """Commit these now. Raises KafkaError."""
        await self._commit(set(tps) & self._streams.keys())

    async def topics(self) -> set[str]:
        """The names of all topics of the cluster."""
        return set(await self._admin.list_topics())

    async def committed(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, tuple[int, str]]:
        """What was committed: offset and metadata; partitions never committed are left out. Raises KafkaError."""
        found = await self._admin.list_consumer_group_offsets(self._group, partitions=list(tps))
        return {tp: (meta.offset, meta.metadata) for tp, meta in found.items() if meta.offset >= 0}

    @asynccontextmanager
    async def look_back(self) -> AsyncIterator[LookBack]:
        """For reading parts of partitions beside the stream."""
        consumer = self._kafka.consumer(fetch_max_wait_ms=_POLL_MS)
        await consumer.start()
        try:
            yield LookBack(consumer)
        finally:
            await disconnect(consumer)

    def _assign_soon(self) -> None:
        self._reassign = True
        self._changed.set()

    async def _guarded(self, work: Any) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not self.failure.done():
                self.failure.set_exception(error)

    async def _read(self) -> None:
        consumer = self._consumer
        assert consumer is not None
        while True:
            if self._reassign:
                # A commit names partitions of the assignment it began with.
                async with self._committing:
                    self._assign(consumer)
            if not self._streams:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                batches = await consumer.getmany(timeout_ms=_POLL_MS)
            except FetchingEnded:
                raise
            except KafkaError as error:
                log.warning("sink reader: %r; reading on", error)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if self._reassign:
                continue
            for tp, records in batches.items():
                self._feed(consumer, tp, records)

    def _feed(self, consumer: AIOKafkaConsumer, tp: TopicPartition, records: list[ConsumerRecord]) -> None:
        stream = self._streams.get(tp)
        if stream is None or not records:
            return
        stream.position = records[-1].offset + 1
        stream.paused = True
        if not self._reassign:
            consumer.pause(tp)
        stream.feed(records)

    def _assign(self, consumer: AIOKafkaConsumer) -> None:
        """An assignment replaces the one before, positions and pauses included."""
        self._reassign = False
        if not self._streams:
            consumer.pause(*consumer.assignment())
            return
        consumer.assign(list(self._streams))
        for tp, stream in self._streams.items():
            consumer.seek(tp, stream.position)
            if stream.paused:
                consumer.pause(tp)

    async def _commit_forever(self) -> None:
        refresh = time.monotonic() + _REFRESH_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REFRESH_SECONDS):
                    await self._marked.wait()
            self._marked.clear()
            if time.monotonic() > refresh:
                refresh = time.monotonic() + _REFRESH_SECONDS
                self._dirty.update(self._streams)
            wanted, self._dirty = self._dirty, set()
            try:
                await self._commit(wanted)
            except KafkaError as error:
                log.warning("sink offsets were not committed: %r; trying again", error)
                self._dirty |= wanted & self._streams.keys()
                self._marked.set()
                await asyncio.sleep(_RETRY_SECONDS)
            await asyncio.sleep(_COMMIT_SECONDS)

    async def _commit(self, wanted: set[TopicPartition]) -> None:
        """All of them as of one moment, in one request: a record that was moved is then done in one partition no
        later than it is done in the other."""
        consumer = self._consumer
        assert consumer is not None
        async with self._committing:
            if self._reassign:
                self._assign(consumer)
            offsets: dict[TopicPartition, OffsetAndMetadata] = {}
            for tp in wanted:
                stream = self._streams.get(tp)
                if stream is not None:
                    offsets[tp] = OffsetAndMetadata(*stream.tracker.snapshot())
            if offsets:
                await consumer.commit(offsets)
                passed("sink-committed")


class LookBack:
    """Reads stretches of partitions, outside any group."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    async def bounds(self, tps: list[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """First and next offset of each. Raises KafkaError."""
        first: Mapping[TopicPartition, int] = await self._consumer.beginning_offsets(tps)
        last: Mapping[TopicPartition, int] = await self._consumer.end_offsets(tps)
        return {tp: (first[tp], last[tp]) for tp in tps}

    async def read(self, tp: TopicPartition, start: int, end: int) -> AsyncIterator[ConsumerRecord]:
        """Records from ``start`` to before ``end``, as far as there are any."""
        if start >= end:
            return
        self._consumer.assign([tp])
        self._consumer.seek(tp, start)
        while await self._consumer.position(tp) < end:
            for record in (await self._consumer.getmany(tp, timeout_ms=_POLL_MS)).get(tp, ()):
                if record.offset >= end:
                    return
                yield record
