"""One integration in one process: how it is set up, whether it may be called, its lanes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from pipeline.control.secrets import SecretError
from pipeline.dispatch.schedule import Schedule
from pipeline.models.control import Integration
from pipeline.models.delivery import Delivery, Dispatch
from pipeline.settings import Settings
from pipeline.sinks.base import Asked, BatchConfig, BatchSink, Classified, SetupError, SinkConfig
from pipeline.sinks.gate import Gate
from pipeline.sinks.gatherer import Gatherer
from pipeline.sinks.http import Answer, NoAnswer
from pipeline.sinks.lane import SinkLane
from pipeline.sinks.reader import Reader
from pipeline.sinks.registry import configure, sink
from pipeline.sinks.transports import Transports
from pipeline.stream.kafka import Kafka, know
from pipeline.topics.apply import ensure
from pipeline.topics.spec import load, of_integration

__all__ = ["MAX_THROTTLES", "Outlet", "SecretSource", "Wires"]

log = logging.getLogger(__name__)

#: A record that is throttled so often in a row has used up an attempt: if it is the only one that is, the others
#: must not wait for it for ever.
MAX_THROTTLES = 10
_THROTTLE_SECONDS = (1.0, 60.0)
_PAUSE_SECONDS = (30.0, 3600.0)
#: A secret may still be on its way: the control log can be ahead of the secrets.
_SECRET_SECONDS = 1.0
_CUSTOMER_CHARACTERS = 2_000
_ANSWER_CHARACTERS = 2_000


class SecretSource(Protocol):
    """As `pipeline.control.secrets.Secrets`."""

    def get(self, name: str) -> str:
        """The secret's value. Raises SecretError."""
        ...


class Flags(Protocol):
    """What `Outlet.deliver` tells of its progress."""

    sending: bool


