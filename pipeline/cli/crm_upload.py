"""The upload of a file of customers: parts of its rows to the gateway, a few on their way at a time.

Memory is bounded by those parts, whatever the file. A part is sent until the gateway has taken it; what the gateway
remembers as done is not sent again.
"""

from __future__ import annotations

import asyncio
import csv
import random
import re
import time
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pipeline.bridges.rows import Row
from pipeline.cli.crm_file import CustomerFile

__all__ = ["Upload", "UploadFault", "ask_status"]

#: Rows and bytes of a part: the gateway takes twice that.
_ROWS, _BYTES = 1000, 500_000
_ON_THE_WAY = 4
_KEY = re.compile(r"[^.\s/]+\.[^.\s/]+")
_REPORT = ["row", "column", "code", "message"]


class UploadFault(Exception):
    """The upload can't go on; says why, and what to do."""


class _Part(NamedTuple):
    first: int
    last: int
    body: bytes


class _Gateway:
    """The upload's address. Asks until it is answered, for ``patience`` seconds."""

    def __init__(self, address: str, source: str, secret: str, upload: str, patience: float) -> None:
        if not _KEY.fullmatch(source):
            raise UploadFault(f"--source {source!r} is no source's key: <partner>.<code>")
        partner, _, code = source.partition(".")
        self._url = f"{address}/v1/crm/{partner}/{code}/uploads/{upload}"
        self._patience = patience
        try:
            headers = {"authorization": f"Bearer {source}.{secret}"}
            self.http = httpx.AsyncClient(headers=headers, timeout=60)
        except (UnicodeError, ValueError):
            raise UploadFault("the secret key has characters that no key has") from None

    async def ask(self, method: str, path: str = "", body: bytes | None = None) -> dict[str, Any]:
        """The answer's JSON. Raises `UploadFault` for a refusal, and when nobody answers for too long."""
        deadline, attempt = time.monotonic() + self._patience, 0
        while True:
            attempt += 1
            wait = min(10.0, 0.2 * 2**attempt) * random.uniform(0.5, 1)
            try:
                answer = await self.http.request(method, self._url + path, content=body)
            except httpx.InvalidURL as error:
                raise UploadFault(f"{self._url}: {error}") from None
            except httpx.TransportError as error:
                why = f"no gateway answers at {self._url.partition('/v1/')[0]} ({type(error).__name__})"
            else:
                if answer.status_code < 400:
                    return dict(answer.json())
                why = _why(answer)
                if answer.status_code not in (408, 429, 500, 502, 503, 504):
                    raise UploadFault(why)
                after = answer.headers.get("retry-after", "")
                wait = max(wait, float(after)) if after.isdecimal() and len(after) < 5 else wait
            if time.monotonic() + wait > deadline:
                raise UploadFault(f"{why}; the same command goes on where it was")
            await asyncio.sleep(wait)

    async def report(self, path: Path) -> None:
        """Write the refused rows, all of the upload, whoever sent them."""
        by_row = path.suffix.lower() == ".csv"
        async with self.http.stream("GET", f"{self._url}/refused") as answer:
            if answer.status_code != 200:
                await answer.aread()
                raise UploadFault(_why(answer))
            with path.open("w", newline="", encoding="utf-8") as out:
                table = csv.writer(out)
                if by_row:
                    table.writerow(_REPORT)
                async for line in answer.aiter_lines():
                    if by_row:
                        row = orjson.loads(line)
                        table.writerow([row[name] for name in _REPORT])
                    else:
                        out.write(line + "\n")


