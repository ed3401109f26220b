"""Funnels, retention and RFM in SQL, against plain Python over the same events."""

from __future__ import annotations

import statistics
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.lake.kinds import KINDS
from pipeline.query.journeys import CUSTOMER_EVENTS, FUNCTIONS, VIEW
from pipeline.query.mirror import IDENTITIES
from pipeline.query.sql import Limits, run

EVENTS = KINDS["events"].schema
NOW = 1_790_000_000_000
DAY = 86_400_000
#: The visitor became customer 0 at 20 days; what it did before stayed its own.
VISITOR, JOINED = "acme|a|x", NOW + 20 * DAY


def ask(query: str, log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a query over these events."""
    ids = [f"acme|u|{n}" for n in range(3)]
    known = [(key, key, 0) for key in ids] + [(VISITOR, ids[0], JOINED)]
    tables = {
        "events": pa.table({name: [row.get(name) for row in log] for name in EVENTS.names}, schema=EVENTS),
        "identities": pa.table(dict(zip(IDENTITIES.names, zip(*known, strict=True), strict=True))).cast(IDENTITIES),
    }
    rows, _ = run(query, tables, Limits(), {CUSTOMER_EVENTS: VIEW, **FUNCTIONS})
    return rows.to_pylist()


def by_customer(log: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Each one's events, the oldest first."""
    found = defaultdict(list)
    for event in sorted(log, key=lambda event: event["time"]):
        if event["customer"] == VISITOR and event["time"] >= JOINED:
            found["acme|u|0"].append(event)
        elif event["customer"] not in (VISITOR, None):
            found[event["customer"]].append(event)
    return dict(found)


logs = st.lists(
    st.tuples(
        st.sampled_from(["acme|u|0", "acme|u|1", "acme|u|2", VISITOR, None]),
        st.sampled_from(["View", "Cart", "Buy"]),
        st.integers(0, 40).map(lambda days: NOW + days * DAY),
        st.sampled_from([None, "12.5", 3, "free"]),
    ),
    max_size=25,
    unique_by=lambda row: row[:3],
).map(
    lambda rows: [
        {"customer": customer, "name": name, "time": time, "id": f"m{n}", "source": "web"}
        | {"properties": orjson.dumps({"total": total}).decode()}
        for n, (customer, name, time, total) in enumerate(rows)
    ]
)


def furthest(events: list[dict[str, Any]], steps: list[str], within: int) -> list[float | None]:
    """Of each step that is reached: the shortest time (s) from the one before, by any way there is."""
    best: list[float | None] = []

    def go(step: int, began: int, before: int) -> None:
        for event in events:
            behind = before < event["time"] or (before == event["time"] and steps[step] != steps[step - 1])
            if event["name"] == steps[step] and behind and event["time"] <= began + within:
                took = (event["time"] - before) / 1000
                while len(best) <= step:
                    best.append(None)
                known = best[step]
                best[step] = took if known is None else min(known, took)
                if step + 1 < len(steps):
                    go(step + 1, began, event["time"])
                return  # the earliest gets furthest

    for event in events:
        if event["name"] == steps[0]:
            if not best:
                best.append(None)
            if len(steps) > 1:
                go(1, event["time"], event["time"])
    return best


@settings(max_examples=50, deadline=None)
@given(logs, st.lists(st.sampled_from(["View", "Cart", "Buy"]), min_size=1, max_size=4), st.integers(1, 30))
def test_a_funnel_is_what_looking_at_each_customer_gives(log, steps, days):
    wanted = ", ".join(f"'{step}'" for step in steps)
    found = ask(f"FROM funnel([{wanted}], INTERVAL {days} DAY)", log)
    reached = [furthest(events, steps, days * DAY) for events in by_customer(log).values()]
    for number, row in enumerate(found):
        there = [each[number] for each in reached if len(each) > number]
        assert (row["step"], row["name"], row["customers"]) == (number + 1, steps[number], len(there))
        took = [each for each in there if each is not None]
        assert row["median_seconds"] == (statistics.median(took) if took else None)
    assert len(found) == len(steps)
    first = found[0]["customers"]
    assert [row["share"] for row in found] == [row["customers"] / first if first else None for row in found]


@settings(max_examples=50, deadline=None)
@given(logs)
def test_retention_is_who_came_back_by_the_week_of_the_first_time(log):
    found = ask("FROM retention('View', 'Buy', 'week')", log)

    def week(ms: int) -> int:
        return (datetime.fromtimestamp(ms / 1000, UTC).date().toordinal() - 1) // 7

    cohorts: dict[int, set[str]] = defaultdict(set)
    back: dict[tuple[int, int], set[str]] = defaultdict(set)
    for customer, events in by_customer(log).items():
        firsts = [event["time"] for event in events if event["name"] == "View"]
        if not firsts:
            continue
        cohort = week(min(firsts))
        cohorts[cohort].add(customer)
        for event in events:
            if event["name"] == "Buy" and week(event["time"]) >= cohort:
                back[cohort, week(event["time"]) - cohort].add(customer)
    told = {
        (week(round(row["cohort"].timestamp() * 1000)), row["period"]): (row["size"], row["customers"]) for row in found
    }
    assert told == {where: (len(cohorts[where[0]]), len(who)) for where, who in back.items()}


@settings(max_examples=60, deadline=None)
@given(logs)
def test_rfm_tells_when_how_often_and_how_much(log):
    found = {row["customer"]: row for row in ask("FROM rfm('Buy', 'total')", log)}
    wanted = {}
    for customer, events in by_customer(log).items():
        bought = [event for event in events if event["name"] == "Buy"]
        totals = [orjson.loads(event["properties"])["total"] for event in bought]
        if bought:
            wanted[customer] = (len(bought), sum(float(t) for t in totals if t not in (None, "free")))
    assert {key: (row["frequency"], float(row["monetary"])) for key, row in found.items()} == wanted
    assert sorted(row["m"] for row in found.values()) == list(range(1, len(found) + 1))
