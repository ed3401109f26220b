"""What the broker will never take, however few records there are: parked, and the rest goes on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from counting_worker import Counting
from eventually import eventually
from lane_world import LaneWorld, lane_world
from records import make_topic, read_all

from pipeline.stream.kafka import Kafka
from pipeline.stream.reader import Batch
from pipeline.stream.transaction import Transaction


class Wide(Counting):
    """Sends more for a value of ``wide`` than its topic takes."""

    async def process(self, batches: Sequence[Batch], txn: Transaction) -> None:
        for record in (record for batch in batches for record in batch.records):
            txn.send(self.output, record.key, os.urandom(100_000) if record.value == b"wide" else record.value)


@pytest.fixture
async def world(kafka: Kafka, prefix: str, tmp_path: Path) -> AsyncIterator[LaneWorld]:
    """A role of one lane, whose output takes 50,000 bytes."""
    async with lane_world(kafka, prefix, tmp_path, 1) as found:
        await make_topic(kafka, f"{prefix}.narrow", 1, **{"max.message.bytes": "50000"})
        yield found


@pytest.mark.kafka
@pytest.mark.parametrize("number", [1, 2, 4])
async def test_the_one_record_of_few_that_the_broker_refuses_is_parked(world: LaneWorld, number: int) -> None:
    others = [(b"k%d" % n, b"1") for n in range(number - 1)]
    await world.produce((b"w", b"wide"), *others)
    await world.run(processor=lambda _: Wide(world.inputs, f"{world.name}.narrow"))

    async def done() -> bool:
        assert [r.key for r in await read_all(world.kafka, f"dead.{world.name}")] == [b"w"]
        return [r.key for r in await read_all(world.kafka, f"{world.name}.narrow")] == [key for key, _ in others]

    await eventually(done, 40, what="one dead letter and all else")
