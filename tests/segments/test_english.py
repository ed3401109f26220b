"""Conditions in English."""

from __future__ import annotations

import pytest

from pipeline.models.segment import Definition
from pipeline.segments.english import describe


def leaf(event="View", **fields):
    return {"event": event, **fields}


def count(op, value, **more):
    return {"count": {"op": op, "value": value, **more}}


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (
            leaf(
                "Category Viewed",
                where=[{"property": "category", "value": "Jacket"}],
                source="online-store",
                window={"rolling": "30d"},
            ),
            "did “Category Viewed” where category is “Jacket” in Online Store at least once in the last 30 days",
        ),
        (leaf(source="app", channel="Mobile"), "did “View” in app on channel Mobile at least once"),
        (leaf(**count(">", 2), window={"rolling": "1h"}), "did “View” more than twice in the last hour"),
        (leaf(**count("<=", 3)), "did “View” at most 3 times"),
        (leaf(**count("<", 2)), "did “View” less than twice"),
        (leaf(**count("=", 1), window={"rolling": "90s"}), "did “View” exactly once in the last 90 seconds"),
        (leaf(**count("between", 0, to=1)), "did “View” 0 to 1 times"),
        (leaf(**count("=", 0), window={"rolling": "7d"}), "never did “View” in the last 7 days"),
        ({"not": leaf()}, "never did “View”"),
        ({"not": leaf(**count(">=", 2))}, "not (did “View” at least twice)"),
        (
            {"all": [leaf("A"), {"any": [leaf("B"), {"not": leaf("C")}]}]},
            "did “A” at least once and (did “B” at least once or never did “C”)",
        ),
        (
            leaf(
                where=[
                    {"property": "n", "op": ">=", "value": 1.5},
                    {"property": "t", "op": "in", "value": ["a", 1, True]},
                    {"property": "x", "op": "exists", "value": False},
                ]
            ),
            "did “View” where n is at least 1.5 and t is one of “a”, 1, true and x is missing at least once",
        ),
        (
            leaf(window={"calendar": {"days": 7, "zone": "Europe/Berlin"}}),
            "did “View” at least once in the last 7 calendar days (Europe/Berlin)",
        ),
        (leaf(window={"calendar": {"days": 1}}), "did “View” at least once today (UTC)"),
        (
            leaf(window={"between": {"from": "2026-01-01", "to": "2026-01-31"}}),
            "did “View” at least once between 2026-01-01 and 2026-01-31 (UTC)",
        ),
        (
            leaf(window={"between": {"from": "2026-01-01T09:00:00+01:00"}}),
            "did “View” at least once since 2026-01-01T09:00:00+01:00",
        ),
        ({"first": leaf(), "within": {"rolling": "30d"}}, "first did “View” in the last 30 days"),
        ({"last": leaf(), "before": {"rolling": "30d"}}, "last did “View”, before the last 30 days"),
        (
            {"days": leaf(), "count": {"value": 3}, "window": {"calendar": {"days": 7}}},
            "did “View” on at least 3 days in the last 7 calendar days (UTC)",
        ),
        (
            {"sequence": [leaf(), leaf("Buy")], "within": "1d", "window": {"rolling": "30d"}},
            "did “View”, then “Buy”, all within 1 day, the last in the last 30 days",
        ),
        (
            {"restarted": leaf(), "after": "30d", "window": {"rolling": "7d"}},
            "did “View” again after 30 days or more without, and that in the last 7 days",
        ),
        (
            {
                "aggregate": "sum",
                "property": "total",
                "of": leaf("Buy"),
                "is": {"op": ">=", "value": 100},
                "window": {"rolling": "90d"},
            },
            "have the sum of total of “Buy” in the last 90 days of at least 100",
        ),
        (
            {"trait": "birthday", "op": "<", "value": "2008-01-01", "cast": "date"},
            "have a trait: birthday (as date) is less than “2008-01-01”",
        ),
        (
            {"all": [{"segment": "gold"}, {"not": {"bucket": {"salt": "spring", "to": 10}}}]},
            "are in segment gold and not (are in the 0 % to 10 % of “spring”)",
        ),
    ],
)
def test_description(condition, text):
    definition = Definition.model_validate({"name": "n", "condition": condition})
    described = describe(definition.condition, {"online-store": "Online Store"})
    assert described == f"Customers who {text}"
