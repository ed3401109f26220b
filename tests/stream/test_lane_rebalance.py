"""Lanes over a rebalance: nothing is dropped, nothing is restored that was at hand."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from eventually import eventually
from lane_world import LaneWorld, lane_world

from pipeline.stream.kafka import Kafka
from pipeline.stream.lane import Lane


@pytest.fixture
async def world(kafka: Kafka, prefix: str, tmp_path: Path) -> AsyncIterator[LaneWorld]:
    """A role of two lanes."""
    async with lane_world(kafka, prefix, tmp_path) as found:
        yield found


@pytest.mark.kafka
async def test_a_batch_that_is_handed_over_while_faust_rebalances_is_applied(world: LaneWorld) -> None:
    app = await world.run()
    await world.opened(app)
    # As Faust does when a rebalance begins, some time before it tells anybody: it then skips what streams are given,
    # and a lane that waits for its batch to be applied would wait for ever.
    app.app.flow_control.suspend()
    await world.produce((b"a", b"1"))
    await world.told(1, timeout=10)
    app.app.flow_control.resume()


@pytest.mark.kafka
async def test_the_lane_that_stays_is_neither_restored_nor_fenced_when_a_worker_joins_and_leaves(
    world: LaneWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pipeline.stream")
    first = await world.run("first")
    await world.opened(first)
    keys = [b"k%d" % n for n in range(100)]
    await world.produce(*((key, b"1") for key in keys))
    await world.told(len(keys))
    before = {number: _alive(lane) for number, lane in first.running.items()}
    caplog.clear()

    second = await world.run("second")
    await eventually(lambda: len(first.running) == 1, 60, what="a lane less")
    await world.opened(first, second)
    (stays,) = first.running
    await world.produce(*((key, b"2") for key in keys))
    await world.told(2 * len(keys))
    assert _alive(first.running[stays]) == before[stays]
    await second.stop()
    await world.opened(first)
    await world.produce(*((key, b"3") for key in keys))
    await world.told(3 * len(keys))
    assert _alive(first.running[stays]) == before[stays]

    told = [record.getMessage() for record in caplog.records]
    # The lane that moved was restored where it came to; so the log would have told of the other, too.
    assert any(f"lane {world.name} {1 - stays}: restored" in line for line in told)
    assert not [line for line in told if line.startswith(f"lane {world.name} {stays}:")]
    counts: dict[bytes, list[int]] = {}
    for record in await world.outputs():
        counts.setdefault(record.key, []).append(int(record.value))
    assert counts == {key: [1, 2, 3] for key in keys}


def _alive(lane: Lane) -> tuple[object, ...]:
    """What a lane would have made anew, had it begun at step 1."""
    producer = lane._producer
    assert producer is not None
    transactions = producer._txn_manager
    return lane, lane._store, lane._inputs, producer, transactions.producer_id, transactions.producer_epoch
