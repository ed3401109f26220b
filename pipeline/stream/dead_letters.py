"""Dead letters: records on which our own code failed, parked in ``dead.<role>`` with the traceback.

A letter is a JSON object (`letter`), in the partition of the lane that failed. Once its record has been redriven
(`pipeline.stream.redrive`), a marker further down in the same partition says so: when, and where the record is now.
"""

from __future__ import annotations

import logging
import re
import time
import traceback
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import orjson
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from pipeline.stream.kafka import Kafka
from pipeline.stream.reader import Record

__all__ = [
    "APPENDED",
    "ORIGINAL",
    "REDRIVEN",
    "Choice",
    "DeadLetter",
    "DeadLetterError",
    "DeadLetters",
    "Gone",
    "Header",
    "Marks",
    "Originals",
    "Place",
    "Spans",
    "letter",
    "marked",
    "marker",
    "open_consumer",
    "partitions",
    "read_span",
    "roles",
]

log = logging.getLogger(__name__)

#: Headers of a redriven record: the letter that it comes from; the place that it had at first; the broker's time
#: there (RFC 3339). Whoever tells records apart by their place, or dates them by their arrival, reads the latter two.
REDRIVEN = "headrace_redriven"
ORIGINAL = "headrace_original"
APPENDED = "headrace_appended"
#: Header of a marker: the letter that it speaks of. A letter has no headers.
_MARKER = "headrace_marker"

_PREFIX = "dead."
#: Of a letter, so that it fits a batch together with its key.
_LETTER_BYTES = 900_000
_ERROR_CHARS, _TRACEBACK_CHARS = 2_000, 20_000
#: Longer than a transaction of a lane may stay open (60 s) and its clean-up takes (10 s): no progress is a fault.
_STALL_SECONDS = 90.0

Header = tuple[str, bytes]
#: First offset to read and the end, by partition.
Spans = Mapping[int, tuple[int, int]]


class DeadLetterError(Exception):
    """A list or a redrive can't go on; the text says why, and what to do."""


class Gone(Exception):
    """A record, or its topic, is not there any more."""


class Place(NamedTuple):
    """Where a record lies; as text ``topic[partition]@offset``."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """The place that ``text`` names, or None where it is no place."""
        match = re.fullmatch(r"([A-Za-z0-9._-]{1,249})\[([0-9]{1,9})\]@([0-9]{1,18})", text)
        return None if match is None else cls(match[1], int(match[2]), int(match[3]))


def letter(role: str, lane: int, topic: str, partition: int, record: Record, cause: BaseException) -> bytes:
    """The letter for ``record``, on which the code of ``role`` failed with ``cause``; for ``dead.<role>``, no headers.

    Of at most 900,000 bytes: base64 adds a third, so the value of a large record is left out (null), and its key and
    headers where that is not enough. It stays readable at its place for its topic's retention.
    """
    fields: dict[str, Any] = {
        "role": role,
        "lane": lane,
        "topic": topic,
        "partition": partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "error": _utf8(repr(cause)[:_ERROR_CHARS]),
        "traceback": _utf8("".join(traceback.format_exception(cause))[-_TRACEBACK_CHARS:]),
        "parked": int(time.time() * 1000),
        "key": _encoded(record.key),
        "value": _encoded(record.value),
        "headers": [(name, _encoded(content or b"")) for name, content in record.headers],
    }
    body = orjson.dumps(fields)
    if len(body) > _LETTER_BYTES:
        body = orjson.dumps(fields | {"value": None})
    if len(body) > _LETTER_BYTES:
        body = orjson.dumps(fields | {"value": None, "key": None, "headers": []})
    return body


def _utf8(text: str) -> str:
    """Messages of exceptions may hold lone surrogates, which JSON can't."""
    return text.encode("utf-8", "backslashreplace").decode()


def _encoded(content: bytes | None) -> str | None:
    return None if content is None else b64encode(content).decode()


def _decoded(text: str | None) -> bytes | None:
    return None if text is None else b64decode(text, validate=True)


