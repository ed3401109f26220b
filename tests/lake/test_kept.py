"""Events as SQL reads them: files and what is in none yet, each once, at any moment while the lake works."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from eventually import eventually
from lake_world import World, following

from pipeline.query.kept import Behind, Kept
from pipeline.query.sql import Limits, run
from pipeline.stream.kafka import Kafka

pytestmark = pytest.mark.kafka


async def ids(events: Kept, partner: str) -> Counter[str]:
    rows, _ = run("SELECT id FROM events", {"events": await events.dataset("events", partner)}, Limits(rows=1_000_000))
    return Counter(rows["id"].to_pylist())


async def test_each_event_is_there_once_while_files_come_and_are_joined(
    kafka: Kafka, prefix: str, tmp_path: Path
) -> None:
    world = World(kafka, prefix, tmp_path / "lake")
    await world.open()
    rng = random.Random(6)
    events = Kept(kafka, world.store, world.names)
    await world.send(100, rng)
    await events.start()
    lanes = [world.lane(number, rows=30, small=3) for number in range(2)]
    seen = 0

    async def all_there() -> bool:
        """What is there is there once; and more than before."""
        nonlocal seen
        counts = await ids(events, "p0") + await ids(events, "p1")
        assert set(counts.values()) <= {1}, "an event is there twice"
        if len(counts) < seen:
            raise RuntimeError(f"{seen} events were there, and now {len(counts)}")
        seen = len(counts)
        return seen == world.sent

    try:
        await eventually(all_there)
        for lane in lanes:
            lane.start()
        for _ in range(12):
            await world.send(50, rng)
            await all_there()
        await eventually(all_there)
        await eventually(world.complete)
        # Another process that begins now reads files, and what is in none.
        async with following(world) as other:
            assert await ids(other, "p0") + await ids(other, "p1") == await ids(events, "p0") + await ids(events, "p1")
            assert not set(await ids(other, "p0")) & set(await ids(other, "p1"))
            assert not await ids(other, "p")
    finally:
        for lane in lanes:
            await lane.stop()
        await events.stop()


async def test_what_cannot_be_told_whole_is_not_told(kafka: Kafka, prefix: str, tmp_path: Path) -> None:
    world = World(kafka, prefix, tmp_path / "lake", lanes=1)
    await world.open()
    await world.send(500, random.Random(7))
    lane = world.lane(0)
    async with following(world, most_bytes=20_000) as events:
        try:
            with pytest.raises(Behind, match="headrace lake"):
                await events.dataset("events", "p0")
            lane.start()

            async def told() -> bool:
                try:
                    return len(await ids(events, "p0") + await ids(events, "p1")) == 500
                except Behind:
                    return False

            await eventually(told)
        finally:
            await lane.stop()


async def test_filters_open_only_the_files_of_those_days(kafka: Kafka, prefix: str, tmp_path: Path) -> None:
    world = World(kafka, prefix, tmp_path / "lake", lanes=1)
    await world.open()
    await world.send(300, random.Random(8))
    lane = world.lane(0)
    lane.start()
    await eventually(world.complete)
    await lane.stop()
    async with following(world) as events:
        files = sorted((await world.manifest()).files("p0"), key=lambda file: file.day)
        for file in files:
            if file.day != files[0].day:
                (world.folder / file.path).unlink()
        query = f"SELECT count(*) AS n FROM events WHERE time < TIMESTAMPTZ '{files[0].day} 00:00+00' + INTERVAL 1 DAY"
        rows, _ = run(query, {"events": await events.dataset("events", "p0")}, Limits())
        assert rows.to_pylist() == [{"n": sum(file.rows for file in files if file.day == files[0].day)}]
