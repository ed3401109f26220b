"""A lane of the lake: a partition of a topic into files, and what files there are, each record once.

1. Open: fence whoever had the lane; read back its files and its position (`lake.files`).
2. Read the topic from the position on; gather, until there are enough or the oldest has waited long enough.
3. Write a file for each partner and day, under names that nobody knows yet.
4. Commit: the files and the new position, in one transaction; the position is its last record.
What dies before 4 leaves files that are in no manifest; step 1 of the next owner deletes them.
Small files of a day are made one: the new one added, the old ones removed, in one transaction. They are deleted a
while later, when no query reads them any more. Files with rows of customers who were erased are written anew in the
same way, for all that wait for it at once; new files are written without such rows.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from pipeline.lake.erasures import Erasures, oldest, without
from pipeline.lake.kinds import Kind
from pipeline.lake.store import LakeStore
from pipeline.models.lake import LakeFile, LakePosition, Manifest, file_key, position_key
from pipeline.stream.failpoints import passed
from pipeline.stream.fenced_lane import TRANSACTION_SECONDS, FencedLane
from pipeline.stream.kafka import Kafka, disconnect, know
from pipeline.stream.reader import Batch, Reader, open_reader

__all__ = ["LakeLane", "Names", "Pace"]

log = logging.getLogger(__name__)

_TAKE_SECONDS = 0.5
_TAKE_RECORDS = 20_000
#: So long a broker may hold a fetch with nothing to tell: what comes is told at once, and nobody waits for files.
_IDLE_MS = 5_000


@dataclass(frozen=True)
class Names:
    """The role's topics and its group; tests have their own, with a ``prefix``."""

    prefix: str = ""

    @property
    def app(self) -> str:
        """The group."""
        return f"{self.prefix}headrace-lake"

    @property
    def lanes(self) -> str:
        """Where the group forms."""
        return f"{self.prefix}lanes.lake"

    @property
    def files(self) -> str:
        """The manifest."""
        return f"{self.prefix}lake.files"

    @property
    def erasures(self) -> str:
        """Who was erased."""
        return f"{self.prefix}erasures"

    def topic(self, kind: Kind) -> str:
        """Where the records of a kind come from."""
        return f"{self.prefix}{kind.topic}"


@dataclass(frozen=True)
class Pace:
    """When files are written: at so many ``rows`` that are gathered, or after so many ``seconds``.

    ``small``: so many files of a day are made one, those of ``whole`` rows left alone. ``grace``: seconds until a
    removed file is deleted, longer than any query. ``erase``: so many seconds after the first of them was asked for,
    erasures are done.
    """

    rows: int = 200_000
    seconds: float = 30.0
    small: int = 12
    whole: int = 1_000_000
    grace: float = 900.0
    erase: float = 3600.0


