"""Files of a folder and objects of S3 (moto's server) as a source: each once, whole, in bounded memory."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from eventually import eventually
from feeds_world import World
from moto.server import ThreadedMotoServer
from records import read_all

from pipeline.bridges.files import FilesSettings
from pipeline.bridges.rows import csv_rows

pytestmark = pytest.mark.kafka

HEADER = "userId,event,sku,price\n"


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    """The folder that is watched."""
    made = tmp_path / "drop"
    made.mkdir()
    return made


def settings(drop: Path, **more: Any) -> dict[str, Any]:
    return {"folder": str(drop), "poll": 1, "stable": 0} | more


async def test_each_file_is_taken_once_and_a_changed_one_is_another(world: World, drop: Path) -> None:
    (drop / "a.csv").write_text("\ufeff" + HEADER + 'c1,Bought,"a, b",3.5\nc2,Bought,"two\nlines",\n')
    (drop / "b.ndjson.gz").write_bytes(gzip.compress(b'{"event": "Seen", "userId": "c3"}\n\n{"event": "Seen"}\nno\n'))
    (drop / "ignored.txt~").write_text("x")
    world.put("files", settings(drop, pattern="*.*[vz]"))
    await world.engine()
    await eventually(lambda: _count(world, 4))
    found = dict(await world.raw())
    assert len(found) == 4
    rows = sorted((each for each in found.values() if each["event"] == "Bought"), key=lambda each: each["userId"])
    assert rows[0] == {
        "type": "track",
        "event": "Bought",
        "userId": "c1",
        "properties": {"sku": "a, b", "price": "3.5"},
    }
    assert rows[1]["properties"] == {"sku": "two\nlines"}
    refused = await eventually(world.refused)
    assert [each["reason"] for each in refused] == ["not_json"]
    # Once more, and in another process's place: nothing new.
    await world.end(world.engines[0])
    await world.engine()
    await eventually(world.runs)
    (drop / "a.csv").write_text(HEADER + "c9,Bought,z,1\n")
    await eventually(lambda: _count(world, 5))
    assert len(await world.ids()) == 5


async def test_a_large_file_survives_a_kill_in_the_middle_and_no_row_is_lost_or_doubled(
    world: World, drop: Path
) -> None:
    rows = 30_000
    with (drop / "large.csv").open("w") as file:
        file.write(HEADER)
        file.writelines(f"c{n % 997},Bought,s{n},{n}\n" for n in range(rows))
    world.put("files", settings(drop))
    async with world.process(HEADRACE_FAILPOINT="after-commit:3") as first:
        assert await first.wait() == -9
    before = len(await world.raw())
    assert 0 < before < rows
    await world.engine()
    await eventually(lambda: (s := world.status()) and s.taken == rows - before, 90, every=0.2)
    found = await world.raw()
    assert len(found) == rows, "rows and the place in the file are one transaction"
    assert {event["properties"]["sku"] for _, event in found} == {f"s{n}" for n in range(rows)}


def test_a_large_file_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.csv.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write(HEADER)
        for start in range(0, 300_000, 10_000):
            file.write("".join(f"c{n},Bought,s{n},{n}\n" for n in range(start, start + 10_000)))
    count = early = 0
    with gzip.open(path, "rb") as stream:
        for row in csv_rows(stream):
            count = row.number
            if count == 50_000:
                early = psutil.Process().memory_info().rss
    assert count == 300_000
    assert psutil.Process().memory_info().rss - early < 8 << 20


async def test_a_file_that_grows_is_not_taken_and_a_marker_says_that_it_is_whole(world: World, drop: Path) -> None:
    world.put("files", settings(drop, stable=1))
    world.put("files", settings(drop, marker=".done", pattern="m*"), "marked")
    await world.engine()
    await eventually(lambda: world.runs() and world.runs("marked"))
    with (drop / "m.ndjson").open("wb") as file:
        for number in range(30):
            file.write(b'{"event": "Seen", "userId": "c%d"}\n' % number)
            file.flush()
            os.fsync(file.fileno())
            if number % 10 == 0:
                assert await world.raw("marked") == []
            await _moment()
    await eventually(lambda: _count(world, 30))
    assert len(await world.raw()) == 30, "whole, or not at all"
    assert await world.raw("marked") == []
    (drop / "m.ndjson.done").touch()
    await eventually(lambda: _count(world, 30, "marked"))


async def test_a_broken_file_is_told_and_holds_up_no_other(world: World, drop: Path) -> None:
    whole = gzip.compress(b'{"event": "Seen", "userId": "c1"}\n' * 1000)
    (drop / "a.ndjson.gz").write_bytes(whole[: len(whole) // 2])
    (drop / "b.csv").write_text("a,a\n1,2\n")
    (drop / "c.csv").write_text(HEADER + "c1,Bought,x,1\n" + "c1,Bought,x,1,2\n")
    (drop / "d.csv").write_bytes(HEADER.encode() + b"c1,\xff,x,1\n")
    (drop / "e.bin").write_bytes(b"\0")
    world.put("files", settings(drop))
    await world.engine()
    await eventually(lambda: _refused(world, 5), 60)
    details = " ".join(each["detail"] for each in await world.refused())
    for name, what in {
        "a.ndjson.gz": "can't be read",
        "b.csv": "twice",
        "c.csv": "5 cells",
        "d.csv": "UTF-8",
        "e.bin": "set `format`",
    }.items():
        assert name in details
        assert what in details
    assert any(
        event["properties"] == {"sku": "x", "price": "1"} for _, event in await world.raw() if "properties" in event
    )


async def test_folders_that_are_not_allowed_are_not_read(world: World, drop: Path) -> None:
    world.put("files", settings(Path("/etc")))
    (drop / "passwd.csv").symlink_to("/etc/passwd")
    world.put("files", settings(drop), "link")
    world.put("files", settings(drop / ".." / ".." / ".."), "above")
    await world.engine()
    for source in ("feed", "above"):
        told = await eventually(lambda source=source: (s := world.status(source)) and s.state == "fault" and s)
        assert "HEADRACE_ALLOW_FOLDERS" in told.reason
    refused = await eventually(world.refused)
    assert "leads out of the folder" in refused[0]["detail"]
    assert await world.raw("link") == []


async def test_a_removed_source_leaves_no_positions_behind_and_a_file_that_is_gone_neither(
    world: World, drop: Path
) -> None:
    async def kept() -> set[bytes]:
        last = {record.key: record.value for record in await read_all(world.kafka, world.names.state)}
        return {key.rpartition(b"|")[2] for key, value in last.items() if value is not None}

    for name in ("a", "b"):
        (drop / f"{name}.csv").write_text(HEADER + f"{name},Bought,x,1\n")
    world.put("files", settings(drop))
    await world.engine()
    await eventually(lambda: _is(kept, {b"a.csv", b"b.csv"}))
    (drop / "a.csv").unlink()
    await eventually(lambda: _is(kept, {b"b.csv"}))
    world.put("files", settings(drop), removed=True)
    await eventually(lambda: _is(kept, set()))
    assert len(await world.raw()) == 2


@pytest.fixture
def s3() -> Iterator[str]:
    """moto's S3 over HTTP; its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


