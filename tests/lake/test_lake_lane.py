"""The lake on a real Kafka: each event of history in it once, whatever dies when; files joined, removed, deleted."""

from __future__ import annotations

import random
from pathlib import Path

import boto3
import pyarrow as pa
import pytest
from eventually import eventually
from lake_world import BEGIN, DAY, EVENTS, World, following, hearing, kill
from moto.server import ThreadedMotoServer
from pyarrow import fs

from pipeline.lake.store import LakeStore, open_store
from pipeline.query.sql import Limits, run
from pipeline.settings import Settings
from pipeline.stream.failpoints import LAKE_POINTS
from pipeline.stream.kafka import Kafka

pytestmark = pytest.mark.kafka


@pytest.fixture
async def world(kafka: Kafka, prefix: str, tmp_path: Path) -> World:
    made = World(kafka, prefix, tmp_path / "lake")
    await made.open()
    return made


async def test_history_becomes_files_by_partner_and_day_and_goes_on_where_it_was(world: World) -> None:
    rng = random.Random(1)
    await world.send(450, rng)
    lanes = [world.lane(number) for number in range(2)]
    for lane in lanes:
        lane.start()
    await eventually(world.complete)
    await lanes[1].stop()
    await world.send(300, rng)
    again = world.lane(1)
    again.start()
    await eventually(world.complete)
    await world.send(3, rng)  # few: they wait for no company
    await eventually(world.complete)
    for lane in (lanes[0], again):
        await lane.stop()
    manifest = await world.manifest()
    files = list(manifest.files())
    assert {file.partner for file in files} == {"p0", "p1"}
    assert len({file.day for file in files}) == 3
    for file in files:
        assert file.path.startswith(f"events/{file.partner}/{file.day}/{file.lane}-")
        days = {row["time"].date().isoformat() for row in world.store.read([file.path], EVENTS.schema).to_pylist()}
        assert days == {file.day}
    assert world.on_disk() == {file.path for file in files}


async def test_small_files_of_a_day_become_one_and_the_old_ones_go_a_while_later(world: World) -> None:
    rng = random.Random(2)
    lane = world.lane(0, rows=20, small=4, grace=0.0)
    world.lanes = 1
    lane.start()
    for _ in range(6):
        await world.send(100, rng)
        await eventually(world.complete)
    await eventually(lambda: _few(world))
    await world.send(40, rng)
    await eventually(world.complete)
    await eventually(lambda: _tidy(world))
    await lane.stop()


async def _few(world: World) -> bool:
    return len(list((await world.manifest()).files())) <= 2 * 3 * 4


async def _tidy(world: World) -> bool:
    assert await world.complete()
    manifest = await world.manifest()
    assert len(world.on_disk()) < 40
    return {file.path for file in manifest.files()} <= world.on_disk()


@pytest.mark.faults
@pytest.mark.parametrize("failpoint", LAKE_POINTS)
async def test_a_process_that_dies_at_any_step_loses_nothing_and_doubles_nothing(world: World, failpoint: str) -> None:
    rng = random.Random(3)
    dying = world.worker(f"{failpoint}:2", group=False, rows=40, small=3, erase=0.0)
    while dying.poll() is None:
        await world.send(50, rng)
        if failpoint == "lake-rewritten":
            await world.erase(BEGIN + DAY, f"p0|u|u{world.sent % 5}")
    await world.send(100, rng)
    following = world.worker(group=False, rows=40, small=3, erase=0.0)
    try:
        await eventually(world.complete, 60)
    finally:
        kill(following)
    assert await world.complete()
    # What was written and never committed was deleted by the next owner.
    manifest = await world.manifest()
    last = world.worker(group=False)
    try:
        known = {file.path for lane in range(2) for file in manifest.all_of(lane)}
        await eventually(lambda: world.on_disk() <= known, 60)
        await world.send(20, rng)
        await eventually(world.complete, 60)
    finally:
        last.terminate()
        assert last.wait(30) == 0


