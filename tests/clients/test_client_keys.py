"""Clients of others with a source that wants a secret key."""

from __future__ import annotations

import asyncio
import logging
import secrets
from pathlib import Path
from typing import Any

import pytest
from faulty_front import Front
from npm_modules import run_node
from rudderstack.analytics.client import Client as RudderClient
from segment.analytics.client import Client as SegmentClient

from pipeline.gateway.keys import digest

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="module")]


async def track(client: str, key: str, front: Front) -> list[Any]:
    """One call of the client with that key; what it says went wrong."""
    errors: list[Any] = []
    call = {"userId": "u-1", "event": client}
    if client == "node":
        settings = {"writeKey": key, "host": front.url}
        errors = (await run_node("segment_node.mjs", {"settings": settings, "calls": [["track", call]]}))["errors"]
    elif client == "jitsu":
        settings = {"writeKey": f"{key}:any", "host": front.url, "s2s": True}
        calls = [["identify", "u-1", {"$doNotSend": True}], ["track", client]]
        errors = (await run_node("jitsu_node.mjs", {"settings": settings, "calls": calls}))["errors"]
    else:
        made = {"segment": SegmentClient, "rudder": RudderClient}[client]
        sender = made(key, host=front.url, on_error=lambda *why: errors.append(why), upload_interval=0.05)

        def run() -> None:
            sender.track("u-1", client)
            sender.shutdown()

        await asyncio.to_thread(run)
    return errors


CLIENTS = ("segment", "rudder", "node", "jitsu")


async def test_server_clients_pass_a_secret_key_and_it_goes_no_further(
    gateway: Any, front: Front, modules: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    source = await gateway.source("rest", policy={"key": "secret"})
    secret = secrets.token_urlsafe(24)
    await gateway.command("source.add_key", source.id, 1, id="till", name="Till", hash=digest(secret))
    for client in CLIENTS:
        assert await track(client, f"{source.key}.{secret}", front) == [], client
        assert await track(client, source.key, front), client
        assert await track(client, f"{source.key}.{secret}x", front), client
    found = await gateway.landed(source)
    assert sorted(each.raw["event"] for each in found) == sorted(CLIENTS)
    for each in found:
        assert each.headers["headrace_key"] == "till"
        assert secret not in f"{each.raw}{each.headers}{each.event}"
    statuses = [hit.status for hit in front.posts()]
    assert (statuses.count(200), statuses.count(401)) == (4, 8)
