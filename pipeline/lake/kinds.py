"""What the lake keeps: the records of a topic in columns, a table for each partner."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa
from pydantic import BaseModel

from pipeline.models.counts import SegmentSize, Transition
from pipeline.models.delivery import Delivery
from pipeline.models.event import Event
from pipeline.models.failures import Rejected
from pipeline.models.fast import struct_for

__all__ = ["KINDS", "MOMENT", "Kind", "column"]

_text, _count, _flag = pa.string(), pa.int64(), pa.bool_()
#: UTC, to the millisecond: as all times of Headrace.
MOMENT = pa.timestamp("ms", tz="UTC")
#: Who a record is of names a folder.
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?", re.ASCII)


def column(name: str, kind: pa.DataType, about: str = "") -> pa.Field:
    """Of a table; ``about``: where the name does not say it."""
    return pa.field(name, kind, metadata={"about": about} if about else None)


_PLACE = [column("lane", pa.int32(), "with offset: its place in the topic"), column("offset", _count)]


@dataclass(frozen=True)
class Kind:
    """A table. ``time``: the model's field that becomes the column ``time``; ``json``: fields that are kept as text.
    ``trail``: so long (ms) after what a customer did there may still be rows of it; None: none says whose it is.

    A column may be added at the end of ``schema``: files that do not have it have nulls there.
    """

    name: str
    topic: str
    rows: str
    model: type[BaseModel]
    schema: pa.Schema
    time: str = "time"
    json: frozenset[str] = frozenset()
    trail: int | None = None

    def decoder(self) -> Callable[[bytes], Any]:
        """Of the topic's values."""
        return msgspec.json.Decoder(struct_for(self.model, raw=self.json)).decode

    def columns(
        self, decode: Callable[[bytes], Any], lane: int, records: Iterable[tuple[int, bytes]]
    ) -> dict[str, pa.Table]:
        """Records (offset, value) as a table for each partner, in their order. What is nobody's is left out."""
        found: defaultdict[str, list[tuple[int, Any]]] = defaultdict(list)
        for offset, value in records:
            record = decode(value)
            if _SLUG.fullmatch(record.partner):
                found[record.partner].append((offset, record))
        return {partner: self._table(lane, rows) for partner, rows in found.items()}

    def _table(self, lane: int, rows: list[tuple[int, Any]]) -> pa.Table:
        return pa.Table.from_arrays(
            [pa.array(self._values(field.name, lane, rows), field.type) for field in self.schema], schema=self.schema
        )

    def _values(self, name: str, lane: int, rows: list[tuple[int, Any]]) -> list[Any]:
        if name == "lane":
            return [lane] * len(rows)
        if name == "offset":
            return [offset for offset, _ in rows]
        if name in self.json:
            return [_json(getattr(record, name)) for _, record in rows]
        field = self.time if name == "time" else name
        return [getattr(record, field) for _, record in rows]


def _json(raw: msgspec.Raw) -> bytes | None:
    found = bytes(raw)
    return None if found in (b"", b"null") else found


_EVENTS = Kind(
    "events",
    "history",
    "an event, of all that ever came: from the lake, and from Kafka what is not there yet",
    Event,
    pa.schema(
        [
            column("id", _text, "message id, unique per source"),
            column("source", _text),
            column("channel", _text),
            column("type", _text),
            column("name", _text),
            column("time", MOMENT, "when it happened, by the server's clock"),
            column("received", MOMENT),
            column("customer", _text, "canonical id when it came; null: nobody's"),
            column("user_id", _text),
            column("anonymous_id", _text),
            column("email", _text),
            column("phone", _text),
            column("properties", _text, "JSON: properties->>'category'"),
            column("traits", _text, "JSON"),
            column("context", _text, "JSON"),
            column("facts", _text, "JSON: browser, os, country, campaign, …"),
            column("ip", _text),
            column("ua", _text),
            column("flags", pa.list_(_text)),
            *_PLACE,
        ]
    ),
    json=frozenset({"properties", "traits", "context", "facts"}),
    trail=0,
)
_TRANSITIONS = Kind(
    "segment_transitions",
    "segments.transitions",
    "a customer that entered or left a segment",
    Transition,
    pa.schema(
        [
            column("id", _text, "the same for a repeat"),
            column("segment", _text),
            column("kind", _text, "entered or left"),
            column("customer", _text),
            column("time", MOMENT),
            column("cause", _text, "event, time, merge, definition, back-fill or erasure"),
            column("event", _text, "message id of the event that caused it"),
            column("version", _count, "of the segment's definition"),
            *_PLACE,
        ]
    ),
    time="at",
    trail=0,
)
_SIZES = Kind(
    "segment_sizes",
    "segments.sizes",
    "a lane's part of a minute in which a segment moved; `segment_counts_history` is made of them",
    SegmentSize,
    pa.schema(
        [
            column("segment", _text),
            column("version", _count, "of the segment's definition"),
            column("scope", _text, "all; or source, channel: by its events alone"),
            column("name", _text, "of the source or channel; null where scope is all"),
            column("time", MOMENT, "the minute's beginning"),
            column("customers", _count, "at its end"),
            column("identified", _count),
            column("adds", _count),
            column("drops", _count),
            column("identified_change", _count),
            *_PLACE,
        ]
    ),
    time="at",
)
_DELIVERIES = Kind(
    "deliveries",
    "deliveries",
    "an attempt to tell a tool",
    Delivery,
    pa.schema(
        [
            column("id", _text, "of what is delivered; the same for each attempt"),
            column("integration", _text),
            column("rule", _text),
            column("customer", _text),
            column("name", _text, "of the event"),
            column("attempt", _count),
            column("outcome", _text),
            column("status", _count, "of the tool's answer"),
            column("detail", _text),
            column("time", MOMENT, "when it began"),
            column("duration_ms", _count),
            column("test", _flag),
            *_PLACE,
        ]
    ),
    time="started",
    json=frozenset({"request"}),
    # A record that is tried again and again is gone from the retry topics after so long.
    trail=7 * 86_400_000,
)
_REJECTED = Kind(
    "rejected",
    "rejected",
    "input that broke its contract; its bytes are with `headrace rejected`",
    Rejected,
    pa.schema(
        [
            column("source", _text),
            column("reason", _text),
            column("path", _text, "into the payload"),
            column("detail", _text),
            column("time", MOMENT, "when it was received"),
            column("topic", _text, "where it lies, with `partition`"),
            column("partition", _count),
            *_PLACE,
        ]
    ),
    time="received",
)
#: By their names.
KINDS: dict[str, Kind] = {kind.name: kind for kind in (_EVENTS, _TRANSITIONS, _SIZES, _DELIVERIES, _REJECTED)}
