"""Events of a source as they pass each stage: raw, accepted or rejected, counted. From now on, while somebody watches.

One read-committed reader a process tails the topics for all watchers, and there is none where nobody watches. What a
watcher does not take in time is not kept for it: it is let go, with a note.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Literal

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from pydantic import Field

from pipeline.models.base import Millis, Model
from pipeline.models.control import Source
from pipeline.models.event import WATERMARK_KEY
from pipeline.stream.kafka import Kafka, disconnect
from pipeline.stream.reader import Batch, Reader, Record, open_reader

__all__ = ["MAX_WATCHERS", "Ended", "Live", "Sighting", "Watcher"]

log = logging.getLogger(__name__)
#: Of one process.
MAX_WATCHERS = 50
#: Sightings that wait for a client, each of some hundred bytes.
_WAITING = 2000
_SHARED = ("rejected", "events", "history")
_TAKE_SECONDS = 0.25
_TAKE_RECORDS = 2000
_START_SECONDS = 20.0
#: A client that takes nothing for so long has gone, or might as well have.
_PATIENCE_SECONDS = 60.0

Stage = Literal["edge", "raw", "accepted", "rejected", "counted"]


class Sighting(Model):
    """An event at a stage. ``edge``: the gateway received it; ``raw``: Kafka has it; ``accepted``: intake passed it on;
    ``rejected``: intake did not; ``counted``: fan-out is done with it.
    """

    stage: Stage
    id: str = Field(description="message id; the same at every stage, unless a mapping of the source gives it another")
    name: str | None = Field(None, description="the event's name, where it has one by then")
    who: str | None = Field(None, description="user id, else anonymous id; at `counted` the canonical customer")
    at: Millis = Field(description="the broker's time of the record; at `edge` the gateway's clock")
    after_ms: int = Field(description="since it was received: by the edge, or by the broker where no edge was")
    place: str = Field(description="where the record stands: `topic[partition]@offset`")
    flags: list[str] = Field(default_factory=list)
    reason: str | None = Field(None, description="of a rejection: a code")
    detail: str | None = Field(None, description="of a rejection: what is wrong, for people")
    path: str | None = Field(None, description="of a rejection: into the payload")


class Ended(Exception):
    """Nothing more comes to this watcher. ``code``: ``slow``, ``stopped`` or ``unavailable``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Raw(msgspec.Struct, gc=False):
    messageId: Any = None
    event: Any = None
    type: Any = None
    userId: Any = None
    anonymousId: Any = None


class _Event(msgspec.Struct, gc=False):
    id: str
    partner: str
    source: str
    name: str
    received: int
    user_id: str | None = None
    anonymous_id: str | None = None
    email: str | None = None
    phone: str | None = None
    customer: str | None = None
    flags: list[str] = []


class _Rejected(msgspec.Struct, gc=False):
    reason: str
    detail: str
    partition: int
    offset: int
    received: int
    path: str | None = None
    value: str | None = None
    headers: list[tuple[str, str]] = []


_raw = msgspec.json.Decoder(_Raw).decode
_event = msgspec.json.Decoder(_Event).decode
_rejected = msgspec.json.Decoder(_Rejected).decode