async def test_who_is_erased_is_in_no_file_and_is_seen_no_more_before_that(world: World) -> None:
    """Files are written anew without it; what comes late is left out; others, and what it does later, stay."""
    rng = random.Random(8)
    await world.send(400, rng)
    async with hearing(world) as erasures, following(world) as kept:
        lanes = [world.lane(number, erasures, erase=0.0, grace=0.0) for number in range(2)]
        for lane in lanes:
            lane.start()
        await eventually(world.complete)
        until = BEGIN + DAY + 200
        for lane in lanes:
            await lane.stop()
        await world.erase(until, "p0|u|u1", "p0|a|x")
        await world.erase(until + DAY, "p0|u|u3")
        await eventually(lambda: kept.erasures.next >= 2)

        async def seen() -> int:
            tables = {"events": await kept.dataset("events", "p0")}
            rows, _ = run("SELECT count(*) FROM events WHERE customer IN ('p0|u|u1', 'p0|u|u3')", tables, Limits())
            return int(rows.column(0)[0].as_py())

        async def filed() -> int:
            return sum(row["customer"] in ("p0|u|u1", "p0|u|u3") for row in await world.rows("p0"))

        # While the lake does nothing, its files still have them all; nobody sees them.
        assert 0 < await seen() < await filed()
        old = world.on_disk()
        lanes = [world.lane(number, erasures, erase=0.0, grace=0.0) for number in range(2)]
        for lane in lanes:
            lane.start()
        await eventually(world.complete)
        # What is late is left out when it is written.
        await world.send(300, rng)
        await eventually(world.complete)
        assert await seen() == await filed()
        assert all(place.erased == 2 for place in (await world.manifest()).positions.values())
        await eventually(lambda: _only_known(world))
        assert old - world.on_disk()
        for lane in lanes:
            await lane.stop()


async def _only_known(world: World) -> bool:
    return world.on_disk() == {file.path for file in (await world.manifest()).files()}


@pytest.mark.faults
async def test_kills_at_random_and_two_processes(world: World) -> None:
    rng = random.Random(4)
    workers = [world.worker(small=3), world.worker(small=3)]
    try:
        for _ in range(4):
            await world.send(300, rng)
            before = len(await world.rows())
            await eventually(lambda before=before: _more(world, before + rng.randrange(1, 200)), 60)  # type: ignore[misc]
            kill(workers.pop(rng.randrange(2)))
            workers.append(world.worker(small=3))
        await eventually(world.complete, 60)
    finally:
        for worker in workers:
            kill(worker)


async def _more(world: World, wanted: int) -> bool:
    return len(await world.rows()) >= min(wanted, world.sent)


async def test_a_newer_owner_fences_the_older_one(world: World) -> None:
    rng = random.Random(5)
    world.lanes = 1
    older, newer = world.lane(0), world.lane(0)
    await world.send(200, rng)
    older.start()
    await eventually(lambda: _more(world, 100))
    newer.start()
    await world.send(500, rng)
    await eventually(world.complete)
    await older.stop()
    await newer.stop()
    assert await world.complete()


async def test_an_object_store_holds_the_lake(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="lakes")
        address = f"s3://lakes/ours?scheme=http&endpoint_override={host}:{port}&region=us-east-1"
        world.store = open_store(Settings(lake=address))
        world.lanes = 1
        lane = world.lane(0, rows=20, small=3, grace=0.0)
        lane.start()
        for _ in range(4):
            await world.send(30, random.Random(9))
            await eventually(world.complete)
        await lane.stop()
        async with following(world) as events:
            rows, _ = run(
                "SELECT count(*) AS n FROM events", {"events": await events.dataset("events", "p0")}, Limits()
            )
            assert rows.to_pylist() == [{"n": sum(file.rows for file in (await world.manifest()).files("p0"))}]
    finally:
        server.stop()


def test_a_column_that_came_later_is_null_in_older_files(tmp_path: Path) -> None:
    store = LakeStore(fs.LocalFileSystem(), str(tmp_path))
    old = pa.schema([field for field in EVENTS.schema if field.name not in ("facts", "ua")])
    store.write(
        "p/2026-01-01/0-1-x.parquet", pa.table({name: pa.nulls(2, old.field(name).type) for name in old.names}, old)
    )
    store.write("p/2026-01-01/0-2-y.parquet", EVENTS.schema.empty_table())
    found = store.read(["p/2026-01-01/0-1-x.parquet", "p/2026-01-01/0-2-y.parquet"], EVENTS.schema)
    assert (found.num_rows, found["facts"].null_count) == (2, 2)
