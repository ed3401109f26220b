"""The bridge role: feeds for the lanes that the role's group gives this process."""

from __future__ import annotations

import asyncio
import logging

from pipeline.control.log import ControlLog
from pipeline.control.secrets import Secrets
from pipeline.feeds.engine import FeedEngine
from pipeline.feeds.lane import Names
from pipeline.settings import Settings
from pipeline.stream.group import LaneGroup, until
from pipeline.stream.kafka import Kafka

__all__ = ["run_bridge"]

log = logging.getLogger(__name__)


async def run_bridge(
    kafka: Kafka,
    control: ControlLog,
    secrets: Secrets,
    settings: Settings,
    stop: asyncio.Event,
    names: Names | None = None,
) -> None:
    """Fetch until ``stop`` is set; then finish what is at hand, disconnect, and leave the group.

    ``control`` and ``secrets`` are started and stay the caller's. Raises what the engine, the control log or the
    secrets died of: the process should then end with a non-zero code and be restarted.
    """
    names = names or Names()
    engine = FeedEngine(kafka, control, secrets, settings, names=names)
    await engine.start()
    group = LaneGroup(kafka, names.app, names.lanes, settings.lanes, lambda owned, _: engine.settle(owned), engine.hold)
    failures = [engine.failure, control.failure, secrets.failure]
    try:
        await group.start()
        log.info("bridge runs")
        await until(stop, failures)
    finally:
        try:
            # Before the group is left, so that whoever takes the lanes over finds the origins free.
            await engine.stop()
        finally:
            await group.stop()
