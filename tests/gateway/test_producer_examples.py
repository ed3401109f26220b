"""The examples of producers straight to Kafka work as they stand, and intake takes what they send."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from records import make_topic, read_all

from pipeline.agents.judge import judge
from pipeline.broker.jars import classpath
from pipeline.broker.java import find_java
from pipeline.models.control import Source
from pipeline.stream.kafka import Kafka

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
pytestmark = pytest.mark.kafka


async def judged(kafka: Kafka, partner: str) -> dict[str, str]:
    """Id -> name of every event of `till`, as intake takes them; raises when it takes one not."""
    source = Source(
        id="till", partner=partner, name="Till", code="till", bridge="kafka", version=1, created=0, updated=0
    )
    out = {}
    for record in await read_all(kafka, source.topic):
        _, value = judge(source, record.value, record.headers, appended=record.timestamp, control=1, fallback_id="none")
        event = orjson.loads(value)
        out[event["id"]] = event["name"]
    return out


async def test_produce_py(kafka: Kafka, prefix: str) -> None:
    await make_topic(kafka, f"raw.{prefix}.till", 4)
    done = subprocess.run(
        [sys.executable, EXAMPLES / "produce.py", prefix, "till"],
        input=(EXAMPLES / "events.jsonl").read_bytes(),
        env=os.environ | {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"4 events acknowledged\n"
    assert await judged(kafka, prefix) == {
        "example-1": "Category Viewed",
        "example-2": "Product Viewed",
        "example-3": "Page Viewed",
        "example-4": "Identified",
    }


async def test_console_producer_sh(kafka: Kafka, prefix: str) -> None:
    await make_topic(kafka, f"raw.{prefix}.till", 4)
    jars = os.pathsep.join(str(jar) for jar in classpath(lambda *_: None))
    command = shlex.join([str(find_java()), "-Xmx128m", "-cp", jars, "org.apache.kafka.tools.ConsoleProducer"])
    done = subprocess.run(
        [EXAMPLES / "console-producer.sh", prefix, "till"],
        input=(EXAMPLES / "console.txt").read_bytes(),
        env=os.environ | {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "KAFKA_CONSOLE_PRODUCER": command},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert await judged(kafka, prefix) == {"console-1": "Category Viewed", "console-2": "Order Completed"}
