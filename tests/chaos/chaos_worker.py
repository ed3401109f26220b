"""A worker that can be checked: it counts, and tells of every record that it has applied.

``chaos_worker.py OPTIONS``, a JSON object of `Options`. Of the role NAME it reads ``NAME.in0`` and ``NAME.in1``,
counts by key in the table ``counts`` (changelog ``NAME.log``) and sends a record to ``NAME.out`` for each that it
reads. Until SIGTERM; ends with code 1 when the role fails.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson
import uvloop

from pipeline.stream import lane, restore
from pipeline.stream.config import Guarantee, LaneConfig
from pipeline.stream.inputs import Inputs
from pipeline.stream.kafka import Kafka
from pipeline.stream.lanes import LaneApp
from pipeline.stream.reader import Batch, Record
from pipeline.stream.seen import Seen
from pipeline.stream.store import Table
from pipeline.stream.transaction import Transaction

__all__ = ["HUGE", "POISON", "SEEN", "WAITS_TOLD", "WIDE", "Options", "Recorder", "applied", "lane_config", "tables"]

#: Values that ask for trouble: a bug of ours; an output larger than any batch; one larger than ``NAME.narrow`` takes.
POISON, HUGE, WIDE = b"poison", b"huge", b"wide"
#: What the keys of ids begin with.
SEEN = b"seen"
#: The last line of the answer to SIGUSR1.
WAITS_TOLD = "that is all of them"
_HUGE_BYTES, _WIDE_BYTES = 2_100_000, 100_000


@dataclass(frozen=True)
class Options:
    """Seconds are short, so that a test need not wait for what a user would.

    ``unique``: values are ids, and a record whose id was seen before is passed by.

    ``patience``: of the clients for an answer, and of a transaction; ``delay``: of the processor with each batch;
    ``restore_delay``: of a restore with each step, which then takes ``restore_records`` at most.
    """

    bootstrap: str
    name: str
    lanes: int
    stores: str
    guarantee: Guarantee = "exactly_once"
    standbys: int = 0
    instance: str | None = None
    session: float = 2.0
    max_records: int = 300
    budget: float = 10.0
    stall: float = 300.0
    recommit: float = 3600.0
    patience: float = 15.0
    delay: float = 0.0
    restore_delay: float = 0.0
    restore_records: int = 20_000
    unique: bool = False


class PromptKafka(Kafka):
    """Clients that wait less than aiokafka's 40 s for an answer."""

    patience = 15.0

    def auth(self) -> dict[str, Any]:
        """As it is, with the patience of the process."""
        return super().auth() | {"request_timeout_ms": int(self.patience * 1000)}


def applied(count: int, total: int, topic: str, partition: int, offset: int) -> tuple[int, int]:
    """A key's state with one more record: how many, and a sum that tells which, whatever their order."""
    return count + 1, (total + crc32(f"{topic}:{partition}:{offset}".encode())) % (1 << 64)


class Recorder:
    """The processor."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._inputs = {f"{options.name}.in0", f"{options.name}.in1"}
        self._seen = Seen("counts", prefix=SEEN)

    def topics(self) -> set[str]:
        """Two."""
        return self._inputs

    async def process(self, batches: Sequence[Batch], txn: Transaction) -> None:
        """Count each record, and tell."""
        for batch in batches:
            for record in batch.records:
                self._apply(batch, record, txn)
        if self._options.delay:
            await asyncio.sleep(self._options.delay)

    def _apply(self, batch: Batch, record: Record, txn: Transaction) -> None:
        if self._options.unique and not self._seen.first(txn, record.value or b"", record.timestamp):
            return
        key = record.key or b""
        value = txn.get("counts", key)
        count, total = (int(part) for part in value.split()) if value else (0, 0)
        count, total = applied(count, total, batch.topic, batch.partition, record.offset)
        txn.put("counts", key, b"%d %d" % (count, total))
        if record.value == POISON:
            raise ValueError("a bug of ours")
        body = orjson.dumps([batch.topic, batch.partition, record.offset, count])
        if record.value == HUGE:
            body += b" " * _HUGE_BYTES
        if record.value == WIDE:
            txn.send(f"{self._options.name}.narrow", key, os.urandom(_WIDE_BYTES))  # nothing to compress
        txn.send(f"{self._options.name}.out", key, body)

    def tick(self, now_ms: int, txn: Transaction) -> bool:
        """No timers."""
        return False

    def reset(self) -> None:
        """Nothing is remembered but by the ids."""
        self._seen.reset()


def tables(name: str) -> list[Table]:
    """The tables of role ``name``."""
    return [Table("counts", f"{name}.log")]


def lane_config(options: Options) -> LaneConfig:
    """The role as `Options` say."""
    return LaneConfig(
        PromptKafka(options.bootstrap),
        options.name,
        options.name,
        options.lanes,
        tables=tables(options.name),
        store_dir=Path(options.stores),
        guarantee=options.guarantee,
        standbys=options.standbys,
        instance=options.instance,
        max_records=options.max_records,
        stall=options.stall,
        budget=options.budget,
        session=options.session,
        recommit=options.recommit,
    )


def _impatient(options: Options) -> None:
    """Constants of the engine that only a test wants otherwise."""
    PromptKafka.patience = options.patience
    lane._TRANSACTION_SECONDS = options.patience
    restore._MAX_RECORDS = options.restore_records
    if options.restore_delay:
        step = restore.Changelogs.step

        async def slowly(self: restore.Changelogs, timeout: float = 0.1) -> None:
            await step(self, timeout)
            logging.getLogger("pipeline.chaos").info("restore step, %d offsets left", self.left())
            await asyncio.sleep(options.restore_delay)

        restore.Changelogs.step = slowly  # type: ignore[method-assign]


def _tell_where_lanes_wait() -> None:
    """To stderr: the lines at which each lane's task stands, outermost first."""
    for task in asyncio.all_tasks():
        if not task.get_name().startswith(("lane", "standby")):
            continue
        print(f"{task.get_name()} waits in", file=sys.stderr)
        awaited: Any = task.get_coro()
        while frame := getattr(awaited, "cr_frame", None):
            print(f"    {frame.f_code.co_qualname} {frame.f_code.co_filename}:{frame.f_lineno}", file=sys.stderr)
            if isinstance(inputs := frame.f_locals.get("self"), Inputs):
                print(f"    positions {inputs.positions}, lag {inputs.lag()}", file=sys.stderr)
                print(f"    fetching: {inputs.reader._fetcher.error_future!r}", file=sys.stderr)
            awaited = awaited.cr_await
        print(f"    {awaited!r}", file=sys.stderr)
    print(WAITS_TOLD, file=sys.stderr, flush=True)


async def main(options: Options) -> None:
    """Run until SIGTERM, or until the role fails."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _tell_where_lanes_wait)
    app = LaneApp(lane_config(options), lambda _: Recorder(options))
    await app.start()
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait([waiting, app.failure], return_when=asyncio.FIRST_COMPLETED)
    failure = app.failure.exception() if app.failure.done() else None
    await app.stop()
    if failure is not None:
        raise failure


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s")
    logging.getLogger("pipeline").setLevel(logging.INFO)
    # Lanes tell when their broker is away; the client does a hundred times a second.
    logging.getLogger("aiokafka").addFilter(lambda _: False)
    for module in ("cluster", "conn", "consumer.fetcher", "consumer.group_coordinator", "producer.sender"):
        logging.getLogger(f"aiokafka.{module}").setLevel(logging.CRITICAL)
    given = Options(**json.loads(sys.argv[1]))
    _impatient(given)
    uvloop.run(main(given))
