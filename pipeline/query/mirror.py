"""A partner's customers, members and identifiers in columns, for SQL: made once, then kept by what changes."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.customers.record import is_identified
from pipeline.lake.kinds import MOMENT, column
from pipeline.query.customer_row import CustomerRow, customer_row
from pipeline.stream.store import Store

__all__ = ["CUSTOMERS", "IDENTITIES", "MEMBERS", "Look", "Mirror", "scope_and_name"]

CUSTOMERS = pa.schema(
    [
        column("customer", pa.string(), "canonical id: <partner>|<u, a, e or p>|<id>"),
        column("identified", pa.bool_(), "has a user id, an e-mail or a phone"),
        column("identifiers", pa.list_(pa.string()), "all it is known by, the canonical first"),
        column("traits", pa.string(), "JSON, from identify and the CRM: traits->>'plan'"),
        column("first_seen", MOMENT),
        column("last_seen", MOMENT),
    ]
)
MEMBERS = pa.schema(
    [
        column("segment", pa.string()),
        column("customer", pa.string()),
        column("scope", pa.string(), "all; or source, channel: by its events alone"),
        column("name", pa.string(), "of the source or channel; null where scope is all"),
        column("since", MOMENT),
        column("version", pa.int64(), "of the segment's definition"),
    ]
)
IDENTITIES = pa.schema(
    [
        column("identifier", pa.string(), "<partner>|<u, a, e or p>|<id>"),
        column("customer", pa.string(), "whose it is, by the canonical id"),
        column("since", MOMENT, "what happened under it before is not that customer's"),
    ]
)
_SCOPES = {"s": "source", "c": "channel"}
#: Customers of a part, when it is made: few, so that a change is cheap.
_CHUNK = 8192
#: Rows that are remembered between two looks; with more the next look begins anew.
_MOST_DIRTY = 200_000


def scope_and_name(scope: str) -> tuple[str, str | None]:
    """``*``, ``s:<source>`` or ``c:<channel>`` as the columns ``scope`` and ``name`` have it."""
    kind, _, name = scope.partition(":")
    return _SCOPES.get(kind, "all"), name or None


class _Part(NamedTuple):
    """What lies under keys that are next to each other. A key has a row of ``identities``."""

    customers: pa.Table
    members: pa.Table
    identities: pa.Table


#: The column of each that is the key.
_KEYS = _Part("customer", "customer", "identifier")


class Look(NamedTuple):
    """A partner's rows as of ``positions``: partition of `customers` -> the next offset to be read."""

    customers: pa.Table
    members: pa.Table
    identities: pa.Table
    positions: dict[int, int]


class Mirror:
    """``changed`` from the loop that writes the index; ``look`` from the same loop, which goes on meanwhile."""

    def __init__(self, store: Store, partner: str) -> None:
        self._store = store
        self._prefix = f"{partner}|".encode()
        #: Rows that are others since the last look.
        self._dirty: dict[bytes, bytes | None] = {}
        #: A part, and the key from which on customers are in it; in the order of the keys.
        self._parts: list[_Part] = []
        self._starts: list[bytes] = []
        self._lock = asyncio.Lock()

    def changed(self, key: bytes, value: bytes | None) -> None:
        """The row of `customers` under ``key`` is this one from now on."""
        if self._parts and key.startswith(self._prefix):
            self._dirty[key] = value
            if len(self._dirty) > _MOST_DIRTY and not self._lock.locked():
                # Nobody has asked for long; to begin anew costs less memory than to remember.
                self._parts, self._starts, self._dirty = [], [], {}

    async def look(self) -> Look:
        """Customers and members, exactly as the index has them at one moment after the call."""
        async with self._lock:
            places = (name.rpartition(":") for name in self._store.offsets)
            positions = {int(n): self._store.offsets[f"{topic}:{n}"] for topic, _, n in places if topic == "customers"}
            if not self._parts:
                # An iterator sees the store as it was when it began; what is written meanwhile comes by `changed`.
                rows = self._store.scan("customers", self._prefix, _after(self._prefix))
                first = list(islice(rows, 1))
                self._starts, self._parts = [self._prefix], [_part(())]
                try:
                    self._starts, self._parts = await asyncio.to_thread(_parts, self._prefix, chain(first, rows))
                except BaseException:
                    self._starts, self._parts, self._dirty = [], [], {}
                    raise
            else:
                dirty, self._dirty = self._dirty, {}
                try:
                    await asyncio.to_thread(self._take_over, dirty)
                except BaseException:
                    self._dirty = dirty | self._dirty
                    raise
            customers, members, identities = map(pa.concat_tables, zip(*self._parts, strict=True))
            return Look(customers, members, identities, positions)

    def _take_over(self, fresh: Mapping[bytes, bytes | None]) -> None:
        by_part: defaultdict[int, dict[bytes, bytes | None]] = defaultdict(dict)
        for key, value in fresh.items():
            by_part[bisect_right(self._starts, key) - 1][key] = value
        for place in sorted(by_part, reverse=True):
            halves = _halved(self._starts[place], _with(self._parts[place], by_part[place]))
            self._starts[place : place + 1] = [start for start, _ in halves]
            self._parts[place : place + 1] = [part for _, part in halves]


