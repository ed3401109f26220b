"""`headrace bench gateway`: the HTTP edge beside what teams write, one load generator, one broker, one machine.

Every 200 comes after the broker's acknowledgement (acks=all, idempotent), ours and theirs. Theirs parse, produce and
wait; ours does all that a gateway must. docs/benchmarks.md says how to read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import psutil
from rich.console import Console

from pipeline.bench.engine_peers import PeerMissing
from pipeline.bench.gateway_peers import argument, fastapi, fastify, go, oha
from pipeline.bench.harness import ROUNDS, Figure
from pipeline.bench.path import PARTNER, Bench, event
from pipeline.broker.cluster import cluster
from pipeline.settings import KafkaSettings, Settings

__all__ = ["Generator", "Server", "free_port", "run"]

_CONNECTIONS = 256
_BATCH = 100
_STOP_S = 5.0
#: The generator's ceiling must be so many times our figure, else the row says nothing.
_HEADROOM = 1.5

_SINGLE = "single events, 256 connections, one process: ours / {}"
_BATCHED = "batches of 100, events/s, one process: ours / FastAPI + aiokafka"
_SCALE = "whole system on 2 CPUs with 2 processes / on 1 CPU with 1 (taskset, broker and generator included)"


@dataclass(frozen=True)
class Load:
    """What the generator found: requests a second that were answered 200, and seconds to the answer."""

    rate: float
    p50: float
    p99: float


class Server:
    """A process that serves on ``port`` until it is stopped."""

    def __init__(self, name: str, command: Sequence[str], port: int, environment: dict[str, str] | None = None) -> None:
        self.name = name
        self.port = port
        self._command = command
        self._environment = {**os.environ, **(environment or {})}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Return when it takes connections. Raises RuntimeError when it does not within a minute."""
        self._process = await asyncio.create_subprocess_exec(*self._command, env=self._environment)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.returncode is None:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"{self.name} does not serve")

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), _STOP_S)
            except TimeoutError:  # Robyn does not listen
                for child in psutil.Process(self._process.pid).children(recursive=True):
                    child.kill()
                self._process.kill()
                await self._process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


class Generator:
    """oha, with the same bodies and connections for everybody."""

    def __init__(self, program: str, folder: Path, seconds: float) -> None:
        self._program = program
        self._folder = folder
        self._seconds = seconds

    def bodies(self, name: str, lines: Sequence[bytes]) -> Path:
        """A file of bodies, one a line."""
        file = self._folder / name
        file.write_bytes(b"\n".join(lines))
        return file

    async def load(
        self, port: int, path: str, bodies: Path, connections: int, cpus: set[int] | None = None, seconds: float = 0
    ) -> Load:
        """Raises RuntimeError when an answer was no 200."""
        command = [self._program, "--no-tui", "--output-format", "json", "-c", str(connections), "-m", "POST"]
        command += ["-z", f"{seconds or self._seconds:g}s", "-w", "-T", "application/json", "-Z", str(bodies)]
        process = await asyncio.create_subprocess_exec(
            *command, f"http://127.0.0.1:{port}{path}", stdout=asyncio.subprocess.PIPE
        )
        if cpus is not None:
            _pin(process.pid, cpus)
        said, _ = await process.communicate()
        found = orjson.loads(said)
        codes = found["statusCodeDistribution"]
        if set(codes) != {"200"}:
            raise RuntimeError(f"answers of port {port}: {codes or found.get('errorDistribution')}")
        total = found["summary"]["total"]
        percentiles = found["latencyPercentiles"]
        return Load(codes["200"] / total, percentiles["p50"], percentiles["p99"])


