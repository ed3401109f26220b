"""A role small enough to check: counts records per key, keeps the counts, and tells each new count.

``counting_worker.py BOOTSTRAP NAME LANES STORE_DIR [CONFIG]``: topics ``NAME.in*`` in, ``NAME.out`` out, ``NAME.log``
changelog; ``CONFIG``: a JSON object of more that `LaneConfig` takes. Until SIGTERM; ends with code 1 when the role
fails.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.stream.config import LaneConfig
from pipeline.stream.kafka import Kafka
from pipeline.stream.lanes import LaneApp
from pipeline.stream.reader import Batch
from pipeline.stream.store import Table
from pipeline.stream.transaction import Transaction


class Counting:
    """The processor. Values that ask for trouble: ``poison`` is a bug of ours, ``hang`` waits for ever, ``block`` holds
    the event loop for ever."""

    def __init__(self, inputs: set[str], output: str) -> None:
        self.inputs = inputs
        self.output = output

    def topics(self) -> set[str]:
        return self.inputs

    async def process(self, batches: Sequence[Batch], txn: Transaction) -> None:
        for record in (record for batch in batches for record in batch.records):
            value = txn.get("counts", record.key)
            count = int(value) + 1 if value else 1
            txn.put("counts", record.key, b"%d" % count)
            if record.value == b"poison":
                raise ValueError("a bug of ours")
            if record.value == b"hang":
                await asyncio.Event().wait()
            while record.value == b"block":
                time.sleep(0.1)
            txn.send(self.output, record.key, b"%d" % count)

    def tick(self, now_ms: int, txn: Transaction) -> bool:
        return False

    def reset(self) -> None:
        pass


def lane_app(kafka: Kafka, name: str, lanes: int, stores: Path, inputs: set[str], **more: Any) -> LaneApp:
    """The app of the role ``name``; ``more`` as `LaneConfig` has it."""
    tables = [Table("counts", f"{name}.log")]
    config = LaneConfig(kafka, name, name, lanes, tables=tables, store_dir=stores, **({"frontier_ms": 100} | more))
    return LaneApp(config, lambda _: Counting(inputs, f"{name}.out"))


async def main() -> None:
    """Run until SIGTERM, or until the role fails."""
    bootstrap, name, lanes, stores, *config = sys.argv[1:]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    inputs, more = {f"{name}.in0", f"{name}.in1"}, json.loads(config[0]) if config else {}
    app = lane_app(Kafka(bootstrap), name, int(lanes), Path(stores), inputs, **more)
    await app.start()
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait([waiting, app.failure], return_when=asyncio.FIRST_COMPLETED)
    failure = app.failure.exception() if app.failure.done() else None
    if failure is not None:
        print(app.unready(), flush=True)
    await app.stop()
    if failure is not None:
        raise failure


if __name__ == "__main__":
    asyncio.run(main())
