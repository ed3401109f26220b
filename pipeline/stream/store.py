"""A lane's local state: one RocksDB, a column family a table, offsets beside the data they belong to.

RocksDB never holds what Kafka has not committed: `write` is called after the commit, with the changelog
offsets in the same WriteBatch. So after a crash nothing is wiped; the store is at most behind, and the
changelog brings it up to date. A store that is locked, corrupt, ahead of its changelog or too old is rebuilt.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rocksdict import Cache, Options, Rdict, WriteBatch, WriteBufferManager

from pipeline.stream.hot import UNKNOWN, Hot
from pipeline.stream.rocks import is_locked, options

__all__ = ["LockedError", "Store", "StoreError", "Table"]

log = logging.getLogger(__name__)

#: What one process may keep of all its stores in memory: blocks read, and writes not yet flushed.
_CACHE_BYTES = 512 << 20
_WRITE_BUFFER_BYTES = 256 << 20
#: Of one column family: keys are written over and over, and what is rewritten in memory is compacted once.
_FAMILY_BUFFER_BYTES = 64 << 20
_LEVEL_BYTES = 512 << 20
#: Deletions leave a compacted changelog after 24 h (delete.retention.ms); an older store may miss some.
MAX_AGE_SECONDS = 12 * 3600
#: How long a lane that was given up may take to close, before its lock is taken for another process's for good.
_LOCK_SECONDS = 3.0
#: Fewer reads than this are not worth a thread.
_THREAD_READS = 32
_META = "meta"
_OFFSETS = b"offsets"
_shared: dict[str, object] = {}

#: Next offsets of changelogs and of inputs, and when they were written.
_Marks = tuple[dict[str, int], dict[str, int], float]
Index = Callable[[bytes, bytes], tuple[bytes, bytes] | None]


class LockedError(OSError):
    """Another process holds the store."""


class StoreError(OSError):
    """The store cannot be read or written. ``corrupt``: it will never be; else (a full disk) it may be later."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(f"store {path}: {error}")
        self.corrupt = "corruption" in str(error).lower()


@dataclass(frozen=True)
class Table:
    """A keyed table. ``changelog``: its topic; None for a local index that others' records rebuild.

    ``index``: for a changelog table, ``(key, value) -> (key, value)`` of an entry in table ``index_table`` to be
    written when the record is restored (the lane's own code writes it in normal running), or None for none.
    """

    name: str
    changelog: str | None
    index_table: str | None = None
    index: Index | None = None


def _options() -> Options:
    if not _shared:
        _shared["cache"] = Cache(_CACHE_BYTES)
        _shared["buffers"] = WriteBufferManager(_WRITE_BUFFER_BYTES, False)
    made = options(_shared["cache"], buffer_bytes=_FAMILY_BUFFER_BYTES, open_files=256, logs=2)
    made.create_missing_column_families(True)
    made.set_write_buffer_manager(_shared["buffers"])
    made.set_max_bytes_for_level_base(_LEVEL_BYTES)
    return made


