"""All rows of a kind: the lake's files, and behind them what is in no file yet, read from the kind's topic."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from aiokafka import ConsumerRecord, TopicPartition

from pipeline.lake.erasures import Erasures, Told, but, without
from pipeline.lake.kinds import KINDS, MOMENT, Kind
from pipeline.lake.lane import Names
from pipeline.lake.store import LakeStore
from pipeline.models.lake import LakeFile, Manifest
from pipeline.stream.follower import Follower
from pipeline.stream.kafka import Kafka

__all__ = ["Behind", "Kept"]

#: Of a kind's rows that are kept while they are in no file; many times what a lake that runs leaves.
MOST_BYTES = 256 << 20


class Behind(Exception):
    """An answer would not have all: more rows wait for the lake than can be kept, or one can't be read."""


class _Chunk:
    """Consecutive records of a lane, until columns are made of them: when somebody asks."""

    __slots__ = ("_records", "_tables", "first", "lane", "last", "size")

    def __init__(self, lane: int, records: Sequence[tuple[int, bytes]]) -> None:
        self.lane = lane
        self.first, self.last = records[0][0], records[-1][0]
        self.size = sum(len(value) for _, value in records)
        self._records = records
        self._tables: dict[str, pa.Table] | None = None

    def table(self, kind: Kind, decode: Callable[[bytes], Any], partner: str) -> pa.Table | None:
        tables = self._tables
        if tables is None:
            tables = self._tables = kind.columns(decode, self.lane, self._records)
            self._records = ()
        return tables.get(partner)


class _Table:
    """What is known of one kind: its files, and its rows that are in none."""

    def __init__(self, kind: Kind, topic: str, store: LakeStore, most_bytes: int, erasures: Erasures) -> None:
        self.manifest = Manifest(kind.name)
        self._erasures = erasures
        self._kind = kind
        self._topic = topic
        self._store = store
        self._decode = kind.decoder()
        self._young: defaultdict[int, deque[_Chunk]] = defaultdict(deque)
        self._most_bytes = most_bytes
        self._bytes = 0
        #: By lane: the offset before which some were dropped that were in no file.
        self._dropped: dict[int, int] = {}

    async def dataset(self, partner: str) -> ds.Dataset:
        """As `Kept.dataset`."""
        for lane, offset in self._dropped.items():
            if self.manifest.next(lane) < offset:
                raise Behind(
                    f"the lake is behind (lane {lane} at {self.manifest.next(lane)}, {offset} wanted): see that "
                    "`headrace lake` runs"
                )
        # Both as of one moment; what takes long is done aside.
        files = list(self.manifest.files(partner))
        young = [(self.manifest.next(lane), list(chunks)) for lane, chunks in self._young.items()]
        left = self._erasures.since(self.erased(), partner)
        moments = self._erasures.moments(partner)
        try:
            return await asyncio.to_thread(self._made, partner, files, young, left, moments)
        except msgspec.MsgspecError as error:
            raise Behind(f"a record of {self._topic} can't be read: {error}") from error

    def erased(self) -> int:
        """The offset of `erasures` before which nothing is left in files."""
        return min((place.erased for place in self.manifest.positions.values()), default=self._erasures.next)

    def _made(
        self,
        partner: str,
        files: list[LakeFile],
        young: list[tuple[int, list[_Chunk]]],
        left: list[Told],
        moments: dict[str, int],
    ) -> ds.Dataset:
        tables = [self._kind.schema.empty_table()]
        for first, chunks in young:
            for chunk in chunks:
                table = chunk.table(self._kind, self._decode, partner)
                if table is None:
                    continue
                if chunk.first < first:
                    table = table.filter(pc.greater_equal(table["offset"], first))
                tables.append(table)
        parts: list[ds.Dataset] = [ds.dataset(without(pa.concat_tables(tables), self._kind, partner, moments))]
        if files:
            parts.append(
                ds.FileSystemDataset.from_paths(
                    [self._store.path(file.path) for file in files],
                    schema=self._kind.schema,
                    format=ds.ParquetFileFormat(),
                    filesystem=self._store.filesystem,
                    partitions=[_times(file) for file in files],
                )
            )
        found = ds.UnionDataset(self._kind.schema, parts)
        others = but(self._kind, left)
        return found if others is None else found.filter(others)

    def drop_filed(self, lane: int) -> None:
        """Rows of a lane that are in files by now."""
        first = self.manifest.next(lane)
        young = self._young[lane]
        while young and young[0].last < first:
            self._bytes -= young.popleft().size

    def add(self, lane: int, records: list[ConsumerRecord]) -> None:
        """Rows of a lane that come next."""
        first = self.manifest.next(lane)
        found = [(record.offset, record.value) for record in records if record.offset >= first]
        if not found:
            return
        chunk = _Chunk(lane, found)
        self._young[lane].append(chunk)
        self._bytes += chunk.size
        while self._bytes > self._most_bytes:
            fullest = max(self._young, key=lambda each: len(self._young[each]))
            gone = self._young[fullest].popleft()
            self._bytes -= gone.size
            self._dropped[fullest] = gone.last + 1


