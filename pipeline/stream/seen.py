"""Ids seen before, kept for a time to live in a table: the same commit holds an id and what it led to."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import islice

from pipeline.stream.transaction import Transaction

__all__ = ["Seen"]

#: Ids that one call of `forget` removes, so that the input is not held up.
STEP = 500
_LAST = 0xFFFFFFFF


class Seen:
    """The ids of one lane, in buckets of ``bucket_ms`` (their time to live: one bucket at least, two at most).

    Keys of ``table``: ``prefix``, the bucket's number (4 bytes, big endian), the id; so a bucket is dropped in one
    go, and a table may hold other things under other prefixes. Ids should be digests: short, and of one length.
    """

    def __init__(self, table: str, *, prefix: bytes = b"", bucket_ms: int = 86_400_000) -> None:
        self._table = table
        self._prefix = prefix
        self._bucket_ms = bucket_ms
        self._emptied = -1
        #: The buckets that hold anything; None: not known yet.
        self._buckets: set[int] | None = None
        #: Keys that were looked up together, and whether they are there.
        self._looked: dict[bytes, bool] = {}

    async def look(self, txn: Transaction, ids: Iterable[tuple[bytes, int]]) -> None:
        """Look up (digest, moment) pairs, all of a batch at once and in a thread: `first` then answers from memory.

        Never needed, and worth it where a batch has many ids. What an earlier call looked up is forgotten.
        """
        buckets = self._filled(txn)
        keys: list[bytes] = []
        for digest, moment in ids:
            bucket = moment // self._bucket_ms
            keys += [self._key(near) + digest for near in (bucket, bucket - 1, bucket + 1) if near in buckets]
        self._looked = {key: value is not None for key, value in (await txn.read(self._table, keys)).items()}

    def first(self, txn: Transaction, digest: bytes, moment: int) -> bool:
        """Whether ``digest`` was not seen before ``moment`` (ms) within its time to live; it is from now on."""
        bucket = max(0, moment // self._bucket_ms)
        buckets, looked = self._filled(txn), self._looked
        # The one after, too: what was received later may have been processed first.
        for near in (bucket, bucket - 1, bucket + 1):
            if near in buckets:
                key = self._key(near) + digest
                there = looked.get(key)
                if there or (there is None and txn.get(self._table, key) is not None):
                    return False
        key = self._key(bucket) + digest
        txn.put(self._table, key, b"1")
        looked[key] = True
        buckets.add(bucket)
        return True

    def forget(self, txn: Transaction, moment: int) -> bool:
        """Remove ids whose time is over at ``moment`` (ms), at most `STEP`; True when more of them are left."""
        oldest = moment // self._bucket_ms - 1
        if oldest <= self._emptied:
            return False  # what was deleted still lies in the way of a scan, until RocksDB compacts it
        old = [key for key, _ in islice(txn.scan(self._table, self._prefix, self._key(oldest)), STEP)]
        for key in old:
            txn.delete(self._table, key)
        if len(old) < STEP:
            self._emptied = oldest
            if self._buckets is not None:
                self._buckets = {bucket for bucket in self._buckets if bucket >= oldest}
        return len(old) == STEP

    def reset(self) -> None:
        """A transaction was dropped, perhaps one that filled or emptied a bucket."""
        self._emptied = -1
        self._buckets = None
        self._looked = {}

    def _filled(self, txn: Transaction) -> set[int]:
        """The buckets that may hold an id: a handful, found by as many seeks."""
        if self._buckets is None:
            self._buckets = set()
            start, end = self._prefix, self._key(_LAST) + b"\xff"
            while (found := next(txn.scan(self._table, start, end), None)) is not None:
                (bucket,) = struct.unpack_from(">I", found[0], len(self._prefix))
                self._buckets.add(bucket)
                start = self._key(bucket + 1)
                if bucket == _LAST:
                    break
        return self._buckets

    def _key(self, bucket: int) -> bytes:
        return self._prefix + struct.pack(">I", max(0, bucket))
