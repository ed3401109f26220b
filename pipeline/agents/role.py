"""The worker role: intake and fan-out, together or apart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.agents import ROLES
from pipeline.agents.health import health
from pipeline.agents.intake import Intake
from pipeline.control.log import ControlLog
from pipeline.settings import Settings
from pipeline.stream.group import until
from pipeline.stream.kafka import Kafka

if TYPE_CHECKING:
    from pipeline.agents.fanout import Fanout

__all__ = ["run_worker"]

log = logging.getLogger(__name__)


async def run_worker(
    kafka: Kafka, control: ControlLog, settings: Settings, stop: asyncio.Event, roles: Sequence[str] = ROLES
) -> None:
    """Run ``roles`` until ``stop`` is set.

    Raises what a lane or its group died of: the process should then end with a non-zero code and be restarted,
    since nothing that was not committed has left it.
    """
    running: list[Intake | Fanout] = []
    if "intake" in roles:
        running.append(Intake(kafka, control, settings))
    if "fanout" in roles:
        # Intake alone is spared Arrow, which fan-out reads the lake with: 90 MB.
        from pipeline.agents.fanout import Fanout

        running.append(Fanout(kafka, control, settings))
    stopped = asyncio.create_task(stop.wait())
    try:
        async with health([role.lanes for role in running], settings.host, settings.worker_port) as port:
            starting = asyncio.create_task(_start(running), name="worker start")
            await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                return
            starting.result()
            log.info("worker runs: %s%s", ", ".join(roles), f"; health on port {port}" if port else "")
            await until(stop, [role.lanes.failure for role in running])
    finally:
        stopped.cancel()
        await asyncio.gather(*(role.stop() for role in reversed(running)))


async def _start(roles: Sequence[Intake | Fanout]) -> None:
    for role in roles:
        await role.start()
