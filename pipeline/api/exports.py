"""/v1/partners/{partner}/segments/{segment}/export: all members with their traits, as of one moment, however many."""

from __future__ import annotations

import asyncio
import io
import time
import uuid
from collections import OrderedDict
from typing import Annotated, Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from fastapi import Query, Request
from fastapi.responses import Response
from pydantic import Field

from pipeline.api import arrow, tenancy
from pipeline.api.errors import ApiError, problems
from pipeline.models.base import Millis, Model
from pipeline.query.export import members_of
from pipeline.query.mirror import scope_and_name
from pipeline.query.reader import Reader

__all__ = ["router"]

router = tenancy.router("segments")
_TYPES = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "arrow": arrow.MEDIA_TYPE,
}
_BODY = {"schema": {"type": "string", "format": "binary"}}
#: Exports whose pages are still asked for: so many, and so long after the last page.
_MOST_PINS = 8
_PIN_SECONDS = 600.0


class Exported(Model):
    """A member. ``since``: when it entered."""

    customer: str
    since: Millis
    identified: bool
    identifiers: list[str]
    traits: str = Field(description="JSON")
    first_seen: Millis
    last_seen: Millis


class ExportPage(Model):
    """Part of an export. ``pin`` and ``next`` are passed for the part behind it; ``next`` null: that was all.

    ``positions``: partition of `customers` -> offset: all pages are as of these. ``as_of``: the moment of the numbers.
    """

    pin: str
    total: int
    positions: dict[int, int]
    as_of: Millis | None
    items: list[Exported]
    next: int | None


class _Pin(NamedTuple):
    where: tuple[str, str, str, str | None]
    table: pa.Table
    positions: dict[int, int]
    as_of: Millis | None
    used: float


_pins: OrderedDict[str, _Pin] = OrderedDict()


@router.get(
    "/{segment}/export",
    response_model=ExportPage,
    responses={200: {"content": dict.fromkeys(_TYPES.values(), _BODY)}, **tenancy.READ, **problems(409)},
)
async def export(
    partner: str,
    segment: str,
    request: Request,
    source: Annotated[str | None, Query(description="only who counts for this source id")] = None,
    channel: Annotated[str | None, Query(description="only who counts for this channel")] = None,
    format: Annotated[Literal["json", "csv", "parquet", "arrow"], Query(description="json: in pages")] = "json",
    pin: Annotated[str | None, Query(description="of the page before: the same export", max_length=64)] = None,
    after: Annotated[int, Query(ge=0, description="`next` of the page before")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000, description="of a page")] = 1000,
) -> Any:
    """All members of a segment, with identifiers and traits, as they were at one moment.

    As CSV, Parquet or Arrow in one answer; as JSON in pages, which stay those of that moment for ten minutes after the
    last one was asked for, at the process that began them (409 `unpinned` afterwards, and elsewhere: begin anew).
    """
    state = request.app.state.control.state
    tenancy.found(state, "segment", state.segments, partner, segment)
    where = (partner, segment, *scope_and_name(tenancy.scope(source, channel)))
    reader: Reader = request.app.state.query
    if pin is None:
        look = await reader.mirror(partner).look()
        table = await asyncio.to_thread(members_of, look, *where[1:])
        found = _Pin(where, table, look.positions, reader.counts.as_of, time.monotonic())
    else:
        found = _pinned(pin, where)
    if format != "json":
        headers = {
            "X-Headrace-As-Of": "" if found.as_of is None else str(found.as_of),
            "X-Headrace-Positions": ",".join(
                f"{number}:{offset}" for number, offset in sorted(found.positions.items())
            ),
            "Content-Disposition": f'attachment; filename="{segment}.{format}"',
        }
        content = await asyncio.to_thread(_written, found.table, format)
        return Response(content, media_type=_TYPES[format], headers=headers)
    end = after + limit
    following = end if end < found.table.num_rows else None
    name = pin or uuid.uuid4().hex
    if following is not None:
        _keep(name, found)
    items = found.table.slice(after, limit)
    for column in ("since", "first_seen", "last_seen"):
        items = items.set_column(items.schema.get_field_index(column), column, items[column].cast(pa.int64()))
    return ExportPage(
        pin=name,
        total=found.table.num_rows,
        positions=found.positions,
        as_of=found.as_of,
        items=[Exported(**row) for row in items.to_pylist()],
        next=following,
    )


def _pinned(pin: str, where: tuple[str, str, str, str | None]) -> _Pin:
    found = _pins.get(pin)
    if found is None or found.where != where or time.monotonic() - found.used > _PIN_SECONDS:
        raise ApiError(409, "unpinned", "this export is not kept any more, or at another process: begin it anew")
    return found


def _keep(name: str, pin: _Pin) -> None:
    _pins[name] = pin._replace(used=time.monotonic())
    _pins.move_to_end(name)
    while len(_pins) > _MOST_PINS:
        _pins.popitem(last=False)


def _written(table: pa.Table, format: str) -> bytes:
    if format == "arrow":
        return arrow.stream(table)
    out = io.BytesIO()
    if format == "parquet":
        pq.write_table(table, out, compression="zstd")
    else:
        # A cell is text: identifiers have a space between them.
        place = table.schema.get_field_index("identifiers")
        table = table.set_column(place, "identifiers", pc.binary_join(table["identifiers"], " "))
        pyarrow.csv.write_csv(table, out)
    return out.getvalue()
