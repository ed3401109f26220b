"""Rows of a file, in bounded memory whatever the file: CSV and lines of JSON (NDJSON), from any place on.

A row that can't be read is told as a fault and the next one follows. Source of CSV's rules: RFC 4180.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import orjson

from pipeline.models.raw import MAX_EVENT_BYTES

__all__ = ["Row", "csv_rows", "json_rows"]

_CHUNK = 256 << 10
_COLUMNS = 1000
_NAME = 200
_BOM = b"\xef\xbb\xbf"
#: What is kept of a line that is too long.
_KEPT = 10_000
# A quote that is never closed would otherwise take in the rest of the file. Python has one limit a process.
csv.field_size_limit(MAX_EVENT_BYTES)


class Row(NamedTuple):
    """``number``: from 1, the header not counted. ``body``: JSON, or what stood there where ``fault`` says why not."""

    number: int
    body: bytes
    fault: str | None = None


class Readable(Protocol):
    """As Python's files, and pyarrow's streams."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""
        ...


class _Line(NamedTuple):
    content: bytes
    too_long: bool = False


def _lines(stream: Readable) -> Iterator[_Line]:
    """Lines without their ends, of at most `MAX_EVENT_BYTES`; longer ones are cut and marked."""
    rest, skipping, first = b"", False, True
    while chunk := stream.read(_CHUNK):
        if first:
            chunk, first = chunk.removeprefix(_BOM), False
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if skipping:
                skipping = False
            elif len(line) > MAX_EVENT_BYTES:
                yield _Line(line[:_KEPT], True)
            else:
                yield _Line(line.removesuffix(b"\r"))
        if skipping:
            rest = b""
        elif len(rest) > MAX_EVENT_BYTES:
            yield _Line(rest[:_KEPT], True)
            rest, skipping = b"", True
    if rest and not skipping:
        yield _Line(rest.removesuffix(b"\r"))


def json_rows(stream: Readable) -> Iterator[Row]:
    """A row a line that is not empty; whether it is JSON is for its bridge to say."""
    number = 0
    for line in _lines(stream):
        if line.content.strip():
            number += 1
            yield Row(number, line.content, _long(line))


def csv_rows(stream: Readable, delimiter: str = ",") -> Iterator[Row]:
    """A JSON object a row: the header's names, and the cells that are not empty, as text.

    Raises ValueError where the first row is no header.
    """
    cut: list[_Line] = []

    def text() -> Iterator[str]:
        for line in _lines(stream):
            if line.too_long:
                cut.append(line)
            yield line.content.decode("utf-8", "surrogateescape") + "\n"

    cells = csv.reader(text(), delimiter=delimiter, strict=True)
    names = _header(cells)
    number = 0
    while True:
        number += 1
        try:
            row = next(cells)
        except StopIteration:
            return
        except csv.Error as error:
            cut.clear()
            yield Row(number, b"", f"no CSV: {error}")
            continue
        if not row:
            number -= 1
        elif cut:
            yield Row(number, cut.pop().content, f"a line of more than {MAX_EVENT_BYTES} bytes")
        else:
            yield _row(number, names, row, delimiter)


def _header(cells: Iterator[list[str]]) -> list[str]:
    try:
        names = [name.strip() for name in next(cells, [])]
    except csv.Error as error:
        raise ValueError(f"the header is no CSV: {error}") from None
    if not names:
        return []
    if len(names) > _COLUMNS or any(not name or len(name) > _NAME for name in names):
        raise ValueError(f"the first row is no header: 1 to {_COLUMNS} names of 1 to {_NAME} characters")
    if len(set(names)) < len(names):
        raise ValueError(f"the header has the name {next(n for n in names if names.count(n) > 1)!r} twice")
    return names


def _row(number: int, names: list[str], row: list[str], delimiter: str) -> Row:
    fault = None
    if len(row) > len(names):
        fault = f"{len(row)} cells, and the header has {len(names)} names"
    else:
        try:
            body = orjson.dumps({name: cell for name, cell in zip(names, row, strict=False) if cell})
            return Row(
                number, body, f"a row of more than {MAX_EVENT_BYTES} bytes" if len(body) > MAX_EVENT_BYTES else None
            )
        except TypeError:
            fault = "the row is not UTF-8"
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerow(row)
    return Row(number, out.getvalue().encode("utf-8", "surrogateescape"), fault)


def _long(line: _Line) -> str | None:
    return f"a line of more than {MAX_EVENT_BYTES} bytes" if line.too_long else None
