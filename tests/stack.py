"""A running Headrace, as the tests of the whole path see it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest

from pipeline.stream.kafka import Kafka

__all__ = ["Stack", "Tenant", "produce", "running"]


@dataclass(frozen=True)
class Stack:
    """Addresses of the doors, and the process that supervises all others."""

    kafka: str
    gateway: str
    api: str
    pid: int
    data: Path

    def client(self) -> Kafka:
        """Its Kafka."""
        return Kafka(self.kafka)

    def process(self, *words: str) -> psutil.Process:
        """The process whose command line ends with these words, e.g. ``worker --roles fanout``.

        Raises LookupError while there is none (one that was killed is started again).
        """
        for process in psutil.Process(self.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if tuple(process.cmdline()[-len(words) :]) == words:
                    return process
        raise LookupError(f"no process {' '.join(words)}")

    def kill(self, role: str) -> bool:
        """kill -9 of the workers' ``role``, if it runs."""
        try:
            self.process("worker", "--roles", role).kill()
        except LookupError:
            return False
        return True


@dataclass
class Tenant:
    """A partner of a test's own, and the admin API scoped to it."""

    id: str
    api: httpx.Client

    def create(self, noun: str, **body: Any) -> dict[str, Any]:
        """POST; the entity."""
        answer = self.api.post(f"/{noun}", json=body)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def get(self, path: str) -> dict[str, Any]:
        """GET; the JSON."""
        answer = self.api.get(path)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def edit(self, path: str, **body: Any) -> dict[str, Any]:
        """PATCH on the version there is."""
        answer = self.api.patch(path, json=body, headers={"If-Match": str(self.get(path)["version"])})
        assert answer.status_code == 200, answer.text
        edited: dict[str, Any] = answer.json()
        return edited


async def produce(stack: Stack, topic: str, events: Sequence[dict[str, Any] | bytes | None]) -> None:
    """Straight to Kafka, as any producer may; returns when the broker has all."""
    producer = stack.client().producer(linger_ms=5)
    await producer.start()
    try:
        acks = []
        for event in events:
            value = orjson.dumps(event) if isinstance(event, dict) else event
            key = b"any" if event is None else None
            if isinstance(event, dict):
                key = str(event.get("userId") or event.get("anonymousId")).encode()
            acks.append(await producer.send(topic, value, key=key))
        await asyncio.gather(*acks)
    finally:
        await producer.stop()


@contextmanager
def running(data: Path, **more: str) -> Iterator[Stack]:
    """`headrace up` with these variables, its data in ``data``."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("KAFKA_", "HEADRACE_"))}
    environment |= {
        "HEADRACE_DATA_DIR": str(data),
        "HEADRACE_LANES": "4",
        "HEADRACE_GATEWAY_PORT": "0",
        "HEADRACE_API_PORT": "0",
        "HEADRACE_ALLOW_NETWORKS": "127.0.0.0/8",
        "HEADRACE_RETRY_SCHEDULE": "300ms,600ms,900ms",
    } | more
    log = (data / "up.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli.main", "up"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait(30)
        pytest.fail(f"headrace up ended with code {process.returncode}:\n{(data / 'up.log').read_text()[-4000:]}")
    doors = json.loads(line)
    family = psutil.Process(process.pid).children(recursive=True)
    try:
        yield Stack(kafka=doors["kafka"], gateway=doors["gateway"], api=doors["api"], pid=process.pid, data=data)
    finally:
        family += psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        _, left = psutil.wait_procs(family, timeout=10)
        assert not left, f"left behind: {left}"
