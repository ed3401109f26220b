"""One transaction of a lane: an overlay over its store, and the outputs, changelog and offsets with it.

Nothing leaves the process until `Lane` commits; dropping the object undoes everything.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.producer.producer import DefaultPartitioner

from pipeline.stream.store import Store

__all__ = ["Transaction", "partition_for"]

Header = tuple[str, bytes]

_partition = DefaultPartitioner()
_partitions: dict[int, list[int]] = {}
_cache: dict[tuple[bytes, int], int] = {}
#: Murmur2 in Python costs 2.5 us a key; keys repeat. Cleared, not evicted, when full: simpler and as good.
_CACHE_KEYS = 200_000
#: Keys come from outside; long ones are not worth their memory.
_CACHE_KEY_BYTES = 128


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


class Transaction:
    """What one batch changes. Tables are read through the overlay, so a batch sees its own writes."""

    def __init__(self, lane: int, lanes: int, store: Store | None, producer: AIOKafkaProducer) -> None:
        self.lane = lane
        self.lanes = lanes
        self._store = store
        self._producer = producer
        self.changes: dict[str, dict[bytes, bytes | None]] = {name: {} for name in store.tables} if store else {}
        self.batches: dict[tuple[str, int], list[BatchBuilder]] = {}
        self.outputs = 0
        self._now = int(time.time() * 1000)

    @property
    def dirty(self) -> bool:
        """Whether a commit would write anything but offsets."""
        return self.outputs > 0 or any(self.changes.values())

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value under ``key`` as this transaction sees it, or None."""
        overlay = self.changes[table]
        if key in overlay:
            return overlay[key]
        return self._store.get(table, key)  # type: ignore[union-attr]

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Set ``key``; the changelog gets the last value of the transaction only."""
        self.changes[table][key] = value

    def delete(self, table: str, key: bytes) -> None:
        """Remove ``key`` (a tombstone on the changelog)."""
        self.changes[table][key] = None

    def scan(self, table: str, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Committed pairs with ``start <= key < end`` in order; this transaction's own changes are not in it."""
        return self._store.scan(table, start, end)  # type: ignore[union-attr]

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

        Raises ValueError for a record larger than a batch (1,000,000 bytes).
        """
        where = (topic, self.lane if partition is None else partition)
        builders = self.batches.get(where)
        if builders is None:
            builders = self.batches[where] = [self._producer.create_batch()]
        self.outputs += 1
        if builders[-1].append(timestamp=self._now, key=key, value=value, headers=headers or []) is None:
            builder = self._producer.create_batch()
            builders.append(builder)
            if builder.append(timestamp=self._now, key=key, value=value, headers=headers or []) is None:
                raise ValueError(f"a record of {len(value or b'')} bytes for {topic} does not fit a batch")

    def route(self, topic: str, key: bytes, value: bytes) -> None:
        """Add a record to the partition that ``key`` hashes to."""
        self.send(topic, key, value, partition=partition_for(key, self.lanes))
