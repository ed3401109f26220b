"""A condition that is tried: the size that the segment would have, or an estimate that says how good it is."""

from __future__ import annotations

import itertools
from typing import Any

import customers_oracle as oracle
import orjson
import pyarrow as pa
import pytest
from customers_world import conditions, segment
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.lake.kinds import KINDS
from pipeline.query.mirror import CUSTOMERS, IDENTITIES, MEMBERS, Look
from pipeline.query.preview import preview

NOW = 1_790_000_000_000
EVENTS = KINDS["events"].schema


def people(number: int, traits: dict[str, Any] | None = None, since: int = 0) -> Look:
    """User n, who was the visitor n once; what the visitor did before ``since`` stayed there."""
    rows = [
        {
            "customer": f"acme|u|{n}",
            "identified": True,
            "identifiers": [f"acme|u|{n}", f"acme|a|{n}"],
            "traits": orjson.dumps(traits or {}).decode(),
            "first_seen": 0,
            "last_seen": 0,
        }
        for n in range(number)
    ]
    known = [(f"acme|{kind}|{n}", f"acme|u|{n}", since if kind == "a" else 0) for n in range(number) for kind in "ua"]
    return Look(
        pa.table({name: [row[name] for row in rows] for name in CUSTOMERS.names}).cast(CUSTOMERS),
        MEMBERS.empty_table(),
        pa.table(dict(zip(IDENTITIES.names, zip(*known, strict=True), strict=True))).cast(IDENTITIES),
        {},
    )


def events(rows: list[dict[str, Any]]) -> pa.Table:
    """Of these, with what they do not say null."""
    return pa.table({name: [row.get(name) for row in rows] for name in EVENTS.names}, schema=EVENTS)


happenings = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["u", "a"]),
        st.sampled_from(["View", "Buy"]),
        st.sampled_from([("web", "Web"), ("app", "Mobile")]),
        st.integers(0, 30),
        st.sampled_from([None, {"p": 1}, {"p": "a"}, {"p": 2.5}]),
    ),
    max_size=14,
)


@settings(max_examples=60, deadline=None)
@given(conditions, happenings)
def test_a_preview_is_the_size_that_the_segment_has(condition, rows):
    log = [
        {
            "customer": f"acme|{kind}|{who}",
            "id": f"m{number}",
            "name": name,
            "source": place[0],
            "channel": place[1],
            "time": NOW - age,
            "properties": orjson.dumps(properties).decode() if properties else None,
        }
        for number, (who, kind, name, place, age, properties) in enumerate(rows)
    ]
    wanted = set()
    for who in range(4):
        own = [
            event | {"properties": orjson.loads(event["properties"]) if event["properties"] else None}
            for event in log
            if event["customer"].rpartition("|")[2] == str(who)
        ]
        # Nobody is a customer who was never seen.
        own.append({"id": "seen", "name": "Seen", "source": "crm", "channel": "CRM", "time": NOW, "properties": None})
        if "*" in oracle.memberships({"s": condition}, own, NOW).get("s", ()):
            wanted.add(f"acme|u|{who}")
    found = preview(segment(condition), [], people(4), events(log), NOW)
    assert (found.customers, found.margin, found.of) == (len(wanted), 0, 4)
    assert set(found.sample) == wanted


@pytest.mark.parametrize(
    "condition",
    [
        {"event": "View", "window": {"rolling": "1d"}},
        {"all": [{"event": "View"}, {"trait": "plan", "op": "equals", "value": "pro"}]},
        {"not": {"event": "View"}},
    ],
)
def test_of_many_a_part_is_looked_at_and_the_margin_holds(condition):
    number = 20_000
    viewers = range(0, number, 3)
    log = [
        {"customer": f"acme|{kind}|{n}", "id": f"m{n}{kind}", "name": "View", "source": "web", "channel": "Web"}
        | {"time": NOW - 1000}
        for n, kind in itertools.product(viewers, "ua")
    ]
    found = preview(
        segment(condition),
        [],
        people(number, {"plan": "pro"}),
        events(log),
        NOW,
        most_events=2_000,
        most_customers=2_000,
    )
    truth = len(viewers) if "not" not in condition else number - len(viewers)
    assert 0 < found.margin < truth / 4
    assert abs(found.customers - truth) <= 2 * found.margin
    assert found.of == number
    assert found.looked_at < number / 5
    assert len(found.sample) == 10


def test_a_condition_may_be_made_of_segments_there_are():
    log = [{"customer": "acme|u|1", "id": "m", "name": "View", "source": "web", "channel": "Web", "time": NOW}]
    others = [segment({"event": "View"}, "viewed")]
    found = preview(segment({"segment": "viewed"}, "new"), others, people(3), events(log), NOW)
    assert (found.customers, found.sample) == (1, ["acme|u|1"])


def test_names_and_moments_are_values_and_not_sql():
    hostile = "x') OR 1=1; DROP TABLE events; --"
    log = [{"customer": "acme|u|1", "id": "m", "name": hostile, "source": "web", "channel": "Web", "time": NOW}]
    assert preview(segment({"event": hostile}), [], people(3), events(log), NOW).customers == 1
    assert preview(segment({"event": "x"}), [], people(3), events(log), NOW).customers == 0


def test_what_a_visitor_did_too_long_ago_is_not_the_customers():
    log = [
        {"customer": "acme|a|1", "id": f"m{age}", "name": "View", "source": "web", "channel": "Web", "time": NOW - age}
        for age in (5, 6, 7)
    ]
    twice = segment({"event": "View", "count": {"op": ">=", "value": 2}})
    assert preview(twice, [], people(3, since=NOW - 6), events(log), NOW).customers == 1
    assert preview(twice, [], people(3, since=NOW - 5), events(log), NOW).customers == 0
