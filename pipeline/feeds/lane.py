"""A lane of the bridge role: it writes what feeds have taken, and how far they are, in one transaction.

The sources of a lane share its transactions: what waits when one begins goes into it. The transactional id is the
lane's, so opening the lane fences whoever had it before; then the positions are read back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced

from pipeline.bridges.base import FORGET, RawOut
from pipeline.stream.failpoints import passed
from pipeline.stream.kafka import Kafka, abandon, disconnect, know
from pipeline.stream.record_batch import RecordBatch
from pipeline.stream.refusals import REFUSALS
from pipeline.stream.transaction import Transaction, partition_for

__all__ = ["FeedLane", "LaneLost", "Names", "Work"]

log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5
#: After another has fenced us, and the group says nothing new.
_FENCED_SECONDS = 30.0
_TRANSACTION_SECONDS = 60.0
_BUDGET_SECONDS = 10.0
#: Works that a transaction takes at most; each is some thousand records.
_MOST_WORKS = 8
#: Transactions with one work each, after the broker refused one: so it fails for its own source alone.
_ALONE = 50
#: A record batch that is worth a thread for its compression.
_THREAD_BYTES = 50_000


class LaneLost(OSError):
    """The lane was closed, or its transaction failed: nothing of it was acknowledged at the origin."""


@dataclass(frozen=True)
class Names:
    """The role's topics and its group; tests have their own."""

    app: str = "headrace-bridge"
    lanes: str = "lanes.bridge"
    state: str = "bridges.state"
    status: str = "bridges.status"
    rejected: str = "rejected"


