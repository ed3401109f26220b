"""Property filters of a leaf, compiled to one predicate.

Comparisons are strict by JSON type: text, numbers (``1`` equals ``1.0``), true and false are three kinds, and
values of different kinds are never equal and never ordered. A property that is missing or null satisfies no
filter but ``exists: false``.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from pipeline.models.segment import Filter
from pipeline.models.window import moment_ms

__all__ = ["Getter", "Predicate", "caster", "compile_filters", "getter"]

Properties = dict[str, Any]
#: Properties of an event -> does it match. None stands for no properties.
Predicate = Callable[[Properties | None], bool]
Getter = Callable[[Properties], Any]
_Test = Callable[[Properties], bool]

_ORDER = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


def getter(path: str) -> Getter:
    """Reads a property: the key to the letter if there is one, else the dotted path; None when missing."""
    if "." not in path:
        return lambda properties: properties.get(path)
    steps = path.split(".")

    def get(properties: Properties) -> Any:
        if path in properties:
            return properties[path]
        found: Any = properties
        for step in steps:
            if type(found) is not dict:
                return None
            found = found.get(step)
        return found

    return get


def _equals(value: Any) -> Callable[[Any], bool]:
    if type(value) is bool:
        return lambda found: found is value
    if type(value) is str:
        return lambda found: bool(found == value)
    return lambda found: found == value and type(found) is not bool


def _one_of(values: list[Any]) -> Callable[[Any], bool]:
    texts = frozenset(v for v in values if type(v) is str)
    numbers = frozenset(v for v in values if type(v) in (int, float))
    flags = frozenset(v for v in values if type(v) is bool)

    def test(found: Any) -> bool:
        kind = type(found)
        if kind is str:
            return found in texts
        if kind is bool:
            return found in flags
        return kind in (int, float) and found in numbers

    return test


def _contains(value: Any) -> Callable[[Any], bool]:
    same = _equals(value)
    text = type(value) is str

    def test(found: Any) -> bool:
        if type(found) is str:
            return text and value in found
        return type(found) is list and any(map(same, found))

    return test


def _ordered(op: str, value: float) -> Callable[[Any], bool]:
    compare = _ORDER[op]
    return lambda found: type(found) in (int, float) and compare(found, value)


def _test(condition: Filter) -> Callable[[Any], bool]:
    """The comparison alone, for a value that is neither missing nor null."""
    op, value = condition.op, condition.value
    if op == "equals":
        return _equals(value)
    if op == "not_equals":
        same = _equals(value)
        return lambda found: not same(found)
    if op == "in":
        return _one_of(value)
    if op == "contains":
        return _contains(value)
    return _ordered(op, value)


#: A number as JSON writes it, nothing around it.
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")


def caster(cast: str | None) -> Callable[[Any], Any]:
    """Reads a value as ``cast`` says; None for what can't be read so. Dates become milliseconds."""
    return {None: _as_is, "number": _as_number, "text": _as_text, "date": _as_date, "boolean": _as_boolean}[cast]


def _as_is(found: Any) -> Any:
    return found


def _as_number(found: Any) -> Any:
    if type(found) in (int, float):
        return found
    if type(found) is str and len(found) <= 40 and _NUMBER.fullmatch(found):
        try:
            return int(found)
        except ValueError:
            number = float(found)
            return number if math.isfinite(number) else None
    return None


def _as_text(found: Any) -> Any:
    if type(found) is str:
        return found
    if type(found) is bool:
        return "true" if found else "false"
    return repr(found) if type(found) in (int, float) else None


def _as_date(found: Any) -> Any:
    if type(found) in (int, float):
        return found
    if type(found) is not str or len(found) > 40:
        return None
    try:
        return moment_ms(found)
    except ValueError:
        return None


def _as_boolean(found: Any) -> Any:
    if type(found) is bool:
        return found
    if type(found) is str:
        return {"true": True, "false": False, "1": True, "0": False}.get(found.lower())
    return {0: False, 1: True}.get(found) if type(found) is int else None


def _with_dates(condition: Filter) -> Filter:
    """Its dates as milliseconds, which are what is compared."""
    value = condition.value
    moments = [moment_ms(each) for each in value] if condition.op == "in" else moment_ms(value)
    return condition.model_copy(update={"value": moments})


def _cast_getter(condition: Filter) -> Getter:
    get = getter(condition.property)
    if condition.cast is None:
        return get
    cast = caster(condition.cast)
    return lambda properties: cast(get(properties))


def _compile(condition: Filter) -> _Test:
    get = _cast_getter(condition)
    if condition.op == "exists":
        wanted: bool = condition.value
        return lambda properties: (get(properties) is not None) is wanted
    test = _test(_with_dates(condition) if condition.cast == "date" else condition)

    def matches(properties: Properties) -> bool:
        found = get(properties)
        return found is not None and test(found)

    return matches


def _both(first: _Test, second: _Test) -> _Test:
    return lambda properties: first(properties) and second(properties)


def compile_filters(where: Sequence[Filter]) -> Predicate:
    """One predicate of all filters; they must all hold."""
    tests = [_compile(condition) for condition in where]
    if not tests:
        return lambda properties: True
    test = reduce(_both, tests)
    return lambda properties: test(properties or {})
