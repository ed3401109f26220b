"""A file of customers as the upload reads it: gzip or not, any Unicode, CSV with its separator found, or NDJSON."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Literal, cast

from pipeline.bridges.rows import Row, csv_rows, json_rows

__all__ = ["CustomerFile", "FileFault"]

Format = Literal["csv", "ndjson"]

_GZIP = b"\x1f\x8b"
_BLOCK = 256 << 10
_PEEK = 64 << 10
#: Longer first: the mark of UTF-16 begins that of UTF-32.
_MARKS = [
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
]
_SEPARATORS = ",;\t|"


class FileFault(Exception):
    """The file can't be read as it is; says what to do."""


class _Utf8:
    """A stream of any encoding as one of UTF-8, in bounded memory."""

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        self._stream = stream
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()

    def read(self, size: int, /) -> bytes:
        while True:
            block = self._stream.read(size)
            try:
                text = self._decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise FileFault(f"the file is not {self._encoding}: {error.reason}; name its --encoding") from None
            if text or not block:
                return text.encode("utf-8", "replace")


@dataclass(frozen=True)
class CustomerFile:
    """A file, and how it is read. ``separator`` and ``encoding`` None: found in the file itself."""

    path: Path
    format: Format
    separator: str | None = None
    encoding: str | None = None

    @classmethod
    def of(cls, path: Path, format: str | None, separator: str | None, encoding: str | None) -> CustomerFile:
        """By its name, where ``format`` is not given. Raises `FileFault`, OSError."""
        if separator is not None and len(separator) != 1:
            raise FileFault("a separator is one character")
        if encoding is not None:
            try:
                codecs.lookup(encoding)
            except LookupError:
                raise FileFault(f"no encoding {encoding!r}") from None
        name = path.name.lower().removesuffix(".gz")
        if format is None:
            format = "csv" if name.endswith((".csv", ".tsv", ".txt")) else None
            format = "ndjson" if name.endswith((".ndjson", ".jsonl", ".json")) else format
        if format not in ("csv", "ndjson"):
            raise FileFault(f"{path.name} says by its name neither .csv nor .ndjson; name its --format, csv or ndjson")
        return cls(path, "csv" if format == "csv" else "ndjson", separator, encoding)

    def upload_id(self, salt: str, read: Callable[[int], None]) -> str:
        """Of the bytes and of how they are read, so the same file is the same upload. ``read``: told of progress."""
        how = "\n".join([self.format, self.separator or "", self.encoding or "", salt])
        digest = hashlib.sha256(how.encode() + b"\n")
        with self.path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                read(len(block))
        return digest.hexdigest()

    def rows(self, at: Callable[[int], None]) -> Iterator[Row]:
        """The rows in order, numbered from 1, the header not counted. ``at``: told the place in the file now and then.

        Raises `FileFault` where there is no telling what is a row, OSError.
        """
        with self.path.open("rb") as file:
            plain = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if _peek(file, 2) == _GZIP else cast(IO[bytes], file)
            buffered = io.BufferedReader(cast(io.RawIOBase, plain), _PEEK)
            try:
                head = buffered.peek(_PEEK)[:_PEEK]
                encoding, mark = self._encoding(head)
                buffered.read(len(mark))
                stream = buffered if encoding == "utf-8" else _Utf8(buffered, encoding)
                if self.format == "csv":
                    found = csv_rows(stream, self._separator(head[len(mark) :], encoding))
                else:
                    found = json_rows(stream)
                for row in found:
                    if row.number % 500 == 1:
                        at(file.tell())
                    yield row
                at(file.tell())
            except (gzip.BadGzipFile, EOFError) as error:
                raise FileFault(f"the file is no whole gzip: {error}") from None
            except ValueError as error:
                raise FileFault(str(error)) from None

    def _encoding(self, head: bytes) -> tuple[str, bytes]:
        """The encoding, and the byte order mark that the file begins with, if any."""
        marked = next(((name, mark) for mark, name in _MARKS if head.startswith(mark)), None)
        if self.encoding is None:
            return marked or ("utf-8", b"")
        mark = marked[1] if marked is not None else b""
        return codecs.lookup(self.encoding).name, mark

    def _separator(self, head: bytes, encoding: str) -> str:
        """The one that the first line has most of, outside of quotes."""
        if self.separator is not None:
            return self.separator
        line = head.decode(encoding, "replace").lstrip("\r\n").partition("\n")[0]
        bare = "".join(line.split('"')[::2])
        return max(_SEPARATORS, key=bare.count)


def _peek(file: BinaryIO, size: int) -> bytes:
    start = file.read(size)
    file.seek(0)
    return start
