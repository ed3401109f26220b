"""The delivery engine: every integration that is on, for the lanes that this process owns.

Promise: each dispatch record is delivered at least once or kept as undeliverable, in order per customer, the
same dedup key on every attempt. Mechanism: `lane`. One customer or endpoint that fails holds up no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from aiokafka.errors import KafkaError

from pipeline.dispatch.schedule import Schedule
from pipeline.models.control import Command, Integration, Verdict
from pipeline.settings import Settings
from pipeline.sinks import delivery_log
from pipeline.sinks.delivery_log import DeliveryLog
from pipeline.sinks.gate import Pause
from pipeline.sinks.outlet import Outlet
from pipeline.sinks.parked import Parked
from pipeline.sinks.reader import Reader
from pipeline.sinks.state import TOPIC, SinkBoard
from pipeline.sinks.transports import Transports
from pipeline.sinks.wires import SecretSource, Wires
from pipeline.stream.kafka import Kafka, disconnect
from pipeline.topics.apply import ensure
from pipeline.topics.spec import expand, load

__all__ = ["OFFSETS_GROUP", "ControlSource", "DeliveryEngine"]

log = logging.getLogger(__name__)

#: Keeps the offsets; nobody joins it (see `reader`).
OFFSETS_GROUP = "headrace-sink-offsets"
_RETRY_SECONDS = 1.0
#: Between looks at which tools do nothing but fail.
_WATCH_SECONDS = 2.0
#: What requests in flight get when lanes are given up or an integration is switched off.
_BUDGET_SECONDS = 10.0

_Key = tuple[str, str]


class ControlSource(Protocol):
    """As `pipeline.control.log.ControlLog`. ``state``: ``integrations`` and ``partners``."""

    state: Any

    def subscribe(self, callback: Callable[[Any], None]) -> Callable[[], None]:
        """Call back after every change; the result ends that."""
        ...

    async def submit(self, command: Command) -> Verdict:
        """Write a command, and wait for the verdict on it. Raises KafkaError, TimeoutError."""
        ...


class DeliveryEngine:
    """Follows the control log; call `assign` and `revoke` as lanes come and go. Use from one event loop.

    An integration works when it is enabled, not removed, and its partner's master switch is on; otherwise its
    records, queued retries included, are kept and wait. ``group``: for offsets.
    """

    def __init__(
        self,
        kafka: Kafka,
        control: ControlSource,
        secrets: SecretSource,
        settings: Settings,
        *,
        group: str = OFFSETS_GROUP,
    ) -> None:
        Schedule.parse(settings.retry_schedule)
        #: Set with the exception when the engine cannot go on; the process should end then and be restarted.
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._control = control
        self._settings = settings
        self._kafka = kafka
        self._reader = Reader(kafka, group)
        self._producer = kafka.producer(linger_ms=5, max_batch_size=256 << 10, max_request_size=2_090_000)
        self._transports = Transports(settings)
        #: How all tools are, as all processes have it.
        self.board = SinkBoard(kafka)
        self._deliveries = DeliveryLog(kafka)
        self._parked = Parked(settings.data_dir / "parked")
        self._wires = Wires(
            kafka,
            self._reader,
            self._producer,
            self._transports,
            secrets,
            settings,
            self._fail,
            self.board,
            self._deliveries,
            self._parked,
        )
        self._outlets: dict[_Key, Outlet] = {}
        self._locks: dict[_Key, asyncio.Lock] = {}
        self._lanes: set[int] = set()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._converging: set[asyncio.Task[None]] = set()
        self._unsubscribe: Callable[[], None] = lambda: None

    @property
    def paused(self) -> dict[_Key, Pause]:
        """Integrations, by (partner, id), that are not called now, and why."""
        return {key: o.gate.pause for key, o in self._outlets.items() if o.gate.pause is not None}

    async def start(self) -> None:
        """Connect and follow the control log; deliver nothing before `assign`. Raises KafkaError, and OSError where
        nothing can be written to the data dir."""
        try:
            await self._parked.open()
            await self._reader.start()
            await self._producer.start()
            await self._deliveries.start()
            await self._transports.start()
            topics = expand(load(), self._settings.lanes, self._settings.replication)
            await ensure(self._kafka, [topic for topic in topics if topic.name in (delivery_log.TOPIC, TOPIC)])
            await self.board.start()
        except BaseException:
            await self._disconnect()
            raise
        self._reader.failure.add_done_callback(self._reader_ended)
        self.board.failure.add_done_callback(self._reader_ended)
        self._unsubscribe = self._control.subscribe(lambda state: self._changed.set())
        self._task = asyncio.create_task(self._follow(), name="sink engine")
        self._watch = asyncio.create_task(self._disable_dead(), name="sink watch")

    async def stop(self, budget: float = _BUDGET_SECONDS) -> None:
        """Give all lanes up; requests in flight get ``budget`` seconds. Then disconnect."""
        self._unsubscribe()
        tasks = [task for task in (self._task, self._watch) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._lanes.clear()
        await asyncio.gather(*(self._converge(key, budget) for key in list(self._outlets)), return_exceptions=True)
        for task in self._converging:
            task.cancel()
        await asyncio.gather(*self._converging, return_exceptions=True)
        await self._disconnect()
        if self.failure.done() and not self.failure.cancelled():
            self.failure.exception()

    async def assign(self, lanes: set[int]) -> None:
        """These lanes are ours now; returns at once, reading begins soon after."""
        self._lanes |= lanes
        self._changed.set()

    async def revoke(self, lanes: set[int]) -> None:
        """Give these lanes up; returns when nothing of them is in flight and their offsets are committed."""
        self._lanes -= lanes
        await asyncio.gather(*(self._converge(key, _BUDGET_SECONDS) for key in list(self._outlets)))

    def _fail(self, error: Exception) -> None:
        if not self.failure.done():
            log.error("the delivery engine cannot go on: %r", error, exc_info=error)
            self.failure.set_exception(error)

    def _reader_ended(self, future: asyncio.Future[None]) -> None:
        error = None if future.cancelled() else future.exception()
        if isinstance(error, Exception):
            self._fail(error)

    async def _disconnect(self) -> None:
        await disconnect(self._producer)
        await self._deliveries.stop()
        await self._reader.stop()
        await self.board.stop()
        await self._transports.stop()
        await self._parked.close()

    async def _follow(self) -> None:
        """Bring every integration to where it should be, each by itself: one that hangs holds up no other."""
        while True:
            self._changed.clear()
            wanted = {key for key, tool in self._control.state.integrations.items() if self._works(tool)}
            for key in wanted | self._outlets.keys():
                task = asyncio.create_task(self._converge_surely(key), name=f"sink {key}")
                self._converging.add(task)
                task.add_done_callback(self._converging.discard)
            await self._changed.wait()

    async def _disable_dead(self) -> None:
        """Switch off what has done nothing but fail for so long, and tell its owner."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            for outlet in list(self._outlets.values()):
                try:
                    await outlet.disable_if_dead(self._control.submit)
                except (KafkaError, OSError, TimeoutError) as error:
                    log.warning("sink %s could not be switched off: %r; trying again", outlet.topic, error)
                except Exception as error:
                    self._fail(error)

    async def _converge_surely(self, key: _Key) -> None:
        try:
            await self._converge(key, _BUDGET_SECONDS)
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("sink %s.%s: %r; trying again", *key, error)
            await asyncio.sleep(_RETRY_SECONDS)
            self._changed.set()
        except Exception as error:
            self._fail(error)

    async def _converge(self, key: _Key, budget: float) -> None:
        async with self._locks.setdefault(key, asyncio.Lock()):
            tool = self._control.state.integrations.get(key)
            outlet = self._outlets.get(key)
            if tool is None or not self._works(tool) or not self._lanes:
                if outlet is not None:
                    await outlet.close(set(outlet.lanes), budget)
                    del self._outlets[key]
                return
            if outlet is None:
                outlet = self._outlets[key] = Outlet(self._wires, tool)
            await outlet.apply(tool, set(self._lanes), budget)

    def _works(self, tool: Integration) -> bool:
        partner = self._control.state.partners.get(tool.partner)
        return bool(tool.enabled and not tool.removed and partner is not None and partner.sending)
