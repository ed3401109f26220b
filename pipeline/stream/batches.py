"""Dividing what was read, without losing its order or where it ends."""

from __future__ import annotations

from collections.abc import Sequence

from aiokafka import TopicPartition

from pipeline.stream.reader import Batch

__all__ = ["count", "cut", "ends_of", "halves"]


def count(batches: Sequence[Batch]) -> int:
    """How many records."""
    return sum(len(batch.records) for batch in batches)


def cut(batches: Sequence[Batch], limit: int) -> list[Sequence[Batch]]:
    """Pieces of at most ``limit`` records, in order."""
    pieces: list[list[Batch]] = []
    room = 0
    for batch in batches:
        start = 0
        while start < len(batch.records):
            if not room:
                pieces.append([])
                room = limit
            part = batch.records[start : start + room]
            pieces[-1].append(batch._replace(records=part))
            start += len(part)
            room -= len(part)
    return list(pieces)


def halves(batches: Sequence[Batch]) -> tuple[Sequence[Batch], Sequence[Batch]]:
    """The first half and the rest, of two records or more."""
    pieces = cut(batches, count(batches) // 2)
    return pieces[0], [batch for piece in pieces[1:] for batch in piece]


def ends_of(batches: Sequence[Batch]) -> dict[TopicPartition, int]:
    """The positions after them."""
    return {TopicPartition(batch.topic, batch.partition): batch.records[-1].offset + 1 for batch in batches}
