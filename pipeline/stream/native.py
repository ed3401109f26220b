"""Producing through librdkafka: idempotent, many records a loop's turn, one future a call.

It batches, compresses and sends in threads of its own, outside of Python; what is left to the loop is handing a record
over and hearing of it, a third of the cost a record of `BatchProducer` where records come one by one
(docs/decisions/0015-gateway-server.md). Knows nothing of what it carries.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from pipeline.stream.batch import BufferFull, ProduceError, Record, RecordRefused, Unavailable
from pipeline.stream.kafka import Kafka

__all__ = ["NativeProducer", "Written"]

#: Bytes of a record; below every broker's usual ``max.message.bytes``.
_MAX_RECORD = 1_000_000
#: Seconds between looks at what was acknowledged while something is on its way, and while nothing is.
_POLL_S, _IDLE_S = 0.001, 0.25
#: What a record costs beside its bytes.
_OVERHEAD = 200
_REFUSALS = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError._INVALID_ARG, KafkaError.INVALID_RECORD})

_log = logging.getLogger(__name__)


class Written:
    """The records of one call, until the broker has acknowledged or refused every one. ``done`` is set then, or when
    the time is up: to None, or to the first error.
    """

    __slots__ = ("deadline", "done", "error", "left", "owner", "size")

    def __init__(
        self, owner: NativeProducer, left: int, size: int, deadline: float, done: asyncio.Future[None]
    ) -> None:
        self.owner = owner
        self.left = left
        self.size = size
        self.deadline = deadline
        self.done = done
        self.error: ProduceError | None = None

    def __call__(self, error: KafkaError | None, message: object) -> None:
        """One record's fate, told by librdkafka from within a poll."""
        if error is not None and self.error is None:
            self.error = _fault(error)
        self.left -= 1
        if not self.left:
            self.owner._settle(self)
            self.end(self.error)

    def end(self, error: ProduceError | None) -> None:
        """Tell who waits, if he does not know yet."""
        if not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)
                self.done.exception()  # seen, though nobody may wait any more


