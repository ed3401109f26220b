"""A gateway on the tests' Kafka, a front before it, the npm clients."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from faulty_front import Front, front_to
from npm_modules import wanted_modules
from running_gateway import Gateway, gateway_on

from pipeline.stream.kafka import Kafka


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(kafka: Kafka) -> AsyncIterator[Gateway]:
    """With a partner of the module's own."""
    async with gateway_on(kafka) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def front(gateway: Gateway) -> AsyncIterator[Front]:
    """Before the gateway; a test's own."""
    async with front_to(gateway.url) as made:
        yield made


@pytest.fixture(scope="session")
def modules() -> Path:
    """The folder with the npm clients."""
    try:
        return wanted_modules()
    except RuntimeError as error:
        pytest.skip(f"MISSING: the npm clients; npm says: {error}")
