"""How large a segment was, and what moved it: by minute, hour or day, from the parts that lanes have told.

A lane tells of a minute in which a row moved, and of every row at the end of each hour. A row's size is the sum of what
the lanes had by then; before a lane's first word it had what that word says it came from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from pipeline.lake.kinds import MOMENT, column
from pipeline.models.base import Millis, Model
from pipeline.query.sql import Limits, Table, run

__all__ = ["HISTORY", "MOST_POINTS", "STEPS", "VIEW", "Point", "Series", "SizeHistory", "Step", "history"]

Step = Literal["minute", "hour", "day"]
#: In milliseconds; days are days of UTC.
STEPS: dict[Step, int] = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
#: Of one answer, of each row.
MOST_POINTS = 5_000

HISTORY = pa.schema(
    [
        column("segment", pa.string()),
        column("scope", pa.string(), "all; or source, channel: by its events alone"),
        column("name", pa.string(), "of the source or channel; null where scope is all"),
        column("time", MOMENT, "the minute's beginning; a minute in which nothing moved may be missing"),
        column("customers", pa.int64(), "at its end"),
        column("identified", pa.int64()),
        column("adds", pa.int64(), "how often somebody came"),
        column("drops", pa.int64(), "how often somebody went"),
        column("identified_change", pa.int64(), "of `identified` in the minute"),
        column("version", pa.int64(), "of the segment's definition"),
    ]
)
#: `HISTORY` of the lake's `segment_sizes`.
VIEW = """
    WITH base AS (
        SELECT segment, scope, name, sum(customers) AS customers, sum(identified) AS identified FROM (
            SELECT lane, segment, scope, name,
                arg_min(customers - adds + drops, time) AS customers,
                arg_min(identified - identified_change, time) AS identified
            FROM segment_sizes GROUP BY lane, segment, scope, name
        ) GROUP BY segment, scope, name
    ), minutes AS (
        SELECT segment, scope, name, time, sum(adds) AS adds, sum(drops) AS drops,
            sum(identified_change) AS identified_change, max(version) AS version
        FROM segment_sizes GROUP BY segment, scope, name, time
    )
    SELECT minutes.segment, minutes.scope, minutes.name, time,
        CAST(base.customers + sum(adds - drops) OVER so_far AS BIGINT) AS customers,
        CAST(base.identified + sum(identified_change) OVER so_far AS BIGINT) AS identified,
        CAST(adds AS BIGINT) AS adds, CAST(drops AS BIGINT) AS drops,
        CAST(identified_change AS BIGINT) AS identified_change, version
    FROM minutes JOIN base ON minutes.segment = base.segment AND minutes.scope = base.scope
        AND minutes.name IS NOT DISTINCT FROM base.name
    WINDOW so_far AS (PARTITION BY minutes.segment, minutes.scope, minutes.name ORDER BY time)
"""


class Point(Model):
    """A minute, an hour or a day; sizes are those at its end."""

    at: Millis = Field(description="its beginning")
    customers: int
    identified: int
    adds: int = Field(description="how often somebody came")
    drops: int = Field(description="how often somebody went")


class Series(Model):
    """One row of a segment's counts over time. ``volatility``: comings and goings over the mean size; null for none."""

    scope: Literal["all", "source", "channel"]
    name: str | None = Field(description="of the source or channel; null where scope is all")
    adds: int
    drops: int
    volatility: float | None
    points: list[Point]


class SizeHistory(Model):
    """Sizes of a segment in steps, in all and by source and channel, with no step left out.

    ``from``: the first step's beginning, no earlier than anything is known; ``to``: what is known ends there.
    """

    segment: str
    by: Step
    from_: Millis = Field(alias="from")
    to: Millis
    series: list[Series]


def history(sizes: Table, segment: str, by: Step, first: Millis, to: Millis) -> SizeHistory:
    """From the step of ``first`` to that before ``to`` (ms). Blocks: call it in a thread. Raises `SqlError`.

    ``sizes``: the partner's rows of `segment_sizes`.
    """
    step = STEPS[by]
    first -= first % step
    query = f"""
        SELECT scope, name, epoch_ms(time) // {step} * {step} AS began, sum(adds), sum(drops),
            arg_max(customers, time), arg_max(identified, time), sum(identified_change)
        FROM segment_counts_history WHERE segment = '{segment}' AND epoch_ms(time) < {to}
        GROUP BY ALL ORDER BY began
    """
    rows, _ = run(query, {"segment_sizes": sizes}, Limits(rows=10_000_000), {"segment_counts_history": VIEW})
    found: defaultdict[tuple[Any, str | None], list[tuple[int, ...]]] = defaultdict(list)
    for scope, name, *numbers in zip(*(each.to_pylist() for each in rows.columns), strict=True):
        found[scope, name].append(tuple(int(number) for number in numbers))
    begins = max(first, min((rows[0][0] for rows in found.values()), default=to - to % step))
    order = {"all": 0, "source": 1, "channel": 2}
    return SizeHistory(
        segment=segment,
        by=by,
        **{"from": begins},
        to=to,
        series=[
            _series(scope, name, found[scope, name], begins, to, step)
            for scope, name in sorted(found, key=lambda each: (order[each[0]], each[1] or ""))
        ],
    )


def _series(scope: Any, name: str | None, rows: Iterable[tuple[int, ...]], begins: int, to: int, step: int) -> Series:
    by_step = {at: numbers for at, *numbers in rows}
    # Before a row's first word it was what that word says it came from.
    adds, drops, customers, identified, change = by_step[min(by_step)]
    size = customers - adds + drops, identified - change
    for at in sorted(at for at in by_step if at < begins):
        size = by_step[at][2], by_step[at][3]
    points: list[Point] = []
    for at in range(begins, to, step):
        adds, drops, *now = by_step.get(at, (0, 0, *size))
        size = now[0], now[1]
        points.append(Point(at=at, customers=size[0], identified=size[1], adds=adds, drops=drops))
    adds, drops = sum(point.adds for point in points), sum(point.drops for point in points)
    mean = sum(point.customers for point in points) / len(points) if points else 0
    return Series(
        scope=scope,
        name=name,
        adds=adds,
        drops=drops,
        volatility=round((adds + drops) / mean, 4) if mean else None,
        points=points,
    )
