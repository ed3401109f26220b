"""`headrace secrets rotate`: the old key can go after it."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from control_topics import make_control_topics

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.control.secrets import Secrets
from pipeline.stream.kafka import Kafka

pytestmark = pytest.mark.kafka


def rotated(kafka: Kafka, *keys: bytes) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "HEADRACE_SECRET_KEY": ",".join(base64.b64encode(key).decode() for key in keys),
    }
    command = [sys.executable, "-m", "pipeline.cli.main", "secrets", "rotate"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


async def test_what_was_encrypted_with_the_old_key_is_read_with_the_new_one_alone(
    broker_factory: Callable[..., EmbeddedBroker],
) -> None:
    """On a broker of its own: a rotation is of all secrets that there are."""
    broker = broker_factory()
    broker.start()
    kafka = Kafka(broker.bootstrap_servers)
    await make_control_topics(kafka)
    old, new = os.urandom(32), os.urandom(32)
    before = Secrets(kafka, [old])
    await before.start()
    name = await before.put("hush")
    await before.stop()
    done = await asyncio.to_thread(rotated, kafka, new, old)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 encrypted anew")
    after = Secrets(kafka, [new])
    await after.start()
    try:
        assert await after.wait(name) == "hush"
    finally:
        await after.stop()
    wrong = await asyncio.to_thread(rotated, kafka, b"short")
    assert wrong.returncode != 0
    assert "32 bytes" in wrong.stderr
