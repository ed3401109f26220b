"""Members: named ones that come back, spare ones that stay, sessions of any length."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from counting_worker import Counting
from eventually import eventually
from records import make_topic, read_all

from pipeline.stream.config import LaneConfig
from pipeline.stream.group import faust_app
from pipeline.stream.kafka import Kafka
from pipeline.stream.lanes import LaneApp
from pipeline.stream.store import Table

LANES = 2


async def topics(kafka: Kafka, name: str) -> None:
    for topic in (f"{name}.in0", f"{name}.out", f"{name}.log", f"lanes.{name}", f"dead.{name}"):
        await make_topic(kafka, topic, LANES, **{"message.timestamp.type": "LogAppendTime"})


def app(kafka: Kafka, name: str, stores: Path, **more: object) -> LaneApp:
    config = LaneConfig(kafka, name, name, LANES, tables=[Table("counts", f"{name}.log")], store_dir=stores, **more)  # type: ignore[arg-type]
    return LaneApp(config, lambda _: Counting({f"{name}.in0"}, f"{name}.out"))


@pytest.mark.kafka
async def test_a_named_worker_comes_back_under_another_host_name_and_nothing_is_rebalanced(
    kafka: Kafka, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await topics(kafka, prefix)
    expected: Counter[bytes] = Counter()
    for host in ("first.example", "second.example"):
        # Faust asks for the host's name once, when it is imported.
        monkeypatch.setattr("faust.types.settings.settings.Settings.NODE_HOSTNAME", host)
        worker = app(kafka, prefix, tmp_path, instance="one")
        async with asyncio.timeout(40):
            await worker.start()
        try:
            producer = kafka.producer()
            await producer.start()
            await producer.send_and_wait(f"{prefix}.in0", b"x", key=b"k", partition=0)
            await producer.stop()
            expected[b"k"] += 1

            async def told(wanted: int = expected[b"k"]) -> bool:
                return [int(r.value) for r in await read_all(kafka, f"{prefix}.out")] == list(range(1, wanted + 1))

            await eventually(told, 40, what=f"the record sent while it is {host}")
        finally:
            await worker.stop()


def test_a_spare_worker_is_never_taken_for_idle_and_a_long_session_is_no_fault(kafka: Kafka) -> None:
    made = faust_app(kafka, "spare", broker_session_timeout=300.0)
    # aiokafka has a member that polls nothing leave after this long, and never rejoin.
    assert made.conf.broker_max_poll_interval > 10 * 365 * 86_400
    assert made.conf.broker_request_timeout > made.conf.broker_session_timeout
