"""Bringing a lane's store up to the end of its changelogs, read-committed, in bounded memory."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import orjson
from aiokafka import TopicPartition

from pipeline.stream.decided import decided
from pipeline.stream.failpoints import passed
from pipeline.stream.kafka import Kafka, disconnect
from pipeline.stream.reader import Batch, Reader, open_reader
from pipeline.stream.store import MAX_AGE_SECONDS, Store

__all__ = ["POSITIONS_HEADER", "Changelogs", "restore"]

log = logging.getLogger(__name__)

#: On the last record of what a commit wrote to a changelog: how far the input was, by "topic:partition".
POSITIONS_HEADER = "headrace-positions"
_PROGRESS_SECONDS = 2.0
_MAX_RECORDS = 20_000
_BAR = 24


class Changelogs:
    """Partition ``lane`` of a store's changelogs, read from where the store stands and written to it.

    ``total`` and ``left``: offsets to read, at the start and now. The store is wiped first when it is ahead of a
    changelog, behind its beginning, or so old that compaction may have dropped deletions that it never saw.
    """

    def __init__(self, kafka: Kafka, store: Store, lane: int, *, role: str) -> None:
        self.records = 0
        self._store = store
        self._name = f"lane {role} {lane}"
        topics = sorted({table.changelog for table in store.tables.values() if table.changelog})
        self._partitions = [TopicPartition(topic, lane) for topic in topics]
        self._reader: Reader = open_reader(kafka, fetch_max_wait_ms=100)
        self._ends: dict[TopicPartition, int] = {}
        self.total = 0

    async def start(self, *, whole: bool = False) -> None:
        """Find the ends and begin to read. ``whole``: nobody writes, so wait until no transaction is open.

        Raises KafkaError; `pipeline.stream.decided.Undecided` is one.
        """
        await self._reader.start()
        await self._reader.existing(self._partitions)
        if whole:
            await decided(self._reader, self._partitions)
        starts = await self._reader.beginning_offsets(self._partitions)
        await self.find_ends()
        if self._store.offsets and _unusable(self._store, starts, self._ends):
            log.warning("%s: the store does not fit its changelog; rebuilding it whole", self._name)
            self._store.wipe()
        self._reader.read_from({tp: max(self._store.offsets.get(tp.topic, 0), starts[tp]) for tp in self._partitions})
        self.total = self.left()

    async def find_ends(self) -> None:
        """Ask for the ends anew."""
        self._ends = dict(await self._reader.end_offsets(self._partitions))

    def left(self) -> int:
        """Offsets before the ends that are not read.

        The ends are compared with the reader's positions, which pass transaction markers that no record stands
        behind; comparing with the last record's offset would wait for ever at a trailing marker.
        """
        positions = self._reader.positions()
        return sum(max(0, end - positions[tp]) for tp, end in self._ends.items())

    async def step(self, timeout: float = 0.1) -> None:
        """Read once and write what came."""
        before = self._reader.positions()
        taken = await self._reader.take(timeout, _MAX_RECORDS)
        positions = self._reader.positions()
        read = {batch.topic: batch for batch in taken}
        for tp, position in positions.items():
            if position != before[tp]:
                await self._write(tp, read.get(tp.topic), position)
        passed("mid-restore")
        # A fetch may have more at hand than the loop should be held up for.
        await asyncio.sleep(0)

    async def _write(self, tp: TopicPartition, batch: Batch | None, position: int) -> None:
        pairs: dict[bytes, bytes | None] = {}
        inputs: dict[str, int] = {}
        if batch is not None:
            pairs = {record.key: record.value for record in batch.records if record.key is not None}
            self.records += len(batch.records)
            for record in batch.records:
                if record.headers:
                    inputs |= _positions(record.headers)
        # Each changelog says how far the input was at its own last change.
        inputs = {place: max(offset, self._store.inputs.get(place, 0)) for place, offset in inputs.items()}
        await self._store.restored(tp.topic, pairs, position, inputs)

    async def stop(self) -> None:
        """Stop reading; the store stays open."""
        await disconnect(self._reader)


async def restore(
    kafka: Kafka, store: Store, lane: int, *, role: str, progress: Callable[[], None] = lambda: None
) -> int:
    """Bring ``store`` up to the end of its changelogs; returns records read.

    Ends are asked for after the lane's producer has fenced its predecessor, so nothing is added while this runs.
    ``progress`` is called as it goes. Raises KafkaError.
    """
    changelogs = Changelogs(kafka, store, lane, role=role)
    try:
        await changelogs.start(whole=True)
        began = reported = time.monotonic()
        while left := changelogs.left():
            await changelogs.step()
            if changelogs.left() != left:
                progress()
            if time.monotonic() - reported > _PROGRESS_SECONDS:
                reported = time.monotonic()
                log.info("lane %s %d: restoring %s", role, lane, _bar(changelogs, reported - began))
        if changelogs.records:
            taken = time.monotonic() - began
            log.info("lane %s %d: restored %d records in %.1f s", role, lane, changelogs.records, taken)
        return changelogs.records
    finally:
        await changelogs.stop()


def _bar(changelogs: Changelogs, seconds: float) -> str:
    done = changelogs.total - changelogs.left()
    share = done / max(1, changelogs.total)
    bar = "#" * int(share * _BAR)
    rate = done / max(seconds, 1e-9)
    remaining = f"{changelogs.left() / rate:.0f} s left" if rate else "no progress yet"
    return f"[{bar:.<{_BAR}}] {share:4.0%}, {rate:,.0f} records/s, {remaining}"


def _positions(headers: object) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, value in headers:  # type: ignore[attr-defined]
        if name == POSITIONS_HEADER and value:
            found |= orjson.loads(value)
    return found


def _unusable(store: Store, starts: dict[TopicPartition, int], ends: dict[TopicPartition, int]) -> bool:
    behind = False
    for tp, end in ends.items():
        offset = store.offsets.get(tp.topic)
        if offset is None:
            continue
        # A trailing commit marker stands between the last record and the end; or the beginning, if all was removed.
        if offset > end or offset < starts[tp] - 1:
            return True
        behind = behind or offset < end - 1
    return behind and time.time() - store.written_at > MAX_AGE_SECONDS
