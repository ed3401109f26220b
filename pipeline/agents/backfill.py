"""One lane's reading of its own past, for segments that are new: the lake's files, and `history` for what is in none.

A lane alone writes its partition of `history`, so its past is all there. It is read beside live events: files in a
thread, rows in small steps on the loop, and no more than is taken.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec
import pyarrow.compute as pc
import pyarrow.dataset as ds
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from pipeline.customers.past import Leaves, Past
from pipeline.lake.kinds import KINDS
from pipeline.lake.lane import Names
from pipeline.lake.store import LakeStore
from pipeline.models.event import Event
from pipeline.models.fast import struct_for
from pipeline.models.lake import LakeFile, Manifest
from pipeline.segments.leaf import Leaf
from pipeline.stream.kafka import Kafka, disconnect
from pipeline.stream.reader import Reader, open_reader

__all__ = ["Backfill"]

log = logging.getLogger(__name__)

_KIND = KINDS["events"]
#: In the order of `Past.take`.
_COLUMNS = ("customer", "id", "source", "channel", "name", "time", "properties", "facts")
#: Rows between two turns of the loop: about a millisecond.
_SLICE = 100
#: Rows and records that are decoded between two turns of the loop, though nothing may come of them: some milliseconds.
_BATCH_ROWS = 2_000
#: Customers in hand, before those are taken that were found first.
_MOST = 50_000
_TAKE_SECONDS = 0.5
_RETRY_SECONDS = 5.0
_FAULT_SECONDS = 60.0

_decode = msgspec.json.Decoder(struct_for(Event, raw=frozenset({"properties", "traits", "context", "facts"}))).decode

#: Of `Past.take`.
_Row = tuple[Any, ...]


class Backfill:
    """Reads for one partner at a time; begins again by itself where reading fails.

    ``share``: how much is read, 0 to 1. ``coverage``: events since this moment (ms) were read, 0: all there ever were;
    None until all is read and taken.
    """

    def __init__(
        self, kafka: Kafka, store: LakeStore, lane: int, turn: asyncio.Semaphore, names: Names | None = None
    ) -> None:
        """``turn``: shared by the lanes of a process. One of them reads at a time: a live batch waits for many turns of
        the loop, and each would be as long as all that read."""
        self.share = 0.0
        self.coverage: int | None = None
        self._kafka = kafka
        self._store = store
        self._lane = lane
        self._turn = turn
        self._names = names or Names()
        self._tp = TopicPartition(self._names.topic(_KIND), lane)
        self._task: asyncio.Task[None] | None = None
        self._portions: asyncio.Queue[dict[str, Leaves]] = asyncio.Queue(1)
        self._portion: dict[str, Leaves] = {}

    @property
    def idle(self) -> bool:
        """Whether nothing is being read, or waits to be taken."""
        return self._task is None

    def start(self, partner: str, leaves: Sequence[Leaf], since: int | None) -> None:
        """Begin with what is committed now. ``since``: no event before that moment says anything."""
        self.stop()
        self._task = asyncio.create_task(self._run(partner, leaves, since), name=f"back-fill {partner} {self._lane}")

    def take(self, most: int) -> list[tuple[str, Leaves]]:
        """Customers, and what their past says; none where nothing is ready. What is taken does not come again."""
        found: list[tuple[str, Leaves]] = []
        while len(found) < most:
            if self._portion:
                found.append(self._portion.popitem())
            elif not self._portions.empty():
                self._portion = self._portions.get_nowait()
            else:
                break
        return found

    @property
    def finished(self) -> bool:
        """Whether all was read and taken; `stop` comes next."""
        return self._task is not None and self._task.done() and self._portions.empty() and not self._portion

    def stop(self) -> None:
        """Forget all that was not taken."""
        if self._task is not None:
            self._task.cancel()
        self._task = None
        self._portions = asyncio.Queue(1)
        self._portion = {}
        self.share, self.coverage = 0.0, None

    async def _run(self, partner: str, leaves: Sequence[Leaf], since: int | None) -> None:
        began = time.monotonic()
        while True:
            past = Past(leaves)
            try:
                async with self._turn:
                    self.coverage = await self._read(partner, past, since)
                break
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("back-fill of %s in lane %d: %r; beginning again", partner, self._lane, error)
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception:
                # Live events must not wait for this; what is not read stays told as not complete.
                log.exception("ALERT back-fill of %s in lane %d failed; trying again", partner, self._lane)
                await asyncio.sleep(_FAULT_SECONDS)
        self.share = 1.0
        log.info("back-fill of %s in lane %d: read in %.1f s", partner, self._lane, time.monotonic() - began)

    async def _read(self, partner: str, past: Past, since: int | None) -> int:
        """All of it, once; from when on there is anything. What is found is handed over as it comes."""
        reader = open_reader(self._kafka, fetch_max_wait_ms=100)
        await reader.start()
        try:
            manifest = await self._manifest(reader)
            await reader.existing([self._tp])
            begin = (await reader.beginning_offsets([self._tp]))[self._tp]
            end = (await reader.end_offsets([self._tp]))[self._tp]
            filed = manifest.next(self._lane)
            files = [
                file
                for file in manifest.files(partner)
                if file.lane == self._lane and (since is None or file.last >= since)
            ]
            first = max(begin, filed)
            total = sum(file.rows for file in files) + max(0, end - first)
            done = 0
            for file in files:
                async for rows in self._file_rows(file, past, since):
                    await self._gather(rows, past)
                done += file.rows
                self.share = done / max(1, total)
            moment: int | None = None
            reader.read_from({self._tp: first})
            while (position := reader.positions()[self._tp]) < end:
                for batch in await reader.take(_TAKE_SECONDS, _BATCH_ROWS):
                    moment = batch.records[0].timestamp if moment is None else moment
                    await self._gather(_record_rows(batch.records, partner, past), past)
                self.share = (done + position - first) / max(1, total)
            await self._portions.put(past.part())
        finally:
            await disconnect(reader)
        place = manifest.positions.get(self._lane)
        if place is not None and begin <= filed:
            return place.since
        return 0 if begin == 0 else moment or int(time.time() * 1000)

    async def _manifest(self, reader: Reader) -> Manifest:
        """The lane's part of the lake."""
        manifest = Manifest(_KIND.name)
        tp = TopicPartition(self._names.files, self._lane)
        if await reader.existing([tp]):
            async for record in reader.all_of(tp):
                manifest.apply(record.key, record.value)
        return manifest

    async def _gather(self, rows: Iterator[_Row], past: Past) -> None:
        for number, row in enumerate(rows, 1):
            past.take(*row)
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        if len(past) >= _MOST:
            await self._portions.put(past.part())

    async def _file_rows(self, file: LakeFile, past: Past, since: int | None) -> AsyncIterator[Iterator[_Row]]:
        """The rows of a file that may say anything; which those are is told by Arrow, in a thread."""

        def opened() -> Iterator[Any]:
            data = ds.dataset(
                self._store.path(file.path),
                schema=_KIND.schema,
                format=ds.ParquetFileFormat(),
                filesystem=self._store.filesystem,
            )
            wanted = pc.field("name").isin(sorted(past.names)) & pc.field("customer").is_valid()
            if since is not None and file.first < since:
                wanted &= pc.field("time") >= pc.scalar(since).cast(_KIND.schema.field("time").type)
            batches: Iterator[Any] = data.scanner(
                columns=list(_COLUMNS), filter=wanted, batch_size=_BATCH_ROWS, use_threads=False
            ).to_batches()
            return batches

        batches = await asyncio.to_thread(opened)
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            if batch.num_rows:
                yield _column_rows(batch)


def _column_rows(batch: Any) -> Iterator[_Row]:
    columns = (batch.column(name).cast("int64") if name == "time" else batch.column(name) for name in _COLUMNS)
    return zip(*(column.to_pylist() for column in columns), strict=True)


def _record_rows(records: Sequence[Any], partner: str, past: Past) -> Iterator[_Row]:
    for record in records:
        event = _decode(record.value or b"")
        if event.partner == partner and event.customer is not None and event.name in past.names:
            yield (
                event.customer,
                event.id,
                event.source,
                event.channel,
                event.name,
                event.time,
                bytes(event.properties),
                bytes(event.facts),
            )
