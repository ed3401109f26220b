"""A worker that hangs ends, and says why: its lanes are another's then."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lane_world import LaneWorld, lane_world

from pipeline.stream.kafka import Kafka
from pipeline.stream.watchdog import EXIT_CODE

WORKER = Path(__file__).with_name("counting_worker.py")
STALL = 3.0


@pytest.fixture
async def world(kafka: Kafka, prefix: str, tmp_path: Path) -> AsyncIterator[LaneWorld]:
    """A role of two lanes."""
    async with lane_world(kafka, prefix, tmp_path) as found:
        yield found


async def ended(world: LaneWorld, stores: Path, value: bytes) -> tuple[int | None, str, str]:
    """Exit code, stdout and stderr of a worker that is given a record of ``value``."""
    await world.make_topics(f"{world.name}.in1")
    await world.produce((b"a", value))
    settings = json.dumps({"stall": STALL, "budget": 0.5, "session": 6.0})
    arguments = [str(WORKER), world.kafka.bootstrap_servers, world.name, str(world.lanes), str(stores), settings]
    worker = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(60):
            out, err = await worker.communicate()
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
    return worker.returncode, out.decode(), err.decode()


@pytest.mark.kafka
async def test_a_processor_that_hangs_fails_the_role_with_the_lane_and_what_waits(
    world: LaneWorld, tmp_path: Path
) -> None:
    code, out, err = await ended(world, tmp_path, b"hang")
    assert code == 1
    assert "StalledError" in out
    assert "has not moved for" in out
    assert "1 records wait" in out
    assert f"ALERT stalled: {world.name}: lane" in err
    assert await world.outputs() == []


@pytest.mark.kafka
async def test_a_processor_that_blocks_the_loop_ends_the_process_with_its_stack(
    world: LaneWorld, tmp_path: Path
) -> None:
    code, _, err = await ended(world, tmp_path, b"block")
    assert code == EXIT_CODE == 70
    assert "the loop has not turned for 3 s" in err
    assert f'File "{WORKER}"' in err
    assert "in process" in err
    assert await world.outputs() == []