class Store:
    """The tables of one lane on disk. Not thread-safe; one process at a time (RocksDB's lock says so)."""

    def __init__(self, path: Path, tables: Mapping[str, Table], *, siblings: int = 15) -> None:
        self.tables = dict(tables)
        self._db, self.path = self._find(path, siblings)
        self._families = {name: self._db.get_column_family(name) for name in self.tables}
        self._handles = {name: self._db.get_column_family_handle(name) for name in [*self.tables, _META]}
        self._hot = {name: Hot() for name in self.tables}
        #: The next offset of each changelog, and of each input ("topic:partition") as far as the changelogs say it.
        self.offsets: dict[str, int] = {}
        self.inputs: dict[str, int] = {}
        self.written_at = 0.0
        meta = self._db.get_column_family(_META).get(_OFFSETS)
        if meta is not None:
            with contextlib.suppress(orjson.JSONDecodeError, KeyError, TypeError):
                stored = orjson.loads(meta)
                self.offsets = {str(k): int(v) for k, v in stored["changelogs"].items()}
                self.inputs = {str(k): int(v) for k, v in stored.get("inputs", {}).items()}
                self.written_at = float(stored["at"])

    @classmethod
    async def open(cls, path: Path, tables: Mapping[str, Table]) -> Store:
        """Open without holding up the loop. A lane that moves within a machine is waited for, since it is warm.

        Raises OSError when this place and its siblings are all locked.
        """
        deadline = time.monotonic() + _LOCK_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(LockedError):
                return await asyncio.to_thread(cls, path, tables, siblings=0)
            await asyncio.sleep(0.1)
        return await asyncio.to_thread(cls, path, tables)

    def _find(self, path: Path, siblings: int) -> tuple[Rdict, Path]:
        """Open ``path``, or a sibling of it where a live process (a zombie, perhaps) still holds its lock."""
        for attempt in range(1 + siblings):
            place = path if attempt == 0 else path.with_name(f"{path.name}.{attempt}")
            place.parent.mkdir(parents=True, exist_ok=True)
            families = {name: _options() for name in [*self.tables, _META]}
            try:
                return Rdict(str(place), _options(), column_families=families), place
            except Exception as error:
                if is_locked(error):
                    continue
                if "no space" in str(error).lower():
                    raise StoreError(place, error) from error
                log.warning("store %s can't be opened (%s); it is rebuilt from the changelog", place, error)
                shutil.rmtree(place, ignore_errors=True)
                return Rdict(str(place), _options(), column_families=families), place
        also = f" and {siblings} siblings are" if siblings else " is"
        raise LockedError(f"{path}{also} locked by other processes; stop them or set another data dir")

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value under ``key``, or None."""
        hot = self._hot[table]
        value = hot.young.get(key, UNKNOWN)
        if value is UNKNOWN and (value := hot.older(key)) is UNKNOWN:
            try:
                value = self._families[table].get(key)
            except Exception as error:
                raise StoreError(self.path, error) from error
            if value is not None:
                hot.put(key, value)
        return value

    async def load(self, table: str, keys: Iterable[bytes]) -> None:
        """Read what of ``keys`` is not in memory, so that `get` finds it there; the loop goes on with other lanes."""
        hot = self._hot[table]
        missing = sorted({key for key in keys if key not in hot.young and hot.older(key) is UNKNOWN})
        if len(missing) >= _THREAD_READS:
            # In the order of the keys, neighbours share a block: a third cheaper. RocksDB lets go of the interpreter.
            values = await self._aside(self._families[table].get, missing)
            hot.load(dict(zip(missing, values, strict=True)))

    async def read(self, table: str, keys: Iterable[bytes]) -> dict[bytes, bytes | None]:
        """What is under ``keys``, past the cache: in a thread where there are many."""
        wanted = sorted(keys)
        family = self._families[table]
        if len(wanted) < _THREAD_READS:
            return {key: self.get(table, key) for key in wanted}
        return dict(zip(wanted, await self._aside(family.get, wanted), strict=True))

    def scan(self, table: str, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with ``start <= key < end`` in key order, as of the call."""
        iterator = self._families[table].iter()
        iterator.seek(start)
        while iterator.valid():
            key = iterator.key()
            if end is not None and key >= end:
                return
            yield key, iterator.value()
            iterator.next()
        try:
            iterator.status()  # an iterator that meets a broken block only says that it is at its end
        except Exception as error:
            raise StoreError(self.path, error) from error

    def write(
        self,
        changes: Mapping[str, Mapping[bytes, bytes | None]],
        offsets: Mapping[str, int],
        inputs: Mapping[str, int] | None = None,
    ) -> None:
        """Write what Kafka has committed: table -> key -> value (None deletes), and next offsets of changelogs
        and inputs, all in one WriteBatch."""
        batch, marks = self._prepared(changes, offsets, inputs or {})
        self._db.write(batch)
        self.offsets, self.inputs, self.written_at = marks

    async def apply(
        self,
        changes: Mapping[str, Mapping[bytes, bytes | None]],
        offsets: Mapping[str, int],
        inputs: Mapping[str, int],
    ) -> None:
        """`write`, while the loop goes on with other lanes. The store must not be read meanwhile."""
        await self._write(*self._prepared(changes, offsets, inputs))

    async def restored(
        self,
        changelog: str,
        pairs: Mapping[bytes, bytes | None],
        offset: int,
        inputs: Mapping[str, int],
    ) -> None:
        """Write records read back from ``changelog`` (its tables and their indexes), up to before ``offset``."""
        batch = WriteBatch(raw_mode=True)
        for table in self.tables.values():
            if table.changelog != changelog:
                continue
            self._hot[table.name].clear()
            self._add(batch, table.name, pairs)
            if table.index is not None and table.index_table is not None:
                found = (table.index(key, value) for key, value in pairs.items() if value is not None)
                self._hot[table.index_table].clear()
                self._add(batch, table.index_table, dict(entry for entry in found if entry is not None))
        await self._write(batch, self._mark(batch, {changelog: offset}, inputs))

    async def _write(self, batch: WriteBatch, marks: _Marks) -> None:
        # RocksDB lets go of the interpreter: others compute meanwhile.
        await self._aside(self._db.write, batch)
        self.offsets, self.inputs, self.written_at = marks

    async def _aside(self, work: Callable[[Any], Any], argument: Any) -> Any:
        """``work`` in a thread. Whoever cancels this gets the store when it has ended. Raises StoreError."""
        working = asyncio.create_task(asyncio.to_thread(work, argument))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            await asyncio.wait([working])
            raise
        except Exception as error:
            raise StoreError(self.path, error) from error

    def _add(self, batch: WriteBatch, table: str, pairs: Mapping[bytes, bytes | None]) -> int:
        """Add ``pairs`` to ``batch``; the bytes of keys and values."""
        handle = self._handles[table]
        put, size = batch.put, 0
        for key, value in pairs.items():
            if value is None:
                batch.delete(key, handle)
            else:
                put(key, value, handle)
                size += len(key) + len(value)
        return size

    def _prepared(
        self,
        changes: Mapping[str, Mapping[bytes, bytes | None]],
        offsets: Mapping[str, int],
        inputs: Mapping[str, int],
    ) -> tuple[WriteBatch, _Marks]:
        batch = WriteBatch(raw_mode=True)
        for table, pairs in changes.items():
            size = self._add(batch, table, pairs)
            self._hot[table].update(pairs, size)
        return batch, self._mark(batch, offsets, inputs)

    def _mark(self, batch: WriteBatch, offsets: Mapping[str, int], inputs: Mapping[str, int]) -> _Marks:
        """Add to ``batch`` how far it is; the same for the attributes, once it is written."""
        marks = ({**self.offsets, **offsets}, {**self.inputs, **inputs}, time.time())
        meta = orjson.dumps({"changelogs": marks[0], "inputs": marks[1], "at": marks[2]})
        batch.put(_OFFSETS, meta, self._handles[_META])
        return marks

    def compact(self, table: str) -> int:
        """Compact a table wholly; the bytes of its files after that. Holds the caller up for as long as it takes."""
        family = self._families[table]
        family.flush()
        family.compact_range(None, None)
        return int(family.property_int_value("rocksdb.live-sst-files-size") or 0)

    def wipe(self) -> None:
        """Drop everything; the next restore reads the changelogs whole."""
        path = self.path
        self.close()
        shutil.rmtree(path, ignore_errors=True)
        self.__init__(path, self.tables)  # type: ignore[misc]

    async def abandon(self, error: StoreError) -> None:
        """Close after ``error``: RocksDB takes nothing more, until it is opened again. What is corrupt is removed."""
        with contextlib.suppress(Exception):
            await asyncio.to_thread(self.close)
        if error.corrupt:
            await asyncio.to_thread(shutil.rmtree, self.path, ignore_errors=True)

    def close(self) -> None:
        """Flush and release the lock."""
        self._families.clear()
        self._handles.clear()
        self._db.close()