class NativeProducer:
    """Records in, acknowledgements out; order holds per partition; memory and time are bounded.

    ``timeout_ms``: within it every call hears: acknowledged, refused or `Unavailable`, also when the broker is frozen.
    ``linger_ms``: how long a partition's first record waits for company. ``buffer_bytes``: what may be on its way in
    all; beyond it `BufferFull`. ``settings`` go to librdkafka. acks=all and idempotent, always: a record is written
    once however often it had to be sent, and in order.
    """

    def __init__(
        self,
        kafka: Kafka,
        *,
        timeout_ms: int = 4_000,
        linger_ms: float = 5.0,
        buffer_bytes: int = 64 << 20,
        **settings: Any,
    ) -> None:
        self._limit = buffer_bytes
        self._timeout = timeout_ms / 1000
        self._settings: dict[str, Any] = {
            **_cluster(kafka),
            "enable.idempotence": True,
            "acks": "all",
            "partitioner": "murmur2_random",
            "linger.ms": linger_ms,
            "compression.type": "lz4",
            "delivery.timeout.ms": timeout_ms,
            "message.max.bytes": 2 * _MAX_RECORD,
            "queue.buffering.max.messages": 2_000_000,
            "queue.buffering.max.kbytes": 4 * (buffer_bytes >> 10),
            "socket.keepalive.enable": True,
            "topic.metadata.refresh.interval.ms": 30_000,
            "logger": _log,
            "error_cb": self._on_error,
            **settings,
        }
        self._producer: Producer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[Written] = deque()
        self._buffered = 0
        self._tick: asyncio.TimerHandle | None = None
        self._closing = False
        self._broken = False

    async def start(self) -> None:
        """Begin. It connects by itself, now and whenever it must."""
        self._loop = asyncio.get_running_loop()
        self._producer = Producer(self._settings)
        self._poll()

    async def stop(self) -> None:
        """Take nothing more; deliver what was taken, or fail it after the timeout."""
        self._closing = True
        while self._waiting:
            await asyncio.wait([self._waiting[-1].done])
            self._sweep()
        if self._tick is not None:
            self._tick.cancel()
        if self._producer is not None:
            self._producer.purge()
            await asyncio.to_thread(self._producer.flush, 1.0)
            self._producer = None

    async def answers(self, timeout_s: float = 2.0) -> bool:
        """Whether a broker answers now."""
        producer = self._producer
        if producer is None or self._closing:
            return False
        try:
            # No topic of that name: a look at one is the cheapest question.
            await asyncio.to_thread(producer.list_topics, "control", timeout_s)
        except KafkaException:
            return False
        return True

    @property
    def buffered_bytes(self) -> int:
        """Bytes taken and not yet acknowledged or failed."""
        return self._buffered

    async def send_many(self, topic: str, records: Sequence[Record]) -> list[Awaitable[None]]:
        """As `write`, for callers that want an awaitable for each record; all of a call share their fate."""
        if not records:
            return []
        return [self.write(topic, records)] * len(records)

    def write(self, topic: str, records: Sequence[Record]) -> asyncio.Future[None]:
        """Hand ``records`` over, all or none; the future is done when the broker has acknowledged every one.

        Raises `BufferFull`, `RecordRefused` for one larger than 1,000,000 bytes, and `Unavailable` when not running;
        the future raises `Unavailable` (some may have been written) or `RecordRefused`.
        """
        producer, loop = self._producer, self._loop
        if producer is None or loop is None or self._closing:
            raise Unavailable("the producer is not running")
        size = 0
        for record in records:
            one = _OVERHEAD + len(record[0] or b"") + len(record[1] or b"")
            if one > _MAX_RECORD:
                raise RecordRefused(f"a record of {one} bytes for {topic}: at most {_MAX_RECORD}")
            size += one
        if self._buffered + size > self._limit:
            raise BufferFull(f"{self._buffered} bytes wait for Kafka; at most {self._limit} may")
        written = Written(self, len(records), size, loop.time() + self._timeout, loop.create_future())
        if not records:
            written.end(None)
            return written.done
        self._buffered += size
        if not self._waiting:
            self._wake(loop)
        self._waiting.append(written)
        produce = producer.produce
        taken = 0
        try:
            for key, value, headers, partition, timestamp in records:
                sent: Any = headers if isinstance(headers, list) else list(headers)
                if partition is None and timestamp is None:
                    produce(topic, value, key, headers=sent, on_delivery=written)
                else:
                    lane = -1 if partition is None else partition
                    produce(topic, value, key, lane, headers=sent, timestamp=timestamp or 0, on_delivery=written)
                taken += 1
        except (BufferError, KafkaException) as error:
            # Those before it are on their way; the call as a whole is unknown, so it is to be sent again.
            fault = _fault(error.args[0]) if isinstance(error, KafkaException) else BufferFull(str(error))
            written.left -= len(records) - taken
            written.error = written.error or fault
            if not written.left:
                self._settle(written)
            written.end(fault)
        return written.done

    def _settle(self, written: Written) -> None:
        self._buffered -= written.size

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._tick is not None:
            self._tick.cancel()
        self._tick = loop.call_later(_POLL_S, self._poll)

    def _poll(self) -> None:
        """Hear what was acknowledged; again soon, while something is on its way."""
        producer, loop = self._producer, self._loop
        if producer is None or loop is None:
            return
        try:
            producer.poll(0)
            if self._broken:
                self._replace()
            self._sweep()
        except Exception:
            _log.exception("hearing from Kafka failed")
        self._tick = loop.call_later(_POLL_S if self._waiting else _IDLE_S, self._poll)

    def _sweep(self) -> None:
        """Forget calls that have heard; fail those whose time is up, whatever librdkafka knows of them."""
        waiting = self._waiting
        assert self._loop is not None
        now = self._loop.time()
        while waiting and (waiting[0].done.done() or waiting[0].deadline < now):
            first = waiting.popleft()
            first.end(Unavailable("no acknowledgement in time"))

    def _on_error(self, error: KafkaError) -> None:
        """librdkafka mends what it can by itself; a fatal error means that this producer can do no more."""
        if error.fatal():
            self._broken = True
        elif error.code() not in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT):
            _log.warning("Kafka: %s", error.str())

    def _replace(self) -> None:
        """A new producer for a broken one, whose records are failed: their callers send them again."""
        old, self._broken = self._producer, False
        assert old is not None
        _log.error("the Kafka producer broke down for good; a new one takes its place")
        old.purge()
        old.poll(0)
        self._producer = Producer(self._settings)


def _fault(error: KafkaError) -> ProduceError:
    if error.code() in _REFUSALS:
        return RecordRefused(error.str())
    return Unavailable(error.str())


def _cluster(kafka: Kafka) -> dict[str, Any]:
    """Address and credentials in librdkafka's names."""
    found: dict[str, Any] = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "security.protocol": kafka.security_protocol,
        "ssl.ca.location": kafka.ssl_cafile,
        "ssl.certificate.location": kafka.ssl_certfile,
        "ssl.key.location": kafka.ssl_keyfile,
    }
    if kafka.security_protocol.startswith("SASL"):
        found |= {
            "sasl.mechanism": kafka.sasl_mechanism,
            "sasl.username": kafka.sasl_username,
            "sasl.password": kafka.sasl_password,
        }
    return {name: value for name, value in found.items() if value is not None}
