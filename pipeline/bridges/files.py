"""Files dropped into a folder, or objects under an S3 prefix: each once, its rows as events.

An object is its path and its version (size and time of change): another version is another object. A small one is
recorded in one transaction; a large one in pieces, each with the row that it goes to.
"""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import logging
import os
import posixpath
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import orjson
from pydantic import Field, StringConstraints, model_validator

from pipeline.bridges.base import FORGET, BridgeRequest, Opening, Parcel, Parsed, Refused, SetupFault
from pipeline.bridges.origin import Credentials, Host, Settings
from pipeline.bridges.payload import PayloadBridge, PayloadSettings, event_out
from pipeline.bridges.rows import Row, csv_rows, json_rows
from pipeline.guard import Guard
from pipeline.models.base import Millis
from pipeline.models.control import Source

__all__ = ["FilesBridge", "FilesSettings"]

_log = logging.getLogger(__name__)
#: Of one transaction.
_ROWS, _BYTES = 5000, 4 << 20
#: Objects that were taken and are there no more are forgotten, so many at a time.
_FORGET = 500
#: After so many attempts an object that can't be read is left, and told as refused.
_ATTEMPTS = 5
#: Columns of a file without a mapping -> the field of the event. All others are properties (traits of an identify).
_FIELDS = {
    "type": "type",
    "event": "event",
    "userid": "userId",
    "anonymousid": "anonymousId",
    "messageid": "messageId",
    "timestamp": "timestamp",
}
_CONTACTS = ("email", "phone")


class S3(Settings):
    """A prefix of a bucket. The secret key is the source's secret; without an access key it is read as by anybody."""

    bucket: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    prefix: Annotated[str, StringConstraints(pattern=r"^(?:[^\x00/][^\x00]*)?$", max_length=900)] = ""
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,40}$")] = "us-east-1"
    access_key: Annotated[str, Field(max_length=200)] | None = None
    endpoint: Annotated[str, StringConstraints(pattern=r"^https?://[A-Za-z0-9._-]+(?::\d{1,5})?$")] | None = Field(
        None, description="of a store other than Amazon's: `https://minio.example:9000`"
    )

    @property
    def host(self) -> Host:
        """What is connected to."""
        if self.endpoint is None:
            return f"s3.{self.region}.amazonaws.com"
        return self.endpoint.partition("://")[2].partition(":")[0]


class FilesSettings(PayloadSettings):
    """Where files are dropped, and what is in them."""

    format: Literal["auto", "csv", "ndjson"] = Field(  # type: ignore[assignment]
        "auto", description="auto: by the name, `.csv`, `.ndjson`, `.jsonl`, each with `.gz` or without"
    )
    folder: Annotated[str, StringConstraints(pattern=r"^/[^\x00]*$")] | None = Field(
        None, description="of the machine of the bridge role, under one of HEADRACE_ALLOW_FOLDERS"
    )
    s3: S3 | None = None
    pattern: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        "*", description="of the names, `orders-*.csv`"
    )
    recursive: bool = False
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    poll: float = Field(10, ge=1, le=86_400, description="seconds between looks")
    stable: float = Field(5, ge=0, le=86_400, description="seconds that a file must not change before it is taken")
    marker: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,40}$")] | None = Field(
        None, description="`.done`: a file is taken once there is one of its name with this behind it"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.folder is None) == (self.s3 is None):
            raise ValueError("say `folder` or `s3`, one of them")
        return self


class FilesBridge(PayloadBridge):
    """The id of a row is the object's and its number, so a repeat is one."""

    name = "files"
    title = "files in a folder or under an S3 prefix: CSV and NDJSON"
    channel = "CRM"
    Settings = FilesSettings

    def parse(self, request: BridgeRequest, source: Source, secrets: Sequence[bytes], now_ms: Millis) -> Parsed:
        """The events of one row. Raises `Refused`."""
        fault = request.headers.get("file-fault")
        if fault is not None:
            where = f"{request.headers['file-name']}, row {request.headers['file-row']}"
            raise Refused(400, "shape", f"{fault} ({where})")
        if request.headers["file-format"] == "csv" and source.settings.get("mapping") is None:
            return Parsed([event_out(_event(orjson.loads(request.body)), request.id, source)])
        return super().parse(request, source, secrets, now_ms)

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[_Stream]:
        """The folder, or the bucket. Raises as `Feed.open` says."""
        settings: FilesSettings = opening.settings
        if settings.folder is not None:
            files, root = await asyncio.to_thread(_folder, settings.folder, opening.folders)
        else:
            assert settings.s3 is not None
            files, root = await asyncio.to_thread(_bucket, settings.s3, Credentials.of(opening.secret), opening.guard)
        stream = _Stream(settings, files, root, dict(opening.positions))
        await stream.look()
        try:
            yield stream
        finally:
            stream.close()


