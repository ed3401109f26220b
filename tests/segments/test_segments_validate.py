"""Faults that only the catalogue shows."""

from __future__ import annotations

import pytest

from pipeline.models.segment import Definition
from pipeline.segments.validate import validate

CATALOGUE = {
    "Category Viewed": {
        "category": "string",
        "price": "number",
        "quantity": "integer",
        "sale": "boolean",
        "tags": "array",
        "shop": "object",
        "when": "date-time",
    }
}


def faults(condition):
    definition = Definition.model_validate({"name": "n", "condition": condition})
    return [tuple(fault) for fault in validate(definition.condition, CATALOGUE)]


def where(**condition):
    found = faults({"event": "Category Viewed", "where": [condition]})
    return [(path.removeprefix("$.condition.where[0]."), level, message) for path, level, message in found]


@pytest.mark.parametrize(
    "condition",
    [
        {"property": "category", "value": "Jacket"},
        {"property": "category", "op": "contains", "value": "J"},
        {"property": "category", "op": "in", "value": ["a", "b"]},
        {"property": "price", "op": ">=", "value": 100},
        {"property": "quantity", "op": "not_equals", "value": 1.0},
        {"property": "sale", "value": True},
        {"property": "tags", "op": "contains", "value": 1},
        {"property": "shop.name", "value": 1},
        {"property": "shop", "op": "exists", "value": True},
        {"property": "when", "op": ">", "value": 1},
    ],
)
def test_what_is_sound_has_no_fault(condition):
    assert where(**condition) == []


@pytest.mark.parametrize(
    ("condition", "path", "says"),
    [
        ({"property": "category", "op": ">=", "value": 100}, "op", "`>=` never holds"),
        ({"property": "price", "value": "100"}, "value", "compare with a number, not text"),
        ({"property": "category", "value": 100}, "value", "compare with text, not a number"),
        ({"property": "sale", "value": 1}, "value", "compare with true or false, not a number"),
        ({"property": "quantity", "value": True}, "value", "compare with a number, not true or false"),
        ({"property": "category", "op": "in", "value": ["a", 1]}, "value[1]", "compare with text"),
        ({"property": "x", "op": "in", "value": ["a", None]}, "value[1]", "compare with text, a number"),
        ({"property": "x", "op": "in", "value": [["a"]]}, "value[0]", "compare with text, a number"),
        ({"property": "tags", "value": "a"}, "op", "use one of contains, exists"),
        ({"property": "price", "op": "contains", "value": 1}, "op", "never holds"),
        ({"property": "category.name", "value": "a"}, "property", "'category' is no object"),
        ({"property": "price", "value": 10**30}, "value", "out of range"),
        ({"property": "price", "op": ">", "value": float("inf")}, "value", "out of range"),
    ],
)
def test_errors_name_their_place(condition, path, says):
    ((where_, level, message),) = where(**condition)
    assert (where_, level) == (path, "error")
    assert says in message


def test_unknown_names_are_warnings_with_a_suggestion():
    assert where(property="categry", value="Jacket") == [
        (
            "property",
            "warning",
            "'Category Viewed' has no property 'categry' in the catalogue; did you mean 'category'?",
        )
    ]
    condition = {"all": [{"event": "Category Viewed"}, {"any": [{"event": "Category viewed"}]}]}
    assert faults(condition) == [
        (
            "$.condition.all[1].any[0].event",
            "warning",
            "event 'Category viewed' is not in the catalogue; did you mean 'Category Viewed'?",
        )
    ]


def test_conditions_that_cannot_fail_or_cannot_hold_are_warned_of():
    never = faults({"event": "Category Viewed", "count": {"op": "<", "value": 0}})
    assert [f[:2] for f in never] == [("$.condition.count", "warning")]
    always = faults({"event": "Category Viewed", "count": {"value": 0}})
    assert [f[:2] for f in always] == [("$.condition.count", "warning"), ("$.condition", "note")]


@pytest.mark.parametrize(
    ("condition", "noted"),
    [
        ({"not": {"event": "Category Viewed"}}, True),
        ({"event": "Category Viewed", "count": {"op": "<", "value": 2}}, True),
        ({"any": [{"event": "Category Viewed"}, {"not": {"event": "Category Viewed"}}]}, True),
        ({"all": [{"event": "Category Viewed"}, {"not": {"event": "Category Viewed"}}]}, False),
        ({"not": {"not": {"event": "Category Viewed"}}}, False),
    ],
)
def test_pure_negation_is_noted(condition, noted):
    assert [f[1] for f in faults(condition)] == (["note"] if noted else [])


def test_a_computed_trait_that_is_not_defined_is_warned_of():
    looks = {
        "any": [
            {"trait": "computed.spent", "op": ">", "value": 1},
            {"trait": "computed", "op": "exists", "value": True},
        ]
    }
    condition = Definition.model_validate({"name": "n", "condition": looks}).condition
    assert validate(condition, CATALOGUE) == []
    [fault] = validate(condition, CATALOGUE, computed=["spend"])
    assert fault[:2] == ("$.condition.any[0].trait", "warning")
    assert "did you mean 'spend'?" in fault.message
    assert validate(condition, CATALOGUE, computed=["spent"]) == []
