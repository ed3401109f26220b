"""What the gateways of a cluster tell each other of what they took of sources with limits: the topic `gateways`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from aiokafka import ConsumerRecord
from aiokafka.errors import KafkaError

from pipeline.gateway.limits import Limits
from pipeline.gateway.publish import Producing
from pipeline.stream.follower import Follower
from pipeline.stream.kafka import Kafka
from pipeline.stream.producer import ProduceError, Record

__all__ = ["TOPIC", "Usage"]

TOPIC = "gateways"
#: Seconds between two looks at whether there is something to tell; and before following is tried again.
_TELL_S, _AGAIN_S = 0.5, 5.0

_log = logging.getLogger(__name__)


class Usage:
    """Tells and hears while it runs. Without the others' news a gateway keeps to the limits by itself."""

    def __init__(self, kafka: Kafka, producer: Producing, limits: Limits) -> None:
        self._kafka = kafka
        self._producer = producer
        self._limits = limits
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, in the background: requests need not wait for it."""
        self._tasks = [
            asyncio.create_task(self._follow(), name="gateway usage follow"),
            asyncio.create_task(self._tell(), name="gateway usage tell"),
        ]

    async def stop(self) -> None:
        """End both."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_TELL_S)
            told = self._limits.tell(time.time())
            if told is not None:
                with contextlib.suppress(ProduceError):  # the next one says as much
                    await self._producer.write(TOPIC, [Record(self._limits.name.encode(), told)])

    async def _follow(self) -> None:
        while True:
            follower = Follower(self._kafka, [TOPIC], self._hear, name=TOPIC)
            try:
                await follower.start()
                await follower.failure
            except (KafkaError, TimeoutError, OSError) as error:
                _log.warning("limits are kept by this gateway alone: the topic %s can't be followed: %r", TOPIC, error)
            finally:
                await follower.stop()
            await asyncio.sleep(_AGAIN_S)

    def _hear(self, records: list[ConsumerRecord]) -> None:
        for record in records:
            if record.key:
                self._limits.hear(record.key.decode("utf-8", "replace"), record.value)