class LakeLane(FencedLane[bool]):
    """Runs until it is stopped. What was gathered by then is read again by the next owner."""

    def __init__(
        self, kafka: Kafka, names: Names, kind: Kind, number: int, store: LakeStore, pace: Pace, erasures: Erasures
    ) -> None:
        super().__init__(kafka, f"lake {kind.name}", f"{names.app}-{kind.name}-{number}", number)
        self._kind = kind
        self._decode = kind.decoder()
        self._names = names
        self._store = store
        self._pace = pace
        self._erasures = erasures
        #: Before that moment (of `time.time`) nothing that was removed can be deleted.
        self._delete_at = 0.0
        self._tp = TopicPartition(names.topic(kind), number)
        self._manifest = Manifest(self._kind.name)
        self._reader: Reader | None = None
        self._gathered: defaultdict[str, list[pa.Table]] = defaultdict(list)
        self._rows = 0
        self._since = 0.0
        #: Where the files of this lane begin: offset and moment, the latter once its first row is read.
        self._begins: tuple[int, int | None] = 0, 0

    async def _opened(self) -> None:
        assert self._producer is not None
        await know(self._producer, self._names.files)
        self._manifest = Manifest(self._kind.name)
        for record in await self._committed(self._names.files):
            self._manifest.apply(record.key, record.value)
        self._gathered.clear()
        self._rows = 0
        self._delete_at = 0.0
        await asyncio.to_thread(self._clean)
        self._reader = open_reader(self._kafka, fetch_max_wait_ms=_IDLE_MS)
        await self._reader.start()
        begin = (await self._reader.beginning_offsets([self._tp]))[self._tp]
        position = self._manifest.positions.get(self.number)
        self._begins = (position.first, position.since) if position else (begin, None if begin else 0)
        if position and begin > position.next:
            self._lost(begin)
        self._reader.read_from({self._tp: max(begin, self._manifest.next(self.number))})

    async def _closed(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await disconnect(reader)

    async def _next(self) -> bool:
        """Gather until there is something to do; whether there is."""
        assert self._reader is not None
        try:
            batches = await self._reader.take(_TAKE_SECONDS, _TAKE_RECORDS)
        except OffsetOutOfRangeError:
            begin = (await self._reader.beginning_offsets([self._tp]))[self._tp]
            self._lost(begin)
            self._reader.read_from({self._tp: begin})
            batches = []
        if batches:
            if not self._rows:
                self._since = time.monotonic()
            if self._begins[1] is None:
                self._begins = self._begins[0], batches[0].records[0].timestamp
            for partner, table in (await asyncio.to_thread(self._columns, batches)).items():
                self._gathered[partner].append(table)
                self._rows += table.num_rows
        return self._worth() or self._to_erase() or time.time() >= self._delete_at

    def _worth(self) -> bool:
        """Whether what is gathered is worth files."""
        return self._rows >= self._pace.rows or (
            self._rows > 0 and time.monotonic() - self._since >= self._pace.seconds
        )

    def _to_erase(self) -> bool:
        """Whether there are erasures that have waited long enough; a lane that has no files has nothing to erase."""
        position = self._manifest.positions.get(self.number)
        if self._kind.trail is None or position is None or position.erased >= self._erasures.next:
            return False
        first = oldest(self._erasures.since(position.erased))
        return first is None or time.time() - first / 1000 >= self._pace.erase

    def _columns(self, batches: Sequence[Batch]) -> dict[str, pa.Table]:
        records = ((record.offset, record.value or b"") for batch in batches for record in batch.records)
        return self._kind.columns(self._decode, self.number, records)

    async def _do(self, work: bool) -> None:
        if not work:
            return
        if self._worth():
            await self._file()
        if self._to_erase():
            await self._erase()
        if time.time() >= self._delete_at:
            await self._delete()

    async def _file(self) -> None:
        """What is gathered into files."""
        assert self._reader is not None
        before = self._manifest.positions.get(self.number)
        first, since = self._begins
        made = LakePosition(
            kind=self._kind.name,
            lane=self.number,
            commit=self._manifest.commit(self.number) + 1,
            next=self._reader.positions()[self._tp],
            first=first,
            since=since or 0,
            erased=before.erased if before else self._erasures.next,
        )
        moments = {partner: self._erasures.moments(partner) for partner in self._gathered}
        files = await asyncio.to_thread(self._written, made.commit, moments)
        passed("lake-written")
        await self._commit(files, made)
        self._gathered.clear()
        self._rows = 0
        for day in {(file.partner, file.day) for file in files}:
            await self._join(*day)

    async def _erase(self) -> None:
        """Write files anew that have rows of who was erased, without them."""
        position, upto = self._manifest.positions[self.number], self._erasures.next
        commit = position.commit + 1
        partners = {told.erasure.partner for told in self._erasures.since(position.erased)}
        moments = {partner: self._erasures.moments(partner, position.erased) for partner in partners}
        made, old = await asyncio.to_thread(self._rewritten, commit, moments)
        passed("lake-rewritten")
        await self._commit(
            [*made, *self._gone(old, commit)], position.model_copy(update={"commit": commit, "erased": upto})
        )

    def _rewritten(self, commit: int, moments: dict[str, dict[str, int]]) -> tuple[list[LakeFile], list[LakeFile]]:
        """The new files, and those that they are in place of."""
        made: list[LakeFile] = []
        old: list[LakeFile] = []
        for partner, those in moments.items():
            last = max(those.values()) + (self._kind.trail or 0)
            for file in list(self._manifest.files(partner)):
                if file.lane != self.number or file.first > last:
                    continue
                table = self._store.read([file.path], self._kind.schema)
                kept = without(table, self._kind, partner, those)
                if kept.num_rows == table.num_rows:
                    continue
                old.append(file)
                if kept.num_rows:
                    made.append(self._write(partner, file.day, commit, kept))
        return made, old

    def _gone(self, files: Iterable[LakeFile], commit: int) -> list[LakeFile]:
        """These, removed by that commit."""
        now = int(time.time() * 1000)
        self._delete_at = min(self._delete_at, time.time() + self._pace.grace)
        return [file.model_copy(update={"removed": commit, "removed_at": now}) for file in files]

    def _lost(self, begin: int) -> None:
        first = self._manifest.next(self.number)
        self._begins = begin, None
        log.error(
            "ALERT %s lane %d is to read %s at %d, and it begins at %d: rows are lost",
            *(self._role, self.number, self._tp.topic, first, begin),
        )

    async def _commit(self, files: Sequence[LakeFile], position: LakePosition, gone: Iterable[str] = ()) -> None:
        producer = self._producer
        assert producer is not None
        records: list[tuple[bytes, bytes | None]] = [(file_key(file.path), file.to_json()) for file in files]
        records += [(file_key(path), None) for path in gone]
        records.append((position_key(self._kind.name, self.number), position.to_json()))
        async with asyncio.timeout(TRANSACTION_SECONDS):
            await producer.begin_transaction()
            sent = [await producer.send(self._names.files, value, key, self.number) for key, value in records]
            for answer in await asyncio.gather(*sent, return_exceptions=True):
                if isinstance(answer, BaseException):
                    raise answer
            passed("lake-sent")
            await producer.commit_transaction()
        passed("lake-committed")
        for key, value in records:
            self._manifest.apply(key, value)

    def _written(self, commit: int, moments: dict[str, dict[str, int]]) -> list[LakeFile]:
        """A file for each partner and day of what is gathered, without what was erased meanwhile."""
        files: list[LakeFile] = []
        for partner, tables in self._gathered.items():
            table = without(pa.concat_tables(tables), self._kind, partner, moments[partner])
            days = pc.cast(pc.floor_temporal(table["time"], unit="day"), pa.date32())
            files += [
                self._write(partner, day.isoformat(), commit, table.filter(pc.equal(days, day)))
                for day in pc.unique(days).to_pylist()
            ]
        return files

    def _write(self, partner: str, day: str, commit: int, table: pa.Table) -> LakeFile:
        path = f"{self._kind.name}/{partner}/{day}/{self.number}-{commit}-{uuid.uuid4().hex[:8]}.parquet"
        size = self._store.write(path, table)
        times = pc.min_max(table["time"]).as_py()
        return LakeFile(
            path=path,
            kind=self._kind.name,
            partner=partner,
            day=day,
            lane=self.number,
            rows=table.num_rows,
            bytes=size,
            first=_ms(times["min"]),
            last=_ms(times["max"]),
            added=commit,
        )

    async def _join(self, partner: str, day: str) -> None:
        """Make the day's small files one, where there are many."""
        small = [
            file
            for file in self._manifest.files(partner)
            if file.lane == self.number and file.day == day and file.rows < self._pace.whole
        ]
        if len(small) < self._pace.small:
            return
        position = self._manifest.positions[self.number]
        commit = position.commit + 1

        def joined() -> LakeFile:
            table = self._store.read([file.path for file in small], self._kind.schema)
            return self._write(partner, day, commit, table.sort_by([("time", "ascending"), ("offset", "ascending")]))

        one = await asyncio.to_thread(joined)
        passed("lake-joined")
        await self._commit([one, *self._gone(small, commit)], position.model_copy(update={"commit": commit}))

    async def _delete(self) -> None:
        """Delete what was removed long enough ago, then forget it."""
        grace = self._pace.grace * 1000
        moments = {file.path: (file.removed_at or 0) + grace for file in self._manifest.removed(self.number)}
        gone = [path for path, moment in moments.items() if moment <= time.time() * 1000]
        if gone:
            await asyncio.to_thread(self._store.delete, gone)
            position = self._manifest.positions[self.number]
            await self._commit([], position.model_copy(update={"commit": position.commit + 1}), gone)
        left = [moment for path, moment in moments.items() if path not in gone]
        self._delete_at = min(left) / 1000 if left else math.inf

    def _clean(self) -> None:
        """Delete files that an owner before has written and not committed. Nobody else can commit any more."""
        known = {file.path for file in self._manifest.all_of(self.number)}
        for path in self._store.listed(self._kind.name, f"{self.number}-"):
            if path not in known:
                log.info("%s lane %d: %s was never committed; deleted", self._role, self.number, path)
                self._store.delete([path])


def _ms(moment: datetime) -> int:
    return round(moment.astimezone(UTC).timestamp() * 1000)
