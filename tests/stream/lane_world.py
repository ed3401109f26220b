"""A counting role (see counting_worker) in this process, with any configuration, any processor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import ConsumerRecord
from aiokafka.admin import NewTopic
from counting_worker import Counting
from eventually import eventually
from records import read_all

from pipeline.stream.config import LaneConfig, Processor
from pipeline.stream.kafka import Kafka
from pipeline.stream.lanes import LaneApp
from pipeline.stream.store import Table

__all__ = ["LaneWorld", "lane_world"]


class LaneWorld:
    """Topics ``NAME.in0`` in, ``NAME.out`` out, ``NAME.log`` changelog; all apps are stopped when the test ends."""

    def __init__(self, kafka: Kafka, name: str, root: Path, lanes: int) -> None:
        self.kafka = kafka
        self.name = name
        self.root = root
        self.lanes = lanes
        self.inputs = {f"{name}.in0"}
        self.apps: list[LaneApp] = []

    async def make_topics(self, *names: str, **config: str) -> None:
        """Topics of as many partitions as there are lanes; ``config`` with ``_`` for ``.``."""
        admin = self.kafka.admin()
        await admin.start()
        try:
            settings = {"message.timestamp.type": "LogAppendTime"} | {
                key.replace("_", "."): value for key, value in config.items()
            }
            await admin.create_topics([NewTopic(name, self.lanes, 1, topic_configs=settings) for name in names])
        finally:
            await admin.close()

    async def run(
        self,
        stores: str = "stores",
        processor: Callable[[int], Processor] | None = None,
        kafka: Kafka | None = None,
        **config: Any,
    ) -> LaneApp:
        """Start a member of the role; ``config`` as `LaneConfig` has it."""
        app = LaneApp(
            LaneConfig(
                kafka or self.kafka,
                self.name,
                self.name,
                self.lanes,
                tables=[Table("counts", f"{self.name}.log")],
                store_dir=self.root / stores,
                **({"session": 6.0} | config),
            ),
            processor or (lambda _: Counting(self.inputs, f"{self.name}.out")),
        )
        self.apps.append(app)
        await app.start()
        return app

    async def opened(self, *apps: LaneApp) -> None:
        """These share all lanes, and each lane is restored."""

        def ready() -> bool:
            numbers = sorted(number for app in apps for number in app.running)
            return numbers == list(range(self.lanes)) and not any(app.unready() for app in apps)

        await eventually(ready, 60, what="all lanes open")

    async def produce(self, *records: tuple[bytes, bytes], topic: str = "in0") -> None:
        """Write (key, value) pairs, and wait until the broker has them."""
        producer = self.kafka.producer(linger_ms=5)
        await producer.start()
        try:
            acks = [await producer.send(f"{self.name}.{topic}", value, key=key) for key, value in records]
            await asyncio.gather(*acks)
        finally:
            await producer.stop()

    async def outputs(self) -> list[ConsumerRecord]:
        """All outputs as of now."""
        return await read_all(self.kafka, f"{self.name}.out")

    async def told(self, number: int, timeout: float = 30.0) -> None:
        """There are ``number`` outputs."""

        async def enough() -> bool:
            found = len(await self.outputs())
            assert found >= number, f"{found} outputs"
            return True

        await eventually(enough, timeout, what=f"{number} outputs")


@asynccontextmanager
async def lane_world(kafka: Kafka, name: str, root: Path, lanes: int = 2) -> AsyncIterator[LaneWorld]:
    """A fresh role and its topics."""
    world = LaneWorld(kafka, name, root, lanes)
    topics = [f"{name}.in0", f"{name}.out", f"{name}.log", f"lanes.{name}", f"dead.{name}"]
    await world.make_topics(*topics)
    try:
        yield world
    finally:
        for app in world.apps:
            await app.stop()
