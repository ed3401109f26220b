"""Throughput of each queue bridge, from a full queue at the origin to committed raw events. Not a test:

``python tests/feeds/speed.py kafka|mqtt|amqp [MESSAGES]``, with ``tests`` and ``tests/feeds`` on PYTHONPATH.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aio_pika
import uvloop
from aiomqtt import Client, ProtocolVersion
from eventually import eventually
from feeds_world import World
from origins import Mosquitto, rabbitmq
from records import make_topic
from shared_broker import shared_kafka

EVENT = b'{"event":"Product Viewed","userId":"customer-%d","properties":{"category":"Jacket","price":89.9,"n":%d}}'


def messages(count: int) -> list[bytes]:
    return [EVENT % (number % 1000, number) for number in range(count)]


async def kafka(world: World, stack: ExitStack, count: int) -> tuple[str, dict[str, Any]]:
    """The other cluster is the same broker: reading there is a small part of the work."""
    topic = f"{world.partner}.origin"
    await make_topic(world.kafka, topic, 4)
    async with world.kafka.producer(linger_ms=20) as producer:
        for value in messages(count):
            await producer.send(topic, value)
    return "queue-kafka", {"brokers": world.kafka.bootstrap_servers, "topic": topic}


async def mqtt(world: World, stack: ExitStack, count: int) -> tuple[str, dict[str, Any]]:
    broker = Mosquitto(Path(tempfile.mkdtemp()))
    broker.start()
    stack.callback(broker.stop)
    settings = {"host": "127.0.0.1", "port": broker.port, "topics": ["t"]}
    world.put("queue-mqtt", settings)
    engine = await world.engine()
    await eventually(world.runs)
    await world.end(engine)
    async with Client("127.0.0.1", broker.port, protocol=ProtocolVersion.V5, max_inflight_messages=1000) as client:
        values = messages(count)
        for start in range(0, count, 500):
            await asyncio.gather(*(client.publish("t", value, qos=1) for value in values[start : start + 500]))
    return "queue-mqtt", settings


async def amqp(world: World, stack: ExitStack, count: int) -> tuple[str, dict[str, Any]]:
    port = stack.enter_context(rabbitmq(Path(tempfile.mkdtemp())))
    world.secrets["pass"] = "guest"
    async with await aio_pika.connect(host="127.0.0.1", port=port) as connection:
        channel = await connection.channel()
        await channel.declare_queue("q", durable=True, arguments={"x-queue-type": "quorum"})
        values = messages(count)
        for start in range(0, count, 500):
            await asyncio.gather(
                *(channel.default_exchange.publish(aio_pika.Message(v), "q") for v in values[start : start + 500])
            )
    return "queue-amqp", {"host": "127.0.0.1", "port": port, "queue": "q", "declare": {}}


async def measure(name: str, count: int, stack: ExitStack) -> None:
    given = stack.enter_context(shared_kafka(Path(tempfile.mkdtemp())))
    world = World(given, f"t{uuid.uuid4().hex[:12]}")
    await world.start()
    fill: Callable[..., Any] = {"kafka": kafka, "mqtt": mqtt, "amqp": amqp}[name]
    bridge, settings = await fill(world, stack, count)
    world.put(bridge, settings, **({"secret": "pass"} if name == "amqp" else {}))
    await world.engine()
    first = await eventually(lambda: (s := world.status()) and s.taken and s, 60, every=0.01)
    began, before, busy = time.monotonic(), first.taken, time.process_time()
    last = await eventually(lambda: (s := world.status()) and s.taken >= count and s, 300, every=0.05)
    seconds, busy = time.monotonic() - began, time.process_time() - busy
    taken, ids = last.taken - before, len(await world.ids())
    print(f"{bridge}: {taken / seconds:,.0f} messages/s, {taken / busy:,.0f} per CPU second of the bridge's process")
    assert ids == count, ids
    await world.stop()


if __name__ == "__main__":
    with ExitStack() as exits:
        uvloop.run(measure(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 50_000, exits))
