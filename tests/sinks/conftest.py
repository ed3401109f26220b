"""Fixtures of the sinks' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sinks_world import Receiver, World

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.stream.kafka import Kafka


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker of the module's own: all sink processes at one share its lanes, those of tests beside too."""
    with EmbeddedBroker(tmp_path_factory.mktemp("broker")) as broker:
        yield Kafka(broker.bootstrap_servers)


@pytest.fixture
async def world(kafka: Kafka, prefix: str, tmp_path: Path) -> AsyncIterator[World]:
    """An integration, a receiver that answers as told, and engines that end with the test."""
    async with Receiver().running() as receiver:
        made = World(kafka, prefix, receiver, tmp_path)
        try:
            yield made
        finally:
            for engine in made.engines:
                await engine.stop(0)
