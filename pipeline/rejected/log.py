"""The rejected, read back: listed newest first, searched, found one by one; and which of them were replayed."""

from __future__ import annotations

import time
from base64 import b64decode
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from aiokafka import ConsumerRecord, TopicPartition

from pipeline.stream.dead_letters import Header, Place, open_consumer, partitions, read_span
from pipeline.stream.kafka import Kafka

__all__ = ["REJECTED", "REPLAYED", "Choice", "Found", "Page", "RejectedError", "RejectedLog"]

REJECTED = "rejected"
REPLAYED = "rejected.replayed"
#: A look back begins with so much time, and takes four times as much at every step that found few records.
_FIRST_SPAN_MS, _FEW = 60_000, 5_000
#: Records that one page looks at; a search that finds little ends with what it has, and says how far it looked.
_PAGE_RECORDS = 50_000


class RejectedError(Exception):
    """A list or a replay can't go on; the text says why, and what to do."""


class Where(NamedTuple):
    """A rejected record's place in its topic; as text ``partition@offset``."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}@{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Where | None:
        """The place that ``text`` names, or None where it is none."""
        partition, _, offset = text.partition("@")
        if not (partition.isascii() and partition.isdecimal() and offset.isascii() and offset.isdecimal()):
            return None
        return cls(int(partition), int(offset)) if len(partition) < 7 and len(offset) < 19 else None


@dataclass(frozen=True)
class Found:
    """A rejected record. ``at``: when it was rejected; ``original``: where it lay on its raw topic, since ``received``
    (ms). ``value`` None: there was none, or it is ``withheld``."""

    where: Where
    at: int
    partner: str
    source: str
    reason: str
    detail: str
    path: str | None
    original: Place
    received: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    withheld: bool

    @classmethod
    def read(cls, record: ConsumerRecord) -> Found:
        """Raises ValueError where the record is no rejection."""
        try:
            row = orjson.loads(record.value)
            return cls(
                where=Where(record.partition, record.offset),
                at=record.timestamp,
                partner=row["partner"],
                source=row["source"],
                reason=row["reason"],
                detail=row["detail"],
                path=row["path"],
                original=Place(row["topic"], row["partition"], row["offset"]),
                received=row["received"],
                key=None if row["key"] is None else b64decode(row["key"]),
                value=None if row["value"] is None else b64decode(row["value"]),
                headers=tuple((name, b64decode(content)) for name, content in row["headers"]),
                withheld=bool(row.get("withheld")),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"no rejected record: {error!r}") from None


@dataclass(frozen=True)
class Choice:
    """Which ones; all conditions together. ``since``, ``until``: rejected at or after, before (ms). ``text``: in the
    detail or in the value, upper or lower case."""

    partner: str
    source: str | None = None
    reason: str | None = None
    since: int | None = None
    until: int | None = None
    text: str | None = None
    places: Collection[Where] | None = None

    def takes(self, found: Found) -> bool:
        """Whether ``found`` is one."""
        return (
            found.partner == self.partner
            and (self.source is None or found.source == self.source)
            and (self.reason is None or found.reason == self.reason)
            and (self.since is None or found.at >= self.since)
            and (self.until is None or found.at < self.until)
            and (self.places is None or found.where in self.places)
            and (self.text is None or self._holds(found))
        )

    def _holds(self, found: Found) -> bool:
        wanted = (self.text or "").casefold()
        return wanted in found.detail.casefold() or wanted in (found.value or b"").decode("utf-8", "replace").casefold()

    def key(self) -> bytes | None:
        """The key of the records, where it is known: others need not be decoded."""
        return None if self.source is None else f"{self.partner}.{self.source}".encode()


class Page(NamedTuple):
    """Newest first. ``before``: where to go on, None at the end; ``looked``: how far back it was looked (ms)."""

    items: list[Found]
    before: str | None
    looked: int


class RejectedLog:
    """The topic `rejected`. Methods raise RejectedError, KafkaError and OSError."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka

    async def newest(self, choice: Choice, limit: int, before: str | None = None) -> Page:
        """A page of those that are chosen; ``before``: as the page before gave it."""
        bound = _bound(before)
        now = int(time.time() * 1000) + 1
        end = now if choice.until is None else min(now, choice.until)
        if bound is not None:
            end = min(end, bound[0] + 1)
        found: list[Found] = []
        read = 0
        async with open_consumer(self.kafka, REJECTED) as consumer:
            tps = [TopicPartition(REJECTED, number) for number in await self._partitions()]
            starts = await consumer.beginning_offsets(tps)
            ends = await consumer.end_offsets(tps)
            upper = await _offsets(consumer, tps, end, ends)
            span = _FIRST_SPAN_MS
            while True:
                start = max(end - span, choice.since or 0)
                lower = await _offsets(consumer, tps, start, ends)
                some: list[Found] = []
                before_step = read
                for tp in tps:
                    first = max(lower[tp], starts[tp])
                    async with aclosing(read_span(consumer, tp, first, upper[tp])) as records:
                        async for record in records:
                            read += 1
                            each = _chosen(record, choice)
                            if each is not None and (bound is None or _order(each) < bound):
                                some.append(each)
                found += sorted(some, key=_order, reverse=True)
                if len(found) > limit:
                    last = found[limit - 1]
                    return Page(found[:limit], ".".join(map(str, _order(last))), last.at)
                done = all(lower[tp] <= starts[tp] for tp in tps) or (
                    choice.since is not None and start <= choice.since
                )
                if done:
                    return Page(found, None, start)
                if read >= _PAGE_RECORDS:
                    return Page(found, f"{start}.0.0", start)
                end, upper = start, lower
                if read - before_step < _FEW:
                    span *= 4

    async def find(self, partner: str, where: Where) -> Found | None:
        """The record at one place, if it is the partner's."""
        choice = Choice(partner, places=[where])
        async with open_consumer(self.kafka, REJECTED) as consumer:
            tp = TopicPartition(REJECTED, where.partition)
            if where.partition not in await self._partitions():
                return None
            start = (await consumer.beginning_offsets([tp]))[tp]
            end = (await consumer.end_offsets([tp]))[tp]
            if not start <= where.offset < end:
                return None
            async with aclosing(read_span(consumer, tp, where.offset, where.offset + 1)) as records:
                async for record in records:
                    return _chosen(record, choice)
        return None

    async def oldest(self, choice: Choice, after: Mapping[int, int] | None = None) -> AsyncGenerator[Found]:
        """Those that are chosen, by partition and offset, from the offsets ``after`` on, up to the present ends."""
        async with open_consumer(self.kafka, REJECTED) as consumer:
            tps = [TopicPartition(REJECTED, number) for number in await self._partitions()]
            starts = await consumer.beginning_offsets(tps)
            ends = await consumer.end_offsets(tps)
            if choice.since is not None:
                since = await _offsets(consumer, tps, choice.since, ends)
                starts = {tp: max(starts[tp], since[tp]) for tp in tps}
            if choice.until is not None:
                ends = await _offsets(consumer, tps, choice.until, ends)
            for tp in tps:
                first, last = max(starts[tp], (after or {}).get(tp.partition, 0)), ends[tp]
                if choice.places is not None:
                    here = [where.offset for where in choice.places if where.partition == tp.partition]
                    first, last = max(first, min(here, default=last)), min(last, max(here, default=-1) + 1)
                async with aclosing(read_span(consumer, tp, first, last)) as records:
                    async for record in records:
                        each = _chosen(record, choice)
                        if each is not None:
                            yield each

    async def replayed(self) -> dict[Where, dict[str, Any]]:
        """Which were replayed, when and to where: all that `rejected.replayed` holds, to the high watermark.

        A marker may stand behind a transaction that another replay has open: it is waited for.
        """
        known: dict[Where, dict[str, Any]] = {}
        numbers = await partitions(self.kafka, REPLAYED)
        if not numbers:
            raise RejectedError(f"topic {REPLAYED} is not there; run: headrace topics apply")
        async with open_consumer(self.kafka, REPLAYED, isolation_level="read_uncommitted") as consumer:
            tps = [TopicPartition(REPLAYED, number) for number in numbers]
            ends = await consumer.end_offsets(tps)
        async with open_consumer(self.kafka, REPLAYED) as consumer:
            starts = await consumer.beginning_offsets(tps)
            for tp in tps:
                async with aclosing(read_span(consumer, tp, starts[tp], ends[tp])) as records:
                    async for record in records:
                        row = orjson.loads(record.value)
                        known[Where(tp.partition, row["replayed"])] = row
        return known

    async def _partitions(self) -> list[int]:
        numbers = sorted(await partitions(self.kafka, REJECTED))
        if not numbers:
            raise RejectedError(f"topic {REJECTED} is not there; run: headrace topics apply")
        return numbers


def _chosen(record: ConsumerRecord, choice: Choice) -> Found | None:
    key = choice.key()
    if key is not None and record.key != key:
        return None
    try:
        found = Found.read(record)
    except ValueError:
        return None
    return found if choice.takes(found) else None


def _order(found: Found) -> tuple[int, int, int]:
    return found.at, found.where.partition, found.where.offset


def _bound(before: str | None) -> tuple[int, int, int] | None:
    """As `newest` writes it; raises ValueError for anything else."""
    if before is None:
        return None
    at, partition, offset = map(int, before.split("."))
    return at, partition, offset


async def _offsets(
    consumer: Any, tps: list[TopicPartition], moment: int, ends: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """The first offset at or after ``moment`` (ms, the broker's clock)."""
    found = await consumer.offsets_for_times(dict.fromkeys(tps, max(0, moment)))
    return {tp: ends[tp] if found[tp] is None else found[tp].offset for tp in tps}
