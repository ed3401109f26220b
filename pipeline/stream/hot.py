"""Values used a moment ago, kept as Python objects: RocksDB answers in 1.3 us, a dict in 0.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from weakref import WeakSet

__all__ = ["UNKNOWN", "Hot"]

#: Bytes that the caches of one process may hold together.
_BUDGET_BYTES = 128 << 20
#: What an entry costs beside its key and value.
_ENTRY_BYTES = 160
UNKNOWN: Literal[False] = False
_alive: WeakSet[Hot] = WeakSet()


class Hot:
    """A cache in two generations: when the young one is full it becomes the old one, and what was old is forgotten.

    That is nearly as good as least recently used, at the price of a dict. ``young`` is read by the store itself, which
    saves a call for most reads: value, None for a key that is known to be absent.
    """

    __slots__ = ("__weakref__", "_bytes", "_old", "young")

    def __init__(self) -> None:
        _alive.add(self)
        self.young: dict[bytes, bytes | None] = {}
        self._old: dict[bytes, bytes | None] = {}
        self._bytes = 0

    def older(self, key: bytes) -> bytes | Literal[False] | None:
        """What `young` does not have: the value, None where it is known to be absent, `UNKNOWN` where nothing is."""
        old = self._old.get(key, UNKNOWN)
        if old:
            self.put(key, old)
        return old

    def put(self, key: bytes, value: bytes) -> None:
        """Remember."""
        self.young[key] = value
        self._grow(1, len(key) + len(value))

    def update(self, pairs: Mapping[bytes, bytes | None], size: int) -> None:
        """Remember these, of ``size`` bytes of keys and values."""
        self.young.update(pairs)
        self._grow(len(pairs), size)

    def load(self, pairs: Mapping[bytes, bytes | None]) -> None:
        """Remember what was read, None for keys that are absent."""
        self.update(pairs, sum(len(key) + len(value or b"") for key, value in pairs.items()))

    def clear(self) -> None:
        """Forget all: the table is written by others."""
        if self.young or self._old:
            self.young, self._old, self._bytes = {}, {}, 0

    def _grow(self, entries: int, size: int) -> None:
        self._bytes += size + entries * _ENTRY_BYTES
        if self._bytes > _BUDGET_BYTES // (2 * len(_alive)):
            self._old, self.young, self._bytes = self.young, {}, 0
