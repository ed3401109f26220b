"""Fault 5: the network between a worker and its broker: cut, slow, half-open; commits whose outcome is not known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from chaos_broker import ChaosBroker
from chaos_world import World, seed
from eventually import eventually
from network_proxy import Api, Loss, Proxy
from records import read_all

from pipeline.stream.kafka import Kafka, abandon

EXACTLY_ONCE = [
    Api.INIT_PRODUCER_ID,
    Api.ADD_PARTITIONS_TO_TXN,
    Api.PRODUCE,
    Api.ADD_OFFSETS_TO_TXN,
    Api.TXN_OFFSET_COMMIT,
    Api.END_TXN,
]
AT_LEAST_ONCE = [Api.PRODUCE, Api.OFFSET_COMMIT]


@pytest.fixture
async def proxy(broker: ChaosBroker, world: World) -> AsyncIterator[Proxy]:
    """The way of all workers to the broker; the test itself goes straight to it."""
    async with Proxy(broker.proxy_port, broker.proxied_port) as proxy:
        world.options = replace(world.options, bootstrap=proxy.bootstrap_servers, patience=3.0)
        yield proxy


@pytest.mark.parametrize("loss", list(Loss))
async def test_the_outcome_of_a_commit_is_not_known(world: World, proxy: Proxy, loss: Loss) -> None:
    """EndTxn, the request that decides, or its answer, is lost, three times in a run."""
    rng = seed()
    worker = world.start("a")
    async with world.load(600, rng):
        await world.progressed(200)
        for _ in range(3):
            await proxy.lose(Api.END_TXN, loss, nth=rng.randrange(1, 5))
            await world.progressed_in_all_lanes(50, timeout=60)
    assert worker.alive
    await world.check()


@pytest.mark.parametrize("loss", [Loss.REQUEST, Loss.REPLY])
@pytest.mark.parametrize(("guarantee", "apis"), [("exactly_once", EXACTLY_ONCE), ("at_least_once", AT_LEAST_ONCE)])
async def test_any_request_of_a_batch_may_be_lost(
    world: World, proxy: Proxy, guarantee: str, apis: list[Api], loss: Loss
) -> None:
    world.options = replace(world.options, guarantee=guarantee)
    rng = seed()
    worker = world.start("a")
    async with world.load(600, rng):
        for api in apis:
            if api is Api.INIT_PRODUCER_ID:  # the first thing that a lane does
                await proxy.lose(api, loss)
            else:
                await proxy.lose(api, loss, nth=rng.randrange(1, 5))
            await world.progressed_in_all_lanes(50, timeout=60)
    assert worker.alive
    await world.check()


async def test_a_network_that_comes_and_goes(either: World, proxy: Proxy) -> None:
    world, rng = either, seed()
    worker = world.start("a")
    async with world.load(600, rng):
        for _ in range(4):
            await world.progressed(rng.randrange(1, 500), timeout=60)
            proxy.cut()
            await world.awaits(world.progress() + rng.randrange(100, 1500))
            proxy.heal()
        await world.progressed(100, timeout=60)
    assert worker.alive
    await world.check()


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_half_open_network_makes_a_zombie_that_writes_nothing_when_it_heals(
    world: World, kafka: Kafka, proxy: Proxy, direction: str
) -> None:
    rng = seed()
    cut_off = world.start("cut-off")
    async with world.load(600, rng):
        await world.progressed(300)
        proxy.deafen(**{direction: True})
        other = world.start("other", bootstrap=kafka.bootstrap_servers)
        await eventually(lambda: other.owned() == {0, 1}, 60, what="its lanes taken over")
        await world.progressed(300)
    await world.done()
    before = await world.ends("out", "log")
    proxy.heal()
    await world.settled(cut_off, other)
    assert await world.ends("out", "log") == before
    await world.fill(300, rng)
    await world.check()


async def test_a_slow_network_slows_and_nothing_else(world: World, proxy: Proxy) -> None:
    rng = seed()
    proxy.slow(5_000)
    worker = world.start("a", patience=15.0)
    await world.fill(1000, rng)
    await world.done()
    assert "fenced" not in worker.log()
    assert "starting again" not in worker.log()
    await world.check()


async def test_a_producer_that_is_given_up_writes_nothing_late(world: World, kafka: Kafka, proxy: Proxy) -> None:
    topic = f"{world.name}.in0"
    producer = Kafka(proxy.bootstrap_servers).producer(request_timeout_ms=1000)
    await producer.start()
    await producer.send_and_wait(topic, b"early", partition=0)
    proxy.deafen(up=True)
    late = await producer.send(topic, b"late", partition=0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(late), 1.5)  # by now it has been tried again
    await abandon(producer)
    proxy.heal()
    assert producer._sender.sender_task.done()
    await world.produce([(b"k", b"after")])
    values = [record.value for record in await read_all(kafka, topic)]
    assert sorted(values) == [b"after", b"early"]