def _pin(pid: int, cpus: set[int]) -> None:
    """All threads of a process on ``cpus``."""
    for thread in psutil.Process(pid).threads():
        with contextlib.suppress(OSError):
            os.sched_setaffinity(thread.id, cpus)


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Contest:
    """Ours and the peers on one cluster, and a topic for each."""

    def __init__(self, bench: Bench, generator: Generator, console: Console) -> None:
        self.bench = bench
        self.generator = generator
        self.console = console
        self.key = ""
        self.servers: dict[str, Server] = {}

    async def ours(self, name: str = "ours") -> Server:
        """One gateway process, as an operator runs it."""
        port = free_port()
        environment = {
            "KAFKA_BOOTSTRAP_SERVERS": self.bench.kafka.bootstrap_servers,
            "HEADRACE_DATA_DIR": str(self.bench.settings.data_dir),
            "HEADRACE_GATEWAY_PORT": str(port),
            "HEADRACE_LOG_LEVEL": "WARNING",
        }
        command = [sys.executable, "-m", "pipeline.cli.main", "gateway"]
        return await self._start(name, command, port, environment)

    async def peer(
        self, name: str, command: Sequence[str], environment: dict[str, str] | None = None, *, null: bool = False
    ) -> Server:
        """A peer with a topic of its own."""
        port = free_port()
        topic = await self.bench.source()
        given = argument(self.bench.kafka.bootstrap_servers, topic, port, null=null)
        return await self._start(name, [*command, given], port, environment)

    async def _start(self, name: str, command: Sequence[str], port: int, environment: dict[str, str] | None) -> Server:
        made = Server(name, command, port, environment)
        await made.start()
        self.servers[name] = made
        return made

    async def stop(self) -> None:
        for server in self.servers.values():
            await server.stop()

    async def race(
        self, names: Sequence[str], path: str, bodies: Path, connections: int, rounds: int
    ) -> list[list[Load]]:
        """Each in turn, ``rounds`` times, warm."""
        found: list[list[Load]] = [[] for _ in names]
        for name in names:
            await self.generator.load(self.servers[name].port, path, bodies, connections, seconds=1)
        for number in range(rounds):
            for place, name in enumerate(names):
                load = await self.generator.load(self.servers[name].port, path, bodies, connections)
                found[place].append(load)
                self.console.print(f"  {path} {number + 1}/{rounds} {name}: {load.rate:,.0f}/s, p99 {load.p99:.4f} s")
        return found


async def _peers(contest: Contest, console: Console) -> dict[str, str]:
    """Start every peer that can run here: short name -> title."""
    started: dict[str, str] = {}
    probe = contest.generator.bodies("probe", [event(0, 1)])
    for name, title, build, environment in (
        ("fastapi", "FastAPI + aiokafka", fastapi, None),
        ("go", "Go + franz-go", go, {"GOMAXPROCS": "1"}),
        ("fastify", "Fastify + @platformatic/kafka", fastify, None),
    ):
        try:
            server = await contest.peer(name, await build(console), environment)
            await contest.generator.load(server.port, "/v1/track", probe, 4, seconds=1)
        except (PeerMissing, RuntimeError) as error:
            console.print(f"  without {title}: {error}")
        else:
            started[name] = title
    return started


