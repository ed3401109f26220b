"""What is told of each feed on `bridges.status`: written by the bridge role, followed by the API."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, Literal

import orjson
from aiokafka import ConsumerRecord
from pydantic import Field, ValidationError

from pipeline.feeds.lane import Names
from pipeline.models.base import Model
from pipeline.models.control import Source
from pipeline.models.feeds import FeedStatus
from pipeline.stream.follower import Follower, Following
from pipeline.stream.kafka import Kafka
from pipeline.stream.producer import ProduceError, Producer, Record

__all__ = ["STALE_MS", "SourceStatus", "StatusBoard", "Teller", "status_of"]

_log = logging.getLogger(__name__)
#: Between looks at what has changed; and how often all is told again.
_LOOK_SECONDS = 0.25
_AGAIN_SECONDS = 10.0
#: Older word than this is nobody's: the process is gone, and no other has taken over.
STALE_MS = 35_000


class Teller:
    """Tells the newest status of each feed of this process. What Kafka does not take is told the next time."""

    def __init__(self, kafka: Kafka, names: Names) -> None:
        self._producer = Producer(kafka)
        self._topic = names.status
        self._statuses: dict[bytes, FeedStatus] = {}
        self._dirty: set[bytes] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect. Raises KafkaError."""
        await self._producer.start()
        self._task = asyncio.create_task(self._run(), name="feed status")

    async def stop(self) -> None:
        """Tell what is left, and disconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._tell()
        await self._producer.stop()

    def tell(self, status: FeedStatus) -> None:
        """This is the feed's status now."""
        key = f"{status.partner}.{status.source}.{status.number}".encode()
        self._statuses[key] = status
        self._dirty.add(key)

    def forget(self, partner: str, source: str, number: int) -> None:
        """It is another's to tell, or nobody's."""
        key = f"{partner}.{source}.{number}".encode()
        self._statuses.pop(key, None)
        self._dirty.discard(key)

    async def _run(self) -> None:
        again = time.monotonic() + _AGAIN_SECONDS
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if time.monotonic() > again:
                again = time.monotonic() + _AGAIN_SECONDS
                self._dirty |= self._statuses.keys()
            await self._tell()

    async def _tell(self) -> None:
        dirty, self._dirty = self._dirty, set()
        now = int(time.time() * 1000)
        try:
            for key in dirty:
                if (status := self._statuses.get(key)) is not None:
                    value = status.model_copy(update={"as_of": now}).to_json()
                    await self._producer.write(self._topic, [Record(key, value, partition=0)])
        except ProduceError as error:
            self._dirty |= dirty
            _log.warning("the state of feeds can't be told: %r", error)


class StatusBoard(Following):
    """Follows `bridges.status`. Use from one event loop."""

    def __init__(self, kafka: Kafka, names: Names | None = None) -> None:
        super().__init__(Follower(kafka, [(names or Names()).status], self._apply, name="feed status"))
        self._statuses: dict[tuple[str, str], dict[int, FeedStatus]] = {}

    def of(self, partner: str, source: str) -> list[FeedStatus]:
        """The last word on each of the source's consumers."""
        found = self._statuses.get((partner, source), {})
        return [found[number] for number in sorted(found)]

    def _apply(self, records: list[ConsumerRecord]) -> None:
        for record in records:
            try:
                status = FeedStatus.model_validate(orjson.loads(record.value or b"null"))
            except (ValidationError, orjson.JSONDecodeError):
                continue  # of another version of ours
            self._statuses.setdefault((status.partner, status.source), {})[status.number] = status


class SourceStatus(Model):
    """How a source that is fetched for is doing."""

    source: str
    bridge: str
    state: Literal["running", "waiting", "fault", "off", "unknown"] = Field(
        description="waiting: it is tried again by itself; fault: mend its settings, its secret or the origin; off: "
        "switched off; unknown: no bridge process tells of it"
    )
    reason: str
    consumers: list[FeedStatus]


def status_of(source: Source, consumers: int, told: Sequence[FeedStatus], now_ms: int) -> SourceStatus:
    """The state of the whole: the worst of its consumers'."""
    fresh = [one for one in told if one.number < consumers and now_ms - one.as_of < STALE_MS]
    state: Any = "running"
    reason = ""
    if source.removed or not source.active:
        state, reason, fresh = "off", "the source is switched off", []
    elif not fresh:
        state = "unknown"
        reason = "no bridge process tells of it; is `headrace bridge` running?"
    for wanted in ("waiting", "fault"):
        for one in fresh:
            if one.state == wanted:
                state, reason = wanted, one.reason
    return SourceStatus(source=source.id, bridge=source.bridge, state=state, reason=reason, consumers=fresh)
