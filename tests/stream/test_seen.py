"""The same id twice: wherever the two meet, what is known of the first is in the commit that it led to."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest
from eventually import eventually
from hypothesis import given, settings
from hypothesis import strategies as st
from lane_world import LaneWorld, lane_world
from records import read_all

from pipeline.stream.kafka import Kafka
from pipeline.stream.lanes import LaneApp
from pipeline.stream.reader import Batch
from pipeline.stream.seen import STEP, Seen
from pipeline.stream.store import Store, Table
from pipeline.stream.transaction import Transaction, partition_for

LANES = 2
BUCKET = 1000


class Unique:
    """Sends every id once to ``NAME.out``.

    ``NAME.in0``, by any key, holds values "<id> <moment>"; they are routed by id to ``NAME.in1``, so that an id comes
    to one lane whatever partition it was written to. The clock is the newest moment.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen = Seen("counts", prefix=b"seen", bucket_ms=BUCKET)
        self._now = 0

    def topics(self) -> set[str]:
        return {f"{self._name}.in0", f"{self._name}.in1"}

    async def process(self, batches: Sequence[Batch], txn: Transaction) -> None:
        routed = [
            r.value.split() for batch in batches if batch.topic.endswith(".in1") for r in batch.records if r.value
        ]
        await self._seen.look(txn, ((digest, int(moment)) for digest, moment in routed))
        for batch in batches:
            for record in batch.records:
                assert record.value is not None
                digest, moment = record.value.split()
                if batch.topic.endswith(".in0"):
                    txn.route(f"{self._name}.in1", digest, record.value)
                elif self._seen.first(txn, digest, int(moment)):
                    txn.send(f"{self._name}.out", digest, moment)
                self._now = max(self._now, int(moment))

    def tick(self, now_ms: int, txn: Transaction) -> bool:
        return self._seen.forget(txn, self._now)

    def reset(self) -> None:
        self._seen.reset()


class SeenWorld:
    """The role of `Unique` under test."""

    def __init__(self, world: LaneWorld) -> None:
        self.world = world
        self._marks = 0

    async def run(self, stores: str = "stores") -> LaneApp:
        """Start a member."""
        return await self.world.run(stores, processor=lambda _: Unique(self.world.name))

    async def write(self, *values: bytes) -> None:
        """Write these, each to every partition, in order."""
        await self.world.produce(*((_key(n), value) for value in values for n in range(LANES)))

    async def told(self, moment: int = 0) -> Counter[tuple[bytes, int]]:
        """(id, moment) of all outputs, when what was written by now has been through both stages.

        Behind it goes a marker from each partition of the first stage to each of the second.
        """
        self._marks += 1
        marks = {(n, to): _digest(b"mark%d-%d" % (self._marks, n), to) for n in range(LANES) for to in range(LANES)}
        await self.world.produce(*((_key(n), b"%s %d" % (mark, moment)) for (n, _), mark in marks.items()))

        async def passed() -> list[tuple[bytes, int]] | None:
            found = [(record.key, int(record.value)) for record in await self.world.outputs()]
            return found if set(marks.values()) <= {key for key, _ in found} else None

        found = await eventually(passed, 40, what="all input through both stages")
        return Counter(pair for pair in found if not pair[0].startswith(b"mark"))


def _digest(stem: bytes, lane: int) -> bytes:
    """An id that is routed to ``lane``."""
    return next(key for n in count() if partition_for(key := b"%s-%d" % (stem, n), LANES) == lane)


def _key(partition: int) -> bytes:
    """A key of this partition of the first stage."""
    return _digest(b"key", partition)


@pytest.fixture
async def world(kafka: Kafka, prefix: str, tmp_path: Path) -> AsyncIterator[SeenWorld]:
    """A role of two lanes and two stages."""
    async with lane_world(kafka, prefix, tmp_path, LANES) as found:
        await found.make_topics(f"{prefix}.in1")
        yield SeenWorld(found)


@pytest.mark.kafka
async def test_an_id_that_comes_again_in_a_batch_in_another_or_in_another_partition_is_new_once(
    world: SeenWorld,
) -> None:
    # All there before the start: one batch has several of each, and so has the other lane's.
    await world.write(b"a 1", b"a 1", b"b 1", b"a 2")
    await world.run()
    told = await world.told()
    assert Counter(key for key, _ in told.elements()) == {b"a": 1, b"b": 1}
    await world.write(b"a 3", b"b 3", b"c 3")
    assert Counter(key for key, _ in (await world.told()).elements()) == {b"a": 1, b"b": 1, b"c": 1}