@dataclass(frozen=True)
class DeadLetter:
    """A letter, read back.

    ``place``: where it lies; ``original``: where its record lay; ``timestamp``: of that record, ``parked``: of the
    letter (ms). ``value`` None: the record had none, or one too large for a letter; `Originals` tells.
    """

    place: Place
    role: str
    lane: int
    original: Place
    timestamp: int
    error: str
    traceback: str
    parked: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    redriven: bool = False

    @classmethod
    def read(cls, record: ConsumerRecord) -> DeadLetter:
        """The letter in a record of ``dead.<role>``. Raises ValueError where there is none."""
        try:
            fields = orjson.loads(record.value)
            return cls(
                place=Place(record.topic, record.partition, record.offset),
                role=str(fields["role"]),
                lane=int(fields["lane"]),
                original=Place(str(fields["topic"]), int(fields["partition"]), int(fields["offset"])),
                timestamp=int(fields["timestamp"]),
                error=str(fields["error"]),
                traceback=str(fields["traceback"]),
                parked=int(fields["parked"]),
                key=_decoded(fields["key"]),
                value=_decoded(fields["value"]),
                headers=tuple((str(name), b64decode(content)) for name, content in fields["headers"]),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"not a dead letter: {error!r}") from None


@dataclass(frozen=True)
class Choice:
    """Which letters; all conditions together. The plain one: every letter that was not redriven.

    ``topic``: of the original record, ``*`` for any characters; ``since``: parked at that moment or later (ms, the
    broker's clock); ``error``: a text in the error, upper or lower case; ``letters``: (partition, offset) in
    ``dead.<role>``; ``redriven``: those that were redriven too.
    """

    lane: int | None = None
    topic: str | None = None
    since: int | None = None
    error: str | None = None
    letters: Collection[tuple[int, int]] | None = None
    redriven: bool = False

    def takes(self, found: DeadLetter) -> bool:
        """Whether ``found`` is one; ``since`` and ``redriven``, which a letter can't tell, are left to the reader."""
        return (
            (self.lane is None or found.lane == self.lane)
            and (self.topic is None or fnmatchcase(found.original.topic, self.topic))
            and (self.error is None or self.error.casefold() in found.error.casefold())
            and (self.letters is None or found.place[1:] in self.letters)
        )


class Marks:
    """Which letters were redriven: one bit an offset, so a million letters cost 125 kB."""

    def __init__(self, spans: Spans) -> None:
        self._bits = {partition: (start, bytearray()) for partition, (start, _) in spans.items()}

    def add(self, place: Place) -> None:
        """The letter at ``place``; one before its partition's span is nobody's question."""
        start, bits = self._bits[place.partition]
        if place.offset >= start:
            byte, bit = divmod(place.offset - start, 8)
            bits.extend(bytes(max(0, byte + 1 - len(bits))))
            bits[byte] |= 1 << bit

    def __contains__(self, place: Place) -> bool:
        start, bits = self._bits[place.partition]
        byte, bit = divmod(place.offset - start, 8)
        return 0 <= byte < len(bits) and bool(bits[byte] >> bit & 1)