def _parts(start: bytes, rows: Iterator[tuple[bytes, bytes]]) -> tuple[list[bytes], list[_Part]]:
    """Rows in the order of their keys, in parts, an empty one at the least."""
    some = list(islice(rows, _CHUNK))
    starts, parts = [start], [_part(some)]
    while some := list(islice(rows, _CHUNK)):
        starts.append(some[0][0])
        parts.append(_part(some))
    return starts, parts


def _halved(start: bytes, part: _Part) -> list[tuple[bytes, _Part]]:
    """The part, or the two halves of one that has grown large."""
    if part.identities.num_rows <= 2 * _CHUNK:
        return [(start, part)]
    # By their bytes, as the keys are ordered.
    ids = pc.cast(part.identities["identifier"], pa.binary())
    middle = ids[pc.sort_indices(ids)[len(ids) // 2].as_py()]
    lower, upper = (
        _Part(
            *(
                each.filter(compare(pc.cast(each[key], pa.binary()), middle))
                for key, each in zip(_KEYS, part, strict=True)
            )
        )
        for compare in (pc.less, pc.greater_equal)
    )
    return [(start, lower), (middle.as_py(), upper)]


def _after(prefix: bytes) -> bytes:
    """The first key that does not begin so."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _with(part: _Part, fresh: Mapping[bytes, bytes | None]) -> _Part:
    """The part, with these rows in place of what it had under their keys."""
    ids = pa.array([key.decode() for key in fresh])
    new = _part((key, value) for key, value in fresh.items() if value is not None)
    return _Part(
        *(
            pa.concat_tables([old.filter(pc.invert(pc.is_in(old[key], ids))), rows]).combine_chunks()
            for key, old, rows in zip(_KEYS, part, new, strict=True)
        )
    )


def _part(pairs: Iterable[tuple[bytes, bytes]]) -> _Part:
    rows: list[CustomerRow] = []
    names: list[str] = []
    owners: list[str] = []
    moments: list[int] = []
    for key, value in pairs:
        row = customer_row(value)
        names.append(key.decode())
        if row.redirect is None:
            rows.append(row)
            owners.append(row.id)
            moments.append(row.first_seen)
        else:
            owners.append(row.redirect)
            moments.append(row.since)
    customers = [
        [row.id for row in rows],
        [is_identified(row.identifiers) for row in rows],
        [row.identifiers for row in rows],
        [bytes(row.traits) for row in rows],
        [row.first_seen for row in rows],
        [row.last_seen for row in rows],
    ]
    return _Part(
        _columns(customers, CUSTOMERS),
        _columns(_memberships(rows), MEMBERS),
        _columns((names, owners, moments), IDENTITIES),
    )


def _memberships(rows: Iterable[CustomerRow]) -> tuple[list[Any], ...]:
    """Columns, not rows: objects that Python's collector would go through again and again."""
    found: tuple[list[Any], ...] = ([], [], [], [], [], [])
    segments, customers, scopes, names, sinces, versions = found
    for row in rows:
        for segment, membership in row.segments.items():
            for scope in membership.scopes:
                where, name = scope_and_name(scope)
                segments.append(segment)
                customers.append(row.id)
                scopes.append(where)
                names.append(name)
                sinces.append(membership.since)
                versions.append(membership.version)
    return found


def _columns(columns: Iterable[Any], schema: pa.Schema) -> pa.Table:
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)
