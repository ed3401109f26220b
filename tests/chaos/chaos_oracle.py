"""The oracle: what a role must have done with its input, told from the input alone, and what it did.

Exactly once: ``NAME.out`` holds one record for each input, each partition's in order, with the count that the key had
by then; at least once: the last record for each input does. The changelog, replayed, and the stores equal the model
either way, and a store that was left behind equals the changelog as of its offset: nothing uncommitted is in it.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import orjson
from aiokafka import ConsumerRecord
from chaos_worker import HUGE, POISON, WIDE, applied, tables

from pipeline.stream.store import Store

__all__ = [
    "Place",
    "Told",
    "bad_places",
    "check_letters",
    "check_outputs",
    "check_stores",
    "compacted",
    "expected",
    "input_places",
    "told",
]

_ERRORS = {
    POISON: "ValueError('a bug of ours')",
    HUGE: "does not fit a batch",
    WIDE: "MessageSizeTooLargeError",
}
#: A key's (how many records, which: see `applied`).
State = dict[bytes, tuple[int, int]]


class Place(NamedTuple):
    """Where an input record lies."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True)
class Told:
    """An output: ``lane`` has applied the record at ``place``, and it was the ``count``-th of ``key``."""

    lane: int
    key: bytes
    place: Place
    count: int


def told(record: ConsumerRecord) -> Told:
    """The output in a record of ``NAME.out``."""
    topic, partition, offset, count = orjson.loads(record.value)
    return Told(record.partition, record.key, Place(topic, partition, offset), count)


def good(record: ConsumerRecord) -> bool:
    """Whether the record is one that the worker can apply."""
    return record.value not in (POISON, HUGE, WIDE)


def bad_places(records: Iterable[ConsumerRecord]) -> dict[Place, bytes]:
    """Where the records lie that must be parked, and what they hold."""
    return {
        Place(record.topic, record.partition, record.offset): record.value for record in records if not good(record)
    }


def check_letters(
    letters: Iterable[ConsumerRecord], inputs: Iterable[ConsumerRecord], *, exactly_once: bool = True
) -> None:
    """Each bad record has a letter, with what is wrong with it; no other record has one. Raises AssertionError."""
    bad = bad_places(inputs)
    parked: list[Place] = []
    for record in letters:
        letter = orjson.loads(record.value)
        place = Place(letter["topic"], letter["partition"], letter["offset"])
        parked.append(place)
        assert place in bad, f"{place} was parked: {letter['error']}"
        assert _ERRORS[bad[place]] in letter["error"], letter["error"]
        assert letter["lane"] == record.partition == place.partition
    assert set(parked) == bad.keys(), f"not parked: {sorted(bad.keys() - set(parked))[:5]}"
    assert not exactly_once or len(parked) == len(bad), "parked twice"


def input_places(records: Iterable[ConsumerRecord]) -> set[Place]:
    """Where the records lie that are to be applied."""
    return {Place(record.topic, record.partition, record.offset) for record in records if good(record)}


def expected(records: Iterable[ConsumerRecord]) -> dict[int, State]:
    """The state of each lane when it has applied these inputs once each."""
    lanes: dict[int, State] = defaultdict(dict)
    for record in filter(good, records):
        state, key = lanes[record.partition], record.key or b""
        count, total = state.get(key, (0, 0))
        state[key] = applied(count, total, record.topic, record.partition, record.offset)
    return dict(lanes)


def compacted(records: Iterable[ConsumerRecord], below: int | None = None) -> dict[int, State]:
    """The state of each lane that a replay of its changelog (up to before offset ``below``) gives."""
    lanes: dict[int, State] = defaultdict(dict)
    for record in records:
        if below is not None and record.offset >= below:
            continue
        if record.value is None:
            lanes[record.partition].pop(record.key, None)
        else:
            lanes[record.partition][record.key] = _state(record.value)
    return dict(lanes)


def check_outputs(outputs: Sequence[Told], inputs: Iterable[ConsumerRecord], *, exactly_once: bool) -> None:
    """Each input is told, in order and with the right count. Raises AssertionError."""
    records = list(inputs)
    wanted = input_places(records)
    # At least once, what stands beside a record that the broker refuses may have been sent before it said so.
    allowed = wanted if exactly_once else {Place(record.topic, record.partition, record.offset) for record in records}
    times = Counter(output.place for output in outputs)
    assert not times.keys() - allowed, f"outputs of no input: {sorted(times.keys() - allowed)[:5]}"
    assert not wanted - times.keys(), f"inputs without output: {sorted(wanted - times.keys())[:5]}"
    if exactly_once:
        again = [place for place, number in times.items() if number > 1]
        assert not again, f"{len(again)} inputs with more than one output: {sorted(again)[:5]}"
    last = {output.place: index for index, output in enumerate(outputs)}
    final = [output for index, output in enumerate(outputs) if last[output.place] == index and output.place in wanted]
    offsets: dict[tuple[str, int], int] = defaultdict(lambda: -1)
    counts: Counter[tuple[int, bytes]] = Counter()
    for output in final:
        topic, partition, offset = output.place
        assert partition == output.lane, f"{output} is in another lane"
        assert offset > offsets[topic, partition], f"{output} comes after offset {offsets[topic, partition]}"
        offsets[topic, partition] = offset
        counts[output.lane, output.key] += 1
        assert output.count == counts[output.lane, output.key], (
            f"{output}, but it is number {counts[output.lane, output.key]}"
        )


async def check_stores(
    name: str,
    folders: Iterable[Path],
    changelog: Sequence[ConsumerRecord] | None,
    model: Mapping[int, State] | None,
) -> None:
    """Every store equals the changelog as of its offset, and the furthest of each lane equals the model.

    ``changelog`` None: it is not complete; ``model`` None: not all is done. No worker may run on ``folders``. Copies
    are opened, so that nothing here mends what a crash has left.
    """
    furthest: dict[int, tuple[int, State]] = {}
    for path in sorted(path for folder in folders if folder.exists() for path in folder.iterdir()):
        lane = int(path.name.partition(".")[0])
        offset, state = await asyncio.to_thread(_read, path, name)
        if offset is None:
            assert not state, f"{path} has data and no offset"
            continue
        if changelog is not None:
            then = compacted(changelog, below=offset).get(lane, {})
            assert state == then, f"{path} at {offset} is not the changelog as of then: {_difference(state, then)}"
        if offset >= furthest.get(lane, (-1, {}))[0]:
            furthest[lane] = (offset, state)
    for lane, wanted in (model or {}).items():
        assert lane in furthest, f"lane {lane} has no store"
        state = furthest[lane][1]
        assert state == wanted, f"the newest store of lane {lane} is not the model: {_difference(state, wanted)}"


def _read(path: Path, name: str) -> tuple[int | None, State]:
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "store"
        shutil.copytree(path, copy)
        store = Store(copy, {table.name: table for table in tables(name)}, siblings=0)
        state = {key: _state(value) for key, value in store.scan("counts")}
        offset = store.offsets.get(f"{name}.log")
        store.close()
    return offset, state


def _state(value: bytes) -> tuple[int, int]:
    count, total = value.split()
    return int(count), int(total)


def _difference(found: State, wanted: State) -> str:
    differing = [key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)]
    shown = "; ".join(f"{key!r}: {found.get(key)} for {wanted.get(key)}" for key in sorted(differing)[:3])
    return f"{len(differing)} keys differ: {shown}"
