"""Another Kafka's topic: records as events, their offsets committed there once our broker has them."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, Self

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    CommitFailedError,
    GroupAuthorizationFailedError,
    IllegalGenerationError,
    KafkaError,
    RebalanceInProgressError,
    TopicAuthorizationFailedError,
    UnknownMemberIdError,
)
from pydantic import Field, StringConstraints, model_validator

from pipeline.bridges.base import Opening, Parcel, SetupFault
from pipeline.bridges.origin import Credentials, Settings, Tls, headers_of, ssl_context
from pipeline.bridges.payload import PayloadBridge, PayloadSettings
from pipeline.guard import BadName, Guard
from pipeline.stream.kafka import Consumer, disconnect

__all__ = ["QueueKafka", "QueueKafkaSettings"]

_log = logging.getLogger(__name__)
_Servers = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+:\d{1,5}(?:,[A-Za-z0-9_.-]+:\d{1,5})*$")]
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
#: Of one transaction of ours.
_RECORDS = 2000
#: With nothing coming in, the origin is asked so often whether it is there at all.
_PROBE_SECONDS = 10.0
_HANDSHAKE_SECONDS = 5.0
_SETUP = (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
)
#: The group has given our partitions to others: what was not committed comes again, with the same id.
_MOVED = (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)


class Sasl(Settings):
    """A user of the other cluster; the password is the source's secret."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: Annotated[str, Field(min_length=1, max_length=200)]


class QueueKafkaSettings(PayloadSettings):
    """Where the other Kafka is, and what is read there."""

    brokers: _Servers = Field(description="`host:port`, with commas between", examples=["kafka.example:9093"])
    topic: _Name
    group: _Name | None = Field(None, description="consumer group there; `headrace-<partner>-<source>` when left out")
    start: Literal["beginning", "end"] = Field("beginning", description="where a group begins that has no offsets yet")
    consumers: int = Field(1, ge=1, le=64, description="how many read at a time; the topic's partitions are shared out")
    tls: Tls | None = Field(None, description="`{}` for TLS as the system trusts it")
    sasl: Sasl | None = None

    @model_validator(mode="after")
    def _certificate(self) -> Self:
        if self.sasl is not None and self.tls is not None and self.tls.certificate is not None:
            raise ValueError("a client certificate and SASL: take one of the two")
        return self


class QueueKafka(PayloadBridge):
    """At least once; the id ``<topic>-<partition>-<offset>`` makes a repeat one."""

    name = "queue-kafka"
    title = "another Kafka: the records of a topic"
    channel = "Server"
    Settings = QueueKafkaSettings

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[_Stream]:
        """A member of the group. Raises as `Feed.open` says."""
        settings: QueueKafkaSettings = opening.settings
        credentials = Credentials.of(opening.secret)
        for server in settings.brokers.split(","):
            host, _, port = server.rpartition(":")
            await _checked(opening.guard, host, int(port))
        consumer = Consumer(
            group_id=settings.group or f"headrace-{opening.source.partner}-{opening.source.id}",
            client_id=f"headrace-{opening.source.partner}-{opening.source.id}-{opening.number}",
            isolation_level="read_committed",
            auto_offset_reset="earliest" if settings.start == "beginning" else "latest",
            enable_auto_commit=False,
            request_timeout_ms=15_000,
            max_partition_fetch_bytes=2 << 20,
            fetch_max_bytes=8 << 20,
            **_auth(settings, credentials),
        )
        _watch(consumer, opening.guard)
        try:
            try:
                await consumer.start()
                if not await _there(consumer, settings.topic):
                    raise SetupFault(f"{settings.brokers} has no topic {settings.topic}, or hides it from this user")
                consumer.subscribe([settings.topic])
            except _SETUP as error:
                raise SetupFault(f"{settings.brokers} refuses us: {error!r}; check user, secret and rights") from None
            except KafkaError as error:
                # The client tells what it refuses, and what refuses it, as it tells a broker that is away.
                if settings.tls is not None and (why := await _untrusted(settings, credentials)):
                    raise OSError(why) from error
                login = "; it may be the login: check user and secret" if settings.sasl is not None else ""
                raise OSError(f"{settings.brokers}: {error!r}{login}") from error
            yield _Stream(consumer)
        finally:
            await disconnect(consumer)


