"""`headrace bench segments`: fan-out under the segments of a company, and how soon a number is right.

docs/benchmarks.md says what each row measures.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from aiokafka import ConsumerRecord
from rich.console import Console

from pipeline.agents.fanout import Fanout
from pipeline.agents.tables import CUSTOMERS, TABLES
from pipeline.bench.harness import Figure, Row, play, submit
from pipeline.bench.segments_input import Traffic, WrongCounts, counts, fill, recompute, watermark
from pipeline.bench.segments_live import keep, live
from pipeline.bench.segments_visible import PROBE, Seen, seen
from pipeline.broker.cluster import cluster
from pipeline.control.log import ControlLog
from pipeline.models.control import Source
from pipeline.query.counts import Counts
from pipeline.query.mirror import MEMBERS
from pipeline.query.sql import Limits
from pipeline.query.sql import run as run_sql
from pipeline.settings import KafkaSettings, Settings
from pipeline.stream.follower import Follower
from pipeline.stream.kafka import Kafka
from pipeline.stream.store import Store
from pipeline.topics.wanted import apply_all, ensure_for

__all__ = ["ROWS", "run"]

PARTNER = "bench"
#: Eight million events at some 10,000 a second, and as much again.
_WAIT_S = 1800.0
_SHOWN_S = 30.0
#: Longer than any window.
_LONG_MS = 31 * 86_400_000
#: Live events alone, for comparison.
_BEFORE_S = 10.0


class World:
    """A cluster with partner, two sources and fan-out's segments; made anew for each round of each row."""

    def __init__(self, kafka: Kafka, settings: Settings, console: Console) -> None:
        self.kafka = kafka
        self.settings = settings
        self.console = console
        self.control = ControlLog(kafka)
        self.sources: list[Source] = []

    async def setup(self) -> None:
        await apply_all(self.kafka, self.settings)
        await self.control.start()
        await submit(self.control, PARTNER, "partner.create", id=PARTNER, name="Bench")
        for code, bridge in (("web", "rest"), ("app", "rest")):
            await submit(self.control, PARTNER, "source.create", id=code, name=code, code=code, bridge=bridge)
            self.sources.append(self.control.state.sources[PARTNER, code])
            await ensure_for(self.kafka, self.settings, self.sources[-1])

    async def traffic(self, customers: int, segments: int) -> Traffic:
        """Events of ``customers``, with the segments they belong to made first."""
        made = Traffic(PARTNER, customers, segments, ("web", "app"), int(time.time() * 1000), 0)
        await self.define(made)
        return replace(made, control=self.control.state.offset)

    async def define(self, traffic: Traffic) -> None:
        """Make the segments."""
        for name, condition in traffic.definitions():
            await submit(self.control, PARTNER, "segment.create", id=name, name=name, condition=condition)


@contextlib.asynccontextmanager
async def world(console: Console) -> AsyncIterator[World]:
    """One for the time of a block, on a broker of its own."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        settings = Settings(data_dir=Path(folder))
        async with cluster(settings, KafkaSettings()) as kafka:
            made = World(kafka, settings, console)
            try:
                await made.setup()
                yield made
            finally:
                await made.control.stop()


@dataclass(frozen=True)
class Worked:
    """What a run of fan-out over a whole `Traffic` gave."""

    rate: float
    recompute_s: float
    customer_bytes: float


@dataclass(frozen=True)
class Filled:
    """What a back-fill gave, and all members leaving at one instant after it.

    ``before_ms``, ``live_ms``, ``leaving_ms``: p99 of live events from `events` to `history`, before it, beside it, and
    beside the exits. ``exits``: a second.
    """

    rate: float
    exits: float
    before_ms: float
    live_ms: float
    leaving_ms: float


class Bench:
    """What rows share; a run serves all rows that ask for it in the same round."""

    def __init__(self, console: Console, quick: bool) -> None:
        self.console = console
        self.customers = 60_000 if quick else 1_000_000
        self.worked: dict[int, Worked] = {}
        self.filled: Filled | None = None
        self.visible: Seen | None = None

    def forget(self) -> None:
        """Another round."""
        self.worked.clear()
        self.filled = None
        self.visible = None

    async def look(self) -> Seen:
        """All roles as processes, a thousand events a second, 20 segments."""
        if self.visible is None:
            quick = self.customers < 1_000_000
            async with world(self.console) as made:
                traffic = await made.traffic(20_000, 20)
                probe = {"id": PROBE.lower(), "name": PROBE, "condition": {"event": PROBE}}
                await submit(made.control, PARTNER, "segment.create", **probe)
                self.visible = await seen(
                    made.kafka, made.settings, traffic, 100 if quick else 400, 500 if quick else 3000
                )
            told = self.visible
            self.console.print(
                f"  visible after {told.visible[0]:.3f} s (p99 {told.visible[1]:.3f}); counts in "
                f"{told.counts[0] * 1000:.1f} ms (p99 {told.counts[1] * 1000:.1f}), beside the load "
                f"{told.beside[0] * 1000:.1f} ms (p99 {told.beside[1] * 1000:.1f})"
            )
        return self.visible

    async def fill(self) -> Filled:
        """Twenty segments that are made when a lake has all events; judged as `work` is."""
        if self.filled is None:
            async with world(self.console) as made:
                self.filled = await _fill_back(made, self.customers)
            told = self.filled
            self.console.print(
                f"  back-fill: {told.rate:,.0f} events/s; "
                f"{told.exits:,.0f} exits/s; live p99 {told.before_ms:,.0f} ms before, {told.live_ms:,.0f} beside the "
                f"back-fill, {told.leaving_ms:,.0f} beside the exits"
            )
        return self.filled

    async def work(self, segments: int) -> Worked:
        """Fan-out over all events of the traffic, judged: every count must be DuckDB's."""
        if segments not in self.worked:
            async with world(self.console) as made:
                traffic = await made.traffic(self.customers, segments)
                await fill(made.kafka, traffic, made.settings.lanes)
                await watermark(made.kafka, made.settings.lanes, traffic.now)
                rate = await _drain(made, traffic)
                taken, wanted = await asyncio.to_thread(recompute, traffic)
                _judge(await counts(made.kafka, made.settings.lanes), wanted, traffic)
                size = await asyncio.to_thread(_compacted, made.settings.data_dir / "stores" / "fanout")
            self.worked[segments] = Worked(rate, taken, size / traffic.customers)
            self.console.print(
                f"  {segments} segments: {rate:,.0f} events/s, {size / traffic.customers:,.0f} bytes a customer, "
                f"DuckDB {taken:.2f} s for all anew"
            )
        return self.worked[segments]


