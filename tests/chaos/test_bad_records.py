"""Fault 6: records that our code, a batch or the broker will not take."""

from __future__ import annotations

import signal
from dataclasses import replace

from chaos_oracle import bad_places
from chaos_worker import HUGE, POISON, WIDE
from chaos_world import World, seed
from eventually import eventually

NARROW = {"max.message.bytes": "50000"}


async def check_all(world: World) -> None:
    """All bad records are parked, and all others applied."""
    await world.done()
    await eventually(world.check_letters, 60, what="a letter for each bad record")
    await world.check()
    await world.check_letters()


async def fill_with_bad_ones(world: World) -> None:
    """Good records with bad ones and nulls in between, at the ends and next to each other."""
    for n, topic in enumerate(("in0", "in1")):
        some = [(b"k%d" % (m % 7), b"x") for m in range(150)]
        records: list[tuple[bytes | None, bytes | None]] = [(b"k1", POISON), *some]
        records[40:40] = [(b"k2", WIDE), (b"k2", WIDE), (b"k3", HUGE)]
        records[90:90] = [(None, b"no key"), (b"k4", None), (None, None), (None, b"no key"), (b"k5", POISON)]
        records += [(b"k6", HUGE), (b"k0", WIDE)][:: 1 if n else -1]
        await world.produce(records, topic)


async def test_bad_records_are_parked_and_all_others_applied(either: World) -> None:
    world = either
    await world.configure(f"{world.name}.narrow", NARROW)
    await fill_with_bad_ones(world)
    world.start("a")
    await check_all(world)
    await world.read_to_the_end()


async def test_bad_records_are_parked_once_through_kill_9(world: World) -> None:
    rng = seed()
    await world.configure(f"{world.name}.narrow", NARROW)
    await fill_with_bad_ones(world)
    for point in ("mid-batch", "after-send", "after-offsets", "after-commit"):
        worker = world.start("a", f"{point}:{rng.randrange(1, 12)}", instance="a")
        assert await worker.ended() == -signal.SIGKILL
    world.start("a", instance="a")
    await check_all(world)


async def test_a_letter_that_the_broker_refuses_stops_the_worker_and_loses_nothing(world: World) -> None:
    await world.configure(f"dead.{world.name}", {"max.message.bytes": "200"})
    await world.produce([(b"a", b"x")] * 20 + [(b"a", POISON)] + [(b"a", b"x")] * 20)
    worker = world.start("a")
    assert await worker.ended() == 1
    assert "refuses the dead letter" in worker.log()
    (place,) = bad_places(await world.input())
    assert (await world.committed()).get((place.topic, place.partition), 0) <= place.offset
    await world.configure(f"dead.{world.name}", {})
    world.start("a")
    await check_all(world)


async def test_records_as_large_as_a_batch_pass(world: World) -> None:
    world.options = replace(world.options, max_records=50)
    await world.produce([(b"k%d" % n, bytes(990_000) if n % 5 == 0 else b"x") for n in range(60)])
    world.start("a")
    await world.check()
