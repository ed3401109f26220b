"""The gateway's role on a Kafka, with a partner of its own."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from control_topics import make_control_topics
from landed_events import Landed, landed
from records import make_topic

from pipeline.control.log import ControlLog
from pipeline.control.secrets import Secrets
from pipeline.gateway.role import run_gateway
from pipeline.models.control import Command, Source
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka

__all__ = ["Gateway", "gateway_on"]


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


@asynccontextmanager
async def gateway_on(kafka: Kafka) -> AsyncIterator[Gateway]:
    """Runs until the context is left; then stops in order."""
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
