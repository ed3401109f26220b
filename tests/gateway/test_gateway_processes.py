"""Gateways as processes of their own: killed in the middle, two at a time, one rate over both."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import orjson
import pytest
from control_topics import make_control_topics
from eventually import eventually
from frozen import frozen
from records import make_topic, read_all

from pipeline.bridges.link_token import Tracked, sign
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.control.log import ControlLog
from pipeline.control.secrets import Secrets, load_keys
from pipeline.gateway.usage import TOPIC as USAGE
from pipeline.models.control import Command
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka

pytestmark = pytest.mark.kafka


@dataclass
class World:
    """A partner with a source, and gateway processes."""

    kafka: Kafka
    control: ControlLog
    partner: str
    folder: Path
    running: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def gateway(self, port: int | None = None) -> tuple[str, asyncio.subprocess.Process]:
        """Its address, once it answers."""
        if port is None:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
        environment = os.environ | {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "HEADRACE_DATA_DIR": str(self.folder),
            "HEADRACE_GATEWAY_PORT": str(port),
        }
        command = [sys.executable, "-m", "pipeline.cli.main", "gateway"]
        process = await asyncio.create_subprocess_exec(*command, env=environment)
        self.running.append(process)
        address = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=address) as http:

            async def answers() -> bool:
                try:
                    return (await http.get("/readyz")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(answers, timeout=60)
        return address, process

    async def command(self, verb: str, entity: str | None = None, expect: int | None = None, **data: object) -> None:
        written = Command(
            id=os.urandom(8).hex(), command=verb, partner=self.partner, entity=entity, expect=expect, data=data
        )
        verdict = await self.control.submit(written)
        assert verdict.status < 300, verdict


@pytest.fixture
async def world(kafka: Kafka, prefix: str, tmp_path: Path) -> AsyncIterator[World]:
    async with made(kafka, prefix, tmp_path) as found:
        yield found


@asynccontextmanager
async def made(kafka: Kafka, prefix: str, folder: Path) -> AsyncIterator[World]:
    """One on this cluster; its processes end with the block."""
    await make_control_topics(kafka)
    control = ControlLog(kafka)
    await control.start()
    world = World(kafka, control, prefix, folder)
    try:
        await world.command("partner.create", id=prefix, name="Test")
        await world.command("source.create", id="app", name="App", code="app", bridge="rest")
        await make_topic(kafka, f"raw.{prefix}.app", 4)
        yield world
    finally:
        for process in world.running:
            if process.returncode is None:
                process.terminate()
            await process.wait()
        await control.stop()


async def test_every_200_is_in_kafka_whenever_the_gateway_is_killed(world: World) -> None:
    acknowledged: set[str] = set()
    port: int | None = None
    for round_ in range(2):
        address, process = await world.gateway(port)
        port = int(address.rpartition(":")[2])

        async def send(worker: int, address: str = address, round_: int = round_) -> None:
            async with httpx.AsyncClient(base_url=address) as http:
                for n in range(100_000):
                    names = [f"{round_}-{worker}-{n}-{m}" for m in (1, 2)]
                    events = [{"event": "X", "userId": f"u-{n % 40}", "messageId": name} for name in names]
                    try:
                        answer = await http.post(
                            "/v1/batch", json={"writeKey": f"{world.partner}.app", "batch": events}
                        )
                    except httpx.TransportError:
                        return
                    assert answer.status_code == 200
                    acknowledged.update(names)

        before = len(acknowledged)
        workers = [asyncio.create_task(send(worker)) for worker in range(12)]
        await eventually(lambda before=before: len(acknowledged) > before + 300)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        await asyncio.gather(*workers)
        await process.wait()
    recorded = [orjson.loads(r.value)["messageId"] for r in await read_all(world.kafka, f"raw.{world.partner}.app")]
    assert acknowledged <= set(recorded)
    assert len(recorded) == len(set(recorded))


@pytest.mark.slow
async def test_clicks_on_disk_outlast_a_gateway_that_is_killed_while_kafka_is_away(
    broker_factory: Callable[..., EmbeddedBroker], prefix: str, tmp_path: Path
) -> None:
    with broker_factory() as broker:
        async with made(broker.kafka, prefix, tmp_path) as world:
            secrets = Secrets(broker.kafka, load_keys(Settings(data_dir=tmp_path)))
            await secrets.start()
            name = await secrets.put("links secret")
            await secrets.stop()
            await world.command("source.create", id="mail", name="Mail", code="mail", bridge="links", secret=name)
            await make_topic(broker.kafka, f"raw.{prefix}.mail", 4)
            address, process = await world.gateway()
            url = "https://shop.example/"
            token = sign(Tracked(prefix, "mail", url, "header", "spring", "u", "u-1"), b"links secret")

            async def click(times: int) -> None:
                async with httpx.AsyncClient(base_url=address, timeout=30) as http:
                    for _ in range(times):
                        answer = await http.get(f"/l/{token}")
                        assert answer.headers["location"] == url, answer.text

            await eventually(lambda: _led_on(click))
            with frozen(broker):
                await asyncio.gather(*(click(10) for _ in range(5)))
                assert sum(path.stat().st_size for path in tmp_path.rglob("*.jsonl")) > 0
                process.send_signal(signal.SIGKILL)
                await process.wait()
            await world.gateway()

            async def all_there() -> bool:
                records = await read_all(broker.kafka, f"raw.{prefix}.mail")
                return len({orjson.loads(record.value)["messageId"] for record in records}) >= 51

            await eventually(all_there, 60)
            await eventually(lambda: not list(tmp_path.rglob("*.jsonl")))


async def _led_on(click: Callable[[int], Awaitable[None]]) -> bool:
    await click(1)
    return True


async def test_two_gateways_hear_of_a_switch_and_share_a_rate(world: World) -> None:
    await make_topic(world.kafka, USAGE, 1)
    (first, _), (second, _) = await asyncio.gather(world.gateway(), world.gateway())
    async with httpx.AsyncClient() as http:

        async def post(address: str, count: int = 1) -> httpx.Response:
            events = [{"event": "X", "userId": "u"}] * count
            return await http.post(f"{address}/v1/batch", json={"writeKey": f"{world.partner}.app", "batch": events})

        async def both(wanted: int) -> bool:
            return [(await post(address)).status_code for address in (first, second)] == [wanted, wanted]

        assert await both(200)
        for version, active, wanted in ((1, False, 403), (2, True, 200)):
            await world.command("source.edit", "app", version, active=active)
            changed = time.monotonic()
            await eventually(lambda wanted=wanted: both(wanted))  # type: ignore[misc]
            assert time.monotonic() - changed < 2
        await world.command("source.edit", "app", 3, policy={"daily": 40})
        await eventually(lambda: _limited(post, first))
        # The first has taken some; the second, which took none since, hears of it, and takes no more than what is left.

        async def refused() -> bool:
            answer = await post(second, 40)
            if answer.status_code == 200:
                return False
            assert answer.status_code == 429
            assert answer.json()["code"] == "quota"
            assert 0 < int(answer.headers["retry-after"]) <= 86_400
            return True

        await eventually(refused)


async def _limited(post: object, address: str) -> bool:
    """Whether the edit has come: a batch beyond the quota is refused, one within it is taken."""
    answer = await post(address, 41)  # type: ignore[operator]
    if answer.status_code != 429:
        return False
    assert (await post(address, 30)).status_code == 200  # type: ignore[operator]
    return True
