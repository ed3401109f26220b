"""Applying a declared mapping (`models.mapping`): a document in, raw events out. Pure.

Paths and templates are taken apart once, when a mapping is compiled; a document then costs a walk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.models.mapping import MappedEvent, Taken
from pipeline.models.mapping import Mapping as Declared

__all__ = ["MappingError", "Program", "compile_expression", "compile_mapping", "steps_of"]

#: Path steps: ``.name``, ``["any name"]`` or ``[3]``.
_STEP = re.compile(r"""\.([\w-]+)|\[(-?\d+)\]|\["([^"\]]*)"\]""")
_HOLE = re.compile(r"\{([$@][^{}|]*)(?:\|(\w+))?\}")
_HEADER = "$header."
_MISSING: Any = object()
_PHONE = re.compile(r"\+?[0-9][0-9 ()./-]{4,30}")
#: Elements of one document's ``each``: a foreign list has no bound of its own.
_MAX_EACH = 10_000


class MappingError(ValueError):
    """A mapping that can't be compiled, or a document that does not fit it. ``path``: where, in whichever it is."""

    def __init__(self, message: str, path: str = "$") -> None:
        super().__init__(message)
        self.path = path


class _Scope:
    """What expressions are read in: the document, an element of a list in it, and the headers."""

    __slots__ = ("document", "element", "headers")

    def __init__(self, document: Any, element: Any, headers: Mapping[str, str]) -> None:
        self.document = document
        self.element = element
        self.headers = headers


_Read = Callable[[_Scope], Any]
#: A document and its headers in, raw events (JSON objects in the shape of `models.raw.RawEvent`) out; [] where the
#: mapping ignores it. Raises `MappingError` where none fits and the mapping rejects.
Program = Callable[[Any, Mapping[str, str]], list[dict[str, Any]]]


def compile_mapping(declared: Declared) -> Program:
    """Raises `MappingError`, with the path in the mapping, for a path or a template that can't be read."""
    kinds = [_event(event, f"$.events[{index}]") for index, event in enumerate(declared.events)]

    def run(document: Any, headers: Mapping[str, str]) -> list[dict[str, Any]]:
        for fits, make in kinds:
            scope = _Scope(document, _MISSING, headers)
            if fits(scope):
                return make(scope)
        if declared.others == "ignore":
            return []
        raise MappingError("no event of the source's mapping fits this document")

    return run


def _event(event: MappedEvent, where: str) -> tuple[Callable[[_Scope], bool], Callable[[_Scope], list[dict[str, Any]]]]:
    conditions = [(_path(path, f"{where}.when"), wanted) for path, wanted in event.when.items()]
    each = _path(event.each, f"{where}.each") if event.each else None
    fields = [
        (alias, _expression(getattr(event, name), f"{where}.{alias}"))
        for name, alias in (
            ("event", "event"),
            ("user_id", "userId"),
            ("anonymous_id", "anonymousId"),
            ("message_id", "messageId"),
            ("timestamp", "timestamp"),
        )
        if getattr(event, name) is not None
    ]
    parts = [
        (name, _object(getattr(event, name), f"{where}.{name}"))
        for name in ("properties", "traits", "context")
        if getattr(event, name)
    ]

    def one(scope: _Scope) -> dict[str, Any]:
        made: dict[str, Any] = {"type": event.type}
        for name, read in [*fields, *parts]:
            value = read(scope)
            if value is not _MISSING and value is not None and value != {}:
                made[name] = value
        return made

    def make(scope: _Scope) -> list[dict[str, Any]]:
        if each is None:
            return [one(scope)]
        elements = each(scope)
        if not isinstance(elements, list):
            raise MappingError(f"{event.each} is no list", event.each or "$")
        if len(elements) > _MAX_EACH:
            raise MappingError(f"{event.each} has {len(elements)} elements; at most {_MAX_EACH}", event.each or "$")
        return [one(_Scope(scope.document, element, scope.headers)) for element in elements]

    return (lambda scope: all(_holds(read(scope), wanted) for read, wanted in conditions)), make


def _holds(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, bool) and not isinstance(value, bool):
        return (value is not _MISSING and value is not None) is wanted
    return any(value == one and type(value) is type(one) for one in (wanted if isinstance(wanted, list) else [wanted]))


def _object(declared: dict[str, Any] | str, where: str) -> _Read:
    if isinstance(declared, str):
        whole = _path(declared, where)

        def taken(scope: _Scope) -> Any:
            value = whole(scope)
            return value if isinstance(value, dict) else _MISSING

        return taken
    fields = [(name, _expression(value, f"{where}.{name}")) for name, value in declared.items()]

    def made(scope: _Scope) -> dict[str, Any]:
        values = ((name, read(scope)) for name, read in fields)
        return {name: value for name, value in values if value is not _MISSING and value is not None}

    return made


def _expression(value: Any, where: str) -> _Read:
    if isinstance(value, Taken):
        return _taken(value, where)
    if isinstance(value, str) and value[:1] in ("$", "@") and len(value) > 1:
        return _path(value, where)
    if isinstance(value, str) and _HOLE.search(value):
        return _template(value, where)
    return lambda scope: value