class Kept:
    """Follows the lake's manifest, and the topics of all kinds. Use from one event loop."""

    def __init__(
        self, kafka: Kafka, store: LakeStore, names: Names | None = None, most_bytes: int = MOST_BYTES
    ) -> None:
        names = names or Names()
        self._kafka = kafka
        #: Who was erased: nobody sees what they did, from then on, though it may still be in files.
        self.erasures = Erasures(kafka, names.erasures)
        self._tables = {
            kind.name: _Table(kind, names.topic(kind), store, most_bytes, self.erasures) for kind in KINDS.values()
        }
        self._by_topic = {names.topic(KINDS[name]): table for name, table in self._tables.items()}
        self._files = Follower(kafka, [names.files], self._file_records, name="lake files")
        self._topics: Follower | None = None
        #: Set with the exception when one of the followers can't go on.
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Return when all that was committed as of this call can be read. Raises TimeoutError, KafkaError."""
        await self.erasures.start()
        await self._files.start()
        begins = await _beginnings(self._kafka, list(self._by_topic))
        start = {place: max(begin, self._by_topic[place[0]].manifest.next(place[1])) for place, begin in begins.items()}
        self._topics = Follower(
            self._kafka, list(self._by_topic), self._topic_records, name="what is in no file yet", start_at=start
        )
        await self._topics.start()
        for follower in (self._files, self._topics, self.erasures):
            follower.failure.add_done_callback(self._failed)

    async def stop(self) -> None:
        """Stop following."""
        await self.erasures.stop()
        await self._files.stop()
        if self._topics is not None:
            await self._topics.stop()

    def lag(self) -> int:
        """Records that the topics hold and that are not read."""
        return self._files.lag() + (self._topics.lag() if self._topics is not None else 0)

    def erased(self) -> int:
        """The offset of `erasures` before which nothing is left in any file."""
        return min(self._tables[kind.name].erased() for kind in KINDS.values() if kind.trail is not None)

    async def dataset(self, kind: str, partner: str) -> ds.Dataset:
        """All rows of a kind and a partner, each once; reads files when it is scanned. Raises `Behind`."""
        return await self._tables[kind].dataset(partner)

    def _file_records(self, records: list[ConsumerRecord]) -> None:
        for table in self._tables.values():
            for record in records:
                table.manifest.apply(record.key, record.value)
            table.drop_filed(records[0].partition)

    def _topic_records(self, records: list[ConsumerRecord]) -> None:
        self._by_topic[records[0].topic].add(records[0].partition, records)

    def _failed(self, failure: asyncio.Future[None]) -> None:
        if not failure.cancelled() and (error := failure.exception()) is not None and not self.failure.done():
            self.failure.set_exception(error)


def _times(file: LakeFile) -> pc.Expression:
    """What is true of all rows of a file, so that it is not opened for others."""
    time = ds.field("time")
    first, last = (pa.scalar(moment, MOMENT) for moment in (file.first, file.last))
    return (time >= first) & (time <= last)


async def _beginnings(kafka: Kafka, topics: list[str]) -> dict[tuple[str, int], int]:
    """Where each partition of these topics begins now."""
    consumer = kafka.consumer()
    await consumer.start()
    try:
        await consumer._client.set_topics(topics)
        tps = [TopicPartition(topic, n) for topic in topics for n in consumer.partitions_for_topic(topic) or ()]
        found = await consumer.beginning_offsets(tps)
    finally:
        await consumer.stop()
    return {(tp.topic, tp.partition): offset for tp, offset in found.items()}
