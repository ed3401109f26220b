"""A lane: partition n of every input of a role, processed in order, exactly once or at least once.

The protocol, step by step (the same numbers in the code; docs/engine.md draws it):

1.  Assign: start the producer. With transactions its id is ``<app>-<n>``: that fences a zombie, and ends what it
    left open: a transaction that had begun to commit is committed, any other aborted.
2.  Restore: bring the store up to the end of its changelogs, read-committed.
3.  Read from the committed offsets (they were committed with the changelogs; see 5).
4.  Batch: apply it to an overlay over the store; nothing is sent yet. If our code fails, halve the batch until
    the one record that fails stands alone; park that as a dead letter.
5.  Commit, exactly once: 5.1 begin; 5.2 send outputs, changelog and dead letters; 5.3 send the offsets of all the
    lane's partitions; 5.4 wait for the acknowledgements; 5.5 commit.
    At least once: 5.1 send outputs and dead letters and wait; 5.2 send the changelog as one record batch, which
    also says how far the input is, and wait; then 6; 5.3 commit the offsets.
6.  Only then write the overlay and the changelog's offsets to the store, in one WriteBatch.
7.  Abort: any Kafka error before 5.5 drops the overlay and goes back to 1, which aborts what was begun. A batch that
    the broker refuses (too large, invalid) is read again in halves, until the record stands alone and is parked.
8.  Unknown outcome: an error or a timeout in 5.5 goes back to 1 as well. The store holds nothing uncommitted, the
    coordinator finishes what it began before it answers 1, and 2 and 3 then read back what took place.
9.  Revoke: finish the transaction at hand and hold still, everything open. While held, no step 1, 4 or 5 begins.
10. Assigned again: go on where we stood. Had another owned the lane meanwhile, our producer is fenced: back to 1.
    (At least once: always back to 1, since nothing fences.)
11. Fenced: another owns the lane. Wait until the group hands it to us again; only then 1.
12. Give up, shutdown: finish the transaction at hand within a budget, else leave it to 1 of the next owner; stop the
    clients; close the store, or hand it on to a standby.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced

from pipeline.stream.batches import count, ends_of, halves
from pipeline.stream.config import LaneConfig, Processor
from pipeline.stream.dead_letters import letter
from pipeline.stream.failpoints import passed
from pipeline.stream.frontier import Frontier
from pipeline.stream.inputs import Inputs, place
from pipeline.stream.kafka import abandon, disconnect, know
from pipeline.stream.reader import Batch
from pipeline.stream.record_batch import compress
from pipeline.stream.refusals import REFUSALS, PoisonError, Refusals, RefusedError
from pipeline.stream.restore import POSITIONS_HEADER, restore
from pipeline.stream.store import Store, StoreError
from pipeline.stream.transaction import Transaction

__all__ = ["Lane", "Submit"]

log = logging.getLogger(__name__)

#: How often offsets are committed when a lane reads input that changes nothing (watermarks).
_OFFSET_COMMIT_SECONDS = 5.0
#: How long an idle lane waits for input before it looks at its timers.
_IDLE_SECONDS = 0.1
#: How long a lane that took little waits for more, when the step before took something too.
_GATHER_SECONDS = 0.005
#: A transaction that took little is followed by a rest of `_REST` times what it cost, so that a trickle does not become
#: a transaction a record; at most this long. What comes after a pause is taken at once.
_REST = 2
_REST_SECONDS = 0.02
#: The least that ticks get beside a batch; at most as much as it took, so that neither holds up the other.
_TICK_SECONDS = 0.01
_RETRY_SECONDS = 0.5
_TRANSACTION_SECONDS = 60.0

#: A record batch that is worth a thread for its compression.
_THREAD_BYTES = 50_000

Submit = Callable[["Lane", Sequence[Batch], Transaction], Awaitable[None]]


class Lane:
    """Runs one lane until it is stopped; restarts itself after Kafka errors."""

    def __init__(self, config: LaneConfig, number: int, processor: Processor, store: Store | None = None) -> None:
        self.number = number
        self.config = config
        self.processor = processor
        self.frontier = Frontier(config.frontier_ms)
        self.records = 0
        #: Whether the last look found no input waiting.
        self.caught_up = False
        #: When input last moved, or there was none to move (monotonic seconds).
        self.moved = time.monotonic()
        self._store = store
        self._name = f"lane {config.role} {number}"
        self._stopping = asyncio.Event()
        self._may_run = asyncio.Event()
        self._may_run.set()
        self._busy = asyncio.Lock()
        self._confirmed = asyncio.Event()
        self._outdated = False
        self._reading = False
        self._task: asyncio.Task[None] | None = None
        self._inputs: Inputs | None = None
        self._producer: AIOKafkaProducer | None = None
        self._committed_at = self._recommitted_at = self._awake = 0.0
        self._known: set[str] = set()
        self._changelogs = {table.changelog for table in config.tables.values() if table.changelog}
        self._refusals = Refusals(config.max_records)

    # -- life ------------------------------------------------------------------------------------------------

    def start(self, submit: Submit) -> None:
        """Begin at step 1; ``submit`` hands a batch to the role's agent and returns when it is applied."""
        self._submit = submit
        self._task = asyncio.create_task(self._run(), name=self._name)

    @property
    def done(self) -> asyncio.Task[None]:
        """The running task; ends with an exception when the lane can't go on."""
        assert self._task is not None
        return self._task

    @property
    def open(self) -> bool:
        """Whether the lane is restored and reads."""
        return self._reading and not self.held

    @property
    def held(self) -> bool:
        """Whether the lane keeps still until the group has settled."""
        return not self._may_run.is_set()

    def lag(self) -> int:
        """Records that are not processed yet, as far as the last answers of the broker told."""
        return self._inputs.lag() if self._inputs is not None else 0

    async def hold(self) -> None:
        """Step 9. Returns when no transaction is open, or the budget is spent (then fencing must do)."""
        self._may_run.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.budget), self._busy:
                pass

    def go_on(self) -> None:
        """Step 10: the group says that the lane is ours, again or still."""
        self._outdated = self._outdated or (self.held and not self.config.exactly_once)
        self._confirmed.set()
        self._may_run.set()

    async def stop(self) -> Store | None:
        """Step 12; the open store, for whoever goes on with it. What the lane died of is in `done`."""
        self._stopping.set()
        self._may_run.set()
        if self._task is not None:
            if not self._reading:
                self._task.cancel()  # steps 1 to 3 leave nothing that has to be finished
            _, pending = await asyncio.wait([self._task], timeout=self.config.budget)
            if pending:
                log.warning("%s: the transaction at hand did not end within %g s", self._name, self.config.budget)
                self._task.cancel()
                await asyncio.wait([self._task])
        store, self._store = self._store, None
        return store

    async def _run(self) -> None:
        while await self._turn():
            try:
                opened = await self._open()
                while opened and await self._turn() and not self._outdated:
                    async with self._busy:
                        if not self.held:
                            await self._step()
            except ProducerFenced:
                await self._fenced()
            except RefusedError as error:
                log.warning("%s: the broker refuses what became of a batch (%s)", self._name, error)
            except StoreError as error:
                log.error("%s: %s; %s", self._name, error, "rebuilding it" if error.corrupt else "opening it again")
                if self._store is not None:
                    await self._store.abandon(error)
                    self._store = None
                await self._pause(_RETRY_SECONDS)
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("%s: %r; starting again", self._name, error)
                await self._pause(_RETRY_SECONDS)
            finally:
                await self._close()

    async def _turn(self) -> bool:
        """Wait while held; False when it is time to stop."""
        await self._may_run.wait()
        return not self._stopping.is_set()

    async def _fenced(self) -> None:
        """Step 11. After three sessions without a word from the group, it is not the group that took the lane."""
        log.warning("%s: fenced by a newer owner", self._name)
        stopping = asyncio.create_task(self._stopping.wait())
        confirmed = asyncio.create_task(self._confirmed.wait())
        try:
            await asyncio.wait(
                [stopping, confirmed], timeout=3 * self.config.session, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stopping.cancel()
            confirmed.cancel()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    # -- steps 1 to 3 ----------------------------------------------------------------------------------------

    async def _open(self) -> bool:
        """Steps 1 to 3; False where the lane was held before it could begin."""
        config = self.config
        self.caught_up = False
        # 1. Fence; not while held, when the lane may be another's.
        async with self._busy:
            if self.held:
                return False
            self._outdated = False
            self._confirmed.clear()
            transactional = {
                "transactional_id": f"{config.app}-{self.number}",
                "transaction_timeout_ms": int(_TRANSACTION_SECONDS * 1000),
            }
            self._producer = config.kafka.producer(
                **(transactional if config.exactly_once else {}), max_batch_size=1_000_000, linger_ms=0
            )
            await self._producer.start()
        self._known = set()
        self._awake = time.monotonic()
        # 2. Restore.
        if config.tables:
            assert config.store_dir is not None
            if self._store is None:
                self._store = await Store.open(config.store_dir / f"{self.number}", config.tables)
            await restore(config.kafka, self._store, self.number, role=config.role, progress=self._progress)
        self.processor.reset()
        # 3. Read from the committed offsets.
        inputs = Inputs(config, self.number, self._store.inputs if self._store is not None else {})
        self._inputs = inputs
        await inputs.start(self.processor.topics())
        self._reading = True
        self._committed_at = self._recommitted_at = time.monotonic()
        # Not progress: a lane that opens again and again and commits nothing is stalled.
        self._check_awake()
        return True

    # -- steps 4 to 6 ----------------------------------------------------------------------------------------

    async def _step(self) -> None:
        inputs = self._inputs
        assert inputs is not None
        self._check_awake()
        await inputs.follow(self.processor.topics())
        await self.frontier.ask(inputs.reader, list(inputs.positions))
        taken: list[Batch] = []
        if inputs.positions:
            taken = await inputs.take(_IDLE_SECONDS if self.caught_up else 0, self.config.max_records)
            if taken and not self.caught_up and self._small(taken):
                # Under load, what was fetched while the last transaction ran is older than what has come since.
                taken += await inputs.take(_GATHER_SECONDS, self.config.max_records)
        else:
            await self._pause(_IDLE_SECONDS)
        began = time.monotonic()
        if taken:
            await self._apply_all(taken, inputs.reader.positions())
        else:
            inputs.processed(inputs.reader.positions())
        more = await self._tick(max(_TICK_SECONDS, time.monotonic() - began))
        self.caught_up = not taken and not more
        if taken or not inputs.lag():
            self._progress()
        self.frontier.advance(inputs.positions, taken)
        if taken and self._small(taken):
            await self._pause(min(_REST_SECONDS, _REST * (time.monotonic() - began)))

    def _small(self, taken: Sequence[Batch]) -> bool:
        return count(taken) * 8 < self.config.max_records

    def _progress(self) -> None:
        self._check_awake()
        self.moved = time.monotonic()

    async def _apply_all(self, taken: Sequence[Batch], positions: Mapping[TopicPartition, int]) -> None:
        """The batch whole; in pieces after the broker refused one (step 7)."""
        pieces = self._refusals.pieces(taken)
        for piece in pieces:
            await self._apply(piece, positions if piece is pieces[-1] else ends_of(piece))

    async def _apply(self, batches: Sequence[Batch], positions: Mapping[TopicPartition, int]) -> None:
        """4. Process and commit ``batches``; on a failure of our own code, halve."""
        txn = self._transaction()
        try:
            refused = self._refusals.of(batches)
            if refused is not None:
                raise PoisonError(str(refused)) from refused
            await self._submit(self, batches, txn)
            self._changelog(txn, positions)
        except PoisonError as poison:
            self.processor.reset()
            if count(batches) > 1:
                first, second = halves(batches)
                await self._apply(first, ends_of(first))
                await self._apply(second, positions)
                return
            txn = self._transaction()
            self._park(batches[0], poison, txn)
        passed("mid-batch")
        try:
            await self._commit(txn, positions)
        except RefusedError as error:
            self._refusals.add(batches, error)
            raise
        self._refusals.accepted(batches)
        self.records += count(batches)

    async def _tick(self, seconds: float) -> bool:
        """The processor's own work, for about so long: what is left waits for input that has come meanwhile.

        Whether something is left.
        """
        assert self._inputs is not None
        more, until = True, time.monotonic() + seconds
        while more and not self._stopping.is_set() and time.monotonic() < until:
            txn = self._transaction()
            try:
                more = self.processor.tick(int(time.time() * 1000), txn)
                self._changelog(txn, {})
            except (KafkaError, OSError, TimeoutError):
                raise
            except Exception as error:
                raise RuntimeError(f"{self._name}: a timer's work failed") from error
            if time.monotonic() - self._recommitted_at > self.config.recommit:
                self._inputs.again()
                self._recommitted_at = time.monotonic()
            due = time.monotonic() - self._committed_at > _OFFSET_COMMIT_SECONDS and self._inputs.moved
            if not (txn.dirty or due):
                return False
            await self._commit(txn, {})
        return more

    def _transaction(self) -> Transaction:
        assert self._producer is not None
        return Transaction(self.number, self.config.lanes, self._store, self._producer)

    def _changelog(self, txn: Transaction, positions: Mapping[TopicPartition, int]) -> None:
        """Add the tables' changes to what is sent. Raises PoisonError for a change that no batch can take."""
        if self._store is None:
            return
        atomic = not self.config.exactly_once
        for name, pairs in txn.changes.items():
            topic = self.config.tables[name].changelog
            if topic is None or not pairs:
                continue
            last, send = next(reversed(pairs)), txn.to(topic)
            try:
                for key, value in pairs.items():
                    if key is last:
                        send(key, value, [(POSITIONS_HEADER, self._far(positions))])
                    else:
                        send(key, value)
            except ValueError as error:
                raise PoisonError(str(error)) from error
        pieces = [len(batches) for (topic, _), batches in txn.sealed().items() if topic in self._changelogs]
        if atomic and any(size > 1 for size in pieces):
            raise PoisonError("the changes of a batch are more than one record batch, so not written in one piece")

    def _far(self, positions: Mapping[TopicPartition, int]) -> bytes:
        """How far the input is, for the changelog: at least once there is no other word as old as the state, and
        exactly once it outlives the group's offsets, which may expire or be lost."""
        assert self._store is not None
        assert self._inputs is not None
        every = self._inputs.moved | dict(positions)
        return orjson.dumps(self._store.inputs | {place(tp): offset for tp, offset in every.items()})

    async def _commit(self, txn: Transaction, positions: Mapping[TopicPartition, int]) -> None:
        """Steps 5 and 6. Input that left no trace is committed with the next that does, or after 5 s."""
        assert self._producer is not None
        assert self._inputs is not None
        self._inputs.processed(positions)
        if not txn.dirty and time.monotonic() - self._committed_at < _OFFSET_COMMIT_SECONDS:
            return
        for topic in {topic for topic, _ in txn.sealed()} - self._known:
            await know(self._producer, topic)
            self._known.add(topic)
        commit = self._exactly_once if self.config.exactly_once else self._at_least_once
        try:
            async with asyncio.timeout(_TRANSACTION_SECONDS):
                await commit(txn, self._producer, self._inputs)
        except BaseException as error:
            # 7, 8. The overlay is dropped with `txn`; `_run` starts again at 1.
            self.processor.reset()
            if isinstance(error, REFUSALS):
                raise RefusedError(repr(error)) from error
            raise
        self._inputs.committed()
        self._committed_at = time.monotonic()

    async def _exactly_once(self, txn: Transaction, producer: AIOKafkaProducer, inputs: Inputs) -> None:
        # 5.1 to 5.5.
        await producer.begin_transaction()
        sent = await self._send(txn, producer)
        passed("after-send")
        if inputs.moved:
            await producer.send_offsets_to_transaction(inputs.moved, self.config.offsets_group)
        passed("after-offsets")
        offsets = await self._acknowledged(sent)
        await producer.commit_transaction()
        passed("after-commit")
        # 6. The store, only now.
        await self._write(txn, offsets, inputs)

    async def _at_least_once(self, txn: Transaction, producer: AIOKafkaProducer, inputs: Inputs) -> None:
        self._check_awake()
        # 5.1. Outputs, before the state that says they were made.
        await self._acknowledged(await self._send(txn, producer, without=self._changelogs))
        passed("after-send")
        self._check_awake()
        # 5.2. The changelog.
        offsets = await self._acknowledged(await self._send(txn, producer, only=self._changelogs))
        passed("after-commit")
        # 6.
        await self._write(txn, offsets, inputs)
        # 5.3.
        self._check_awake()
        passed("after-offsets")
        await inputs.commit()

    def _check_awake(self) -> None:
        """At least once, nothing fences a process that was paused (SIGSTOP, a stopped machine) while its lanes went to
        others; so after a gap of a session between two of these checks nothing is written, but all read anew in 1."""
        now = time.monotonic()
        gap, self._awake = now - self._awake, now
        if gap > self.config.session and not self.config.exactly_once:
            self._refusals.less()  # in case it was the batch that is slow
            raise TimeoutError(f"no step for {gap:.0f} s: another may own the lane by now")

    async def _send(
        self,
        txn: Transaction,
        producer: AIOKafkaProducer,
        *,
        only: set[str] | None = None,
        without: set[str] | None = None,
    ) -> list[tuple[str, int, Awaitable[Any]]]:
        chosen = [
            (topic, partition, batch)
            for (topic, partition), batches in txn.sealed().items()
            if (only is None or topic in only) and (without is None or topic not in without)
            for batch in batches
        ]
        large = [batch for _, _, batch in chosen if batch.size() > _THREAD_BYTES]
        if large:
            await asyncio.to_thread(compress, large)
        return [
            (topic, batch.record_count(), await producer.send_batch(batch, topic, partition=partition))
            for topic, partition, batch in chosen
        ]

    async def _acknowledged(self, sent: Sequence[tuple[str, int, Awaitable[Any]]]) -> dict[str, int]:
        """Wait for the broker; the next offset of each topic's partition of this lane. Raises KafkaError."""
        offsets: dict[str, int] = {}
        # All of them, so that a failure leaves none unread.
        answers = await asyncio.gather(*(future for _, _, future in sent), return_exceptions=True)
        for (topic, records, _), answer in zip(sent, answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            offsets[topic] = answer.offset + records
        return offsets

    async def _write(self, txn: Transaction, offsets: Mapping[str, int], inputs: Inputs) -> None:
        if self._store is None:
            return
        moved = {place(tp): offset for tp, offset in inputs.moved.items()}
        passed("mid-write")
        await self._store.apply(txn.changes, {t: o for t, o in offsets.items() if t in self._changelogs}, moved)
        passed("after-write")

    # -- what can't be processed (steps 4 and 7) -------------------------------------------------------------

    def _park(self, batch: Batch, poison: PoisonError, txn: Transaction) -> None:
        record, cause = batch.records[0], poison.__cause__ or poison
        role = self.config.role
        body = letter(role, self.number, batch.topic, batch.partition, record, cause)
        txn.send(f"dead.{role}", record.key, body)
        where = f"{batch.topic}[{batch.partition}]@{record.offset}"
        self.config.on_dead_letter(f"{role} could not process {where}: {cause!r}")

    async def _close(self) -> None:
        """Step 12, but for the store: it stays open, since it holds nothing uncommitted."""
        self._reading = False
        self.processor.reset()
        stops = [disconnect(self._inputs)] if self._inputs is not None else []
        stops += [abandon(self._producer)] if self._producer is not None else []
        await asyncio.gather(*stops, return_exceptions=True)
        self._inputs = self._producer = None
