"""Who was erased, and when: a keyed hash of each identifier in a lane's state, never the identifier.

What happened under one by then is not taken again, however it comes: late, from a topic that is read once more, or in a
file that is loaded anew. What happens later is somebody new.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Any

import msgspec

from pipeline.agents.tables import FENCE, FENCES, STATE, dumps
from pipeline.stream.transaction import Transaction

__all__ = ["Fences", "KeyOf"]

#: The bytes of a secret of that name. Raises OSError when it can't be read.
KeyOf = Callable[[str], Awaitable[bytes]]

_loads = msgspec.json.Decoder().decode


class Fences:
    """One lane's. ``until``: the moment (ms) of the newest; nothing that happened later need be looked up.

    The key of the hashes is a secret, which the lane's state knows by its name: who has the state alone can't try
    whether somebody was erased. There are two where two API processes made the first one at the same time.
    """

    def __init__(self, key_of: KeyOf) -> None:
        self.until = -1
        self._key_of = key_of
        self._names: list[str] = []
        self._keys: dict[str, bytes] = {}

    @property
    def key(self) -> str:
        """The name of a key, where there is a fence."""
        return self._names[0]

    def load(self, txn: Transaction) -> None:
        """Read back what the tables say."""
        stored = txn.get(STATE, FENCES)
        known: dict[str, Any] = _loads(stored) if stored else {}
        self.until = known.get("until", -1)
        self._names = known.get("keys", [])

    async def ready(self, *names: str) -> None:
        """Have the keys at hand, these too: before `hold` and `set`. Raises OSError when they can't be read."""
        for name in (*self._names, *names):
            if name not in self._keys:
                self._keys[name] = await self._key_of(name)

    def set(self, identifier: bytes, at: int, name: str, txn: Transaction) -> None:
        """Let nothing under ``identifier`` that happened until ``at`` (ms) come back. ``name``: of the key."""
        txn.put(STATE, self._place(identifier, name), str(max(at, self.at(identifier, txn))).encode())
        if at > self.until or name not in self._names:
            self.until = max(at, self.until)
            if name not in self._names:
                self._names = [*self._names, name]
            txn.put(STATE, FENCES, dumps({"until": self.until, "keys": self._names}))

    def at(self, identifier: bytes, txn: Transaction) -> int:
        """The moment until which ``identifier`` is erased; -1: it is not."""
        found = (txn.get(STATE, self._place(identifier, name)) for name in self._names)
        return max((int(value) for value in found if value is not None), default=-1)

    def hold(self, identifier: bytes, time: int, txn: Transaction) -> bool:
        """Whether what happened under ``identifier`` at ``time`` (ms) was erased."""
        return time <= self.until and time <= self.at(identifier, txn)

    def _place(self, identifier: bytes, name: str) -> bytes:
        return FENCE + blake2b(identifier, digest_size=16, key=self._keys[name]).digest()
