"""The sink role as a process of its own: real control log, secrets and lane group; kill -9 in the middle."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from eventually import eventually
from sink_process import sink_process, tenant

from pipeline.stream.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.faults]


async def test_kill_9_loses_nothing_and_keeps_order_and_ids(own_kafka: Kafka, prefix: str, tmp_path: Path) -> None:
    dice = random.Random(3)

    async def answer(body: dict[str, Any]) -> web.Response:
        await asyncio.sleep(dice.random() / 20)
        return web.Response(status=503 if dice.random() < 0.2 else 200)

    async with tenant(own_kafka, prefix, tmp_path) as world:
        receiver = world.receiver
        receiver.answer = answer
        await world.send([f"c{dice.randrange(20)}" for _ in range(400)])
        async with sink_process(own_kafka, tmp_path) as first:
            await eventually(lambda: len(receiver.taken()) > 100, 60)
            first.kill()
            await first.wait()
        done = {hit.number for hit in receiver.taken()}
        before = len(receiver.taken())
        async with sink_process(own_kafka, tmp_path) as second:
            await eventually(lambda: len({hit.number for hit in receiver.taken()}) == 400, 90)
            second.terminate()
            assert await asyncio.wait_for(second.wait(), 30) == 0
        assert world.order() == world.expected()
        repeated = {hit.number for hit in receiver.taken()[before:]} & done
        assert len(repeated) <= 64, "what was in flight may come twice, what was done may not"
        assert all(hit.id == f"{prefix}-{hit.number}" for hit in receiver.hits)
