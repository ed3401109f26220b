"""Reading never asks a worker (decision 11): followers of the committed topics, and a local index of them."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson
from aiokafka import ConsumerRecord

from pipeline.customers.record import Record
from pipeline.models.customer import Customer
from pipeline.models.event import identifier
from pipeline.models.phone import e164
from pipeline.query import activity
from pipeline.query.activity import Activities
from pipeline.query.counts import Counts
from pipeline.query.mailings import Mailings
from pipeline.query.mirror import Mirror
from pipeline.stream.follower import Follower
from pipeline.stream.kafka import Kafka
from pipeline.stream.store import Store, Table

__all__ = ["Reader"]

_DAY_MS = 86_400_000
#: `history` keeps 7 days; days are kept whole.
TIMELINE_DAYS = 8
_MAX_REDIRECTS = 8
#: Records that the index takes between two questions: some milliseconds.
_PORTION = 200
_TABLES = {name: Table(name, None) for name in ("customers", "members", "timeline", activity.MINUTES, activity.NEWEST)}


class Reader:
    """Counts, members, customers and timelines, as the topics have them.

    The index is on disk and continues where it stopped. Use from one event loop.
    """

    def __init__(self, kafka: Kafka, lanes: int, path: Path) -> None:
        self.counts = Counts(lanes)
        self.mailings = Mailings(lanes)
        self._store = Store(path, _TABLES)
        self._index = Follower(
            kafka,
            ["customers", "history"],
            self._index_records,
            name="query index",
            start_at=self._index_start(),
            portion=_PORTION,
        )
        self._mirrors: dict[str, Mirror] = {}
        self.activities = Activities(self._store)
        self._activity = Follower(
            kafka, [activity.TOPIC], self.activities.apply, name="activity", start_at=self._index_start()
        )
        self._numbers = Follower(
            kafka, ["segments.counts", "segments.progress", "mailings"], self._count_records, name="counts"
        )

    async def start(self) -> None:
        """Return when all that was committed as of this call can be read. Raises TimeoutError."""
        await asyncio.gather(*(follower.start() for follower in self._followers))

    async def stop(self) -> None:
        """Stop following; the index stays on disk."""
        await asyncio.gather(*(follower.stop() for follower in self._followers))
        self._store.close()

    @property
    def failures(self) -> list[asyncio.Future[None]]:
        """Futures that resolve with an exception when a follower can't go on."""
        return [follower.failure for follower in self._followers]

    def lag(self) -> int:
        """Records that the topics hold and this reader has not read."""
        return sum(follower.lag() for follower in self._followers)

    @property
    def _followers(self) -> tuple[Follower, ...]:
        return (self._numbers, self._index, self._activity)

    def _index_start(self) -> dict[tuple[str, int], int]:
        return {_where(name): offset for name, offset in self._store.offsets.items()}

    def mirror(self, partner: str) -> Mirror:
        """The partner's customers and members in columns, from the first call on."""
        return self._mirrors.setdefault(partner, Mirror(self._store, partner))

    def members(
        self, partner: str, segment: str, *, scope: str | None = "*", after: str | None = None, limit: int = 100
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Customers of a segment in order of their id: ``[{customer, since, scopes}]``, and where to go on after.

        ``scope``: ``*``, ``s:<source>`` or ``c:<channel>``; None: all who have any.
        """
        prefix = _member_key(partner, segment, "")
        start = prefix if after is None else _member_key(partner, segment, after) + b"\x00"
        found: list[dict[str, Any]] = []
        for key, value in self._store.scan("members", start, prefix + b"\xff"):
            if len(found) == limit:
                return found, found[-1]["customer"]
            row = orjson.loads(value)
            if scope is None or scope in row["scopes"]:
                found.append({"customer": key[len(prefix) :].decode()} | row)
        return found, None

    def customer(self, partner: str, text: str) -> Customer | None:
        """The customer known by ``text``: canonical id, user id, anonymous id, e-mail or phone, in that order.

        A phone is found however it is written, if it has its country code.
        """
        keys = [text] if text.startswith(f"{partner}|") else []
        keys += [identifier(partner, kind, text) for kind in ("u", "a", "e", "p")]
        number = e164(text)
        if number is not None and number != text:
            keys.append(identifier(partner, "p", number))
        for key in keys:
            found = self._resolve(key)
            if found is not None:
                return found
        return None

    def record(self, customer: str) -> Record | None:
        """The working copy of a customer, by its canonical id."""
        value = self._store.get("customers", customer.encode())
        return None if value is None or "redirect" in orjson.loads(value) else Record.decode(value)

    def timeline(
        self,
        customer: str,
        now_ms: int,
        *,
        limit: int = 100,
        before: str | None = None,
        wanted: Mapping[str, str] | None = None,
    ) -> tuple[list[dict[str, Any]], str | None]:
        """The newest events of a canonical customer id, newest first, of the last `TIMELINE_DAYS` days; and where to go
        on ``before``, None at the end.

        ``wanted``: fields of an event, and what they must be. With those that came under an identifier of its own
        before it was known to be its own: `history` has them under the customer that they were of at the time. Without
        those of somebody who was erased, and has come back.
        Raises ValueError for a ``before`` that was not told.
        """
        found: list[dict[str, Any]] = []
        today = newest = now_ms // _DAY_MS
        end = None if before is None else bytes.fromhex(before)
        if end is not None:
            newest = min(today, struct.unpack_from(">Q", end.ljust(8, b"\0"))[0] // _DAY_MS)
        selves = self.selves(customer)
        for day in range(newest + 1, today - TIMELINE_DAYS, -1):
            rows: list[tuple[bytes, bytes]] = []
            for each, since in selves.items():
                prefix = _timeline_prefix(day, each)
                first = prefix + struct.pack(">Q", since)
                rows += [
                    (key[len(prefix) :], row) for key, row in self._store.scan("timeline", first, prefix + b"\xff")
                ]
            for key, row in sorted(rows, reverse=True):
                if end is not None and key >= end:
                    continue
                event = orjson.loads(row)
                if wanted and any(event.get(name) != value for name, value in wanted.items()):
                    continue
                found.append(event)
                if len(found) == limit:
                    return found, key.hex()
        return found, None

    def selves(self, customer: str) -> dict[str, int]:
        """The customer, and what it was before: the identifiers that redirect to it. From when on (ms) it is they."""
        value = self._store.get("customers", customer.encode())
        known = orjson.loads(value) if value is not None else {}
        first: int = known.get("first_seen", 0)
        found = {customer: first}
        for key in known.get("identifiers", ()):
            row = orjson.loads(self._store.get("customers", key.encode()) or b"{}")
            if row.get("redirect") == customer:
                found[key] = max(first, row.get("since", 0))
        return found

    def _resolve(self, key: str) -> Customer | None:
        for _ in range(_MAX_REDIRECTS):
            value = self._store.get("customers", key.encode())
            if value is None:
                return None
            row = orjson.loads(value)
            if "redirect" not in row:
                return Customer.model_validate(row)
            key = row["redirect"]
        return None

    def _count_records(self, records: list[ConsumerRecord]) -> None:
        if records[0].topic == "mailings":
            for record in records:
                self.mailings.apply(record.key, record.value)
            return
        for record in records:
            self.counts.apply(record.topic, record.key, record.value)

    def _index_records(self, records: list[ConsumerRecord]) -> None:
        changes: dict[str, dict[bytes, bytes | None]] = {name: {} for name in _TABLES}
        first, last = records[0], records[-1]
        if first.topic == "customers":
            for key, value in {record.key: record.value for record in records}.items():
                self._customer_row(key, value, changes)
                if value is None:
                    self._forget_timeline(key.decode(), last.timestamp, changes)
        else:
            for record in records:
                event = orjson.loads(record.value)
                if event.get("customer") is None:
                    continue  # nobody's: it is on no timeline
                key = _timeline_prefix(event["time"] // _DAY_MS, event["customer"])
                key += struct.pack(">Q", event["time"]) + f"{event['source']}|{event['id']}".encode()
                changes["timeline"][key] = record.value
            self._forget(last.timestamp, changes)
        self._store.write(changes, {f"{last.topic}:{last.partition}": last.offset + 1})

    def _customer_row(self, key: bytes, value: bytes | None, changes: dict[str, dict[bytes, bytes | None]]) -> None:
        before, after = _memberships(self._store.get("customers", key)), _memberships(value)
        changes["customers"][key] = value
        for mirror in self._mirrors.values():
            mirror.changed(key, value)
        for where in before.keys() - after.keys():
            changes["members"][_member_key(*where, key.decode())] = None
        for where, row in after.items():
            if before.get(where) != row:
                changes["members"][_member_key(*where, key.decode())] = orjson.dumps(row)

    def _forget_timeline(self, customer: str, now_ms: int, changes: dict[str, dict[bytes, bytes | None]]) -> None:
        """Drop what a customer did, who was erased."""
        today = now_ms // _DAY_MS
        for day in range(today - TIMELINE_DAYS, today + 2):
            prefix = _timeline_prefix(day, customer)
            changes["timeline"].update((key, None) for key, _ in self._store.scan("timeline", prefix, prefix + b"\xff"))

    def _forget(self, now_ms: int, changes: dict[str, dict[bytes, bytes | None]]) -> None:
        """Drop a few thousand entries of days that `history` no longer has."""
        end = struct.pack(">I", max(0, now_ms // _DAY_MS - TIMELINE_DAYS))
        for count, (key, _) in enumerate(_scan(self._store, end)):
            changes["timeline"].setdefault(key, None)
            if count == 5000:
                return


def _scan(store: Store, end: bytes) -> Iterator[tuple[bytes, bytes]]:
    return store.scan("timeline", b"", end)


def _where(name: str) -> tuple[str, int]:
    topic, _, partition = name.rpartition(":")
    return topic, int(partition)


def _memberships(value: bytes | None) -> dict[tuple[str, str], dict[str, Any]]:
    row = orjson.loads(value) if value else {}
    return {
        (row["partner"], segment): {"since": m["since"], "scopes": m["scopes"]}
        for segment, m in row.get("segments", {}).items()
    }


def _member_key(partner: str, segment: str, customer: str) -> bytes:
    return f"{partner}|{segment}|{customer}".encode()


def _timeline_prefix(day: int, customer: str) -> bytes:
    # A hash, so that no id can be the beginning of another one.
    return struct.pack(">I", max(0, day)) + blake2b(customer.encode(), digest_size=16).digest()
