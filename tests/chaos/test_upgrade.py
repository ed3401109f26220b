"""Fault 10: state and changelog that the version before has written.

``data/version-1.*``: the work of the first version of the engine on the input of role ``upgrade``: its stores, and
every record of its topics as ``[topic, partition, offset, key, value]``. A later version that changes what is written
adds files of its own, made in the same way, and keeps these.
"""

from __future__ import annotations

import json
import tarfile
from collections import defaultdict
from collections.abc import AsyncIterator
from itertools import groupby
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata
from chaos_oracle import check_stores, compacted, expected, input_places
from chaos_world import World, seed
from records import read_all

from pipeline.stream.kafka import Kafka

DATA = Path(__file__).with_name("data")
NAME = "upgrade"
#: topic -> partition -> (offset, key, value)
Records = dict[str, dict[int, list[tuple[int, bytes, bytes]]]]


@pytest.fixture
async def world(kafka: Kafka, tmp_path: Path) -> AsyncIterator[World]:
    """The role ``upgrade``, its topics as the version before has left them."""
    world = World(kafka, NAME, tmp_path)
    await world.open()
    written: Records = defaultdict(lambda: defaultdict(list))
    for line in (DATA / "version-1.jsonl").read_text().splitlines():
        topic, partition, offset, key, value = json.loads(line)
        written[topic][partition].append((offset, key.encode(), value.encode()))
    changelog = written.pop("log")
    for topic, partitions in written.items():
        await write(kafka, topic, partitions)
    await write(kafka, "log", changelog, transactional_id=f"{NAME}-before")
    ends = {
        TopicPartition(f"{NAME}.{topic}", partition): OffsetAndMetadata(records[-1][0] + 1, "")
        for topic, partitions in written.items()
        for partition, records in partitions.items()
    }
    consumer = kafka.consumer(group_id=f"{NAME}-offsets")
    await consumer.start()
    consumer.assign(list(ends))
    await consumer.commit(ends)
    await consumer.stop()
    yield world
    await world.close()
    for topic in [*world.inputs, f"{NAME}.out", f"{NAME}.log", f"{NAME}.narrow", f"lanes.{NAME}", f"dead.{NAME}"]:
        await world.delete_topic(topic)


async def write(
    kafka: Kafka, topic: str, partitions: dict[int, list[tuple[int, bytes, bytes]]], **settings: str
) -> None:
    """The same records at the same offsets; a transaction's marker takes the offset that it took then."""
    producer = kafka.producer(**settings)
    await producer.start()
    for partition, records in partitions.items():
        runs = groupby(enumerate(records), key=lambda numbered: numbered[1][0] - numbered[0])
        for _, run in runs:
            if settings:
                await producer.begin_transaction()
            for _, (offset, key, value) in run:
                sent = await producer.send(f"{NAME}.{topic}", value, key=key, partition=partition)
                assert (await sent).offset == offset
            if settings:
                await producer.commit_transaction()
    await producer.stop()


@pytest.mark.parametrize("warm", [True, False])
async def test_what_the_version_before_has_written_is_gone_on_with(world: World, warm: bool) -> None:
    rng = seed()
    if warm:
        with tarfile.open(DATA / "version-1.tar.gz") as stores:
            stores.extractall(world.root / "worker-a", filter="data")
    old = input_places(await world.input())
    await world.fill(200, rng, keys=15)
    worker = world.start("a")
    wanted = input_places(await world.input()) - old
    await world.progressed(len(wanted))
    await world.stop_all()
    assert {output.place for output in await world.all_outputs()} == wanted
    assert world.progress() == len(wanted)
    model = expected(await world.input())
    changelog = await read_all(world.kafka, f"{NAME}.log")
    assert compacted(changelog) == model
    await check_stores(NAME, world.folders(), changelog, model)
    assert "rebuilding it whole" not in worker.log()
    assert ("restored" in worker.log()) is not warm
