"""The engine alone, for a job of your own: running totals a customer, exactly once.

    KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:9092 python examples/engine.py shop

Topics, of 4 partitions each: `shop.orders` (key: customer, value: cents) in, `shop.totals` out, `shop.state`
(compacted), `lanes.shop` and `dead.shop`. Any number of these processes share the lanes; each wants a directory of its
own, HEADRACE_DATA_DIR. docs/engine.md explains it.
"""

import asyncio
import os
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

NAME = sys.argv[1]


class Totals:
    """What one lane does. All that it remembers is in the table, so a crash, a move or a halved batch needs no code."""

    def topics(self) -> set[str]:
        return {f"{NAME}.orders"}

    async def process(self, batches: Sequence[Batch], txn: Transaction) -> None:
        send = txn.to(f"{NAME}.totals")
        for batch in batches:
            for order in batch.records:
                total = int(txn.get("totals", order.key) or 0) + int(order.value)
                txn.put("totals", order.key, b"%d" % total)
                send(order.key, b"%d" % total)

    def tick(self, now_ms: int, txn: Transaction) -> bool:
        return False  # nothing that time alone would do

    def reset(self) -> None:
        pass  # nothing remembered outside the table


async def main() -> None:
    stores = Path(os.environ.get("HEADRACE_DATA_DIR", ".headrace")) / "stores" / NAME
    kafka = Kafka(os.environ["KAFKA_BOOTSTRAP_SERVERS"])
    table = Table("totals", changelog=f"{NAME}.state")
    config = LaneConfig(
        kafka, NAME, NAME, lanes=4, tables=[table], store_dir=stores, instance=os.environ.get("HEADRACE_INSTANCE")
    )
    app = LaneApp(config, lambda lane: Totals())
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await app.start()
    try:
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([stopped, app.failure], return_when=asyncio.FIRST_COMPLETED)
        if app.failure.done():
            app.failure.result()  # raises what a lane died of: end, and be restarted
    finally:
        await app.stop()


if __name__ == "__main__":
    asyncio.run(main())