@dataclass
class Work:
    """What one take of one source comes to. ``positions``: state key -> position, or FORGET."""

    topic: str
    events: Sequence[tuple[RawOut, list[tuple[str, bytes]]]]
    rejected: Sequence[tuple[bytes, bytes]]
    positions: Mapping[bytes, Any]
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class FeedLane:
    """Runs until it is stopped; opens again by itself after Kafka errors."""

    def __init__(self, kafka: Kafka, names: Names, number: int, lanes: int) -> None:
        self.number = number
        #: State key (``<partner>.<source>.<number>|<place>``) -> what was committed last.
        self.positions: dict[bytes, Any] = {}
        self._kafka = kafka
        self._names = names
        self._lanes = lanes
        self._works: asyncio.Queue[Work] = asyncio.Queue()
        self._open = asyncio.Event()
        self._may_run = asyncio.Event()
        self._may_run.set()
        self._confirmed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._busy = asyncio.Lock()
        self._alone = 0
        self._producer: AIOKafkaProducer | None = None
        self._known: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to open."""
        self._task = asyncio.create_task(self._run(), name=f"feed lane {self.number}")

    @property
    def done(self) -> asyncio.Task[None]:
        """The running task; ends with an exception when the lane can't go on."""
        assert self._task is not None
        return self._task

    async def opened(self) -> None:
        """Return when the lane is open, and `positions` are what was committed."""
        await self._open.wait()

    async def write(self, work: Work) -> None:
        """Return when the work is committed. Raises LaneLost: the outcome is unknown, take it again."""
        if not self._open.is_set():
            raise LaneLost("the lane is closed")
        self._works.put_nowait(work)
        await work.done

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
        """The group has given it to another while it was held: what waits is not written."""
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
                await self._start()
                while not self._stopping.is_set():
                    works = await self._next()
                    await self._may_run.wait()
                    if self._stopping.is_set():
                        for work in works:
                            _fail(work, LaneLost("the lane was given up"))
                        break
                    async with self._busy:
                        await self._commit(works)
            except ProducerFenced:
                log.warning("feed lane %d: fenced by a newer owner", self.number)
                await self._close()
                self._confirmed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._confirmed.wait(), _FENCED_SECONDS)
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("feed lane %d: %r; opening again", self.number, error)
                await self._close()
                await asyncio.sleep(_RETRY_SECONDS)
            finally:
                await self._close()

    async def _start(self) -> None:
        self._producer = self._kafka.producer(
            transactional_id=f"{self._names.app}-{self.number}",
            transaction_timeout_ms=int(_TRANSACTION_SECONDS * 1000),
            max_batch_size=1_000_000,
            max_request_size=4_000_000,
            linger_ms=0,
        )
        self._known = set()
        await self._producer.start()
        self.positions = await self._read()
        self._open.set()

    async def _read(self) -> dict[bytes, Any]:
        """The lane's partition of the state topic, committed records only, after the fence."""
        tp = TopicPartition(self._names.state, self.number)
        found: dict[bytes, Any] = {}
        consumer = self._kafka.consumer(fetch_max_wait_ms=100)
        await consumer.start()
        try:
            consumer.assign([tp])
            await consumer.seek_to_beginning(tp)
            end = (await consumer.end_offsets([tp]))[tp]
            deadline = time.monotonic() + _TRANSACTION_SECONDS
            while await consumer.position(tp) < end:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        if record.value is None:
                            found.pop(record.key, None)
                        else:
                            found[record.key] = orjson.loads(record.value)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{tp.topic}[{tp.partition}] can't be read to its end")
        finally:
            await disconnect(consumer)
        return found

    async def _next(self) -> list[Work]:
        works = [await self._works.get()]
        most = 1 if self._alone else _MOST_WORKS
        self._alone = max(0, self._alone - 1)
        while len(works) < most and not self._works.empty():
            works.append(self._works.get_nowait())
        return works

    async def _commit(self, works: Sequence[Work]) -> None:
        try:
            async with asyncio.timeout(_TRANSACTION_SECONDS):
                await self._transact(works)
        except BaseException as error:
            if isinstance(error, REFUSALS):
                self._alone = _ALONE
            for work in works:
                _fail(work, error)
            raise
        for work in works:
            for key, position in work.positions.items():
                if position is FORGET:
                    self.positions.pop(key, None)
                else:
                    self.positions[key] = position
            if not work.done.done():
                work.done.set_result(None)

    async def _transact(self, works: Sequence[Work]) -> None:
        producer = self._producer
        assert producer is not None
        txn = Transaction(self.number, self._lanes, None, producer)
        for work in works:
            for event, headers in work.events:
                partition = partition_for(event.key, self._lanes)
                txn.send(work.topic, event.key, event.value, partition=partition, headers=headers)
            for key, position in work.positions.items():
                txn.send(self._names.state, key, None if position is FORGET else orjson.dumps(position))
        batches = [(topic, n, batch) for (topic, n), sealed in txn.sealed().items() for batch in sealed]
        large = [batch for _, _, batch in batches if batch.size() > _THREAD_BYTES]
        if large:
            await asyncio.to_thread(_compress, large)
        for topic in {topic for topic, _, _ in batches} - self._known:
            await know(producer, topic)
            self._known.add(topic)
        await producer.begin_transaction()
        sent = [await producer.send_batch(batch, topic, partition=n) for topic, n, batch in batches]
        for work in works:
            for key, value in work.rejected:
                sent.append(await producer.send(self._names.rejected, value, key, self.number))
        answers = await asyncio.gather(*sent, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        passed("after-send")
        await producer.commit_transaction()
        passed("after-commit")

    async def _close(self) -> None:
        self._open.clear()
        producer, self._producer = self._producer, None
        while not self._works.empty():
            _fail(self._works.get_nowait(), LaneLost("the lane was closed"))
        if producer is not None:
            await asyncio.gather(abandon(producer), return_exceptions=True)


def _fail(work: Work, error: BaseException) -> None:
    if not work.done.done():
        work.done.set_exception(LaneLost(f"not committed: {error!r}"))
        work.done.exception()  # seen, though its source may have gone


def _compress(batches: Sequence[RecordBatch]) -> None:
    for batch in batches:
        batch.compress()
