"""Real sink processes, killed at every step, added and taken away in mid-delivery: judged by what the receiver got.

``DELIVERY_RECORDS`` (2,000): how many records the long run has. A run that failed is had again with the
``HEADRACE_CHAOS_SEED`` it printed.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from eventually import eventually
from sink_process import sink_process, tenant
from sinks_world import World

from pipeline.stream.failpoints import SINK_POINTS
from pipeline.stream.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

RECORDS = int(os.environ.get("DELIVERY_RECORDS", "2000"))
_CHUNK = 10_000


def seed() -> random.Random:
    number = int(os.environ.get("HEADRACE_CHAOS_SEED") or random.randrange(1 << 30))
    print(f"HEADRACE_CHAOS_SEED={number}")
    return random.Random(number)


def refused(number: int) -> bool:
    """Records that the receiver takes never."""
    return number % 50 == 7


def misbehave(world: World, dice: random.Random, failing: float, slowness_s: float = 0.02) -> None:
    """Slow, failing, and refusing some records for good."""

    async def answer(body: dict[str, Any]) -> web.Response:
        await asyncio.sleep(dice.random() * slowness_s)
        if refused(body["data"]["event"]["properties"]["n"]):
            return web.Response(status=422)
        return web.Response(status=503 if dice.random() < failing else 200)

    world.receiver.answer = answer


async def complete(world: World, timeout: float) -> None:
    """Every record has been taken, or refused."""
    wanted = set(range(len(world.sent)))
    await eventually(
        lambda: {hit.number for hit in world.receiver.hits if hit.status < 300 or hit.status == 422} == wanted,
        timeout,
        what="all records taken or refused",
        every=0.5,
    )


def check(world: World) -> Counter[str]:
    """By the receiver's journal. How many came, and how many of them a second time though they were taken.

    Each customer's came in order, by the first time that each was answered for good; what came more than once came
    with the same id and the same body.
    """
    order: dict[str, dict[int, None]] = defaultdict(dict)
    told: dict[int, set[tuple[str, bytes]]] = defaultdict(set)
    counts: Counter[str] = Counter()
    for hit in world.receiver.hits:
        told[hit.number].add((hit.id, hit.body))
        counts["requests"] += 1
        if hit.status < 300 or hit.status == 422:
            counts["repeated"] += hit.number in order[hit.customer]
            order[hit.customer].setdefault(hit.number)
    assert {customer: list(numbers) for customer, numbers in order.items()} == world.expected()
    assert {number: {id for id, _ in seen} for number, seen in told.items()} == {
        number: {f"{world.partner}-{number}"} for number in range(len(world.sent))
    }
    assert all(len(seen) == 1 for seen in told.values()), "a repeat has the same body"
    return counts


async def kept_aside(world: World) -> None:
    """What was refused for good is among the undeliverables, each at least once."""
    wanted = {f"{world.partner}-{number}" for number in range(len(world.sent)) if refused(number)}

    async def found() -> bool:
        return {entry["dispatch"]["id"] for entry in await world.undeliverable()} == wanted

    await eventually(found, 30, what=f"{len(wanted)} undeliverables")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("point", SINK_POINTS)
async def test_a_process_killed_at_a_step_loses_nothing_and_keeps_the_order(
    own_kafka: Kafka, prefix: str, tmp_path: Path, point: str
) -> None:
    dice = seed()
    async with tenant(own_kafka, prefix, tmp_path) as world:
        misbehave(world, dice, 0.2)
        await world.send([f"c{dice.randrange(15)}" for _ in range(300)])
        # The first time that it is passed, when nothing is committed; then in full run, on what the first left behind.
        for nth in (1, dice.randrange(2, 4)):
            async with sink_process(own_kafka, tmp_path, f"{point}:{nth}") as doomed:
                assert await asyncio.wait_for(doomed.wait(), 120) == -signal.SIGKILL
        async with sink_process(own_kafka, tmp_path) as survivor:
            await complete(world, 120)
            await kept_aside(world)
            survivor.terminate()
            assert await asyncio.wait_for(survivor.wait(), 30) == 0
        check(world)


@pytest.mark.timeout(400)
async def test_lanes_that_change_hands_in_mid_delivery_repeat_nothing(
    own_kafka: Kafka, prefix: str, tmp_path: Path
) -> None:
    """A second process comes, the first goes, in order: what was under way is finished by whoever began it."""
    dice, log = seed(), tmp_path / "second.log"
    async with tenant(own_kafka, prefix, tmp_path) as world, AsyncExitStack() as stack:
        misbehave(world, dice, 0.1, slowness_s=1.5)
        await world.send([f"c{dice.randrange(40)}" for _ in range(1_500)])
        first = await stack.enter_async_context(sink_process(own_kafka, tmp_path))
        await eventually(lambda: len(world.receiver.hits) > 100, 60)
        second = await stack.enter_async_context(sink_process(own_kafka, tmp_path, log=log))
        await eventually(lambda: re.search(r"lanes owned: \[[01]\]", log.read_text()), 60, what="a lane each")
        shared = len(world.receiver.taken())
        await eventually(lambda: len(world.receiver.taken()) > shared + 100, 60)
        first.terminate()
        assert await asyncio.wait_for(first.wait(), 60) == 0
        assert len(world.receiver.taken()) < 1_400, "it was in mid-delivery"
        await complete(world, 200)
        second.terminate()
        assert await asyncio.wait_for(second.wait(), 30) == 0
        assert check(world)["repeated"] == 0


@pytest.mark.timeout(600 + RECORDS // 10)
async def test_many_records_with_kills_all_the_while(own_kafka: Kafka, prefix: str, tmp_path: Path) -> None:
    """Two processes, of which one is killed again and again."""
    dice = seed()
    kills, began = 0, time.monotonic()
    async with tenant(own_kafka, prefix, tmp_path) as world, AsyncExitStack() as stack:
        misbehave(world, dice, 0.05, slowness_s=0.005)
        await stack.enter_async_context(sink_process(own_kafka, tmp_path))
        for start in range(0, RECORDS, _CHUNK):
            customers = [f"c{dice.randrange(500)}" for _ in range(min(_CHUNK, RECORDS - start))]
            await world.send(customers)
            done = len({hit.number for hit in world.receiver.taken()})
            async with sink_process(own_kafka, tmp_path) as victim:
                wanted = done + len(customers) * (0.2 + dice.random() / 4)
                await eventually(
                    lambda wanted=wanted: len({hit.number for hit in world.receiver.taken()}) > wanted, 300, every=0.5
                )
                victim.kill()
                await victim.wait()
                kills += 1
            await complete(world, 300)
        await kept_aside(world)
        counts = check(world)
        print(
            f"{RECORDS:,} records, {kills} kills, {counts['requests']:,} requests, {counts['repeated']} repeated, "
            f"{time.monotonic() - began:.0f} s"
        )
        assert counts["repeated"] <= 64 * 2 * kills, "what was in flight may come twice"
