"""Clients of others that send more than their source may: the gateway's own 429, and all of it in the end."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from faulty_front import Front
from npm_modules import run_node
from rudderstack.analytics.client import Client as RudderClient
from segment.analytics.client import Client as SegmentClient

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="module")]


async def test_clients_that_send_too_fast_are_slowed_and_lose_nothing(
    gateway: Any, front: Front, modules: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    sources = {name: await gateway.source("rest", policy={"rate": 20}) for name in ("segment", "rudder", "node")}
    errors: list[Any] = []

    def run(client: Any) -> None:
        for n in range(60):
            client.track("u-1", "Counted", {"n": n})
        client.shutdown()

    given = {"host": front.url, "on_error": lambda *why: errors.append(why), "upload_size": 20}
    settings = {"writeKey": sources["node"].key, "host": front.url, "flushAt": 20, "maxRetries": 10}
    calls = [["track", {"userId": "u-1", "event": "Counted", "properties": {"n": n}}] for n in range(60)]
    said, *_ = await asyncio.gather(
        run_node("segment_node.mjs", {"settings": settings, "calls": calls}),
        asyncio.to_thread(run, SegmentClient(sources["segment"].key, **given)),
        asyncio.to_thread(run, RudderClient(sources["rudder"].key, **given)),
    )
    assert errors == said["errors"] == []
    for name, source in sources.items():
        assert sorted(each.raw["properties"]["n"] for each in await gateway.landed(source)) == list(range(60)), name
        assert 429 in {hit.status for hit in front.posts() if hit.basic == f"{source.key}:"}, name
