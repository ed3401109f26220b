"""A lane with a transactional producer of its own: opening it fences whoever had it before; it opens again by itself.

For roles that are no processors of an input topic: feeds write what they fetch, the lake what it has put into files.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Generic, TypeVar

from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced

from pipeline.stream.decided import decided
from pipeline.stream.kafka import Kafka, abandon, disconnect

__all__ = ["TRANSACTION_SECONDS", "FencedLane"]

log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5
#: After another has fenced us, and the group says nothing new.
_FENCED_SECONDS = 30.0
TRANSACTION_SECONDS = 60.0
_BUDGET_SECONDS = 10.0
_Work = TypeVar("_Work")


class FencedLane(Generic[_Work]):
    """Runs until it is stopped. `hold`, `go_on` and `release` are what its group says (see `LaneGroup`).

    To be given: `_opened`, `_next`, `_do`, and `_drop` and `_closed` where there is something to let go of.
    """

    def __init__(self, kafka: Kafka, role: str, transactional_id: str, number: int) -> None:
        self.number = number
        self._kafka = kafka
        self._role = role
        self._transactional_id = transactional_id
        self._producer: AIOKafkaProducer | None = None
        self._may_run = asyncio.Event()
        self._may_run.set()
        self._confirmed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._busy = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def _opened(self) -> None:
        """The producer is there, and nobody else's transactions are open: read back what was committed."""
        raise NotImplementedError

    async def _next(self) -> _Work:
        """Wait for something to do."""
        raise NotImplementedError

    async def _do(self, work: _Work) -> None:
        """Do it, in a transaction or several. Raises what Kafka raises: the lane is opened again then."""
        raise NotImplementedError

    def _drop(self, work: _Work) -> None:
        """The lane was given up before it was done."""

    async def _closed(self) -> None:
        """Let go of all; nothing more is committed."""

    def start(self) -> None:
        """Begin to open."""
        self._task = asyncio.create_task(self._run(), name=f"{self._role} lane {self.number}")

    @property
    def done(self) -> asyncio.Task[None]:
        """The running task; ends with an exception when the lane can't go on."""
        assert self._task is not None
        return self._task

    async def hold(self) -> None:
        """Begin no transaction, until `go_on`; returns when none is open, or the budget is spent (fencing must do)."""
        self._may_run.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BUDGET_SECONDS), self._busy:
                pass

    def go_on(self) -> None:
        """The group says that the lane is ours, again or still."""
        self._confirmed.set()
        self._may_run.set()

    def release(self) -> None:
        """The group has given it to another while it was held: what waits is not done."""
        if not self._may_run.is_set():
            self._stopping.set()
            self._may_run.set()

    async def stop(self) -> None:
        """Finish the transaction at hand within the budget, and close."""
        self._stopping.set()
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BUDGET_SECONDS), self._busy:
                pass
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._may_run.wait()
                await self._open()
                while not self._stopping.is_set():
                    work = await self._next()
                    await self._may_run.wait()
                    if self._stopping.is_set():
                        self._drop(work)
                        break
                    async with self._busy:
                        await self._do(work)
            except ProducerFenced:
                log.warning("%s lane %d: fenced by a newer owner", self._role, self.number)
                await self._close()
                self._confirmed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._confirmed.wait(), _FENCED_SECONDS)
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("%s lane %d: %r; opening again", self._role, self.number, error)
                await self._close()
                await asyncio.sleep(_RETRY_SECONDS)
            finally:
                await self._close()

    async def _open(self) -> None:
        self._producer = self._kafka.producer(
            transactional_id=self._transactional_id,
            transaction_timeout_ms=int(TRANSACTION_SECONDS * 1000),
            max_batch_size=1_000_000,
            max_request_size=4_000_000,
            linger_ms=0,
        )
        await self._producer.start()
        await self._opened()

    async def _close(self) -> None:
        producer, self._producer = self._producer, None
        await self._closed()
        if producer is not None:
            await asyncio.gather(abandon(producer), return_exceptions=True)

    async def _committed(self, topic: str) -> list[ConsumerRecord]:
        """The lane's partition of a topic, committed records only, as of now."""
        tp = TopicPartition(topic, self.number)
        consumer = self._kafka.consumer(fetch_max_wait_ms=100)
        await consumer.start()
        try:
            consumer.assign([tp])
            await decided(consumer, [tp])
            async with asyncio.timeout(TRANSACTION_SECONDS):
                return [record async for record in consumer.all_of(tp)]
        finally:
            await disconnect(consumer)
