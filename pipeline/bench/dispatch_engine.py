"""The delivery engine as `headrace bench dispatch` runs it: whole, for given integrations, without a control log.

``python -m pipeline.bench.dispatch_engine BOOTSTRAP FOLDER NAME URL`` is one in a process of its own: it delivers, and
for each line of its input prints how many bytes it has in memory.
"""

from __future__ import annotations

import asyncio
import base64
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import uvloop

from pipeline.models.control import Command, Integration, Partner, Verdict
from pipeline.settings import Settings
from pipeline.sinks.engine import DeliveryEngine
from pipeline.stream.kafka import Kafka

__all__ = ["IN_FLIGHT", "PARTNER", "SECRET", "Tools", "child", "engine", "size"]

PARTNER = "bench"
SECRET = "whsec_" + base64.b64encode(b"x" * 32).decode()
IN_FLIGHT = 64


class Tools:
    """In place of the control log: these integrations, on."""

    def __init__(self) -> None:
        partner = Partner(id=PARTNER, name="Bench", sending=True, version=1, created=0, updated=0)
        self.state = SimpleNamespace(partners={PARTNER: partner}, integrations={})

    def subscribe(self, callback: Callable[[Any], None]) -> Callable[[], None]:
        """Nothing changes."""
        return lambda: None

    async def submit(self, command: Command) -> Verdict:
        """Nothing is to be switched off here."""
        raise NotImplementedError

    def put(self, name: str, url: str) -> Integration:
        """A webhook."""
        settings = {"url": url, "max_in_flight": IN_FLIGHT, "timeout_s": 20}
        made = Integration(
            id=name,
            partner=PARTNER,
            name=name,
            kind="webhook",
            settings=settings,
            secret="signing",
            version=1,
            created=0,
            updated=0,
        )
        self.state.integrations[PARTNER, name] = made
        return made


class _Secrets:
    def get(self, name: str) -> str:
        return SECRET


@asynccontextmanager
async def engine(kafka: Kafka, settings: Settings, tools: Tools) -> AsyncIterator[None]:
    """All lanes, delivered from the beginning, for the time of a block."""
    made = DeliveryEngine(kafka, tools, _Secrets(), settings, group=uuid.uuid4().hex)
    await made.start()
    try:
        await made.assign(set(range(settings.lanes)))
        yield
    finally:
        await made.stop(0.5)


@asynccontextmanager
async def child(kafka: Kafka, settings: Settings, tool: Integration) -> AsyncIterator[asyncio.subprocess.Process]:
    """`engine` in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pipeline.bench.dispatch_engine",
        kafka.bootstrap_servers,
        str(settings.data_dir),
        tool.id,
        tool.settings["url"],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()
        await process.wait()


async def size(process: asyncio.subprocess.Process) -> int:
    """Bytes that a `child` has in memory. Raises RuntimeError when it has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    said = await process.stdout.readline()
    if not said:
        raise RuntimeError("the engine of the benchmark has ended")
    return int(said)


async def _main() -> None:
    bootstrap, folder, name, url = sys.argv[1:]
    settings = Settings(data_dir=Path(folder), allow_networks="127.0.0.0/8")
    tools = Tools()
    tools.put(name, url)
    async with engine(Kafka(bootstrap), settings, tools):
        while await asyncio.to_thread(sys.stdin.readline):
            print(psutil.Process().memory_info().rss, flush=True)


if __name__ == "__main__":
    uvloop.run(_main())
