"""Customers whose records all wait unread in retry topics: on disk, so that memory does not grow with their number.

A remainder of what Kafka has: begun empty by every process, written without a log, and forgotten at its end.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from itertools import count
from pathlib import Path
from typing import Any

from rocksdict import Cache, Options, Rdict, WriteOptions

from pipeline.sinks.barrier import Item
from pipeline.stream.rocks import is_locked, options

__all__ = ["Parked", "Shelf"]

log = logging.getLogger(__name__)

#: Processes that may share a folder.
_PLACES = 64
#: Of a million customers read at random: 16 MiB 146 us each, 64 MiB 25 us.
_CACHE_BYTES = 64 << 20
_BUFFER_BYTES = 8 << 20
_COMPLAIN_SECONDS = 60.0
#: Origin, offset, due, hop, and the tier's number on the shelf; 0 for the dispatch topic.
_ITEM = struct.Struct(">qqqIH")
_SHELF = struct.Struct(">Q")


class Parked:
    """One process's; each lane has a `shelf` in it. For one event loop; other processes may share ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._db: Rdict | None = None
        self._numbers = count()
        self._complained = 0.0

    async def open(self) -> None:
        """Before the first `shelf`. Raises OSError where the folder cannot be used."""
        self._db = await asyncio.to_thread(_open, self._folder)

    async def close(self) -> None:
        """Forget all. Shelves are used no more. Twice does no harm."""
        db, self._db = self._db, None
        if db is not None:
            await asyncio.to_thread(_remove, db)

    def shelf(self) -> Shelf:
        """A new one, empty."""
        return Shelf(self, _SHELF.pack(next(self._numbers)))

    def get(self, key: bytes) -> bytes | None:
        """What is under ``key``. Raises OSError."""
        db = self._open_db
        try:
            found: bytes | None = db.get(key)
        except Exception as error:
            raise OSError(f"{self._folder}: {error}") from error
        return found

    def put(self, key: bytes, value: bytes) -> bool:
        """Keep ``value`` under ``key``; False where the disk takes nothing, which is said in the log."""
        db = self._open_db
        try:
            db.put(key, value)
        except Exception as error:
            if time.monotonic() - self._complained > _COMPLAIN_SECONDS:
                self._complained = time.monotonic()
                log.error("ALERT %s takes nothing (%s): retries that wait are kept in memory", self._folder, error)
            return False
        return True

    def delete(self, key: bytes) -> None:
        """Forget ``key``. Raises OSError: it would come back."""
        db = self._open_db
        try:
            db.delete(key)
        except Exception as error:
            raise OSError(f"{self._folder}: {error}") from error

    def clear(self, start: bytes, end: bytes) -> None:
        """Forget ``start`` to before ``end``; nobody asks for these again."""
        if self._db is not None:
            try:
                self._db.delete_range(start, end)
            except Exception as error:
                log.warning("%s: %s; room is given back at the process's end", self._folder, error)

    @property
    def _open_db(self) -> Rdict:
        if self._db is None:
            raise RuntimeError("parked records are kept by an engine that runs: call open() first")
        return self._db


class Shelf:
    """One lane's: by customer, the unfinished records, none of which is in hand."""

    def __init__(self, parked: Parked, prefix: bytes) -> None:
        self._parked = parked
        self._prefix = prefix
        self._tiers: list[str | None] = [None]
        self._count = 0

    def __len__(self) -> int:
        """Customers on it."""
        return self._count

    def look(self, key: bytes) -> list[Item[Any]]:
        """The records of the customer, in the order of their origins; none where it is not here. Raises OSError."""
        value = self._parked.get(self._prefix + key) if self._count else None
        return [] if value is None else self._unpack(value)

    def take(self, key: bytes) -> list[Item[Any]]:
        """As `look`, and they are here no more."""
        found = self.look(key)
        if found:
            self._parked.delete(self._prefix + key)
            self._count -= 1
        return found

    def put(self, key: bytes, items: list[Item[Any]]) -> bool:
        """Keep the records of a customer that is not here; False where the disk takes nothing."""
        if not self._parked.put(self._prefix + key, b"".join(map(self._pack, items))):
            return False
        self._count += 1
        return True

    def clear(self) -> None:
        """Forget all; the shelf is used no more."""
        if self._count:
            self._parked.clear(self._prefix, _SHELF.pack(_SHELF.unpack(self._prefix)[0] + 1))
        self._count = 0

    def _pack(self, item: Item[Any]) -> bytes:
        if item.tier not in self._tiers:
            self._tiers.append(item.tier)
        return _ITEM.pack(item.origin, item.offset, item.due, item.hop, self._tiers.index(item.tier))

    def _unpack(self, value: bytes) -> list[Item[Any]]:
        tiers = self._tiers
        return [
            Item(origin, tiers[tier], hop, due, None, offset)
            for origin, offset, due, hop, tier in _ITEM.iter_unpack(value)
        ]


def _open(folder: Path) -> Rdict:
    """A place that no process uses, empty."""
    wanted = options(Cache(_CACHE_BYTES), buffer_bytes=_BUFFER_BYTES, open_files=64, logs=1)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(_PLACES):
        place = str(folder / str(number))
        try:
            Rdict.destroy(place, Options(raw_mode=True))
            db = Rdict(place, wanted)
        except Exception as error:
            if is_locked(error):
                continue
            raise OSError(f"retries that wait cannot be kept in {place}: {error}") from error
        unlogged = WriteOptions()
        unlogged.disable_wal = True
        db.set_write_options(unlogged)
        return db
    raise OSError(f"all {_PLACES} places in {folder} are used by other processes; set HEADRACE_DATA_DIR to another")


def _remove(db: Rdict) -> None:
    place = db.path()
    db.close()
    Rdict.destroy(place, Options(raw_mode=True))
