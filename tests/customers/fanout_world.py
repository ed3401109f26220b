"""Fan-out's lanes without Kafka: tables are dicts, topics are lists, and the test says which lane goes on when."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import orjson
from sortedcontainers import SortedDict

from pipeline.agents.backfill import Backfill
from pipeline.agents.fanout_lane import FanoutLane
from pipeline.agents.fences import Fences
from pipeline.agents.programs import Programs
from pipeline.agents.tables import CUSTOMERS, DAY_MS, TABLES
from pipeline.control.log import ControlLog
from pipeline.control.reducer import ControlState
from pipeline.customers.past import Leaves, Past
from pipeline.models.event import WATERMARK_KEY
from pipeline.segments.leaf import Leaf
from pipeline.stream.reader import Batch
from pipeline.stream.transaction import Transaction, partition_for

__all__ = ["FanoutWorld"]

Pair = tuple[bytes, bytes]


class Txn:
    """A `Transaction` over dicts, committed as it goes: `FanoutLane` reads what it wrote."""

    def __init__(self, world: FanoutWorld, lane: int) -> None:
        self._tables = world.tables[lane]
        self._world = world
        self._lane = lane
        self.dirty = False

    async def load(self, table: str, keys: Iterable[bytes]) -> None:
        """All of it is in memory."""
        assert all(isinstance(key, bytes) for key in keys)

    async def read(self, table: str, keys: Iterable[bytes]) -> dict[bytes, bytes | None]:
        return {key: self.get(table, key) for key in keys}

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._tables[table].get(key)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._tables[table][key] = value
        self.dirty = True

    def delete(self, table: str, key: bytes) -> None:
        self._tables[table].pop(key, None)
        self.dirty = True

    def scan(self, table: str, start: bytes = b"", end: bytes | None = None) -> Iterator[Pair]:
        rows = self._tables[table]
        return iter([(key, rows[key]) for key in rows.irange(start, end, (True, False))])

    def send(self, topic: str, key: bytes, value: bytes, *, partition: int | None = None) -> None:
        self._world.sent[topic].append((self._lane, key, value))
        self.dirty = True

    def route(self, topic: str, key: bytes, value: bytes) -> None:
        assert topic == "moves"
        self._world.moves[partition_for(key, self._world.lanes)].append((key, value))
        self.dirty = True


async def _key(name: str) -> bytes:
    return name.encode()


class _Backfill:
    """`pipeline.agents.backfill.Backfill` of a history that is in memory; a few customers are taken at a time."""

    def __init__(self, world: FanoutWorld, lane: int) -> None:
        self._world = world
        self._lane = lane
        self._found: list[tuple[str, Leaves]] = []
        self.idle = True
        self.share = 0.0
        self.coverage = 0

    def start(self, partner: str, leaves: Sequence[Leaf], since: int | None) -> None:
        past = Past(leaves)
        for lane, _, value in self._world.sent["history"]:
            row = orjson.loads(value)
            if lane == self._lane and row.get("customer") and row["partner"] == partner:
                past.take(
                    *(row[name] for name in ("customer", "id", "source", "channel", "name", "time")),
                    *(orjson.dumps(row.get(name)) for name in ("properties", "facts")),
                )
        self._found = list(past.part().items())
        self.idle = False

    def take(self, most: int) -> list[tuple[str, Leaves]]:
        taken, self._found = self._found[:2], self._found[2:]
        return taken

    @property
    def finished(self) -> bool:
        return not self._found

    def stop(self) -> None:
        self.idle, self._found = True, []


class FanoutWorld:
    """``lanes`` lanes of fan-out over one control state, told that it is ``now`` before anything else."""

    def __init__(self, state: ControlState, lanes: int, now: int, join_ms: int = 60 * DAY_MS) -> None:
        self.lanes = lanes
        self._join_ms = join_ms
        self.tables: list[dict[str, Any]] = [{table.name: SortedDict() for table in TABLES} for _ in range(lanes)]
        self.events: list[deque[Pair]] = [deque() for _ in range(lanes)]
        self.moves: list[deque[Pair]] = [deque() for _ in range(lanes)]
        self.sent: defaultdict[str, list[tuple[int, bytes, bytes]]] = defaultdict(list)
        self._control = cast(ControlLog, SimpleNamespace(state=state))
        programs = Programs()
        self._lanes = [self._lane(number, programs) for number in range(lanes)]
        for lane in self.events:
            lane.append((WATERMARK_KEY, orjson.dumps({"received": {str(n): now for n in range(lanes)}})))

    def _lane(self, number: int, programs: Programs) -> FanoutLane:
        backfill = cast(Backfill, _Backfill(self, number))
        return FanoutLane(number, self.lanes, self._control, programs, backfill, Fences(_key), self._join_ms)

    def send(self, key: str, event: dict[str, Any]) -> None:
        """Onto `events`, as intake does."""
        self.events[partition_for(key.encode(), self.lanes)].append((key.encode(), orjson.dumps(event)))

    def erase(self, customer: str, moment: int, key: str = "erasure-1") -> None:
        """Onto `moves`, as the API does; the erasure's id is the customer's."""
        move = {"kind": "erase", "to": customer, "id": customer, "at": moment, "key": key}
        self.moves[partition_for(customer.encode(), self.lanes)].append((customer.encode(), orjson.dumps(move)))

    def step(self, lane: int, topic: str, number: int, *, forget: bool = False) -> None:
        """``lane`` takes at most ``number`` records of ``topic`` in one transaction; ``forget``: in a new process."""
        queue = self.events[lane] if topic == "events" else self.moves[lane]
        taken = [queue.popleft() for _ in range(min(number, len(queue)))]
        if forget:
            self._lanes[lane] = self._lane(lane, Programs())
        records = [SimpleNamespace(key=key, value=value, offset=0, timestamp=0, headers=()) for key, value in taken]
        batch = cast(Batch, SimpleNamespace(topic=topic, partition=lane, records=records))
        asyncio.run(self._lanes[lane].process([batch], cast(Transaction, Txn(self, lane))))

    def tick_once(self, lane: int) -> bool:
        """Time passes in one lane, for one step of what is due; whether there is more."""
        return self._lanes[lane].tick(0, cast(Transaction, Txn(self, lane)))

    def settle(self) -> None:
        """Until nothing is on its way, and all of the past is read."""
        while True:
            self.drain()
            self.tick()
            if not any(self.events) and not any(self.moves) and all(lane._backfill.idle for lane in self._lanes):
                self.tick()
                if all(lane._backfill.idle for lane in self._lanes):
                    return

    def tick(self) -> None:
        """Time passes in every lane, as far as its clock has come."""
        for number, lane in enumerate(self._lanes):
            while lane.tick(0, cast(Transaction, Txn(self, number))):
                pass

    def drain(self) -> None:
        """Until nothing is on its way."""
        while any(self.events) or any(self.moves):
            for lane in range(self.lanes):
                self.step(lane, "events", 100)
                self.step(lane, "moves", 100)

    def customers(self) -> dict[str, dict[str, Any]]:
        """Identifier -> the customer or the redirect under it, each in the lane of its hash."""
        found = {}
        for lane, tables in enumerate(self.tables):
            for key, value in tables[CUSTOMERS].items():
                assert partition_for(key, self.lanes) == lane
                found[key.decode()] = orjson.loads(value)
        return found

    def counts(self) -> dict[tuple[str, str, str], tuple[int, int]]:
        """(segment, source, channel) -> (customers, identified): the newest of each lane, added up."""
        newest: dict[tuple[str, ...], dict[str, Any]] = {}
        for _, key, value in self.sent["segments.counts"]:
            where = orjson.loads(key)
            if "segment" in where:
                newest[where["segment"], where["source"], where["channel"], str(where["lane"])] = orjson.loads(value)
        total: dict[tuple[str, str, str], tuple[int, int]] = {}
        for (segment, source, channel, _), row in newest.items():
            customers, identified = total.get((segment, source, channel), (0, 0))
            total[segment, source, channel] = (customers + row["customers"], identified + row["identified"])
        return {where: row for where, row in total.items() if row != (0, 0)}
