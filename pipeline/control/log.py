"""The control log as a process holds it: follow it, and submit commands to it (decision 7)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaProducer, ConsumerRecord

from pipeline.control.reducer import ControlState
from pipeline.models.control import Command, Verdict
from pipeline.stream.follower import Follower
from pipeline.stream.kafka import Kafka, disconnect

__all__ = ["MAX_BYTES", "TOPIC", "ControlLog"]

TOPIC = "control"
#: Of one command, as JSON.
MAX_BYTES = 1_000_000
#: Tells a submitter its own record, in any process and whatever the command's id.
_SUBMISSION = "submission"

_log = logging.getLogger(__name__)


class ControlLog:
    """Follows the topic ``control`` from its beginning (there are no snapshots) and keeps `state` up to date.

    Every process that judges, routes or answers holds one. Writers need no lock: the log's order decides, and
    the reducer gives every process the same verdict. Use from one event loop.
    """

    def __init__(self, kafka: Kafka) -> None:
        self.state = ControlState()
        self._kafka = kafka
        self._follower: Follower | None = None
        self._producer: AIOKafkaProducer | None = None
        self._producing = asyncio.Lock()
        self._submissions: dict[bytes, asyncio.Future[Verdict]] = {}
        self._subscribers: list[Callable[[ControlState], None]] = []

    async def start(self) -> None:
        """Return when everything committed as of this call is in `state`.

        Raises TimeoutError when the topic is not there or the replay stands still for a minute.
        """
        self._follower = Follower(self._kafka, [TOPIC], self._apply, name=TOPIC)
        await self._follower.start()

    async def stop(self) -> None:
        """Stop following and producing; `state` stays as it is."""
        if self._follower is not None:
            await self._follower.stop()
        if self._producer is not None:
            await disconnect(self._producer)
            self._producer = None

    @property
    def failure(self) -> asyncio.Future[None]:
        """Set with the exception when following has stopped by itself; a role should end then."""
        return self._started().failure

    @property
    def lag(self) -> int:
        """Records known to the broker and not yet applied."""
        return self._started().lag()

    async def submit(self, command: Command, timeout: float = 10) -> Verdict:
        """Append the command and return the verdict on it, once `state` has it.

        Raises ValueError when it is larger than `MAX_BYTES`, TimeoutError after ``timeout`` seconds (the
        outcome is unknown then: submit the same command, with the same id, to learn it), KafkaError when the
        broker refuses the record, and the follower's failure.
        """
        value = command.to_json()
        if len(value) > MAX_BYTES:
            raise ValueError(f"the command takes {len(value):,} bytes; at most {MAX_BYTES:,}")
        failure = self._started().failure
        token = uuid.uuid4().bytes
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._submissions[token] = verdict
        try:
            async with asyncio.timeout(timeout):
                producer = await self._ready_producer()
                key = command.partner.encode()
                await producer.send_and_wait(TOPIC, value, key=key, partition=0, headers=[(_SUBMISSION, token)])
                first: set[asyncio.Future[Any]] = {verdict, failure}
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError as error:
            raise TimeoutError(
                f"no verdict on command {command.id} within {timeout:g} s, so its outcome is unknown; "
                "submit it again with the same id"
            ) from error
        finally:
            del self._submissions[token]
        if not verdict.done():
            failure.result()
        return verdict.result()

    async def wait_for(self, offset: int, timeout: float = 10) -> None:
        """Return once the record at ``offset`` is in `state`; TimeoutError after ``timeout`` seconds."""
        await self._started().wait_for(TOPIC, 0, offset, timeout)

    def subscribe(self, callback: Callable[[ControlState], None]) -> Callable[[], None]:
        """Call ``callback(state)`` on the loop after every applied batch; the result ends that.

        What the callback raises is logged: following goes on.
        """
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._subscribers.remove(callback)

        return unsubscribe

    def _started(self) -> Follower:
        if self._follower is None:
            raise RuntimeError("the control log is not started; await start() first")
        return self._follower

    async def _ready_producer(self) -> AIOKafkaProducer:
        # Most processes only follow; the first command starts the producer.
        async with self._producing:
            if self._producer is None:
                producer = self._kafka.producer()
                await producer.start()
                self._producer = producer
            return self._producer

    def _apply(self, records: list[ConsumerRecord]) -> None:
        for record in records:
            verdict = self.state.apply(record.offset, record.timestamp, record.value or b"")
            for name, token in record.headers:
                waiting = self._submissions.get(token) if name == _SUBMISSION else None
                if waiting is not None and not waiting.done():
                    waiting.set_result(verdict)
        for callback in tuple(self._subscribers):
            try:
                callback(self.state)
            except Exception:
                _log.exception("a subscriber of the control log failed")