async def _drain(made: World, traffic: Traffic) -> float:
    """Events a second from the third pass over the customers on, when no customer is new any more."""
    role = Fanout(made.kafka, made.control, made.settings)
    await role.start()
    begun: tuple[float, int] | None = None
    total = traffic.events + made.settings.lanes
    shown = time.perf_counter()
    try:
        async with asyncio.timeout(_WAIT_S):
            while True:
                if role.lanes.failure.done():
                    role.lanes.failure.result()
                done = sum(lane.records for lane in role.lanes.running.values())
                now = time.perf_counter()
                if begun is None and done >= 2 * traffic.customers:
                    begun = now, done
                if begun is not None and done >= total:
                    return (done - begun[1]) / (now - begun[0])
                if now - shown > _SHOWN_S:
                    shown = now
                    made.console.print(f"  {done:,} of {total:,} events")
                await asyncio.sleep(0.01)
    finally:
        await role.stop()


async def _fill_back(made: World, customers: int) -> Filled:
    traffic = Traffic(PARTNER, customers, 20, ("web", "app"), int(time.time() * 1000), made.control.state.offset)
    lanes = made.settings.lanes
    await fill(made.kafka, traffic, lanes)
    await watermark(made.kafka, lanes, traffic.now)
    role = Fanout(made.kafka, made.control, made.settings)
    await role.start()
    numbers = Counts(lanes)

    def apply(records: list[ConsumerRecord]) -> None:
        for record in records:
            numbers.apply(record.topic, record.key, record.value)

    follower = Follower(made.kafka, ["segments.counts", "segments.progress"], apply, name="bench counts")
    names = [name for name, _ in traffic.definitions()]
    try:
        total = traffic.events + lanes
        await _until(lambda: sum(lane.records for lane in role.lanes.running.values()) >= total, role)
        await keep(made.kafka, made.settings)
        await follower.start()
        async with live(made.kafka, lanes, PARTNER, traffic.customers, made.control.state.offset) as probe:
            await asyncio.sleep(_BEFORE_S)
            before = probe.p99()
            began = time.perf_counter()
            await made.define(traffic)
            await _until(lambda: all(numbers.of(PARTNER, name, 1, 0).complete for name in names), role)
            taken = time.perf_counter() - began
            during = probe.p99()
            _judge(numbers, (await asyncio.to_thread(recompute, traffic))[1], traffic)
            members = sum(numbers.of(PARTNER, name, 1, 0).total.customers for name in names)
            probe.p99()
            began = time.perf_counter()
            await watermark(made.kafka, lanes, traffic.now + _LONG_MS)
            await _until(lambda: not any(numbers.of(PARTNER, name, 1, 0).total.customers for name in names), role)
            left = time.perf_counter() - began
            leaving = probe.p99()
    finally:
        await follower.stop()
        await role.stop()
    return Filled(traffic.events / taken, members / left, before, during, leaving)


async def _until(condition: Callable[[], bool], role: Fanout) -> None:
    async with asyncio.timeout(_WAIT_S):
        while not condition():
            if role.lanes.failure.done():
                role.lanes.failure.result()
            await asyncio.sleep(0.05)


