"""A lane: partition n of every input of a role, processed in order, exactly once.

The protocol, step by step (the same numbers in the code; design and upstream reading: docs/architecture.md):

1. Assign: start the transactional producer ``<app>-<n>``. That fences a zombie and ends its open transaction.
2. Restore: bring the store up to the end of its changelogs, read-committed.
3. Read from the committed offsets (they were committed in the same transactions as the changelogs).
4. Batch: apply it to an overlay over the store; nothing is sent yet. If our code fails, halve the batch until
   the one record that fails stands alone; park that as a dead letter.
5. Begin, send outputs and changelog, send the offsets, commit.
6. Only then write the overlay and the changelog offsets to the store, in one WriteBatch.
7. Any Kafka error: abort, drop the overlay, and start again at 1. RocksDB holds nothing uncommitted, so
   whether a commit with an unknown outcome took place is read back from Kafka in 2 and 3.
8. Revoke: finish the transaction at hand, stop the clients, close the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced

from pipeline.stream.kafka import Kafka, know
from pipeline.stream.restore import restore
from pipeline.stream.store import Store, Table
from pipeline.stream.transaction import Transaction

__all__ = ["Lane", "LaneConfig", "Processor"]

log = logging.getLogger(__name__)

#: Records a transaction takes at most: small ones are ruinous, 5,000 costs about 100 ms of one core.
MAX_RECORDS = 5000
#: How often offsets are committed when a lane reads input that changes nothing (watermarks).
_OFFSET_COMMIT_SECONDS = 5.0
#: How long an idle lane waits for input before it looks at its timers.
_IDLE_SECONDS = 0.1
_RETRY_SECONDS = 0.5
#: Longer than the group's heartbeat: a zombie learns that it lost the lane before it fences the owner back.
_FENCED_SECONDS = 5.0
_TRANSACTION_TIMEOUT_MS = 60_000


class Processor(Protocol):
    """What a role does with a lane's records. One object a lane; all its state lives in tables.

    ``process`` and ``tick`` may read and write only through the transaction. ``reset`` is called before the
    first batch and whenever a transaction is dropped: forget everything remembered from tables.
    """

    def topics(self) -> set[str]:
        """The input topics, now; the lane reads its own partition of each."""

    async def process(self, records: Sequence[ConsumerRecord], txn: Transaction) -> None:
        """Apply records, each partition's in order."""

    def tick(self, now_ms: int, txn: Transaction) -> bool:
        """Work that time brings; True when more of it is due at once."""

    def reset(self) -> None:
        """Forget what was remembered from tables."""


class LaneConfig:
    """What all lanes of a role share."""

    def __init__(
        self,
        kafka: Kafka,
        app: str,
        role: str,
        lanes: int,
        *,
        tables: Sequence[Table] = (),
        store_dir: Path | None = None,
        frontier_ms: int | None = None,
        on_dead_letter: Callable[[str], None] | None = None,
    ) -> None:
        self.kafka = kafka
        self.app = app
        self.role = role
        self.lanes = lanes
        self.tables: Mapping[str, Table] = {table.name: table for table in tables}
        self.store_dir = store_dir
        #: How often, at most, `Lane.frontier` is established; None: nobody asks for it.
        self.frontier_ms = frontier_ms
        self.on_dead_letter = on_dead_letter or (lambda message: log.error("ALERT dead letter: %s", message))
        #: Offsets are kept under a group that nobody joins: a live group's offsets of topics that it does not
        #: subscribe to may expire (KIP-211), a simple consumer's only after the retention since its last commit.
        self.offsets_group = f"{app}-offsets"


class PoisonError(Exception):
    """Our own code failed on a batch; `lane` halves it to find the record."""


