"""Fail-over to a standby: another worker goes on with a copy that it has kept, and restores next to nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from eventually import eventually
from lane_world import LaneWorld, lane_world
from records import read_all

from pipeline.stream.kafka import Kafka
from pipeline.stream.lanes import LaneApp

LANES = 4
KEYS = 2000
SESSION = 6.0
WORKER = Path(__file__).with_name("counting_worker.py")


@pytest.fixture
async def world(kafka: Kafka, prefix: str, tmp_path: Path) -> AsyncIterator[LaneWorld]:
    """A role of four lanes."""
    async with lane_world(kafka, prefix, tmp_path, LANES) as found:
        yield found


async def followed(app: LaneApp, lanes: set[int]) -> None:
    """``app`` has copies of these lanes, up to the ends of their changelogs."""

    def level() -> bool:
        behind = {number: standby.behind for number, standby in app.standbys.items()}
        assert behind == dict.fromkeys(lanes, 0), f"standbys behind: {behind}"
        return True

    await eventually(level, 30, what="standbys of the other worker's lanes")


@pytest.mark.kafka
async def test_a_standby_takes_over_within_the_session_and_three_seconds_and_restores_only_a_tail(
    world: LaneWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pipeline.stream.restore")
    settings = json.dumps({"standbys": 1, "session": SESSION})
    arguments = [world.kafka.bootstrap_servers, world.name, str(LANES), str(tmp_path / "killed"), settings]
    keys = [b"k%d" % n for n in range(KEYS)]
    killed = subprocess.Popen([sys.executable, str(WORKER), *arguments])
    try:
        app = await world.run(standbys=1, session=SESSION)
        await eventually(lambda: len(app.running) == LANES // 2 and not app.unready(), 60, what="half of the lanes")
        await world.produce(*((key, b"1") for key in keys))
        await world.told(KEYS)
        lost = set(range(LANES)) - app.running.keys()
        await followed(app, lost)
        caplog.clear()
    finally:
        killed.kill()
        killed.wait()
    await world.produce(*((key, b"2") for key in keys))
    await world.told(2 * KEYS)

    # By the broker's clock, from the first record that the killed worker did not see.
    inputs = await read_all(world.kafka, f"{world.name}.in0")
    written = min(record.timestamp for record in inputs if record.value == b"2")
    outputs = await world.outputs()
    first = {lane: min(r.timestamp for r in outputs if r.partition == lane and r.value == b"2") for lane in lost}
    assert max(first.values()) - written <= (SESSION + 3) * 1000
    told = {key: [int(record.value) for record in outputs if record.key == key] for key in keys[:50]}
    assert told == {key: [1, 2] for key in keys[:50]}
    assert len(outputs) == 2 * KEYS
    assert {r.key: int(r.value) for r in await read_all(world.kafka, f"{world.name}.log")} == dict.fromkeys(keys, 2)
    lines = [record.getMessage() for record in caplog.records]
    restored = [int(found[1]) for line in lines if (found := re.search(r"restored (\d+) records", line))]
    assert sum(restored) < KEYS / 20, lines
    await eventually(lambda: app.running.keys() == set(range(LANES)) and not app.unready(), 10, what="all lanes open")
    # The store that the lanes go on with is the standby's, with all that was in it.
    for number in lost:
        lane = app.running[number]
        assert lane._store is not None
        assert dict(await asyncio.to_thread(list, lane._store.scan("counts"))) == {
            record.key: b"2" for record in outputs if record.partition == number
        }
