"""Fault 12: hours of load, kills and restarts. Five minutes, unless ``SOAK_MINUTES`` says otherwise (`make soak`: 60).

``.headrace/soak.csv`` has a line a second: what was read and done, how far behind, and what the worker takes that lives
all the time.
"""

from __future__ import annotations

import csv
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil
import pytest
from aiokafka import ConsumerRecord
from chaos_oracle import State, compacted, told
from chaos_worker import applied
from chaos_world import Tail, Worker, World, seed
from eventually import eventually
from records import read_all

from pipeline.stream.kafka import Kafka

MINUTES = float(os.environ.get("SOAK_MINUTES", "5"))
LANES, RATE, KEYS = 4, 2000, 5000
#: What a minute of a dead lane may leave behind, and more: a session, a rebalance, a restore, and catching up.
MOST_BEHIND = 30 * RATE
GROWTH, GROWTH_MB, GROWTH_FILES, GROWTH_THREADS = 1.1, 32, 10, 8
CSV = Path(__file__).parents[2] / ".headrace" / "soak.csv"


class Ledger(Tail):
    """Checks each output as it comes, and keeps only what the next one must be.

    Inputs are not transactional here, so the offsets of each partition are 0, 1, 2, …
    """

    def __init__(self, kafka: Kafka, topic: str) -> None:
        super().__init__(kafka, topic)
        self.lanes: dict[int, State] = defaultdict(dict)
        self.wrong: list[str] = []
        self._next: Counter[tuple[str, int]] = Counter()

    def take(self, records: Sequence[ConsumerRecord]) -> None:
        """Each input is told once, in order, with its key's next count."""
        for output in map(told, records):
            topic, partition, offset = output.place
            count, total = self.lanes[output.lane].get(output.key, (0, 0))
            if offset != self._next[topic, partition] or output.count != count + 1:
                self.wrong.append(f"{output} where {self._next[topic, partition]} is due, number {count + 1}")
            self._next[topic, partition] = offset + 1
            self.lanes[output.lane][output.key] = applied(count, total, *output.place)


class Sample(NamedTuple):
    """A line of the file."""

    seconds: int
    read: int
    done: int
    behind: int
    rss_mb: float
    files: int
    threads: int
    lanes: int
    workers: int
    kills: int


@pytest.fixture
async def world(kafka: Kafka, prefix: str, tmp_path: Path) -> AsyncIterator[World]:
    """A role of four lanes whose changelog is compacted as it goes."""
    world = World(kafka, prefix, tmp_path, lanes=LANES, tail=Ledger)
    await world.open()
    compaction = {"cleanup.policy": "compact", "segment.ms": "20000", "min.cleanable.dirty.ratio": "0.3"}
    await world.configure(f"{prefix}.log", compaction)
    yield world
    await world.close()


@pytest.mark.timeout(MINUTES * 60 + 600)
async def test_hours_of_kills_leave_memory_files_and_lag_where_they_were(world: World) -> None:
    rng = seed()
    ledger = world._outputs
    assert isinstance(ledger, Ledger)
    steady = world.start("steady")
    others: dict[str, Worker] = {}
    samples: list[Sample] = []
    kills = 0
    began = time.monotonic()
    due = 5.0
    CSV.parent.mkdir(exist_ok=True)
    with CSV.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(Sample._fields)
        async with world.load(RATE, rng, keys=KEYS):
            while (passed := time.monotonic() - began) < MINUTES * 60:
                if passed > due:
                    kills += await _something_happens(world, rng, others)
                    due = passed + rng.uniform(3, 15)
                await eventually(lambda: time.monotonic() - began > len(samples) + 1, 5)
                samples.append(await _sample(world, steady, len(samples) + 1, 1 + len(others), kills))
                lines.writerow(samples[-1])
                if len(samples) % 10 == 0:
                    print(_line(samples[-1]), flush=True)
                assert not ledger.wrong, ledger.wrong[:5]
                assert steady.alive
    inputs = sum(sum(ends) for ends in (await world.ends("in0", "in1")).values())
    await eventually(lambda: world.progress() >= inputs, 120, what="all input done")
    await world.stop_all()
    assert not ledger.wrong, ledger.wrong[:5]
    assert compacted(await read_all(world.kafka, f"{world.name}.log")) == dict(ledger.lanes)
    _check_flat(samples)


async def _something_happens(world: World, rng: random.Random, others: dict[str, Worker]) -> int:
    """A worker is started, stopped, or killed, perhaps with its disk; returns kills."""
    name = rng.choice("ab")
    worker = others.pop(name, None)
    if worker is None:
        others[name] = world.start(name)
        return 0
    if rng.random() < 0.3:
        assert await worker.stop() == 0
        return 0
    worker.kill()
    if rng.random() < 0.3:
        world.lose_disk(name)
    if rng.random() < 0.5:
        others[name] = world.start(name)
    return 1


async def _sample(world: World, steady: Worker, seconds: int, workers: int, kills: int) -> Sample:
    process = psutil.Process(steady.process.pid)
    read = sum(sum(ends) for ends in (await world.ends("in0", "in1")).values())
    done = world.progress()
    return Sample(
        seconds=seconds,
        read=read,
        done=done,
        behind=read - done,
        rss_mb=round(process.memory_info().rss / 2**20, 1),
        files=process.num_fds(),
        threads=process.num_threads(),
        lanes=len(steady.owned()),
        workers=workers,
        kills=kills,
    )


def _line(sample: Sample) -> str:
    return (
        f"soak {sample.seconds:,} s: {sample.done:,} records done, {sample.behind:,} behind; {sample.rss_mb:.0f} MB, "
        f"{sample.files} files, {sample.threads} threads, {sample.lanes} lanes; {sample.workers} workers, "
        f"{sample.kills} kills"
    )


def _check_flat(samples: Sequence[Sample]) -> None:
    """The last two fifths are as the two before; the first is to get warm. Files are compared lane by lane."""
    fifth = len(samples) // 5
    early, late = samples[fifth : 3 * fifth], samples[-2 * fifth :]
    memory = median(s.rss_mb for s in early), median(s.rss_mb for s in late)
    assert memory[1] <= memory[0] * GROWTH + GROWTH_MB, f"memory grew from {memory[0]} to {memory[1]} MB"
    for lanes in {s.lanes for s in early} & {s.lanes for s in late}:
        before, after = [[s for s in part if s.lanes == lanes] for part in (early, late)]
        files = median(s.files for s in before), median(s.files for s in after)
        assert files[1] <= files[0] + GROWTH_FILES, f"open files grew from {files[0]} to {files[1]}, of {lanes} lanes"
        threads = median(s.threads for s in before), median(s.threads for s in after)
        assert threads[1] <= threads[0] + GROWTH_THREADS, f"threads grew from {threads[0]} to {threads[1]}"
    behind = max(s.behind for s in samples)
    assert behind <= MOST_BEHIND, f"{behind:,} records behind"
