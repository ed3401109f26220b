"""The rows of the engine benchmark that are about state: restoring it, crashes, many keys, more processors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import psutil
from aiokafka import AIOKafkaProducer, TopicPartition

from pipeline.bench.engine_input import CHANNELS, PARTITIONS, Traffic, fill
from pipeline.bench.engine_run import ContenderFailed, Runner
from pipeline.bench.engine_worker import WorkerProcess
from pipeline.stream.restore import restore
from pipeline.stream.store import Store, Table
from pipeline.stream.transaction import partition_for

__all__ = ["fail_over", "keys", "kill", "restoring", "scaling"]

MILLION = 1_000_000
_USERS = 20_000
SESSION_S = 10.0
_WAIT_S = 300.0
_LOOK_S = 0.05
_NAMES = sorted(set(CHANNELS.values()))


async def restoring(runner: Runner) -> tuple[float, float | None]:
    """Records a second from changelogs of 1 M keys into empty stores: four lanes, one process."""
    changelog = await _changelog(runner, MILLION)
    folder = runner.folder / uuid.uuid4().hex
    stores = [Store(folder / str(lane), {"counts": Table("counts", changelog)}) for lane in range(PARTITIONS)]
    try:
        began = time.perf_counter()
        read = await asyncio.gather(
            *(restore(runner.kafka, store, lane, role="bench") for lane, store in enumerate(stores))
        )
        taken = time.perf_counter() - began
    finally:
        for store in stores:
            store.close()
        shutil.rmtree(folder, ignore_errors=True)
        await runner.drop([changelog])
    return sum(read) / taken, None


async def kill(runner: Runner) -> tuple[float, float | None]:
    """Seconds from kill -9 of a worker with 1 M keys until all its lanes' input has an output: store kept, and lost."""
    async with _role(runner, await _changelog(runner, MILLION)) as role:
        taken = []
        for lost in (False, True):
            worker = await role.worker("one", instance="one")
            await role.ready(worker)
            await role.probed()
            worker.kill()
            killed = time.time()
            if lost:
                shutil.rmtree(worker.state)
            again = await role.worker("one", instance="one")
            taken.append(await role.probed() - killed)
            await role.end(again)
    return taken[0], taken[1]


