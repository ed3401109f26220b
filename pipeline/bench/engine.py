"""`headrace bench engine`: the lanes beside plain aiokafka, Faust, Quix Streams, Bytewax and Kafka Streams.

All do the same job on the same prefilled topic: parse an event of 500 bytes, look its channel up, count it per customer
and channel in a store with a changelog (the stateful ones), write it with both under the same key. docs/benchmarks.md.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from aiokafka import TopicPartition
from rich.console import Console

from pipeline.bench import engine_contenders as contenders
from pipeline.bench import engine_state as state
from pipeline.bench import harness
from pipeline.bench.engine_contenders import Contender
from pipeline.bench.engine_input import PARTITIONS, Traffic, fill
from pipeline.bench.engine_peers import PeerMissing, script
from pipeline.bench.engine_run import Pace, Runner
from pipeline.bench.harness import ROUNDS, Figure, play
from pipeline.broker.cluster import cluster
from pipeline.settings import KafkaSettings, Settings
from pipeline.stream.transaction import partition_for

__all__ = ["ROWS", "draw", "run"]

USERS = 20_000
#: Events a second at low load.
_LOW = 50


@dataclass
class Bench:
    """What rows share; a contender runs once a round, however many rows ask for its rate."""

    runner: Runner
    quick: bool
    rates: dict[str, float]

    async def rate(self, contender: Contender) -> float:
        """Records a second of one worker process, in this round."""
        if contender.name not in self.rates:
            self.rates[contender.name] = await self.runner.rate(contender)
            self.runner.console.print(f"  {contender.title}: {self.rates[contender.name]:,.0f} records/s")
        return self.rates[contender.name]


@dataclass(frozen=True)
class Row(harness.Row[Bench]):
    """A row of the table; ``quick``: also with --quick."""

    contenders: tuple[Contender, ...]
    quick: bool = True


def _beside(name: str, figure: str, ours: Contender, peer: Contender, *, quick: bool = True) -> Row:
    async def measure(bench: Bench) -> tuple[float, float | None]:
        return await bench.rate(ours), await bench.rate(peer)

    return Row(name, figure, "records/s", peer.title, measure, (ours, peer), quick)


def _state(
    name: str,
    figure: str,
    unit: str,
    peer: str | None,
    measure: Callable[[Bench], Awaitable[tuple[float, float | None]]],
    *,
    quick: bool = False,
) -> Row:
    """A row of `engine_state`: ours alone; those that need a million keys are left out of the quick form."""
    return Row(name, figure, unit, peer, measure, (), quick)


async def low_load(bench: Bench) -> tuple[float, float | None]:
    """p99, s: from before an event is sent until a read-committed consumer has it, by one process's clock.

    Events flow from the start on; those sent from a second after the first output on are measured.
    """
    runner = bench.runner
    wanted = (4 if bench.quick else 20) * _LOW
    source = f"low-{uuid.uuid4().hex[:6]}"
    await runner.create([source])
    session = await runner.open(contenders.EXACTLY_ONCE, source)
    producer, consumer = runner.kafka.producer(), runner.kafka.consumer()
    await producer.start()
    await consumer.start()
    sent: dict[int, float] = {}
    taken: list[float] = []

    async def send() -> None:
        begun = time.perf_counter()
        for number in itertools.count():
            await asyncio.sleep(max(0.0, begun + number / _LOW - time.perf_counter()))
            key, value = runner.traffic.event(number)
            sent[number] = time.perf_counter()
            await producer.send(source, value, key=key, partition=partition_for(key, PARTITIONS))

    sending = asyncio.create_task(send())
    try:
        consumer.assign([TopicPartition(session.output, n) for n in range(PARTITIONS)])
        await consumer.seek_to_beginning()
        since = math.inf
        async with asyncio.timeout(120):
            while len(taken) < wanted:
                session.check()
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    now = time.perf_counter()
                    since = min(since, now + 1)
                    starts = [sent[int(orjson.loads(record.value)["messageId"])] for record in records]
                    taken += [now - start for start in starts if start >= since]
    finally:
        sending.cancel()
        await producer.stop()
        await consumer.stop()
        await runner.close(session, judge=False)
        await runner.drop([source])
    return sorted(taken)[int(len(taken) * 0.99)], None


ROWS: tuple[Row, ...] = (
    _beside("stateless", "stateless lane / plain aiokafka", contenders.STATELESS, contenders.AIOKAFKA),
    _beside("faust", "stateful lane / naive Faust table", contenders.AT_LEAST_ONCE, contenders.FAUST),
    _beside("quix", "stateful lane / Quix stateful + output", contenders.AT_LEAST_ONCE, contenders.QUIX),
    _beside("bytewax", "stateful lane / Bytewax", contenders.AT_LEAST_ONCE, contenders.BYTEWAX, quick=False),
    _beside(
        "streams",
        "stateful lane / Kafka Streams, one thread, warm",
        contenders.AT_LEAST_ONCE,
        contenders.STREAMS_AT_LEAST_ONCE,
    ),
    _beside(
        "streams-eos",
        "exactly-once lane / Kafka Streams exactly_once_v2, one thread",
        contenders.EXACTLY_ONCE,
        contenders.STREAMS_EXACTLY_ONCE,
    ),
    _beside(
        "transactions",
        "exactly-once / at-least-once at 5,000-record batches",
        contenders.EXACTLY_ONCE,
        contenders.AT_LEAST_ONCE,
    ),
    Row(
        "low-load",
        "exactly-once at low load: p99 from input to read-committed output",
        "s",
        None,
        low_load,
        (contenders.EXACTLY_ONCE,),
    ),
    _state("restore", "restore, records/s", "records/s", None, lambda bench: state.restoring(bench.runner)),
    _state(
        "kill",
        "kill -9 to processing again, 1 M keys, same worker restarted as a static member: store kept / lost",
        "s",
        "the store lost",
        lambda bench: state.kill(bench.runner),
    ),
    _state(
        "fail-over",
        "fail-over to another worker with a standby",
        "s",
        None,
        lambda bench: state.fail_over(bench.runner),
    ),
    _state(
        "scaling",
        "whole system on 2 CPUs with 2 workers / on 1 CPU with 1 (taskset, broker included)",
        "records/s",
        "one worker, one CPU",
        lambda bench: state.scaling(bench.runner, 300_000 if bench.quick else state.MILLION),
        quick=True,
    ),
    _state(
        "keys",
        "events/s at 10^7 keys / at 10^4 keys",
        "records/s",
        "10^4 keys",
        lambda bench: state.keys(bench.runner),
    ),
)


async def run(quick: bool, console: Console, names: Sequence[str] = ()) -> list[Figure]:
    """The rows called ``names``, or all; on a broker of its own, or the one that ``KAFKA_BOOTSTRAP_SERVERS`` names.

    Raises `ContenderFailed` when one ends before its time, `WrongOutput` when one did not do the job.
    """
    # A topic that was just made is asked for before every client knows its leader: no news, it is asked again.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    wanted = [row for row in ROWS if (row.name in names if names else row.quick or not quick)]
    pace = Pace(1, 12, 0.7, 2.5, False) if quick else Pace(5, 20, 2, 10, True)
    traffic = Traffic(1_200_000 if quick else 3_000_000, USERS)
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        settings = Settings(data_dir=Path(folder))
        async with cluster(settings, KafkaSettings()) as kafka:
            runner = Runner(kafka, Path(folder), f"input-{uuid.uuid4().hex[:6]}", traffic, pace, console)
            await runner.start()
            try:
                figures = await _rounds(Bench(runner, quick, {}), wanted, ROUNDS)
                await runner.finish()
                return figures
            finally:
                await runner.stop()
                await runner.drop([runner.input])


async def draw(figures: Sequence[Figure], target: Path, console: Console) -> None:
    """Write the rates into an SVG file, with the peers' matplotlib. Raises `PeerMissing`."""
    with tempfile.NamedTemporaryFile(suffix=".json") as rows:
        rows.write(orjson.dumps([figure.row() for figure in figures]))
        rows.flush()
        process = await asyncio.create_subprocess_exec(*await script("plot.py", console), rows.name, str(target))
        if await process.wait():
            raise PeerMissing(f"{target} was not drawn")


async def _rounds(bench: Bench, rows: Sequence[Row], rounds: int) -> list[Figure]:
    runner, console = bench.runner, bench.runner.console
    missing: dict[str, str] = {}
    for contender in dict.fromkeys(one for row in rows for one in row.contenders):
        try:
            await runner.prepare(contender)
        except PeerMissing as why:
            missing[contender.name] = f"{contender.title}: {why}"
    for said in missing.values():
        console.print(f"skipped: {said}")
    rows = [row for row in rows if not any(one.name in missing for one in row.contenders)]
    console.print(f"engine: {runner.traffic.events:,} events, {PARTITIONS} partitions, {os.cpu_count()} cores")
    await runner.create([runner.input])
    began = time.monotonic()
    await fill(runner.kafka, runner.input, runner.traffic)
    console.print(f"  input written in {time.monotonic() - began:.0f} s")
    await runner.warm(list(dict.fromkeys(one for row in rows for one in row.contenders)))
    return await play(rows, bench, rounds, console, bench.rates.clear)
