"""Fault 2: workers that are started, stopped and killed at any moment, under load."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from chaos_world import Worker, World, seed
from eventually import eventually

NAMES = ["a", "b", "c"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("guarantee", "kills"), [("exactly_once", 30), ("at_least_once", 10)])
async def test_random_kills_of_two_or_three_workers_under_load_lose_and_repeat_nothing(
    world: World, guarantee: str, kills: int
) -> None:
    world.options = replace(world.options, guarantee=guarantee)
    rng = seed()
    running = {name: world.start(name) for name in NAMES[:2]}
    async with world.load(600, rng):
        await world.progressed(1)
        done = 0
        while done < kills:
            await _a_while(world, rng)
            name = rng.choice(NAMES)
            worker = running.pop(name, None)
            if worker is None:
                running[name] = _start(world, rng, name)
            elif rng.random() < 0.2:
                assert await worker.stop() == 0
            else:
                worker.kill()
                done += 1
                if rng.random() < 0.3:
                    world.lose_disk(name)
                if rng.random() < 0.7:
                    running[name] = _start(world, rng, name)
    world.start("d")
    await world.check()


def _start(world: World, rng: random.Random, name: str) -> Worker:
    """Sometimes with a restore that takes long enough to be killed, or rebalanced, in."""
    return world.start(name, restore_delay=rng.choice([0, 0, 0.1]), restore_records=rng.choice([50, 20_000]))


async def _a_while(world: World, rng: random.Random) -> None:
    """Until a random progress is made, or for a random time: where a dead owner is not missed yet, there is none."""
    target = world.progress() + rng.randrange(1, 1500)
    try:
        await eventually(lambda: world.progress() >= target, rng.uniform(0.2, 5))
    except AssertionError:
        return
