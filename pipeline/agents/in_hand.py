"""Customers in hand during a transaction: each decoded once, changed by whatever comes, written once."""

from __future__ import annotations

from pipeline.agents.tables import CUSTOMERS, Redirected, redirected
from pipeline.customers.record import Record
from pipeline.stream.timers import Timers
from pipeline.stream.transaction import Transaction

__all__ = ["Held", "InHand"]


class Held:
    """A record in hand, and the timer that stands for it in the table."""

    __slots__ = ("record", "timer")

    def __init__(self, record: Record, deadline: int | None) -> None:
        self.record = record
        self.timer = deadline


class InHand:
    """One lane's, over `CUSTOMERS` and the timers."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._held: dict[bytes, Held] = {}

    def clear(self) -> None:
        """Forget all; nothing is written."""
        self._held.clear()

    def look(self, key: bytes, txn: Transaction) -> Held | Redirected | None:
        """The record under ``key``, or where to go; None: there is neither."""
        held = self._held.get(key)
        if held is not None:
            return held
        value = txn.get(CUSTOMERS, key)
        if value is None:
            return None
        to = redirected(value)
        if to is not None:
            return to
        record = Record.decode(value)
        held = self._held[key] = Held(record, record.deadline)
        return held

    def hold(self, key: bytes, txn: Transaction, created: int) -> Held | Redirected:
        """As `look`; where there is neither, a new record first seen at ``created`` (ms)."""
        found = self.look(key, txn)
        if found is None:
            name = key.decode()
            found = self._held[key] = Held(Record(name, name.partition("|")[0], created), None)
        return found

    def find(self, key: bytes, txn: Transaction) -> Held | None:
        """The record under ``key``; None where there is none, or it is elsewhere."""
        found = self.look(key, txn)
        return found if isinstance(found, Held) else None

    def drop(self, key: bytes, txn: Transaction) -> None:
        """The record under ``key``, which is in hand, goes with its timer; what stands there then is the caller's."""
        held = self._held.pop(key)
        if held.timer is not None:
            self._timers.cancel(txn, held.timer, key)

    def put(self, txn: Transaction) -> None:
        """Write what changed, and forget all."""
        for key, held in self._held.items():
            record = held.record
            if not record.dirty:
                continue
            txn.put(CUSTOMERS, key, record.encode())
            if record.deadline != held.timer:
                if held.timer is not None:
                    self._timers.cancel(txn, held.timer, key)
                if record.deadline is not None:
                    self._timers.set(txn, record.deadline, key)
        self._held.clear()
