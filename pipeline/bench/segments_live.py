"""Beside the segment benchmark: live events, whose way is timed; and a lake that has all that was before."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from aiokafka import ConsumerRecord, TopicPartition

from pipeline.bench.segments_input import watermark
from pipeline.lake.kinds import KINDS
from pipeline.lake.lane import Pace
from pipeline.lake.role import run_lake
from pipeline.models.lake import Manifest
from pipeline.settings import Settings
from pipeline.stream.follower import Follower
from pipeline.stream.kafka import Kafka
from pipeline.stream.transaction import partition_for

__all__ = ["Live", "keep", "live"]

_PER_SECOND = 500
_STEP_S = 0.02


class Live:
    """How long live events took, in milliseconds, since it was last asked."""

    def __init__(self) -> None:
        self._taken: list[float] = []

    def seen(self, taken_ms: float) -> None:
        """One has come."""
        self._taken.append(taken_ms)

    def p99(self) -> float:
        """Of those since the last call. Raises ValueError for none."""
        taken, self._taken = sorted(self._taken), []
        if not taken:
            raise ValueError("no live event has come")
        return taken[int(len(taken) * 0.99)]


@asynccontextmanager
async def live(kafka: Kafka, lanes: int, partner: str, customers: int, control: int) -> AsyncIterator[Live]:
    """500 events a second onto `events`, of known customers, and watermarks; timed until a reader has them."""
    probe = Live()

    def apply(records: list[ConsumerRecord]) -> None:
        now = time.perf_counter()
        for record in records:
            event = orjson.loads(record.value)
            if event["name"] == "Live":
                probe.seen((now - event["properties"]["sent"]) * 1000)

    follower = Follower(kafka, ["history"], apply, name="bench live", start_at=await _ends(kafka, lanes))
    await follower.start()
    sending = asyncio.create_task(_send(kafka, lanes, partner, customers, control), name="bench live")
    try:
        yield probe
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
        await follower.stop()


async def _ends(kafka: Kafka, lanes: int) -> dict[tuple[str, int], int]:
    async with kafka.consumer() as consumer:
        ends = await consumer.end_offsets([TopicPartition("history", lane) for lane in range(lanes)])
    return {(tp.topic, tp.partition): end for tp, end in ends.items()}


async def _send(kafka: Kafka, lanes: int, partner: str, customers: int, control: int) -> None:
    async with kafka.producer(linger_ms=0) as producer:
        number = 0
        while True:
            now = int(time.time() * 1000)
            for _ in range(int(_PER_SECOND * _STEP_S)):
                number += 1
                user = f"user-{number * 7919 % customers}"
                body = {
                    "id": f"live-{number}",
                    "partner": partner,
                    "source": "web",
                    "channel": "Web",
                    "type": "track",
                    "name": "Live",
                    "time": now,
                    "received": now,
                    "user_id": user,
                    "properties": {"sent": time.perf_counter()},
                    "control": control,
                }
                key = f"{partner}|u|{user}".encode()
                await producer.send("events", orjson.dumps(body), key=key, partition=partition_for(key, lanes))
            if number % (_PER_SECOND // 4) == 0:
                await watermark(kafka, lanes, now)
            await asyncio.sleep(_STEP_S)


async def keep(kafka: Kafka, settings: Settings) -> None:
    """Put all of `history` into the lake's files."""
    kind = KINDS["events"]
    ends = await _ends(kafka, settings.lanes)
    manifest = Manifest(kind.name)

    def apply(records: list[ConsumerRecord]) -> None:
        for record in records:
            manifest.apply(record.key, record.value)

    follower = Follower(kafka, ["lake.files"], apply, name="bench lake")
    stop = asyncio.Event()
    lake = asyncio.create_task(run_lake(kafka, settings, stop, pace=Pace(seconds=3.0)), name="bench lake")
    try:
        await follower.start()
        # The last of a partition is the marker of a transaction.
        while any(manifest.next(lane) < end - 1 for (_, lane), end in ends.items()):
            await asyncio.wait([lake], timeout=0.2)
            if lake.done():
                break
    finally:
        stop.set()
        await lake
        await follower.stop()
