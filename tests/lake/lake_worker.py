"""The lake, with or without a group, as a process until SIGTERM; options are those of `lake_world.World.worker`."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from typing import Any

import uvloop

from pipeline.lake.erasures import Erasures
from pipeline.lake.kinds import KINDS
from pipeline.lake.lane import LakeLane, Names, Pace
from pipeline.lake.role import run_lake
from pipeline.lake.store import open_store
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka


async def main(given: dict[str, Any]) -> None:
    """Run the role."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    kafka, names, pace = Kafka(given["bootstrap"]), Names(**given["names"]), Pace(**given["pace"])
    settings = Settings(lanes=given["lanes"], lake=given["folder"])
    if given["group"]:
        await run_lake(kafka, settings, stop, names, pace)
        return
    erasures = Erasures(kafka, names.erasures)
    await erasures.start()
    store = open_store(settings)
    lanes = [LakeLane(kafka, names, KINDS["events"], n, store, pace, erasures) for n in range(given["lanes"])]
    for lane in lanes:
        lane.start()
    await stop.wait()
    await asyncio.gather(*(lane.stop() for lane in lanes))
    await erasures.stop()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    uvloop.run(main(json.loads(sys.argv[1])))
