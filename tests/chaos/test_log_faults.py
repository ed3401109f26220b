"""Fault 7: what happens to the logs themselves: compaction, truncation, retention, aborted transactions."""

from __future__ import annotations

import shutil
from collections import Counter

from chaos_oracle import Place, check_outputs, compacted, expected
from chaos_world import World, seed
from eventually import eventually
from records import read_all

COMPACT = {
    "cleanup.policy": "compact",
    "segment.ms": "500",
    "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "1000",
    "delete.retention.ms": "100",
}


async def run_dry(world: World, **options: object) -> None:
    """Let a worker do all there is, and stop it."""
    world.start("a", **options)
    await world.done()
    await world.stop_all()


async def test_a_compacted_changelog_restores_what_was_there(either: World) -> None:
    world, rng = either, seed()
    log = f"{world.name}.log"
    await world.configure(log, COMPACT)
    for _ in range(3):
        await world.fill(1000, rng, keys=60)
        await run_dry(world, max_records=50)
    written = sum((await world.ends("log"))["log"])

    async def compacted_away() -> bool:
        return len(await read_all(world.kafka, log)) < written / 2

    await eventually(compacted_away, 60, what="the changelog compacted")
    world.lose_disk("a")
    await world.fill(200, rng, keys=60)
    worker = world.start("a")
    await world.check(history=False)
    assert "restored" in worker.log()


async def test_a_store_goes_on_where_its_changelog_was_emptied(either: World) -> None:
    """A restore does not wait for records that are not there; what the store has is kept."""
    world, rng = either, seed()
    await world.fill(2000, rng)
    await run_dry(world)
    await world.delete_records("log", dict(enumerate((await world.ends("log"))["log"])))
    await world.fill(200, rng)
    worker = world.start("a")
    await world.check(history=False, whole=False)
    assert "rebuilding it whole" not in worker.log()


async def test_without_store_and_changelog_a_lane_begins_anew_and_repeats_nothing(world: World) -> None:
    """Both copies of the state are gone: it can't be had back, but the input goes on where it was."""
    rng = seed()
    await world.fill(2000, rng)
    await run_dry(world)
    before = await world.input()
    await world.delete_records("log", dict(enumerate((await world.ends("log"))["log"])))
    world.lose_disk("a")
    await world.fill(500, rng)
    await run_dry(world)
    times = Counter(output.place for output in await world.all_outputs())
    assert set(times.values()) == {1}
    old = {Place(record.topic, record.partition, record.offset) for record in before}
    later = [r for r in await world.input() if Place(r.topic, r.partition, r.offset) not in old]
    assert compacted(await read_all(world.kafka, f"{world.name}.log")) == expected(later)


async def test_a_store_behind_the_beginning_of_its_changelog_is_rebuilt(either: World) -> None:
    world = either
    folder, kept = world.root / "worker-a", world.root / "kept"
    await world.produce([(b"k%d" % n, b"x") for n in range(40)])
    await run_dry(world)
    shutil.copytree(folder, kept)
    middle = (await world.ends("log"))["log"]
    world.start("a")
    for _ in range(3):  # every key again, so that nothing is lost when the changelog's beginning is
        await world.produce([(b"k%d" % n, b"x") for n in range(40)])
        await world.done()
    await world.stop_all()
    ends = (await world.ends("log"))["log"]
    # Behind the first of the three runs: what is left holds each key once at least.
    await world.delete_records(
        "log", {lane: (2 * start + end) // 3 for lane, (start, end) in enumerate(zip(middle, ends, strict=True))}
    )
    world.lose_disk("a")
    kept.rename(folder)
    worker = world.start("a")
    await world.produce([(b"k%d" % n, b"x") for n in range(10)])
    await world.check(history=False)
    assert "rebuilding it whole" in worker.log()


async def test_a_store_ahead_of_its_changelog_is_rebuilt(either: World) -> None:
    """The changelog was made anew from its last values, as a move to another cluster does."""
    world, rng = either, seed()
    log = f"{world.name}.log"
    await world.fill(2000, rng)
    await run_dry(world, max_records=50)
    last = {(record.partition, record.key): record for record in await read_all(world.kafka, log)}
    await world.delete_topic(log)
    await world.make_topics(log)
    producer = world.kafka.producer()
    await producer.start()
    for (partition, key), record in last.items():
        await producer.send_and_wait(log, record.value, key=key, partition=partition, headers=list(record.headers))
    await producer.stop()
    worker = world.start("a")
    await world.fill(100, rng)
    await world.check(history=False)
    assert "rebuilding it whole" in worker.log()


async def test_input_that_retention_took_before_it_was_read_is_an_alert_and_the_rest_goes_on(either: World) -> None:
    world, rng = either, seed()
    await world.fill(1000, rng)
    await run_dry(world)
    done = await world.input()
    await world.fill(1000, rng)
    ends = (await world.ends("in0"))["in0"]
    committed = await world.committed()
    lost = {lane: (committed[f"{world.name}.in0", lane] + end) // 2 for lane, end in enumerate(ends)}
    await world.delete_records("in0", lost)
    worker = world.start("a")
    await world.fill(100, rng)
    await world.done()
    await world.stop_all()
    for lane, offset in lost.items():
        alert = f"{world.name}.in0[{lane}] at {committed[f'{world.name}.in0', lane]}, and it begins at {offset}"
        assert [line for line in worker.log().splitlines() if "ALERT input lost" in line and alert in line]
    there = {(r.topic, r.partition, r.offset): r for r in [*done, *await world.input()]}
    inputs = list(there.values())
    check_outputs(await world.all_outputs(), inputs, exactly_once=True)
    assert compacted(await read_all(world.kafka, f"{world.name}.log")) == expected(inputs)


async def test_aborted_transactions_in_the_source_are_passed_by(either: World) -> None:
    world, rng = either, seed()
    producer = world.kafka.producer(transactional_id=f"{world.name}-source", linger_ms=5)
    await producer.start()

    async def write(number: int, *, commit: bool) -> None:
        await producer.begin_transaction()
        for _ in range(number):
            for topic in world.inputs:
                await producer.send(topic, b"x", key=b"k%d" % rng.randrange(20))
        await (producer.commit_transaction() if commit else producer.abort_transaction())

    world.start("a", max_records=40)
    for n in range(30):
        await write(rng.randrange(1, 60), commit=n % 3 == 0)
        if n % 5 == 0:
            await world.fill(20, rng)
    await write(30, commit=False)  # the last thing in the log is an abort marker
    await producer.stop()
    await world.done()
    await world.read_to_the_end(20)  # behind the last marker, too
    await world.check()


async def test_a_role_whose_offsets_are_gone_goes_on_by_its_changelog(either: World) -> None:
    """Expired, or deleted with their group. One worker has its store still, and one only the changelog."""
    world, rng = either, seed()
    for disk_lost in (False, True):
        await world.fill(1000, rng)
        await run_dry(world, max_records=100)
        await world.forget_offsets()
        if disk_lost:
            world.lose_disk("a")
    await world.fill(200, rng)
    world.start("a")
    await world.check()