def _folder(folder: str, allowed: Sequence[Path]) -> tuple[Any, str]:
    from pyarrow.fs import LocalFileSystem

    real = Path(folder).resolve()
    if not any(real.is_relative_to(each.resolve()) for each in allowed):
        raise SetupFault(f"{folder} is not under HEADRACE_ALLOW_FOLDERS, so sources may not read it")
    return LocalFileSystem(), str(real)


def _bucket(s3: S3, credentials: Credentials, guard: Guard) -> tuple[Any, str]:
    from pyarrow.fs import S3FileSystem

    guard.resolve(s3.host, 443)
    if s3.access_key is not None and credentials.password is None:
        raise SetupFault("`s3.access_key` wants the secret key as the source's secret")
    # Never the machine's own credentials, which are not the tenant's.
    known: dict[str, Any] = {"anonymous": True}
    if s3.access_key is not None:
        known = {"access_key": s3.access_key, "secret_key": credentials.password}
    where: dict[str, Any] = {}
    if s3.endpoint is not None:
        scheme, _, host = s3.endpoint.partition("://")
        where = {"scheme": scheme, "endpoint_override": host}
    files = S3FileSystem(region=s3.region, connect_timeout=10, request_timeout=30, **known, **where)
    return files, posixpath.join(s3.bucket, s3.prefix.rstrip("/")).rstrip("/")


class _Object(NamedTuple):
    place: str
    path: str
    version: str


class _Reading:
    """An object that is being read; used by one thread at a time."""

    def __init__(self, settings: FilesSettings, files: Any, root: str, found: _Object, row: int) -> None:
        self.object = found
        self.row = row
        self.kind = _kind(settings, found.place)
        if settings.folder is not None and not Path(found.path).resolve().is_relative_to(root):
            raise ValueError("a link that leads out of the folder")
        self._stream = files.open_input_stream(found.path, compression="detect", buffer_size=256 << 10)
        rows = csv_rows(self._stream, settings.delimiter) if self.kind == "csv" else json_rows(self._stream)
        self._rows: Iterator[Row] = islice(rows, row, None)
        digest = hashlib.sha256(f"{found.place}\0{found.version}".encode()).hexdigest()
        self._id = digest[:20]

    def next(self) -> tuple[list[Parcel], bool]:
        """The next rows, and whether they are the last. Raises OSError, ValueError."""
        found: list[Parcel] = []
        size = 0
        for row in self._rows:
            size += len(row.body)
            found.append(self._parcel(row))
            self.row = row.number
            if len(found) == _ROWS or size > _BYTES:
                return found, False
        return found, True

    def fault(self, text: str) -> Parcel:
        """What is told of an object that can't be read on."""
        return self._parcel(Row(self.row + 1, b"", text))

    def close(self) -> None:
        """Let go of it."""
        with suppress(Exception):
            self._stream.close()

    def _parcel(self, row: Row) -> Parcel:
        headers = {"file-name": self.object.place, "file-row": str(row.number), "file-format": self.kind}
        if row.fault is not None:
            headers["file-fault"] = row.fault
        return Parcel(f"{self._id}-{row.number}", row.body, headers)


