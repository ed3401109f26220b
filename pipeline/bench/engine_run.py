"""Running contenders of the engine benchmark, and reading their rates from the broker's own stamps."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewTopic
from rich.console import Console

from pipeline.bench.engine_contenders import Contender
from pipeline.bench.engine_input import CHANNELS, PARTITIONS, Traffic, verify
from pipeline.stream.kafka import Kafka

__all__ = ["ContenderFailed", "Pace", "Runner", "Session"]

_START_S = 120.0
_STOP_S = 20.0
_POLL_S = 0.1
#: A contender runs on so long behind its window, to append once more.
_AFTER_S = 0.5
#: A JVM that is told to pause writes no more when its output has not grown for so long.
_QUIET_S = 0.4
#: Where a contender does all the input, its window lies between these parts of it at the least: one that runs dry is no
#: longer at full speed.
_HALF, _NEARLY = 0.5, 0.95
#: A JVM that waits is started anew when less than the rest of the input would be left to it.
_USED = 0.6


At = Callable[[int], Awaitable[tuple[int, int]]]


class ContenderFailed(Exception):
    """A contender ended, or wrote nothing; says what it printed last."""


@dataclass(frozen=True)
class Pace:
    """Seconds: ``skip`` after a contender's first output, ``warm`` instead of it for a cold JVM, ``settle`` after a
    pause, then ``window``, over which the rate is taken. ``verify_all``: judge the output of every run, not only of
    each contender's first.
    """

    skip: float
    warm: float
    settle: float
    window: float
    verify_all: bool


@dataclass
class Session:
    """A contender's process, and the topics that are its own."""

    contender: Contender
    group: str
    topics: list[str]
    folder: Path
    process: asyncio.subprocess.Process
    cold: bool = True

    @property
    def output(self) -> str:
        """The output topic."""
        return f"{self.group}.out"

    def say(self, line: str) -> None:
        """Write a line to the process's standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def check(self) -> None:
        """Raises `ContenderFailed` when the process has ended."""
        if self.process.returncode is not None:
            tail = (self.folder / "log").read_text(errors="replace").strip()[-3000:]
            raise ContenderFailed(f"{self.contender.title} ended with {self.process.returncode}: {tail}")


class Runner:
    """Starts contenders on one prefilled input topic, one at a time, and measures them."""

    def __init__(self, kafka: Kafka, folder: Path, input_topic: str, traffic: Traffic, pace: Pace, console: Console):
        self.kafka = kafka
        self.folder = folder
        self.input = input_topic
        self.traffic = traffic
        self.pace = pace
        self.console = console
        self._commands: dict[str, list[str]] = {}
        self._running: list[Session] = []
        self._waiting: dict[str, Session] = {}
        self._verified: set[str] = set()
        self._consumer: AIOKafkaConsumer | None = None

    async def start(self) -> None:
        """Connect the consumer that asks for offsets."""
        self._consumer = self.kafka.consumer()
        await self._consumer.start()

    async def finish(self) -> None:
        """End the contenders that wait, and judge what they wrote. Raises `WrongOutput`."""
        for session in list(self._waiting.values()):
            await self.close(session)

    async def stop(self) -> None:
        """End whatever still runs; disconnect."""
        for session in self._running:
            await self.end(session)
        if self._consumer is not None:
            await self._consumer.stop()

    async def prepare(self, contender: Contender) -> None:
        """Set a contender up, once. Raises `PeerMissing`."""
        self._commands[contender.name] = await contender.command(self.console)

    async def warm(self, contenders: Sequence[Contender]) -> None:
        """Start all of ``contenders`` that compile as they run, beside each other, and pause them when warm."""
        sessions = [await self.open(contender) for contender in contenders if contender.jit]
        if not sessions:
            return
        self.console.print(f"  warming the JVMs for {self.pace.warm:g} s …")
        for session in sessions:
            await self._first_output(session, 0)
        await asyncio.sleep(self.pace.warm)
        for session in sessions:
            await self._pause(session)

    async def rate(self, contender: Contender) -> float:
        """Outputs appended a second over a steady window, by the broker's stamps."""
        session = self._waiting.pop(contender.name, None)
        if session is not None and await self._count(session) > self.traffic.events * _USED:
            await self.close(session)
            session = None
        since = int(time.time() * 1000)
        before = 0
        if session is None:
            session = await self.open(contender)
        else:
            before = await self._count(session)
            session.say("resume")
        await self._first_output(session, before)
        skip = self.pace.settle
        if session.cold:
            skip = self.pace.warm if contender.jit else self.pace.skip
        await self._let_run(session, skip + self.pace.window + _AFTER_S)
        rate = await self._steady_rate(session, since, skip)
        if contender.jit:
            await self._pause(session)
        else:
            await self.close(session)
        return rate

    async def open(self, contender: Contender, input_topic: str | None = None) -> Session:
        """Make topics of its own for a contender and start its process."""
        source = input_topic or self.input
        group = f"{contender.name}-{uuid.uuid4().hex[:6]}"
        names = {"group": group, "input": source}
        plain = [f"{group}.out", *(topic.format(**names) for topic in contender.topics)]
        changelog = contender.compacted.format(**names) if contender.compacted else None
        await self.create(plain)
        if changelog:
            await self.create([changelog], compacted=True)
        folder = self.folder / group
        folder.mkdir(parents=True)
        spec = {
            "bootstrap": self.kafka.bootstrap_servers,
            "group": group,
            "input": source,
            "output": plain[0],
            "changelog": changelog,
            "partitions": PARTITIONS,
            "state_dir": str(folder / "state"),
            "stateful": contender.stateful,
            "exactly_once": contender.exactly_once,
            "channels": CHANNELS,
        }
        if contender.name not in self._commands:
            await self.prepare(contender)
        with (folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *self._commands[contender.name],
                json.dumps(spec),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                cwd=folder if contender.jit else None,
            )
        session = Session(contender, group, plain + ([changelog] if changelog else []), folder, process)
        self._running.append(session)
        return session

    async def close(self, session: Session, *, judge: bool = True) -> None:
        """End a contender, judge what it wrote, and drop its topics. Raises `WrongOutput`."""
        self._waiting.pop(session.contender.name, None)
        await self.end(session)
        self._running.remove(session)
        contender = session.contender
        if judge and (self.pace.verify_all or contender.name not in self._verified):
            count = await verify(self.kafka, session.output, self.traffic, stateful=contender.stateful)
            self._verified.add(contender.name)
            if contender.compacted and not await self._count(session, session.topics[-1]):
                raise ContenderFailed(f"{contender.title} counted {count} records and left its changelog empty")
        await self.drop(session.topics)
        shutil.rmtree(session.folder, ignore_errors=True)

    async def create(self, topics: Sequence[str], *, compacted: bool = False) -> None:
        """Make topics of four partitions that take the broker's append time."""
        config = {"message.timestamp.type": "LogAppendTime", "retention.ms": "-1"}
        if compacted:
            config["cleanup.policy"] = "compact"
        admin = self.kafka.admin()
        await admin.start()
        try:
            made = await admin.create_topics([NewTopic(name, PARTITIONS, 1, topic_configs=config) for name in topics])
            for name, code, *said in made.topic_errors:
                if code:
                    raise RuntimeError(f"topic {name} could not be made: {said}")
            while not all(map(_is_led, await admin.describe_topics(list(topics)))):  # noqa: ASYNC110 - Kafka tells nobody
                await asyncio.sleep(_POLL_S)
        finally:
            await admin.close()

    async def drop(self, topics: Sequence[str]) -> None:
        """Delete topics: a run leaves gigabytes."""
        admin = self.kafka.admin()
        await admin.start()
        try:
            await admin.delete_topics(list(topics))
        finally:
            await admin.close()

    # -- a session's process -----------------------------------------------------------------------------

    async def end(self, session: Session) -> None:
        """End a process: SIGTERM, and SIGKILL after 20 s."""
        process = session.process
        if process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _pause(self, session: Session) -> None:
        """Have a JVM wait, warm; returns when its output has stopped growing."""
        session.check()
        session.cold = False
        session.say("pause")
        self._waiting[session.contender.name] = session
        before = -1
        while before != (now := await self._count(session)):
            before = now
            await asyncio.sleep(_QUIET_S)

    async def _first_output(self, session: Session, before: int) -> None:
        deadline = time.monotonic() + _START_S
        while await self._count(session) <= before:
            session.check()
            if time.monotonic() > deadline:
                await self.end(session)
                session.check()
            await asyncio.sleep(_POLL_S)

    async def _let_run(self, session: Session, seconds: float) -> None:
        """Wait so long, or until all input is done."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and await self._count(session) < self.traffic.events:
            session.check()
            await asyncio.sleep(_POLL_S)

    # -- the broker's view -------------------------------------------------------------------------------

    async def _count(self, session: Session, topic: str | None = None) -> int:
        """Offsets committed so far to the output, or to ``topic``."""
        assert self._consumer is not None
        tps = [TopicPartition(topic or session.output, n) for n in range(PARTITIONS)]
        self._consumer.assign(tps)
        return sum((await self._consumer.end_offsets(tps)).values())

    async def _steady_rate(self, session: Session, since_ms: int, skip: float) -> float:
        """Records a second between two appends, the first in the window and the first after it: a batch of thousands
        has one stamp, so a window cut between stamps would be off by a batch. Over all partitions together: some
        contenders empty one for a second before they turn to the next.
        """
        consumer = self._consumer
        assert consumer is not None
        tps = [TopicPartition(session.output, n) for n in range(PARTITIONS)]
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)

        async def at(stamp_ms: int) -> tuple[int, int]:
            """How many had been appended before a moment (ms), and when the next was; the moment, if none was."""
            found = await consumer.offsets_for_times(dict.fromkeys(tps, stamp_ms))
            count = sum(found[tp].offset if found[tp] else ends[tp] for tp in tps)
            return count, min((found[tp].timestamp for tp in tps if found[tp]), default=stamp_ms)

        _, first = await at(since_ms)
        start = first + int(skip * 1000)
        end = start + int(self.pace.window * 1000)
        if sum(ends.values()) >= self.traffic.events:
            start = min(start, await self._moment(at, _HALF, first, end))
            end = min(end, await self._moment(at, _NEARLY, first, end))
        (before, start), (after, end) = await at(start), await at(end)
        if end - start < 1000:
            raise ContenderFailed(f"{session.contender.title} was done before a second could be measured: more input")
        return (after - before) * 1000 / (end - start)

    async def _moment(self, at: At, part: float, low: int, high: int) -> int:
        """When (ms) that part of the input was done; ``at`` as in `_steady_rate`, the answer between the last two."""
        limit = int(self.traffic.events * part)
        while high - low > 10:
            middle = (low + high) // 2
            done, _ = await at(middle)
            low, high = (middle, high) if done <= limit else (low, middle)
        return low


def _is_led(topic: dict[str, Any]) -> bool:
    """Whether every partition of a topic that was just made has its leader."""
    leaders = [partition["leader"] for partition in topic["partitions"]]
    return not topic["error_code"] and len(leaders) == PARTITIONS and min(leaders) >= 0
