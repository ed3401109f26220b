"""Ours, in the engine benchmark: the job as a lane's processor. ``python -m pipeline.bench.engine_worker SPEC``.

``SPEC``: a JSON object, the same for every contender (benchmarks/peers/README.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import uvloop

from pipeline.agents.health import health
from pipeline.stream.config import LaneConfig
from pipeline.stream.kafka import Kafka
from pipeline.stream.lanes import LaneApp
from pipeline.stream.reader import Batch
from pipeline.stream.store import Table
from pipeline.stream.transaction import Transaction

_TABLE = "counts"


class Job:
    """Adds to each event its channel and, where ``stateful``, how many the customer has had on that channel."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._input: set[str] = set() if spec.get("gated") else {spec["input"]}
        self._later: set[str] = {spec["input"]}
        self._output: str = spec["output"]
        self._channels: dict[str, str] = spec["channels"]
        self._stateful: bool = spec["stateful"]

    def topics(self) -> set[str]:
        """The one input; none before the gate is opened."""
        return self._input

    def open_gate(self) -> None:
        """Read the input from now on."""
        self._input = self._later

    async def process(self, batches: Sequence[Batch], txn: Transaction) -> None:
        """Apply the batches: parse, look up, count, write under the same key."""
        loads, dumps, send, channels = orjson.loads, orjson.dumps, txn.to(self._output), self._channels
        if not self._stateful:
            for batch in batches:
                for record in batch.records:
                    event = loads(record.value or b"")
                    event["channel"] = channels[event["source"]]
                    send(record.key, dumps(event))
            return
        found: list[tuple[bytes | None, bytes, dict[str, Any]]] = []
        for batch in batches:
            for record in batch.records:
                event = loads(record.value or b"")
                event["channel"] = channel = channels[event["source"]]
                found.append((record.key, b"%s|%s" % (record.key, channel.encode()), event))
        await txn.load(_TABLE, (place for _, place, _ in found))
        for key, place, event in found:
            before = txn.get(_TABLE, place)
            event["count"] = count = int(before) + 1 if before is not None else 1
            txn.put(_TABLE, place, b"%d" % count)
            send(key, dumps(event))

    def tick(self, now_ms: int, txn: Transaction) -> bool:
        """Nothing is due by time."""
        return False

    def reset(self) -> None:
        """Nothing is remembered."""


class WorkerProcess:
    """This module as a process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, state: Path) -> None:
        self._process = process
        self.pid = process.pid
        self.port = port
        self.state = state

    @classmethod
    async def start(cls, spec: dict[str, Any], state: Path) -> WorkerProcess:
        """Start it; ``spec`` has a ``port`` for its health."""
        await asyncio.to_thread(state.mkdir, parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, json.dumps(spec))
        return cls(process, spec["port"], state)

    def check(self) -> None:
        """Raises RuntimeError when it has ended."""
        if self._process.returncode is not None:
            raise RuntimeError(f"the worker ended with {self._process.returncode}")

    def open_gate(self) -> None:
        """Let it read its input; it was started with ``gated``."""
        self._process.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    async def stop(self) -> None:
        """SIGTERM, and wait."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        await self._process.wait()


async def main(spec: dict[str, Any]) -> None:
    """Run the lanes until SIGTERM. Raises what the role died of."""
    tables = [Table(_TABLE, spec["changelog"])] if spec["stateful"] else []
    config = LaneConfig(
        Kafka(spec["bootstrap"]),
        spec["group"],
        spec["group"],
        spec["partitions"],
        tables=tables,
        store_dir=Path(spec["state_dir"]),
        guarantee="exactly_once" if spec["exactly_once"] else "at_least_once",
        instance=spec.get("instance"),
        standbys=spec.get("standbys", 0),
        session=spec.get("session", 10.0),
    )
    jobs: list[Job] = []

    def job(lane: int) -> Job:
        jobs.append(Job(spec))
        return jobs[-1]

    def open_gates() -> None:
        for each in jobs:
            each.open_gate()

    app = LaneApp(config, job)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, open_gates)
    app.failure.add_done_callback(lambda _failure: stop.set())
    async with health([app], "127.0.0.1", spec.get("port")):
        await app.start()
        try:
            await stop.wait()
            if app.failure.done():
                app.failure.result()
        finally:
            await app.stop()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    uvloop.run(main(json.loads(sys.argv[1])))
