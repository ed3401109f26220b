"""`headrace topics plan|apply` on a cluster of its own: it makes the fixed topics, which others share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.cli.topics import app
from pipeline.control.log import ControlLog
from pipeline.models.control import Command
from pipeline.settings import KafkaSettings


async def _create_partner() -> None:
    control = ControlLog(KafkaSettings().kafka())
    await control.start()
    try:
        verdict = await control.submit(
            Command(id="partner-1", command="partner.create", partner="acme", data={"id": "acme", "name": "Acme"})
        )
        assert verdict.status == 201, verdict
    finally:
        await control.stop()


def _changes(*arguments: str, exit_code: int = 0) -> list[tuple[str, str]]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == exit_code, result.output
    return [(c["action"], c["topic"]) for c in json.loads(result.stdout)["changes"]]


@pytest.mark.kafka
def test_from_an_empty_cluster_to_other_lanes(
    broker_factory: Callable[..., EmbeddedBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = broker_factory()
    broker.start()
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap_servers)
    monkeypatch.setenv("HEADRACE_LANES", "2")

    planned = _changes("plan")
    assert {("create", "control"), ("create", "events"), ("create", "lanes.intake")} <= set(planned)
    assert _changes("plan") == planned, "a plan changes nothing"
    assert _changes("apply") == planned, "what was done is told"
    assert _changes("plan") == _changes("apply") == []

    asyncio.run(_create_partner())
    assert _changes("plan") == [("create", "raw.acme.online-store")]
    assert _changes("apply") == [("create", "raw.acme.online-store")]
    assert _changes("plan") == []

    monkeypatch.setenv("HEADRACE_LANES", "4")
    refused = _changes("apply", exit_code=1)
    assert {action for action, _ in refused} == {"refuse"}
    assert ("refuse", "events") in refused
    monkeypatch.setenv("HEADRACE_LANES", "2")
    assert _changes("plan") == []
