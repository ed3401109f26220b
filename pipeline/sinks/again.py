"""Telling a tool again: what it never took (redrive, each once), and what it was told before (replay).

Both write the dispatch record anew at the end of its dispatch topic, with the dedup key that it had, so that a tool
that knows one counts nothing twice, and marked as replayed. What was redriven is marked on `undeliverable.redriven` in
the transaction that did it; of a replay it is told how far it came, and it goes on from there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from aiokafka import ConsumerRecord, TopicPartition

from pipeline.models.base import Millis
from pipeline.models.control import Integration
from pipeline.models.delivery import RedrivenDispatch, Undeliverable
from pipeline.stream.dead_letters import Place, open_consumer, partitions, read_span
from pipeline.stream.kafka import Kafka
from pipeline.stream.rewrite import Refused, Rewriter, Row

__all__ = ["REDRIVEN", "Again", "AgainError", "Choice", "Done", "Given"]

REDRIVEN = "undeliverable.redriven"
_MAX_RECORDS = 200
#: What an attempt changed of a record, as it was before the first.
_FRESH = {"attempt": 0, "due": 0, "first_failed": None, "replayed": True}


class AgainError(Exception):
    """It can't go on; the text says why, and what to do."""


class Given(NamedTuple):
    """What a tool never took. ``id``: its place, ``partition@offset``; ``redriven``: it was told again since."""

    id: str
    what: Undeliverable
    redriven: bool


@dataclass(frozen=True)
class Choice:
    """Which dispatch records; all conditions together. ``since``, ``until``: when they came to the topic (ms)."""

    since: Millis | None = None
    until: Millis | None = None
    customer: str | None = None
    rule: str | None = None
    name: str | None = None
    ids: Collection[str] | None = None

    def takes(self, dispatch: Mapping[str, Any], key: bytes | None) -> bool:
        """Whether it is one, but for the time. What is there a second time, by a replay, is none."""
        return (
            not dispatch.get("replayed")
            and (self.customer is None or key == self.customer.encode())
            and (self.rule is None or dispatch.get("rule") == self.rule)
            and (self.name is None or dispatch.get("name") == self.name)
            and (self.ids is None or dispatch.get("id") in self.ids)
        )


@dataclass
class Done:
    """``found``: that are meant; ``sent``: told again; ``before``: redriven before; ``lost``: that nobody can read.
    ``next``: offset by partition to go on from, where there is more."""

    found: int = 0
    sent: int = 0
    before: int = 0
    lost: int = 0
    next: dict[int, int] = field(default_factory=dict)


