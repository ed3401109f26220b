"""What is remembered of uploads: the topic `crm.uploads`, followed by every gateway from the first upload it sees.

A part is written when Kafka has its customers, so after a kill a part is done again, with the same message ids.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.bridges.base import Refused
from pipeline.gateway.publish import Producing
from pipeline.models.upload import Upload, UploadHead, UploadPart
from pipeline.stream.follower import Follower
from pipeline.stream.kafka import Kafka, disconnect
from pipeline.stream.producer import Record

__all__ = ["TOPIC", "Progress", "UploadLog"]

TOPIC = "crm.uploads"
_START_S = 20.0


class _Value(msgspec.Struct):
    """Of a part or a head, what is kept in memory: not the refused rows themselves."""

    at: int
    first: int = 0
    last: int = 0
    taken: int = 0
    name: str | None = None
    rows: int | None = None


_value = msgspec.json.Decoder(_Value).decode
_refused = msgspec.json.Decoder().decode


class Progress:
    """One upload as far as it is known here. Applying a record again changes nothing."""

    __slots__ = ("done", "name", "refused", "rows", "taken", "updated")

    def __init__(self) -> None:
        self.done: list[tuple[int, int]] = []
        self.taken = 0
        self.refused = 0
        self.name: str | None = None
        self.rows: int | None = None
        self.updated: int | None = None

    def missing(self, first: int, last: int) -> list[tuple[int, int]]:
        """What is not done of the rows ``first`` to ``last``, in order."""
        found: list[tuple[int, int]] = []
        for start, end in self.done:
            if end < first:
                continue
            if start > last:
                break
            if start > first:
                found.append((first, start - 1))
            first = end + 1
        return found if first > last else [*found, (first, last)]

    def add(self, first: int, last: int, taken: int) -> None:
        """Rows are done."""
        if not self.missing(first, last):
            return
        self.taken += taken
        self.refused += last - first + 1 - taken
        at = bisect_left(self.done, (first, last))
        while at > 0 and self.done[at - 1][1] >= first - 1:
            at -= 1
        end = at
        while end < len(self.done) and self.done[end][0] <= last + 1:
            first, last = min(first, self.done[end][0]), max(last, self.done[end][1])
            end += 1
        self.done[at:end] = [(first, last)]

    def apply(self, value: bytes) -> None:
        """A record's value."""
        record = _value(value)
        self.updated = max(record.at, self.updated or 0)
        if record.first:
            self.add(record.first, record.last, record.taken)
        else:
            self.name = record.name
            self.rows = record.rows if record.rows is not None else self.rows

    def told(self, name: str) -> Upload:
        """As it is told, ``name`` being the upload's id."""
        complete = self.rows is not None and (not self.rows or not self.missing(1, self.rows))
        return Upload(
            id=name,
            name=self.name,
            rows=self.rows,
            taken=self.taken,
            refused=self.refused,
            done=[list(part) for part in self.done],
            complete=complete,
            updated=self.updated,
        )


class UploadLog:
    """All uploads. ``known`` and ``write`` may be called at any time; it begins to follow at the first. `stop` it."""

    def __init__(self, kafka: Kafka, producer: Producing) -> None:
        self._kafka = kafka
        self._producer = producer
        self._uploads: dict[str, Progress] = {}
        self._follower: Follower | None = None
        self._starting = asyncio.Lock()

    async def known(self, key: str) -> Progress:
        """The upload under ``key`` (``<partner>|<source>|<upload>``). Raises `Refused` 503 without Kafka."""
        await self._follow()
        found = self._uploads.get(key)
        return found if found is not None else Progress()

    async def write(self, key: str, record: UploadPart | UploadHead) -> Progress:
        """Remember; the upload with it. Raises as the producer does."""
        value = record.to_json()
        name = f"{key}|{record.first}" if isinstance(record, UploadPart) else key
        await self._producer.write(TOPIC, [Record(name.encode(), value)])
        upload = self._uploads.setdefault(key, Progress())
        upload.apply(value)
        return upload

    async def refused(self, key: str) -> AsyncIterator[dict[str, Any]]:
        """The refused rows of an upload, in the order of their parts' writing, read from the topic."""
        consumer = self._kafka.consumer(auto_offset_reset="earliest")
        await consumer.start()
        try:
            prefix = f"{key}|".encode()
            seen: set[bytes] = set()
            async for record in consumer.all_of(TopicPartition(TOPIC, 0)):
                if record.key.startswith(prefix) and record.key not in seen and record.value:
                    seen.add(record.key)
                    for row in _refused(record.value).get("refused", ()):
                        yield row
        finally:
            await disconnect(consumer)

    async def stop(self) -> None:
        """Follow no more."""
        if self._follower is not None:
            await self._follower.stop()

    async def _follow(self) -> None:
        async with self._starting:
            if self._follower is not None and not self._follower.failure.done():
                return
            if self._follower is not None:
                await self._follower.stop()
                self._follower = None
            follower = Follower(self._kafka, [TOPIC], self._apply, name="uploads")
            try:
                await follower.start(_START_S)
            except (TimeoutError, KafkaError, OSError):
                await follower.stop()
                raise Refused(503, "unavailable", "what was uploaded before can't be read now; try again") from None
            self._follower = follower

    def _apply(self, records: list[ConsumerRecord]) -> None:
        for record in records:
            key = "|".join(record.key.decode().split("|")[:3])
            if record.value is not None:
                self._uploads.setdefault(key, Progress()).apply(record.value)
