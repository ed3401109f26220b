"""Redrive: the records of dead letters back to where they came from, once the code that failed on them is mended.

Step by step (the same numbers in the code):

1. Fence: start the transactional producer ``headrace-redrive-<role>``. A redrive of the role that is at it is stopped
   by that, and what it had begun is aborted.
2. Learn what is done: read the markers to the end.
3. Read the letters that are chosen and have no marker. A record that its letter does not hold is read from where it
   lay; what is not there any more is told, and passed over.
4. One transaction for some of them: each record to its original topic and partition; when these are acknowledged, a
   marker for each letter with the offset that its record got; commit. A crash anywhere leaves all of it or nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    ProducerFenced,
    RecordListTooLargeError,
)
from aiokafka.producer.message_accumulator import BatchBuilder

from pipeline.stream.dead_letters import (
    APPENDED,
    ORIGINAL,
    REDRIVEN,
    Choice,
    DeadLetter,
    DeadLetterError,
    DeadLetters,
    Gone,
    Header,
    Marks,
    Originals,
    Place,
    Spans,
    marker,
)
from pipeline.stream.kafka import Kafka, know

__all__ = ["Outcome", "Redrive"]

#: Of a batch; a larger record goes in one of its own, and the broker judges it compressed.
_BATCH_BYTES = 900_000
#: A transaction takes at most so much.
_MAX_LETTERS, _MAX_BYTES = 200, 4_000_000
#: Readers of the original topics wait behind an open transaction, so one that a crash leaves open must end soon.
_TRANSACTION_TIMEOUT_MS = 30_000
_SEND_SECONDS = 25.0
_START_SECONDS = 30.0
#: What the broker will never take, however often it is sent.
_REFUSALS = (MessageSizeTooLargeError, RecordListTooLargeError, InvalidTimestampError, PolicyViolationError)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Outcome:
    """What became of a letter.

    ``redriven``: its record is at ``to``; ``would``: it would be redriven (a dry run); ``lost``: it can't be, for
    ``reason``; the letter stays.
    """

    letter: DeadLetter
    result: Literal["redriven", "would", "lost"]
    to: Place | None = None
    reason: str = ""


class _Refused(Exception):
    """The broker will not take a record of the transaction; nothing of it was done."""


class _Ready(NamedTuple):
    """A letter, and its record as it is to be written."""

    letter: DeadLetter
    key: bytes | None
    value: bytes | None
    headers: list[Header]


class _Row(NamedTuple):
    """A record to write."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[Header]


class Redrive:
    """One redrive of a role's letters: those of ``choice`` that were not redriven, before the offsets ``until``.

    What is parked while it runs (a record that fails again, say) is left alone. ``dry_run``: change nothing.
    """

    def __init__(
        self,
        letters: DeadLetters,
        choice: Choice | None = None,
        until: Mapping[int, int] | None = None,
        *,
        dry_run: bool = False,
    ) -> None:
        self._letters = letters
        self._choice = replace(choice or Choice(), redriven=False)
        self._until = until
        self._dry_run = dry_run
        self._writer = _Writer(letters.kafka, letters.role)
        self._spans: Spans = {}
        self._marks = Marks({})

    async def run(self) -> AsyncGenerator[Outcome]:
        """An outcome a letter, once it is committed.

        Raises DeadLetterError when it can't go on, KafkaError and OSError. What was told is done; run another one
        for the rest, which does nothing twice.
        """
        self._spans = await self._letters.spans(self._choice, self._until)
        self._marks = Marks(self._spans)
        ready: list[_Ready] = []
        try:
            await self._begin()
            # 3. Read.
            async with (
                Originals(self._letters.kafka) as originals,
                aclosing(self._letters.letters(self._choice, self._spans)) as letters,
            ):
                async for found in letters:
                    if found.place in self._marks:
                        continue
                    try:
                        await originals.check(found.original)
                        key, value, headers = await originals.read(found)
                    except Gone as gone:
                        yield Outcome(found, "lost", reason=str(gone))
                        continue
                    ready.append(_Ready(found, key, value, _stamped(found, headers)))
                    if len(ready) >= _MAX_LETTERS or sum(len(each.value or b"") for each in ready) >= _MAX_BYTES:
                        async for outcome in self._deliver(ready):
                            yield outcome
                        ready = []
            async for outcome in self._deliver(ready):
                yield outcome
        finally:
            await self._writer.close()

    async def _begin(self) -> None:
        if not self._dry_run:
            await self._writer.fence()  # 1.
        await self._letters.learn(self._marks, self._spans)  # 2.

    async def _deliver(self, ready: Sequence[_Ready]) -> AsyncGenerator[Outcome]:
        """4. Where the broker refuses one of several, each goes alone, so that the rest is done."""
        ready = [each for each in ready if each.letter.place not in self._marks]
        if self._dry_run:
            for each in ready:
                yield Outcome(each.letter, "would")
            return
        if not ready:
            return
        try:
            places = await self._writer.send(self._letters.topic, ready)
        except _Refused as refused:
            # A refused batch leaves a hole in the producer's sequence, so it takes a new one. That fences anew,
            # perhaps another redrive, which may have done some of these.
            await self._begin()
            if len(ready) == 1:
                yield Outcome(ready[0].letter, "lost", reason=str(refused))
                return
            for each in ready:
                async for outcome in self._deliver([each]):
                    yield outcome
        else:
            for each, place in zip(ready, places, strict=True):
                yield Outcome(each.letter, "redriven", to=place)


