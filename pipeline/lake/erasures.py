"""Who was erased: `erasures`, followed by those who keep what customers did."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from aiokafka import ConsumerRecord

from pipeline.lake.kinds import MOMENT, Kind
from pipeline.models.erasure import Erasure
from pipeline.models.event import IDENTIFYING
from pipeline.stream.follower import Follower, Following
from pipeline.stream.kafka import Kafka

__all__ = ["Erasures", "Told", "but", "oldest", "without"]

_KEPT_MS = 31 * 86_400_000


class Told(NamedTuple):
    """An erasure, and its place in `erasures`: offset, and moment (ms)."""

    offset: int
    moment: int
    erasure: Erasure


class Erasures(Following):
    """All that the topic keeps, a month. Use from one event loop."""

    def __init__(self, kafka: Kafka, topic: str = "erasures") -> None:
        #: The offset behind the last that was read.
        self.next = 0
        self._told: list[Told] = []
        super().__init__(Follower(kafka, [topic], self._apply, name=topic))
        self._changed = asyncio.Event()

    async def wait(self, partner: str, name: str, seconds: float) -> Told | None:
        """The erasure of that id, when it is done; None after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while (found := self.find(partner, name)) is None:
                    await self._changed.wait()
                return found
        return None

    def find(self, partner: str, name: str) -> Told | None:
        """The erasure of that id; None: it is not done, or was long ago."""
        return next((told for told in self.since(0, partner) if told.erasure.id == name), None)

    def since(self, offset: int, partner: str | None = None) -> list[Told]:
        """Those from ``offset`` on, in order; of one partner, or of all."""
        return [
            told
            for told in self._told
            if told.offset >= offset and (partner is None or told.erasure.partner == partner)
        ]

    def moments(self, partner: str, offset: int = 0) -> dict[str, int]:
        """Identifier -> the moment (ms) until which it is erased, by those from ``offset`` on."""
        found: dict[str, int] = {}
        for _, _, erasure in self.since(offset, partner):
            for identifier in erasure.identifiers:
                found[identifier] = max(erasure.at, found.get(identifier, erasure.at))
        return found

    def _apply(self, records: list[ConsumerRecord]) -> None:
        for record in records:
            self._told.append(Told(record.offset, record.timestamp, Erasure.model_validate_json(record.value)))
            self.next = record.offset + 1
        # As the topic does.
        end = records[-1].timestamp - _KEPT_MS
        self._told = [told for told in self._told if told.moment > end]
        self._changed.set()
        self._changed = asyncio.Event()


def without(table: pa.Table, kind: Kind, partner: str, moments: dict[str, int]) -> pa.Table:
    """The rows of ``partner`` that are of nobody who was erased; ``moments``: as `Erasures.moments` has them.

    Who a row is of is its customer; where it has none, all that it names.
    """
    if kind.trail is None or not moments or not table.num_rows:
        return table
    names = pa.array(list(moments), pa.string())
    until = pa.array([moment + kind.trail for moment in moments.values()], pa.int64()).cast(MOMENT)
    kept = _young(table["customer"], table["time"], names, until)
    nobodys = pc.is_null(table["customer"])
    for kind_of_id, column in IDENTIFYING.items():
        if column in table.column_names:
            # As `identifier` has it.
            values = pc.utf8_lower(table[column]) if kind_of_id == "e" else table[column]
            own = pc.binary_join_element_wise(f"{partner}|{kind_of_id}", values, "|")
            kept = pc.and_(kept, pc.or_(pc.invert(nobodys), _young(own, table["time"], names, until)))
    return table.filter(kept)


def _young(who: pa.ChunkedArray, times: pa.ChunkedArray, names: pa.Array, until: pa.Array) -> pa.ChunkedArray:
    """Whether a row is of none of ``names``, or of after its moment."""
    moments = pc.take(until, pc.index_in(who, value_set=names))
    return pc.fill_null(pc.greater(times, moments), True)


def but(kind: Kind, told: Iterable[Told]) -> pc.Expression | None:
    """`without`, of these, for rows that are still to be read; None where there is nothing to leave out."""
    gone: pc.Expression | None = None
    for _, _, erasure in told:
        until = pa.scalar(erasure.at + (kind.trail or 0), pa.int64()).cast(MOMENT)
        those = _of(kind, erasure) & (pc.field("time") <= until)
        gone = those if gone is None else gone | those
    return None if gone is None or kind.trail is None else ~pc.coalesce(gone, pa.scalar(False))


def _of(kind: Kind, erasure: Erasure) -> pc.Expression:
    """Rows of whom it erased: of the customer, and those of nobody that name one of the identifiers."""
    customer = pc.field("customer")
    found = customer.isin(erasure.identifiers)
    for kind_of_id, column in IDENTIFYING.items():
        prefix = f"{erasure.partner}|{kind_of_id}|"
        values = [each.removeprefix(prefix) for each in erasure.identifiers if each.startswith(prefix)]
        if values and column in kind.schema.names:
            named = pc.field(column)
            named = pc.utf8_lower(named) if kind_of_id == "e" else named
            found |= customer.is_null() & pc.coalesce(named.isin(values), pa.scalar(False))
    return found


def oldest(told: Iterable[Told]) -> int | None:
    """The moment (ms) at which the first of these was asked for; None: there is none."""
    return min((each.erasure.requested for each in told), default=None)
