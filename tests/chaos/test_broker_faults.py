"""Fault 4: brokers that stop, die and run out of disk; workers that run out of disk."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from chaos_broker import ChaosBroker
from chaos_world import World, seed
from eventually import eventually
from records import read_all
from tiny_disk import tiny_disk

from pipeline.stream.kafka import Kafka
from pipeline.stream.producer import ProduceError

MB = 1 << 20


@asynccontextmanager
async def world_on(broker: ChaosBroker, name: str, root: Path) -> AsyncIterator[World]:
    """A role on a broker of the test's own, which is stopped in the end."""
    await broker.start_async()
    world = World(Kafka(broker.bootstrap_servers), name, root)
    try:
        await world.open()
        yield world
    finally:
        await world.close()
        await broker.stop_async()


async def kill(broker: ChaosBroker) -> None:
    """kill -9 of the JVM."""
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGKILL)
    await eventually(lambda: broker.failure() is not None, 30, what="the broker's end")
    await broker.stop_async()


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
async def test_a_broker_that_stops_and_one_that_is_killed_under_load(
    prefix: str, tmp_path: Path, guarantee: str
) -> None:
    rng = seed()
    broker = ChaosBroker(tmp_path / "kafka")
    async with world_on(broker, prefix, tmp_path) as world:
        world.options = replace(world.options, guarantee=guarantee)
        worker = world.start("a")
        async with world.load(600, rng):
            await world.progressed(500)
            await broker.stop_async()
            await broker.start_async()
            await world.progressed(500, timeout=60)
            for _ in range(2):
                await kill(broker)
                await broker.start_async()
                await world.progressed(rng.randrange(1, 1000), timeout=60)
        assert worker.alive
        await world.check()


async def test_a_broker_whose_disk_is_full_goes_on_when_there_is_room(prefix: str, tmp_path: Path) -> None:
    """The disk is full for one write alone. Where several fail at once, Kafka itself may write half a batch, another at
    the same offset, and throw away what it had acknowledged when it starts again (LogLoader: "Found invalid offset
    during recovery"); no one above it can mend that."""
    rng = seed()
    with tiny_disk(tmp_path / "disk", 600 * MB) as disk:
        broker = ChaosBroker(disk.path / "kafka")
        async with world_on(broker, prefix, tmp_path) as world:
            worker = world.start("a")
            async with world.load(600, rng):
                await world.progressed(500)
            await world.done()
            await eventually(world.stable, 10, what="the last transaction's end")
            disk.fill()
            with pytest.raises(ProduceError):
                await world.produce_one(rng.randbytes(MB // 2))
            await eventually(lambda: broker.failure() is not None, 60, what="the broker's end")
            assert "disk" in str(broker.failure())
            await broker.stop_async()
            disk.grow(1200 * MB)
            await broker.start_async()
            async with world.load(600, rng):
                await world.progressed(500, timeout=60)
            assert worker.alive
            await world.check()


async def test_a_worker_whose_disk_is_full_parks_nothing_and_goes_on_when_there_is_room(
    either: World, tmp_path: Path
) -> None:
    world, rng = either, seed()
    with tiny_disk(tmp_path / "worker-a", 64 * MB) as disk:
        worker = world.start("a")
        async with world.load(600, rng):
            await world.progressed(500)
            disk.fill()
            await eventually(lambda: "No space left" in worker.log(), 60, what="the disk full")
            disk.grow(64 * MB)
            if not worker.alive:
                world.start("a")
            await world.progressed(500, timeout=60)
        await world.check()
    assert await read_all(world.kafka, f"dead.{world.name}") == []
