"""Fault 3: a worker that is paused for longer than its session, and comes back when its lanes are another's."""

from __future__ import annotations

import pytest
from chaos_world import World, seed
from eventually import eventually

from pipeline.stream.failpoints import LANE_POINTS

ALL = {0, 1}


@pytest.mark.parametrize("point", [*LANE_POINTS, None])
async def test_a_worker_that_comes_back_after_its_session_writes_nothing(world: World, point: str | None) -> None:
    """Exactly once. At least once nothing fences: what the client had been given when the process stopped, it sends."""
    rng = seed()
    await world.fill(1000, rng)
    nth = rng.randrange(2, 5)
    if point == "mid-restore":  # there must be something to restore, in more than one step
        nth = 2
        world.start("zombie", max_records=100)
        await world.done()
        await world.stop_all()
        world.lose_disk("zombie")
    zombie = world.start("zombie", f"{point}:{nth}:stop" if point else None, max_records=100, restore_records=100)
    async with world.load(1000, rng):
        if point is None:
            await world.progressed(rng.randrange(500, 1500))
            zombie.freeze()
        await eventually(lambda: zombie.frozen, 60, what="the worker frozen")
        successor = world.start("successor")
        await eventually(lambda: successor.owned() == ALL, 60, what="its lanes taken over")
    await world.done()
    before = await world.ends("out", "log")
    zombie.thaw()
    await world.settled(zombie, successor)
    assert await world.ends("out", "log") == before
    await world.fill(400, rng)
    await world.check()


async def test_a_worker_that_is_paused_for_less_than_its_session_goes_on_where_it_was(world: World) -> None:
    rng = seed()
    await world.fill(1000, rng)
    worker = world.start("a", "after-send:3:stop", max_records=100, session=30.0)
    await eventually(lambda: worker.frozen, 60, what="the worker frozen")
    worker.thaw()
    await world.done()
    assert "fenced" not in worker.log()
    assert "starting again" not in worker.log()
    await world.check()
