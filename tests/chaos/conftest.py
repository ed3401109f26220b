"""Fixtures of the chaos tests: a broker of their own, which they are hard on, and a role on it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from chaos_broker import ChaosBroker
from chaos_world import World

from pipeline.stream.kafka import Kafka


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.faults)
            item.add_marker(pytest.mark.kafka)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """A client whose broker is away says so a hundred times a second."""
    caplog.set_level(logging.CRITICAL, "aiokafka")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChaosBroker]:
    """A broker that the session's tests share; whoever stops it has one of their own."""
    folder = tmp_path_factory.mktemp("broker")
    with ChaosBroker(folder) as running:
        yield running
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def kafka(broker: ChaosBroker) -> Kafka:
    """The shared broker's address."""
    return Kafka(broker.bootstrap_servers)


@pytest.fixture
async def world(kafka: Kafka, prefix: str, tmp_path: Path) -> AsyncIterator[World]:
    """A role of two lanes, exactly once."""
    world = World(kafka, prefix, tmp_path)
    await world.open()
    yield world
    await world.close()
    shutil.rmtree(tmp_path)


@pytest.fixture(params=["exactly_once", "at_least_once"])
def either(request: pytest.FixtureRequest, world: World) -> World:
    """`world`, once with each guarantee."""
    world.options = replace(world.options, guarantee=request.param)
    return world
