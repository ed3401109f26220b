"""The embedded broker's life: restarts, crashes, conflicts, and what it says about them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

import psutil
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic
from eventually import eventually

from pipeline.broker.embedded import EmbeddedBroker, _cluster_id
from pipeline.broker.errors import BrokerError
from pipeline.broker.properties import LOOPBACK
from pipeline.stream.kafka import Kafka

Factory = Callable[..., EmbeddedBroker]

HOLDER = """
import sys, time
from pathlib import Path
from pipeline.broker.embedded import EmbeddedBroker, _cluster_id
broker = EmbeddedBroker(Path(sys.argv[1]))
broker.start()
print(broker.pid, broker.port, flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie, which waits for its parent to notice, does not)."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def dead_pid() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


async def write(address: str, topic: str, values: list[bytes], *, create: bool = False) -> None:
    kafka = Kafka(address)
    if create:
        admin = kafka.admin()
        await admin.start()
        await admin.create_topics([NewTopic(topic, 1, 1)])
        await admin.close()
    async with kafka.producer() as producer:
        for value in values:
            await producer.send_and_wait(topic, value, partition=0)


async def read(address: str, topic: str) -> list[bytes]:
    async with Kafka(address).consumer() as consumer:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        return [(await consumer.getone()).value for _ in range(end)]


@asynccontextmanager
async def owner_of_a_broker(data_dir: Path) -> AsyncIterator[tuple[int, int, int]]:
    """Another process that has started a broker: its pid, the broker's pid, the broker's port."""
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(data_dir), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert owner.stdout is not None
        pid, port = map(int, (await asyncio.wait_for(owner.stdout.readline(), 120)).split())
        yield owner.pid, pid, port
    finally:
        if owner.returncode is None:
            owner.kill()
        await owner.wait()


@pytest.mark.slow
@pytest.mark.kafka
async def test_data_survives_a_stop_a_kill_and_a_stale_lock(broker_factory: Factory, tmp_path: Path) -> None:
    data = tmp_path / "dätä 😀"  # a name that Java must be told with care
    first = broker_factory(data)
    stages: list[str] = []
    await first.start_async(lambda stage, _done, _total: stages.append(stage))
    assert stages[0] == "Preparing Kafka's storage"
    assert stages[-1] == "Starting Kafka"
    address, pid = first.bootstrap_servers, first.pid
    assert pid is not None
    await write(address, "t", [b"1"], create=True)

    with pytest.raises(BrokerError, match=rf"another Kafka \(pid {pid}, started by pid {os.getpid()}\)"):
        broker_factory(data).start()
    assert first.failure() is None

    await first.stop_async()
    assert not alive(pid)

    (data / "broker.lock").write_text(f'{{"owner": {dead_pid()}, "pid": {dead_pid()}}}')
    second = broker_factory(data)
    stages.clear()
    await second.start_async(lambda stage, _done, _total: stages.append(stage))
    assert set(stages) == {"Starting Kafka"}
    assert second.bootstrap_servers == address
    await write(address, "t", [b"2"])

    killed = second.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    failure = await eventually(second.failure, 10, what="the death is noticed")
    assert "status 137" in str(failure)
    second.stop()
    third = broker_factory(data)
    await third.start_async()
    assert await read(third.bootstrap_servers, "t") == [b"1", b"2"]
    assert (data / "broker.log").stat().st_size > 0


@pytest.mark.kafka
@pytest.mark.parametrize("victim", ["owner", "launcher"])
async def test_a_broker_never_outlives_its_owner(victim: str, tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        taken = other.getsockname()[1]
        # The ports of the last run, which another program has taken since: they are given up.
        (tmp_path / "ports.json").write_text(f"[{taken}, {taken}]")
        async with owner_of_a_broker(tmp_path) as (owner, pid, port):
            assert port != taken
            launcher = psutil.Process(pid).ppid()
            assert os.getpgid(pid) == launcher != os.getpgid(owner), "Ctrl-C must not reach the broker"
            os.kill(owner if victim == "owner" else launcher, signal.SIGKILL)
            if victim == "owner":
                # At once, while the orphan is still closing its files: the new one waits for it.
                async with EmbeddedBroker(tmp_path) as successor:
                    assert successor.port == port
            await eventually(lambda: not alive(pid), 30, what="the broker ends")


def test_a_port_in_use(broker_factory: Factory) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BrokerError, match=f"port {port} of 127.0.0.1 is in use: stop what listens"):
            broker_factory(port=port).start()


@pytest.mark.kafka
async def test_a_cancelled_start_leaves_nothing(broker_factory: Factory) -> None:
    broker = broker_factory()
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    start = asyncio.create_task(
        broker.start_async(
            lambda stage, _done, _total: stage == "Starting Kafka" and loop.call_soon_threadsafe(begun.set)
        )
    )
    await asyncio.wait_for(begun.wait(), 60)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert broker.pid is None
    with pytest.raises(BrokerError, match="not running"):
        _ = broker.bootstrap_servers
    with (broker.data_dir / "broker.lock").open("ab") as lock:
        flock(lock, LOCK_EX | LOCK_NB)  # raises while any process of the broker lives


def test_a_full_disk_is_told_before_the_start(broker_factory: Factory) -> None:
    broker = broker_factory(free_bytes=lambda _path: 7 << 20)
    with pytest.raises(BrokerError, match=r"disk is full: .* has 7 MB free .* at least 256; free some"):
        broker.start()


def test_a_full_disk_is_told_by_a_broker_that_died_of_it(broker_factory: Factory, tmp_path: Path) -> None:
    broker = broker_factory(tmp_path)
    broker.log_file.write_text("ERROR Error while writing: java.io.IOException: No space left on device\n")
    assert "is full: free some space" in str(broker._explain("ended with status 1"))
    mute = broker_factory(tmp_path / "mute", free_bytes=lambda _path: 0)
    assert "is full: free some space" in str(mute._explain("ended with status 1"))


def test_a_directory_that_is_none(broker_factory: Factory, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BrokerError, match="set HEADRACE_DATA_DIR"):
        broker_factory(tmp_path / "file" / "below").start()
    with pytest.raises(BrokerError, match="comma"):
        broker_factory(tmp_path / "a,b").start()


def test_a_heap_that_java_refuses(broker_factory: Factory) -> None:
    with pytest.raises(BrokerError, match="Invalid maximum heap size"):
        broker_factory(heap="much").start()


def test_no_cluster_id_looks_like_an_option() -> None:
    assert not [found for found in (_cluster_id() for _ in range(1000)) if found.startswith("-") or len(found) != 22]
