"""A slow output: the worker reads no more than it can write, and stays a member of its group."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import psutil
import pytest
from chaos_broker import ChaosBroker
from chaos_world import World, seed
from eventually import eventually
from network_proxy import Proxy

#: Long enough for a busy machine to send its heartbeats in.
SESSION = 4.0
RECORDS = 40_000
VALUE_BYTES = 2_000
#: The values alone are 80 MB; what a worker may have at hand is 4 MB a partition that is fetched, and a batch.
ROOM_BYTES = 48 << 20
#: A transaction of 300 records takes longer than the session lasts.
SLOW = 350


@pytest.fixture
async def proxy(broker: ChaosBroker, world: World) -> AsyncIterator[Proxy]:
    """The worker's way to the broker; the test itself goes straight to it."""
    async with Proxy(broker.proxy_port, broker.proxied_port) as proxy:
        world.options = replace(world.options, bootstrap=proxy.bootstrap_servers, session=SESSION)
        yield proxy


async def test_with_a_slow_output_memory_stays_bounded_and_no_lane_is_lost(world: World, proxy: Proxy) -> None:
    rng = seed()
    worker = world.start("a")
    await world.fill(1000, rng)
    await world.done()
    proxy.slow(SLOW, down=False)
    process = psutil.Process(worker.process.pid)
    before = peak = process.memory_info().rss
    for _ in range(20):  # so that the test itself needs no more
        for topic in ("in0", "in1"):
            await world.produce([_large(rng) for _ in range(RECORDS // 40)], topic)
    began, target = time.monotonic(), world.progress() + 1800  # three transactions a lane, and no more

    def slowly() -> bool:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)
        return world.progress() >= target

    await eventually(slowly, 120, what="some transactions")
    taken = time.monotonic() - began
    print(f"{taken:.1f} s for 1,800 records; memory {before >> 20} MiB, then at most {peak >> 20} MiB")
    assert taken > 3 * SESSION
    assert peak - before < ROOM_BYTES
    proxy.heal()
    await world.done()
    assert worker.log().count("lanes owned: ") == 1
    assert "fenced" not in worker.log()
    assert "starting again" not in worker.log()
    await world.check()


def _large(rng: random.Random) -> tuple[bytes, bytes]:
    return b"k%d" % rng.randrange(40), rng.randbytes(VALUE_BYTES)
