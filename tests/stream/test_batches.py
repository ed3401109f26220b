"""Dividing batches, and finding the one record that a broker will not take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count as numbers
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stream.batches import count, cut, ends_of, halves
from pipeline.stream.config import LaneConfig
from pipeline.stream.kafka import Kafka
from pipeline.stream.reader import Batch
from pipeline.stream.refusals import Refusals, RefusedError
from pipeline.stream.store import Table


@dataclass(frozen=True)
class Row:
    """A record of which only the place matters."""

    offset: int
    timestamp: int = 0
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()


def batch(topic: str, offsets: Sequence[int]) -> Batch:
    return Batch(topic, 1, [Row(offset) for offset in offsets])


def places(batches: Sequence[Batch]) -> list[tuple[str, int]]:
    return [(batch.topic, record.offset) for batch in batches for record in batch.records]


# Offsets have gaps: compaction, transaction markers.
_offsets = st.lists(st.integers(0, 1000), min_size=1, max_size=12, unique=True).map(sorted)
_taken = st.lists(_offsets, min_size=1, max_size=4).map(
    lambda found: [batch(f"t{n}", offsets) for n, offsets in enumerate(found)]
)


@given(_taken, st.integers(1, 20))
def test_pieces_have_all_records_in_order_and_none_is_too_large_or_smaller_than_need_be(
    taken: list[Batch], limit: int
) -> None:
    pieces = cut(taken, limit)
    assert places([part for piece in pieces for part in piece]) == places(taken)
    assert [count(piece) for piece in pieces[:-1]] == [limit] * (len(pieces) - 1)
    assert 1 <= count(pieces[-1]) <= limit
    assert all(part.records for piece in pieces for part in piece)


@given(_taken.filter(lambda taken: count(taken) > 1))
def test_halves_are_both_smaller_and_together_the_whole(taken: list[Batch]) -> None:
    first, second = halves(taken)
    assert places([*first, *second]) == places(taken)
    assert count(first) == count(taken) // 2


@given(_taken, st.integers(1, 20))
def test_the_ends_of_pieces_one_after_another_lead_to_the_ends_of_the_whole(taken: list[Batch], limit: int) -> None:
    reached: dict[TopicPartition, int] = {}
    for piece in cut(taken, limit):
        for tp, end in ends_of(piece).items():
            assert end > reached.get(tp, -1)
            reached[tp] = end
    assert reached == ends_of(taken)
    assert reached == {TopicPartition(each.topic, 1): each.records[-1].offset + 1 for each in taken}


@given(_taken, st.data())
def test_each_record_that_is_refused_is_found_alone_and_the_others_are_accepted_once(
    taken: list[Batch], data: st.DataObject
) -> None:
    """As a lane does: what is refused is read again, from what was committed."""
    bad = data.draw(st.sets(st.sampled_from(places(taken))))
    refusals = Refusals(data.draw(st.integers(1, 50)))
    accepted: list[tuple[str, int]] = []
    parked: list[tuple[str, int]] = []
    for attempt in numbers():
        assert attempt < 200, "no end"
        left = [
            batch(each.topic, rest)
            for each in taken
            if (rest := [o for t, o in places([each]) if (t, o) not in accepted and (t, o) not in parked])
        ]
        if not left:
            break
        for piece in refusals.pieces(left):
            if refusals.of(piece) is not None:
                parked += places(piece)
            elif bad & set(places(piece)):
                refusals.add(piece, RefusedError("too large"))
                break
            else:
                accepted += places(piece)
            refusals.accepted(piece)
    assert set(parked) == bad
    assert sorted(accepted + parked) == sorted(places(taken))


def test_a_letter_that_is_refused_too_is_the_end() -> None:
    refusals = Refusals(50)
    alone = [batch("t", [7])]
    refusals.add(alone, RefusedError("too large"))
    assert refusals.of(alone) is not None
    with pytest.raises(RuntimeError, match=r"refuses the dead letter of \('t', 1, 7\) too"):
        refusals.add(alone, RefusedError("too large"))


def test_at_least_once_a_role_with_two_changelogs_is_refused(tmp_path: Path) -> None:
    tables = [Table("a", "x.b"), Table("b", "x.a"), Table("local", None)]
    kafka = Kafka("nowhere:9092")
    with pytest.raises(ValueError, match=r"role x has 2 changelogs \(x\.a, x\.b\), and at-least-once keeps only one"):
        LaneConfig(kafka, "x", "x", 1, tables=tables, store_dir=tmp_path, guarantee="at_least_once")
    LaneConfig(kafka, "x", "x", 1, tables=tables, store_dir=tmp_path)
    LaneConfig(kafka, "x", "x", 1, tables=tables[1:], store_dir=tmp_path, guarantee="at_least_once")
