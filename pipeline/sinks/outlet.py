"""One integration in one process: how it is set up, whether it may be called, its lanes."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiokafka.errors import KafkaError

from pipeline.dispatch.schedule import Schedule
from pipeline.models.base import Millis
from pipeline.models.control import Command, Integration, Verdict
from pipeline.models.delivery import Dispatch
from pipeline.models.window import duration_ms
from pipeline.sinks.asking import Asker
from pipeline.sinks.base import Classified, SetupError, SinkConfig, iso
from pipeline.sinks.breaker import Breaker
from pipeline.sinks.gate import Gate
from pipeline.sinks.lane import SinkLane
from pipeline.sinks.limiter import Limiter
from pipeline.sinks.registry import configure, sink
from pipeline.sinks.state import TOPIC, Vitals, closed_by, failing_since, key_of
from pipeline.sinks.wires import Wires
from pipeline.stream.failpoints import passed
from pipeline.stream.transaction import partition_for
from pipeline.topics.apply import ensure
from pipeline.topics.spec import load, of_integration

__all__ = ["MAX_THROTTLES", "Outlet"]

log = logging.getLogger(__name__)

#: A record that is throttled so often in a row has used up an attempt: if it is the only one that is, the others
#: must not wait for it for ever.
MAX_THROTTLES = 10
_THROTTLE_SECONDS = (1.0, 60.0)
_PAUSE_SECONDS = (30.0, 3600.0)
_BREAKER_SECONDS = (30.0, 300.0)


class Flags(Protocol):
    """What `Outlet.deliver` tells of its progress."""

    sending: float


class Outlet:
    """Made by the engine for an integration that is on; `apply` tells it what it is and which lanes it owns."""

    def __init__(self, wires: Wires, integration: Integration) -> None:
        self.wires = wires
        self.gate = Gate()
        self.partner = integration.partner
        self.id = integration.id
        self.topic = integration.topic
        self.lanes: dict[int, SinkLane] = {}
        self._vitals: dict[int, Vitals] = {}
        self._broken = False
        self._disabled: int | None = None
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
        self._breaker = Breaker(self._config.breaker)
        self._broken = False
        rate, burst = (None, None) if self._fault else sink(integration.kind).limits(self._config)
        self._limiter = Limiter(self._config.rate or rate, self._config.burst or burst)
        self._limiter.share = len(self.lanes) / self.wires.settings.lanes
        self._asker = Asker(self.wires, integration, self._config, self._fault, self._limiter)
        self._slots = asyncio.Semaphore(self._asker.at_once)

    # -- lanes -----------------------------------------------------------------------------------------------

    async def apply(self, integration: Integration, lanes: set[int], budget: float) -> None:
        """Take the integration's settings of now and own exactly ``lanes``. Raises KafkaError: call again."""
        if integration.version != self._integration.version:
            self._set_up(integration)
            if self.gate.reset():
                log.info("%s was edited: trying again", self.topic)
        await self.close(self.lanes.keys() - lanes, budget)
        # A process has as much of the rate as it has of the lanes.
        self._limiter.share = len(lanes) / self.wires.settings.lanes
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
                known = self.wires.board.of(self.partner, self.id).get(lane.number)
                self._vitals[lane.number] = Vitals(self.partner, self.id, lane.number, known)
                self.lanes[lane.number] = lane

    def topic_of(self, tier: str | None) -> str:
        """The dispatch topic, or the retry topic of a tier."""
        return self.topic if tier is None else f"{self.topic}.retry.{tier}"

    async def disable_if_dead(self, submit: Callable[[Command], Awaitable[Verdict]]) -> None:
        """Switch the integration off where it has done nothing but fail for so long, retries included; tell its owner.

        All processes see the same rows, and their command has one id: it is switched off, and told of, once. Raises
        KafkaError, TimeoutError.
        """
        limit = self._config.disable_after
        since = failing_since(self.wires.board.of(self.partner, self.id).values())
        now, integration = int(time.time() * 1000), self._integration
        if not limit or since is None or now - since < duration_ms(limit) or self._disabled == integration.version:
            return
        command = Command(
            id=f"disable-{integration.id[:40]}-{integration.version}",
            command="integration.edit",
            partner=self.partner,
            entity=self.id,
            expect=integration.version,
            by="headrace",
            data={"enabled": False},
        )
        verdict = await submit(command)
        self._disabled = integration.version
        if verdict.status >= 300:
            log.info("%s is not switched off: %s", self.topic, verdict.detail)
            return
        log.error("ALERT %s is switched off: it has done nothing but fail for %s", self.topic, limit)
        if self._config.notify is not None:
            await self._notify(self._config.notify, since, now)

    async def _notify(self, other: str, since: Millis, now: Millis) -> None:
        event = {
            "id": f"{self.id}:{self._integration.version}",
            "partner": self.partner,
            "source": "headrace",
            "channel": "Integrations",
            "type": "track",
            "name": "Integration Disabled",
            "time": now,
            "received": now,
            "properties": {"integration": self.id, "name": self._integration.name, "failing_since": iso(since)},
        }
        told = Dispatch(
            id=hashlib.blake2b(f"{self.topic}:{event['id']}".encode(), digest_size=16).hexdigest(),
            partner=self.partner,
            integration=other,
            rule="disabled",
            name="Integration Disabled",
            event=event,
            customer={"id": self.partner, "traits": {}},
            created=now,
        )
        key = self.partner.encode()
        lane = partition_for(key, self.wires.settings.lanes)
        await self.wires.produce(f"dispatch.{self.partner}.{other}", lane, key, told.to_json())

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
                if not self._asker.gathers:
                    await self._turn(epoch)
                flags.sending = time.monotonic()
                integration = self._integration
                answered = False
                try:
                    result = await self._try(dispatch, lane)
                    answered = True
                    self._judge(epoch, integration, result)
                    # Before it counts as sent no more: who is cut off between the two would send it again.
                    await self._tell(lane, result)
                finally:
                    flags.sending = 0.0
                    if not answered:
                        self.gate.leave(epoch)
            throttled += result.outcome == "throttle"
            if result.outcome == "throttle" and throttled >= MAX_THROTTLES:
                return Classified("transient", f"throttled {throttled} times in a row")
            if result.outcome not in ("throttle", "setup"):
                return result

    def _judge(self, epoch: int, integration: Integration, result: Classified) -> None:
        """What an answer, to how the integration was, means for the requests after it."""
        if result.outcome == "setup" and integration is not self._integration:
            # It was edited meanwhile; the answer is to how it was before.
            self.gate.leave(epoch)
        elif result.outcome == "throttle":
            self._throttled(epoch, result)
        elif result.outcome == "setup":
            self._paused(epoch, result)
        elif result.outcome == "transient" and self._trips():
            self._tripped(epoch, result)
        else:
            if result.outcome != "transient":
                self._breaker.succeed()
                self._broken = False
            if self.gate.succeed(epoch):
                log.info("%s is called again", self.topic)

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

    def _tripped(self, epoch: int, result: Classified) -> None:
        """What failed has used up its attempt; what waits behind the gate has not."""
        self._broken = True
        seconds = self._backoff(*_BREAKER_SECONDS)
        if self.gate.close(epoch, seconds, f"it keeps failing: {result.detail}", alert=False):
            log.warning("%s keeps failing (%s): asked again in %g s", self.topic, result.detail, seconds)

    def _trips(self) -> bool:
        return self._breaker.fail(time.monotonic()) or self._broken

    async def _tell(self, lane: int, result: Classified) -> None:
        """Write what has changed of how the tool is: rarely anything has."""
        now, closed = int(time.time() * 1000), closed_by(self.gate.pause)
        changed: list[Vitals] = []
        own = self._vitals.get(lane)
        if own is not None and result.outcome != "throttle" and own.tried(result.outcome in ("ok", "invalid"), now):
            changed.append(own)
        changed += [each for each in self._vitals.values() if each.closed(closed, now) and each not in changed]
        for each in changed:
            await self.wires.produce(TOPIC, each.row.lane, key_of(each.row), each.row.to_json())

    async def _turn(self, epoch: int) -> None:
        try:
            await self._limiter.take()
        except asyncio.CancelledError:
            self.gate.leave(epoch)
            raise

    def _backoff(self, least: float, most: float) -> float:
        """Doubled each time in a row that the gate was closed."""
        return float(min(least * 2 ** min(self.gate.closings, 20), most))

    async def _try(self, dispatch: Dispatch, lane: int) -> Classified:
        started, clock = int(time.time() * 1000), time.monotonic()
        attempt = await self._asker.ask(dispatch)
        passed("sink-answered")
        duration = round((time.monotonic() - clock) * 1000)
        await self.wires.deliveries.write(dispatch, attempt, lane, started, duration)
        return attempt.result
