"""A role to be hard on: its topics, its input, its workers (processes), and what they wrote, as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import DeleteGroupsRequest
from chaos_oracle import Told, check_letters, check_outputs, check_stores, compacted, expected, input_places, told
from chaos_worker import WAITS_TOLD, Options
from eventually import eventually
from records import read_all

from pipeline.stream.kafka import Kafka
from pipeline.stream.producer import ProduceError, Producer, Record

__all__ = ["Tail", "Worker", "World", "seed"]

_WORKER = Path(__file__).with_name("chaos_worker.py")
_LOG_LINES = 60
#: The broker's time of arrival, as all topics of the product have it.
_STAMPS = {"message.timestamp.type": "LogAppendTime"}


def seed() -> random.Random:
    """Chance that can be had again: ``HEADRACE_CHAOS_SEED`` is what a failed test has printed."""
    number = int(os.environ.get("HEADRACE_CHAOS_SEED") or random.randrange(1 << 30))
    print(f"HEADRACE_CHAOS_SEED={number}")
    return random.Random(number)


class Worker:
    """A worker process; its log in a file, its stores in a folder that outlives it."""

    def __init__(self, name: str, options: Options, log: Path, failpoint: str | None = None) -> None:
        self.name = name
        self.options = options
        self.stores = Path(options.stores)
        self._log = log
        environment = {key: value for key, value in os.environ.items() if key != "HEADRACE_FAILPOINT"}
        if failpoint:
            environment["HEADRACE_FAILPOINT"] = failpoint
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(_WORKER), json.dumps(asdict(options))],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def frozen(self) -> bool:
        """Whether it is stopped by SIGSTOP."""
        return self.alive and psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED

    def log(self) -> str:
        """What this process has logged."""
        return self._log.read_text(errors="replace")

    def owned(self) -> set[int]:
        """The lanes that it had by its last word on it."""
        lines = [line for line in self.log().splitlines() if "lanes owned: " in line]
        if not lines:
            return set()
        text = lines[-1].partition("lanes owned: ")[2].partition(";")[0]
        return set() if text == "none" else set(json.loads(text))

    def kill(self) -> None:
        """kill -9, and the end of it."""
        self.process.kill()
        self.process.wait(30)

    def freeze(self) -> None:
        """SIGSTOP: a paused machine."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    async def tell_where_lanes_wait(self) -> None:
        """Have it say in its log what its lanes do now, if it is not beyond that."""
        self.process.send_signal(signal.SIGUSR1)
        with contextlib.suppress(AssertionError):
            await eventually(lambda: not self.alive or WAITS_TOLD in self.log(), 5)

    async def ended(self, timeout: float = 60.0) -> int:
        """Its exit code, once it has ended by itself."""
        await eventually(lambda: not self.alive, timeout, what=f"the end of worker {self.name}")
        return int(self.process.returncode)

    async def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM, once it listens to signals; its exit code."""
        await eventually(lambda: not self.alive or self.log(), 30, what=f"the start of worker {self.name}")
        self.process.terminate()
        return await self.ended(timeout)


class Tail:
    """A topic's read-committed records so far, in order within each partition, gathered as they come."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self.records: list[ConsumerRecord] = []
        self._kafka = kafka
        self._topic = topic
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin at the beginning."""
        self._consumer = self._kafka.consumer(self._topic, request_timeout_ms=10_000)
        await self._consumer.start()
        self._task = asyncio.create_task(self._follow(), name=f"tail {self._topic}")

    async def stop(self) -> None:
        """End."""
        assert self._task is not None
        assert self._consumer is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._consumer.stop()

    async def _follow(self) -> None:
        assert self._consumer is not None
        while True:
            try:
                for batch in (await self._consumer.getmany(timeout_ms=200)).values():
                    self.records.extend(batch)
            except KafkaError:
                await asyncio.sleep(0.1)  # the broker is away, as the test wants it


class World:
    """One role of ``lanes`` lanes under test."""

    def __init__(self, kafka: Kafka, name: str, root: Path, *, lanes: int = 2) -> None:
        self.kafka = kafka
        self.name = name
        self.root = root
        self.lanes = lanes
        self.options = Options(kafka.bootstrap_servers, name, lanes, "")
        self.inputs = [f"{name}.in0", f"{name}.in1"]
        self.workers: list[Worker] = []
        self._outputs = Tail(kafka, f"{name}.out")
        self._places = 0

    async def open(self) -> None:
        """Make the topics, and follow the output."""
        names = [*self.inputs, *(f"{self.name}.{short}" for short in ("out", "log", "narrow"))]
        await self.make_topics(*names, f"lanes.{self.name}", f"dead.{self.name}")
        await self._outputs.start()

    async def make_topics(self, *names: str) -> None:
        """Topics of as many partitions as there are lanes."""
        async with self._admin() as admin:
            await admin.create_topics([NewTopic(name, self.lanes, 1, topic_configs=_STAMPS) for name in names])

    async def delete_topic(self, name: str) -> None:
        """Delete it; returns when it is gone."""
        async with self._admin() as admin:
            await admin.delete_topics([name])
            await eventually(lambda: _gone(admin, name), 30, what=f"the end of {name}")

    async def configure(self, topic: str, config: Mapping[str, str]) -> None:
        """Set these settings of a topic."""
        async with self._admin() as admin:
            resource = ConfigResource(ConfigResourceType.TOPIC, topic, _STAMPS | dict(config))
            (answer,) = await admin.alter_configs([resource])
            assert not answer.resources[0][0], answer

    async def close(self) -> None:
        """End all workers, however they are; tell what they logged last (seen where a test failed)."""
        for worker in self.workers:
            if worker.alive:
                worker.thaw()
                await worker.tell_where_lanes_wait()
                worker.kill()
            print(f"--- worker {worker.name}, ended with {worker.process.returncode}")
            print("\n".join(worker.log().splitlines()[-_LOG_LINES:]))
        await self._outputs.stop()

    # -- workers ---------------------------------------------------------------------------------------------

    def start(self, name: str, failpoint: str | None = None, **options: Any) -> Worker:
        """Start worker ``name``: on the disk that it had, if it has run before."""
        stores = str(self.root / f"worker-{name}")
        log = self.root / f"worker-{name}.{len(self.workers)}.log"
        worker = Worker(name, replace(self.options, **({"stores": stores} | options)), log, failpoint)
        self.workers.append(worker)
        return worker

    def lose_disk(self, name: str) -> None:
        """Worker ``name``, which does not run, finds an empty disk the next time."""
        shutil.rmtree(self.root / f"worker-{name}", ignore_errors=True)

    async def settled(self, *workers: Worker, timeout: float = 60.0) -> None:
        """All lanes are owned, by these workers and each by one, and each of them has some."""

        def shared() -> bool:
            owned = [worker.owned() for worker in workers]
            return all(owned) and sorted(lane for lanes in owned for lane in lanes) == list(range(self.lanes))

        await eventually(shared, timeout, what=f"all lanes shared by {[worker.name for worker in workers]}")

    async def stop_all(self) -> None:
        """SIGTERM to all that run; each must end in order."""
        running = [worker for worker in self.workers if worker.alive]
        codes = dict(
            zip(
                [worker.name for worker in running],
                await asyncio.gather(*(worker.stop() for worker in running)),
                strict=True,
            )
        )
        assert set(codes.values()) <= {0}, f"exit codes {codes}"

    # -- input and output ------------------------------------------------------------------------------------

    async def produce(self, records: Sequence[tuple[bytes | None, bytes | None]], topic: str = "in0") -> None:
        """Write (key, value) pairs to ``NAME.topic``, and wait until the broker has them."""
        producer = self.kafka.producer(linger_ms=5)
        await producer.start()
        try:
            name = f"{self.name}.{topic}"
            acks = []
            for n, (key, value) in enumerate(records):
                if key is None:
                    batch = producer.create_batch()  # `send` takes no record that is quite empty
                    batch.append(key=None, value=value, timestamp=None)
                    acks.append(await producer.send_batch(batch, name, partition=n % self.lanes))
                else:
                    acks.append(await producer.send(name, value, key=key))
            await asyncio.gather(*acks)
        finally:
            await producer.stop()

    async def produce_one(self, value: bytes) -> None:
        """One record to ``NAME.in0``, once. Raises ProduceError where the broker does not take it within 2 s."""
        producer = Producer(self.kafka, timeout_ms=2_000)
        await producer.start()
        try:
            await producer.write(f"{self.name}.in0", [Record(b"one", value, partition=0)])
        finally:
            await producer.stop()

    async def fill(self, number: int, rng: random.Random, keys: int = 40) -> None:
        """``number`` good records, over both topics."""
        for topic in ("in0", "in1"):
            await self.produce([_record(rng, keys) for _ in range(number // 2)], topic)

    @contextlib.asynccontextmanager
    async def load(self, rate: float, rng: random.Random, keys: int = 40) -> AsyncIterator[None]:
        """``rate`` records a second or so, for as long as the context lasts. What the broker does not take is dropped:
        what stands in the topics is the input."""
        producer = Producer(self.kafka, timeout_ms=5_000)
        await producer.start()
        ended = asyncio.Event()

        async def send() -> None:
            while not ended.is_set():
                for topic in self.inputs:
                    records = [Record(*_record(rng, keys)) for _ in range(max(1, int(rate / 20)))]
                    with contextlib.suppress(ProduceError):
                        producer.write(topic, records)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), 0.1)

        task = asyncio.create_task(send(), name="load")
        try:
            yield
        finally:
            ended.set()
            try:
                await task
            finally:
                await producer.stop()

    async def input(self) -> list[ConsumerRecord]:
        """All input, as it stands in the topics."""
        return [record for topic in self.inputs for record in await read_all(self.kafka, topic)]

    async def progressed_in_all_lanes(self, by: int, timeout: float = 30.0) -> None:
        """Each lane has so many outputs more than now."""

        def counts() -> Counter[int]:
            return Counter(record.partition for record in self._outputs.records)

        before = counts()

        def enough() -> bool:
            now = counts()
            return all(now[lane] >= before[lane] + by for lane in range(self.lanes))

        await eventually(enough, timeout, what=f"{by} outputs more in each lane")

    async def awaits(self, number: int, timeout: float = 30.0) -> None:
        """There are ``number`` inputs, markers counted."""

        async def enough() -> bool:
            return sum(sum(ends) for ends in (await self.ends("in0", "in1")).values()) >= number

        await eventually(enough, timeout, what=f"{number} inputs", every=0.1)

    @property
    def outputs(self) -> list[Told]:
        """All outputs so far."""
        return [told(record) for record in self._outputs.records]

    async def all_outputs(self) -> list[Told]:
        """All outputs as of now."""
        return [told(record) for record in await read_all(self.kafka, f"{self.name}.out")]

    def progress(self) -> int:
        """How many outputs there are."""
        return len(self._outputs.records)

    async def progressed(self, by: int, timeout: float = 30.0) -> None:
        """There are so many outputs more than now."""
        target = self.progress() + by
        await eventually(lambda: self.progress() >= target, timeout, what=f"{by} outputs more", every=0.01)

    async def read_to_the_end(self, timeout: float = 60.0) -> None:
        """What is committed is all that stands in the topics now."""
        ends = await self.ends("in0", "in1")
        wanted = {
            (f"{self.name}.{topic}", lane): end
            for topic, found in ends.items()
            for lane, end in enumerate(found)
            if end
        }

        async def there() -> bool:
            assert await self.committed() == wanted
            return True

        await eventually(there, timeout, what="offsets at the end of all input")

    async def done(self, timeout: float = 90.0) -> None:
        """Every input that stands in the topics now has an output."""
        wanted = input_places(await self.input())

        def missing() -> bool:
            left = wanted - {output.place for output in self.outputs}
            by_partition = Counter(place[:2] for place in left)
            firsts = {found: min(place[2] for place in left if place[:2] == found) for found in by_partition}
            assert not left, f"of {len(wanted)} inputs have no output, and the first of them: {by_partition}, {firsts}"
            return True

        await eventually(missing, timeout, what="an output for each input", every=0.2)

    async def ends(self, *topics: str, isolation: str = "read_uncommitted") -> dict[str, list[int]]:
        """The end offset of each partition of ``NAME.<topic>``: all that is there, or all that a reader may see."""
        consumer = AIOKafkaConsumer(**self.kafka.auth(), isolation_level=isolation)
        await consumer.start()
        try:
            partitions = [TopicPartition(f"{self.name}.{topic}", n) for topic in topics for n in range(self.lanes)]
            found = await consumer.end_offsets(partitions)
        finally:
            await consumer.stop()
        return {
            topic: [found[TopicPartition(f"{self.name}.{topic}", n)] for n in range(self.lanes)] for topic in topics
        }

    async def stable(self) -> bool:
        """Whether no transaction is open on outputs and changelog."""
        topics = ("out", "log")
        return await self.ends(*topics) == await self.ends(*topics, isolation="read_committed")

    async def committed(self) -> dict[tuple[str, int], int]:
        """The offsets that the role has committed, by (topic, partition)."""
        async with self._admin() as admin:
            found = await admin.list_consumer_group_offsets(f"{self.name}-offsets")
        return {(tp.topic, tp.partition): offset.offset for tp, offset in found.items()}

    async def forget_offsets(self) -> None:
        """Delete the group that keeps the role's offsets, as its expiry does."""
        async with self._admin() as admin:
            coordinator = await admin.find_coordinator(f"{self.name}-offsets")
            answer = await admin._client.send(coordinator, DeleteGroupsRequest([f"{self.name}-offsets"]))
        assert answer.results == [(f"{self.name}-offsets", 0)], answer

    async def delete_records(self, topic: str, below: Mapping[int, int]) -> None:
        """Remove what lies before these offsets of ``NAME.topic``, as retention does."""
        records = {
            TopicPartition(f"{self.name}.{topic}", lane): RecordsToDelete(before_offset=offset)
            for lane, offset in below.items()
        }
        async with self._admin() as admin:
            await admin.delete_records(records)

    @contextlib.asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = self.kafka.admin()
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    # -- the verdict -----------------------------------------------------------------------------------------

    async def check(self, *, history: bool = True, whole: bool = True) -> None:
        """Wait until all input is done, stop the workers, and hold everything against the model.

        ``history``: whether the changelog has all that was ever written, so that old stores can be held against it;
        ``whole``: whether it has the last value of each key.
        """
        await self.done()
        await self.stop_all()
        inputs = await self.input()
        model = expected(inputs)
        changelog = await read_all(self.kafka, f"{self.name}.log")
        # What there is now, all of it: something more may have come after each input had its output.
        outputs = await self.all_outputs()
        check_outputs(outputs, inputs, exactly_once=self.options.guarantee == "exactly_once")
        if whole:
            assert compacted(changelog) == model, "the changelog is not the model"
        await check_stores(self.name, self.folders(), changelog if history else None, model)

    async def check_letters(self) -> bool:
        """Each bad record is parked, and no other; once, if that is the guarantee."""
        exactly_once = self.options.guarantee == "exactly_once"
        check_letters(await read_all(self.kafka, f"dead.{self.name}"), await self.input(), exactly_once=exactly_once)
        return True

    async def check_left_behind(self) -> None:
        """What dead workers have left on their disks is consistent. None may run."""

        async def consistent() -> bool:
            changelog = await read_all(self.kafka, f"{self.name}.log")
            await check_stores(self.name, self.folders(), changelog, None)
            return True

        # A commit is acknowledged before its markers are written, so what it wrote may be seen a moment later.
        await eventually(consistent, 10, what="stores that equal the changelog as of their offsets")

    def folders(self) -> list[Path]:
        """The store folders of all workers."""
        return sorted(path for path in self.root.glob("worker-*") if path.is_dir())


async def _gone(admin: AIOKafkaAdminClient, topic: str) -> bool:
    return topic not in await admin.list_topics()


def _record(rng: random.Random, keys: int) -> tuple[bytes, bytes]:
    return b"k%d" % rng.randrange(keys), b"x" * rng.randrange(300)
