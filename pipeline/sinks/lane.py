"""One lane of one integration: its partition of the dispatch topic and of the retry topics, in order per customer.

Steps of a record (the same numbers in the code):

1. Read from the dispatch topic or a retry topic, into a window; what does not fit waits, unread.
2. Queue behind the customer's earlier records. Only the head is sent.
3. Send, once it is due. `Outlet.deliver` waits out throttling and pauses.
4. Delivered: done. Refused for good, or out of attempts: to the undeliverable topic, then done.
5. Failed: to the retry topic of its attempt, then done here. Its customer's later records follow it.
6. Done moves the partition's watermark, which is committed; nothing is done before Kafka has acknowledged
   whatever was written for it.

At a start, the unfinished parts of the retry topics are looked through first: they say which customers' records
must wait for earlier ones. Customers of whom no record is in hand stand on a shelf, on disk: so memory holds the
windows, however many customers wait for a retry.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from array import array
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from aiokafka import ConsumerRecord, TopicPartition
from pydantic import ValidationError

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.barrier import Item, KeyQueue
from pipeline.sinks.offsets import MAX_SPAN, OffsetTracker
from pipeline.sinks.reader import LookBack
from pipeline.sinks.record import (
    MAX_KEY,
    Place,
    Unreadable,
    delayed,
    give_up,
    headers_of,
    place_of,
    read_dispatch,
)
from pipeline.stream.failpoints import passed

if TYPE_CHECKING:
    from pipeline.sinks.outlet import Outlet

__all__ = ["SinkLane"]

#: Records and bytes of one partition in hand at one time.
WINDOW = 1000
WINDOW_BYTES = 8 << 20
#: When a request takes longer and the window is full, its customer's later records make room for others.
_SLOW_SECONDS = 1.0
#: A customer of whom more records wait stays in memory: to write and read them all for each that comes is more work
#: than to send it.
_SHELVED = 100
#: Records that are held before customers are shelved while retry topics are looked through: most are met again soon.
_LOOKED_THROUGH = 100_000


class _Loaded:
    """A record in hand. ``dispatch`` is None when it cannot be read, ``fault`` says why."""

    __slots__ = ("dispatch", "fault", "intake", "record")

    def __init__(self, intake: _Intake, record: ConsumerRecord, dispatch: Any, fault: str) -> None:
        self.intake = intake
        self.record = record
        self.dispatch = dispatch
        self.fault = fault


class _Intake:
    """One partition that the lane reads. ``tier``: None for the dispatch topic."""

    def __init__(self, tp: TopicPartition, tier: str | None, tracker: OffsetTracker) -> None:
        self.tp = tp
        self.tier = tier
        self.tracker = tracker
        self.backlog: deque[ConsumerRecord] = deque()
        self.loaded = 0
        self.bytes = 0

    @property
    def full(self) -> bool:
        return self.loaded >= WINDOW or self.bytes >= WINDOW_BYTES or self.tracker.span >= MAX_SPAN


class _Queue(KeyQueue[_Loaded]):
    """A customer's records and who works on them. ``sending``: since when a request is on its way (the monotonic
    clock; 0: none is); ``writing``: how many writes to Kafka are."""

    __slots__ = ("key", "sending", "task", "timer", "writing")

    def __init__(self, key: bytes) -> None:
        super().__init__()
        self.key = key
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.sending = 0.0
        self.writing = 0

    @property
    def busy(self) -> bool:
        """In the middle of what is better finished."""
        return self.sending > 0 or self.writing > 0


class SinkLane:
    """Made by `Outlet` for a lane that this process owns; `open` it, and `close` it before it is given away."""

    def __init__(self, outlet: Outlet, number: int) -> None:
        self.number = number
        self._outlet = outlet
        self._wires = outlet.wires
        self._intakes: dict[str | None, _Intake] = {}
        #: Customers of whom records are in hand; the others are on the shelf, and nobody is in both.
        self._queues: dict[bytes, _Queue] = {}
        self._shelf = outlet.wires.parked.shelf()
        self._attaching = asyncio.Lock()
        self._closing = False
        self._watch: asyncio.Task[None] | None = None
        self._rooming = False

    # -- open and close --------------------------------------------------------------------------------------

    def partitions(self, tiers: Iterable[str]) -> list[TopicPartition]:
        """The lane's partition of the dispatch topic and of each tier's."""
        return [self._tp(None), *(self._tp(tier) for tier in tiers)]

    async def open(
        self,
        tiers: Iterable[str],
        committed: dict[TopicPartition, tuple[int, str]],
        bounds: dict[TopicPartition, tuple[int, int]],
        past: LookBack,
    ) -> None:
        """Rebuild what waits for what, then read. Raises KafkaError, and OSError where the disk fails."""
        for tier in (None, *tiers):
            tp = self._tp(tier)
            first, last = bounds[tp]
            offset, metadata = committed.get(tp, (first, ""))
            # Outside of what there is: retention went past it, or the topic was made anew.
            tracker = OffsetTracker(offset, metadata) if first <= offset <= last else OffsetTracker(first)
            self._intakes[tier] = _Intake(tp, tier, tracker)
        try:
            await self._rebuild(bounds, past)
        except BaseException:
            self._shelf.clear()
            raise
        for intake in self._intakes.values():
            self._read(intake)
        self._watch = asyncio.create_task(self._make_room(), name=f"room {self._outlet.topic} {self.number}")

    async def close(self, budget: float) -> None:
        """Start nothing new, let requests in flight end within ``budget`` seconds, commit, read no more."""
        self._closing = True
        tasks = []
        if self._watch is not None:
            tasks.append(self._watch)
            if not self._rooming:
                self._watch.cancel()
        for queue in self._queues.values():
            if queue.timer is not None:
                queue.timer.cancel()
            if queue.task is not None:
                tasks.append(queue.task)
                if not queue.busy:
                    queue.task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=budget)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        tps = [intake.tp for intake in self._intakes.values()]
        try:
            await self._wires.reader.flush(tps)
        finally:
            self._wires.reader.remove(tps)
            self._shelf.clear()

    @property
    def customers(self) -> int:
        """Customers of whom records are in hand."""
        return len(self._queues)

    def _tp(self, tier: str | None) -> TopicPartition:
        return TopicPartition(self._outlet.topic_of(tier), self.number)

    def _read(self, intake: _Intake) -> None:
        self._wires.reader.add(intake.tp, intake.tracker, lambda records: self._feed(intake, records))

    async def _rebuild(self, bounds: dict[TopicPartition, tuple[int, int]], past: LookBack) -> None:
        """Find who waits for whom in the retry topics, and forget copies that a crash left behind."""
        stale: dict[str | None, set[int]] = {tier: set() for tier in self._intakes}
        seen: dict[str | None, array[int]] = {tier: array("q") for tier in self._intakes}
        last_origin, held = -1, 0
        for tier, intake in self._intakes.items():
            if tier is None:
                continue
            async for record in past.read(intake.tp, intake.tracker.watermark, bounds[intake.tp][1]):
                seen[tier].append(record.offset)
                place = place_of(record)
                if place is None or intake.tracker.is_done(record.offset):
                    continue
                last_origin = max(last_origin, place.origin)
                known = (record.key or b"") in self._queues
                queue = self._queue(record.key or b"")
                held += 1 if known else 1 + len(queue)
                other = queue.find(place.origin)
                if other is not None and other.hop >= place.hop:
                    stale[tier].add(record.offset)
                else:
                    if other is not None:
                        stale[other.tier].add(other.offset)
                        queue.remove(other)
                    queue.add(Item(place.origin, tier, place.hop, 0, offset=record.offset))
                if held >= _LOOKED_THROUGH:
                    held = 0
                    self._rest_all()
        main = self._intakes[None]
        end = min(last_origin + 1, bounds[main.tp][1])
        async for record in past.read(main.tp, main.tracker.watermark, end):
            seen[None].append(record.offset)
            queue = self._queue(record.key or b"")
            if queue.find(record.offset) is not None:
                stale[None].add(record.offset)
            elif len(queue) and not main.tracker.is_done(record.offset):
                queue.add(Item(record.offset, None, 0, 0, offset=record.offset))
            else:
                self._rest(queue)
        self._rest_all()
        for tier, intake in self._intakes.items():
            last = max(stale[tier], default=-1)
            intake.tracker.adopt([offset for offset in seen[tier] if offset <= last], stale[tier])

    async def _attach(self, tier: str) -> None:
        """Begin to read a tier that is used for the first time."""
        async with self._attaching:
            if tier in self._intakes:
                return
            await self._outlet.make(tier)
            tp = self._tp(tier)
            offset, metadata = (await self._wires.reader.committed([tp])).get(tp, (0, ""))
            intake = self._intakes[tier] = _Intake(tp, tier, OffsetTracker(offset, metadata))
            self._read(intake)

    # -- 1. Read ---------------------------------------------------------------------------------------------

    def _feed(self, intake: _Intake, records: list[ConsumerRecord]) -> None:
        intake.backlog.extend(records)
        self._fill(intake)

    def _fill(self, intake: _Intake) -> None:
        if self._closing:
            return
        while intake.backlog and not intake.full:
            record = intake.backlog.popleft()
            if intake.tracker.read(record.offset):
                self._load(intake, record)
            self._wires.reader.mark(intake.tp)
        if not intake.backlog:
            self._wires.reader.resume(intake.tp)

    def _load(self, intake: _Intake, record: ConsumerRecord) -> None:
        intake.loaded += 1
        intake.bytes += len(record.value or b"")
        place = Place(record.offset, 0) if intake.tier is None else place_of(record)
        fault, dispatch = "", None
        try:
            dispatch = read_dispatch(record.value, self._outlet.partner, self._outlet.id)
        except Unreadable as error:
            fault = str(error)
        if place is None:
            # Nobody but us writes retry topics: without a place in the order it can't be sent.
            place, dispatch = Place(-1 - record.offset, 0), None
            fault = fault or "the record of a retry topic lacks the headers origin and hop"
        if len(record.key or b"") > MAX_KEY:
            dispatch, fault = None, f"the key has more than {MAX_KEY:,} bytes"
        loaded = _Loaded(intake, record, dispatch, fault)
        queue = self._queue(record.key or b"")
        item = queue.find(place.origin)
        if item is None:
            item = Item(place.origin, intake.tier, place.hop, 0)
            queue.add(item)
        elif (item.tier, item.hop) != (intake.tier, place.hop) or item.loaded is not None:
            # The same record stands elsewhere too: moved later than this copy, or the same move written twice.
            self._done(loaded)
            self._rest(queue)
            return
        item.due = dispatch.due if dispatch is not None and intake.tier is not None else 0
        item.loaded = loaded
        passed("sink-read")
        self._wake(queue)

    # -- 2. Queue --------------------------------------------------------------------------------------------

    def _queue(self, key: bytes) -> _Queue:
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(key)
            for item in self._shelf.take(key):
                queue.add(item)
        return queue

    def _rest(self, queue: _Queue) -> None:
        """Let go of a customer with whom nothing is to be done: whose next step is another record's, from a topic."""
        if queue.task is not None or queue.writing or len(queue) > _SHELVED or self._queues.get(queue.key) is not queue:
            return
        if any(item.loaded is not None for item in queue):
            return
        if not len(queue) or self._shelf.put(queue.key, list(queue)):
            if queue.timer is not None:
                queue.timer.cancel()
            del self._queues[queue.key]

    def _rest_all(self) -> None:
        for queue in list(self._queues.values()):
            self._rest(queue)

    def _wake(self, queue: _Queue) -> None:
        if queue.task is None and not self._closing:
            queue.task = asyncio.create_task(self._work(queue), name=f"deliver {self._outlet.topic} {self.number}")

    async def _work(self, queue: _Queue) -> None:
        """Send what can be sent for one customer; ends when the next step needs another record or a later time."""
        try:
            while len(queue) and not self._closing:
                await self._drop_unreadable(queue)
                if not len(queue):
                    break
                if moving := queue.stragglers():
                    await self._move(queue, moving, queue.head.tier, queue.head.due)
                    continue  # more may have been read meanwhile
                head = queue.head
                if head.loaded is None:
                    break
                wait = head.due - _now()
                if wait > 0:
                    self._wake_in(queue, wait)
                    break
                await self._attempt(queue, head)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._wires.fail(error)
        finally:
            queue.task = None
            self._rest(queue)

    def _wake_in(self, queue: _Queue, wait: Millis) -> None:
        if queue.timer is not None:
            queue.timer.cancel()
        queue.timer = asyncio.get_running_loop().call_later(wait / 1000, self._wake, queue)

    async def _drop_unreadable(self, queue: _Queue) -> None:
        while item := next((i for i in queue if i.loaded is not None and i.loaded.dispatch is None), None):
            assert item.loaded is not None
            with _writing(queue):
                await self._give_up(queue, item, item.loaded, "unreadable", item.loaded.fault)

    # -- 3. Send ---------------------------------------------------------------------------------------------

    async def _attempt(self, queue: _Queue, head: Item[_Loaded]) -> None:
        loaded = head.loaded
        assert loaded is not None
        try:
            dispatch = Dispatch.model_validate_json(loaded.record.value or b"")
        except (ValidationError, RecursionError) as error:
            loaded.dispatch = None
            loaded.fault = f"not a dispatch record: {_short(error)}"
            return
        result = await self._outlet.deliver(dispatch, queue, self.number)
        passed("sink-logged")
        with _writing(queue):
            # 4. Delivered, or given up.
            if result.outcome == "ok":
                self._finish(queue, head, loaded)
            elif result.outcome == "invalid":
                await self._give_up(queue, head, loaded, "invalid", result.detail)
            else:
                await self._fail(queue, head, loaded, result.detail)

    # -- 4. and 6. Done --------------------------------------------------------------------------------------

    async def _give_up(self, queue: _Queue, item: Item[_Loaded], loaded: _Loaded, reason: str, detail: str) -> None:
        topic = await self._outlet.make_undeliverable()
        value = give_up(loaded.dispatch, loaded.record, reason, detail, _now())
        await self._wires.produce(topic, self.number, (loaded.record.key or b"")[:MAX_KEY] or None, value)
        passed("sink-given-up")
        self._finish(queue, item, loaded)

    def _finish(self, queue: _Queue, item: Item[_Loaded], loaded: _Loaded) -> None:
        queue.remove(item)
        self._done(loaded)

    def _done(self, loaded: _Loaded) -> None:
        intake = loaded.intake
        intake.tracker.done(loaded.record.offset)
        intake.loaded -= 1
        intake.bytes -= len(loaded.record.value or b"")
        self._wires.reader.mark(intake.tp)
        if intake.backlog:
            asyncio.get_running_loop().call_soon(self._fill, intake)

    # -- 5. Fail ---------------------------------------------------------------------------------------------

    async def _fail(self, queue: _Queue, head: Item[_Loaded], loaded: _Loaded, detail: str) -> None:
        dispatch = loaded.dispatch
        attempts = dispatch.attempt + 1
        delay = self._outlet.schedule.after(attempts)
        now = _now()
        dispatch.attempt = attempts
        dispatch.first_failed = dispatch.first_failed or now
        if delay is None:
            await self._give_up(queue, head, loaded, "exhausted", f"after {attempts} attempts; the last: {detail}")
            return
        due = self._outlet.schedule.due(dispatch.id, attempts, now)
        await self._move(queue, [head], delay.tier, due)

    async def _make_room(self) -> None:
        """Behind a slow request, one customer's records may not fill the window of all."""
        delays = self._outlet.schedule.delays
        while not self._closing:
            await asyncio.sleep(_SLOW_SECONDS)
            if not delays or not self._intakes[None].full:
                continue
            self._rooming = True
            try:
                await self._attach(delays[0].tier)
                for queue in list(self._queues.values()):
                    if 0 < queue.sending < time.monotonic() - _SLOW_SECONDS:
                        waiting = [i for i in queue.waiting() if i.loaded is not None and i.loaded.dispatch is not None]
                        await self._shift(queue, waiting, delays[0].tier, 0)
                        self._rest(queue)
            except Exception as error:
                self._wires.fail(error)
            finally:
                self._rooming = False

    async def _move(self, queue: _Queue, items: list[Item[_Loaded]], tier: str | None, due: Millis) -> None:
        """To the end of a retry topic; done where they stood once Kafka has them."""
        if not items or tier is None:
            return
        with _writing(queue):
            await self._attach(tier)
            await self._shift(queue, items, tier, due)

    async def _shift(self, queue: _Queue, items: list[Item[_Loaded]], tier: str, due: Millis) -> None:
        with _writing(queue):
            moved: list[tuple[Item[_Loaded], _Loaded]] = []
            for item in items:
                assert item.loaded is not None
                moved.append((item, item.loaded))
                # All before any is written: none may be sent from here any more, and each may be read from there
                # before the acknowledgement is.
                item.loaded, item.tier, item.hop, item.due = None, tier, item.hop + 1, due
            topic = self._outlet.topic_of(tier)
            sent = []
            for item, loaded in moved:
                dispatch = loaded.dispatch
                value = delayed(dispatch, dispatch.attempt, due, dispatch.first_failed)
                headers = headers_of(Place(item.origin, item.hop))
                sent.append(await self._wires.submit(topic, self.number, loaded.record.key, value, headers))
            await asyncio.gather(*sent)
            passed("sink-moved")
            for _, loaded in moved:
                self._done(loaded)


@contextlib.contextmanager
def _writing(queue: _Queue) -> Any:
    queue.writing += 1
    try:
        yield
    finally:
        queue.writing -= 1


def _now() -> Millis:
    return int(time.time() * 1000)


def _short(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"$.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
    return str(error)