class DeadLetters:
    """The dead letters of one role, read. Methods raise DeadLetterError, KafkaError and OSError.

    No more than a fetch is held in memory, and `Marks`.
    """

    def __init__(self, kafka: Kafka, role: str) -> None:
        self.role = role
        self.topic = f"{_PREFIX}{role}"
        self.kafka = kafka

    async def list(
        self, choice: Choice | None = None, until: Mapping[int, int] | None = None
    ) -> AsyncGenerator[DeadLetter]:
        """The letters that are chosen, by partition and offset; ``until``: only those before these offsets."""
        choice = choice or Choice()
        spans = await self.spans(choice, until)
        marks = Marks(spans)
        await self.learn(marks, spans)
        async with aclosing(self.letters(choice, spans)) as letters:
            async for found in letters:
                redriven = found.place in marks
                if choice.redriven or not redriven:
                    yield replace(found, redriven=redriven)

    async def find(self, partition: int, offset: int) -> DeadLetter:
        """The letter at one place. Raises DeadLetterError where none lies there."""
        choice = Choice(letters=[(partition, offset)], redriven=True)
        async with aclosing(self.list(choice)) as letters:
            async for found in letters:
                return found
        raise DeadLetterError(
            f"no letter at {partition}@{offset} in {self.topic}; `headrace dead list {self.role}` shows where they lie"
        )

    async def moved(self, found: DeadLetter) -> tuple[int, Place] | None:
        """When its record was redriven (ms), and to where; None where it was not."""
        _, partition, offset = found.place
        spans = {partition: (offset, (await self.ends())[partition])}
        async with aclosing(self._records(spans)) as records:
            async for record in records:
                if marked(record) == found.place:
                    fields = orjson.loads(record.value)
                    return fields["at"], Place(fields["topic"], fields["partition"], fields["offset"])
        return None

    async def ends(self) -> dict[int, int]:
        """The high watermark of every partition now: what is parked later lies at or behind it."""
        numbers = await partitions(self.kafka, self.topic)
        if not numbers:
            raise DeadLetterError(
                f"topic {self.topic} is not there: no such role, or `headrace topics apply` was not run"
            )
        async with open_consumer(self.kafka, self.topic, isolation_level="read_uncommitted") as consumer:
            ends = await consumer.end_offsets([TopicPartition(self.topic, number) for number in numbers])
        return {tp.partition: end for tp, end in ends.items()}

    async def spans(self, choice: Choice, until: Mapping[int, int] | None = None) -> Spans:
        """Where letters that ``choice`` takes may lie, before the offsets ``until`` (None: `ends`)."""
        ends = await self.ends() if until is None else until
        tps = [TopicPartition(self.topic, partition) for partition in ends]
        async with open_consumer(self.kafka, self.topic) as consumer:
            starts = {tp.partition: offset for tp, offset in (await consumer.beginning_offsets(tps)).items()}
            if choice.since is not None:
                for tp, first in (await consumer.offsets_for_times(dict.fromkeys(tps, max(0, choice.since)))).items():
                    starts[tp.partition] = ends[tp.partition] if first is None else first.offset
        spans = {partition: (start, ends[partition]) for partition, start in starts.items()}
        if choice.letters is None:
            return spans
        wanted: dict[int, list[int]] = {}
        for partition, offset in choice.letters:
            wanted.setdefault(partition, []).append(offset)
        return {
            partition: (max(start, min(wanted[partition])), min(end, max(wanted[partition]) + 1))
            for partition, (start, end) in spans.items()
            if partition in wanted
        }

    async def learn(self, marks: Marks, spans: Spans) -> None:
        """Read the markers of all that was redriven up to now.

        To the high watermark, not to the last stable offset: a marker may stand behind a transaction that a lane has
        open, and a letter whose marker is not seen would be redriven twice.
        """
        ends = await self.ends()
        behind = {partition: (start, ends[partition]) for partition, (start, _) in spans.items()}
        async with aclosing(self._records(behind)) as records:
            async for record in records:
                place = marked(record)
                if place is not None:
                    marks.add(place)

    async def letters(self, choice: Choice, spans: Spans) -> AsyncGenerator[DeadLetter]:
        """The letters in ``spans`` that ``choice`` takes, redriven or not."""
        async with aclosing(self._records(spans)) as records:
            async for record in records:
                if marked(record) is not None:
                    continue
                try:
                    found = DeadLetter.read(record)
                except ValueError as error:
                    log.warning("%s[%d]@%d: %s", record.topic, record.partition, record.offset, error)
                    continue
                if choice.takes(found):
                    yield found

    async def _records(self, spans: Spans) -> AsyncGenerator[ConsumerRecord]:
        async with open_consumer(self.kafka, self.topic) as consumer:
            for partition, (start, end) in sorted(spans.items()):
                async with aclosing(read_span(consumer, TopicPartition(self.topic, partition), start, end)) as records:
                    async for record in records:
                        yield record


