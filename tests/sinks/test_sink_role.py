"""The sink role as a process of its own: real control log, secrets and lane group; kill -9 in the middle."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from control_topics import make_control_topics
from eventually import eventually
from sinks_world import LANES, SECRET, Receiver, World

from pipeline.control.log import ControlLog
from pipeline.control.secrets import Secrets, load_keys
from pipeline.models.control import Command
from pipeline.settings import KafkaSettings, Settings
from pipeline.sinks.role import LANES_TOPIC, run_sink
from pipeline.stream.kafka import Kafka
from pipeline.topics.apply import ensure
from pipeline.topics.spec import expand, load

pytestmark = pytest.mark.kafka


async def role() -> None:
    """What the process runs."""
    settings, kafka = Settings(), KafkaSettings().kafka()
    control, secrets, stop = ControlLog(kafka), Secrets(kafka, load_keys(settings)), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await control.start()
    await secrets.start()
    await run_sink(kafka, control, secrets, settings, stop)
    await secrets.stop()
    await control.stop()


@asynccontextmanager
async def process(kafka: Kafka, data_dir: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "HEADRACE_DATA_DIR": str(data_dir),
        "HEADRACE_LANES": str(LANES),
        "HEADRACE_ALLOW_NETWORKS": "127.0.0.0/8",
        "HEADRACE_RETRY_SCHEDULE": ",".join(["100ms", "200ms"] * 8),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    code = "import asyncio, test_sink_role; asyncio.run(test_sink_role.role())"
    running = await asyncio.create_subprocess_exec(sys.executable, "-c", code, env=environment)
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


async def test_kill_9_loses_nothing_and_keeps_order_and_ids(kafka: Kafka, prefix: str, tmp_path: Path) -> None:
    await make_control_topics(kafka)
    await ensure(kafka, [topic for topic in expand(load(), LANES, 1) if topic.name == LANES_TOPIC])
    control, secrets = ControlLog(kafka), Secrets(kafka, load_keys(Settings(data_dir=tmp_path)))
    await control.start()
    await secrets.start()

    async def command(name: str, data: dict[str, Any], **more: Any) -> None:
        verdict = await control.submit(Command(id=uuid.uuid4().hex, command=name, partner=prefix, data=data, **more))
        assert verdict.status < 300, verdict

    dice = random.Random(3)

    async def answer(body: dict[str, Any]) -> web.Response:
        await asyncio.sleep(dice.random() / 20)
        return web.Response(status=503 if dice.random() < 0.2 else 200)

    async with Receiver().running() as receiver:
        receiver.answer = answer
        world = World(kafka, prefix, receiver)
        signing = await secrets.put(SECRET)
        await command("partner.create", {"id": prefix, "name": "P"})
        await command("partner.edit", {"sending": True}, entity=prefix, expect=1)
        hook = {"id": "hook", "name": "Hook", "kind": "webhook", "settings": {"url": receiver.url}, "secret": signing}
        await command("integration.create", hook)
        await world.send([f"c{dice.randrange(20)}" for _ in range(400)])
        async with process(kafka, tmp_path) as first:
            await eventually(lambda: len(receiver.taken()) > 100, 60)
            first.kill()
            await first.wait()
        done = {hit.number for hit in receiver.taken()}
        before = len(receiver.taken())
        async with process(kafka, tmp_path) as second:
            await eventually(lambda: len({hit.number for hit in receiver.taken()}) == 400, 90)
            second.terminate()
            assert await asyncio.wait_for(second.wait(), 30) == 0
        assert world.order() == world.expected()
        repeated = {hit.number for hit in receiver.taken()[before:]} & done
        assert len(repeated) <= 64, "what was in flight may come twice, what was done may not"
        assert all(hit.id == f"{prefix}-{hit.number}" for hit in receiver.hits)
        await asyncio.gather(secrets.stop(), control.stop())
