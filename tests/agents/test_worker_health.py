"""The worker's door: ready when its lanes are restored and move, and what it says when they do not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from eventually import eventually
from records import make_topic

from pipeline.agents.health import health
from pipeline.stream.config import LaneConfig
from pipeline.stream.kafka import Kafka
from pipeline.stream.lanes import LaneApp
from pipeline.stream.reader import Batch
from pipeline.stream.transaction import Transaction

LANES = 2


class Gated:
    """Processes nothing until the gate is open."""

    def __init__(self, topic: str, gate: asyncio.Event) -> None:
        self._topic = topic
        self._gate = gate

    def topics(self) -> set[str]:
        return {self._topic}

    async def process(self, batches: Sequence[Batch], txn: Transaction) -> None:
        await self._gate.wait()

    def tick(self, now_ms: int, txn: Transaction) -> bool:
        return False

    def reset(self) -> None:
        pass


@pytest.mark.kafka
async def test_a_worker_is_ready_when_its_lanes_move_and_says_which_does_not(
    kafka: Kafka, prefix: str, tmp_path: Path
) -> None:
    for topic in (f"{prefix}.in", f"lanes.{prefix}", f"dead.{prefix}"):
        await make_topic(kafka, topic, LANES)
    gate = asyncio.Event()
    role = LaneApp(LaneConfig(kafka, prefix, prefix, LANES, stall=20.0), lambda _: Gated(f"{prefix}.in", gate))
    async with health([role], "127.0.0.1", 0) as port, aiohttp.ClientSession() as session:

        async def ready() -> tuple[int, Any]:
            async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                return answer.status, await answer.json()

        assert await ready() == (
            503,
            {
                "ready": False,
                "reasons": [f"{prefix}: the group has not settled"],
                "roles": {prefix: {"lanes": {}, "standbys": {}}},
            },
        )
        async with session.get(f"http://127.0.0.1:{port}/livez") as answer:
            assert answer.status == 200
        await role.start()
        try:

            async def is_ready() -> bool:
                return (await ready())[0] == 200

            await eventually(is_ready, 60, what="two lanes that run")
            lanes = (await ready())[1]["roles"][prefix]["lanes"]
            assert {number: lane["state"] for number, lane in lanes.items()} == {"0": "running", "1": "running"}
            producer = kafka.producer()
            await producer.start()
            await producer.send_and_wait(f"{prefix}.in", b"x", partition=1)
            await producer.stop()

            async def complains() -> bool:
                status, body = await ready()
                return status == 503 and f"{prefix}: lane 1 has not moved for" in body["reasons"][0]

            await eventually(complains, 60, what="the lane whose record waits")
            assert (await ready())[1]["roles"][prefix]["lanes"]["1"]["lag"] == 1
            gate.set()
            await eventually(is_ready, 20, what="ready again")
            assert not role.failure.done()
        finally:
            gate.set()
            await role.stop()


async def test_no_door_is_opened_where_none_is_wanted() -> None:
    async with health([], "127.0.0.1", None) as port:
        assert port is None
