"""A rule's filter: a CEL expression over an event and its customer, compiled once (cel.dev; the library is `cel`)."""

from __future__ import annotations

import re
from typing import Any

import cel

__all__ = ["VARIABLES", "Filter", "FilterError", "variables"]

#: What an expression may name; see `variables`.
VARIABLES = ("event", "properties", "customer", "traits")
#: What of an event is shown.
_OF_EVENT = ("id", "type", "name", "source", "channel", "time")
_FUNCTIONS = frozenset(
    (
        "bytes",
        "contains",
        "double",
        "duration",
        "endsWith",
        "getDate",
        "getDayOfMonth",
        "getDayOfWeek",
        "getDayOfYear",
        "getFullYear",
        "getHours",
        "getMilliseconds",
        "getMinutes",
        "getMonth",
        "getSeconds",
        "int",
        "matches",
        "size",
        "startsWith",
        "string",
        "timestamp",
        "type",
        "uint",
    )
)
_TEXT = re.compile(r"""r?'''.*?'''|r?\"\"\".*?\"\"\"|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)
#: A walk over a list, and the name that it gives to each element.
_WALK = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(\s*(\w+)\s*,")
_SENTENCE = 300


class FilterError(ValueError):
    """A text that is no filter; says what is wrong."""


class Filter:
    """Lets an event pass where its expression is true; not where it is anything else, or can't be told.

    What is missing can't be told: ``properties.total > 100`` lets nothing without a total pass. Walks over lists
    (``all``, ``exists``, ``map``, …) do not nest: an event may hold long lists.
    """

    __slots__ = ("_names", "_run")

    def __init__(self, text: str) -> None:
        """Raises FilterError."""
        try:
            program = cel.compile(text)
        except Exception as error:
            raise FilterError(f"no CEL expression: {_short(error)}") from None
        except BaseException as error:
            # The library is not Python: what it trips over comes as its panic, which is no Exception.
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise FilterError("no CEL expression: the parser gave up on it") from None
        walks = _WALK.findall(_TEXT.sub("''", text))
        if len(walks) > 1:
            raise FilterError("it walks over a list more than once; once is what a filter may do")
        unknown = sorted(set(program.variables()) - {*VARIABLES, *walks, *_FUNCTIONS})
        if unknown:
            raise FilterError(f"nothing is named {unknown[0]!r}; there are {', '.join(VARIABLES)}")
        functions = sorted(name for name in program.functions() if name.isidentifier() and name not in _FUNCTIONS)
        if functions:
            raise FilterError(f"there is no function {functions[0]!r}; there are {', '.join(sorted(_FUNCTIONS))}")
        self._names = tuple(name for name in VARIABLES if name in program.variables())
        self._run = program.execute

    def admits(self, known: dict[str, Any]) -> bool:
        """Whether it is true of ``known``, as `variables` makes it."""
        try:
            return self._run({name: known[name] for name in self._names}) is True
        except Exception:
            return False
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            return False


def variables(event: Any, properties: dict[str, Any] | None, customer: dict[str, Any]) -> dict[str, Any]:
    """What a filter looks at: ``event`` (id, type, name, source, channel, time in ms), its ``properties``, ``customer``
    (id, user_id, anonymous_id, email, phone) and its ``traits``. ``event``: an object or a mapping of these fields."""
    get = event.get if isinstance(event, dict) else lambda name: getattr(event, name)
    return {
        "event": {name: get(name) for name in _OF_EVENT},
        "properties": properties or {},
        "customer": {name: value for name, value in customer.items() if name != "traits"},
        "traits": customer.get("traits") or {},
    }


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = text.rpartition("ERROR: <input>:")[2] if "ERROR: <input>:" in text else text
    return text if len(text) <= _SENTENCE else text[:_SENTENCE] + "…"