def _why(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return f"the gateway answered {answer.status_code}, and not as Headrace's does; is it one?"


async def ask_status(address: str, source: str, secret: str, upload: str) -> dict[str, Any]:
    """How far an upload is. Raises `UploadFault`."""
    gateway = _Gateway(address, source, secret, upload, 0)
    async with gateway.http:
        return await gateway.ask("GET")


class Upload:
    """One file to one source. ``salt``: another one makes it another upload."""

    def __init__(self, address: str, source: str, secret: str, file: CustomerFile, salt: str, patience: float) -> None:
        self._where = (address, source, secret)
        self._file = file
        self._salt = salt
        self._patience = patience
        self._sent = 0

    async def run(self, report: Path | None, *, show: bool) -> dict[str, Any]:
        """Upload; the upload as the gateway tells it in the end, with ``seconds`` and the rows ``sent`` this time.

        ``show``: a progress bar on standard error. Raises `UploadFault`, `FileFault`, OSError.
        """
        began = time.monotonic()
        size = self._file.path.stat().st_size
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
                   TextColumn("{task.fields[rows]:,} rows"), TimeRemainingColumn())  # fmt: skip
        with Progress(*columns, console=Console(stderr=True), disable=not show) as bar:
            reading = bar.add_task("reading", total=size, rows=0)
            upload = await asyncio.to_thread(self._file.upload_id, self._salt, lambda n: bar.advance(reading, n))
            bar.update(reading, visible=False)
            sending = bar.add_task("sending", total=size, rows=0)
            gateway = _Gateway(*self._where, upload, self._patience)
            async with gateway.http:
                name = self._file.path.name[:300]
                known = await gateway.ask("PUT", body=orjson.dumps({"name": name}))
                rows = await self._send(gateway, known["done"], bar, sending)
                result = await gateway.ask("PUT", body=orjson.dumps({"name": name, "rows": rows}))
                if report is not None:
                    await gateway.report(report)
        return result | {"sent": self._sent, "seconds": round(time.monotonic() - began, 1)}

    async def _send(self, gateway: _Gateway, done: list[list[int]], bar: Progress, task: TaskID) -> int:
        """All parts that are not done; the number of rows of the file."""
        parts = _parts(self._file.rows(lambda place: bar.update(task, completed=place)))
        slots = asyncio.Semaphore(_ON_THE_WAY)
        starts = [start for start, _ in done]
        last = 0

        async def deliver(part: _Part) -> None:
            try:
                await gateway.ask("POST", "/rows", part.body)
                self._sent += part.last - part.first + 1
            finally:
                slots.release()

        async with _Group() as group:
            while (part := await asyncio.to_thread(next, parts, None)) is not None:
                last = part.last
                bar.update(task, rows=last)
                at = bisect_right(starts, part.first) - 1
                if at >= 0 and done[at][1] >= part.last:
                    continue
                await slots.acquire()
                group.check()
                group.start(deliver(part))
        return last


class _Group:
    """Tasks of which the first to fail ends all. Like `asyncio.TaskGroup`, but it raises the failure itself."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: BaseException | None = None

    async def __aenter__(self) -> _Group:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None or self._failed is not None:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise what has failed."""
        if self._failed is not None:
            raise self._failed

    def start(self, work: Any) -> None:
        """Begin a task."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and self._failed is None:
            self._failed = task.exception()


def _parts(rows: Iterator[Row]) -> Iterator[_Part]:
    """Rows gathered into parts: as the gateway wants them, null in the place of one that can't be read."""
    bodies: list[bytes] = []
    faults: list[dict[str, Any]] = []
    first, size = 1, 0
    for row in rows:
        fault = row.fault
        if fault is None and len(row.body) > _BYTES:
            fault = f"a row of {len(row.body)} bytes"
        if fault is None and row.body[:1] != b"{":
            fault = "a line of NDJSON is a JSON object"
        elif fault is None and (problem := _broken(row.body)):
            fault = problem
        if fault is not None:
            faults.append({"row": row.number, "column": None, "code": "not_read", "message": fault[:300]})
        body = b"null" if fault is not None else row.body
        if bodies and size + len(body) > _BYTES:
            yield _part(first, bodies, faults)
            first, size, bodies, faults = row.number, 0, [], faults[-1:] if fault is not None else []
        bodies.append(body)
        size += len(body) + 1
        if len(bodies) == _ROWS:
            yield _part(first, bodies, faults)
            first, size, bodies, faults = row.number + 1, 0, [], []
    if bodies:
        yield _part(first, bodies, faults)


def _broken(body: bytes) -> str | None:
    """Why a line is no JSON: one that is not would spoil its whole part."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return f"no JSON: {error}"
    return None


def _part(first: int, bodies: list[bytes], faults: list[dict[str, Any]]) -> _Part:
    faults_of = [fault for fault in faults if fault["row"] < first + len(bodies)]
    body = b'{"first":%d,"rows":[%b],"refused":%b}' % (first, b",".join(bodies), orjson.dumps(faults_of))
    return _Part(first, first + len(bodies) - 1, body)