class Originals:
    """Records again as they were before they were parked. A context: it holds a consumer once it needs one."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._partitions: dict[str, Collection[int]] = {}
        self._clients = AsyncExitStack()
        self._consumer: AIOKafkaConsumer | None = None

    async def __aenter__(self) -> Originals:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._clients.aclose()

    async def check(self, place: Place) -> None:
        """Raises `Gone` unless its topic has its partition."""
        if place.topic not in self._partitions:
            self._partitions[place.topic] = await partitions(self._kafka, place.topic)
        if place.partition not in self._partitions[place.topic]:
            raise Gone(f"topic {place.topic} is not there any more")

    async def read(self, found: DeadLetter) -> tuple[bytes | None, bytes | None, Sequence[Header]]:
        """Key, value and headers: from the letter if it has the value, else from where the record lay.

        Raises `Gone` where the topic's retention, or somebody, took it.
        """
        if found.value is not None:
            return found.key, found.value, found.headers
        place = found.original
        await self.check(place)
        consumer = self._consumer
        if consumer is None:
            consumer = self._consumer = await self._clients.enter_async_context(open_consumer(self._kafka, place.topic))
        assert consumer is not None
        await consumer._client.add_topic(place.topic)
        tp = TopicPartition(place.topic, place.partition)
        start = (await consumer.beginning_offsets([tp]))[tp]
        end = (await consumer.end_offsets([tp]))[tp]
        if start <= place.offset < end:
            async with aclosing(read_span(consumer, tp, place.offset, place.offset + 1)) as records:
                async for record in records:
                    # Another one may lie there, of a topic that was removed and made again.
                    if record.timestamp == found.timestamp:
                        return record.key, record.value, [(name, content or b"") for name, content in record.headers]
        raise Gone(f"{place} is not there any more, and the letter does not hold its value")


def marker(found: DeadLetter, to: Place) -> tuple[bytes, list[Header]]:
    """Value and headers of the record, for the letter's partition, that says: redriven now, the record is at ``to``."""
    body = {
        "redriven": found.place.offset,
        "at": int(time.time() * 1000),
        "topic": to.topic,
        "partition": to.partition,
        "offset": to.offset,
    }
    return orjson.dumps(body), [(_MARKER, str(found.place).encode())]


def marked(record: ConsumerRecord) -> Place | None:
    """The letter that a marker speaks of; None for what is no marker."""
    for name, content in record.headers:
        if name == _MARKER and content is not None:
            place = Place.parse(content.decode("ascii", "replace"))
            if place is not None and place[:2] == (record.topic, record.partition):
                return place
    return None


async def roles(kafka: Kafka) -> list[str]:
    """The roles for which the cluster has a topic of dead letters."""
    admin = kafka.admin()
    await admin.start()
    try:
        topics = await admin.list_topics()
    finally:
        await admin.close()
    return sorted(topic.removeprefix(_PREFIX) for topic in topics if topic.startswith(_PREFIX))


async def partitions(kafka: Kafka, topic: str) -> Collection[int]:
    """The partitions of a topic; none where there is no such topic."""
    admin = kafka.admin()
    await admin.start()
    try:
        (found,) = await admin.describe_topics([topic])
    finally:
        await admin.close()
    return () if found["error_code"] else {each["partition"] for each in found["partitions"]}


@asynccontextmanager
async def open_consumer(kafka: Kafka, topic: str, **settings: Any) -> AsyncGenerator[AIOKafkaConsumer]:
    """A consumer that knows where ``topic`` lies, and reads nothing yet."""
    consumer = kafka.consumer(max_poll_records=500, max_partition_fetch_bytes=4 << 20, **settings)
    await consumer.start()
    try:
        # It must know where the topic lies before it is asked for offsets.
        await consumer._client.add_topic(topic)
        yield consumer
    finally:
        await consumer.stop()


async def read_span(
    consumer: AIOKafkaConsumer, tp: TopicPartition, start: int, end: int
) -> AsyncGenerator[ConsumerRecord]:
    """The records of ``tp`` from ``start`` to below ``end``, committed ones.

    Raises DeadLetterError when nothing comes for longer than any transaction may be open.
    """
    if start >= end:
        return
    consumer.assign([tp])
    consumer.seek(tp, start)
    position, moved = start, time.monotonic()
    # The position passes the markers of transactions, behind which no record may come.
    while position < end:
        for record in (await consumer.getmany(timeout_ms=250)).get(tp, ()):
            if record.offset >= end:
                return
            yield record
        now = await consumer.position(tp)
        if now != position:
            position, moved = now, time.monotonic()
        elif time.monotonic() - moved > _STALL_SECONDS:
            raise DeadLetterError(
                f"{tp.topic}[{tp.partition}] can't be read beyond {position} of {end}: a transaction has been open "
                f"there for {_STALL_SECONDS:g} s"
            )
