"""The lake role: a `LakeLane` of each kind for each lane that the role's group gives this process."""

from __future__ import annotations

import asyncio
import logging

from pipeline.lake.erasures import Erasures
from pipeline.lake.kinds import KINDS
from pipeline.lake.lane import LakeLane, Names, Pace
from pipeline.lake.store import open_store
from pipeline.settings import Settings
from pipeline.stream.group import LaneGroup, until
from pipeline.stream.kafka import Kafka

__all__ = ["run_lake"]

log = logging.getLogger(__name__)


class _Lanes:
    """The lanes that this process owns. ``failure`` is set when one can't go on."""

    def __init__(self, kafka: Kafka, settings: Settings, names: Names, pace: Pace, erasures: Erasures) -> None:
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._kafka = kafka
        self._store = open_store(settings)
        self._names = names
        self._pace = pace
        self._erasures = erasures
        self._lanes: dict[int, list[LakeLane]] = {}

    async def hold(self, lanes: set[int]) -> None:
        """A rebalance begins: commit nothing more until `settle`."""
        await asyncio.gather(*(lane.hold() for number in lanes for lane in self._lanes.get(number, ())))

    async def settle(self, owned: set[int]) -> None:
        """These lanes are ours from now on, and no others."""
        await self.give_up(self._lanes.keys() - owned)
        for number in owned:
            if number in self._lanes:
                for lane in self._lanes[number]:
                    lane.go_on()
                continue
            self._lanes[number] = [
                LakeLane(self._kafka, self._names, kind, number, self._store, self._pace, self._erasures)
                for kind in KINDS.values()
            ]
            for lane in self._lanes[number]:
                lane.start()
                lane.done.add_done_callback(self._ended)

    async def give_up(self, lanes: set[int] | None = None) -> None:
        """Stop these, or all."""
        numbers = set(self._lanes) if lanes is None else lanes
        gone = [lane for number in numbers for lane in self._lanes.pop(number)]
        for lane in gone:
            lane.release()
        await asyncio.gather(*(lane.stop() for lane in gone))

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self.failure.done():
            log.error("the lake cannot go on: %r", error, exc_info=error)
            self.failure.set_exception(error)


async def run_lake(
    kafka: Kafka, settings: Settings, stop: asyncio.Event, names: Names | None = None, pace: Pace | None = None
) -> None:
    """Write until ``stop`` is set; then finish the transactions at hand, and leave the group.

    Raises OSError or ValueError for a lake that can't be opened, and what a lane died of: the process should then end
    with a non-zero code and be restarted.
    """
    names = names or Names()
    erasures = Erasures(kafka, names.erasures)
    lanes = _Lanes(kafka, settings, names, pace or Pace(), erasures)
    group = LaneGroup(kafka, names.app, names.lanes, settings.lanes, lambda owned, _: lanes.settle(owned), lanes.hold)
    try:
        await erasures.start()
        await group.start()
        log.info("lake runs")
        await until(stop, [lanes.failure, erasures.failure])
    finally:
        try:
            await lanes.give_up()
        finally:
            await group.stop()
            await erasures.stop()
