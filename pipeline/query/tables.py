"""The tables of a partner that analysts query: what they are called, what is in them, and as of when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import orjson
import pyarrow as pa

from pipeline.control.reducer import ControlState
from pipeline.lake.kinds import KINDS, MOMENT, column
from pipeline.models.base import Millis, Model
from pipeline.query.counts import Figure, SegmentCounts
from pipeline.query.dead import DEAD_LETTERS, DeadTable
from pipeline.query.history import HISTORY, VIEW
from pipeline.query.journeys import CUSTOMER_EVENTS, FUNCTIONS
from pipeline.query.journeys import VIEW as OF_CUSTOMERS
from pipeline.query.kept import Behind, Kept
from pipeline.query.mirror import CUSTOMERS, IDENTITIES, MEMBERS
from pipeline.query.reader import Reader
from pipeline.query.sql import Table
from pipeline.segments.english import describe

__all__ = ["TABLES", "VIEWS", "Snapshot", "TableView", "snapshot", "views"]

_text, _count = pa.string(), pa.int64()
PARTNERS = pa.schema([("partner", _text), ("name", _text)])
SOURCES = pa.schema(
    [
        ("source", _text),
        ("name", _text),
        ("code", _text),
        ("bridge", _text),
        ("channel", _text),
        ("active", pa.bool_()),
        ("removed", pa.bool_()),
        ("version", _count),
    ]
)
SEGMENTS = pa.schema(
    [
        column("segment", _text),
        column("name", _text),
        column("archived", pa.bool_()),
        column("definition", _text, "JSON"),
        column("says", _text, "the definition in English"),
        column("version", _count),
    ]
)
COUNTS = pa.schema(
    [
        column("segment", _text),
        column("version", _count),
        column("scope", _text, "all; or source, channel: by its events alone"),
        column("name", _text, "of the source or channel; null where scope is all"),
        column("customers", _count),
        column("identified", _count),
        column("anonymous", _count),
        column("as_of", MOMENT, "the numbers are exact for this moment"),
        column("complete", pa.bool_(), "false: not all customers or not the whole window"),
        column("coverage_from", MOMENT, "events since then are in the numbers"),
    ]
)
#: Name -> (columns, what a row is).
TABLES: dict[str, tuple[pa.Schema, str]] = {
    "partners": (PARTNERS, "the partner itself; every other table has its rows alone"),
    "sources": (SOURCES, "an event source, removed ones too"),
    "segments": (SEGMENTS, "a segment as it is defined now"),
    "customers": (CUSTOMERS, "a customer, whatever identifiers it has"),
    "identities": (IDENTITIES, "an identifier, and whose it is now"),
    "segment_counts": (COUNTS, "how many are in a segment: in all, and per source and channel"),
    "segment_counts_history": (HISTORY, "a minute in which a segment moved, and the last of every hour"),
    "segment_members": (MEMBERS, "a customer in a segment, a row for each scope in which it counts"),
    **{kind.name: (kind.schema, kind.rows) for kind in KINDS.values()},
    CUSTOMER_EVENTS: (
        KINDS["events"].schema,
        "an event, with the customer that it is of by now; nobody's are left out",
    ),
    "dead_letters": (DEAD_LETTERS, "a record on which Headrace's own code failed, parked for 30 days"),
}


#: Made of other tables when they are asked.
VIEWS = {"segment_counts_history": VIEW, CUSTOMER_EVENTS: OF_CUSTOMERS, **FUNCTIONS}


class Column(Model):
    """Of a table; ``about``: where the name does not say it."""

    name: str
    type: str
    about: str | None = None


class TableView(Model):
    """A table that can be queried; ``rows``: what one is."""

    name: str
    rows: str
    columns: list[Column]


class Snapshot(NamedTuple):
    """Tables by their names; ``missing``: those that can't be told whole now, and why. ``views``: SELECTs over them.

    ``as_of``: the moment for which members and counts are right; None: not known yet.
    """

    tables: dict[str, Table]
    missing: dict[str, str]
    as_of: Millis | None
    behind: int
    views: dict[str, str]


def views() -> list[TableView]:
    """What there is to query."""
    return [
        TableView(
            name=name,
            rows=rows,
            columns=[
                Column(
                    name=field.name,
                    type=str(field.type),
                    about=(field.metadata or {}).get(b"about", b"").decode() or None,
                )
                for field in schema
            ],
        )
        for name, (schema, rows) in TABLES.items()
    ]


async def snapshot(
    reader: Reader, kept: Kept, dead: DeadTable, state: ControlState, partner: str, now_ms: int
) -> Snapshot:
    """The partner's rows as they are now. ``now_ms``: the wall clock."""
    look = await reader.mirror(partner).look()
    there = state.partners[partner]
    segments = [each for each in state.segments.values() if each.partner == partner]
    counted = [reader.counts.of(partner, each.id, each.version, now_ms) for each in segments]
    rows: dict[str, Iterable[dict[str, Any]]] = {
        "partners": [{"partner": there.id, "name": there.name}],
        "sources": [
            each.model_dump(include=set(SOURCES.names)) | {"source": each.id}
            for each in state.sources.values()
            if each.partner == partner
        ],
        "segments": [
            {
                "segment": each.id,
                "name": each.name,
                "archived": each.archived,
                "definition": orjson.dumps(each.condition.model_dump(mode="json", by_alias=True)).decode(),
                "says": describe(each.condition),
                "version": each.version,
            }
            for each in segments
        ],
        "segment_counts": [row for counts in counted for row in _count_rows(counts)],
    }
    tables: dict[str, Table] = {name: pa.Table.from_pylist(list(each), TABLES[name][0]) for name, each in rows.items()}
    tables |= {
        "customers": look.customers,
        "identities": look.identities,
        "segment_members": look.members,
        "dead_letters": dead.of(partner),
    }
    missing: dict[str, str] = {}
    for name in KINDS:
        try:
            tables[name] = await kept.dataset(name, partner)
        except Behind as why:
            missing[name] = str(why)
    made = dict(VIEWS)
    for table, those in (("segment_sizes", ["segment_counts_history"]), ("events", [CUSTOMER_EVENTS, *FUNCTIONS])):
        if table in missing:
            missing |= dict.fromkeys((name.partition("(")[0] for name in those), missing[table])
            made = {name: select for name, select in made.items() if name not in those}
    return Snapshot(tables, missing, reader.counts.as_of, reader.lag() + kept.lag() + dead.lag(), made)


def _count_rows(counts: SegmentCounts) -> Sequence[dict[str, Any]]:
    shared = counts.model_dump(include={"segment", "version", "as_of", "complete", "coverage_from"})
    figures: list[tuple[str, str | None, Figure]] = [("all", None, counts.total)]
    figures += [("source", each.name, each) for each in counts.by_source]
    figures += [("channel", each.name, each) for each in counts.by_channel]
    return [
        shared | {"scope": scope, "name": name} | figure.model_dump(include={"customers", "identified", "anonymous"})
        for scope, name, figure in figures
    ]
