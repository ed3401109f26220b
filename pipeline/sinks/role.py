"""The sink role: the delivery engine for the lanes that the role's group gives this process."""

from __future__ import annotations

import asyncio
import gc
import logging

from pipeline.control.log import ControlLog
from pipeline.control.secrets import Secrets
from pipeline.settings import Settings
from pipeline.sinks.engine import DeliveryEngine
from pipeline.stream.group import LaneGroup, until
from pipeline.stream.kafka import Kafka

__all__ = ["GROUP", "LANES_TOPIC", "run_sink"]

log = logging.getLogger(__name__)

GROUP = "headrace-sink"
LANES_TOPIC = "lanes.sink"


async def run_sink(
    kafka: Kafka, control: ControlLog, secrets: Secrets, settings: Settings, stop: asyncio.Event
) -> None:
    """Deliver until ``stop`` is set; then let requests in flight end, commit, and leave the group.

    ``control`` and ``secrets`` are started and stay the caller's. Raises what the engine, the control log or the
    secrets died of: the process should then end with a non-zero code and be restarted.
    """
    # Thousands of records in hand, none of them garbage: the collector's default pace took 15 % (measured).
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    engine = DeliveryEngine(kafka, control, secrets, settings)
    await engine.start()
    group = LaneGroup(kafka, GROUP, LANES_TOPIC, settings.lanes, lambda owned, _: engine.assign(owned), engine.revoke)
    failures = [engine.failure, control.failure, secrets.failure]
    try:
        await group.start()
        log.info("sink runs")
        await until(stop, failures)
    finally:
        try:
            await group.stop()
        finally:
            await engine.stop()
