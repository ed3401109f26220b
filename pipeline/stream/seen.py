"""Ids seen before, kept for a time to live in a table: the same commit holds an id and what it led to."""

from __future__ import annotations

import struct
from itertools import islice

from pipeline.stream.transaction import Transaction

__all__ = ["Seen"]

#: Ids that one call of `forget` removes, so that the input is not held up.
STEP = 500


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

    def first(self, txn: Transaction, digest: bytes, moment: int) -> bool:
        """Whether ``digest`` was not seen before ``moment`` (ms) within its time to live; it is from now on."""
        bucket = moment // self._bucket_ms
        # The one after, too: what was received later may have been processed first.
        for near in (bucket, bucket - 1, bucket + 1):
            if txn.get(self._table, self._key(near) + digest) is not None:
                return False
        txn.put(self._table, self._key(bucket) + digest, b"1")
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
        return len(old) == STEP

    def reset(self) -> None:
        """A transaction was dropped, perhaps one that emptied a bucket."""
        self._emptied = -1

    def _key(self, bucket: int) -> bytes:
        return self._prefix + struct.pack(">I", max(0, bucket))
