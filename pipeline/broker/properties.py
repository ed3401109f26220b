"""The configuration files of the embedded broker, as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.broker.superuser import Superuser

__all__ = ["logging_config", "server_properties"]

LOOPBACK = "127.0.0.1"


def server_properties(log_dir: Path, port: int, controller_port: int, superuser: Superuser | None = None) -> str:
    """``server.properties`` of one KRaft node, broker and controller, on the loopback interface alone.

    With a ``superuser``, clients log in (SASL_PLAINTEXT, SCRAM) and may do what they were granted; without, all.
    """
    protocol = "PLAINTEXT" if superuser is None else "SASL_PLAINTEXT"
    listeners = f"{protocol}://{LOOPBACK}:{port}"
    settings: Mapping[str, object] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        # A static voter, so that the controller's port may change from one start to the next.
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"{listeners},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": listeners,
        "listener.security.protocol.map": f"{protocol}:{protocol},CONTROLLER:{protocol}",
        "inter.broker.listener.name": protocol,
        "log.dirs": log_dir,
        # Topics are made by topics.yaml; a misspelt name must fail, not appear.
        "auto.create.topics.enable": "false",
        "default.replication.factor": 1,
        "min.insync.replicas": 1,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 8,
        # Not using a group for a year must not make it start over.
        "offsets.retention.minutes": 525_600,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 8,
        "transaction.max.timeout.ms": 900_000,
        # aiokafka speaks the transaction protocol from before KIP-890; verified, each partition's first batch after
        # a commit that is still completing is refused with a retriable error, and waits 100 ms.
        "transaction.partition.verification.enable": "false",
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        "group.initial.rebalance.delay.ms": 0,
        "message.max.bytes": 2_097_152,
        # A broker that was killed may register again only when its last session has run out.
        "broker.session.timeout.ms": 6_000,
        "broker.heartbeat.interval.ms": 1_000,
        # One machine, a few hundred partitions, half a gigabyte of heap.
        "num.network.threads": 2,
        "num.io.threads": 4,
        "background.threads": 2,
        "num.recovery.threads.per.data.dir": 2,
        "log.segment.bytes": 268_435_456,
        "log.index.size.max.bytes": 1_048_576,
        "log.cleaner.threads": 1,
        "log.cleaner.dedupe.buffer.size": 33_554_432,
        **(superuser.settings() if superuser is not None else {}),
    }
    return "".join(f"{key}={_escaped(value)}\n" for key, value in settings.items())


def logging_config(log_file: Path) -> str:
    """A Log4j 2 configuration: warnings and Kafka's own news to ``log_file``, at most 3 files of 10 MB."""
    return f"""\
status=error
appenders=file
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName={_escaped(log_file)}
appender.file.filePattern={_escaped(log_file)}.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d %p %m (%c)%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=10MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=2
rootLogger.level=info
rootLogger.appenderRefs=file
rootLogger.appenderRef.file.ref=file
"""


def _escaped(value: object) -> str:
    """A value as Java reads it from a properties file: Latin-1 at most, so the rest as UTF-16 escapes."""
    out = ""
    for character in str(value):
        if character == "\\":
            out += "\\\\"
        elif character.isascii():
            out += character
        else:
            units = character.encode("utf-16-be").hex()
            out += "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
    return out
