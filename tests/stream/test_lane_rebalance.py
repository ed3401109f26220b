"""Lanes over a rebalance: nothing is dropped, nothing is restored that was at hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lane_world import LaneWorld, lane_world

from pipeline.stream.kafka import Kafka


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
