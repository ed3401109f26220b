"""Clients of others through an outage: the gateway's own broker stands still under them, or stops, and goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from eventually import eventually
from faulty_front import front_to
from frozen import frozen
from npm_modules import run_node
from rudderstack.analytics.client import Client as RudderClient
from running_gateway import gateway_on
from segment.analytics.client import Client as SegmentClient

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.stream.kafka import Kafka

pytestmark = pytest.mark.kafka


@contextmanager
def away(broker: EmbeddedBroker, how: str) -> Iterator[None]:
    """The broker is ``frozen`` (its connections stay) or ``stopped`` for the time of the block."""
    if how == "frozen":
        with frozen(broker):
            yield
        return
    broker.stop()
    yield
    broker.start()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["frozen", "stopped"])
async def test_clients_bring_everything_through_an_outage_of_the_broker(
    broker_factory: Callable[..., EmbeddedBroker], modules: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.set_level(logging.CRITICAL)
    broker = broker_factory()
    await asyncio.to_thread(broker.start)
    errors: list[Any] = []
    sent: dict[str, list[str]] = {}

    def track(client: Any, name: str, count: int) -> None:
        for n in range(count):
            _, message = client.track("u-1", "Counted", {"n": n})
            sent.setdefault(name, []).append(message["messageId"])

    async with gateway_on(Kafka(broker.bootstrap_servers)) as gateway, front_to(gateway.url) as front:
        sources = {name: await gateway.source("rest") for name in ("segment", "rudder", "node")}
        given = {"host": front.url, "on_error": lambda *why: errors.append(why), "upload_size": 20}
        segment = SegmentClient(sources["segment"].key, **given)
        rudder = RudderClient(sources["rudder"].key, **given)
        track(segment, "segment", 20)
        track(rudder, "rudder", 20)
        await eventually(lambda: [hit.status for hit in front.posts()] == [200, 200])

        with away(broker, how):
            track(segment, "segment", 40)
            track(rudder, "rudder", 40)
            settings = {"writeKey": sources["node"].key, "host": front.url, "flushAt": 20, "maxRetries": 10}
            calls = [["track", {"userId": "u-1", "event": "Counted", "properties": {"n": n}}] for n in range(40)]
            given_to_node = {"settings": settings, "calls": calls, "timeout": 120_000}
            node = asyncio.create_task(run_node("segment_node.mjs", given_to_node, 150))
            keys = {f"{source.key}:" for source in sources.values()}
            await eventually(lambda: {hit.basic for hit in front.posts() if hit.status == 503} == keys, 40)
        await asyncio.gather(asyncio.to_thread(segment.shutdown), asyncio.to_thread(rudder.shutdown), node)
        said = node.result()
        assert errors == said["errors"] == []
        sent["node"] = [event["messageId"] for event in said["delivered"]]
        assert len(sent["node"]) == 40
        for name, source in sources.items():
            # An event may be there twice, by an acknowledgement that was lost; its id is the same, so it counts once.
            found = {each.raw["messageId"] for each in await gateway.landed(source)}
            assert found == set(sent[name]), name
