"""What the sources did, from `sources.activity`: last event, rates, rejections and why, when keys were used.

Minutes of the last day are kept in the reader's store, with the offsets that they are counted up to: each delta is in
them once, whatever is restarted.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from typing import Any

import orjson
from aiokafka import ConsumerRecord
from pydantic import Field

from pipeline.models.base import Millis, Model
from pipeline.models.control import Source
from pipeline.stream.store import Store

__all__ = ["MINUTES", "NEWEST", "TOPIC", "Activities", "KeyUse", "Period", "Reason", "SourceActivity"]

TOPIC = "sources.activity"
#: Tables of the store: counts by source and minute, and the newest moments by source.
MINUTES, NEWEST = "activity", "activity.newest"
_MINUTE_MS = 60_000
_DAY = 1440
_TOP = 5


class Reason(Model):
    """A reason of `rejected`, and how many records had it in the last day."""

    reason: str
    count: int


class KeyUse(Model):
    """A secret key, and when an event last came with it; null: not since activity is known."""

    id: str
    name: str
    last_used: Millis | None


class Period(Model):
    """What came in a stretch of time up to now. ``rate``: records a second; ``reject_rate``: 0 to 1."""

    accepted: int
    rejected: int
    dropped: int = Field(description="kept nowhere, as the source's policy has it")
    rate: float
    reject_rate: float


class SourceActivity(Model):
    """What a source did. Times are the broker's; null: nothing in the last 7 days or since it was first followed."""

    partner: str
    source: str
    name: str
    active: bool
    last: Millis | None = Field(description="the newest record, whatever became of it")
    accepted_last: Millis | None = Field(description="the newest record that was accepted")
    minute: Period
    hour: Period
    day: Period
    reasons: list[Reason] = Field(description="the five most frequent reasons of rejections, of the last day")
    keys: list[KeyUse]


class Activities:
    """Reads deltas into the store, and sums them up."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def apply(self, records: list[ConsumerRecord]) -> None:
        """Take records of one partition, in order. Raises ValueError, KeyError for what intake cannot have written."""
        minutes: dict[bytes, list[Any]] = {}
        newest: dict[bytes, dict[str, Any]] = {}
        forget: dict[bytes, bytes | None] = {}
        for record in records:
            delta = orjson.loads(record.value)
            source = _source(delta["partner"], delta["source"])
            minute = record.timestamp // _MINUTE_MS
            key = source + struct.pack(">I", minute)
            row = minutes.get(key)
            if row is None:
                row = minutes[key] = self._row(key)
                self._forget(source, minute - _DAY, forget)
            row[0] += delta["accepted"]
            row[1] = Counter(row[1]) + Counter(delta["rejected"])
            row[2] += sum(delta["dropped"].values())
            self._newer(newest, source, delta)
        changes: dict[str, dict[bytes, bytes | None]] = {
            MINUTES: forget | {key: orjson.dumps(row) for key, row in minutes.items()},
            NEWEST: {source: orjson.dumps(moments) for source, moments in newest.items()},
        }
        last = records[-1]
        self._store.write(changes, {f"{last.topic}:{last.partition}": last.offset + 1})

    def of(self, source: Source, now_ms: int) -> SourceActivity:
        """One source's, at ``now_ms`` by the wall clock."""
        prefix = _source(source.partner, source.id)
        now = now_ms // _MINUTE_MS
        start = prefix + struct.pack(">I", max(0, now - _DAY))
        rows = {
            struct.unpack(">I", key[-4:])[0]: orjson.loads(value)
            for key, value in self._store.scan(MINUTES, start, prefix + b"\xff\xff\xff\xff")
        }
        moments = self._moments(prefix)
        reasons: Counter[str] = Counter()
        for minute, (_, rejected, _) in rows.items():
            if minute > now - _DAY:
                reasons.update(rejected)
        used = moments.get("keys", {})
        return SourceActivity(
            partner=source.partner,
            source=source.id,
            name=source.name,
            active=source.active,
            last=moments.get("last"),
            accepted_last=moments.get("accepted_last"),
            minute=_period(rows, now_ms, 1),
            hour=_period(rows, now_ms, 60),
            day=_period(rows, now_ms, _DAY),
            reasons=[Reason(reason=reason, count=count) for reason, count in reasons.most_common(_TOP)],
            keys=[KeyUse(id=key.id, name=key.name, last_used=used.get(key.id)) for key in source.keys],
        )

    def key_used(self, partner: str, source: str, key: str) -> Millis | None:
        """When a secret key was last used; None where that is not known."""
        found: Millis | None = self._moments(_source(partner, source)).get("keys", {}).get(key)
        return found

    def _row(self, key: bytes) -> list[Any]:
        value = self._store.get(MINUTES, key)
        row: list[Any] = orjson.loads(value) if value else [0, {}, 0]
        return row

    def _moments(self, source: bytes) -> dict[str, Any]:
        value = self._store.get(NEWEST, source)
        moments: dict[str, Any] = orjson.loads(value) if value else {}
        return moments

    def _newer(self, newest: dict[bytes, dict[str, Any]], source: bytes, delta: dict[str, Any]) -> None:
        moments = newest.get(source)
        if moments is None:
            moments = newest[source] = self._moments(source)
        for name in ("last", "accepted_last"):
            if delta[name] is not None:
                moments[name] = max(moments.get(name, 0), delta[name])
        keys = moments.setdefault("keys", {})
        for key, moment in delta["keys"].items():
            keys[key] = max(keys.get(key, 0), moment)

    def _forget(self, source: bytes, before: int, forget: dict[bytes, bytes | None]) -> None:
        """Minutes of a source that are older than a day go when it has a new one."""
        for key, _ in self._store.scan(MINUTES, source, source + struct.pack(">I", max(0, before))):
            forget[key] = None


def _source(partner: str, source: str) -> bytes:
    # Neither id has a zero byte, so no source's rows are within another's.
    return f"{partner}.{source}".encode() + b"\x00"


def _period(rows: dict[int, list[Any]], now_ms: int, minutes: int) -> Period:
    """The last ``minutes`` up to now. Of the minute that is half outside, as large a part as is inside."""
    now, into = divmod(now_ms, _MINUTE_MS)
    inside = 1 - into / _MINUTE_MS

    def total(values: Iterable[tuple[int, int]]) -> int:
        return round(sum(count * (inside if minute == now - minutes else 1) for minute, count in values))

    within = {minute: row for minute, row in rows.items() if now - minutes <= minute <= now}
    accepted = total((minute, row[0]) for minute, row in within.items())
    rejected = total((minute, sum(row[1].values())) for minute, row in within.items())
    dropped = total((minute, row[2]) for minute, row in within.items())
    seen = accepted + rejected + dropped
    return Period(
        accepted=accepted,
        rejected=rejected,
        dropped=dropped,
        rate=round(seen / (minutes * 60), 3),
        reject_rate=round(rejected / seen, 4) if seen else 0.0,
    )
