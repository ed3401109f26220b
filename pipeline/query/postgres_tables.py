"""The tables that PostgreSQL is kept with: what they are, and the rows that records of Kafka come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa

from pipeline.customers.record import is_identified
from pipeline.lake.kinds import KINDS, Kind
from pipeline.query.customer_row import customer_row
from pipeline.query.mirror import CUSTOMERS, IDENTITIES, MEMBERS, scope_and_name
from pipeline.segments.counts import scope_of

__all__ = [
    "COUNT_PARTS",
    "KEYED",
    "LOGS",
    "SCHEMA",
    "VIEWS",
    "Keyed",
    "Log",
    "Row",
    "count_rows",
    "customer_rows",
    "moment",
    "plain",
]

SCHEMA = "headrace"
_TYPES = {pa.string(): "text", pa.int64(): "bigint", pa.int32(): "integer", pa.bool_(): "boolean"}

Row = tuple[Any, ...]


def _type(field: pa.Field, json: Iterable[str]) -> str:
    if field.name in json:
        return "jsonb"
    if pa.types.is_timestamp(field.type):
        return "timestamptz"
    return "text[]" if pa.types.is_list(field.type) else _TYPES[field.type]


def _columns(schema: pa.Schema, json: Iterable[str] = ()) -> dict[str, str]:
    return {"partner": "text"} | {field.name: _type(field, json) for field in schema}


@dataclass(frozen=True)
class Keyed:
    """A table that has the newest of each key. ``key``: the column by which a key's rows are replaced."""

    name: str
    columns: Mapping[str, str]
    key: str
    index: tuple[str, ...]


@dataclass(frozen=True)
class Log:
    """A table of the records of a topic, each once, by their place."""

    kind: Kind

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def columns(self) -> dict[str, str]:
        return _columns(self.kind.schema, self.kind.json)

    def rows(self, decode: Callable[[bytes], Any], lane: int, records: Sequence[tuple[int, bytes]]) -> list[Row]:
        """Of records (offset, value)."""
        found: list[Row] = []
        for partner, table in self.kind.columns(decode, lane, records).items():
            columns = [
                [_json(value) if name in self.kind.json else _clean(value) for value in table[name].to_pylist()]
                for name in table.column_names
            ]
            found += [(partner, *row) for row in zip(*columns, strict=True)]
        return found


CUSTOMER_ROWS = Keyed("customers", _columns(CUSTOMERS, ["traits"]), "customer", ("partner",))
IDENTITY_ROWS = Keyed("identities", _columns(IDENTITIES), "identifier", ("customer",))
MEMBER_ROWS = Keyed("segment_members", _columns(MEMBERS), "customer", ("partner", "segment", "scope", "name"))
COUNT_PARTS = Keyed(
    "segment_count_parts",
    {
        "partner": "text",
        "segment": "text",
        "version": "bigint",
        "scope": "text",
        "name": "text",
        "lane": "integer",
        "customers": "bigint",
        "identified": "bigint",
        "as_of": "timestamptz",
        "key": "text",
    },
    "key",
    ("partner", "segment"),
)
KEYED = (CUSTOMER_ROWS, IDENTITY_ROWS, MEMBER_ROWS, COUNT_PARTS)
LOGS = tuple(Log(kind) for kind in KINDS.values())
VIEWS = {
    "segment_counts": f"""
        SELECT partner, segment, max(version) AS version, scope, name, sum(customers)::bigint AS customers,
            sum(identified)::bigint AS identified, (sum(customers) - sum(identified))::bigint AS anonymous,
            (SELECT min(as_of) FROM {SCHEMA}.lane_clocks) AS as_of
        FROM {SCHEMA}.segment_count_parts GROUP BY partner, segment, scope, name HAVING sum(customers) > 0
    """,
    "customer_events": f"""
        SELECT who.customer AS person, e.* FROM {SCHEMA}.events e
        JOIN {SCHEMA}.identities who ON e.customer = who.identifier AND e.time >= who.since
    """,
}


def customer_rows(records: Mapping[bytes, bytes | None]) -> list[tuple[Keyed, list[Row]]]:
    """Of what lies under keys of `customers` now: the rows of each table, in place of all that it has under them."""
    customers: list[Row] = []
    identities: list[Row] = []
    members: list[Row] = []
    for key, value in records.items():
        if value is None:
            continue
        row, name = customer_row(value), plain(key.decode())
        if row.redirect is not None:
            identities.append((name.partition("|")[0], name, plain(row.redirect), moment(row.since)))
            continue
        identities.append((row.partner, name, name, moment(row.first_seen)))
        known, names = is_identified(row.identifiers), [plain(each) for each in row.identifiers]
        seen = moment(row.first_seen), moment(row.last_seen)
        customers.append((row.partner, name, known, names, _json(bytes(row.traits).decode()), *seen))
        for segment, membership in row.segments.items():
            for scope in membership.scopes:
                where = scope_and_name(scope)
                members.append((row.partner, segment, name, *where, moment(membership.since), membership.version))
    return [(CUSTOMER_ROWS, customers), (IDENTITY_ROWS, identities), (MEMBER_ROWS, members)]


def count_rows(records: Mapping[bytes, bytes | None]) -> tuple[list[Row], dict[int, datetime]]:
    """Of `segments.counts`: the rows in place of those under these keys, and what moment each lane has told."""
    rows: list[Row] = []
    clocks: dict[int, datetime] = {}
    for key, value in records.items():
        where = orjson.loads(key)
        there = orjson.loads(value) if value is not None else {}
        if "segment" not in where:
            clocks[where["lane"]] = moment(there.get("as_of", 0))
        elif there.get("customers"):
            scope, name = scope_of((where["segment"], where["source"], where["channel"]))
            place = (where["partner"], where["segment"], there["version"], scope, name, where["lane"])
            rows.append((*place, there["customers"], there["identified"], moment(there["as_of"]), key.decode()))
    return rows, clocks


def moment(ms: int) -> datetime:
    """As PostgreSQL has it."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def plain(text: str) -> str:
    """Without NUL, which PostgreSQL's text can't hold."""
    return text.replace("\0", "") if "\0" in text else text


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    return [_clean(each) for each in value] if isinstance(value, list) else value


def _json(text: str | None) -> str | None:
    if text is None or "\\u0000" not in text:
        return text
    return orjson.dumps(_without_nul(orjson.loads(text))).decode()


def _without_nul(value: Any) -> Any:
    if isinstance(value, dict):
        return {plain(key): _without_nul(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nul(each) for each in value]
    return _clean(value)
