"""What can't be processed, and what the broker will never take.

Found by trying the batch again in halves, until one record stands alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiokafka.errors import (
    InvalidTimestampError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
)

from pipeline.stream.batches import count, cut
from pipeline.stream.reader import Batch

__all__ = ["NEVER_TAKEN", "REFUSALS", "PoisonError", "Refusals", "RefusedError"]

#: What a broker says of a batch that it would refuse each time.
REFUSALS = (MessageSizeTooLargeError, RecordListTooLargeError, InvalidTimestampError)
#: What it will not take of one record either, however often it is sent: a policy of its owner's, too.
NEVER_TAKEN = (*REFUSALS, PolicyViolationError)


class PoisonError(Exception):
    """Our own code failed on a batch; a lane halves it to find the record."""


class RefusedError(Exception):
    """The broker will never take what became of a batch."""


class Refusals:
    """How much a lane tries at once, and the record that it must park.

    A refusal spoils the producer (its sequence numbers have a gap), so a lane starts again after each; what it learnt
    is here.
    """

    def __init__(self, max_records: int) -> None:
        self._max = max_records
        #: None as long as nothing is refused: a lane may be given more than it asked for.
        self._limit: int | None = None
        self._refused: dict[tuple[str, int, int], RefusedError] = {}

    def pieces(self, taken: Sequence[Batch]) -> list[Sequence[Batch]]:
        """``taken`` in the pieces to be tried: whole, unless something was refused."""
        limit = 1 if self._refused else self._limit
        return [taken] if limit is None else cut(taken, limit)

    def of(self, batches: Sequence[Batch]) -> RefusedError | None:
        """What the broker said of these, where it is one record whose turn it is to be parked."""
        return self._refused.get(_place(batches)) if self._refused and count(batches) == 1 else None

    def add(self, batches: Sequence[Batch], error: RefusedError) -> None:
        """Take less the next time; one record alone is parked then. Raises RuntimeError when that was refused too."""
        size = count(batches)
        if size > 1:
            self._limit = max(1, size // 2)
            return
        if _place(batches) in self._refused:
            raise RuntimeError(f"the broker refuses the dead letter of {_place(batches)} too") from error
        self._refused[_place(batches)] = error

    def less(self) -> None:
        """Try half as much, for another reason."""
        self._limit = max(1, (self._limit or self._max) // 2)

    def accepted(self, batches: Sequence[Batch]) -> None:
        """A piece was committed, perhaps as a dead letter."""
        self._refused.pop(_place(batches), None)
        if self._limit is not None:
            self._limit = 2 * self._limit if 2 * self._limit < self._max else None


def _place(batches: Sequence[Batch]) -> tuple[str, int, int]:
    return batches[0].topic, batches[0].partition, batches[0].records[0].offset