class Watcher:
    """One client's view of one source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._waiting: asyncio.Queue[Sighting] = asyncio.Queue(_WAITING)
        self._end: Ended | None = None
        self._ready = asyncio.Event()
        self._told = asyncio.Event()
        #: When it last asked for more, by the monotonic clock.
        self.asked = time.monotonic()

    def see(self, sighting: Sighting) -> None:
        """Hand it over, or end where the client is too slow."""
        if self._end is not None:
            return
        try:
            self._waiting.put_nowait(sighting)
        except asyncio.QueueFull:
            self.end(Ended("slow", f"{_WAITING} stages waited to be read; watch again, and read faster"))
        self._told.set()

    def end(self, why: Ended) -> None:
        """Let it go, once it has what waits."""
        self._end = self._end or why
        self._told.set()
        self._ready.set()

    @property
    def ended(self) -> bool:
        """Whether nothing more will be seen."""
        return self._end is not None

    async def next(self, timeout: float) -> Sighting | None:
        """The next one; None when nothing came in ``timeout`` seconds. Raises Ended."""
        self.asked = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._waiting.empty() and self._end is None:
                    self._told.clear()
                    await self._told.wait()
        if not self._waiting.empty():
            return self._waiting.get_nowait()
        if self._end is not None:
            raise self._end
        return None


class Live:
    """All watchers of a process, and the reader that serves them. Use from one event loop."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._watchers: set[Watcher] = set()
        self._task: asyncio.Task[None] | None = None
        self._changed = True
        self._stopped = False

    @asynccontextmanager
    async def watch(self, source: Source) -> AsyncIterator[Watcher]:
        """See what comes to ``source`` from when this is entered. Raises Ended: too many watch, or Kafka is away."""
        if self._stopped:
            raise Ended("stopped", "the API is stopping; watch again in a moment")
        if len(self._watchers) >= MAX_WATCHERS:
            raise Ended("busy", f"{MAX_WATCHERS} watch already; end one of them, or ask another API process")
        watcher = Watcher(source)
        self._watchers.add(watcher)
        self._changed = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="live")
        try:
            try:
                await asyncio.wait_for(watcher._ready.wait(), _START_SECONDS)
            except TimeoutError:
                raise Ended("unavailable", "Kafka does not answer; watch again in a moment") from None
            if watcher._end is not None:
                raise watcher._end
            yield watcher
        finally:
            self._watchers.discard(watcher)
            self._changed = True

    async def stop(self) -> None:
        """End all watchers, with a note to each."""
        self._stopped = True
        for watcher in self._watchers:
            watcher.end(Ended("stopped", "the API is stopping; watch again in a moment"))
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        """Until the last watcher has gone."""
        while self._watchers:
            try:
                await self._tail()
            except Exception as error:
                log.warning("live view: %r", error, exc_info=not isinstance(error, KafkaError | OSError))
                for watcher in self._watchers:
                    watcher.end(Ended("unavailable", "Kafka could not be read; watch again in a moment"))
                self._watchers.clear()

    async def _tail(self) -> None:
        reader = open_reader(self._kafka, fetch_max_wait_ms=100)
        self._changed = True
        try:
            await reader.start()
            while self._watchers:
                self._let_go()
                if self._changed:
                    self._changed = False
                    await self._follow(reader)
                try:
                    batches = await reader.take(_TAKE_SECONDS, _TAKE_RECORDS)
                except OffsetOutOfRangeError as error:
                    # Retention passed us, or the topic was made anew: from now on is from now on.
                    lost = list(error.args[0])
                    for tp, end in (await reader.end_offsets(lost)).items():
                        reader.seek(tp, end)
                    continue
                for batch in batches:
                    self._show(batch)
        finally:
            await disconnect(reader)

    def _let_go(self) -> None:
        """Of those that are through, and of those whose client takes nothing."""
        stale = time.monotonic() - _PATIENCE_SECONDS
        for watcher in [each for each in self._watchers if each.ended or each.asked < stale]:
            watcher.end(Ended("slow", f"nothing was read for {_PATIENCE_SECONDS:g} s; watch again"))
            self._watchers.discard(watcher)
            self._changed = True

    async def _follow(self, reader: Reader) -> None:
        """Read what is watched now: topics that are new from their ends on, the others on from where they are."""
        watchers = list(self._watchers)
        topics = {*_SHARED, *(watcher.source.topic for watcher in watchers)}
        positions = reader.positions()
        known = {tp.topic for tp in positions}
        fresh: list[TopicPartition] = []
        for topic in topics - known:
            fresh += await _partitions(reader, topic)
        ends = await reader.end_offsets(fresh) if fresh else {}
        reader.read_from({tp: at for tp, at in positions.items() if tp.topic in topics} | ends)
        for watcher in watchers:
            watcher._ready.set()

    def _show(self, batch: Batch) -> None:
        if batch.topic not in _SHARED:
            watchers = [each for each in self._watchers if each.source.topic == batch.topic]
            for record in batch.records if watchers else ():
                for sighting in _arrivals(batch, record):
                    for watcher in watchers:
                        watcher.see(sighting)
            return
        show = self._show_rejected if batch.topic == "rejected" else self._show_event
        for record in batch.records:
            try:
                show(batch, record)
            except (msgspec.MsgspecError, ValueError) as error:
                # Not of our workers, then; the view goes on.
                log.warning("%s can't be read: %s", _place(batch, record), error)

    def _of(self, partner: str, source: str) -> list[Watcher]:
        return [each for each in self._watchers if (each.source.partner, each.source.id) == (partner, source)]

    def _show_rejected(self, batch: Batch, record: Record) -> None:
        partner, _, source = (record.key or b"").decode(errors="replace").partition(".")
        watchers = self._of(partner, source)
        if not watchers:
            return
        why = _rejected(record.value or b"")
        value = base64.b64decode(why.value) if why.value is not None else None
        headers = {name: base64.b64decode(text) for name, text in why.headers}
        raw, id_ = _identify(value, headers, why.partition, why.offset)
        sighting = Sighting(
            stage="rejected",
            id=id_,
            name=_name(raw),
            who=_who(raw),
            at=record.timestamp,
            after_ms=max(0, record.timestamp - _received(headers, why.received)),
            place=_place(batch, record),
            reason=why.reason,
            detail=why.detail,
            path=why.path,
        )
        for watcher in watchers:
            watcher.see(sighting)

    def _show_event(self, batch: Batch, record: Record) -> None:
        if record.key == WATERMARK_KEY:
            return
        event = _event(record.value or b"")
        watchers = self._of(event.partner, event.source)
        if not watchers:
            return
        sighting = Sighting(
            stage="accepted" if batch.topic == "events" else "counted",
            id=event.id,
            name=event.name,
            who=event.customer or event.user_id or event.anonymous_id or event.email or event.phone,
            at=record.timestamp,
            after_ms=max(0, record.timestamp - event.received),
            place=_place(batch, record),
            flags=event.flags,
        )
        for watcher in watchers:
            watcher.see(sighting)


