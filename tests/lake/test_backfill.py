"""A lane's past as it is kept: in the lake's files, in `history`, or in both; read once, whatever lies where."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from eventually import eventually
from lake_world import World
from records import read_all

from pipeline.agents.backfill import Backfill
from pipeline.models.control import Segment
from pipeline.segments.compile import Program
from pipeline.segments.leaf import Leaf
from pipeline.stream.kafka import Kafka

pytestmark = pytest.mark.kafka
#: More than anybody did of it.
MANY = {"op": ">=", "value": 1000}


@pytest.fixture
async def world(kafka: Kafka, prefix: str, tmp_path: Path) -> World:
    made = World(kafka, prefix, tmp_path / "lake")
    await made.open()
    return made


def leaves_of(*conditions: dict[str, Any]) -> list[Leaf]:
    """Of a segment made of these."""
    about = {"id": "s", "partner": "p0", "name": "s", "version": 1, "created": 0, "updated": 0, "since": 0}
    program = Program([Segment.model_validate(about | {"condition": {"any": list(conditions)}})])
    return list(program.leaves.values())


async def read(backfill: Backfill, leaves: list[Leaf], since: int | None = None) -> Counter[tuple[str, str]]:
    """How many pairs of each leaf the past has, by customer."""
    found: Counter[tuple[str, str]] = Counter()
    backfill.start("p0", leaves, since)
    async with asyncio.timeout(30):
        while not backfill.finished:
            for customer, past in backfill.take(3):
                found.update({(customer, leaf): sum(map(len, buckets.values())) for leaf, buckets in past.items()})
            await asyncio.sleep(0.01)
    return found


async def expected(world: World, lane: int, leaves: list[Leaf], since: int = 0) -> Counter[tuple[str, str]]:
    """The same of what was sent: all views, and those of even numbers."""
    found: Counter[tuple[str, str]] = Counter()
    for record in await read_all(world.kafka, world.history):
        event = orjson.loads(record.value)
        if record.partition != lane or event["partner"] != "p0" or "customer" not in event or event["time"] < since:
            continue
        found[event["customer"], leaves[0].id] += 1
        if event["properties"]["n"] >= 200:
            found[event["customer"], leaves[1].id] += 1
    return +found


LEAVES = [
    {"event": "Viewed", "count": MANY},
    {"event": "Viewed", "count": MANY, "where": [{"property": "n", "op": ">=", "value": 200}]},
    {"event": "Never", "count": MANY},
]


async def test_the_past_is_read_whether_it_is_in_files_or_not_yet(world: World) -> None:
    rng = random.Random(3)
    leaves = leaves_of(*LEAVES)
    backfill = Backfill(world.kafka, world.store, 0, asyncio.Semaphore(1), world.names)
    await world.send(200, rng)
    wanted = await expected(world, 0, leaves)
    assert len(wanted) > 4
    assert await read(backfill, leaves) == wanted  # no lake yet
    assert backfill.coverage == 0
    lane = world.lane(0)
    lane.start()
    await eventually(lambda: _filed(world, 0))
    assert await read(backfill, leaves) == wanted  # all in files
    await lane.stop()
    await world.send(200, rng)
    wanted = await expected(world, 0, leaves)
    assert await read(backfill, leaves) == wanted  # some here, some there
    assert (backfill.coverage, backfill.share) == (0, 1.0)


async def test_what_kafka_has_forgotten_is_read_from_files_and_what_nobody_has_is_told(world: World) -> None:
    rng = random.Random(4)
    leaves = leaves_of(*LEAVES)
    await world.send(300, rng)
    wanted = await expected(world, 0, leaves)
    first, second = world.lane(0), world.lane(1)
    first.start()
    await eventually(lambda: _filed(world, 0))
    await first.stop()
    await _forget(world, 0)
    await _forget(world, 1)
    filed = Backfill(world.kafka, world.store, 0, asyncio.Semaphore(1), world.names)
    assert await read(filed, leaves) == wanted
    assert filed.coverage == 0
    # The other lane was never in the lake: its past is gone.
    gone = Backfill(world.kafka, world.store, 1, asyncio.Semaphore(1), world.names)
    assert await read(gone, leaves) == Counter()
    assert gone.coverage is not None
    assert gone.coverage > 0
    # A lake that begins late knows of no more, and says so.
    await world.send(100, rng)
    begins = min(r.timestamp for r in await read_all(world.kafka, world.history) if r.partition == 1)
    second.start()
    await eventually(lambda: _filed(world, 1))
    await second.stop()
    assert await read(gone, leaves) == await expected(world, 1, leaves)
    assert gone.coverage == begins


async def test_files_and_rows_that_can_say_nothing_are_passed_by(world: World) -> None:
    rng = random.Random(5)
    leaves = leaves_of(*LEAVES)
    await world.send(200, rng)
    lane = world.lane(0)
    lane.start()
    await eventually(lambda: _filed(world, 0))
    await lane.stop()
    files = list((await world.manifest()).files("p0"))
    since = max(file.first for file in files)
    for file in files:
        if file.last < since:
            world.store.delete([file.path])  # who opens it fails
    backfill = Backfill(world.kafka, world.store, 0, asyncio.Semaphore(1), world.names)
    assert await read(backfill, leaves, since) == await expected(world, 0, leaves, since)


async def test_a_lake_that_cannot_be_read_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pipeline.agents.backfill._RETRY_SECONDS", 0.2)
    leaves = leaves_of(*LEAVES)
    await world.send(200, random.Random(6))
    lane = world.lane(0)
    lane.start()
    await eventually(lambda: _filed(world, 0))
    await lane.stop()
    (world.folder / "events").rename(world.folder / "away")
    backfill = Backfill(world.kafka, world.store, 0, asyncio.Semaphore(1), world.names)
    reading = asyncio.create_task(read(backfill, leaves))
    await eventually(lambda: "beginning again" in caplog.text)
    assert not backfill.finished
    (world.folder / "away").rename(world.folder / "events")
    assert await reading == await expected(world, 0, leaves)


async def _filed(world: World, lane: int) -> bool:
    """All of the lane is in files."""
    end = max((r.offset for r in await read_all(world.kafka, world.history) if r.partition == lane), default=-1)
    return (await world.manifest()).next(lane) > end


async def _forget(world: World, lane: int) -> None:
    """As retention does."""
    admin = world.kafka.admin()
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(world.history, lane): RecordsToDelete(before_offset=-1)})
    finally:
        await admin.close()
