"""A role small enough to check: counts records per key, keeps the counts, and tells each new count.

``counting_worker.py BOOTSTRAP NAME LANES STORE_DIR``: topics ``NAME.in*`` in, ``NAME.out`` out, ``NAME.log`` changelog.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.stream.config import LaneConfig
from pipeline.stream.kafka import Kafka
from pipeline.stream.lanes import LaneApp
from pipeline.stream.reader import Batch
from pipeline.stream.store import Table
from pipeline.stream.transaction import Transaction


class Counting:
    """The processor. A value of ``poison`` is a bug of ours."""

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
            txn.send(self.output, record.key, b"%d" % count)

    def tick(self, now_ms: int, txn: Transaction) -> bool:
        return False

    def reset(self) -> None:
        pass


def lane_app(kafka: Kafka, name: str, lanes: int, stores: Path, inputs: set[str]) -> LaneApp:
    """The app of the role ``name``."""
    config = LaneConfig(
        kafka, name, name, lanes, tables=[Table("counts", f"{name}.log")], store_dir=stores, frontier_ms=100
    )
    return LaneApp(config, lambda _: Counting(inputs, f"{name}.out"))


async def main() -> None:
    """Run until SIGTERM."""
    bootstrap, name, lanes, stores = sys.argv[1:]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    app = lane_app(Kafka(bootstrap), name, int(lanes), Path(stores), {f"{name}.in0", f"{name}.in1"})
    await app.start()
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait([waiting, app.failure], return_when=asyncio.FIRST_COMPLETED)
    await app.stop()


if __name__ == "__main__":
    asyncio.run(main())
