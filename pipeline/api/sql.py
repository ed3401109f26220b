"""/v1/partners/{partner}/sql: a partner's tables, queried in SQL (DuckDB's), read only."""

from __future__ import annotations

import asyncio
import csv
import io
import time
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import orjson
import pyarrow as pa
from fastapi import Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import Field

from pipeline.api import arrow, tenancy
from pipeline.api.errors import ApiError, problems
from pipeline.api.turns import Turns
from pipeline.models.base import Millis, Model
from pipeline.query.sql import Limits, SqlError, run
from pipeline.query.tables import TableView, snapshot, views

__all__ = ["router"]

router = tenancy.router("sql")
#: Queries at a time, a process.
_AT_ONCE = 2
_turns = Turns(_AT_ONCE, f"{_AT_ONCE} queries run already; ask again in a moment")
_STATUS = {"timeout": 408, "memory": 413, "large": 413, "forbidden": 403}
_CSV = "text/csv"
Format = Literal["json", "csv", "arrow"]


class NewQuery(Model):
    """``query``: one SELECT."""

    query: Annotated[
        str,
        Field(
            min_length=1,
            max_length=50_000,
            examples=["SELECT segment, customers FROM segment_counts WHERE scope = 'all'"],
        ),
    ]
    limit: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        10_000, description="rows; more are left out, and it is said"
    )
    seconds: Annotated[float, Field(gt=0, le=60)] = Field(30.0, description="after so long it is given up")


class ResultColumn(Model):
    """Of an answer; ``type``: Arrow's name of it."""

    name: str
    type: str


class QueryResult(Model):
    """Rows in the order of the query. ``truncated``: there were more than the limit.

    Moments are RFC 3339 text, numbers beyond 64 bits text, bytes hexadecimal. As CSV and Arrow, what stands beside the
    rows here is in headers: X-Headrace-As-Of, -Behind, -Truncated.
    """

    columns: list[ResultColumn]
    rows: list[list[Any]]
    truncated: bool
    as_of: Millis | None = Field(description="members and counts are right for this moment; null: not known yet")
    behind: int = Field(description="records that the topics hold and this process has not read")
    seconds: float


class TableViews(Model):
    """In the order that they are worth a look."""

    items: list[TableView]


@router.get("/tables", response_model=TableViews, responses=tenancy.READ)
async def tables(partner: str, request: Request) -> dict[str, Any]:
    """The tables and their columns."""
    tenancy.of_partner(request.app.state.control.state, partner)
    return {"items": views()}


@router.post(
    "",
    response_model=QueryResult,
    responses={
        200: {
            "content": {
                _CSV: {"schema": {"type": "string"}},
                arrow.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}},
            }
        },
        **tenancy.READ,
        **problems(408, 413, 503),
    },
)
async def query(
    partner: str,
    body: NewQuery,
    request: Request,
    format: Annotated[Format, Query(description="of the answer")] = "json",
) -> Response:
    """Ask one SELECT of the partner's tables. Nothing else can be read: no file, no network, no other partner."""
    state = request.app.state.control.state
    tenancy.of_partner(state, partner)
    began = time.monotonic()
    async with _turns.turn():
        app = request.app.state
        found = await snapshot(app.query, app.kept, app.dead, state, partner, int(time.time() * 1000))
        limits = Limits(seconds=body.seconds, rows=body.limit)
        try:
            rows, truncated = await asyncio.to_thread(run, body.query, found.tables, limits, found.views)
        except SqlError as error:
            behind = [why for name, why in found.missing.items() if name in body.query]
            if error.code == "invalid" and behind:
                raise ApiError(503, "behind", behind[0]) from None
            raise ApiError(_STATUS.get(error.code, 400), error.code, str(error), "$.query") from None
    headers = {
        "X-Headrace-As-Of": "" if found.as_of is None else str(found.as_of),
        "X-Headrace-Behind": str(found.behind),
        "X-Headrace-Truncated": str(truncated).lower(),
    }
    if format == "arrow":
        return Response(await asyncio.to_thread(arrow.stream, rows), media_type=arrow.MEDIA_TYPE, headers=headers)
    if format == "csv":
        return StreamingResponse(_csv(rows), media_type=_CSV, headers=headers)
    beside = {
        "truncated": truncated,
        "as_of": found.as_of,
        "behind": found.behind,
        "seconds": round(time.monotonic() - began, 4),
    }
    return Response(await asyncio.to_thread(_json, rows, beside), media_type="application/json", headers=headers)


def _json(rows: pa.Table, beside: dict[str, Any]) -> bytes:
    columns = [{"name": field.name, "type": str(field.type)} for field in rows.schema]
    return orjson.dumps({"columns": columns, "rows": [[*map(_plain, row)] for row in _lists(rows)]} | beside)


def _csv(rows: pa.Table) -> Iterator[str]:
    """As RFC 4180 has it; nothing for null."""
    yield _line(rows.schema.names)
    for row in _lists(rows):
        yield _line(_cell(_plain(value)) for value in row)


def _line(cells: Iterable[Any]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return orjson.dumps(value).decode() if isinstance(value, list | dict | bool) else value


def _lists(rows: pa.Table) -> Iterator[tuple[Any, ...]]:
    for batch in rows.to_batches(max_chunksize=1000):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if value is None or isinstance(value, str | bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, Decimal):
        return _plain(int(value)) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.total_seconds() if isinstance(value, timedelta) else str(value)
