"""Restoring a store: what is missing is read, what does not fit is rebuilt, what another holds is left alone."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from eventually import eventually
from records import make_topic

from pipeline.stream.kafka import Kafka
from pipeline.stream.restore import restore
from pipeline.stream.store import MAX_AGE_SECONDS, Store, StoreError, Table

LANE = 1
HOLD = """
import sys, time
from pathlib import Path
from pipeline.stream.store import Store, Table
store = Store(Path(sys.argv[1]), {"counts": Table("counts", sys.argv[2])})
print("open", flush=True)
time.sleep(600)
"""


async def write(kafka: Kafka, topic: str, pairs: Iterable[tuple[bytes, bytes | None]], *, commit: bool = True) -> None:
    """In one transaction, as lanes do."""
    producer = kafka.producer(transactional_id=f"{topic}-writer")
    await producer.start()
    try:
        await producer.begin_transaction()
        for key, value in pairs:
            await producer.send_and_wait(topic, value, key=key, partition=LANE)
        await (producer.commit_transaction() if commit else producer.abort_transaction())
    finally:
        await producer.stop()


@pytest.fixture
async def topic(kafka: Kafka, prefix: str) -> str:
    """A changelog with a=1, b=2, c deleted, and an aborted transaction behind them."""
    name = f"{prefix}.log"
    await make_topic(kafka, name, 2)
    await write(kafka, name, [(b"a", b"0"), (b"b", b"2"), (b"c", b"3")])
    await write(kafka, name, [(b"a", b"1"), (b"c", None)])
    await write(kafka, name, [(b"a", b"9"), (b"z", b"9")], commit=False)
    return name


def contents(store: Store) -> dict[bytes, bytes]:
    return dict(store.scan("counts"))


async def restored(kafka: Kafka, path: Path, topic: str) -> tuple[Store, int]:
    """The store, open, and how many records were read for it."""
    store = await Store.open(path, {"counts": Table("counts", topic)})
    return store, await restore(kafka, store, LANE, role="test")


@pytest.mark.kafka
async def test_whole_then_only_what_is_new_then_nothing(kafka: Kafka, topic: str, tmp_path: Path) -> None:
    store, read = await restored(kafka, tmp_path / "1", topic)
    assert (contents(store), read) == ({b"a": b"1", b"b": b"2"}, 5)
    store.close()
    await write(kafka, topic, [(b"d", b"4")])
    store, read = await restored(kafka, tmp_path / "1", topic)
    assert (contents(store), read) == ({b"a": b"1", b"b": b"2", b"d": b"4"}, 1)
    store.close()
    store, read = await restored(kafka, tmp_path / "1", topic)
    assert (contents(store), read) == ({b"a": b"1", b"b": b"2", b"d": b"4"}, 0)
    assert store.get("counts", b"d") == b"4"
    store.close()


@pytest.mark.kafka
async def test_an_empty_changelog_is_restored_at_once(kafka: Kafka, prefix: str, tmp_path: Path) -> None:
    await make_topic(kafka, f"{prefix}.log", 2)
    store, read = await restored(kafka, tmp_path / "1", f"{prefix}.log")
    assert (contents(store), read) == ({}, 0)
    store.close()


@pytest.mark.kafka
async def test_what_was_read_a_moment_ago_is_not_remembered_over_a_restore(
    kafka: Kafka, topic: str, tmp_path: Path
) -> None:
    store, _ = await restored(kafka, tmp_path / "1", topic)
    assert store.get("counts", b"a") == b"1"
    await write(kafka, topic, [(b"a", b"5"), (b"b", None)])
    await restore(kafka, store, LANE, role="test")
    assert store.get("counts", b"a") == b"5"
    assert store.get("counts", b"b") is None
    store.close()


@pytest.mark.kafka
@pytest.mark.parametrize("fault", ["ahead", "too old", "other changelog"])
async def test_a_store_that_does_not_fit_its_changelog_is_rebuilt(
    kafka: Kafka, topic: str, tmp_path: Path, fault: str
) -> None:
    store, _ = await restored(kafka, tmp_path / "1", topic)
    stale = {b"stale": b"1"}
    if fault == "ahead":
        store.write({"counts": stale}, {topic: 1_000_000})
    elif fault == "too old":
        # Two behind, since one is what a commit marker takes; and written before deletions may have been compacted.
        moment = time.time
        time.time = lambda: moment() - MAX_AGE_SECONDS - 60
        try:
            store.write({"counts": stale}, {topic: store.offsets[topic] - 3})
        finally:
            time.time = moment
    else:
        store.write({"counts": stale}, {topic: 0})
        admin = kafka.admin()
        await admin.start()
        await admin.delete_records({TopicPartition(topic, LANE): RecordsToDelete(before_offset=3)})
        await admin.close()
    store.close()
    store, read = await restored(kafka, tmp_path / "1", topic)
    expected = {b"a": b"1"} if fault == "other changelog" else {b"a": b"1", b"b": b"2"}
    assert contents(store) == expected
    assert read == (2 if fault == "other changelog" else 5)
    store.close()


@pytest.mark.kafka
@pytest.mark.parametrize("broken", ["CURRENT", "*.log", "MANIFEST-*", "*.sst"])
async def test_a_corrupt_store_is_rebuilt(
    kafka: Kafka, topic: str, tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, _ = await restored(kafka, tmp_path / "1", topic)
    if broken == "*.sst":
        store._db.flush()
    store.close()
    for file in (tmp_path / "1").glob(broken):
        file.write_bytes(b"garbage " * 100)
    store, _ = await restored(kafka, tmp_path / "1", topic)
    assert contents(store) == {b"a": b"1", b"b": b"2"}
    assert store.path == tmp_path / "1"
    store.close()


@pytest.mark.kafka
async def test_a_store_that_another_process_holds_is_left_alone(kafka: Kafka, topic: str, tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "1"), topic], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert await asyncio.to_thread(holder.stdout.readline) == "open\n"
        store, read = await restored(kafka, tmp_path / "1", topic)
        assert store.path == tmp_path / "1.1"
        assert (contents(store), read) == ({b"a": b"1", b"b": b"2"}, 5)
        store.close()
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.kafka
async def test_a_store_given_up_a_moment_ago_is_waited_for(kafka: Kafka, topic: str, tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "1"), topic], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert await asyncio.to_thread(holder.stdout.readline) == "open\n"
        opening = asyncio.create_task(restored(kafka, tmp_path / "1", topic))

        async def tried() -> bool:
            return not opening.done()

        await eventually(tried, 5)
    finally:
        holder.kill()
        holder.wait()
    store, _ = await opening
    assert store.path == tmp_path / "1"
    store.close()


@pytest.mark.kafka
async def test_a_long_restore_says_how_far_it_is(
    kafka: Kafka, topic: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stream.restore._PROGRESS_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "pipeline.stream.restore"):
        store, _ = await restored(kafka, tmp_path / "1", topic)
    store.close()
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("lane test 1: restoring [") and "records/s" in line for line in lines)
    assert lines[-1].startswith("lane test 1: restored 5 records in")


@pytest.mark.kafka
async def test_a_block_that_is_found_broken_while_running_is_told_apart_from_a_fault_of_the_records(
    kafka: Kafka, topic: str, tmp_path: Path
) -> None:
    store, _ = await restored(kafka, tmp_path / "1", topic)
    store._db.flush()
    store.close()
    store, _ = await restored(kafka, tmp_path / "1", topic)
    for file in (tmp_path / "1").glob("*.sst"):
        with file.open("r+b") as table:  # the first data block; the footer, by which it is opened, stays
            table.write(b"\xff" * 40)
    with pytest.raises(StoreError) as caught:
        store.get("counts", b"a")
    assert caught.value.corrupt
    await store.abandon(caught.value)
    store, _ = await restored(kafka, tmp_path / "1", topic)
    assert contents(store) == {b"a": b"1", b"b": b"2"}
    store.close()
