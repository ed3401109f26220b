"""Fault 8: the same id again, while workers are killed, lose their disks and hand over their lanes."""

from __future__ import annotations

from collections import Counter

from chaos_worker import SEEN
from chaos_world import World, seed
from records import read_all

IDS, KEYS, ROUNDS = 400, 10, 6


async def test_an_id_counts_once_through_kills_lost_disks_and_rebalances(either: World) -> None:
    """An id comes one to four times: in one batch, in others, in both topics."""
    world, rng = either, seed()
    copies = [(b"k%d" % (n % KEYS), b"id%d" % n) for n in range(IDS) for _ in range(rng.randrange(1, 5))]
    rng.shuffle(copies)
    running = {name: world.start(name, unique=True, max_records=40) for name in "ab"}
    for n in range(ROUNDS):
        part = copies[n::ROUNDS]
        for topic in ("in0", "in1"):
            await world.produce([record for record in part if rng.random() < 0.7], topic)
        name = rng.choice("ab")
        if n % 3 == 2:
            assert await running[name].stop() == 0
        else:
            running[name].kill()
            if rng.random() < 0.5:
                world.lose_disk(name)
        running[name] = world.start(name, unique=True, max_records=40)
    await world.produce(copies)  # all of them once more
    await world.read_to_the_end()
    await world.stop_all()
    ids = {(r.topic, r.partition, r.offset): (r.key, r.value) for r in await world.input()}
    told = Counter(ids[output.place] for output in await world.all_outputs())
    assert told.keys() == set(copies)
    if world.options.guarantee == "exactly_once":
        assert set(told.values()) == {1}
    last = {
        r.key: int(r.value.split()[0]) for r in await read_all(world.kafka, f"{world.name}.log") if SEEN not in r.key
    }
    assert last == Counter(key for key, _ in set(copies))
