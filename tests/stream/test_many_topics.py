"""Many inputs on few lanes: a new one costs neither a rebalance nor a producer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from eventually import eventually
from lane_world import LaneWorld, lane_world
from records import read_all

from pipeline.stream.kafka import Kafka

LANES = 8
TOPICS = 300
CHUNK = 50


@pytest.fixture
async def world(kafka: Kafka, prefix: str, tmp_path: Path) -> AsyncIterator[LaneWorld]:
    """A role of eight lanes with 300 inputs; they are deleted afterwards, since others use the broker too."""
    async with lane_world(kafka, prefix, tmp_path, LANES) as world:
        world.inputs.clear()
        names = [f"{prefix}.source{n}" for n in range(TOPICS)]
        for at in range(0, TOPICS, CHUNK):
            await world.make_topics(*names[at : at + CHUNK])
        world.inputs.update(names)
        yield world
        for app in world.apps:
            await app.stop()
        admin = kafka.admin()
        await admin.start()
        try:
            await admin.delete_topics(sorted(world.inputs))
        finally:
            await admin.close()


@pytest.mark.kafka
async def test_the_301st_topic_is_read_within_two_seconds_with_no_rebalance_and_no_new_producer(
    world: LaneWorld,
) -> None:
    app = await world.run()
    await world.opened(app)
    await world.produce((b"a", b"1"), topic="source0")
    await world.produce((b"b", b"1"), topic=f"source{TOPICS - 1}")
    await world.told(2)
    lanes = dict(app.running)
    producers = {number: lane._producer for number, lane in lanes.items()}
    rebalances = app.app.rebalancing_count

    new = f"{world.name}.new"
    pairs = [(b"n%d" % n, b"1") for n in range(10 * LANES)]
    # Told of the topic before it is there, as a worker is that follows the control log.
    world.inputs.add(new)
    await world.make_topics(new)
    await world.produce(*pairs, topic="new")
    await world.told(2 + len(pairs))

    # By the broker's own clock, so that what the test itself takes to write and to look is not counted.
    written = {record.key: record.timestamp for record in await read_all(world.kafka, new)}
    outputs = [record for record in await world.outputs() if record.key in written]
    assert {record.partition for record in outputs} == set(range(LANES))
    assert max(record.timestamp for record in outputs) - min(written.values()) <= 2000
    assert app.running == lanes
    assert {number: lane._producer for number, lane in app.running.items()} == producers
    assert app.app.rebalancing_count == rebalances
    await eventually(lambda: app.unready() is None, 10, what="a worker that is still ready")
