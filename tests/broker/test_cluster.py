"""The door: an existing cluster or the embedded broker, one shape."""

from __future__ import annotations

import logging
import socket
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from pipeline.broker.cluster import cluster
from pipeline.broker.errors import BrokerError
from pipeline.broker.ready import reach
from pipeline.settings import KafkaSettings, Settings
from pipeline.stream.kafka import Kafka


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.mark.kafka
async def test_an_existing_cluster(kafka: Kafka, settings: Settings) -> None:
    existing = KafkaSettings(bootstrap_servers=kafka.bootstrap_servers)
    async with cluster(settings, existing) as found:
        assert found == kafka
    assert not list(settings.data_dir.iterdir())


@pytest.mark.kafka
async def test_the_embedded_broker(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    async with cluster(settings, KafkaSettings()) as found:
        await reach(found, 10)
        assert (settings.data_dir / "kafka" / "log").is_dir()
    with pytest.raises(Exception, match="bootstrap"):
        await reach(found, 2)


async def test_nobody_listens(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as held:  # bound and not listening: connections are refused
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        begun = time.monotonic()
        with caplog.at_level(logging.WARNING), pytest.raises(BrokerError) as caught:
            async with cluster(settings, KafkaSettings(bootstrap_servers=address), deadline_s=2):
                pytest.fail("no cluster there")
    assert time.monotonic() - begun < 10
    assert f"the Kafka cluster at {address} (PLAINTEXT) does not answer" in str(caught.value)
    assert "Check KAFKA_BOOTSTRAP_SERVERS" in str(caught.value)
    assert "refused" in str(caught.value) or "Connect call failed" in str(caught.value)
    assert not caplog.records, "one error tells it; the attempts are not worth a line each"


async def test_somebody_listens_and_says_nothing(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(BrokerError, match="does not answer"):
            async with cluster(settings, KafkaSettings(bootstrap_servers=address), deadline_s=1.5):
                pytest.fail("no cluster there")


@pytest.mark.kafka
async def test_the_wrong_credentials_are_told_without_the_password(kafka: Kafka, settings: Settings) -> None:
    wrong = KafkaSettings(
        bootstrap_servers=kafka.bootstrap_servers,
        security_protocol="SASL_PLAINTEXT",
        sasl_username="somebody",
        sasl_password=SecretStr("hunter2-secret"),
    )
    with pytest.raises(BrokerError, match="SASL_PLAINTEXT") as caught:
        async with cluster(settings, wrong, deadline_s=2):
            pytest.fail("no such listener")
    assert "hunter2-secret" not in str(caught.value)


async def test_a_certificate_that_is_not_there_fails_at_once(settings: Settings, tmp_path: Path) -> None:
    missing = KafkaSettings(
        bootstrap_servers="127.0.0.1:1", security_protocol="SSL", ssl_cafile=str(tmp_path / "ca.pem")
    )
    begun = time.monotonic()
    with pytest.raises(BrokerError, match=r"FileNotFoundError.*KAFKA_SSL"):
        async with cluster(settings, missing, deadline_s=20):
            pytest.fail("no certificate")
    assert time.monotonic() - begun < 10