@pytest.mark.kafka
async def test_an_id_that_comes_again_after_a_lost_disk_or_a_rebalance_is_not_new(world: SeenWorld) -> None:
    ids = [b"id%d" % n for n in range(20)]
    values = [key + b" 1" for key in ids]
    app = await world.run("first")
    await world.write(*values)
    assert await world.told() == {(key, 1): 1 for key in ids}
    await app.stop()
    # Nothing of the first store is there.
    app = await world.run("second")
    await world.write(*values, b"after-loss 1")
    expected = Counter([(key, 1) for key in [*ids, b"after-loss"]])
    assert await world.told() == expected
    other = await world.run("third")
    await eventually(lambda: len(app.running) == len(other.running) == 1, 60, what="a lane each")
    await world.write(*values, b"shared 1")
    expected[b"shared", 1] = 1
    assert await world.told() == expected
    await app.stop()
    await world.write(*values, b"shared 1", b"left 1")
    expected[b"left", 1] = 1
    assert await world.told() == expected


@pytest.mark.kafka
async def test_an_id_whose_time_is_over_is_forgotten_and_new_again(world: SeenWorld) -> None:
    # More than one step of forgetting takes, in each lane.
    ids = [b"id%d" % n for n in range(3 * STEP)]
    await world.run()
    await world.world.produce(*((key, key + b" 0") for key in ids))
    assert len(await world.told()) == len(ids)
    early = BUCKET
    await world.write(b"id0 %d" % early)
    assert (await world.told(early)).total() == len(ids)
    late = 2 * BUCKET
    await world.write(b"id0 %d" % late)
    assert (await world.told(late)).total() == len(ids) + 1

    async def forgotten() -> bool:
        changelog = await read_all(world.world.kafka, f"{world.world.name}.log")
        left = {record.key: record.value for record in changelog if record.key.endswith(tuple(ids))}
        assert sum(value is not None for value in left.values()) == 1, "ids are left"
        return len(left) == len(ids) + 1

    await eventually(forgotten, 20, what="all ids but the one that came again removed")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store on disk."""
    store = Store(tmp_path_factory.mktemp("seen") / "0", {"ids": Table("ids", None)})
    yield store
    store.close()


#: Each example has a prefix of its own in the one store.
_examples = count()
#: An id, the time since the one before, whether the transaction is committed, whether old ids are removed in it, and
#: whether the batch is looked up together.
_arrivals = st.tuples(
    st.sampled_from([b"a", b"b"]), st.integers(0, BUCKET), st.booleans(), st.booleans(), st.booleans()
)


@given(st.lists(_arrivals, max_size=30))
@settings(max_examples=100, deadline=None)
def test_an_id_is_known_for_one_bucket_at_least_and_two_at_most(
    store: Store, arrivals: list[tuple[bytes, int, bool, bool, bool]]
) -> None:
    seen = Seen("ids", prefix=struct.pack(">I", next(_examples)), bucket_ms=BUCKET)
    known: dict[bytes, int] = {}
    moment = 0
    for digest, passed, committed, forgetting, together in arrivals:
        moment += passed
        txn = Transaction(0, 1, store, None)  # type: ignore[arg-type]
        if forgetting:
            seen.forget(txn, moment)
        if together:
            asyncio.run(seen.look(txn, [(digest, moment), (b"a", moment), (b"b", moment)]))
        first = seen.first(txn, digest, moment)
        assert not seen.first(txn, digest, moment)
        age = moment - known[digest] if digest in known else 2 * BUCKET
        if age <= BUCKET or age >= 2 * BUCKET:
            assert first == (age > BUCKET)
        if committed:
            store.write(txn.changes, {})
            known |= {digest: moment} if first else {}
        else:
            seen.reset()


def test_of_two_equal_ids_the_later_one_may_come_first(store: Store) -> None:
    seen = Seen("ids", prefix=struct.pack(">I", next(_examples)), bucket_ms=BUCKET)
    txn = Transaction(0, 1, store, None)  # type: ignore[arg-type]
    assert seen.first(txn, b"a", BUCKET)
    assert not seen.first(txn, b"a", BUCKET - 1)
