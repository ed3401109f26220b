"""Timers: keys in the order of their deadlines, in a table of their own, set and fired in the lane's transactions."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pipeline.stream.transaction import Transaction

__all__ = ["Timers"]


class Timers:
    """Deadlines (ms) of keys; a key may have several. They follow the clock they are asked about, so they are ordered
    with the input that moves it.

    Keys of ``table``: the deadline (8 bytes, big endian), then the key.
    """

    def __init__(self, table: str) -> None:
        self._table = table

    @staticmethod
    def entry(deadline: int, key: bytes) -> bytes:
        """The table's key, for an index that is rebuilt from another table (`pipeline.stream.store.Table.index`)."""
        return struct.pack(">Q", deadline) + key

    def set(self, txn: Transaction, deadline: int, key: bytes) -> None:
        """Let ``key`` be due at ``deadline``."""
        txn.put(self._table, self.entry(deadline, key), b"")

    def cancel(self, txn: Transaction, deadline: int, key: bytes) -> None:
        """Take back; nothing happens when it was not set."""
        txn.delete(self._table, self.entry(deadline, key))

    def due(self, txn: Transaction, moment: int) -> Iterator[tuple[int, bytes]]:
        """Deadlines up to and including ``moment``, with their keys, in order; `cancel` those that are dealt with.

        What this transaction has cancelled is not due any more; what it has set, not yet.
        """
        for entry, _ in txn.scan(self._table, b"", struct.pack(">Q", moment + 1)):
            yield struct.unpack_from(">Q", entry)[0], entry[8:]
