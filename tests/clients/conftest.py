"""A gateway on the tests' Kafka with a partner of its own, a front before it, the npm clients, a site in Chromium."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from control_topics import make_control_topics
from faulty_front import Front, front_to
from landed_events import Landed, landed
from npm_modules import wanted_modules
from records import make_topic

from pipeline.control.log import ControlLog
from pipeline.control.secrets import Secrets
from pipeline.gateway.role import run_gateway
from pipeline.models.control import Command, Source
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka


@dataclass
class Gateway:
    """A running gateway, and a partner with sources to send to."""

    kafka: Kafka
    control: ControlLog
    partner: str
    url: str

    async def source(self, bridge: str, **more: Any) -> Source:
        """A new source of that bridge, with its topic."""
        code = f"s{uuid.uuid4().hex[:8]}"
        await self.command("source.create", id=code, name=code, code=code, bridge=bridge, **more)
        await make_topic(self.kafka, f"raw.{self.partner}.{code}", 4)
        return self.control.state.sources[self.partner, code]

    async def landed(self, source: Source) -> list[Landed]:
        return await landed(self.kafka, source)

    async def command(self, verb: str, entity: str | None = None, expect: int | None = None, **data: Any) -> None:
        written = Command(
            id=uuid.uuid4().hex, command=verb, partner=self.partner, entity=entity, expect=expect, data=data
        )
        verdict = await self.control.submit(written)
        assert verdict.status < 300, verdict


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(kafka: Kafka) -> AsyncIterator[Gateway]:
    await make_control_topics(kafka)
    control, secrets = ControlLog(kafka), Secrets(kafka, [os.urandom(32)])
    await control.start()
    await secrets.start()
    stop = asyncio.Event()
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    role = asyncio.create_task(run_gateway(kafka, control, secrets, Settings(gateway_port=0), stop, address.set_result))
    await asyncio.wait({role, address}, return_when=asyncio.FIRST_COMPLETED)
    if role.done():
        role.result()
    made = Gateway(kafka, control, f"t{uuid.uuid4().hex[:12]}", await address)
    await made.command("partner.create", id=made.partner, name="Test")
    try:
        yield made
    finally:
        stop.set()
        await role
        await secrets.stop()
        await control.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def front(gateway: Gateway) -> AsyncIterator[Front]:
    """Before the gateway; a test's own."""
    async with front_to(gateway.url) as made:
        yield made


@pytest.fixture(scope="session")
def modules() -> Path:
    """The folder with the npm clients."""
    try:
        return wanted_modules()
    except RuntimeError as error:
        pytest.skip(f"MISSING: the npm clients; npm says: {error}")
