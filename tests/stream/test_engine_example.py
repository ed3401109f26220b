"""examples/engine.py, as docs/engine.md tells people to run it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from eventually import eventually
from parked import produce
from records import make_topic, read_all

from pipeline.stream.kafka import Kafka

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/engine.py"


def test_the_document_shows_what_is_run() -> None:
    shown = (ROOT / "docs/engine.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert len(shown) > 500
    assert shown in EXAMPLE.read_text()


@pytest.mark.kafka
async def test_the_example_keeps_totals_through_kill_9_and_parks_what_is_no_number(
    kafka: Kafka, prefix: str, tmp_path: Path
) -> None:
    for topic in (f"{prefix}.orders", f"{prefix}.totals", f"{prefix}.state", f"lanes.{prefix}", f"dead.{prefix}"):
        await make_topic(kafka, topic, 4, **({"cleanup.policy": "compact"} if topic.endswith("state") else {}))
    rng = random.Random(prefix)
    totals: Counter[bytes] = Counter()

    async def order(count: int) -> None:
        for lane in range(4):
            orders = [(b"c%d.%d" % (lane, rng.randrange(9)), rng.randrange(1, 99)) for _ in range(count)]
            for customer, cents in orders:
                totals[customer] += cents
            await produce(kafka, f"{prefix}.orders", [(c, b"%d" % cents) for c, cents in orders], lane)

    async def told() -> bool:
        found = {record.key: int(record.value) for record in await read_all(kafka, f"{prefix}.totals")}
        assert found == totals
        return True

    def run() -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "HEADRACE_DATA_DIR": str(tmp_path),
            "HEADRACE_INSTANCE": "one",
        }
        return subprocess.Popen([sys.executable, str(EXAMPLE), prefix], env=environment)

    process = run()
    try:
        await order(50)
        await eventually(told, 60, what="the first totals")
        process.kill()
        process.wait()
        await order(50)
        await produce(kafka, f"{prefix}.orders", [(b"c0.0", b"a lot")])
        process = run()
        await eventually(told, 60, what="the totals after a kill")

        async def parked() -> bool:
            return [record.key for record in await read_all(kafka, f"dead.{prefix}")] == [b"c0.0"]

        await eventually(parked, 20, what="the order that is no number")
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    assert len(await read_all(kafka, f"{prefix}.totals")) == 400
