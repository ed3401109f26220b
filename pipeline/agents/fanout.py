"""Fan-out: `events` and `moves` in; customers, history, counts, transitions and dispatch out. Wiring only."""

from __future__ import annotations

import asyncio

from pipeline.agents.backfill import Backfill
from pipeline.agents.config import lane_config
from pipeline.agents.fanout_lane import FanoutLane
from pipeline.agents.fences import Fences
from pipeline.agents.programs import Programs
from pipeline.agents.tables import DAY_MS, TABLES
from pipeline.control.erasure_keys import ErasureKeys
from pipeline.control.log import ControlLog
from pipeline.lake.store import open_store
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka
from pipeline.stream.lanes import LaneApp

__all__ = ["Fanout"]


class Fanout:
    """The role: keyed state per lane, everything exactly once."""

    def __init__(self, kafka: Kafka, control: ControlLog, settings: Settings) -> None:
        programs = Programs()
        config = lane_config(
            kafka, settings, "fanout", tables=TABLES, store_dir=settings.data_dir / "stores" / "fanout"
        )
        store, turn = open_store(settings), asyncio.Semaphore(1)
        self._keys = ErasureKeys(kafka, settings)

        def lane(number: int) -> FanoutLane:
            backfill = Backfill(kafka, store, number, turn)
            fences = Fences(self._keys.get)
            join_ms = settings.join_days * DAY_MS
            return FanoutLane(number, settings.lanes, control, programs, backfill, fences, join_ms)

        self.lanes = LaneApp(config, lane)

    async def start(self) -> None:
        """Join the group; lanes restore and run as they are assigned."""
        await self.lanes.start()

    async def stop(self) -> None:
        """Finish what is at hand and leave."""
        await self.lanes.stop()
        await self._keys.stop()
