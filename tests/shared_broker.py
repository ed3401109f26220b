"""One Kafka for a whole test session, pytest-xdist's workers included."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_SH, flock
from pathlib import Path

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.settings import KafkaSettings
from pipeline.stream.kafka import Kafka

__all__ = ["shared_kafka"]

# Kafka 3.9, the newest whose image testcontainers' start script fits.
IMAGE = "confluentinc/cp-kafka:7.9.1"


@contextmanager
def shared_kafka(root: Path) -> Iterator[Kafka]:
    """A cluster for everybody who passes the same ``root``: the one that ``KAFKA_BOOTSTRAP_SERVERS`` names,
    else a container where a Docker engine answers, else an embedded broker.

    ``HEADRACE_TEST_BROKER`` (``docker`` or ``embedded``) forces one of the latter two. Who comes first starts
    it, and stops it when the others have left.
    """
    settings = KafkaSettings()
    if settings.bootstrap_servers and not os.environ.get("HEADRACE_TEST_BROKER"):
        yield settings.kafka()
        return
    address_file = root / "kafka.address"
    with (root / "kafka.lock").open("w") as lock, (root / "kafka.users").open("w") as users:
        flock(lock, LOCK_EX)
        if address_file.exists():
            flock(users, LOCK_SH)
            address = address_file.read_text()
            lock.close()
            yield Kafka(address)
            return
        with _broker(root) as address:
            address_file.write_text(address)
            lock.close()
            try:
                yield Kafka(address)
            finally:
                # A newcomer after this starts one of its own; those who are in keep this one until they leave.
                with (root / "kafka.lock").open("w") as closing:
                    flock(closing, LOCK_EX)
                    address_file.unlink()
                flock(users, LOCK_EX)


@contextmanager
def _broker(root: Path) -> Iterator[str]:
    forced = os.environ.get("HEADRACE_TEST_BROKER", "")
    if forced not in ("", "docker", "embedded"):
        raise ValueError(f"HEADRACE_TEST_BROKER={forced}: say docker or embedded, or leave it unset")
    if forced != "embedded" and (forced == "docker" or _docker_answers()):
        container = _container()
        try:
            container.start(timeout=120)
        except Exception as error:
            container.stop()
            if forced:
                raise
            warnings.warn(f"Docker answers, its Kafka does not start ({error}): embedded", stacklevel=2)
        else:
            try:
                yield str(container.get_bootstrap_server())
            finally:
                container.stop()
            return
    with EmbeddedBroker(root / "kafka") as broker:
        yield broker.bootstrap_servers
    # pytest keeps the temporary directories of its last runs; megabytes of logs tell nobody anything.
    shutil.rmtree(root / "kafka")


def _docker_answers() -> bool:
    import docker

    try:
        client = docker.from_env(timeout=5)
    except docker.errors.DockerException:
        return False
    try:
        return bool(client.ping())
    except Exception:
        return False
    finally:
        client.close()


def _container():  # type: ignore[no-untyped-def]
    from testcontainers.community.kafka import KafkaContainer

    container = KafkaContainer(IMAGE).with_kraft()
    for name, value in {
        "AUTO_CREATE_TOPICS_ENABLE": "false",
        "OFFSETS_TOPIC_NUM_PARTITIONS": "8",
        "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "TRANSACTION_STATE_LOG_NUM_PARTITIONS": "8",
        "MESSAGE_MAX_BYTES": "2097152",
    }.items():
        container.with_env(f"KAFKA_{name}", value)
    return container