async def test_objects_under_a_prefix_are_taken_once(world: World, s3: str) -> None:
    client = boto3.client(
        "s3", endpoint_url=s3, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )
    client.create_bucket(Bucket="drops")
    client.put_object(Bucket="drops", Key="in/2026/a.csv", Body=(HEADER + "c1,Bought,x,1\n").encode())
    client.put_object(Bucket="drops", Key="in/b.ndjson.gz", Body=gzip.compress(b'{"event": "Seen", "userId": "c2"}\n'))
    client.put_object(Bucket="drops", Key="other/c.csv", Body=(HEADER + "c3,Bought,x,1\n").encode())
    world.secrets["key"] = "secret"
    bucket = {"bucket": "drops", "prefix": "in", "endpoint": s3, "access_key": "key"}
    made = {"s3": bucket, "recursive": True, "poll": 1, "stable": 0}
    world.put("files", made, secret="key")
    await world.engine()
    await eventually(lambda: _count(world, 2))
    client.put_object(Bucket="drops", Key="in/d.csv", Body=(HEADER + "c4,Bought,x,1\n").encode())
    client.delete_object(Bucket="drops", Key="in/b.ndjson.gz")
    await eventually(lambda: _count(world, 3))
    assert {event["userId"] for _, event in await world.raw()} == {"c1", "c2", "c4"}
    assert len(await world.raw()) == 3


def test_settings_say_one_place() -> None:
    with pytest.raises(ValueError, match="one of them"):
        FilesSettings.model_validate({"folder": "/a", "s3": {"bucket": "abc"}})
    with pytest.raises(ValueError, match="one of them"):
        FilesSettings.model_validate({})
    FilesSettings.model_validate(json.loads('{"s3": {"bucket": "abc"}}'))


async def _moment() -> None:
    import asyncio

    await asyncio.sleep(0.05)


async def _is(asked: Callable[[], Awaitable[Any]], wanted: Any) -> bool:
    return await asked() == wanted


async def _count(world: World, wanted: int, source: str = "feed") -> bool:
    return len(await world.raw(source)) >= wanted


async def _refused(world: World, wanted: int) -> bool:
    return len(await world.refused()) >= wanted
