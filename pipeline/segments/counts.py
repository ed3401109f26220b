"""A lane's part of the segment counts: absolute numbers, never deltas (design: segments, "Global numbers").

And what moved them, by the minute, until the minute is over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from pipeline.models.counts import ANY
from pipeline.segments.change import Change

__all__ = ["HOUR_MS", "MINUTE_MS", "Flow", "Row", "RowKey", "Tally", "scope_of"]

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
_HOUR = HOUR_MS // MINUTE_MS

#: (segment, source or ``*``, channel or ``*``)
RowKey = tuple[str, str, str]
#: (customers, those of them who are identified)
Row = tuple[int, int]


class Flow(NamedTuple):
    """What a row went through in a minute: who came, who went, and by how much the identified changed."""

    adds: int = 0
    drops: int = 0
    identified: int = 0

    def plus(self, other: Flow) -> Flow:
        """Both."""
        return Flow(self.adds + other.adds, self.drops + other.drops, self.identified + other.identified)


def scope_of(row: RowKey) -> tuple[Literal["all", "source", "channel"], str | None]:
    """What a row counts by, and the name of the source or channel."""
    _, source, channel = row
    if source != ANY:
        return "source", source
    return ("channel", channel) if channel != ANY else ("all", None)


def _scope(row: RowKey) -> tuple[str, str]:
    segment, source, channel = row
    return segment, f"s:{source}" if source != ANY else f"c:{channel}" if channel != ANY else ANY


def _key(segment: str, scope: str) -> RowKey:
    kind, _, value = scope.partition(":")
    if kind == "s":
        return segment, value, ANY
    if kind == "c":
        return segment, ANY, value
    return segment, ANY, ANY


class Tally:
    """The lane's counts of all segments of one partner.

    ``apply`` every `Change` of every customer of the lane, in order; ``take`` what is to be published, ``take_flows``
    what is to be kept until its minute is over and ``close`` gives it.
    """

    __slots__ = ("_flows", "_rows", "_taken", "_touched")

    def __init__(self, rows: Iterable[tuple[RowKey, Row]] = (), flows: Iterable[tuple[int, RowKey, Flow]] = ()) -> None:
        """``rows``, ``flows``: the lane's as last taken (restore)."""
        #: Minute (since 1970) -> what moved in it.
        self._flows: defaultdict[int, dict[tuple[str, str], Flow]] = defaultdict(dict)
        self._touched: set[tuple[int, tuple[str, str]]] = set()
        for minute, row, flow in flows:
            self._flows[minute][_scope(row)] = flow
        self._rows: dict[tuple[str, str], list[int]] = {}
        # Rows touched since the last `take`, with the numbers they had then.
        self._taken: dict[tuple[str, str], Row] = {}
        for row, (customers, identified) in rows:
            self._rows[_scope(row)] = [customers, identified]

    def apply(self, change: Change) -> None:
        """Count a change. Raises ValueError if a row would go below zero: records and counts disagree."""
        before, after = change.scopes_before, change.scopes_after
        was, is_ = int(change.identified_before), int(change.identified_after)
        if before == after:
            if was != is_:
                for scope in before:
                    self._add(change, scope, 0, is_ - was)
            return
        for scope in before:
            if scope not in after:
                self._add(change, scope, -1, -was)
        for scope in after:
            if scope not in before:
                self._add(change, scope, 1, is_)
            elif was != is_:
                self._add(change, scope, 0, is_ - was)

    def _add(self, change: Change, scope: str, customers: int, identified: int) -> None:
        segment = change.segment
        key = (segment, scope)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = [0, 0]
        if key not in self._taken:
            self._taken[key] = (row[0], row[1])
        row[0] += customers
        row[1] += identified
        minute = change.at // MINUTE_MS
        flows = self._flows[minute]
        flows[key] = flows.get(key, Flow()).plus(Flow(customers > 0, customers < 0, identified))
        self._touched.add((minute, key))
        if not 0 <= row[1] <= row[0]:
            raise ValueError(f"segment {segment!r}, scope {scope!r}: {row[1]} identified of {row[0]} customers")

    def take(self) -> dict[RowKey, Row]:
        """The rows whose numbers differ from the last `take`; rows that fell to zero are among them, as zeros."""
        changed: dict[RowKey, Row] = {}
        for key, taken in self._taken.items():
            row = self._rows[key]
            now = (row[0], row[1])
            if now != taken:
                changed[_key(*key)] = now
            if now == (0, 0):
                del self._rows[key]
        self._taken.clear()
        return changed

    def rows(self) -> dict[RowKey, Row]:
        """All rows that are not zero."""
        return {_key(*key): (row[0], row[1]) for key, row in self._rows.items() if row[0]}

    def take_flows(self) -> Iterator[tuple[int, RowKey, Flow]]:
        """What moved since the last call: the whole of its minute so far."""
        for minute, key in self._touched:
            yield minute, _key(*key), self._flows[minute][key]
        self._touched.clear()

    def close(self, since: int, before: int) -> Iterator[tuple[int, RowKey, Flow | None, Row]]:
        """The minutes before ``before`` (minutes since 1970), the oldest first: what moved, and the row at its end.

        With the last minute of an hour, where one has ended from ``since`` on, comes every row, moved or not (None), so
        that nobody need look back for longer. Call `take_flows` first.
        """
        over = {minute for minute in self._flows if minute < before}
        last = before // _HOUR * _HOUR - 1
        if last >= since:
            over.add(last)
        later: dict[tuple[str, str], Flow] = {}
        for minute in [minute for minute in self._flows if minute >= before]:
            _gather(later, self._flows[minute])
        found: list[list[tuple[int, RowKey, Flow | None, Row]]] = []
        for minute in sorted(over, reverse=True):
            flows = self._flows.pop(minute, {})
            keys = flows.keys() | self._rows.keys() | later.keys() if minute == last else flows.keys()
            found.append([])
            for key in sorted(keys):
                customers, identified = self._rows.get(key, (0, 0))
                after = later.get(key, Flow())
                row = customers - after.adds + after.drops, identified - after.identified
                if key in flows or row[0]:
                    found[-1].append((minute, _key(*key), flows.get(key), row))
            _gather(later, flows)
        for part in reversed(found):
            yield from part


def _gather(into: dict[tuple[str, str], Flow], flows: dict[tuple[str, str], Flow]) -> None:
    for key, flow in flows.items():
        into[key] = into.get(key, Flow()).plus(flow)
