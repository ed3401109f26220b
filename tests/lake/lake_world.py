"""A history of a test's own, and the lanes of a lake that put it into files, in this process or in others."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from pyarrow import fs
from records import make_topic, read_all

from pipeline.lake.erasures import Erasures
from pipeline.lake.kinds import KINDS
from pipeline.lake.lane import LakeLane, Names, Pace
from pipeline.lake.store import LakeStore
from pipeline.models.erasure import Erasure
from pipeline.models.lake import Manifest
from pipeline.query.kept import Kept
from pipeline.stream.kafka import Kafka

__all__ = ["BEGIN", "DAY", "EVENTS", "World", "event", "following", "hearing", "kill"]

EVENTS = KINDS["events"]
DAY = 86_400_000
_WORKER = Path(__file__).with_name("lake_worker.py")
BEGIN = 1_790_000_000_000


def event(number: int, rng: random.Random, partners: int = 2) -> dict[str, Any]:
    """An event of `history`."""
    time = BEGIN + rng.randrange(3) * DAY + number
    found = {
        "id": f"m{number}",
        "partner": f"p{rng.randrange(partners)}",
        "source": "web",
        "channel": "Web",
        "type": "track",
        "name": "Viewed",
        "time": time,
        "received": time + 5,
        "control": 1,
        "properties": {"n": number, "text": "é😀"},
        "facts": {"browser": "Firefox"},
        "flags": ["bot"] if number % 7 == 0 else [],
    }
    return found | ({"customer": f"p0|u|u{number % 5}", "user_id": f"u{number % 5}"} if number % 3 else {})


class World:
    """``lanes`` lanes over ``NAME.history``."""

    def __init__(self, kafka: Kafka, name: str, folder: Path, lanes: int = 2) -> None:
        self.kafka = kafka
        self.names = Names(f"{name}.")
        self.history = self.names.topic(EVENTS)
        self.store = LakeStore(fs.LocalFileSystem(), str(folder))
        self.folder = folder
        self.lanes = lanes
        self.sent = 0
        self.erased: list[Erasure] = []

    async def open(self) -> None:
        """Make the topics."""
        await make_topic(self.kafka, self.names.lanes, self.lanes)
        for kind in KINDS.values():
            await make_topic(self.kafka, self.names.topic(kind), self.lanes)
        await make_topic(self.kafka, self.names.files, self.lanes, **{"cleanup.policy": "compact"})

        await make_topic(self.kafka, self.names.erasures, 1)

    async def erase(self, at: int, *identifiers: str, requested: int = 0) -> None:
        """That whoever was known by these is erased, with all that it did until ``at``."""
        partner = identifiers[0].partition("|")[0]
        erasure = Erasure(
            id="e", partner=partner, customer=identifiers[0], identifiers=list(identifiers), requested=requested, at=at
        )
        producer = self.kafka.producer()
        await producer.start()
        try:
            await producer.send_and_wait(self.names.erasures, erasure.to_json(), partition=0)
        finally:
            await producer.stop()
        self.erased.append(erasure)

    async def send(self, count: int, rng: random.Random) -> None:
        """So many events more, some in transactions: their markers take offsets."""
        producer = self.kafka.producer(transactional_id=f"{self.names.app}-test")
        await producer.start()
        try:
            for start in range(self.sent, self.sent + count, 50):
                async with producer.transaction():
                    for number in range(start, min(start + 50, self.sent + count)):
                        value = orjson.dumps(event(number, rng))
                        await producer.send(self.history, value, partition=rng.randrange(self.lanes))
        finally:
            await producer.stop()
        self.sent += count

    def lane(self, number: int = 0, erasures: Erasures | None = None, **pace: Any) -> LakeLane:
        """A lane that is in a hurry; without ``erasures`` it hears of none."""
        quick = Pace(**({"rows": 100, "seconds": 0.2} | pace))
        return LakeLane(
            self.kafka,
            self.names,
            EVENTS,
            number,
            self.store,
            quick,
            erasures or Erasures(self.kafka, self.names.erasures),
        )

    def worker(self, failpoint: str | None = None, *, group: bool = True, **pace: Any) -> subprocess.Popen[bytes]:
        """All lanes in a process; ``failpoint``: where it kills itself. Without ``group`` nobody waits for the dead."""
        environment = {key: value for key, value in os.environ.items() if key != "HEADRACE_FAILPOINT"}
        if failpoint:
            environment["HEADRACE_FAILPOINT"] = failpoint
        given = {
            "bootstrap": self.kafka.bootstrap_servers,
            "folder": str(self.folder),
            "lanes": self.lanes,
            "group": group,
            "names": asdict(self.names),
            "pace": {"rows": 100, "seconds": 0.2} | pace,
        }
        return subprocess.Popen([sys.executable, str(_WORKER), json.dumps(given)], env=environment)

    async def manifest(self) -> Manifest:
        """As it is committed now."""
        found = Manifest(EVENTS.name)
        for record in await read_all(self.kafka, self.names.files):
            found.apply(record.key, record.value)
        return found

    async def rows(self, partner: str | None = None) -> list[dict[str, Any]]:
        """All rows of the lake, or a partner's."""
        files = list((await self.manifest()).files(partner))
        if not files:
            return []
        found = self.store.read([file.path for file in files], EVENTS.schema).to_pylist()
        assert sum(file.rows for file in files) == len(found)
        return found

    async def complete(self) -> bool:
        """Each event of `history` is in the lake once, as it was sent; asserts what is wrong for ever."""
        try:
            rows = await self.rows()
        except FileNotFoundError:  # it was removed, and deleted since
            return False
        places = Counter((row["lane"], row["offset"]) for row in rows)
        assert not [place for place, times in places.items() if times > 1], "an event is in the lake twice"
        history = {(r.partition, r.offset): orjson.loads(r.value) for r in await read_all(self.kafka, self.history)}
        history = {place: sent for place, sent in history.items() if not self._is_erased(sent)}
        assert places.keys() <= history.keys(), "more than there is"
        for row in rows:
            sent = history[row["lane"], row["offset"]]
            assert (row["id"], row["customer"], row["flags"]) == (sent["id"], sent.get("customer"), sent["flags"])
            assert orjson.loads(row["properties"]) == sent["properties"]
            assert round(row["time"].timestamp() * 1000) == sent["time"]
            assert row["traits"] is None
        return len(rows) == len(history) == self.sent or (bool(self.erased) and len(rows) == len(history))

    def _is_erased(self, sent: dict[str, Any]) -> bool:
        named = {sent["customer"]} if "customer" in sent else {f"{sent['partner']}|a|{sent.get('anonymous_id')}"}
        return any(
            sent["partner"] == each.partner and sent["time"] <= each.at and named & set(each.identifiers)
            for each in self.erased
        )

    def on_disk(self) -> set[str]:
        """Paths of all Parquet files that are there."""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*.parquet")}


@asynccontextmanager
async def following(world: World, **settings: Any) -> AsyncIterator[Kept]:
    """The world's events as an API process reads them, for the time of the block."""
    events = Kept(world.kafka, world.store, world.names, **settings)
    await events.start()
    try:
        yield events
    finally:
        await events.stop()


@asynccontextmanager
async def hearing(world: World) -> AsyncIterator[Erasures]:
    """The world's erasures as its lanes hear of them, for the time of the block."""
    erasures = Erasures(world.kafka, world.names.erasures)
    await erasures.start()
    try:
        yield erasures
    finally:
        await erasures.stop()


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9, and the end of it."""
    process.send_signal(signal.SIGKILL)
    process.wait(30)
