"""A lane's part of the segment counts: absolute numbers, never deltas (design: segments, "Global numbers")."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.models.counts import ANY
from pipeline.segments.change import Change

__all__ = ["Row", "RowKey", "Tally"]

#: (segment, source or ``*``, channel or ``*``)
RowKey = tuple[str, str, str]
#: (customers, those of them who are identified)
Row = tuple[int, int]


def _key(segment: str, scope: str) -> RowKey:
    kind, _, value = scope.partition(":")
    if kind == "s":
        return segment, value, ANY
    if kind == "c":
        return segment, ANY, value
    return segment, ANY, ANY


class Tally:
    """The lane's counts of all segments of one partner.

    ``apply`` every `Change` of every customer of the lane, in order; ``take`` what is to be published.
    """

    __slots__ = ("_rows", "_taken")

    def __init__(self, rows: Iterable[tuple[RowKey, Row]] = ()) -> None:
        """``rows``: the lane's counts as last taken (restore)."""
        self._rows: dict[tuple[str, str], list[int]] = {}
        # Rows touched since the last `take`, with the numbers they had then.
        self._taken: dict[tuple[str, str], Row] = {}
        for (segment, source, channel), (customers, identified) in rows:
            scope = f"s:{source}" if source != ANY else f"c:{channel}" if channel != ANY else ANY
            self._rows[segment, scope] = [customers, identified]

    def apply(self, change: Change) -> None:
        """Count a change. Raises ValueError if a row would go below zero: records and counts disagree."""
        before, after = change.scopes_before, change.scopes_after
        was, is_ = int(change.identified_before), int(change.identified_after)
        if before == after:
            if was != is_:
                for scope in before:
                    self._add(change.segment, scope, 0, is_ - was)
            return
        for scope in before:
            if scope not in after:
                self._add(change.segment, scope, -1, -was)
        for scope in after:
            if scope not in before:
                self._add(change.segment, scope, 1, is_)
            elif was != is_:
                self._add(change.segment, scope, 0, is_ - was)

    def _add(self, segment: str, scope: str, customers: int, identified: int) -> None:
        key = (segment, scope)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = [0, 0]
        if key not in self._taken:
            self._taken[key] = (row[0], row[1])
        row[0] += customers
        row[1] += identified
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
