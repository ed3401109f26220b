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

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

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
from pipeline.stream.kafka import Kafka
from pipeline.stream.rewrite import Refused, Rewriter, Row

__all__ = ["Outcome", "Redrive"]

#: A transaction takes at most so much.
_MAX_LETTERS, _MAX_BYTES = 200, 4_000_000
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


class _Ready(NamedTuple):
    """A letter, and its record as it is to be written."""

    letter: DeadLetter
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
            places = await self._writer.redrive(self._letters.topic, ready)
        except Refused as refused:
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


class _Writer(Rewriter):
    """The transactional producer of a role's redrive."""

    def __init__(self, kafka: Kafka, role: str) -> None:
        super().__init__(kafka, f"headrace-redrive-{role}", f"redrive of {role}", DeadLetterError)

    async def redrive(self, dead: str, ready: Sequence[_Ready]) -> list[Place]:
        """4. One transaction; where the records are now. Raises `Refused` and DeadLetterError."""

        def markers(places: list[Place]) -> list[Row]:
            return [
                Row(dead, each.letter.place.partition, None, *marker(each.letter, place))
                for each, place in zip(ready, places, strict=True)
            ]

        rows = [Row(*each.letter.original[:2], each.key, each.value, each.headers) for each in ready]
        return await self.send(rows, markers)


def _stamped(found: DeadLetter, headers: Iterable[Header]) -> list[Header]:
    """The headers of the redriven record. One that was redriven before, and failed again, keeps its first place."""
    stamped = [header for header in headers if header[0] != REDRIVEN]
    if all(name != ORIGINAL for name, _ in stamped):
        stamped.append((ORIGINAL, str(found.original).encode()))
        with suppress(OverflowError):
            moment = _EPOCH + timedelta(milliseconds=found.timestamp)
            stamped.append((APPENDED, moment.isoformat(timespec="milliseconds").encode()))
    return [*stamped, (REDRIVEN, str(found.place).encode())]
