"""Filters compare strictly by type."""

from __future__ import annotations

import pytest

from pipeline.models.segment import Filter
from pipeline.segments.filters import compile_filters

MISSING = object()


def matches(value, op, wanted):
    properties = {} if value is MISSING else {"p": value}
    return compile_filters([Filter(property="p", op=op, value=wanted)])(properties)


@pytest.mark.parametrize(
    ("value", "op", "wanted", "expected"),
    [
        ("Jacket", "equals", "Jacket", True),
        ("jacket", "equals", "Jacket", False),
        ("100", "equals", 100, False),
        (100, "equals", "100", False),
        (1, "equals", 1.0, True),
        (1.0, "equals", 1, True),
        (True, "equals", 1, False),
        (1, "equals", True, False),
        (True, "equals", True, True),
        (False, "equals", 0, False),
        (0, "equals", False, False),
        (None, "equals", False, False),
        (["a"], "equals", "a", False),
        ("100", "not_equals", 100, True),
        (1, "not_equals", 1.0, False),
        (True, "not_equals", 1, True),
        (MISSING, "not_equals", 1, False),
        (None, "not_equals", 1, False),
        (1, "in", [True, "1"], False),
        (1, "in", [1.0], True),
        (True, "in", [1, "True"], False),
        (True, "in", [True], True),
        ("1", "in", [1, "1"], True),
        (["1"], "in", ["1"], False),
        ({"a": 1}, "in", ["a"], False),
        ("red jacket", "contains", "jack", True),
        ("red jacket", "contains", "Jack", False),
        (["a", 1], "contains", "a", True),
        (["a", 1], "contains", 1.0, True),
        (["a", 1], "contains", True, False),
        (["abc"], "contains", "a", False),
        (123, "contains", 1, False),
        ({"a": 1}, "contains", "a", False),
        ("x", "exists", True, True),
        (False, "exists", True, True),
        (None, "exists", True, False),
        (MISSING, "exists", True, False),
        (None, "exists", False, True),
        (MISSING, "exists", False, True),
        (0, "exists", False, False),
        (100, ">=", 100, True),
        (99.9, ">=", 100, False),
        ("100", ">=", 100, False),
        (True, ">=", 0, False),
        (10**30, ">", 1.5, True),
        (2, ">", 2, False),
        (1, "<", 2, True),
        (2, "<=", 2.0, True),
        (None, "<", 2, False),
        ("🧥" * 3, "contains", "🧥", True),
    ],
)
def test_comparison(value, op, wanted, expected):
    assert matches(value, op, wanted) is expected


def test_all_filters_must_hold():
    both = compile_filters(
        [Filter(property="a", value=1), Filter(property="b", op=">", value=1), Filter(property="c", value="x")]
    )
    assert both({"a": 1, "b": 2, "c": "x"}) is True
    assert both({"a": 1, "b": 1, "c": "x"}) is False
    assert both({"a": 2, "b": 2, "c": "x"}) is False
    assert both({"a": 1, "b": 2}) is False


def test_no_properties_at_all():
    assert compile_filters([])(None) is True
    assert compile_filters([Filter(property="a", value=1)])(None) is False
    assert compile_filters([Filter(property="a", op="exists", value=False)])(None) is True


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"a": {"b": {"c": 1}}}, True),
        ({"a.b.c": 1}, True),
        ({"a.b.c": 2, "a": {"b": {"c": 1}}}, False),
        ({"a": {"b.c": 1}}, False),
        ({"a": {"b": 1}}, False),
        ({"a": [{"b": {"c": 1}}]}, False),
        ({"a": "b.c"}, False),
        ({}, False),
    ],
)
def test_a_dotted_path_reads_the_key_to_the_letter_or_else_what_is_inside(properties, expected):
    assert compile_filters([Filter(property="a.b.c", value=1)])(properties) is expected