async def fail_over(runner: Runner) -> tuple[float, float | None]:
    """Seconds from kill -9 of one of two workers until the other, which has standbys, has done all lanes' input."""
    async with _role(runner, await _changelog(runner, MILLION)) as role:
        pair = [await role.worker(name, standbys=1, session=SESSION_S) for name in ("one", "two")]
        await asyncio.gather(*(role.ready(worker, lanes=PARTITIONS // 2, standbys=PARTITIONS // 2) for worker in pair))
        await role.probed()
        pair[0].kill()
        killed = time.time()
        return await role.probed() - killed, None


async def scaling(runner: Runner, events: int) -> tuple[float, float | None]:
    """Events a second of the whole system, broker included: two workers on two processors, and one on one."""
    brokers = [each for each in psutil.Process().children(recursive=True) if each.name() == "java"]
    if not brokers:
        raise ContenderFailed("the broker is not this benchmark's own, so it can't be put on one processor")
    every = sorted(os.sched_getaffinity(0))
    processors = every[:2]
    source, traffic = f"scale-{uuid.uuid4().hex[:6]}", Traffic(events, _USERS)
    await runner.create([source])
    await fill(runner.kafka, source, traffic)
    rates = []
    for used in (processors, processors[:1]):
        everyone = [psutil.Process(), *brokers]
        _pin(everyone, used)
        try:
            async with _role(runner, await _changelog(runner, 0), source=source) as role:
                started = [await role.worker(str(number), gated=True) for number in range(len(used))]
                _pin([psutil.Process(worker.pid) for worker in started], used)
                # Only together: what the first had read alone would be counted for both.
                await asyncio.gather(*(role.ready(worker, lanes=PARTITIONS // len(used)) for worker in started))
                for worker in started:
                    worker.open_gate()
                rates.append(await role.steady(traffic.events))
        finally:
            _pin(everyone, every)
    await runner.drop([source])
    return rates[0], rates[1]


async def keys(runner: Runner) -> tuple[float, float | None]:
    """Events a second with 10^7 keys in the store, and with 10^4; RSS of the first is checked and printed."""
    rates = []
    for many in (10 * MILLION, 10_000):
        traffic = Traffic(MILLION, many // len(_NAMES))
        source = f"keys-{uuid.uuid4().hex[:6]}"
        await runner.create([source])
        await fill(runner.kafka, source, traffic)
        async with _role(runner, await _changelog(runner, many), source=source) as role:
            worker = await role.worker("one")
            rates.append(await role.steady(traffic.events))
            memory = psutil.Process(worker.pid).memory_info().rss
            runner.console.print(f"  {many:,} keys: {rates[-1]:,.0f} events/s, worker's memory {memory / 1e9:.2f} GB")
        await runner.drop([source])
    return rates[0], rates[1]


class _Role:
    """Topics of one group, its workers, and what they wrote."""

    def __init__(self, runner: Runner, group: str, source: str, changelog: str, producer: AIOKafkaProducer) -> None:
        self.runner = runner
        self.group = group
        self.source = source
        self.output = f"{group}.out"
        self._changelog = changelog
        self._producer = producer
        self._workers: list[WorkerProcess] = []

    async def worker(self, name: str, **more: Any) -> WorkerProcess:
        """Start one, with a state folder by its name."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        state = self.runner.folder / self.group / name
        spec = {
            "bootstrap": self.runner.kafka.bootstrap_servers,
            "group": self.group,
            "input": self.source,
            "output": self.output,
            "changelog": self._changelog,
            "partitions": PARTITIONS,
            "state_dir": str(state),
            "stateful": True,
            "exactly_once": True,
            "channels": CHANNELS,
            "port": port,
        }
        worker = await WorkerProcess.start(spec | more, state)
        self._workers.append(worker)
        return worker

    async def end(self, worker: WorkerProcess | None = None) -> None:
        """Stop one, or all."""
        for each in [worker] if worker is not None else self._workers:
            await each.stop()

    async def ready(self, worker: WorkerProcess, *, lanes: int = PARTITIONS, standbys: int = 0) -> None:
        """Wait until it is, with so many lanes, and standbys that have caught up."""
        async with aiohttp.ClientSession() as session, asyncio.timeout(_WAIT_S):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"http://127.0.0.1:{worker.port}/readyz") as answer:
                        status = (await answer.json())["roles"][self.group]
                        copies = [each["behind"] == 0 for each in status["standbys"].values()]
                        if answer.status == 200 and len(status["lanes"]) == lanes and sum(copies) == standbys:
                            return
                worker.check()
                await asyncio.sleep(_LOOK_S)

    async def probed(self) -> float:
        """Send an event to each lane; when (s) the last of their outputs was appended, by the broker's clock."""
        marks = [f"probe-{uuid.uuid4().hex}" for _ in range(PARTITIONS)]
        for partition, mark in enumerate(marks):
            value = b'{"messageId":"%s","source":"crm"}' % mark.encode()
            await self._producer.send_and_wait(self.source, value, key=mark.encode(), partition=partition)
        consumer = self.runner.kafka.consumer()
        await consumer.start()
        try:
            consumer.assign([TopicPartition(self.output, partition) for partition in range(PARTITIONS)])
            await consumer.seek_to_beginning()
            found: dict[bytes, int] = {}
            async with asyncio.timeout(_WAIT_S):
                while len(found) < PARTITIONS:
                    for records in (await consumer.getmany(timeout_ms=100)).values():
                        found |= {r.key: r.timestamp for r in records if r.key.decode() in marks}
            return max(found.values()) / 1000
        finally:
            await consumer.stop()

    async def steady(self, events: int) -> float:
        """Events a second while the part of the input between 30 % and 90 % is done."""
        consumer = self.runner.kafka.consumer()
        await consumer.start()
        partitions = [TopicPartition(self.output, partition) for partition in range(PARTITIONS)]
        begun: tuple[float, int] | None = None
        try:
            async with asyncio.timeout(_WAIT_S):
                while True:
                    now, done = time.perf_counter(), sum((await consumer.end_offsets(partitions)).values())
                    if begun is None and done > 0.3 * events:
                        begun = now, done
                    if begun is not None and done > 0.9 * events:
                        return float(done - begun[1]) / (now - begun[0])
                    for worker in self._workers:
                        worker.check()
                    await asyncio.sleep(_LOOK_S)
        finally:
            await consumer.stop()


@asynccontextmanager
async def _role(runner: Runner, changelog: str, source: str | None = None) -> AsyncIterator[_Role]:
    group = f"state-{uuid.uuid4().hex[:6]}"
    own = [f"{group}.out", f"lanes.{group}", f"dead.{group}"]
    entry = source or f"{group}.in"
    if source is None:
        own.append(entry)
    await runner.create(own)
    producer = runner.kafka.producer()
    await producer.start()
    role = _Role(runner, group, entry, changelog, producer)
    try:
        yield role
    finally:
        await role.end()
        await producer.stop()
        await runner.drop([*own, changelog])


async def _changelog(runner: Runner, wanted: int) -> str:
    """A changelog with so many keys, as the job writes them."""
    name = f"changelog-{uuid.uuid4().hex[:6]}"
    await runner.create([name], compacted=True)
    producer = runner.kafka.producer(max_batch_size=MILLION)
    await producer.start()
    try:
        batches = [producer.create_batch() for _ in range(PARTITIONS)]

        async def send(partition: int) -> None:
            await producer.send_batch(batches[partition], name, partition=partition)
            batches[partition] = producer.create_batch()

        for user in range(wanted // len(_NAMES)):
            customer = b"user-%d" % user
            partition = partition_for(customer, PARTITIONS)
            for channel in _NAMES:
                key = b"%s|%s" % (customer, channel.encode())
                if batches[partition].append(timestamp=None, key=key, value=b"1") is None:
                    await send(partition)
                    batches[partition].append(timestamp=None, key=key, value=b"1")
        for partition, batch in enumerate(list(batches)):
            if batch.record_count():
                await send(partition)
    finally:
        await producer.stop()
    return name


def _pin(processes: Sequence[psutil.Process], processors: Sequence[int]) -> None:
    """Let every thread of ``processes`` run on ``processors`` only; those they start later inherit it."""
    for process in processes:
        for thread in process.threads():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, processors)
