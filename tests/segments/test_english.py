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
    ],
)
def test_description(condition, text):
    definition = Definition.model_validate({"name": "n", "condition": condition})
    described = describe(definition.condition, {"online-store": "Online Store"})
    assert described == f"Customers who {text}"
