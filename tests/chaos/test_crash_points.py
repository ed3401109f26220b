"""Fault 1: kill -9 at every step of a lane's protocol."""

from __future__ import annotations

import signal

import pytest
from chaos_world import World, seed

from pipeline.stream.failpoints import LANE_POINTS

STEPS = [point for point in LANE_POINTS if point != "mid-restore"]


@pytest.mark.parametrize("point", STEPS)
async def test_a_worker_killed_at_a_step_of_a_transaction_leaves_nothing_wrong_behind(
    either: World, point: str
) -> None:
    world, rng = either, seed()
    await world.fill(600, rng)
    # The first transaction of a fresh role, which no committed offset precedes; then one in full run.
    for nth in (1, rng.randrange(3, 6)):
        doomed = world.start("a", f"{point}:{nth}", instance="a", max_records=100)
        await world.fill(1000, rng)
        assert await doomed.ended() == -signal.SIGKILL
        await world.check_left_behind()
    world.start("a", instance="a")
    await world.check()


async def test_a_restore_that_was_killed_goes_on_where_it_was(either: World) -> None:
    world, rng = either, seed()
    world.start("a", instance="a", max_records=50)
    await world.fill(2000, rng, keys=400)
    await world.done()
    await world.stop_all()
    world.lose_disk("a")
    doomed = world.start("a", "mid-restore:6", instance="a", restore_records=100)
    assert await doomed.ended() == -signal.SIGKILL
    await world.check_left_behind()
    survivor = world.start("a", instance="a")
    await world.fill(200, rng)
    await world.check()
    assert "rebuilding it whole" not in survivor.log()