class Lane:
    """Runs one lane until it is stopped; restarts itself after Kafka errors."""

    def __init__(self, config: LaneConfig, number: int, processor: Processor) -> None:
        self.number = number
        self.config = config
        self.processor = processor
        #: All input appended before this moment (ms, the broker's clock) is processed and committed.
        self.frontier = 0
        self.records = 0
        self.caught_up = False
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._producer: AIOKafkaProducer | None = None
        self._store: Store | None = None
        self._positions: dict[TopicPartition, int] = {}
        self._uncommitted: dict[TopicPartition, int] = {}
        self._committed_at = 0.0
        self._asked = 0
        self._known: set[str] = set()
        self._wanted: set[TopicPartition] = set()
        self._missing: set[TopicPartition] = set()
        self._look_again = 0.0

    def start(self, submit: Callable[[Lane, Sequence[ConsumerRecord], Transaction], Awaitable[None]]) -> None:
        """Begin at step 1; ``submit`` hands a batch to the role's agent and returns when it is applied."""
        self._submit = submit
        self._task = asyncio.create_task(self._run(), name=f"lane {self.config.role} {self.number}")

    async def stop(self) -> None:
        """Step 8. Raises what the lane died of, if it did."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    @property
    def done(self) -> asyncio.Task[None]:
        """The running task; ends with an exception when the lane can't go on."""
        assert self._task is not None
        return self._task

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._open()
                while not self._stopping.is_set():
                    await self._step()
            except ProducerFenced:
                # Another process owns the lane now; Kafka will say so, or hand it back.
                log.warning("lane %s %d: fenced by a newer owner", self.config.role, self.number)
                await self._pause(_FENCED_SECONDS)
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("lane %s %d: %r; starting again", self.config.role, self.number, error)
                await self._pause(_RETRY_SECONDS)
            finally:
                await self._close()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _open(self) -> None:
        config = self.config
        self.caught_up = False
        # 1. Fence.
        self._producer = config.kafka.producer(
            transactional_id=f"{config.app}-{self.number}",
            transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS,
            max_batch_size=1_000_000,
            linger_ms=0,
        )
        await self._producer.start()
        self._known = set()
        # 2. Restore.
        if config.tables:
            assert config.store_dir is not None
            self._store = Store(config.store_dir / f"{self.number}", config.tables)
            await restore(config.kafka, self._store, self.number, role=config.role)
        self.processor.reset()
        # 3. Read from the committed offsets.
        self._consumer = config.kafka.consumer(
            group_id=config.offsets_group,
            max_poll_records=MAX_RECORDS,
            fetch_max_wait_ms=500,
            max_partition_fetch_bytes=4 << 20,
        )
        await self._consumer.start()
        self._positions = {}
        self._uncommitted = {}
        self._wanted = set()
        self._committed_at = time.monotonic()
        await self._follow_topics()

    async def _follow_topics(self) -> None:
        """Read this lane's partition of every input topic there is now; no rebalance (decision 3)."""
        consumer = self._consumer
        assert consumer is not None
        wanted = {TopicPartition(topic, self.number) for topic in self.processor.topics()}
        if wanted == self._wanted and (not self._missing or time.monotonic() < self._look_again):
            return
        self._wanted = wanted
        known = {tp: position for tp, position in self._positions.items() if tp in wanted}
        self._missing = set()
        for tp in wanted - known.keys():
            # A topic that is not there yet must not hold up the others: it is looked for again.
            if await self._exists(tp):
                known[tp] = await consumer.committed(tp)
            else:
                self._missing.add(tp)
        self._look_again = time.monotonic() + _RETRY_SECONDS
        if known.keys() == self._positions.keys():
            return
        consumer.assign(list(known))
        for tp, position in known.items():
            if position is None:
                await consumer.seek_to_beginning(tp)
                known[tp] = await consumer.position(tp)
            else:
                consumer.seek(tp, position)
        self._positions = known
        self._uncommitted = {tp: p for tp, p in self._uncommitted.items() if tp in known}

    async def _exists(self, tp: TopicPartition) -> bool:
        assert self._consumer is not None
        client = self._consumer._client
        if tp.partition not in (client.cluster.partitions_for_topic(tp.topic) or ()):
            await client.add_topic(tp.topic)
            await client.force_metadata_update()
        return tp.partition in (client.cluster.partitions_for_topic(tp.topic) or ())

    async def _step(self) -> None:
        """Steps 4 to 6 once."""
        assert self._consumer is not None
        await self._follow_topics()
        asked = int(time.time() * 1000)
        ends = await self._ends(asked)
        timeout_ms = int(_IDLE_SECONDS * 1000) if self.caught_up else 0
        fetched: Mapping[TopicPartition, Sequence[ConsumerRecord]] = {}
        if self._positions:
            fetched = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=MAX_RECORDS)
        else:
            # A consumer that was never assigned anything would wait for ever.
            await self._pause(_IDLE_SECONDS)
        positions = {tp: await self._consumer.position(tp) for tp in self._positions}
        records = [record for batch in fetched.values() for record in batch]
        if records:
            await self._apply(records, positions)
        moved = {tp: p for tp, p in positions.items() if p != self._positions[tp]}
        self._positions |= moved
        await self._tick()
        self.caught_up = not records
        if ends is not None:
            self._advance(asked, ends, fetched)

    async def _ends(self, now_ms: int) -> dict[TopicPartition, int] | None:
        """Ends of the inputs, asked of the broker now; None when it is too soon to ask again.

        Only an answer to a question asked at ``now_ms`` can say that nothing from before ``now_ms`` is unread:
        a long poll that came back empty says nothing of the moment it was sent.
        """
        every = self.config.frontier_ms
        if every is None or now_ms - self._asked < every:
            return None
        assert self._consumer is not None
        self._asked = now_ms
        return dict(await self._consumer.end_offsets(list(self._positions))) if self._positions else {}

    def _advance(
        self,
        asked: int,
        ends: Mapping[TopicPartition, int],
        fetched: Mapping[TopicPartition, Sequence[ConsumerRecord]],
    ) -> None:
        """Move the frontier: to ``asked`` if all that was there then is done, else as far as the hindmost partition."""
        behind = [tp for tp, end in ends.items() if self._positions.get(tp, end) < end]
        if not behind:
            self.frontier = max(self.frontier, asked)
            return
        # Brokers stamp records as they append them (LogAppendTime), so stamps rise within a partition.
        stamps = [fetched[tp][-1].timestamp for tp in behind if fetched.get(tp)]
        if len(stamps) == len(behind):
            self.frontier = max(self.frontier, min(stamps))

    async def _apply(self, records: Sequence[ConsumerRecord], positions: Mapping[TopicPartition, int]) -> None:
        """4. Process and commit ``records``; on a failure of our own code, halve."""
        txn = self._transaction()
        try:
            await self._submit(self, records, txn)
            changelogs = self._changelog(txn)
        except PoisonError as poison:
            self.processor.reset()
            if len(records) > 1:
                middle = len(records) // 2
                for half in (records[:middle], records[middle:]):
                    await self._apply(half, _positions_after(half))
                return
            txn = self._transaction()
            self._park(records[0], poison, txn)
            changelogs = set()
        self.records += len(records)
        await self._commit(txn, changelogs, positions)

    async def _tick(self) -> None:
        more = True
        while more and not self._stopping.is_set():
            txn = self._transaction()
            try:
                more = self.processor.tick(int(time.time() * 1000), txn)
                changelogs = self._changelog(txn)
            except Exception as error:
                raise RuntimeError(f"lane {self.config.role} {self.number}: a timer's work failed") from error
            due = time.monotonic() - self._committed_at > _OFFSET_COMMIT_SECONDS and self._uncommitted
            if txn.dirty or due:
                await self._commit(txn, changelogs, {})
            else:
                return

    def _transaction(self) -> Transaction:
        assert self._producer is not None
        return Transaction(self.number, self.config.lanes, self._store, self._producer)

    async def _commit(self, txn: Transaction, changelogs: set[str], positions: Mapping[TopicPartition, int]) -> None:
        """Steps 5 and 6. Input that left no trace is committed with the next that does, or after 5 s."""
        self._uncommitted |= positions
        if not txn.dirty and time.monotonic() - self._committed_at < _OFFSET_COMMIT_SECONDS:
            return
        producer = self._producer
        assert producer is not None
        for topic in {topic for topic, _ in txn.batches} - self._known:
            await know(producer, topic)
            self._known.add(topic)
        # 5. Begin, outputs, changelog, offsets, commit.
        await producer.begin_transaction()
        try:
            sent = [
                (where, batch, await producer.send_batch(batch, where[0], partition=where[1]))
                for where, batches in txn.batches.items()
                for batch in batches
            ]
            if self._uncommitted:
                await producer.send_offsets_to_transaction(dict(self._uncommitted), self.config.offsets_group)
            offsets: dict[str, int] = {}
            for (topic, _), batch, future in sent:
                metadata = await future
                if topic in changelogs:
                    offsets[topic] = metadata.offset + batch.record_count()
            await producer.commit_transaction()
        except BaseException:
            # 7. The overlay is dropped with `txn`; `_run` starts again at 1, which also ends the transaction.
            self.processor.reset()
            raise
        # 6. The store, only now.
        if self._store is not None:
            self._store.write(txn.changes, offsets)
        self._uncommitted = {}
        self._committed_at = time.monotonic()

    def _changelog(self, txn: Transaction) -> set[str]:
        """Add the tables' changes to the outputs; returns the changelogs that got any.

        Raises PoisonError for a value that no batch can take.
        """
        topics = set()
        for name, pairs in txn.changes.items():
            topic = self.config.tables[name].changelog
            if topic is not None and pairs:
                topics.add(topic)
                for key, value in pairs.items():
                    try:
                        txn.send(topic, key, value)
                    except ValueError as error:
                        raise PoisonError(str(error)) from error
        return topics

    def _park(self, record: ConsumerRecord, poison: PoisonError, txn: Transaction) -> None:
        cause = poison.__cause__ or poison
        where = f"{record.topic}[{record.partition}]@{record.offset}"
        letter = {
            "role": self.config.role,
            "lane": self.number,
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": record.timestamp,
            "error": repr(cause)[:2000],
            "traceback": "".join(traceback.format_exception(cause))[-20_000:],
            "parked": int(time.time() * 1000),
            "key": b64encode(record.key).decode() if record.key is not None else None,
            "value": b64encode(record.value).decode() if record.value is not None else None,
            "headers": [(k, b64encode(v or b"").decode()) for k, v in record.headers],
        }
        body = orjson.dumps(letter)
        if len(body) > 900_000:
            # Base64 adds a third; what no longer fits stays readable at its offset for the topic's retention.
            body = orjson.dumps(letter | {"value": None})
        txn.send(f"dead.{self.config.role}", record.key, body)
        self.config.on_dead_letter(f"{self.config.role} could not process {where}: {cause!r}")

    async def _close(self) -> None:
        """Step 8."""
        for client in (self._consumer, self._producer):
            if client is not None:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(client.stop(), 10)
        self._consumer = self._producer = None
        if self._store is not None:
            self._store.close()
            self._store = None


def _positions_after(records: Sequence[ConsumerRecord]) -> dict[TopicPartition, int]:
    return {TopicPartition(r.topic, r.partition): r.offset + 1 for r in records}
