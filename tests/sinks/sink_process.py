"""The sink role as real processes, `headrace sink`, beside a control log, secrets and a receiver of the test's own."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from control_topics import make_control_topics
from sinks_world import LANES, SECRET, Receiver, World

from pipeline.control.log import ControlLog
from pipeline.control.secrets import Secrets, load_keys
from pipeline.models.control import Command
from pipeline.settings import Settings
from pipeline.sinks.role import LANES_TOPIC
from pipeline.stream.kafka import Kafka
from pipeline.topics.apply import ensure
from pipeline.topics.spec import expand, load

__all__ = ["sink_process", "tenant"]


@asynccontextmanager
async def sink_process(
    kafka: Kafka, data_dir: Path, failpoint: str | None = None, log: Path | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """One `headrace sink`; killed at the end if it still runs.

    ``failpoint``: as `pipeline.stream.failpoints` has it. ``log``: a file for what it says, ours by default.
    """
    environment = os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "HEADRACE_DATA_DIR": str(data_dir),
        "HEADRACE_LANES": str(LANES),
        "HEADRACE_ALLOW_NETWORKS": "127.0.0.0/8",
        "HEADRACE_RETRY_SCHEDULE": ",".join(["100ms", "200ms"] * 8),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    if failpoint is not None:
        environment["HEADRACE_FAILPOINT"] = failpoint
    code = "from pipeline.cli.main import app; app()"
    with open(log or os.devnull, "ab") as output:
        said = None if log is None else output
        running = await asyncio.create_subprocess_exec(sys.executable, "-c", code, "sink", env=environment, stderr=said)
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


@asynccontextmanager
async def tenant(kafka: Kafka, prefix: str, data_dir: Path) -> AsyncIterator[World]:
    """A partner that sends, with the integration ``hook``, in the real control log; its receiver takes everything."""
    await make_control_topics(kafka)
    await ensure(kafka, [topic for topic in expand(load(), LANES, 1) if topic.name == LANES_TOPIC])
    control, secrets = ControlLog(kafka), Secrets(kafka, load_keys(Settings(data_dir=data_dir)))
    await control.start()
    await secrets.start()

    async def command(name: str, data: dict[str, Any], **more: Any) -> None:
        verdict = await control.submit(Command(id=uuid.uuid4().hex, command=name, partner=prefix, data=data, **more))
        assert verdict.status < 300, verdict

    async with Receiver().running() as receiver:
        signing = await secrets.put(SECRET)
        await command("partner.create", {"id": prefix, "name": "P"})
        await command("partner.edit", {"sending": True}, entity=prefix, expect=1)
        hook = {"id": "hook", "name": "Hook", "kind": "webhook", "settings": {"url": receiver.url}, "secret": signing}
        await command("integration.create", hook)
        try:
            yield World(kafka, prefix, receiver, data_dir)
        finally:
            await asyncio.gather(secrets.stop(), control.stop())
