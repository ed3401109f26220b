"""Topics of an MQTT 5 broker: acknowledged there once our broker has the messages.

A session that outlives the connection, QoS 1, acknowledgement by hand: what was not acknowledged is delivered again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, model_validator

from pipeline.bridges.base import Opening, Parcel, SetupFault
from pipeline.bridges.ledger import Ledger
from pipeline.bridges.origin import Credentials, Host, Port, Tls, headers_of, ssl_context
from pipeline.bridges.payload import PayloadBridge, PayloadSettings
from pipeline.guard import BadName

__all__ = ["QueueMqtt", "QueueMqttSettings"]

_Filter = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\x00]+$")]
_CONNECT_SECONDS = 15.0
_KEEPALIVE = 30
#: The user properties that are taken for a message's id, the first that is there.
_IDS = ("message-id", "messageid", "ce-id", "ce_id", "id")
#: Reason codes of CONNACK that somebody must mend: malformed, protocol, version, client id, user, rights, banned, …
_SETUP = frozenset({0x81, 0x82, 0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x95, 0x9D})
_REFUSED = 0x80
#: A few messages wait so long for more: a transaction costs as much as many of them.
_GATHER_SECONDS = 0.01


class QueueMqttSettings(PayloadSettings):
    """Where the broker is, and what is subscribed to there."""

    host: Host
    port: Port | None = Field(None, description="1883, or 8883 with TLS, when left out")
    topics: list[_Filter] = Field(
        min_length=1, max_length=100, description="topic filters: `shop/+/orders`, `$share/headrace/shop/#`"
    )
    username: Annotated[str, Field(max_length=500)] | None = None
    inflight: int = Field(500, ge=1, le=5000, description="messages under way at a time, and of one transaction")
    session: int = Field(604_800, ge=60, le=4_294_967_294, description="seconds that the broker keeps what we miss")
    consumers: int = Field(1, ge=1, le=64, description="how many read at a time; wants shared subscriptions")
    tls: Tls | None = Field(None, description="`{}` for TLS as the system trusts it")

    @model_validator(mode="after")
    def _shared(self) -> Self:
        if self.consumers > 1 and not all(topic.startswith("$share/") for topic in self.topics):
            raise ValueError(
                "several `consumers` want shared topics, `$share/<group>/<filter>`; else each gets them all"
            )
        return self


class QueueMqtt(PayloadBridge):
    """At least once. The id is a user property (``message-id``); without it one is given, that a redelivery keeps."""

    name = "queue-mqtt"
    title = "MQTT 5: the messages of topics"
    channel = "Device"
    Settings = QueueMqttSettings

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[_Stream]:
        """The session of this consumer. Raises as `Feed.open` says."""
        from aiomqtt import Client, MqttError, ProtocolVersion
        from aiomqtt.exceptions import MqttConnectError
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties
        from paho.mqtt.subscribeoptions import SubscribeOptions

        settings: QueueMqttSettings = opening.settings
        credentials = Credentials.of(opening.secret)
        context = ssl_context(settings.tls, credentials) if settings.tls is not None else None
        port = settings.port or (8883 if context is not None else 1883)
        properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = settings.session
        properties.ReceiveMaximum = settings.inflight
        client = Client(
            settings.host,
            port,
            username=settings.username,
            password=credentials.password,
            identifier=f"headrace-{opening.source.partner}-{opening.source.id}-{opening.number}",
            protocol=ProtocolVersion.V5,
            keepalive=_KEEPALIVE,
            clean_start=False,
            properties=properties,
            tls_context=context,
            timeout=_CONNECT_SECONDS,
        )
        known = opening.positions.get("")
        stream = _Stream(settings, client, Ledger(known, settings.inflight))
        paho: Any = client._client
        paho.manual_ack_set(True)
        paho.on_message = stream.arrived
        # To an address that was checked; the name stays for the certificate.
        paho._create_socket_connection = lambda: opening.guard.dial(settings.host, port, _CONNECT_SECONDS)
        where = f"{settings.host}:{port}"
        try:
            async with _session(paho, client, stream):
                before = set(known.get("topics", ())) if isinstance(known, dict) else set()
                for topic in sorted(before - set(settings.topics)):
                    await client.unsubscribe(topic)
                # What is retained comes once, not with each connection.
                options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
                answers: Any = await client.subscribe([(topic, options) for topic in settings.topics])
                for topic, answer in zip(settings.topics, answers, strict=True):
                    if int(getattr(answer, "value", answer)) >= _REFUSED:
                        raise SetupFault(f"{where} refuses the topic {topic}: {answer}")
                yield stream
        except MqttConnectError as error:
            reason: Any = error.rc
            code = int(getattr(reason, "value", reason) or 0)
            if code in _SETUP:
                raise SetupFault(f"{where} refuses us: {error}; check username, secret and rights") from None
            raise OSError(f"{where}: {error}") from None
        except BadName:
            raise SetupFault(f"{settings.host} is no name of a host") from None
        except MqttError as error:
            raise OSError(f"{where}: {error}") from None


@asynccontextmanager
async def _session(paho: Any, client: Any, stream: _Stream) -> AsyncIterator[None]:
    """Connected; the ledger knows whether the broker still had our session."""
    connected = paho.on_connect

    def on_connect(paho: Any, data: Any, flags: Any, reason: Any, properties: Any = None) -> None:
        if not flags.session_present:
            stream.ledger.forget()
        connected(paho, data, flags, reason, properties)

    paho.on_connect = on_connect
    async with client:
        yield


class _Stream:
    lag: int | None = None

    def __init__(self, settings: QueueMqttSettings, client: Any, ledger: Ledger) -> None:
        self.ledger = ledger
        self._settings = settings
        self._client = client
        self._waiting: list[Any] = []
        self._came = asyncio.Event()
        self._taken: list[Any] = []

    def arrived(self, _client: Any, _data: Any, message: Any) -> None:
        """The client's callback, on the loop; the broker has at most ``inflight`` under way."""
        self._waiting.append(message)
        self._came.set()

    async def take(self, timeout: float) -> Sequence[Parcel]:
        """Messages in the order in which the broker sent them."""
        if not self._waiting:
            self._came.clear()
            arrival = asyncio.ensure_future(self._came.wait())
            try:
                await asyncio.wait(
                    (arrival, self._client._disconnected), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                arrival.cancel()
        if self._waiting and len(self._waiting) * 4 < self._settings.inflight:
            await asyncio.sleep(_GATHER_SECONDS)
        if self._client._disconnected.done():
            error = self._client._disconnected.exception()
            raise OSError(f"the connection was closed: {error}")
        most = self._settings.inflight
        self._taken, self._waiting = self._waiting[:most], self._waiting[most:]
        parcels = [self._parcel(message) for message in self._taken]
        if parcels:
            position = self.ledger.position() | {"topics": self._settings.topics}
            # What the last one carries is committed for all of them.
            parcels[-1] = parcels[-1]._replace(position=position)
        return parcels

    async def done(self, parcels: Sequence[Parcel]) -> None:
        """An acknowledgement each, in order."""
        paho = self._client._client
        for message in self._taken:
            if message.qos:
                paho.ack(message.mid, message.qos)
        self._taken = []
        if self._client._disconnected.done():
            raise OSError("the connection was closed before all was acknowledged")

    def _parcel(self, message: Any) -> Parcel:
        properties = message.properties
        given = {name.lower(): value for name, value in getattr(properties, "UserProperty", ())}
        own = next((given[name] for name in _IDS if given.get(name)), None)
        if own is None or len(own) > 300:
            # Below QoS 1 nothing is delivered again.
            mark = str(message.mid) if message.qos else f"{time.monotonic_ns()}"
            own = self.ledger.id(mark, bool(message.dup) and bool(message.qos))
        headers = headers_of(
            given,
            mqtt_topic=message.topic,
            mqtt_retained=int(message.retain) or None,
            mqtt_content_type=getattr(properties, "ContentType", None),
        )
        return Parcel(own, message.payload, headers)
