"""A role: a Faust app whose agent gets whole batches of the lanes that this process owns."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import faust
from aiokafka.errors import KafkaError
from mode.utils.queues import FlowControlEvent, ThrowableQueue

from pipeline.stream.config import LaneConfig, Processor
from pipeline.stream.group import LaneGroup, faust_app
from pipeline.stream.lane import Lane
from pipeline.stream.reader import Batch
from pipeline.stream.refusals import PoisonError
from pipeline.stream.standby import Standby
from pipeline.stream.store import Store
from pipeline.stream.transaction import Transaction
from pipeline.stream.watchdog import LoopWatchdog, StalledError

__all__ = ["LaneApp"]

log = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0
#: A member learns of a rebalance by the answer to a heartbeat.
_HEARTBEAT_SECONDS = 3.0


@dataclass
class LaneWork:
    """What the agent's stream carries: a lane's batches, its transaction, and a promise that they were applied."""

    lane: Lane
    batches: Sequence[Batch]
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
    """Membership, lanes, standbys and agent of one role in one process.

    ``make_processor(lane number)`` makes the object that holds a lane's logic. ``failure`` resolves with an
    exception when the role can't go on; the process should then stop with a non-zero code.
    """

    def __init__(self, config: LaneConfig, make_processor: Callable[[int], Processor]) -> None:
        self.config = config
        #: The lanes that this process owns, by number; and its copies of others'.
        self.running: dict[int, Lane] = {}
        self.standbys: dict[int, Standby] = {}
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._make_processor = make_processor
        self._settled = False
        self._settling = time.monotonic()
        self._stopping = False
        self._watching: asyncio.Task[None] | None = None
        self._watchdog = LoopWatchdog(config.stall, config.role)
        self.app = faust_app(
            config.kafka,
            config.app,
            # Never 0: Faust would then choose another assignor, and a group's members must agree on one.
            table_standby_replicas=max(1, config.standbys),
            consumer_group_instance_id=f"{config.app}-{config.instance}" if config.instance else None,
            broker_session_timeout=config.session,
            broker_heartbeat_interval=min(config.session / 5, _HEARTBEAT_SECONDS),
        )
        # In memory, so Faust's per-record path is not touched: one event a batch.
        self._work = LaneChannel(self.app, maxsize=16)
        self.app.agent(self._work, name=f"{config.app}.agent")(self._agent)
        self.group = LaneGroup(
            config.kafka,
            config.app,
            f"lanes.{config.role}",
            config.lanes,
            self._settle,
            self._hold,
            app=self.app,
        )

    async def start(self) -> None:
        """Join the group; lanes start as they are assigned. Where that fails nothing is left running."""
        # A batch makes tens of thousands of objects that all live until its commit; at Python's default the
        # collector walks them over and over (a quarter of intake's time). What is loaded by now stays.
        gc.freeze()
        gc.set_threshold(100_000, 20, 50)
        self._watchdog.start()
        self._settling = time.monotonic()
        self._watching = asyncio.create_task(self._watch(), name=f"{self.config.role} watch")
        try:
            await self.group.start()
        except BaseException:
            self._unwatch()
            raise

    async def stop(self) -> None:
        """Finish the transactions at hand, close the stores, leave the group."""
        self._stopping = True
        self._unwatch()
        # Before the group is left, so that whoever takes the lanes over finds them free.
        for store in (await self._close([*self.running], [*self.standbys])).values():
            await _closed(store)
        await self.group.stop()
        if self.failure.done() and not self.failure.cancelled():
            self.failure.exception()

    def unready(self) -> str | None:
        """Why this process can't be relied on now, in a line; None when all its lanes are restored and read on."""
        if self.failure.done():
            return f"{self.config.role}: {self.failure.exception()!r}"
        if not self._settled:
            return f"{self.config.role}: the group has not settled"
        closed = sorted(number for number, lane in self.running.items() if not lane.open)
        if closed:
            return f"{self.config.role}: lanes {closed} are being restored"
        return self._stalled(self.config.stall / 2)

    def status(self) -> dict[str, Any]:
        """Lanes and standbys, for people: state, lag in records, frontier (ms), records since the start."""
        lanes = {
            str(number): {
                "state": "held" if lane.held else "running" if lane.open else "restoring",
                "lag": lane.lag(),
                "frontier": lane.frontier.moment,
                "records": lane.records,
            }
            for number, lane in sorted(self.running.items())
        }
        return {"lanes": lanes, "standbys": {str(n): {"behind": each.behind} for n, each in self.standbys.items()}}

    async def _agent(self, stream: faust.Stream) -> None:
        async for work in stream:
            try:
                await work.lane.processor.process(work.batches, work.txn)
            except (KafkaError, OSError, TimeoutError) as error:
                # Not the records' fault: the lane starts again and reads them once more.
                if not work.applied.done():
                    work.applied.set_exception(error)
            except Exception as error:
                if not work.applied.done():
                    poison = PoisonError(str(error))
                    poison.__cause__ = error
                    work.applied.set_exception(poison)
            else:
                if not work.applied.done():
                    work.applied.set_result(None)

    async def _submit(self, lane: Lane, batches: Sequence[Batch], txn: Transaction) -> None:
        work = LaneWork(lane, batches, txn)
        await self._work.put(work)  # `send` would make it an event, which Faust skips while a rebalance begins
        await work.applied

    # -- what the group says ---------------------------------------------------------------------------------

    async def _hold(self, lanes: set[int]) -> None:
        """Until the group has settled no transaction is begun, and everything stays open: most lanes come back."""
        self._settled = False
        self._settling = time.monotonic()
        await asyncio.gather(*(self.running[number].hold() for number in lanes if number in self.running))

    async def _settle(self, owned: set[int], standbys: set[int]) -> None:
        if self._stopping:
            return
        standbys = standbys if self.config.standbys else set()
        stores = await self._close(self.running.keys() - owned, self.standbys.keys() - standbys)
        for number in sorted(owned):
            if number in self.running:
                self.running[number].go_on()
                continue
            lane = Lane(self.config, number, self._make_processor(number), stores.pop(number, None))
            self.running[number] = lane
            lane.start(self._submit)
            lane.done.add_done_callback(self._lane_ended)
        for number in standbys - self.standbys.keys():
            self.standbys[number] = Standby(self.config, number, stores.pop(number, None))
        await asyncio.gather(*(_closed(store) for store in stores.values()))
        self._settled = True

    async def _close(self, lanes: Iterable[int], standbys: Iterable[int]) -> dict[int, Store]:
        """Stop these; their stores, still open."""
        leaving: dict[int, Lane | Standby] = {number: self.standbys.pop(number) for number in list(standbys)}
        leaving |= {number: self.running.pop(number) for number in list(lanes)}
        stores = await asyncio.gather(*(each.stop() for each in leaving.values()))
        return {number: store for number, store in zip(leaving, stores, strict=True) if store is not None}

    # -- liveness --------------------------------------------------------------------------------------------

    def _lane_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            if self._stopping or task not in {lane.done for lane in self.running.values()}:
                return  # given up
            self._fail(RuntimeError(f"{task.get_name()} was cancelled by something within it"))
        elif task.exception() is not None:
            log.error("%s died", task.get_name(), exc_info=task.exception())
            self._fail(task.exception())

    def _fail(self, error: BaseException | None) -> None:
        if error is not None and not self.failure.done():
            self.failure.set_exception(error)

    def _stalled(self, seconds: float) -> str | None:
        """Lanes that have had input, or have been opening, for ``seconds`` without anything moving."""
        now = time.monotonic()
        if not self._settled and now - self._settling > seconds:
            return f"{self.config.role}: the group has not settled for {now - self._settling:.0f} s"
        for number, lane in self.running.items():
            waiting = now - lane.moved
            if waiting > seconds and not lane.held:
                what = f"{lane.lag():,} records wait" if lane.open else "it does not open"
                return f"{self.config.role}: lane {number} has not moved for {waiting:.0f} s and {what}"
        return None

    def _unwatch(self) -> None:
        self._watchdog.stop()
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        while True:
            self._watchdog.beat()
            if self.app.crashed:
                self._fail(self.app.crash_reason)
                return
            if stalled := self._stalled(self.config.stall):
                log.error("ALERT stalled: %s", stalled)
                self._fail(StalledError(stalled))
                return
            await asyncio.sleep(min(_LOOK_SECONDS, self.config.stall / 4))


async def _closed(store: Store) -> None:
    """Close without holding up the loop: what is not flushed yet is written."""
    await asyncio.to_thread(store.close)
