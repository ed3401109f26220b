"""One transaction of a lane: an overlay over its store, and the outputs, changelog and offsets with it.

Nothing leaves the process until `Lane` commits; dropping the object undoes everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.producer.producer import DefaultPartitioner

from pipeline.stream.record_batch import RecordBatch, new_batch
from pipeline.stream.store import Store

__all__ = ["Transaction", "partition_for"]

Header = tuple[str, bytes]


class Send(Protocol):
    """Adds a record to one partition of a topic. Raises ValueError as `Transaction.send`."""

    def __call__(self, key: bytes | None, value: bytes | None, headers: list[Header] = ...) -> None: ...


#: Shared, and never changed.
_NO_HEADERS: list[Header] = []

_partition = DefaultPartitioner()
_partitions: dict[int, list[int]] = {}
_cache: dict[tuple[bytes, int], int] = {}
#: Murmur2 in Python costs 2.5 us a key; keys repeat. Cleared, not evicted, when full: simpler and as good.
_CACHE_KEYS = 200_000
#: Keys come from outside; long ones are not worth their memory.
_CACHE_KEY_BYTES = 128
#: What one record may be, alone in its batch: the producer's ``max_request_size``. A topic that takes less refuses it.
_RECORD_BYTES = 2_000_000


def partition_for(key: bytes, partitions: int) -> int:
    """The partition of ``key`` among ``partitions``: murmur2, as Kafka's Java producers choose it."""
    cached = _cache.get((key, partitions))
    if cached is None:
        every = _partitions.setdefault(partitions, list(range(partitions)))
        cached = _partition(key, every, every)
        if len(key) <= _CACHE_KEY_BYTES:
            if len(_cache) >= _CACHE_KEYS:
                _cache.clear()
            _cache[(key, partitions)] = cached
    return cached


class _Output:
    """The record batches of one (topic, partition), the last of them open."""

    __slots__ = ("_append", "_count", "_last", "_new", "_now", "_topic", "builders")

    def __init__(self, topic: str, now: int, new: Callable[[], RecordBatch]) -> None:
        self.builders: list[RecordBatch] = []
        self._topic = topic
        self._now = now
        self._new = new
        self._another()

    def _another(self) -> None:
        self._last = self._new()
        self.builders.append(self._last)
        self._append = self._first
        self._count = 0

    def _first(
        self, offset: int, timestamp: int, key: bytes | None, value: bytes | None, headers: list[Header]
    ) -> object | None:
        """A batch takes its first record whatever its size, and the broker would then refuse it."""
        # The builder inside the builder: its wrapper would take half of the time of an append.
        self._append = self._last._builder.append
        appended: object | None = self._append(offset, timestamp, key, value, headers)
        if self._last.size() > _RECORD_BYTES:
            raise ValueError(f"a record of {len(value or b'')} bytes for {self._topic} does not fit a batch")
        return appended

    def add(self, key: bytes | None, value: bytes | None, headers: list[Header] = _NO_HEADERS) -> None:
        """Append; a batch that is full is followed by another. Raises ValueError for what no batch can take."""
        if self._append(self._count, self._now, key, value, headers) is None:
            self.seal()
            self._another()
            self._append(0, self._now, key, value, headers)
        self._count += 1

    @property
    def empty(self) -> bool:
        """Whether nothing was added."""
        return not self._count

    def seal(self) -> None:
        """Let the last batch know how many records it has; no more are added to it."""
        self._last._relative_offset = self._count
        self._last.close()


class Transaction:
    """What one batch changes. Tables are read through the overlay, so a batch sees its own writes."""

    def __init__(self, lane: int, lanes: int, store: Store | None, producer: AIOKafkaProducer) -> None:
        self.lane = lane
        self.lanes = lanes
        self._store = store
        self._producer = producer
        self.changes: dict[str, dict[bytes, bytes | None]] = {name: {} for name in store.tables} if store else {}
        self._open: dict[tuple[str, int], _Output] = {}
        self._now = int(time.time() * 1000)

    @property
    def dirty(self) -> bool:
        """Whether a commit would write anything but offsets."""
        return any(self.changes.values()) or any(not output.empty for output in self._open.values())

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value under ``key`` as this transaction sees it, or None."""
        overlay = self.changes[table]
        if key in overlay:
            return overlay[key]
        return self._store.get(table, key)  # type: ignore[union-attr]

    async def load(self, table: str, keys: Iterable[bytes]) -> None:
        """Bring ``keys`` into memory, all of a batch at once and in a thread: `get` then answers from there.

        Never needed, and worth it where a batch meets many keys that were not used lately.
        """
        overlay = self.changes[table]
        await self._store.load(table, (key for key in keys if key not in overlay))  # type: ignore[union-attr]

    async def read(self, table: str, keys: Iterable[bytes]) -> dict[bytes, bytes | None]:
        """The values under ``keys`` as this transaction sees them, None for absent ones; read as `load` does.

        They are not kept in memory: for keys that are met once.
        """
        overlay = self.changes[table]
        wanted = set(keys)
        known = {key: overlay[key] for key in wanted & overlay.keys()} if overlay else {}
        return known | await self._store.read(table, wanted - known.keys())  # type: ignore[union-attr]

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Set ``key``; the changelog gets the last value of the transaction only."""
        self.changes[table][key] = value

    def delete(self, table: str, key: bytes) -> None:
        """Remove ``key`` (a tombstone on the changelog)."""
        self.changes[table][key] = None

    def scan(self, table: str, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Committed pairs with ``start <= key < end`` in order, without those that this transaction has removed.

        What it has set is not in it.
        """
        overlay = self.changes[table]
        pairs = self._store.scan(table, start, end)  # type: ignore[union-attr]
        return (pair for pair in pairs if overlay.get(pair[0], b"") is not None)

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        headers: list[Header] | None = None,
    ) -> None:
        """Add a record to ``topic``: to this lane's own partition, unless told otherwise.

        Raises ValueError for a record of more than 2,000,000 bytes.
        """
        self.to(topic, partition)(key, value, headers or [])

    def to(self, topic: str, partition: int | None = None) -> Send:
        """`send` with its destination settled, for a loop that sends many: ``(key, value, headers=[])``."""
        where = (topic, self.lane if partition is None else partition)
        output = self._open.get(where)
        if output is None:
            output = self._open[where] = _Output(topic, self._now, partial(new_batch, self._producer))
        return output.add

    def route(self, topic: str, key: bytes, value: bytes) -> None:
        """Add a record to the partition that ``key`` hashes to."""
        self.send(topic, key, value, partition=partition_for(key, self.lanes))

    def sealed(self) -> dict[tuple[str, int], list[RecordBatch]]:
        """All outputs so far as record batches, by (topic, partition); nothing can be added to them any more."""
        filled = {where: output for where, output in self._open.items() if not output.empty}
        for output in filled.values():
            output.seal()
        return {where: output.builders for where, output in filled.items()}
