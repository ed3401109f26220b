"""One lane's part of the mailings: its customers in the order of their ids, each looked at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from pipeline.agents.programs import Programs
from pipeline.agents.tables import MAILING, STATE, STEP, dumps, mailing_key, step_of
from pipeline.customers.record import Record
from pipeline.dispatch.mailing import CompiledMailing, Pace
from pipeline.models.base import dumps as dumps_sorted
from pipeline.stream.transaction import Transaction

__all__ = ["Mailings"]

_loads = msgspec.json.Decoder().decode
_TELL_MS = 1000

Where = tuple[str, str]


class Mailings:
    """In `STATE`, and told in the transaction that sends.

    A mailing waits for a segment that is not settled in the lane yet. Who is sent to is who is a member when its turn
    comes; whom a merge brings to another lane meanwhile may be missed or told under both ids.
    """

    def __init__(self, lane: int, lanes: int, programs: Programs) -> None:
        self._lane = lane
        self._lanes = lanes
        self._programs = programs
        self._taken = -1
        self._known: dict[Where, dict[str, Any]] = {}
        self._paces: dict[Where, tuple[int | None, Pace]] = {}

    def load(self, txn: Transaction) -> None:
        """Read back what the tables say."""
        self._taken = -1
        self._paces.clear()
        self._known = {}
        for key, value in txn.scan(STATE, MAILING, MAILING + b"\xff"):
            partner, _, name = key[1:].decode().partition("|")
            self._known[partner, name] = _loads(value)

    def step(
        self,
        clock: int,
        txn: Transaction,
        settled: Callable[[str, str], bool],
        hold: Callable[[bytes], Record | None],
        send: Callable[[CompiledMailing, Record], None],
    ) -> bool:
        """Send some; whether there is more to send at once. ``clock``: the lane's (ms).

        ``settled``: whether a segment's members are right in this lane; ``hold``: the customer under a key, if there
        is one; ``send``: have the tool told.
        """
        if self._taken != self._programs.offset:
            self._taken = self._programs.offset
            self._forget(txn)
        more = False
        for mailing in self._programs.mailings:
            where = mailing.partner, mailing.id
            known = self._known.setdefault(where, {"cursor": "", "sent": 0, "looked_at": 0, "done": False})
            if known["done"] or not settled(mailing.partner, mailing.segment):
                continue
            pace = self._pace(where, mailing)
            pace.pass_time(clock)
            more = self._some(mailing, known, pace, txn, hold, send) or more
            self._tell(where, known, clock, txn)
        return more

    def _some(
        self,
        mailing: CompiledMailing,
        known: dict[str, Any],
        pace: Pace,
        txn: Transaction,
        hold: Callable[[bytes], Record | None],
        send: Callable[[CompiledMailing, Record], None],
    ) -> bool:
        keys = step_of(mailing.partner, known["cursor"], txn)
        for key in keys:
            record = hold(key)
            if record is not None:
                membership = record.segments.get(mailing.segment)
                if membership is not None and "*" in membership.scopes:
                    if not pace.take():
                        return False
                    send(mailing, record)
                    known["sent"] += 1
                known["looked_at"] += 1
            known["cursor"] = key.decode()
        known["done"] = len(keys) < STEP
        return not known["done"]

    def _pace(self, where: Where, mailing: CompiledMailing) -> Pace:
        rate, pace = self._paces.get(where, (None, None))
        if pace is None or rate != mailing.rate:
            pace = Pace(None if mailing.rate is None else mailing.rate / self._lanes)
            self._paces[where] = mailing.rate, pace
        return pace

    def _tell(self, where: Where, known: dict[str, Any], clock: int, txn: Transaction) -> None:
        shown = [known["sent"], known["looked_at"], known["done"]]
        if known.get("told") == shown or (known.get("at", -_TELL_MS) + _TELL_MS > clock and not known["done"]):
            if known.get("kept") != known["cursor"]:
                known["kept"] = known["cursor"]
                txn.put(STATE, mailing_key(*where), dumps(known))
            return
        known |= {"told": shown, "at": clock, "kept": known["cursor"]}
        txn.put(STATE, mailing_key(*where), dumps(known))
        partner, mailing = where
        key = {"partner": partner, "mailing": mailing, "lane": self._lane}
        row = {"sent": known["sent"], "looked_at": known["looked_at"], "done": known["done"], "at": clock}
        txn.send("mailings", dumps_sorted(key), dumps(key | row))

    def _forget(self, txn: Transaction) -> None:
        """What was removed."""
        for where in [where for where in self._known if not self._programs.has_mailing(*where)]:
            del self._known[where]
            txn.delete(STATE, mailing_key(*where))
            partner, mailing = where
            txn.send("mailings", dumps_sorted({"partner": partner, "mailing": mailing, "lane": self._lane}), None)
