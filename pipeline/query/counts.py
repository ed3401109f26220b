"""The numbers of a segment, summed over lanes, with what they are worth: as_of, complete, coverage, lag."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import Field

from pipeline.models.base import Millis, Model
from pipeline.models.counts import ANY

__all__ = ["Counts", "Figure", "SegmentCounts", "SourceFigure", "Worth"]


class Figure(Model):
    """How many customers; ``anonymous`` are those with no user id, e-mail or phone."""

    customers: int = 0
    identified: int = 0
    anonymous: int = 0


class SourceFigure(Figure):
    """A figure of one source or channel: those who satisfy the segment by its events alone."""

    name: str


class Worth(Model):
    """What an answer is worth."""

    as_of: Millis | None = Field(description="milliseconds since 1970: the numbers are exact for this moment")
    complete: bool = Field(description="false: not all customers or not the whole window is in the numbers")
    coverage_from: Millis | None = Field(
        description="events since this moment are in the numbers; 0: all there ever were; null: not known yet"
    )
    lag_ms: int | None = Field(description="how far as_of is behind the wall clock")

    @staticmethod
    def of_worst(answers: Sequence[Worth]) -> Worth:
        """What an answer made of all these is worth."""
        moments = [each.as_of for each in answers if each.as_of is not None]
        coverages = [each.coverage_from for each in answers if each.coverage_from is not None]
        lags = [each.lag_ms for each in answers if each.lag_ms is not None]
        return Worth(
            as_of=min(moments) if len(moments) == len(answers) else None,
            complete=all(each.complete for each in answers),
            coverage_from=max(coverages) if len(coverages) == len(answers) else None,
            lag_ms=max(lags) if len(lags) == len(answers) else None,
        )


class SegmentCounts(Worth):
    """The answer to "how many": right for ``as_of``; every row is the sum over all lanes."""

    partner: str
    segment: str
    version: int
    back_fill: float = Field(description="how much of the past has been read for it, 0 to 1: it counts nobody before 1")
    total: Figure
    by_source: list[SourceFigure]
    by_channel: list[SourceFigure]


class Counts:
    """What `segments.counts` and `segments.progress` say, absolute parts by lane; in memory, small."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._rows: dict[tuple[str, str], dict[tuple[str, str, int], tuple[int, int]]] = {}
        self._progress: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
        self._clocks: dict[int, int] = {}

    def apply(self, topic: str, key: bytes, value: bytes | None) -> None:
        """Take a record of either topic. Raises ValueError or KeyError for what fan-out cannot have written."""
        where = orjson.loads(key)
        if "segment" not in where:
            if value is not None:
                self._clocks[where["lane"]] = orjson.loads(value)["as_of"]
            return
        segment = (where["partner"], where["segment"])
        if topic == "segments.progress":
            lanes = self._progress.setdefault(segment, {})
            if value is None:
                lanes.pop(where["lane"], None)
            else:
                lanes[where["lane"]] = orjson.loads(value)
            return
        rows = self._rows.setdefault(segment, {})
        row = (where["source"], where["channel"], where["lane"])
        if value is None:
            rows.pop(row, None)
        else:
            numbers = orjson.loads(value)
            rows[row] = (numbers["customers"], numbers["identified"])

    @property
    def as_of(self) -> Millis | None:
        """The moment for which all numbers are right; None: some lane has not told its own yet."""
        return min(self._clocks.values()) if len(self._clocks) == self._lanes else None

    def of(self, partner: str, segment: str, version: int, now_ms: int) -> SegmentCounts:
        """The counts of a segment at ``version``; ``now_ms``: the wall clock, for the lag.

        Progress of another version counts as none: its numbers are still on their way.
        """
        by_scope: dict[tuple[str, str], list[int]] = {}
        for (source, channel, _), (customers, identified) in self._rows.get((partner, segment), {}).items():
            row = by_scope.setdefault((source, channel), [0, 0])
            row[0] += customers
            row[1] += identified
        lanes = [row for row in self._progress.get((partner, segment), {}).values() if row["version"] == version]
        whole = len(lanes) == self._lanes
        as_of = self.as_of
        return SegmentCounts(
            partner=partner,
            segment=segment,
            version=version,
            as_of=as_of,
            complete=whole and as_of is not None and all(row["complete"] for row in lanes),
            coverage_from=max(row["coverage_from"] for row in lanes) if whole else None,
            lag_ms=max(0, now_ms - as_of) if as_of is not None else None,
            back_fill=sum(row.get("back_fill", 1.0) for row in lanes) / self._lanes,
            total=Figure(**_figure(by_scope.get((ANY, ANY), [0, 0]))),
            by_source=_rows({s: n for (s, c), n in by_scope.items() if s != ANY}),
            by_channel=_rows({c: n for (s, c), n in by_scope.items() if c != ANY}),
        )


def _figure(row: list[int]) -> dict[str, int]:
    return {"customers": row[0], "identified": row[1], "anonymous": row[0] - row[1]}


def _rows(figures: dict[str, list[int]]) -> list[SourceFigure]:
    return [SourceFigure(name=name, **_figure(row)) for name, row in sorted(figures.items()) if row[0]]
