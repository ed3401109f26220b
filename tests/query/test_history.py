"""Sizes of a segment over time, of what lanes tell by the minute, against the sizes there were."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.lake.kinds import KINDS
from pipeline.query.history import STEPS, history
from pipeline.segments.change import Change
from pipeline.segments.counts import HOUR_MS, MINUTE_MS, Flow, Tally, _key, scope_of

BEGIN = 1_790_000_000_000 // HOUR_MS * HOUR_MS
SIZES = KINDS["segment_sizes"]
SCOPES = ["*", "s:web", "s:app", "c:Web"]
ROWS = {"*": ("all", None), "s:web": ("source", "web"), "s:app": ("source", "app"), "c:Web": ("channel", "Web")}


def told(lane: int, tally: Tally, since: int, before: int) -> list[dict[str, Any]]:
    """What a lane tells when these minutes are over."""
    rows = []
    for minute, row, moved, size in tally.close(since, before):
        flow = moved or Flow()
        scope = scope_of(row)
        rows.append(
            {
                "segment": "s",
                "version": 1,
                "scope": scope[0],
                "name": scope[1],
                "time": minute * MINUTE_MS,
                "customers": size[0],
                "identified": size[1],
                "adds": flow.adds,
                "drops": flow.drops,
                "identified_change": flow.identified,
                "lane": lane,
                "offset": 0,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> pa.Table:
    columns = {name: [row[name] for row in rows] for name in SIZES.schema.names}
    return pa.table(columns).cast(SIZES.schema) if rows else SIZES.schema.empty_table()


steps = st.lists(
    st.tuples(
        st.integers(0, 4), st.sets(st.sampled_from(SCOPES)), st.booleans(), st.sampled_from([0, 7, 31, 170, 1900, 4000])
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps, st.randoms(use_true_random=False), st.integers(0, 3))
def test_sizes_by_the_minute_are_those_there_were(moves, rng, late):
    """``late``: after so many hours the lake began. Lanes are restored now and then."""
    lanes = [Tally(), Tally()]
    state: dict[int, tuple[set[str], bool]] = {}
    sizes: dict[int, dict[str, tuple[int, int]]] = {}
    flows: defaultdict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
    rows: list[dict[str, Any]] = []
    now = BEGIN
    closed = [BEGIN // MINUTE_MS] * 2
    for customer, after, identified, seconds in moves:
        now += seconds * 1000
        lane = customer % 2
        before, was = state.get(customer, (set(), False))
        what = Change("s", 1, None, "event", None, now, tuple(sorted(before)), tuple(sorted(after)), was, identified)
        lanes[lane].apply(what)
        state[customer] = after, identified
        minute = now // MINUTE_MS
        for scope in SCOPES:
            flows[scope, minute][0] += scope in after - before
            flows[scope, minute][1] += scope in before - after
        sizes[minute] = {
            scope: (
                sum(scope in scopes for scopes, _ in state.values()),
                sum(scope in scopes and known for scopes, known in state.values()),
            )
            for scope in SCOPES
        }
        for number, tally in enumerate(lanes):
            kept = list(tally.take_flows())
            if rng.random() < 0.3:  # what was kept is all that there is
                flowing = {(at, row): flow for at, row, flow in kept}
                flowing |= {(at, row): flow for at, row, flow in _open(tally)}
                tally = lanes[number] = Tally(tally.rows().items(), ((*at, flow) for at, flow in flowing.items()))
            if rng.random() < 0.4:
                rows += told(number, tally, closed[number], minute)
                closed[number] = minute
    end = (now // HOUR_MS + 2) * HOUR_MS
    for number, tally in enumerate(lanes):
        list(tally.take_flows())
        rows += told(number, tally, closed[number], end // MINUTE_MS)
    first = BEGIN + late * HOUR_MS
    rows = [row for row in rows if row["time"] >= first]
    found = history(table(rows), "s", "minute", first, end)
    by_row = {(series.scope, series.name): series.points for series in found.series}
    for scope, row in ROWS.items():
        size = (0, 0)
        for minute in sorted(sizes):
            if minute * MINUTE_MS < found.from_:
                size = sizes[minute][scope]
        for number, point in enumerate(by_row.get(row, [])):
            assert point.at == found.from_ + number * MINUTE_MS
            minute = point.at // MINUTE_MS
            size = sizes[minute][scope] if minute in sizes else size
            assert (point.customers, point.identified) == size, (row, point)
            assert [point.adds, point.drops] == flows.get((scope, minute), [0, 0]), (row, point)
        if row not in by_row:
            assert not any(at[scope][0] for minute, at in sizes.items() if minute * MINUTE_MS >= first)


def _open(tally: Tally) -> list[tuple[int, tuple[str, str, str], Any]]:
    """What its store has of minutes that are not over."""
    return [(minute, _key(*key), flow) for minute, flows in tally._flows.items() for key, flow in flows.items()]


@pytest.mark.parametrize("by", ["hour", "day"])
def test_longer_steps_have_the_size_at_their_end_and_all_that_moved_in_them(by):
    tally = Tally()

    def move(at: int, before: list[str], after: list[str]) -> None:
        tally.apply(Change("s", 1, None, "event", None, BEGIN + at, tuple(before), tuple(after), False, False))

    move(1000, [], ["*"])
    move(2000, [], ["*", "s:web"])
    move(30 * MINUTE_MS, ["*"], [])
    move(26 * HOUR_MS, [], ["*"])
    list(tally.take_flows())
    end = BEGIN + 30 * HOUR_MS
    found = history(table(told(0, tally, BEGIN // MINUTE_MS, end // MINUTE_MS)), "s", by, BEGIN - HOUR_MS, end)
    whole, web = found.series
    assert (whole.scope, web.name) == ("all", "web")
    assert (whole.adds, whole.drops, web.adds) == (3, 1, 1)
    assert found.from_ == BEGIN - BEGIN % STEPS[by]
    assert whole.points[0].customers == 1
    assert (whole.points[0].adds, whole.points[0].drops) == (2, 1)
    assert whole.points[-1].customers == 2
    assert len(whole.points) == (30 if by == "hour" else (end - 1) // STEPS[by] - BEGIN // STEPS[by] + 1)
    mean = sum(point.customers for point in whole.points) / len(whole.points)
    assert whole.volatility == round(4 / mean, 4)


def test_of_a_segment_that_nobody_told_of_there_is_nothing():
    found = history(table([]), "s", "hour", BEGIN, BEGIN + HOUR_MS)
    assert found.series == []
