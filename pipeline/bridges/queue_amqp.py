"""A queue of RabbitMQ, or another broker of AMQP 0.9.1: acknowledged there once our broker has the messages."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.bridges.base import Opening, Parcel, SetupFault
from pipeline.bridges.ledger import Ledger
from pipeline.bridges.origin import Credentials, Host, Port, Settings, Tls, headers_of, ssl_context
from pipeline.bridges.payload import PayloadBridge, PayloadSettings
from pipeline.guard import BadName, Guard

if TYPE_CHECKING:
    from aio_pika.abc import AbstractIncomingMessage, AbstractQueue

__all__ = ["QueueAmqp", "QueueAmqpSettings"]

_CONNECT_SECONDS = 15.0
#: How often the queue's length is asked for; with it, whether the queue is there.
_PROBE_SECONDS = 5.0
_HEARTBEAT_SECONDS = 20
#: A few messages wait so long for more: a transaction costs as much as many of them.
_GATHER_SECONDS = 0.01
#: Of one transaction of ours, besides the prefetch.
_BYTES = 8 << 20
_Name = Annotated[str, Field(min_length=1, max_length=255)]


class Declare(Settings):
    """The queue is made if it is not there. One that is there, and other than this, is a fault."""

    type: Literal["classic", "quorum"] = "quorum"
    durable: bool = True
    exchange: _Name | None = Field(None, description="bound to this exchange, which must be there")
    routing_keys: list[Annotated[str, Field(max_length=255)]] = Field(
        default_factory=lambda: [""], min_length=1, max_length=100
    )

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        if self.type == "quorum" and not self.durable:
            raise ValueError("a quorum queue is always durable")
        return self


class QueueAmqpSettings(PayloadSettings):
    """Where the broker is, and what is read there."""

    host: Host
    port: Port | None = Field(None, description="5672, or 5671 with TLS, when left out")
    vhost: _Name = "/"
    username: _Name = "guest"
    queue: _Name
    declare: Declare | None = Field(None, description="left out: the queue must be there")
    prefetch: int = Field(500, ge=1, le=5000, description="messages under way at a time, and of one transaction")
    consumers: int = Field(1, ge=1, le=64, description="how many read at a time; messages then need ids of their own")
    tls: Tls | None = Field(None, description="`{}` for TLS as the system trusts it")


class QueueAmqp(PayloadBridge):
    """At least once. The id is the property ``message-id``; without it one is given, that a redelivery keeps."""

    name = "queue-amqp"
    title = "RabbitMQ: the messages of a queue (AMQP 0.9.1)"
    channel = "Server"
    Settings = QueueAmqpSettings

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[_Stream]:
        """A consumer of the queue. Raises as `Feed.open` says."""
        from aio_pika import Connection
        from aio_pika.connection import make_url
        from aio_pika.exceptions import (
            AMQPError,
            AuthenticationError,
            ChannelNotFoundEntity,
            ChannelPreconditionFailed,
            ProbableAuthenticationError,
        )
        from aiormq.exceptions import ChannelAccessRefused, ConnectionNotAllowed, InvalidFrameError

        settings: QueueAmqpSettings = opening.settings
        credentials = Credentials.of(opening.secret)
        context = ssl_context(settings.tls, credentials) if settings.tls is not None else None
        port = settings.port or (5671 if context is not None else 5672)
        url = make_url(
            host="origin",  # the transport knows where it is
            port=port,
            login=settings.username,
            password=credentials.password or "",
            virtualhost=settings.vhost,
            ssl=context is not None,
            heartbeat=_HEARTBEAT_SECONDS,
            name=f"headrace-{opening.source.partner}-{opening.source.id}-{opening.number}",
        )
        connection = Connection(url, ssl_context=context)
        connection.kwargs["transport_factory"] = _Transport(opening.guard, settings.host, port, context)
        where = f"{settings.host}:{port}"
        try:
            try:
                await connection.connect(timeout=_CONNECT_SECONDS)
                channel = await connection.channel()
                await channel.set_qos(prefetch_count=settings.prefetch)
                queue = await _queue(channel, settings)
                ledger = Ledger(opening.positions.get(""), settings.prefetch)
                stream = _Stream(settings, channel, queue, ledger)
                connection.close_callbacks.add(stream.cut)
                channel.close_callbacks.add(stream.cut)
                await queue.consume(stream.arrived)
            except (AuthenticationError, ProbableAuthenticationError, ConnectionNotAllowed) as error:
                raise SetupFault(f"{where} refuses us: {error}; check username, secret and vhost") from None
            except (ChannelNotFoundEntity, ChannelAccessRefused, ChannelPreconditionFailed) as error:
                raise SetupFault(f"{where}: {error}; check the queue, its settings and our rights") from None
            except InvalidFrameError as error:
                # What the library makes of a broker that closes instead of opening the virtual host.
                if "Connection.OpenOk" not in str(error):
                    raise OSError(f"{where}: {error!r}") from error
                raise SetupFault(f"{where} has no vhost {settings.vhost}, or refuses it to this user") from None
            except AMQPError as error:
                raise OSError(f"{where}: {error!r}") from error
            yield stream
        finally:
            with suppress(Exception):
                await asyncio.wait_for(connection.close(), 5)


class _Transport:
    """Makes the connection to an address that was checked, under the name that the certificate must have."""

    def __init__(self, guard: Guard, host: str, port: int, context: ssl.SSLContext | None) -> None:
        self._guard = guard
        self._host = host
        self._port = port
        self._context = context

    async def create(self, url: Any, **_: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """As aiormq asks."""
        try:
            made = await asyncio.to_thread(self._guard.dial, self._host, self._port, _CONNECT_SECONDS)
        except BadName:
            raise SetupFault(f"{self._host} is no name of a host") from None
        made.setblocking(False)
        name = self._host if self._context is not None else None
        try:
            return await asyncio.open_connection(sock=made, ssl=self._context, server_hostname=name)
        except BaseException:
            made.close()
            raise


async def _queue(channel: Any, settings: QueueAmqpSettings) -> AbstractQueue:
    declared = settings.declare
    if declared is None:
        found: AbstractQueue = await channel.declare_queue(settings.queue, passive=True)
        return found
    found = await channel.declare_queue(
        settings.queue, durable=declared.durable, arguments={"x-queue-type": declared.type}
    )
    if declared.exchange is not None:
        for key in declared.routing_keys:
            await found.bind(declared.exchange, key)
    return found


class _Stream:
    def __init__(self, settings: QueueAmqpSettings, channel: Any, queue: AbstractQueue, ledger: Ledger) -> None:
        self.lag: int | None = queue.declaration_result.message_count
        self._settings = settings
        self._channel = channel
        self._ledger = ledger
        self._waiting: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        self._last: AbstractIncomingMessage | None = None
        self._failure: BaseException | None = None
        self._cut = asyncio.Event()
        self._probed = time.monotonic()

    async def arrived(self, message: AbstractIncomingMessage) -> None:
        """The client's callback; the prefetch bounds what waits."""
        self._waiting.put_nowait(message)

    def cut(self, _: Any, error: BaseException | None = None) -> None:
        """The client's callback when connection or channel close."""
        self._failure = error
        self._cut.set()

    async def take(self, timeout: float) -> Sequence[Parcel]:
        """Messages in the order of the queue."""
        await self._probe()
        if self._waiting.empty():
            await self._wait(timeout)
        if not self._waiting.empty() and self._waiting.qsize() * 4 < self._settings.prefetch:
            await asyncio.sleep(_GATHER_SECONDS)
        if self._cut.is_set():
            raise OSError(f"the connection was closed: {self._failure!r}")
        found: list[AbstractIncomingMessage] = []
        size = 0
        while not self._waiting.empty() and len(found) < self._settings.prefetch and size < _BYTES:
            found.append(self._waiting.get_nowait())
            size += len(found[-1].body)
        if not found:
            return []
        self._last = found[-1]
        parcels = [self._parcel(message) for message in found]
        # What the last one carries is committed for all of them.
        parcels[-1] = parcels[-1]._replace(position=self._ledger.position())
        return parcels

    async def done(self, parcels: Sequence[Parcel]) -> None:
        """One acknowledgement for all up to the last."""
        from aio_pika.exceptions import AMQPError

        if self._last is not None:
            try:
                await self._last.ack(multiple=True)
            except (AMQPError, RuntimeError) as error:
                raise OSError(f"it was not acknowledged: {error!r}") from error

    def _parcel(self, message: AbstractIncomingMessage) -> Parcel:
        own = message.message_id
        if own:
            name = own if len(own) <= 300 else hashlib.sha256(own.encode()).hexdigest()
        else:
            name = self._ledger.id(_mark(message), bool(message.redelivered))
        headers = headers_of(
            dict(message.headers or {}),
            amqp_exchange=message.exchange,
            amqp_routing_key=message.routing_key,
            amqp_type=message.type,
            amqp_content_type=message.content_type,
            amqp_timestamp=int(message.timestamp.timestamp() * 1000) if message.timestamp is not None else None,
        )
        return Parcel(name, message.body, headers)

    async def _wait(self, timeout: float) -> None:
        arrival = asyncio.ensure_future(self._waiting.get())
        cut = asyncio.ensure_future(self._cut.wait())
        try:
            await asyncio.wait((arrival, cut), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            cut.cancel()
            if not arrival.cancel() and not arrival.cancelled():
                # Back to the front, whatever has come behind it meanwhile.
                rest = [self._waiting.get_nowait() for _ in range(self._waiting.qsize())]
                for message in (arrival.result(), *rest):
                    self._waiting.put_nowait(message)

    async def _probe(self) -> None:
        from aio_pika.exceptions import AMQPError

        if time.monotonic() - self._probed < _PROBE_SECONDS:
            return
        self._probed = time.monotonic()
        try:
            declared = await self._channel.declare_queue(self._settings.queue, passive=True, timeout=10)
        except (AMQPError, RuntimeError) as error:
            raise OSError(f"the queue {self._settings.queue} does not answer: {error!r}") from error
        self.lag = declared.declaration_result.message_count


def _mark(message: AbstractIncomingMessage) -> str:
    """Messages that are the same in all of this are equal; twelve bytes tell others apart."""
    parts = (message.exchange or "", message.routing_key or "", message.correlation_id or "", str(message.timestamp))
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=9)
    digest.update(message.body)
    return digest.hexdigest()
