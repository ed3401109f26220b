"""Fault 9: SIGTERM under load."""

from __future__ import annotations

import time

from chaos_oracle import check_outputs
from chaos_world import World, seed
from eventually import eventually

LONG = 20.0  # a session that nobody waits for: lanes must be handed over, not missed


async def test_sigterm_under_load_drains_and_hands_over_and_nothing_is_done_twice(either: World) -> None:
    world, rng = either, seed()
    first = world.start("first", session=LONG)
    async with world.load(3000, rng):
        await world.progressed(2000)
        second = world.start("second", session=LONG)
        await world.settled(first, second)
        await world.progressed(1000)
        began = time.monotonic()
        assert await first.stop() == 0
        assert time.monotonic() - began < first.options.budget
        await eventually(lambda: second.owned() == {0, 1}, 10, what="the lanes handed over")
        await world.progressed(1000)
    await world.check()
    # At least once as well: who ends in order leaves nothing that must be done again.
    check_outputs(world.outputs, await world.input(), exactly_once=True)


async def test_after_sigterm_what_is_committed_is_what_was_told(either: World) -> None:
    world, rng = either, seed()
    worker = world.start("a")
    async with world.load(3000, rng):
        await world.progressed(3000)
        assert await worker.stop() == 0
    # No transaction is left open that would hold up readers until it times out.
    assert await world.stable()
    told: dict[tuple[str, int], int] = {}
    for output in await world.all_outputs():
        told[output.place.topic, output.place.partition] = output.place.offset + 1
    assert await world.committed() == told
    world.start("a")
    await world.check()


async def test_a_batch_that_outlasts_the_budget_is_left_to_the_next_owner(world: World) -> None:
    rng = seed()
    await world.fill(600, rng)
    slow = world.start("a", delay=5.0, budget=1.0, max_records=100)
    await eventually(lambda: slow.owned(), 60, what="lanes owned")
    await world.progressed(1)
    assert await slow.stop(10) == 0
    assert "did not end within 1 s" in slow.log()
    world.start("a")
    await world.check()
