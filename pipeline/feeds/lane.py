"""A lane of the bridge role: it writes what feeds have taken, and how far they are, in one transaction.

The sources of a lane share its transactions: what waits when one begins goes into it. The transactional id is the
lane's, so opening the lane fences whoever had it before; then the positions are read back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from pipeline.bridges.base import FORGET, RawOut
from pipeline.stream.failpoints import passed
from pipeline.stream.fenced_lane import TRANSACTION_SECONDS, FencedLane
from pipeline.stream.kafka import Kafka, know
from pipeline.stream.record_batch import RecordBatch
from pipeline.stream.refusals import REFUSALS
from pipeline.stream.transaction import Transaction, partition_for

__all__ = ["FeedLane", "LaneLost", "Names", "Work"]

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


class FeedLane(FencedLane[list[Work]]):
    """Writes what feeds have taken, in the order that it came."""

    def __init__(self, kafka: Kafka, names: Names, number: int, lanes: int) -> None:
        super().__init__(kafka, "feed", f"{names.app}-{number}", number)
        #: State key (``<partner>.<source>.<number>|<place>``) -> what was committed last.
        self.positions: dict[bytes, Any] = {}
        self._names = names
        self._lanes = lanes
        self._works: asyncio.Queue[Work] = asyncio.Queue()
        self._is_open = asyncio.Event()
        self._alone = 0
        self._known: set[str] = set()

    async def opened(self) -> None:
        """Return when the lane is open, and `positions` are what was committed."""
        await self._is_open.wait()

    async def write(self, work: Work) -> None:
        """Return when the work is committed. Raises LaneLost: the outcome is unknown, take it again."""
        if not self._is_open.is_set():
            raise LaneLost("the lane is closed")
        self._works.put_nowait(work)
        await work.done

    async def _opened(self) -> None:
        self._known = set()
        found: dict[bytes, Any] = {}
        for record in await self._committed(self._names.state):
            if record.value is None:
                found.pop(record.key, None)
            else:
                found[record.key] = orjson.loads(record.value)
        self.positions = found
        self._is_open.set()

    async def _next(self) -> list[Work]:
        works = [await self._works.get()]
        most = 1 if self._alone else _MOST_WORKS
        self._alone = max(0, self._alone - 1)
        while len(works) < most and not self._works.empty():
            works.append(self._works.get_nowait())
        return works

    async def _do(self, work: list[Work]) -> None:
        try:
            async with asyncio.timeout(TRANSACTION_SECONDS):
                await self._transact(work)
        except BaseException as error:
            if isinstance(error, REFUSALS):
                self._alone = _ALONE
            for each in work:
                _fail(each, error)
            raise
        for each in work:
            for key, position in each.positions.items():
                if position is FORGET:
                    self.positions.pop(key, None)
                else:
                    self.positions[key] = position
            if not each.done.done():
                each.done.set_result(None)

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

    def _drop(self, work: list[Work]) -> None:
        for each in work:
            _fail(each, LaneLost("the lane was given up"))

    async def _closed(self) -> None:
        self._is_open.clear()
        while not self._works.empty():
            _fail(self._works.get_nowait(), LaneLost("the lane was closed"))


def _fail(work: Work, error: BaseException) -> None:
    if not work.done.done():
        work.done.set_exception(LaneLost(f"not committed: {error!r}"))
        work.done.exception()  # seen, though its source may have gone


def _compress(batches: Sequence[RecordBatch]) -> None:
    for batch in batches:
        batch.compress()
