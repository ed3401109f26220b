"""The topics of the control plane on the tests' Kafka."""

from __future__ import annotations

from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka
from pipeline.topics.apply import ensure
from pipeline.topics.wanted import wanted

__all__ = ["make_control_topics"]


async def make_control_topics(kafka: Kafka) -> None:
    """`control` and `secrets`, as topics.yaml has them; no harm where they are already."""
    await ensure(kafka, [topic for topic in wanted(Settings()) if topic.name in ("control", "secrets")])
