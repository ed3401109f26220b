"""A Pydantic fault in words a person can act on: where in the input, and what is expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pipeline.models.segment import TAGS

__all__ = ["MAX_NESTING", "explain", "fault", "shallow", "too_deep"]

#: Levels of lists and objects in a command: what is accepted can always be written out again.
MAX_NESTING = 100

#: Of the settings inside a command, which count the command around them too.
_MAX_SETTINGS_NESTING = 90

#: What a pattern wants, by the field that has it: nobody should have to read a regular expression.
_WANTED = {
    "id": "an id has 1 to 48 lower-case letters, digits and hyphens, no hyphen at its ends",
    "code": "a code has 1 to 64 letters, digits, hyphens and underscores, a letter or digit at its ends",
    "domain": "a domain is a host name in lower case, e.g. shop.example, *.shop.example or localhost:8000",
    "kind": "a kind has 1 to 40 lower-case letters, digits, hyphens and underscores, e.g. webhook",
}
_WANTED |= dict.fromkeys(("partner", "entity", "integration", "source"), _WANTED["id"])
_TAGS = frozenset(TAGS)


def fault(error: ValidationError, value: Any, root: str = "$") -> tuple[str, str]:
    """(path, sentence) of the first fault in ``value``; a path reads like ``$.condition.all[0].count.value``.

    The sentence never repeats the value itself: it may be a secret.
    """
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return explain(first, value, root)


def explain(error: Mapping[str, Any], value: Any, root: str = "$") -> tuple[str, str]:
    """The same of one entry of Pydantic's list of errors; ``value`` is what its location starts from."""
    path, last = _path(error["loc"], value, root)
    kind, message = error["type"], error["msg"].removeprefix("Value error, ")
    if kind == "string_pattern_mismatch" and last in _WANTED:
        message = _WANTED[last]
    elif kind == "extra_forbidden":
        message = "unknown field; leave it out"
    elif kind == "missing":
        message = "missing field"
    elif kind.startswith("recursion"):
        message = "nested too deep"
    return path, message


def _path(loc: tuple[str | int, ...], value: Any, root: str) -> tuple[str, str]:
    """The location without the names of union members that Pydantic mixes into it, and its last field."""
    path, last, here = root, "", value
    before: str | int = ""
    for part in loc:
        # Before a condition (`condition`, `not`, an item of `all` or `any`) Pydantic puts its kind's tag.
        item = isinstance(before, int) and last in ("all", "any")
        if part in _TAGS and (item or before in ("condition", "not")):
            before = ""
            continue
        if isinstance(part, int) and isinstance(here, list):
            path += f"[{part}]"
            here = here[part] if part < len(here) else None
        elif isinstance(part, str) and isinstance(here, dict):
            path += f".{part}"
            last, here = part, here.get(part)
        else:
            break  # a member of a union of plain values
        before = part
    return path, last


def too_deep(value: Any, levels: int = MAX_NESTING) -> bool:
    """Whether lists and objects nest deeper; without recursion, for the value comes from outside."""
    layer = [value]
    for _ in range(levels + 1):
        inner: list[Any] = []
        for each in layer:
            if isinstance(each, dict):
                inner += each.values()
            elif isinstance(each, list):
                inner += each
        if not inner:
            return False
        layer = inner
    return True


def shallow(settings: dict[str, Any]) -> dict[str, Any]:
    """The same, as a Pydantic validator of settings in a command. Raises ValueError where they nest too deep."""
    if too_deep(settings, _MAX_SETTINGS_NESTING):
        raise ValueError(f"nested deeper than {_MAX_SETTINGS_NESTING} levels")
    return settings
