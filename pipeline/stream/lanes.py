"""A role: a Faust app whose agent gets whole batches of the lanes that this process owns."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import faust
from aiokafka import ConsumerRecord
from aiokafka.errors import KafkaError
from mode.utils.queues import FlowControlEvent, ThrowableQueue

from pipeline.stream.group import LaneGroup, faust_app
from pipeline.stream.lane import Lane, LaneConfig, PoisonError, Processor
from pipeline.stream.transaction import Transaction

__all__ = ["LaneApp"]

log = logging.getLogger(__name__)


@dataclass
class LaneBatch:
    """What the agent's stream carries: a lane's records, its transaction, and a promise that it was applied."""

    lane: Lane
    records: Sequence[ConsumerRecord]
    txn: Transaction
    applied: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class LaneChannel(faust.Channel):  # type: ignore[misc]
    """An in-memory channel that rebalances leave alone.

    Faust suspends and clears the queues of its ordinary channels when a rebalance begins; a lane that waits
    for its batch to be applied would then wait for ever.
    """

    _queue: ThrowableQueue | None

    @property
    def queue(self) -> ThrowableQueue:
        """The subscriber's queue, without flow control."""
        if self._queue is None:
            never_suspended = FlowControlEvent(initially_suspended=False)
            self._queue = ThrowableQueue(maxsize=self.maxsize or 16, flow_control=never_suspended)
        return self._queue


class LaneApp:
    """Membership, lanes and agent of one role in one process.

    ``make_processor(lane number)`` makes the object that holds a lane's logic. ``failure`` resolves with an
    exception when the role can't go on; the process should then stop with a non-zero code.
    """

    def __init__(self, config: LaneConfig, make_processor: Callable[[int], Processor]) -> None:
        self.config = config
        self.running: dict[int, Lane] = {}
        self._make_processor = make_processor
        self.app = faust_app(config.kafka, config.app)
        # In memory, so Faust's per-record path is not touched: one event a batch.
        self._batches = LaneChannel(self.app, maxsize=16)
        self.app.agent(self._batches, name=f"{config.app}.agent")(self._agent)
        self.group = LaneGroup(
            config.kafka,
            config.app,
            f"lanes.{config.role}",
            config.lanes,
            self._take,
            self._give_up,
            app=self.app,
        )
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Join the group; lanes start as they are assigned."""
        # A batch makes tens of thousands of objects that all live until its commit; at Python's default the
        # collector walks them over and over (a quarter of intake's time). What is loaded by now stays.
        gc.freeze()
        gc.set_threshold(100_000, 20, 50)
        await self.group.start()

    async def stop(self) -> None:
        """Finish the transactions at hand, close the stores, leave the group."""
        await self.group.stop()
        if self.failure.done() and not self.failure.cancelled():
            self.failure.exception()

    async def _agent(self, stream: faust.Stream) -> None:
        async for batch in stream:
            try:
                await batch.lane.processor.process(batch.records, batch.txn)
            except (KafkaError, OSError, TimeoutError) as error:
                # Not the records' fault: the lane starts again and reads them once more.
                if not batch.applied.done():
                    batch.applied.set_exception(error)
            except Exception as error:
                if not batch.applied.done():
                    poison = PoisonError(str(error))
                    poison.__cause__ = error
                    batch.applied.set_exception(poison)
            else:
                if not batch.applied.done():
                    batch.applied.set_result(None)

    async def _submit(self, lane: Lane, records: Sequence[ConsumerRecord], txn: Transaction) -> None:
        batch = LaneBatch(lane, records, txn)
        await self._batches.send(value=batch)
        await batch.applied

    async def _take(self, lanes: set[int]) -> None:
        for number in sorted(lanes):
            lane = Lane(self.config, number, self._make_processor(number))
            self.running[number] = lane
            lane.start(self._submit)
            lane.done.add_done_callback(self._lane_ended)

    async def _give_up(self, lanes: set[int]) -> None:
        leaving = [self.running.pop(number) for number in lanes if number in self.running]
        await asyncio.gather(*(lane.stop() for lane in leaving), return_exceptions=True)

    def _lane_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None or self.failure.done():
            return
        log.error("%s died", task.get_name(), exc_info=task.exception())
        self.failure.set_exception(task.exception())  # type: ignore[arg-type]