class _Stream:
    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._next: dict[TopicPartition, int] = {}
        self._probed = time.monotonic()

    @property
    def lag(self) -> int | None:
        """Records between the positions and the ends that the last answers told."""
        total = 0
        for tp in self._consumer.assignment():
            end, position = self._consumer.highwater(tp), self._next.get(tp)
            if end is not None and position is not None:
                total += max(0, end - position)
        return total

    async def take(self, timeout: float) -> Sequence[Parcel]:
        """Records of any of our partitions, each partition's in order."""
        try:
            found = await self._consumer.getmany(timeout_ms=int(timeout * 1000), max_records=_RECORDS)
            if not found and time.monotonic() - self._probed > _PROBE_SECONDS:
                # The client hides an origin that is away, and tries again for ever.
                self._probed = time.monotonic()
                if not await self._consumer._client.force_metadata_update():
                    raise OSError("no broker answers")
        except _SETUP as error:
            raise OSError(f"the origin refuses us: {error!r}") from error
        except KafkaError as error:
            raise OSError(f"{error!r}") from error
        for tp, records in found.items():
            self._next[tp] = records[-1].offset + 1
        return [_parcel(record) for records in found.values() for record in records]

    async def done(self, parcels: Sequence[Parcel]) -> None:
        """Commit the offsets at the origin."""
        ours = self._consumer.assignment()
        offsets = {tp: offset for tp, offset in self._next.items() if tp in ours}
        try:
            if offsets:
                await self._consumer.commit(offsets)
        except _MOVED as error:
            _log.info("offsets were not committed at the origin, since its group rebalances: %r", error)
        except KafkaError as error:
            raise OSError(f"{error!r}") from error


def _parcel(record: ConsumerRecord) -> Parcel:
    headers = headers_of(
        dict(record.headers),
        kafka_topic=record.topic,
        kafka_key=record.key.decode(errors="replace") if record.key is not None else None,
        kafka_timestamp=record.timestamp,
    )
    return Parcel(f"{record.topic}-{record.partition}-{record.offset}", record.value or b"", headers)


def _auth(settings: QueueKafkaSettings, credentials: Credentials) -> dict[str, Any]:
    out: dict[str, Any] = {"bootstrap_servers": settings.brokers}
    protocol = "SSL" if settings.tls is not None else "PLAINTEXT"
    if settings.tls is not None:
        out["ssl_context"] = ssl_context(settings.tls, credentials)
    if settings.sasl is not None:
        if credentials.password is None:
            raise SetupFault("`sasl` wants the password as the source's secret")
        protocol = "SASL_SSL" if settings.tls is not None else "SASL_PLAINTEXT"
        out |= {
            "sasl_mechanism": settings.sasl.mechanism,
            "sasl_plain_username": settings.sasl.username,
            "sasl_plain_password": credentials.password,
        }
    return out | {"security_protocol": protocol}


async def _untrusted(settings: QueueKafkaSettings, credentials: Credentials) -> str | None:
    """Whose certificate does not pass, and why; None where that is not it."""
    assert settings.tls is not None
    for server in settings.brokers.split(","):
        host, _, port = server.rpartition(":")
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                _, writer = await asyncio.open_connection(host, int(port), ssl=ssl_context(settings.tls, credentials))
            writer.close()
        except ssl.SSLCertVerificationError as error:
            return f"{server}: its certificate is not trusted: {error.verify_message}"
        except (OSError, TimeoutError):
            continue
    return None


async def _checked(guard: Guard, host: str, port: int) -> None:
    try:
        await asyncio.to_thread(guard.resolve, host, port)
    except BadName:
        raise SetupFault(f"{host} is no name of a host") from None


def _watch(consumer: Consumer, guard: Guard) -> None:
    """Check every broker that the cluster names, before it is connected to: a cluster may name any address."""
    client = consumer._client
    connect = client._get_conn

    async def checked(node_id: Any, **more: Any) -> Any:
        broker = client.cluster.broker_metadata(node_id)
        if broker is not None:
            try:
                await _checked(guard, broker.host, broker.port)
            except (OSError, SetupFault) as error:
                _log.warning("a broker that %s names is not connected to: %s", client.hosts, error)
                return None
        return await connect(node_id, **more)

    client._get_conn = checked


async def _there(consumer: Consumer, topic: str) -> bool:
    """Before subscribing: a group that waits for a topic that is not there says nothing, and never ends."""
    await consumer._client.set_topics({topic})
    return bool(consumer._client.cluster.partitions_for_topic(topic))