class _Writer:
    """The transactional producer of a role's redrive."""

    def __init__(self, kafka: Kafka, role: str) -> None:
        self._kafka = kafka
        self._role = role
        self._producer: AIOKafkaProducer | None = None
        self._known: set[str] = set()

    async def fence(self) -> None:
        """1. From here on nobody else redrives letters of this role."""
        await self.close()
        self._known = set()
        self._producer = self._kafka.producer(
            transactional_id=f"headrace-redrive-{self._role}",
            transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS,
            max_batch_size=_BATCH_BYTES,
            linger_ms=0,
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._producer.start()
        except TimeoutError:
            raise DeadLetterError(f"Kafka gave no producer id within {_START_SECONDS:g} s; nothing was done") from None

    async def close(self) -> None:
        """Disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(Exception):
                await asyncio.wait_for(producer.stop(), 10)

    async def send(self, dead: str, ready: Sequence[_Ready]) -> list[Place]:
        """4. One transaction; where the records are now. Raises `_Refused` and DeadLetterError."""
        producer = self._producer
        assert producer is not None
        committing = False
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await producer.begin_transaction()
                rows = [_Row(*each.letter.original[:2], each.key, each.value, each.headers) for each in ready]
                offsets = await self._write(producer, rows)
                places = [Place(row.topic, row.partition, at) for row, at in zip(rows, offsets, strict=True)]
                markers = []
                for each, place in zip(ready, places, strict=True):
                    markers.append(_Row(dead, each.letter.place.partition, None, *marker(each.letter, place)))
                await self._write(producer, markers)
                committing = True
                await producer.commit_transaction()
        except BaseException as error:
            # So that readers need not wait for the transaction's timeout, which ends it where this can't.
            with suppress(Exception):
                await asyncio.wait_for(producer.abort_transaction(), 5)
            if isinstance(error, ProducerFenced):
                raise DeadLetterError(
                    f"another redrive of {self._role} has begun, and stopped this one; what was told is done"
                ) from None
            if isinstance(error, _REFUSALS):
                raise _Refused(f"the broker refuses the record: {type(error).__name__}") from None
            if isinstance(error, KafkaError | TimeoutError):
                last = (
                    "whether the last ones were redriven is not known" if committing else "the last were not redriven"
                )
                raise DeadLetterError(f"{error!r}: {last}; run it again, nothing is redriven twice") from error
            raise
        return places

    async def _write(self, producer: AIOKafkaProducer, rows: Iterable[_Row]) -> list[int]:
        """Send; the offsets that the rows got, when all are acknowledged."""
        now = int(time.time() * 1000)
        batches: dict[tuple[str, int], list[BatchBuilder]] = {}
        spots: list[tuple[BatchBuilder, int]] = []
        for row in rows:
            builders = batches.setdefault((row.topic, row.partition), [producer.create_batch()])
            if builders[-1].append(timestamp=now, key=row.key, value=row.value, headers=row.headers) is None:
                builders.append(producer.create_batch())
                # The first record of a batch is taken whatever its size.
                builders[-1].append(timestamp=now, key=row.key, value=row.value, headers=row.headers)
            spots.append((builders[-1], builders[-1].record_count() - 1))
        acknowledged = {}
        for (topic, partition), builders in batches.items():
            if topic not in self._known:
                await know(producer, topic)
                self._known.add(topic)
            for builder in builders:
                builder.close()
                acknowledged[builder] = await producer.send_batch(builder, topic, partition=partition)
        await asyncio.gather(*acknowledged.values())
        return [acknowledged[builder].result().offset + index for builder, index in spots]


def _stamped(found: DeadLetter, headers: Iterable[Header]) -> list[Header]:
    """The headers of the redriven record. One that was redriven before, and failed again, keeps its first place."""
    stamped = [header for header in headers if header[0] != REDRIVEN]
    if all(name != ORIGINAL for name, _ in stamped):
        stamped.append((ORIGINAL, str(found.original).encode()))
        with suppress(OverflowError):
            moment = _EPOCH + timedelta(milliseconds=found.timestamp)
            stamped.append((APPENDED, moment.isoformat(timespec="milliseconds").encode()))
    return [*stamped, (REDRIVEN, str(found.place).encode())]