async def _speed(contest: Contest, titles: dict[str, str], rounds: int) -> list[Figure]:
    """Singles and batches, one process each."""
    bench, generator = contest.bench, contest.generator
    single = [event(number, bench.users) for number in range(1000)]
    lines = generator.bodies("single", single)
    batches = [
        b'{"writeKey":"%b","batch":[%b]}' % (contest.key.encode(), b",".join(single[at : at + _BATCH]))
        for at in range(0, len(single), _BATCH)
    ]
    packs = generator.bodies("batches", batches)
    path = f"/v1/track?writeKey={contest.key}"
    names = ["ours", *titles]
    ceiling: list[list[Load]] = []
    if "null" in contest.servers:
        ceiling = await contest.race(["null"], path, lines, _CONNECTIONS, rounds)
    loads = await contest.race(names, path, lines, _CONNECTIONS, rounds)
    figures = []
    for place, title in enumerate(titles.values(), 1):
        figure = Figure(_SINGLE.format(title), "requests/s", title)
        figure.values = [load.rate for load in loads[0]]
        figure.peer_values = [load.rate for load in loads[place]]
        figures.append(figure)
        tail = Figure(f"p99 of {_SINGLE.format(title)}", "s", title)
        tail.values = [load.p99 for load in loads[0]]
        tail.peer_values = [load.p99 for load in loads[place]]
        figures.append(tail)
    if ceiling:
        figure = Figure("the generator's ceiling (a server that only answers) / ours", "requests/s", "ours")
        figure.values = [load.rate for load in ceiling[0]]
        figure.peer_values = [load.rate for load in loads[0]]
        figures.append(figure)
        if statistics.median(figure.values) < _HEADROOM * statistics.median(figure.peer_values):
            contest.console.print("  the generator is too slow for ours: the rows of single events are void")
    if "fastapi" in titles:
        loads = await contest.race(["ours", "fastapi"], "/v1/batch", packs, 32, rounds)
        figure = Figure(_BATCHED, "events/s", "FastAPI + aiokafka")
        figure.values = [_BATCH * load.rate for load in loads[0]]
        figure.peer_values = [_BATCH * load.rate for load in loads[1]]
        figures.append(figure)
    return figures


async def _scale(contest: Contest, rounds: int) -> list[Figure]:
    """All of it on two processors, and on one."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        return []
    broker = _broker_pid()
    if broker is None:
        contest.console.print(f"  without {_SCALE!r}: the broker is not of this machine")
        return []
    lines = contest.generator.bodies("single", [event(n, contest.bench.users) for n in range(1000)])
    path = f"/v1/track?writeKey={contest.key}"
    first, second = contest.servers["ours"], await contest.ours("ours, second")
    figure = Figure(_SCALE, "requests/s", "on 1 CPU with 1")
    try:
        for number in range(rounds):
            both = set(cpus[:2])
            for pid in (broker, first.pid, second.pid):
                _pin(pid, both)
            half = _CONNECTIONS // 2
            loads = await asyncio.gather(
                *(contest.generator.load(one.port, path, lines, half, both) for one in (first, second))
            )
            figure.values.append(sum(load.rate for load in loads))
            for pid in (broker, first.pid):
                _pin(pid, {cpus[0]})
            alone = await contest.generator.load(first.port, path, lines, _CONNECTIONS, {cpus[0]})
            figure.peer_values.append(alone.rate)
            contest.console.print(
                f"  scale {number + 1}/{rounds}: {figure.values[-1]:,.0f}/s on 2, {alone.rate:,.0f}/s on 1"
            )
    finally:
        for pid in (broker, first.pid):
            _pin(pid, set(cpus))
    return [figure]


def _broker_pid() -> int | None:
    """Of the embedded broker that this process started."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "java" in child.name():
                return int(child.pid)
    return None


async def run(quick: bool, console: Console) -> list[Figure]:
    """All rows, on a broker and data of their own (or the cluster that ``KAFKA_BOOTSTRAP_SERVERS`` names)."""
    program = await oha(console)
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        settings = Settings(data_dir=Path(folder))
        rounds = ROUNDS
        async with cluster(settings, KafkaSettings()) as kafka:
            bench = Bench(kafka, settings, console, quick)
            contest = Contest(bench, Generator(program, Path(folder), 4 if quick else 10), console)
            try:
                await bench.setup()
                topic = await bench.source()
                contest.key = f"{PARTNER}.{topic.rpartition('.')[2]}"
                await contest.ours()
                titles = await _peers(contest, console)
                if "go" in titles:
                    await contest.peer("null", await go(console), null=True)
                console.print(
                    f"gateway: events of {len(event(0, 1))} bytes, {settings.lanes} lanes, {os.cpu_count()} cores"
                )
                figures = await _speed(contest, titles, rounds)
                figures += await _scale(contest, rounds)
            finally:
                await contest.stop()
                await bench.control.stop()
    return figures
