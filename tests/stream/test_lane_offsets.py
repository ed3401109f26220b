"""Offsets of a group that nobody joins: committed again while their lane lives, so that none expires (KIP-211)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from eventually import eventually
from lane_world import LaneWorld, lane_world

from pipeline.stream.kafka import Kafka


@pytest.fixture
async def world(kafka: Kafka, prefix: str, tmp_path: Path) -> AsyncIterator[LaneWorld]:
    """A role of two lanes."""
    async with lane_world(kafka, prefix, tmp_path) as found:
        yield found


async def committed(world: LaneWorld) -> dict[int, int]:
    """The role's committed offset in each partition of its input."""
    admin = world.kafka.admin()
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(f"{world.name}-offsets")
    finally:
        await admin.close()
    return {tp.partition: offset.offset for tp, offset in offsets.items() if tp.topic == f"{world.name}.in0"}


@pytest.mark.kafka
@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
async def test_an_offset_that_does_not_move_is_committed_again(
    world: LaneWorld, guarantee: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stream.lane._OFFSET_COMMIT_SECONDS", 0.5)
    app = await world.run(recommit=1.0, guarantee=guarantee)
    await world.opened(app)
    await world.produce(*((b"k%d" % n, b"1") for n in range(20)))
    await world.told(20)

    async def whole() -> dict[int, int] | None:
        found = await committed(world)
        return found if sum(found.values()) >= 20 and len(found) == world.lanes else None

    moved = await eventually(whole, 10, what="all input committed")
    # As if the broker had forgotten them; nothing of the role's own input ever moves again.
    consumer = world.kafka.consumer(group_id=f"{world.name}-offsets")
    await consumer.start()
    try:
        partitions = [TopicPartition(f"{world.name}.in0", lane) for lane in range(world.lanes)]
        consumer.assign(partitions)
        await consumer.commit(dict.fromkeys(partitions, 0))
    finally:
        await consumer.stop()

    async def back() -> bool:
        assert await committed(world) == moved
        return True

    await eventually(back, 15, what="the offsets committed again")
    assert len(await world.outputs()) == 20
