"""Asking a cluster whether it is there."""

from __future__ import annotations

import asyncio
import contextlib

from pipeline.stream.kafka import Kafka

__all__ = ["answers", "reach"]


async def reach(kafka: Kafka, deadline_s: float) -> None:
    """Return when the cluster has answered a metadata request.

    Raises TimeoutError after ``deadline_s`` seconds, and what the client raised (aiokafka's errors, OSError,
    ssl.SSLError) when it gives up before.
    """
    admin = kafka.admin(request_timeout_ms=max(1000, int(deadline_s * 1000)))
    try:
        async with asyncio.timeout(deadline_s):
            await admin.start()
            await admin.describe_cluster()
    finally:
        with contextlib.suppress(Exception):
            await admin.close()


async def answers(kafka: Kafka) -> bool:
    """Whether the one broker that ``kafka`` names answers now (a listening port is not enough)."""
    host, _, port = kafka.bootstrap_servers.rpartition(":")
    try:
        # The bare connection first: the client would log an error for every broker that is not up yet.
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), 5)
        writer.close()
        await reach(kafka, 10)
    except Exception:
        return False
    return True