class Again:
    """Of one integration. Methods raise AgainError, KafkaError, OSError."""

    def __init__(self, kafka: Kafka, integration: Integration) -> None:
        self._kafka = kafka
        self._topic = integration.topic
        self._key = f"{integration.partner}.{integration.id}".encode()
        what = f"redrive or replay of {self._topic}"
        self._writer = Rewriter(kafka, f"headrace-again-{self._topic}", what, AgainError)

    async def given_up(self, limit: int, reason: str | None = None) -> list[Given]:
        """What the tool never took, the newest first."""
        done = await self._redriven()
        found: list[Given] = []
        async with aclosing(self._records(f"{self._topic}.undeliverable", Choice(), {})) as records:
            async for record in records:
                what = _undeliverable(record)
                if what is not None and (reason is None or what.reason == reason):
                    place = (record.partition, record.offset)
                    found.append(Given(f"{place[0]}@{place[1]}", what, place in done))
                    if len(found) > 4 * limit:
                        found = sorted(found, key=lambda each: each.what.at)[-limit:]
        return sorted(found, key=lambda each: -each.what.at)[:limit]

    async def redrive(
        self, ids: Collection[str] | None = None, reason: str | None = None, *, dry_run: bool = False, limit: int = 1000
    ) -> Done:
        """Tell what the tool never took again: those of ``ids``, or all. Each once, whatever dies when."""
        done = Done()
        try:
            if not dry_run:
                await self._writer.fence()
            known = await self._redriven()
            waiting: list[tuple[ConsumerRecord, bytes]] = []
            async with aclosing(self._records(f"{self._topic}.undeliverable", Choice(), {})) as records:
                async for record in records:
                    what = _undeliverable(record)
                    if what is None or (reason is not None and what.reason != reason):
                        continue
                    if ids is not None and f"{record.partition}@{record.offset}" not in ids:
                        continue
                    if (record.partition, record.offset) in known:
                        done.before += 1
                        continue
                    if done.found >= limit:
                        done.next[record.partition] = record.offset
                        break
                    done.found += 1
                    if what.dispatch is None:
                        done.lost += 1
                        continue
                    waiting.append((record, orjson.dumps(what.dispatch.model_dump(mode="json") | _FRESH)))
                    if len(waiting) >= _MAX_RECORDS and not dry_run:
                        done.sent += await self._write(waiting, mark=True)
                        waiting = []
            if not dry_run:
                done.sent += await self._write(waiting, mark=True)
        finally:
            await self._writer.close()
        return done

    async def replay(
        self,
        choice: Choice,
        after: Mapping[int, int] | None = None,
        *,
        dry_run: bool = False,
        limit: int = 1000,
        rate: float = 100.0,
        seconds: float = 15.0,
    ) -> Done:
        """Tell it again of what it was told before; at ``rate`` a second, for so many ``seconds`` at most."""
        done = Done()
        until, due = time.monotonic() + seconds, time.monotonic()
        try:
            if not dry_run:
                await self._writer.fence()
            waiting: list[tuple[ConsumerRecord, bytes]] = []
            async with aclosing(self._records(self._topic, choice, after or {})) as records:
                async for record in records:
                    dispatch = _dispatch(record)
                    if dispatch is None or not choice.takes(dispatch, record.key):
                        continue
                    if done.found >= limit or time.monotonic() > until:
                        done.next[record.partition] = record.offset
                        break
                    done.found += 1
                    waiting.append((record, orjson.dumps(dispatch | _FRESH)))
                    if len(waiting) >= min(_MAX_RECORDS, max(1, int(rate))) and not dry_run:
                        await asyncio.sleep(max(0.0, due - time.monotonic()))
                        due = max(due, time.monotonic()) + len(waiting) / rate
                        done.sent += await self._write(waiting)
                        waiting = []
            if not dry_run:
                done.sent += await self._write(waiting)
        finally:
            await self._writer.close()
        return done

    async def _write(self, waiting: list[tuple[ConsumerRecord, bytes]], *, mark: bool = False) -> int:
        if not waiting:
            return 0
        rows = [Row(self._topic, record.partition, record.key, value, []) for record, value in waiting]

        def markers(places: list[Place]) -> list[Row]:
            if not mark:
                return []
            now = int(time.time() * 1000)
            return [
                Row(
                    REDRIVEN,
                    record.partition,
                    self._key,
                    RedrivenDispatch(redriven=record.offset, at=now, offset=place.offset).to_json(),
                    [],
                )
                for (record, _), place in zip(waiting, places, strict=True)
            ]

        try:
            await self._writer.send(rows, markers)
        except Refused as refused:
            raise AgainError(f"{refused}; what was told is done") from None
        return len(rows)

    async def _redriven(self) -> set[tuple[int, int]]:
        """Places of what was redriven, to the high watermark: of a transaction that is open it is waited for."""
        numbers = await partitions(self._kafka, REDRIVEN)
        if not numbers:
            raise AgainError(f"topic {REDRIVEN} is not there; run: headrace topics apply")
        async with open_consumer(self._kafka, REDRIVEN, isolation_level="read_uncommitted") as consumer:
            tps = [TopicPartition(REDRIVEN, number) for number in numbers]
            ends = await consumer.end_offsets(tps)
        known: set[tuple[int, int]] = set()
        async with open_consumer(self._kafka, REDRIVEN) as consumer:
            starts = await consumer.beginning_offsets(tps)
            for tp in tps:
                async with aclosing(read_span(consumer, tp, starts[tp], ends[tp])) as records:
                    async for record in records:
                        if record.key == self._key:
                            known.add((tp.partition, orjson.loads(record.value)["redriven"]))
        return known

    async def _records(self, topic: str, choice: Choice, after: Mapping[int, int]) -> AsyncGenerator[ConsumerRecord]:
        """Those of the times chosen, by partition and offset, from the offsets ``after`` on, up to the present ends.

        A partition before the first of ``after`` is done.
        """
        numbers = sorted(await partitions(self._kafka, topic))
        if not numbers:
            return
        first = min(after, default=0)
        async with open_consumer(self._kafka, topic) as consumer:
            tps = [TopicPartition(topic, number) for number in numbers if number >= first]
            starts, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
            for moment, bounds in ((choice.since, starts), (choice.until, ends)):
                if moment is not None:
                    found = await consumer.offsets_for_times(dict.fromkeys(tps, max(0, moment)))
                    bounds |= {tp: ends[tp] if found[tp] is None else found[tp].offset for tp in tps}
            for tp in tps:
                start = max(starts[tp], after.get(tp.partition, 0))
                async with aclosing(read_span(consumer, tp, start, ends[tp])) as records:
                    async for record in records:
                        yield record


def _undeliverable(record: ConsumerRecord) -> Undeliverable | None:
    try:
        return Undeliverable.model_validate_json(record.value or b"")
    except ValueError:
        return None


def _dispatch(record: ConsumerRecord) -> dict[str, Any] | None:
    try:
        found = orjson.loads(record.value or b"")
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