@dataclass(frozen=True)
class Wires:
    """What the outlets of a process share. ``fail``: tell the engine of an error that ends it."""

    kafka: Kafka
    reader: Reader
    producer: AIOKafkaProducer
    transports: Transports
    secrets: SecretSource
    settings: Settings
    fail: Callable[[Exception], None]

    async def submit(
        self, topic: str, partition: int, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> Awaitable[Any]:
        """Hand a record to the producer; await the result for Kafka's acknowledgement."""
        await know(self.producer, topic)
        sent: Awaitable[Any] = await self.producer.send(topic, value, key, partition, headers=list(headers))
        return sent

    async def produce(self, topic: str, partition: int, key: bytes | None, value: bytes) -> None:
        """Write a record; returns once Kafka has acknowledged it."""
        await (await self.submit(topic, partition, key, value))


class _Attempt(NamedTuple):
    """What was asked (None: no request could be made), what came back, and what that means."""

    request: Asked | None
    answer: Answer | None
    result: Classified


class _Part(NamedTuple):
    """One record of a batch, and what stands for it in a request."""

    dispatch: Dispatch
    body: bytes


class Outlet:
    """Made by the engine for an integration that is on; `apply` tells it what it is and which lanes it owns."""

    def __init__(self, wires: Wires, integration: Integration) -> None:
        self.wires = wires
        self.gate = Gate()
        self.partner = integration.partner
        self.id = integration.id
        self.topic = integration.topic
        self.lanes: dict[int, SinkLane] = {}
        self._made: set[str] = set()
        self._making = asyncio.Lock()
        self._set_up(integration)

    def _set_up(self, integration: Integration) -> None:
        self._integration = integration
        self._fault: str | None = None
        self._config = SinkConfig()
        try:
            self._config = configure(integration.kind, integration.settings)
        except SetupError as error:
            self._fault = str(error)
        own = self._config.retry_schedule
        self.schedule = Schedule.parse(own if own is not None else self.wires.settings.retry_schedule)
        self._gatherer: Gatherer[_Part, _Attempt] | None = None
        in_flight = self._config.max_in_flight
        tool = None if self._fault else sink(integration.kind)
        if isinstance(tool, BatchSink) and isinstance(self._config, BatchConfig):
            most = min(self._config.batch or tool.most, tool.most)
            self._gatherer = Gatherer(
                self._ask_together,
                most=most,
                most_bytes=tool.most_bytes,
                linger_s=self._config.linger_ms / 1000,
                in_flight=in_flight,
            )
            in_flight *= most
        self._slots = asyncio.Semaphore(in_flight)

    # -- lanes -----------------------------------------------------------------------------------------------

    async def apply(self, integration: Integration, lanes: set[int], budget: float) -> None:
        """Take the integration's settings of now and own exactly ``lanes``. Raises KafkaError: call again."""
        if integration.version != self._integration.version:
            self._set_up(integration)
            if self.gate.reset():
                log.info("%s was edited: trying again", self.topic)
        await self.close(self.lanes.keys() - lanes, budget)
        if lanes - self.lanes.keys():
            await self._open(lanes - self.lanes.keys())

    async def close(self, numbers: set[int], budget: float) -> None:
        """Give lanes up; requests in flight get ``budget`` seconds."""
        lanes = [self.lanes.pop(number) for number in numbers]
        results = await asyncio.gather(*(lane.close(budget) for lane in lanes), return_exceptions=True)
        for lane, result in zip(lanes, results, strict=True):
            if isinstance(result, KafkaError):
                log.warning("%s lane %d: its last offsets were not committed: %r", self.topic, lane.number, result)
            elif isinstance(result, BaseException):
                raise result

    async def _open(self, numbers: set[int]) -> None:
        prefix = f"{self.topic}.retry."
        there = await self.wires.reader.topics()
        if self.topic not in there:
            await self._ensure(self.topic)
        tiers = [name.removeprefix(prefix) for name in there if name.startswith(prefix)]
        self._made |= {name for name in there if name.startswith(self.topic)}
        lanes = [SinkLane(self, number) for number in numbers]
        tps = [tp for lane in lanes for tp in lane.partitions(tiers)]
        committed = await self.wires.reader.committed(tps)
        async with self.wires.reader.look_back() as past:
            bounds = await past.bounds(tps)
            for lane in lanes:
                await lane.open(tiers, committed, bounds, past)
                self.lanes[lane.number] = lane

    def topic_of(self, tier: str | None) -> str:
        """The dispatch topic, or the retry topic of a tier."""
        return self.topic if tier is None else f"{self.topic}.retry.{tier}"

    async def make(self, tier: str) -> None:
        """See to it that the retry topic is there."""
        await self._ensure(self.topic_of(tier), tier)

    async def make_undeliverable(self) -> str:
        """See to it that the undeliverable topic is there; its name."""
        topic = f"{self.topic}.undeliverable"
        await self._ensure(topic)
        return topic

    async def _ensure(self, name: str, tier: str | None = None) -> None:
        if name in self._made:
            return
        async with self._making:
            if name in self._made:
                return
            settings = self.wires.settings
            tiers = [tier] if tier is not None else []
            topics = of_integration(load(), settings.lanes, settings.replication, self.partner, self.id, tiers)
            await ensure(self.wires.kafka, [topic for topic in topics if topic.name == name])
            self._made.add(name)

    # -- delivering ------------------------------------------------------------------------------------------

    async def deliver(self, dispatch: Dispatch, flags: Flags, lane: int) -> Classified:
        """Attempt a delivery; the answer: ok, invalid or transient. Each attempt is in the delivery log.

        Throttling closes the gate for as long as the tool asks and the record tries again, `MAX_THROTTLES` times in
        a row; then it is transient. What is wrong with the set-up pauses the integration until it is edited, or
        a while; the record waits here, with its offset not committed.
        """
        throttled = 0
        while True:
            async with self._slots:
                epoch = await self.gate.enter()
                flags.sending = True
                integration = self._integration
                answered = False
                try:
                    result = await self._try(dispatch, lane)
                    answered = True
                finally:
                    flags.sending = False
                    if not answered:
                        self.gate.leave(epoch)
                if result.outcome == "setup" and integration is not self._integration:
                    # It was edited meanwhile; the answer is to how it was before.
                    self.gate.leave(epoch)
                elif result.outcome == "throttle":
                    throttled += 1
                    self._throttled(epoch, result)
                elif result.outcome == "setup":
                    self._paused(epoch, result)
                elif self.gate.succeed(epoch):
                    log.info("%s is called again", self.topic)
            if result.outcome == "throttle" and throttled >= MAX_THROTTLES:
                return Classified("transient", f"throttled {throttled} times in a row")
            if result.outcome not in ("throttle", "setup"):
                return result

    def _throttled(self, epoch: int, result: Classified) -> None:
        seconds = result.retry_after or self._backoff(*_THROTTLE_SECONDS)
        self.gate.close(epoch, seconds, result.detail, alert=False)

    def _paused(self, epoch: int, result: Classified) -> None:
        least, most = _PAUSE_SECONDS
        seconds = self._backoff(result.retry_after or least, most)
        if self.gate.close(epoch, seconds, result.detail, alert=True):
            log.error(
                "ALERT %s is paused: %s. Its records are kept; edit the integration, or it is tried again in %g s",
                self.topic,
                result.detail,
                seconds,
            )

    def _backoff(self, least: float, most: float) -> float:
        """Doubled each time in a row that the gate was closed."""
        return float(min(least * 2 ** min(self.gate.closings, 20), most))

    async def _try(self, dispatch: Dispatch, lane: int) -> Classified:
        started, clock = int(time.time() * 1000), time.monotonic()
        request, answer, result = await self._ask(dispatch)
        delivery = Delivery(
            id=dispatch.id,
            partner=dispatch.partner,
            integration=dispatch.integration,
            rule=dispatch.rule,
            customer=str(dispatch.customer.get("id", ""))[:_CUSTOMER_CHARACTERS],
            name=dispatch.name,
            attempt=dispatch.attempt + 1,
            outcome=result.outcome,
            status=answer.status if answer is not None else None,
            detail=result.detail[:_ANSWER_CHARACTERS],
            request=request.shown() if request is not None else {},
            answer=answer.body.decode(errors="replace")[:_ANSWER_CHARACTERS] if answer is not None else "",
            started=started,
            duration_ms=round((time.monotonic() - clock) * 1000),
            test=dispatch.test,
        )
        await self.wires.produce("deliveries", lane, delivery.customer.encode() or None, delivery.to_json())
        return result

    async def _ask(self, dispatch: Dispatch) -> _Attempt:
        """One attempt, alone or with others. Raises nothing of the tool's."""
        if self._gatherer is None:
            return await self._asked(dispatch.id, lambda now: self._request(dispatch, now))
        tool = sink(self._integration.kind)
        assert isinstance(tool, BatchSink)
        try:
            part = tool.part(dispatch, self._config, int(time.time() * 1000))
        except Exception as error:
            return _Attempt(None, None, self._failed(dispatch.id, error))
        return await self._gatherer.add(_Part(dispatch, part), len(part))

    async def _ask_together(self, parts: Sequence[_Part]) -> list[_Attempt]:
        """In one request; what the log shows of it is each record's own. Refused as a whole, each goes alone: the tool
        does not say which of them it means."""
        bodies = [part.body for part in parts]
        request, answer, result = await self._asked(parts[0].dispatch.id, lambda now: self._request_of(bodies, now))
        results = [result] * len(parts)
        if answer is not None and request is not None:
            tool = sink(self._integration.kind)
            assert isinstance(tool, BatchSink)
            try:
                each = tool.classify_each(answer.status, answer.headers, answer.body, bodies)
            except Exception as error:
                each = self._failed(parts[0].dispatch.id, error, answered=True)
            results = each if isinstance(each, list) else [each] * len(parts)
            if len(parts) > 1 and not isinstance(each, list) and each.outcome == "invalid":
                return [(await self._ask_together([part]))[0] for part in parts]
            if len(results) != len(parts):
                log.error("%s: the answer is about %d of %d records", self.topic, len(results), len(parts))
                results = [Classified("transient", "the answer is not about what was asked")] * len(parts)
        shown = [self._request_of([body], int(time.time() * 1000)) for body in bodies] if request is not None else []
        return [_Attempt(shown[at] if shown else None, answer, result) for at, result in enumerate(results)]

    async def _asked(self, name: str, make: Callable[[int], Asked]) -> _Attempt:
        request: Asked | None = None
        answer: Answer | None = None
        try:
            request = make(int(time.time() * 1000))
            answer = await self.wires.transports.send(request, self._config.timeout_s)
            result = sink(self._integration.kind).classify(answer.status, answer.headers, answer.body)
        except Exception as error:
            result = self._failed(name, error, answered=answer is not None)
        return _Attempt(request, answer, result)

    def _failed(self, name: str, error: Exception, *, answered: bool = False) -> Classified:
        """What an exception means, of the transport or of the tool's code."""
        if isinstance(error, SetupError):
            return Classified("setup", str(error))
        if isinstance(error, SecretError):
            return Classified("setup", str(error), _SECRET_SECONDS)
        if isinstance(error, NoAnswer):
            return Classified("transient", str(error))
        what = f"{type(error).__name__}: {error}"
        if not answered and isinstance(error, ValueError | TypeError | KeyError | RecursionError):
            # The record's content cannot be put into a request.
            return Classified("invalid", f"no request can be made of it: {what}")
        # One record that a tool's code fails on may not end the deliveries of all.
        log.error("%s: the code of %s failed on %s", self.topic, self._integration.kind, name, exc_info=error)
        return Classified("transient", f"our code failed on it: {what}")

    def _request(self, dispatch: Dispatch, now: int) -> Asked:
        return sink(self._integration.kind).request(dispatch, self._config, self._secret(), now)

    def _request_of(self, parts: Sequence[bytes], now: int) -> Asked:
        tool = sink(self._integration.kind)
        assert isinstance(tool, BatchSink)
        return tool.request_of(parts, self._config, self._secret(), now)

    def _secret(self) -> str | None:
        if self._fault is not None:
            raise SetupError(self._fault)
        name = self._integration.secret
        return self.wires.secrets.get(name) if name is not None else None