async def _partitions(reader: Reader, topic: str) -> list[TopicPartition]:
    found = reader.partitions_for_topic(topic)
    if not found:
        # `partitions_for_topic` alone reads a cache.
        await reader._client.set_topics([*{tp.topic for tp in reader.assignment()}, topic])
        found = reader.partitions_for_topic(topic)
    return [TopicPartition(topic, partition) for partition in sorted(found or ())]


def _arrivals(batch: Batch, record: Record) -> Sequence[Sighting]:
    """The raw record, and the edge before it where one says so."""
    headers = {name: content or b"" for name, content in record.headers}
    raw, id_ = _identify(record.value, headers, batch.partition, record.offset)
    received = _received(headers, record.timestamp)
    seen = Sighting(
        stage="raw",
        id=id_,
        name=_name(raw),
        who=_who(raw),
        at=record.timestamp,
        after_ms=record.timestamp - received,
        place=_place(batch, record),
    )
    if "ce_time" not in headers:
        return [seen]
    return [seen.model_copy(update={"stage": "edge", "at": received, "after_ms": 0}), seen]


def _identify(value: bytes | None, headers: dict[str, bytes], partition: int, offset: int) -> tuple[_Raw | None, str]:
    """What can be read of the value, and the message id as intake will find it."""
    raw: _Raw | None = None
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raw = _raw(value or b"")
    given = raw.messageId if raw is not None and isinstance(raw.messageId, str) else ""
    named = headers.get("ce_id", b"").decode(errors="replace")
    return raw, given or named or f"k:{partition}:{offset}"


def _received(headers: dict[str, bytes], appended: int) -> int:
    """When the edge received it, never later than the broker's own time, as intake has it."""
    try:
        moment = datetime.fromisoformat(headers["ce_time"].decode())
        return min(int(moment.timestamp() * 1000), appended)
    except (KeyError, ValueError, OverflowError, UnicodeDecodeError):
        return appended


def _name(raw: _Raw | None) -> str | None:
    found = (raw.event or raw.type) if raw is not None else None
    return str(found)[:200] if isinstance(found, str) else None


def _who(raw: _Raw | None) -> str | None:
    found = (raw.userId or raw.anonymousId) if raw is not None else None
    return str(found)[:512] if isinstance(found, str | int) else None


def _place(batch: Batch, record: Record) -> str:
    return f"{batch.topic}[{batch.partition}]@{record.offset}"
