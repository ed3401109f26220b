"""The whole product, running: broker, topics and all roles as `headrace up` starts them, once a session."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from stack import Stack, Tenant, running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Started on free ports with data of its own; stopped with SIGTERM, and nothing may be left behind."""
    with running(tmp_path_factory.mktemp("stack")) as found:
        yield found


@pytest.fixture
def secured_stack(tmp_path: Path) -> Iterator[Stack]:
    """One whose broker lets in whom it knows: all roles log in as `headrace`."""
    with running(
        tmp_path,
        KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT",
        KAFKA_SASL_MECHANISM="SCRAM-SHA-512",
        KAFKA_SASL_USERNAME="headrace",
        KAFKA_SASL_PASSWORD="correct-horse-battery",
    ) as found:
        yield found


@pytest.fixture
def tenant(stack: Stack) -> Iterator[Tenant]:
    """A new partner with its `Online Store`, and a `Mobile application` that writes straight to Kafka."""
    name = f"t{uuid.uuid4().hex[:10]}"
    answer = httpx.post(f"{stack.api}/v1/partners", json={"id": name, "name": "Acme"}, timeout=30)
    assert answer.status_code == 201, answer.text
    with httpx.Client(base_url=f"{stack.api}/v1/partners/{name}", timeout=30, follow_redirects=True) as client:
        made = Tenant(name, client)
        made.create("sources", id="app", name="Mobile application", code="app", channel="Mobile", bridge="kafka")
        yield made


@pytest.fixture
def log_of(stack: Stack) -> Path:
    """The log of all processes."""
    return stack.data / "up.log"