def _judge(found: Counts, wanted: dict[str, int], traffic: Traffic) -> None:
    for name, _ in traffic.definitions():
        ours = found.of(PARTNER, name, 1, 0).total.customers
        if ours != wanted.get(name, 0):
            raise WrongCounts(f"segment {name}: {ours} customers, {wanted.get(name, 0)} by DuckDB")


def _compacted(stores: Path) -> int:
    """Bytes of the customers' records in all lanes' stores, compacted."""
    size = 0
    for path in sorted(stores.iterdir()):
        store = Store(path, {table.name: table for table in TABLES})
        try:
            size += store.compact(CUSTOMERS)
        finally:
            store.close()
    return size


async def fan_out(bench: Bench) -> tuple[float, float | None]:
    return (await bench.work(20)).rate, None


async def many(bench: Bench) -> tuple[float, float | None]:
    return (await bench.work(500)).rate, (await bench.work(20)).rate


async def size(bench: Bench) -> tuple[float, float | None]:
    return (await bench.work(20)).customer_bytes, None


async def back_fill(bench: Bench) -> tuple[float, float | None]:
    return (await bench.fill()).rate, None


async def beside(bench: Bench) -> tuple[float, float | None]:
    filled = await bench.fill()
    return filled.live_ms, filled.before_ms


async def exits(bench: Bench) -> tuple[float, float | None]:
    return 1_000_000 / (await bench.fill()).exits, None


async def beside_exits(bench: Bench) -> tuple[float, float | None]:
    filled = await bench.fill()
    return filled.leaving_ms, filled.before_ms


async def visible(bench: Bench) -> tuple[float, float | None]:
    return (await bench.look()).visible[1], None


async def ask(bench: Bench) -> tuple[float, float | None]:
    looked = await bench.look()
    return looked.counts[1], looked.beside[1]


async def sql(bench: Bench) -> tuple[float, float | None]:
    """The median of five, of 5 million memberships (a million in the quick form) in 20 segments."""
    number = 1_000_000 if bench.customers < 1_000_000 else 5_000_000
    members = MEMBERS.empty_table()
    for start in range(0, number, 500_000):
        rows = range(start, start + 500_000)
        columns = [
            pa.array([f"segment-{n % 20}" for n in rows]),
            pa.array([f"{PARTNER}|u|user-{n // 5}" for n in rows]),
            pa.array(["all"] * len(rows)),
            pa.nulls(len(rows), pa.string()),
            pa.array(rows, pa.int64()).cast(MEMBERS.field("since").type),
            pa.array([1] * len(rows), pa.int64()),
        ]
        members = pa.concat_tables([members, pa.Table.from_arrays(columns, schema=MEMBERS)])
    query = "SELECT segment, count(*) AS customers FROM segment_members WHERE scope = 'all' GROUP BY segment"
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        rows_, _ = await asyncio.to_thread(run_sql, query, {"segment_members": members}, Limits())
        taken.append(time.perf_counter() - began)
        if sum(rows_["customers"].to_pylist()) != number:
            raise WrongCounts("SQL counts other members than there are")
    return statistics.median(taken), None


async def anew(bench: Bench) -> tuple[float, float | None]:
    """A minute's work at 1,000 events a second; DuckDB's grows with what is kept, ours with what is new."""
    worked = await bench.work(20)
    return 60_000 / worked.rate, worked.recompute_s


ROWS: tuple[Row[Bench], ...] = (
    Row("fan-out", "events/s, one process, 20 segments of 2 leaves, exactly once", "events/s", None, fan_out),
    Row("many", "events/s with 500 segments / with 20", "events/s", "20 segments", many),
    Row("size", "bytes of a customer on disk, compacted, 8 leaves touched", "bytes", None, size),
    Row(
        "anew",
        "seconds of one core for a minute of 1,000 events/s / DuckDB counting all anew once a minute, on all cores",
        "s",
        "DuckDB, columns in memory",
        anew,
    ),
    Row("back-fill", "events/s, 20 new segments, from the lake, beside live events", "events/s", None, back_fill),
    Row("beside", "p99 of 500 live events/s to history, during the back-fill / before it", "ms", "before", beside),
    Row("exits", "a million exits at one instant, of the rate of as many as there are", "s", None, exits),
    Row("beside-exits", "p99 of 500 live events/s to history, during the exits / before", "ms", "before", beside_exits),
    Row("visible", "HTTP 200 to visible count, p99, beside 1,000 events/s", "s", None, visible),
    Row("counts", "counts by HTTP, p99, / beside 1,000 events/s", "s", "beside", ask),
    Row("sql", "SQL group-by over 5 M members, in a database of its own", "s", None, sql),
)


async def run(quick: bool, console: Console, names: Sequence[str], rounds: int) -> list[Figure]:
    """The rows called ``names``, or all. Raises `WrongCounts` when a count is not DuckDB's."""
    wanted = [row for row in ROWS if row.name in names or not names]
    bench = Bench(console, quick)
    console.print(f"segments: {bench.customers:,} customers, {os.cpu_count()} cores")
    return await play(wanted, bench, rounds, console, bench.forget)
