"""The engine of the bridge role: every source that fetches, in the lanes that this process owns.

A source's consumer *i* belongs to the lane that its name hashes to, plus *i*. So it runs in one process at a time, and
another takes it over with the lane. Follows the control log: what is edited, switched off or removed acts at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from aiokafka.errors import KafkaError
from pydantic import ValidationError

from pipeline.bridges.base import FORGET, Feed
from pipeline.bridges.registry import FEEDS
from pipeline.feeds.lane import FeedLane, LaneLost, Names, Work
from pipeline.feeds.status import Teller
from pipeline.feeds.task import FeedTask, SecretSource
from pipeline.guard import Guard
from pipeline.models.control import Source
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka
from pipeline.stream.transaction import partition_for
from pipeline.topics.wanted import ensure_for

__all__ = ["ControlSource", "FeedEngine", "consumers_of"]

log = logging.getLogger(__name__)
_RETRY_SECONDS = 1.0

#: Partner, source, number of the consumer.
_Key = tuple[str, str, int]


class ControlSource(Protocol):
    """As `pipeline.control.log.ControlLog`. ``state``: ``sources``."""

    state: Any

    def subscribe(self, callback: Callable[[Any], None]) -> Callable[[], None]:
        """Call back after every change; the result ends that."""
        ...


class FeedEngine:
    """Call `settle` and `hold` as the group says. Use from one event loop."""

    def __init__(
        self,
        kafka: Kafka,
        control: ControlSource,
        secrets: SecretSource,
        settings: Settings,
        *,
        names: Names | None = None,
        feeds: Mapping[str, Feed] = FEEDS,
    ) -> None:
        #: Set with the exception when the engine cannot go on; the process should end then and be restarted.
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._kafka = kafka
        self._control = control
        self._secrets = secrets
        self._settings = settings
        self._names = names or Names()
        self._feeds = feeds
        self._guard = Guard(settings.allow_networks)
        self._folders = [Path(part.strip()) for part in settings.allow_folders.split(",") if part.strip()]
        self._teller = Teller(kafka, self._names)
        self._lanes: dict[int, FeedLane] = {}
        self._tasks: dict[_Key, FeedTask] = {}
        self._counts: dict[tuple[str, str], tuple[Source, int]] = {}
        self._made: set[str] = set()
        self._changed = asyncio.Event()
        self._stopping = False
        self._follower: asyncio.Task[None] | None = None
        self._converging: dict[_Key, asyncio.Task[None]] = {}
        self._unsubscribe: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Connect and follow the control log; fetch nothing before `settle`. Raises KafkaError."""
        await self._teller.start()
        self._unsubscribe = self._control.subscribe(lambda state: self._changed.set())
        self._follower = asyncio.create_task(self._follow(), name="feed engine")

    async def stop(self) -> None:
        """Give all lanes up; what is at hand is finished. Then disconnect."""
        self._stopping = True
        self._unsubscribe()
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        for task in self._converging.values():
            task.cancel()
        await asyncio.gather(*self._converging.values(), return_exceptions=True)
        await self._give_up(set(self._lanes))
        await self._teller.stop()
        if self.failure.done() and not self.failure.cancelled():
            self.failure.exception()

    async def hold(self, lanes: set[int]) -> None:
        """A rebalance begins: commit nothing more until `settle`. Connections stay open; most lanes come back."""
        await asyncio.gather(*(self._lanes[number].hold() for number in lanes if number in self._lanes))

    async def settle(self, owned: set[int]) -> None:
        """These lanes are ours from now on, and no others."""
        if self._stopping:
            return
        await self._give_up(self._lanes.keys() - owned)
        for number in owned:
            if number in self._lanes:
                self._lanes[number].go_on()
                continue
            lane = self._lanes[number] = FeedLane(self._kafka, self._names, number, self._settings.lanes)
            lane.start()
            lane.done.add_done_callback(self._lane_ended)
        self._changed.set()

    async def _give_up(self, lanes: set[int]) -> None:
        for number in lanes:
            self._lanes[number].release()
        keys = [key for key in self._tasks if self._lane_of(*key) in lanes]
        await asyncio.gather(*(self._end(key) for key in keys))
        gone = [self._lanes.pop(number) for number in lanes]
        await asyncio.gather(*(lane.stop() for lane in gone))

    def _lane_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self.failure.done():
            log.error("the bridge engine cannot go on: %r", error, exc_info=error)
            self.failure.set_exception(error)

    # -- which sources run here ------------------------------------------------------------------------------

    def _lane_of(self, partner: str, source: str, number: int) -> int:
        lanes = self._settings.lanes
        return (partition_for(f"{partner}.{source}".encode(), lanes) + number) % lanes

    def _wanted(self) -> dict[_Key, Source]:
        found: dict[_Key, Source] = {}
        for source in list(self._control.state.sources.values()):
            if source.bridge not in self._feeds or source.removed or not source.active:
                continue
            for number in range(self._consumers(source)):
                if self._lane_of(source.partner, source.id, number) in self._lanes:
                    found[(source.partner, source.id, number)] = source
        return found

    def _consumers(self, source: Source) -> int:
        known = self._counts.get((source.partner, source.id))
        if known is None or known[0] is not source:
            count = consumers_of(self._feeds[source.bridge], source)
            known = self._counts[source.partner, source.id] = (source, count)
        return known[1]

    async def _follow(self) -> None:
        """Bring every feed to where it should be, each by itself: one that hangs holds up no other."""
        while True:
            self._changed.clear()
            wanted = self._wanted()
            for key in wanted.keys() | self._tasks.keys():
                running, source = self._tasks.get(key), wanted.get(key)
                same = running is not None and source is not None and running.source.version == source.version
                if not same and key not in self._converging:
                    task = self._converging[key] = asyncio.create_task(self._converge(key), name=f"feed {key}")
                    task.add_done_callback(lambda done, key=key: self._converged(key, done))  # type: ignore[misc]
            await self._changed.wait()

    def _converged(self, key: _Key, task: asyncio.Task[None]) -> None:
        self._converging.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)
        self._changed.set()

    async def _converge(self, key: _Key) -> None:
        source = self._wanted().get(key)
        running = self._tasks.get(key)
        if running is not None and (source is None or running.source.version != source.version):
            await self._end(key)
            running = None
        if source is None or running is not None:
            return
        try:
            if source.topic not in self._made:
                await ensure_for(self._kafka, self._settings, source)
                self._made.add(source.topic)
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("feed %s.%s: its topic: %r; trying again", source.partner, source.id, error)
            await asyncio.sleep(_RETRY_SECONDS)
            return
        lane = self._lanes.get(self._lane_of(*key))
        if lane is None or key in self._tasks:
            return
        task = self._tasks[key] = FeedTask(
            self._feeds[source.bridge],
            source,
            key[2],
            lane,
            self._secrets,
            self._teller,
            self._guard,
            self._folders,
        )
        task.start()

    async def _end(self, key: _Key) -> None:
        task = self._tasks.get(key)
        if task is None:
            return
        await task.stop()
        if self._tasks.get(key) is task:
            del self._tasks[key]
        self._teller.forget(*key)
        now = self._control.state.sources.get(key[:2])
        lane = self._lanes.get(self._lane_of(*key))
        if (now is None or now.removed) and lane is not None and (keys := task.state_keys()):
            # Its id is never used again, so nobody will ask for its positions.
            try:
                await lane.write(Work(task.source.topic, [], [], dict.fromkeys(keys, FORGET)))
            except LaneLost:
                log.info("the positions of the removed %s.%s stay behind", *key[:2])


def consumers_of(feed: Feed, source: Source) -> int:
    """In how many places the source runs at a time; 1 where its settings don't say, or can't be read."""
    try:
        return int(getattr(feed.Settings.model_validate(source.settings), "consumers", 1))
    except ValidationError:
        return 1
