"""How to reach a Kafka cluster, and clients made the same way everywhere."""

from __future__ import annotations

import asyncio
import functools
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError

__all__ = ["Consumer", "FetchingEnded", "Kafka", "abandon", "disconnect", "know"]

log = logging.getLogger(__name__)


def _refusing_closed(send: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A connection's ``send`` that says by aiokafka's own error that the connection is closed.

    Between the loss of a connection and the moment its reading task learns of it uvloop raises RuntimeError, which
    aiokafka takes for a bug of its own: fetching, sending or the membership of the group then ends for good, silently
    (https://github.com/aio-libs/aiokafka/issues/1038).
    """

    @functools.wraps(send)
    def sending(self: AIOKafkaConnection, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        if self._writer is not None and self._writer.is_closing():
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"Connection at {self.host}:{self.port} broken")
        return send(self, *args, **kwargs)

    return sending


AIOKafkaConnection.send = _refusing_closed(AIOKafkaConnection.send)
AIOKafkaConnection._send_sasl_token = _refusing_closed(AIOKafkaConnection._send_sasl_token)


class FetchingEnded(KafkaError):  # type: ignore[misc]
    """A consumer will never read anything again; a new one may."""


class Consumer(AIOKafkaConsumer):  # type: ignore[misc]
    """aiokafka's, which says so when its fetching has ended; as it is, its user would wait for ever."""

    def check_fetching(self) -> None:
        """Raises `FetchingEnded`."""
        fetching = self._fetcher.error_future if self._fetcher is not None else None
        if fetching is not None and fetching.done() and not fetching.cancelled():
            raise FetchingEnded("fetching has ended by a fault of ours") from fetching.exception()

    async def getmany(self, *partitions: Any, **settings: Any) -> Any:
        """As aiokafka's. Raises `FetchingEnded` beside."""
        self.check_fetching()
        return await super().getmany(*partitions, **settings)

    async def all_of(self, tp: TopicPartition) -> AsyncIterator[ConsumerRecord]:
        """What is committed in a partition now, from its beginning; nothing else is read meanwhile, or afterwards."""
        self.assign([tp])
        await self.seek_to_beginning(tp)
        end = (await self.end_offsets([tp]))[tp]
        while await self.position(tp) < end:
            for records in (await self.getmany(timeout_ms=200)).values():
                for record in records:
                    yield record


async def know(producer: AIOKafkaProducer, topic: str) -> None:
    """Have ``producer`` keep ``topic`` in its metadata; call before the first send to it.

    aiokafka begins with the metadata of all topics and narrows, at its first refresh, to those that it had to ask for.
    One that was known from the start and never asked for then vanishes, and batches that wait for it fail after the
    request timeout (40 s) with NotLeaderForPartition.
    """
    await producer.client.add_topic(topic)


async def disconnect(client: Any, seconds: float = 3.0) -> None:
    """Stop an aiokafka client, and give up after ``seconds``: with its broker gone it would wait for ever, to flush, to
    leave its group, or for a fetch that it retries."""
    # A task of its own: what is cancelled within it (aiokafka lets that out of its fetcher) is not us.
    stopping = asyncio.ensure_future(client.stop())
    _, pending = await asyncio.wait([stopping], timeout=seconds)
    if pending:
        stopping.cancel()
    elif not stopping.cancelled() and (error := stopping.exception()) is not None:
        log.debug("a client did not stop in order: %r", error)


async def abandon(producer: AIOKafkaProducer) -> None:
    """Stop a producer without a flush: what the broker does not have by now it never gets.

    aiokafka's own stop waits until all is sent; given up on (`disconnect`), it leaves a sender that tries again for
    as long as the process lives, and writes what its owner took for failed when the broker is back.
    """
    producer._closed = True
    producer.client._get_conn = _no_connection
    # With its connections a request under way ends, and the sender, which waits for it; but it may be between tries.
    await producer.client.close()
    sender = producer._sender.sender_task
    while sender is not None and not sender.done():
        sender.cancel()
        await asyncio.wait([sender], timeout=0.5)
    if sender is not None and not sender.cancelled():
        sender.exception()  # seen: who waited for a record has had it


async def _no_connection(*_: object, **__: object) -> None:
    """What aiokafka's client takes for a broker that can't be reached."""


@dataclass(frozen=True)
class Kafka:
    """A cluster's address and credentials; every client of the process is made from one of these.

    ``bootstrap_servers``: ``host:port``, comma-separated. The password is kept out of ``repr`` and logs.
    """

    bootstrap_servers: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "PLAIN"
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None

    def auth(self) -> dict[str, Any]:
        """Keyword arguments of any aiokafka client: address, protocol, SASL, TLS."""
        out: dict[str, Any] = {"bootstrap_servers": self.bootstrap_servers.split(",")}
        if self.security_protocol != "PLAINTEXT":
            out["security_protocol"] = self.security_protocol
        if self.security_protocol.startswith("SASL"):
            out |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.sasl_password,
            }
        context = self.ssl_context()
        if context is not None:
            out["ssl_context"] = context
        return out

    def ssl_context(self) -> ssl.SSLContext | None:
        """A TLS context where the protocol asks for one, else None."""
        if not self.security_protocol.endswith("SSL"):
            return None
        context = ssl.create_default_context(cafile=self.ssl_cafile)
        if self.ssl_certfile:
            context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile)
        return context

    def producer(self, **kwargs: Any) -> AIOKafkaProducer:
        """A producer: idempotent, acks=all, zstd, unless told otherwise."""
        settings: dict[str, Any] = {
            "enable_idempotence": True,
            "acks": "all",
            "compression_type": "zstd",
            "max_request_size": 2_000_000,
        }
        return AIOKafkaProducer(**self.auth(), **(settings | kwargs))

    def consumer(self, *topics: str, **kwargs: Any) -> Consumer:
        """A consumer: read-committed, from the earliest, no auto-commit, unless told otherwise."""
        settings: dict[str, Any] = {
            "isolation_level": "read_committed",
            "auto_offset_reset": "earliest",
            "enable_auto_commit": False,
        }
        return Consumer(*topics, **self.auth(), **(settings | kwargs))

    def admin(self, **kwargs: Any) -> AIOKafkaAdminClient:
        """An admin client (start and close it)."""
        return AIOKafkaAdminClient(**self.auth(), **kwargs)
