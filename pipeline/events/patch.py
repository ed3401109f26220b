"""Applying a declared patch (`models.patch`): a rejected record in, the mended one out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import msgspec

from pipeline.events.mapping import MappingError, compile_expression, steps_of
from pipeline.models.patch import KeySet, Patch, Removed, Renamed, Replaced

__all__ = ["Mend", "PatchError", "compile_patch"]

Header = tuple[str, bytes | None]
_Apply = Callable[[Any, Mapping[str, str]], Any]
#: Value, headers and the source's present key in; value and headers out. Raises `PatchError`.
Mend = Callable[[bytes, Sequence[Header], str], tuple[bytes, list[Header]]]
_MISSING: Any = object()
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class PatchError(ValueError):
    """A patch that can't be compiled, or a record that it can't be applied to. ``path``: where, in whichever it is."""

    def __init__(self, message: str, path: str = "$") -> None:
        super().__init__(message)
        self.path = path


def compile_patch(patch: Patch) -> Mend:
    """Raises `PatchError`, with the path in the patch, for a path or an expression that can't be read."""
    try:
        applied = [_compile(each, f"$.patch[{index}]") for index, each in enumerate(patch.operations)]
    except MappingError as error:
        raise PatchError(str(error), error.path) from None
    rekeyed = any(isinstance(each, KeySet) for each in patch.operations)
    written = any(not isinstance(each, KeySet) for each in patch.operations)

    def mend(value: bytes, headers: Sequence[Header], key: str) -> tuple[bytes, list[Header]]:
        known = {name.lower(): (content or b"").decode("utf-8", "replace") for name, content in headers}
        left = list(headers)
        if rekeyed:
            left = [(name, key.encode() if name == "ce_source" else content) for name, content in headers]
        if not written and not (rekeyed and b"writeKey" in value):
            return value, left
        document = _document(value)
        try:
            for apply in applied:
                document = apply(document, known)
        except MappingError as error:
            raise PatchError(str(error), error.path) from None
        if rekeyed and isinstance(document, dict) and "writeKey" in document:
            document["writeKey"] = key
        return _encode(document), left

    return mend


def _document(value: bytes) -> Any:
    try:
        value.decode()
        return _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PatchError(f"the record is not JSON ({str(error)[:200]}), so a patch can't be applied to it") from None


def _compile(operation: Any, where: str) -> _Apply:
    if isinstance(operation, KeySet):
        return lambda document, headers: document
    path = steps_of(operation.path, f"{where}.path")
    if not path:
        raise PatchError("a patch changes what is in the event, not the event as a whole", f"{where}.path")
    if isinstance(operation, Removed):
        return lambda document, headers: _take(document, path)[1]
    if isinstance(operation, Renamed):
        return _renamed(path, steps_of(operation.to, f"{where}.to"), f"{where}.to")
    if isinstance(operation, Replaced):
        return _replaced(path, operation.values)
    value = compile_expression(operation.value, f"{where}.value")

    def put(document: Any, headers: Mapping[str, str]) -> Any:
        # A copy: what is put inside itself would have no end.
        return _put(document, path, deepcopy(value(document, headers)))

    return put


def _renamed(path: list[str | int], to: list[str | int], where: str) -> _Apply:
    if not to:
        raise PatchError("a patch changes what is in the event, not the event as a whole", where)

    def rename(document: Any, headers: Mapping[str, str]) -> Any:
        value, document = _take(document, path)
        return document if value is _MISSING else _put(document, to, value)

    return rename


def _replaced(path: list[str | int], values: dict[str, Any]) -> _Apply:
    def replace(document: Any, headers: Mapping[str, str]) -> Any:
        value = _at(document, path)
        return _put(document, path, values[value]) if isinstance(value, str) and value in values else document

    return replace


def _at(document: Any, path: Sequence[str | int]) -> Any:
    here = document
    for step in path:
        if isinstance(here, dict) and step in here:
            here = here[step]
        elif isinstance(here, list) and isinstance(step, int):
            if not -len(here) <= step < len(here):
                return _MISSING
            here = here[step]
        else:
            return _MISSING
    return here


def _take(document: Any, path: Sequence[str | int]) -> tuple[Any, Any]:
    """The value at ``path``, and the document without it."""
    holder = _at(document, path[:-1])
    value = _at(document, path)
    if value is not _MISSING:
        del holder[path[-1]]
    return value, document


def _put(document: Any, path: Sequence[str | int], value: Any) -> Any:
    """The document with ``value`` at ``path``; objects that are missing, or null, on the way are made."""
    here = document
    for step, after in zip(path, [*path[1:], None], strict=True):
        place = here if isinstance(step, str) and isinstance(here, dict) else None
        if place is None and not (isinstance(step, int) and _at(here, [step]) is not _MISSING):
            raise PatchError(f"there is no place for a value at {_text(path)}", _text(path))
        if after is None:
            here[step] = value
        else:
            if isinstance(after, str) and _at(here, [step]) in (_MISSING, None):
                here[step] = {}
            here = _at(here, [step])
    return document


def _text(path: Sequence[str | int]) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
