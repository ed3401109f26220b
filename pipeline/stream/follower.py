"""A follower reads whole topics, read-committed, from the beginning or a stored offset, and keeps up.

Processes that must know what a log says (the control log, counts, customers) follow it; they join no
group and commit nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.stream.kafka import Kafka, disconnect

__all__ = ["Follower", "Following"]

log = logging.getLogger(__name__)
_PROGRESS_SECONDS = 5.0
#: How long a broker holds a fetch that finds nothing. More would spare an idle product requests, but partitions found
#: later, as after a broker's start, wait for it: at 5 s a follower of a new topic took 20 s to start.
_HOLD_MS = 250


class Follower:
    """Applies every record of ``topics`` (all partitions), each partition in order, batch by batch.

    ``apply`` gets a non-empty list of records of one partition and must not block for long; what it raises
    stops the follower and becomes the result of ``failure``.
    ``start_at``: first offsets by (topic, partition); the rest starts at the beginning. ``portion``: records that are
    applied between two turns of the loop, so that who asks the process something waits less; None: all that came, so
    that nobody sees what a transaction wrote in parts, where it came whole.
    """

    def __init__(
        self,
        kafka: Kafka,
        topics: Sequence[str],
        apply: Callable[[list[ConsumerRecord]], None],
        *,
        name: str,
        start_at: Mapping[tuple[str, int], int] | None = None,
        max_records: int = 5000,
        portion: int | None = None,
    ) -> None:
        self.name = name
        self._kafka = kafka
        self._topics = tuple(topics)
        self._apply = apply
        self._start_at = dict(start_at or {})
        self._max_records = max_records
        self._portion = portion
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Condition()
        #: Next offset to apply, by (topic, partition).
        self.positions: dict[tuple[str, int], int] = {}
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self, timeout: float = 60.0) -> None:
        """Start, and return when all that was committed as of this call has been applied.

        Raises TimeoutError after ``timeout`` seconds without progress, and whatever ``apply`` raised.
        """
        consumer = self._kafka.consumer(fetch_max_wait_ms=_HOLD_MS, max_poll_records=self._max_records)
        await consumer.start()
        self._consumer = consumer
        partitions = await self._partitions(consumer, timeout)
        consumer.assign(partitions)
        for tp in partitions:
            offset = self._start_at.get((tp.topic, tp.partition))
            if offset is None:
                await consumer.seek_to_beginning(tp)
            else:
                consumer.seek(tp, offset)
        ends = await consumer.end_offsets(partitions)
        self._task = asyncio.create_task(self._run(consumer, partitions), name=f"follower {self.name}")
        await self._catch_up(ends, timeout)

    async def stop(self) -> None:
        """Stop reading; what was applied stays applied."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._task
        if self._consumer is not None:
            await disconnect(self._consumer)
        if self.failure.done() and not self.failure.cancelled():
            self.failure.exception()

    async def wait_for(self, topic: str, partition: int, offset: int, timeout: float = 10.0) -> None:
        """Return once the record at ``offset`` has been applied (or lies behind the position).

        Raises TimeoutError after ``timeout`` seconds, and the follower's own failure.
        """
        await self._wait(lambda: self.positions.get((topic, partition), 0) > offset, timeout)

    def lag(self) -> int:
        """Records known to the broker and not yet applied, over all partitions."""
        consumer = self._consumer
        if consumer is None:
            return 0
        total = 0
        for tp in consumer.assignment():
            end = consumer.last_stable_offset(tp)
            if end is not None and end >= 0:
                total += max(0, end - self.positions.get((tp.topic, tp.partition), 0))
        return total

    async def _partitions(self, consumer: AIOKafkaConsumer, timeout: float) -> list[TopicPartition]:
        deadline = time.monotonic() + timeout
        while True:
            found = {topic: consumer.partitions_for_topic(topic) for topic in self._topics}
            missing = [topic for topic, parts in found.items() if not parts]
            if not missing:
                return [TopicPartition(t, p) for t, parts in found.items() for p in sorted(parts or ())]
            if time.monotonic() > deadline:
                await consumer.stop()
                raise TimeoutError(
                    f"follower {self.name}: topic {', '.join(missing)} not found; run `headrace topics apply`"
                )
            # `partitions_for_topic` alone reads a cache.
            await consumer._client.set_topics(self._topics)
            await asyncio.sleep(0.05)

    async def _run(self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> None:
        try:
            while True:
                batches = await consumer.getmany(timeout_ms=200, max_records=self._max_records)
                for records in batches.values():
                    step = self._portion or len(records)
                    for start in range(0, len(records), step):
                        self._apply(records[start : start + step])
                        await asyncio.sleep(0)
                # Positions come from the consumer: they pass transaction markers and compaction gaps.
                for tp in partitions:
                    self.positions[(tp.topic, tp.partition)] = await consumer.position(tp)
                async with self._moved:
                    self._moved.notify_all()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("follower %s stopped", self.name)
            if not self.failure.done():
                self.failure.set_exception(error)
            async with self._moved:
                self._moved.notify_all()

    async def _wait(self, condition: Callable[[], bool], timeout: float) -> None:
        async with self._moved:
            await asyncio.wait_for(self._moved.wait_for(lambda: condition() or self.failure.done()), timeout)
        if not condition():
            self.failure.result()

    async def _catch_up(self, ends: Mapping[TopicPartition, int], timeout: float) -> None:
        wanted = sum(ends.values())
        reported = time.monotonic()

        def behind() -> int:
            return sum(max(0, end - self.positions.get((tp.topic, tp.partition), 0)) for tp, end in ends.items())

        left = behind()
        while left:
            try:
                now_left = left
                await self._wait(lambda n=now_left: behind() < n, timeout)  # type: ignore[misc]
            except TimeoutError as error:
                raise TimeoutError(
                    f"follower {self.name}: no progress for {timeout:g} s with {left} records to read"
                ) from error
            except KafkaError:
                await self.stop()
                raise
            left = behind()
            if time.monotonic() - reported > _PROGRESS_SECONDS:
                reported = time.monotonic()
                log.info("follower %s: %d of %d offsets to read", self.name, left, wanted)


class Following:
    """The base of what follows topics by one `Follower`, and is asked for what they say. Use from one event loop."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    async def start(self) -> None:
        """Return when all that was committed as of this call has been read. Raises TimeoutError."""
        await self._follower.start()

    async def stop(self) -> None:
        """Follow no more."""
        await self._follower.stop()

    @property
    def failure(self) -> asyncio.Future[None]:
        """Set with the exception when following has stopped by itself."""
        return self._follower.failure

    def lag(self) -> int:
        """Records that the topics hold and that are not read."""
        return self._follower.lag()
