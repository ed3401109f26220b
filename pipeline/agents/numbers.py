"""What a lane tells of its segments' numbers: counts, the moment they are right for, what moved them by the minute."""

from __future__ import annotations

from typing import Any

import msgspec

from pipeline.agents.programs import Programs
from pipeline.agents.tables import CLOCK, COUNT, FLOW, STATE, count_key, count_row, dumps, flow_key, flow_row
from pipeline.models.base import dumps as dumps_sorted
from pipeline.segments.change import Change
from pipeline.segments.counts import MINUTE_MS, Flow, Row, RowKey, Tally, scope_of
from pipeline.stream.transaction import Transaction

__all__ = ["Numbers"]

_loads = msgspec.json.Decoder().decode


class Numbers:
    """One lane's, of all partners; in `STATE`, and published in the transaction that makes them."""

    def __init__(self, lane: int, programs: Programs) -> None:
        self._lane = lane
        self._programs = programs
        self._tallies: dict[str, Tally] = {}
        #: The moment (ms) that was told last, and the minutes (since 1970) before which all is told.
        self._told = 0
        self._minute = 0

    def load(self, txn: Transaction) -> dict[str, Any]:
        """Read back what the tables say; the lane's clock and watermarks among it."""
        value = txn.get(STATE, CLOCK)
        stored: dict[str, Any] = _loads(value) if value else {}
        self._told = stored.get("clock", 0)
        self._minute = stored.get("minute", self._told // MINUTE_MS)
        rows: dict[str, list[tuple[RowKey, Row]]] = {}
        for key, value in txn.scan(STATE, COUNT, COUNT + b"\xff"):
            partner, row, numbers = count_row(key, value)
            rows.setdefault(partner, []).append((row, numbers))
        flows: dict[str, list[tuple[int, RowKey, Flow]]] = {}
        for key, value in txn.scan(STATE, FLOW, FLOW + b"\xff"):
            partner, minute, row, flow = flow_row(key, value)
            flows.setdefault(partner, []).append((minute, row, flow))
        self._tallies = {
            partner: Tally(rows.get(partner, ()), flows.get(partner, ())) for partner in rows.keys() | flows.keys()
        }
        return stored

    def apply(self, partner: str, change: Change) -> None:
        """Count a change."""
        tally = self._tallies.get(partner)
        if tally is None:
            tally = self._tallies[partner] = Tally()
        tally.apply(change)

    def write(self, clock: int, txn: Transaction) -> None:
        """Keep what moved, and publish the counts that changed; ``clock``: the lane's (ms)."""
        for partner, tally in self._tallies.items():
            for minute, row, flow in tally.take_flows():
                txn.put(STATE, flow_key(partner, minute, row), dumps([*flow]))
            for row, numbers in tally.take().items():
                self._publish_count(partner, row, numbers, clock, txn)

    def tell(self, clock: int, watermarks: dict[str, int], txn: Transaction) -> None:
        """Tell the moment for which the counts are right: behind those of this transaction, on their own partition."""
        self._told = clock
        txn.put(STATE, CLOCK, dumps({"clock": clock, "watermarks": watermarks, "minute": self._minute}))
        txn.send("segments.counts", dumps_sorted({"lane": self._lane}), dumps({"lane": self._lane, "as_of": clock}))

    def pass_time(self, clock: int, watermarks: dict[str, int], txn: Transaction) -> None:
        """Tell of the minutes that are over, and the moment, where it is another. Nobody may be due by then any more:
        who leaves by time does so in his minute."""
        over = clock // MINUTE_MS > self._minute
        if over:
            self._close(clock // MINUTE_MS, txn)
        if over or clock != self._told:
            self.tell(clock, watermarks, txn)

    def _close(self, before: int, txn: Transaction) -> None:
        for partner, tally in self._tallies.items():
            for minute, row, flow, size in tally.close(self._minute, before):
                self._publish_size(partner, minute, row, flow or Flow(), size, txn)
                if flow is not None:
                    txn.delete(STATE, flow_key(partner, minute, row))
        self._minute = before

    def _publish_count(self, partner: str, row: RowKey, numbers: Row, clock: int, txn: Transaction) -> None:
        value = {
            "customers": numbers[0],
            "identified": numbers[1],
            "version": self._version(partner, row[0]),
            "as_of": clock,
        }
        txn.send("segments.counts", self._key(partner, row), dumps(value))
        if numbers == (0, 0):
            txn.delete(STATE, count_key(partner, row))
        else:
            txn.put(STATE, count_key(partner, row), dumps(numbers))

    def _publish_size(self, partner: str, minute: int, row: RowKey, flow: Flow, size: Row, txn: Transaction) -> None:
        scope, name = scope_of(row)
        value = {
            "partner": partner,
            "segment": row[0],
            "version": self._version(partner, row[0]),
            "scope": scope,
            "name": name,
            "lane": self._lane,
            "at": minute * MINUTE_MS,
            "customers": size[0],
            "identified": size[1],
            "adds": flow.adds,
            "drops": flow.drops,
            "identified_change": flow.identified,
        }
        txn.send("segments.sizes", self._key(partner, row), dumps(value))

    def _key(self, partner: str, row: RowKey) -> bytes:
        segment, source, channel = row
        key = {"partner": partner, "segment": segment, "source": source, "channel": channel, "lane": self._lane}
        return dumps_sorted(key)

    def _version(self, partner: str, segment: str) -> int:
        known = self._programs.of(partner).segments.get(segment)
        return known.version if known else 0
