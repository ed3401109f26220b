"""Fixtures of the feeds' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from feeds_world import World

from pipeline.stream.kafka import Kafka


@pytest.fixture
async def world(kafka: Kafka, prefix: str, tmp_path: Path) -> AsyncIterator[World]:
    """A partner without sources; engines end with the test."""
    made = World(kafka, prefix, folders=str(tmp_path))
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
