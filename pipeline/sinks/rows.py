"""A row of what a tool is told, for tools that keep tables: its columns, as JSON, in Parquet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sinks.told import Told

__all__ = ["COLUMNS", "name_of", "parquet_of", "row_of", "without_nul"]

#: UTC, to the millisecond. Properties and traits are JSON.
COLUMNS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("customer_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string()),
        pa.field("anonymous_id", pa.string()),
        pa.field("email", pa.string()),
        pa.field("phone", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("currency", pa.string()),
        pa.field("properties", pa.string(), nullable=False),
        pa.field("traits", pa.string(), nullable=False),
        pa.field("test", pa.bool_(), nullable=False),
        pa.field("replayed", pa.bool_(), nullable=False),
    ]
)


def row_of(told: Told) -> bytes:
    """The row as JSON: a column each, time in ms since 1970. Raises TypeError for what JSON can't hold."""
    row: dict[str, Any] = {name: getattr(told, name) for name in COLUMNS.names}
    row["value"] = None if told.value is None else float(told.value)
    row["properties"] = orjson.dumps(told.properties).decode()
    row["traits"] = orjson.dumps(told.traits).decode()
    return orjson.dumps(row)


def without_nul(told: Told) -> Told:
    """Without the character that PostgreSQL has no text with."""
    return replace(told, **{name: _plain(getattr(told, name)) for name in COLUMNS.names})


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, dict):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def parquet_of(rows: Sequence[bytes]) -> bytes:
    """A Parquet file of these rows, in their order; the same rows make the same file."""
    found = [orjson.loads(row) for row in rows]
    columns = [
        pa.array([row[field.name] for row in found], pa.int64()).cast(field.type)
        if field.name == "time"
        else pa.array([row[field.name] for row in found], field.type)
        for field in COLUMNS
    ]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, schema=COLUMNS), file, compression="zstd")
    return file.getvalue()


def name_of(rows: Sequence[bytes]) -> str:
    """``date=2026-01-31/<hash of the ids>.parquet``: the same for the same rows: a repeat writes over itself."""
    found = [orjson.loads(row) for row in rows]
    day = pa.scalar(min(row["time"] for row in found), pa.timestamp("ms")).as_py().date().isoformat()
    digest = sha256("\n".join(sorted(row["id"] for row in found)).encode("utf-8", "surrogatepass")).hexdigest()
    return f"date={day}/{digest[:32]}.parquet"
