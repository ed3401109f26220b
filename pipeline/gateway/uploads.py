"""Uploads of files of customers, in parts: any part may come again, in any order, to any gateway.

The message id of a row is its upload's and its number, so what comes twice within the day is dropped by fan-out; what
was done is remembered for good (`upload_log`), so a file that comes again later adds nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from pipeline.bridges.base import RawOut, Refused, decode_object
from pipeline.bridges.crm import Rows
from pipeline.gateway.answers import answer, answer_all
from pipeline.gateway.body import gunzip, read_body
from pipeline.gateway.client import Client
from pipeline.gateway.parts import Parts
from pipeline.gateway.publish import publish
from pipeline.gateway.servers import admit_with_key
from pipeline.gateway.upload_log import Progress, UploadLog
from pipeline.models.base import Model
from pipeline.models.control import Source
from pipeline.models.upload import RefusedRow, UploadHead, UploadPart

__all__ = ["MAX_PART_BYTES", "MAX_PART_ROWS", "Head", "Part", "Uploads", "routes"]

#: Of one part, unpacked.
MAX_PART_BYTES = 1 << 20
MAX_PART_ROWS = 2000
_M = TypeVar("_M", bound=Model)
#: An upload's id: SHA-256, in hex.
_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)


def routes(parts: Parts) -> Sequence[BaseRoute]:
    """``/v1/crm/<partner>/<code>/uploads/<id>``, its ``rows`` and what was ``refused``."""
    uploads = Uploads(parts)
    path = "/v1/crm/{partner}/{code}/uploads/{upload}"
    return [
        Route(path, uploads.head, methods=["PUT"]),
        Route(path, uploads.status, methods=["GET"]),
        Route(f"{path}/rows", uploads.rows, methods=["POST"]),
        Route(f"{path}/refused", uploads.refused, methods=["GET"]),
    ]


class Head(Model):
    """What a client says of a file. ``rows``: how many, once all were sent."""

    name: Annotated[str, Field(max_length=300)]
    rows: Annotated[int, Field(ge=0, le=2_000_000_000)] | None = None


class Part(Model):
    """``rows``: from ``first`` on, null in the place of one that its sender could not read; ``refused`` says why."""

    first: Annotated[int, Field(ge=1, le=2_000_000_000)]
    rows: Annotated[list[Any], Field(min_length=1, max_length=MAX_PART_ROWS)]
    refused: list[RefusedRow] = Field(default_factory=list, max_length=MAX_PART_ROWS)


class Uploads:
    """Answers of uploads: 200 for a part means that Kafka has its customers, and that it is remembered."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def head(self, request: Request) -> Response:
        """``PUT``: the file's name, and, when all was sent, the number of its rows. The upload as it is."""

        async def handle() -> Response:
            log, key, _, _ = self._admitted(request)
            given = _read(Head, await read_body(request, 10_000))
            progress = await log.known(key)
            if given.rows is not None or progress.name is None:
                progress = await log.write(key, UploadHead(name=given.name, rows=given.rows, at=_now()))
            return _told(request, progress)

        return await answer_all(handle)

    async def status(self, request: Request) -> Response:
        """``GET``: how far it is. 404 for one that was never begun."""

        async def handle() -> Response:
            log, key, _, _ = self._admitted(request)
            progress = await log.known(key)
            if progress.updated is None:
                raise Refused(404, "not_found", "this source has no such upload")
            return _told(request, progress)

        return await answer_all(handle)

    async def refused(self, request: Request) -> Response:
        """``GET``: every row that was refused, a line of JSON each."""

        async def handle() -> Response:
            log, key, _, _ = self._admitted(request)

            async def lines() -> AsyncIterator[bytes]:
                async for row in log.refused(key):
                    yield orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)

            return StreamingResponse(lines(), media_type="application/x-ndjson")

        return await answer_all(handle)

    async def rows(self, request: Request) -> Response:
        """``POST``: a part. Rows that were done before are passed over."""

        async def handle() -> Response:
            log, key, source, used = self._admitted(request)
            part = _read(Part, gunzip(await read_body(request, MAX_PART_BYTES), MAX_PART_BYTES))
            progress = await log.known(key)
            taken, refused = 0, 0
            rows = Rows(source)
            for first, last in progress.missing(part.first, part.first + len(part.rows) - 1):
                events, bad = _events(rows, part, first, last, request.path_params["upload"])
                received = _now()
                self._parts.limits.take(source, len(events), received / 1000)
                client = Client(None, None, None, key=used)
                await publish(self._parts.producer, source, events, client, received)
                good = last - first + 1 - len(bad)
                await log.write(key, UploadPart(first=first, last=last, taken=good, refused=bad, at=received))
                taken, refused = taken + good, refused + len(bad)
            return answer(200, {"taken": taken, "refused": refused})

        return await answer_all(handle)

    def _admitted(self, request: Request) -> tuple[UploadLog, str, Source, str]:
        """The log, the upload's key in it, its source, and the id of the secret key that was used."""
        where = request.path_params
        source, _, used = admit_with_key(self._parts.control.state, where, request.headers, "crm")
        if not _ID.fullmatch(where["upload"]):
            raise Refused(400, "shape", "an upload's id is a SHA-256 in hex: 64 of 0-9 and a-f")
        if self._parts.uploads is None:
            raise Refused(503, "unavailable", "this gateway takes no uploads")
        return self._parts.uploads, f"{source.partner}|{source.id}|{where['upload']}", source, used.id


def _events(rows: Rows, part: Part, first: int, last: int, upload: str) -> tuple[list[RawOut], list[RefusedRow]]:
    """The customers of rows ``first`` to ``last``, and those that are none."""
    told = {each.row: each for each in part.refused}
    events: list[RawOut] = []
    bad: list[RefusedRow] = []
    for number in range(first, last + 1):
        row = part.rows[number - part.first]
        if row is None and number in told:
            bad.append(told[number])
            continue
        try:
            events += rows.events(row, f"{upload[:32]}:{number}")
        except Refused as no:
            column = (no.path or "").removeprefix("$.")[:100] or None
            bad.append(RefusedRow(row=number, column=column, code=no.code, message=no.message[:300]))
    return events, bad


def _read(model: type[_M], body: bytes) -> _M:
    try:
        return model.model_validate(decode_object(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Refused(400, "shape", first["msg"], ".".join(["$", *map(str, first["loc"])])) from None


def _told(request: Request, progress: Progress) -> Response:
    return answer(200, progress.told(request.path_params["upload"]).model_dump(mode="json"))


def _now() -> int:
    return int(time.time() * 1000)