def compile_expression(value: Any, where: str) -> Callable[[Any, Mapping[str, str]], Any]:
    """One expression, over a document and its headers; null where what it reads is missing. Raises `MappingError`."""
    read = _expression(value, where)

    def run(document: Any, headers: Mapping[str, str]) -> Any:
        found = read(_Scope(document, _MISSING, headers))
        return None if found is _MISSING else found

    return run


def _taken(taken: Taken, where: str) -> _Read:
    read = _path(taken.path, where)

    def cast(scope: _Scope) -> Any:
        value = read(scope)
        if value is _MISSING or value is None:
            return taken.default
        try:
            value = _CASTS[taken.cast](value) if taken.cast else value
            if taken.scale is not None:
                value = round(float(value) * taken.scale, 9)
        except (ValueError, TypeError, OverflowError, OSError):
            if taken.default is not None:
                return taken.default
            raise MappingError(f"{value!r:.80} at {taken.path} is no {taken.cast or 'number'}", taken.path) from None
        return value

    return cast


def _template(text: str, where: str) -> _Read:
    parts = _HOLE.split(text)
    literal = parts[::3]
    holes = [_hole(path, cast, where) for path, cast in zip(parts[1::3], parts[2::3], strict=True)]

    def filled(scope: _Scope) -> str:
        out = [literal[0]]
        for read, after in zip(holes, literal[1:], strict=True):
            out += [_text(read(scope)), after]
        return "".join(out)

    return filled


def _hole(path: str, cast: str | None, where: str) -> _Read:
    """What stands for ``{$.path}`` or ``{$.path|cast}``; nothing where there is nothing."""
    if cast is None:
        return _path(path, where)
    if cast not in _CASTS:
        raise MappingError(f"no cast {cast!r}; one of {', '.join(_CASTS)}", where)
    return _taken(Taken.model_validate({"path": path, "as": cast}), where)


def _path(text: str, where: str) -> _Read:
    """``$header.x-name``, ``$`` and ``@`` with steps; what is not there reads as missing."""
    if text.startswith(_HEADER):
        name = text.removeprefix(_HEADER).lower()
        return lambda scope: scope.headers.get(name, _MISSING)
    steps = steps_of(text, where)
    of_element = text[0] == "@"

    def read(scope: _Scope) -> Any:
        here = scope.element if of_element else scope.document
        for step in steps:
            here = _step(here, step)
            if here is _MISSING:
                break
        return here

    return read


def steps_of(text: str, where: str) -> list[str | int]:
    """The steps of a path, without what it starts from. Raises `MappingError` for what is no path."""
    steps: list[str | int] = []
    rest, at = text[1:], 0
    while at < len(rest):
        step = _STEP.match(rest, at)
        if step is None:
            raise MappingError(f"{text!r} is no path: a path is `$.name[0].other` or `@.name`", where)
        name, index, quoted = step.groups()
        steps.append(int(index) if index is not None else name if name is not None else quoted)
        at = step.end()
    return steps


def _step(here: Any, step: str | int) -> Any:
    if isinstance(step, str):
        return here.get(step, _MISSING) if isinstance(here, dict) else _MISSING
    if isinstance(here, Sequence) and not isinstance(here, str) and -len(here) <= step < len(here):
        return here[step]
    return _MISSING


def _text(value: Any) -> str:
    if value is _MISSING or value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


def _number(value: Any) -> float | int:
    if isinstance(value, bool):
        raise ValueError(value)
    if isinstance(value, int | float):
        return value
    number = float(value)
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _boolean(value: Any) -> bool:
    known = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
    if isinstance(value, bool):
        return value
    return known[str(value).strip().lower()] if str(value).strip().lower() in known else _refuse(value)


def _refuse(value: Any) -> bool:
    raise ValueError(value)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _phone(value: Any) -> str:
    """Digits with a ``+`` before them. What has no country code stays as it is: nothing is guessed."""
    text = str(value).strip()
    if not _PHONE.fullmatch(text):
        raise ValueError(value)
    digits = re.sub(r"\D", "", text)
    return f"+{digits}" if text.startswith("+") else f"+{digits[2:]}" if text.startswith("00") else digits


def _title(value: Any) -> str:
    """A name of a program's as people write names: ``pull_request.review-requested``, Pull Request Review Requested."""
    return " ".join(word[:1].upper() + word[1:] for word in re.split(r"[\s_./:-]+", _text(value)) if word)


def _count(value: Any) -> int:
    if not isinstance(value, list | dict):
        raise TypeError(value)
    return len(value)


_CASTS: dict[str, Callable[[Any], Any]] = {
    "string": _text,
    "title": _title,
    "count": _count,
    "number": _number,
    "integer": lambda value: int(_number(value)),
    "boolean": _boolean,
    "lower": lambda value: _text(value).strip().lower(),
    "seconds": lambda value: _moment(float(_number(value))),
    "milliseconds": lambda value: _moment(float(_number(value)) / 1000),
    "phone": _phone,
}