class _Stream:
    def __init__(self, settings: FilesSettings, files: Any, root: str, positions: dict[str, Any]) -> None:
        self.lag: int | None = None
        self._settings = settings
        self._files = files
        self._root = root
        #: Place -> {"v": version} when it is done, with "row" while it is not, with "failed" after failed attempts.
        self._positions: dict[str, Any] = positions
        self._seen: dict[str, tuple[str, float]] = {}
        self._waiting: list[_Object] = []
        self._gone: list[str] = []
        self._next_look = 0.0
        self._reading: _Reading | None = None

    async def look(self) -> None:
        """List what is there. Raises OSError."""
        self._next_look = time.monotonic() + self._settings.poll
        there = await asyncio.to_thread(self._list)
        now = time.monotonic()
        self._seen = {found.place: (found.version, self._first_seen(found, now)) for found in there.values()}
        wanted = [found for found in there.values() if self._is_wanted(found, there)]
        self.lag = len(wanted)
        self._waiting = [found for found in wanted if now - self._seen[found.place][1] >= self._wait(found)]
        if len(self._waiting) < len(wanted):
            self._next_look = min(self._next_look, now + max(0.2, self._settings.stable / 4))
        self._gone = [place for place in self._positions if place not in there][:_FORGET]

    def _first_seen(self, found: _Object, now: float) -> float:
        version, since = self._seen.get(found.place, ("", now))
        return since if version == found.version else now

    def _wait(self, found: _Object) -> float:
        return 0 if self._settings.marker is not None else self._settings.stable

    def _is_wanted(self, found: _Object, there: Mapping[str, _Object]) -> bool:
        marker = self._settings.marker
        if marker is not None and (found.place.endswith(marker) or f"{found.place}{marker}" not in there):
            return False
        if not fnmatch.fnmatchcase(posixpath.basename(found.place), self._settings.pattern):
            return False
        known = self._positions.get(found.place)
        return known is None or known["v"] != found.version or "row" in known

    def _list(self) -> dict[str, _Object]:
        from pyarrow.fs import FileSelector, FileType

        found: dict[str, _Object] = {}
        # A prefix is there once an object is; a folder that is not there is a slip.
        chosen = FileSelector(
            self._root, recursive=self._settings.recursive, allow_not_found=self._settings.s3 is not None
        )
        for info in self._files.get_file_info(chosen):
            place = posixpath.relpath(info.path, self._root)
            if info.type == FileType.File and not os.path.basename(place).startswith("."):
                found[place] = _Object(place, info.path, f"{info.size}-{info.mtime_ns}")
        return dict(sorted(found.items()))

    async def take(self, timeout: float) -> Sequence[Parcel]:
        """Rows of one object."""
        if self._gone:
            gone, self._gone = self._gone, []
            return [Parcel("", None, {}, FORGET, place) for place in gone]
        if self._reading is None and not self._waiting:
            if (wait := self._next_look - time.monotonic()) > 0:
                await asyncio.sleep(min(timeout, wait))
                return []
            await self.look()
            if not self._waiting:
                return []
        found = self._reading.object if self._reading is not None else self._waiting[0]
        try:
            return await asyncio.to_thread(self._read, found)
        except (OSError, ValueError) as error:
            return self._failed(found, error)

    def _read(self, found: _Object) -> list[Parcel]:
        if self._reading is None:
            known = self._positions.get(found.place, {})
            row = known.get("row", 0) if known.get("v") == found.version else 0
            self._reading = _Reading(self._settings, self._files, self._root, found, row)
        reading = self._reading
        parcels, last = reading.next()
        position = {"v": found.version} if last else {"v": found.version, "row": reading.row}
        return [*parcels, Parcel("", None, {}, position, found.place)]

    def _failed(self, found: _Object, error: Exception) -> list[Parcel]:
        """Tried again at the next looks, a few times; then it is left, and told as refused: others come after it."""
        known = self._positions.get(found.place, {})
        known = known if known.get("v") == found.version else {"v": found.version, "row": 0}
        failed = known.get("failed", 0) + 1
        _log.warning("%s can't be read (%d of %d): %s", found.path, failed, _ATTEMPTS, error)
        self._drop()
        self._waiting = [each for each in self._waiting if each.place != found.place]
        if failed < _ATTEMPTS and not isinstance(error, ValueError):
            return [Parcel("", None, {}, known | {"failed": failed, "row": known.get("row", 0)}, found.place)]
        digest = hashlib.sha256(f"{found.place}\0{found.version}\0unread".encode()).hexdigest()[:20]
        row = known.get("row", 0)
        text = f"the file can't be read{f' beyond row {row}' if row else ''}: {error}"
        headers = {"file-name": found.place, "file-row": str(row + 1), "file-format": "", "file-fault": text}
        return [Parcel(digest, b"", headers, {"v": found.version}, found.place)]

    async def done(self, parcels: Sequence[Parcel]) -> None:
        """Remember what is committed."""
        for parcel in parcels:
            if parcel.position is FORGET:
                self._positions.pop(parcel.place, None)
            elif parcel.position is not None:
                self._positions[parcel.place] = parcel.position
                if "row" not in parcel.position:
                    self._waiting = [each for each in self._waiting if each.place != parcel.place]
                    self.lag = max(0, (self.lag or 0) - 1)
                    self._drop()

    def _drop(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def close(self) -> None:
        """Let go of what is open."""
        self._drop()


def _kind(settings: FilesSettings, place: str) -> str:
    if settings.format != "auto":
        return settings.format
    name = place.lower()
    for packed in (".gz", ".bz2", ".zst", ".lz4"):
        name = name.removesuffix(packed)
    if name.endswith((".csv", ".tsv", ".txt")):
        return "csv"
    if name.endswith((".ndjson", ".jsonl", ".json")):
        return "ndjson"
    raise ValueError("its name does not say what is in it (.csv, .ndjson, .jsonl); set `format`, or a `pattern`")


def _event(row: Mapping[str, str]) -> dict[str, Any]:
    """A row of a CSV file without a mapping: columns named as the event's fields are those, all others properties."""
    event: dict[str, Any] = {"type": "track"}
    traits: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name, cell in row.items():
        plain = name.replace("_", "").replace(" ", "").lower()
        if plain in _FIELDS:
            event[_FIELDS[plain]] = cell
        elif plain in _CONTACTS:
            traits[plain] = cell
        else:
            others[name] = cell
    if event["type"] in ("identify", "group"):
        traits |= others
    elif others:
        event["properties"] = others
    return event | ({"traits": traits} if traits else {})
