"""`headrace api` as a process of its own: it starts, serves, makes topics, and stops when told."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from control_topics import make_control_topics
from eventually import eventually
from ports import free_port

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.control.log import ControlLog
from pipeline.models.control import Command
from pipeline.stream.kafka import Kafka


async def topics_of(kafka: Kafka) -> set[str]:
    admin = kafka.admin()
    await admin.start()
    try:
        return set(await admin.list_topics())
    finally:
        await admin.close()


# A broker of its own: the role makes the topics of every source that the control log names.
@pytest.mark.kafka
async def test_the_api_process(broker_factory: Callable[..., EmbeddedBroker], tmp_path: Path) -> None:
    broker = broker_factory()
    await asyncio.to_thread(broker.start)
    kafka = Kafka(broker.bootstrap_servers)
    await make_control_topics(kafka)
    log = ControlLog(kafka)
    await log.start()
    data = {"id": "early", "name": "Early"}
    await log.submit(Command(id="early-bird", command="partner.create", partner="early", data=data))

    port = str(free_port())
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "HEADRACE_API_PORT": port,
        "HEADRACE_DATA_DIR": str(tmp_path),
        "HEADRACE_LANES": "2",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pipeline.cli.main",
        "api",
        env=os.environ | environment,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=address) as http:

            async def ready() -> bool:
                assert process.returncode is None
                try:
                    return (await http.get("/readyz")).status_code == 200
                except httpx.ConnectError:
                    return False

            await eventually(ready, 60.0)
            assert "raw.early.online-store" in await topics_of(kafka), "what a crash left out is made at the start"
            assert (await http.post("/v1/partners", json={"id": "acme", "name": "Acme"})).status_code == 201
            assert "raw.acme.online-store" in await topics_of(kafka)
            tool: dict[str, Any] = {"id": "crm", "name": "CRM", "kind": "webhook", "secret": "hunter2"}
            tool["settings"] = {"url": "https://crm.example/hook"}
            assert (await http.post("/v1/partners/acme/integrations", json=tool)).status_code == 201
            assert {"dispatch.acme.crm", "dispatch.acme.crm.undeliverable"} <= await topics_of(kafka)
            typed = {"event": "Product Viewed", "where": [{"property": "price", "value": "9"}]}
            odd = await http.post("/v1/partners/acme/segments", json={"name": "S", "condition": typed})
            assert (odd.status_code, odd.json().get("path")) == (400, "$.condition.where[0].value")
            await eventually(lambda: ("acme", "crm") in log.state.integrations, 2.0)

        process.send_signal(signal.SIGTERM)
        _, told = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, told
        assert b"hunter2" not in told
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await log.stop()
