"""Fixtures of the sinks' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sinks_world import Receiver, World

from pipeline.stream.kafka import Kafka


@pytest.fixture
async def world(kafka: Kafka, prefix: str) -> AsyncIterator[World]:
    """An integration, a receiver that answers as told, and engines that end with the test."""
    async with Receiver().running() as receiver:
        made = World(kafka, prefix, receiver)
        try:
            yield made
        finally:
            for engine in made.engines:
                await engine.stop(0)
