"""Apache Kafka as a child process: one KRaft node on the loopback interface, its data in one directory."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from pipeline.broker.errors import BrokerError
from pipeline.broker.jars import Report, classpath
from pipeline.broker.java import find_java
from pipeline.broker.properties import LOOPBACK, logging_config, server_properties
from pipeline.broker.ready import answers
from pipeline.broker.superuser import MECHANISM, Superuser
from pipeline.stream.kafka import Kafka

__all__ = ["EmbeddedBroker"]

START_S = 120.0
STOP_S = 20.0
ORPHAN_S = STOP_S + 5.0
SETTLE_S = 1.0
FREE_BYTES = 256 * 1024 * 1024
FULL_BYTES = 1024 * 1024
PORT_TRIES = 3
# Below every default range of ephemeral ports: no outgoing connection takes the port between two starts.
PORTS = range(20_000, 32_000)
LAUNCHER = Path(__file__).with_name("launcher.py")


def _quiet(_stage: str, _done: int, _total: int) -> None:
    """A report that nobody reads."""


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(path).free


class EmbeddedBroker:
    """A managed Kafka broker; ``with EmbeddedBroker(path) as broker`` or ``async with``.

    ``data_dir`` holds everything: the log, ``broker.log``, the lock. ``port`` 0 takes a free one and keeps to
    it on later starts where it can. ``heap`` is the JVM's largest heap, as ``-Xmx`` takes it. What is written
    survives a stop, a crash and a kill. The broker is not in the caller's process group, so Ctrl-C reaches
    the caller alone, which stops the broker last; it never outlives the caller, not even ``kill -9``.

    With a ``superuser``, clients log in, and may do what they were granted and nothing else. It is written into a new
    directory, and is that directory's for life.

    ``free_bytes`` tells the free space of a directory, in bytes.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        *,
        heap: str = "512m",
        superuser: Superuser | None = None,
        free_bytes: Callable[[Path], int] = _free_bytes,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port
        self._asked_port = port
        self._heap = heap
        self._superuser = superuser
        self._free_bytes = free_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._abandoned = threading.Event()
        self._log_start = 0

    @property
    def bootstrap_servers(self) -> str:
        """``host:port`` for clients. Raises BrokerError before a start."""
        if self._process is None:
            raise BrokerError(f"the embedded Kafka in {self.data_dir} is not running: call start() first")
        return f"{LOOPBACK}:{self.port}"

    @property
    def kafka(self) -> Kafka:
        """What clients of ours are made from. Raises BrokerError before a start."""
        user = self._superuser
        if user is None:
            return Kafka(self.bootstrap_servers)
        return Kafka(
            self.bootstrap_servers,
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism=MECHANISM,
            sasl_username=user.name,
            sasl_password=user.password,
        )

    @property
    def log_file(self) -> Path:
        """Kafka's own log (size-bounded)."""
        return self.data_dir / "broker.log"

    @property
    def pid(self) -> int | None:
        """The process id of the JVM, or None where none runs."""
        return _read_lock(self.data_dir / "broker.lock").get("pid") if self.failure() is None else None

    def failure(self) -> BrokerError | None:
        """Why the broker is not running, or None while it is."""
        if self._process is None:
            return BrokerError(f"the embedded Kafka in {self.data_dir} is not running")
        status = self._process.poll()
        return None if status is None else self._explain(f"ended with status {status}")

    def start(self, progress: Report = _quiet) -> None:
        """Start, and return when Kafka has answered a metadata request; blocks (seconds; the first time also
        for a download of 47 MB). ``progress(stage, done, total)`` is called on the way, from any thread.

        Raises BrokerError: no Java, no jars, port in use, directory in use, disk full, or a broker that ends
        or does not answer in 2 minutes.
        """
        if self._process is not None:
            raise BrokerError(f"the embedded Kafka in {self.data_dir} is already started")
        self._abandoned.clear()
        progress = self._unless_abandoned(progress)
        self._make_data_dir()
        # The lock comes first: two starts at once must not both format the directory.
        with self._locked(progress) as lock:
            java = find_java()
            jars = classpath(progress)
            for attempt in range(1, PORT_TRIES + 1):
                controller_port = self._choose_ports(fresh=attempt > 1)
                self._configure(controller_port)
                command = self._command(java, jars)
                self._format(command, progress)
                self._spawn(command, lock)
                try:
                    self._await_ready(progress)
                except BaseException:
                    lost_race = self._asked_port == 0 and "already in use" in self._tail()
                    self.stop()
                    if lost_race and attempt < PORT_TRIES:
                        continue
                    raise
                return

    def stop(self) -> None:
        """Stop gently; after 20 s, kill. Safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S + 5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        finally:
            if process.stdin is not None:
                process.stdin.close()

    async def start_async(self, progress: Report = _quiet) -> None:
        """``start`` for an event loop. Cancelling it leaves no broker behind."""
        starting = asyncio.ensure_future(asyncio.to_thread(self.start, progress))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._abandoned.set()
            with contextlib.suppress(BrokerError):
                await starting
            await self.stop_async()
            raise

    async def stop_async(self) -> None:
        """``stop`` for an event loop."""
        await asyncio.to_thread(self.stop)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await self.start_async()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop_async()

    def _unless_abandoned(self, progress: Report) -> Report:
        """The report, made a place where a start that nobody waits for any more ends (downloads too)."""

        def report(stage: str, done: int, total: int) -> None:
            if self._abandoned.is_set():
                raise BrokerError(f"the start of the embedded Kafka in {self.data_dir} was abandoned: {stage}")
            progress(stage, done, total)

        return report

    # -- before the JVM ----------------------------------------------------------------------------------

    def _make_data_dir(self) -> None:
        if "," in str(self.data_dir):
            raise BrokerError(
                f"Kafka cannot keep its data in {self.data_dir}: it takes a comma for the end of the name; "
                "set HEADRACE_DATA_DIR to a directory without one"
            )
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            free = self._free_bytes(self.data_dir)
        except OSError as error:
            raise BrokerError(
                f"cannot use {self.data_dir} for Kafka's data: {error}; set HEADRACE_DATA_DIR to a directory "
                "that can be written"
            ) from error
        if free < FREE_BYTES:
            raise BrokerError(
                f"the disk is full: {self.data_dir} has {free >> 20} MB free and Kafka needs at least "
                f"{FREE_BYTES >> 20}; free some space or set HEADRACE_DATA_DIR to another disk"
            )

    @contextlib.contextmanager
    def _locked(self, progress: Report) -> Iterator[IO[bytes]]:
        """The directory's lock. The kernel frees it with the last process that holds it, so a file left by a
        dead one never stands in the way."""
        path = self.data_dir / "broker.lock"
        begun = time.monotonic()
        # Append mode makes the file where there is none and truncates none.
        with path.open("ab") as lock:
            while True:
                try:
                    flock(lock, LOCK_EX | LOCK_NB)
                    break
                except BlockingIOError as error:
                    holder = _read_lock(path)
                    owner, pid = holder.get("owner"), holder.get("pid")
                    orphan = owner is not None and not _is_alive(owner)
                    # An owner that was killed this moment may still look alive.
                    if time.monotonic() - begun > (ORPHAN_S if orphan else SETTLE_S):
                        raise BrokerError(
                            f"another Kafka (pid {pid or 'unknown'}, started by pid {owner or 'unknown'}) "
                            f"runs on {self.data_dir}: stop it, or set HEADRACE_DATA_DIR to another directory"
                        ) from error
                    progress("Waiting for the last Kafka to end", 0, 0)
                    time.sleep(0.1)
            lock.truncate(0)
            yield lock

    def _choose_ports(self, *, fresh: bool) -> int:
        """Set ``port``; returns the controller's port."""
        remembered = self.data_dir / "ports.json"
        known: list[int] = []
        if not fresh:
            with contextlib.suppress(OSError, ValueError):
                known = [int(port) for port in json.loads(remembered.read_text())]
        broker_port, controller_port = known if len(known) == 2 else (0, 0)
        if self._asked_port:
            if not _is_free(self._asked_port):
                raise BrokerError(
                    f"port {self._asked_port} of {LOOPBACK} is in use: stop what listens there, or give the "
                    "embedded Kafka another port (0 takes a free one)"
                )
            self.port = self._asked_port
        else:
            self.port = broker_port if _is_free(broker_port) else _free_port()
        if controller_port == self.port or not _is_free(controller_port):
            controller_port = _free_port(besides=self.port)
        remembered.write_text(json.dumps([self.port, controller_port]))
        return controller_port

    def _configure(self, controller_port: int) -> None:
        properties = self.data_dir / "server.properties"
        # It may hold a password.
        properties.touch(mode=0o600)
        properties.chmod(0o600)
        properties.write_text(server_properties(self.data_dir / "log", self.port, controller_port, self._superuser))
        (self.data_dir / "log4j2.properties").write_text(logging_config(self.log_file))

    def _command(self, java: Path, jars: list[Path]) -> list[str]:
        return [
            str(java),
            "-Xms64m",
            f"-Xmx{self._heap}",
            # Half a gigabyte on a machine shared with the workers: the serial collector takes least.
            "-XX:+UseSerialGC",
            "-XX:+ExitOnOutOfMemoryError",
            "-XX:-UsePerfData",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={(self.data_dir / 'log4j2.properties').as_uri()}",
            "-cp",
            os.pathsep.join(map(str, jars)),
        ]

    def _format(self, command: list[str], progress: Report) -> None:
        """Give a new directory its cluster id, once."""
        owner = self.data_dir / "superuser"
        if (self.data_dir / "log" / "meta.properties").exists():
            known = owner.read_text() if owner.exists() else None
            if known != (self._superuser.name if self._superuser else None):
                raise BrokerError(
                    f"the data in {self.data_dir} was made {f'for the user {known}' if known else 'without users'}: "
                    "use the credentials that it was made with, or set HEADRACE_DATA_DIR to a new directory"
                )
            return
        progress("Preparing Kafka's storage", 0, 0)
        cluster_id = _cluster_id()
        # The first compiler alone: this JVM lives for a second.
        arguments = [command[0], "-XX:TieredStopAtLevel=1", *command[1:], "kafka.tools.StorageTool", "format"]
        arguments += ["-t", cluster_id, "-c", str(self.data_dir / "server.properties")]
        if self._superuser is not None:
            arguments += ["--add-scram", self._superuser.record()]
        result = subprocess.run(
            arguments,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            env=_environment(),
            timeout=START_S,
            check=False,
        )
        if result.returncode:
            raise self._explain("could not prepare its storage", result.stdout + result.stderr)
        if self._superuser is not None:
            owner.write_text(self._superuser.name)

    # -- the process -------------------------------------------------------------------------------------

    def _spawn(self, command: list[str], lock: IO[bytes]) -> None:
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        arguments = [sys.executable, "-I", "-S", str(LAUNCHER), str(lock.fileno()), str(STOP_S), *command]
        with (self.data_dir / "broker.out").open("wb") as out:
            self._process = subprocess.Popen(
                [*arguments, "kafka.Kafka", str(self.data_dir / "server.properties")],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                pass_fds=(lock.fileno(),),
                start_new_session=True,
                env=_environment(),
            )

    def _await_ready(self, progress: Report) -> None:
        deadline = time.monotonic() + START_S
        # A thread of its own: the caller may be inside an event loop.
        with ThreadPoolExecutor(1, thread_name_prefix="kafka-ready") as pool:
            while not pool.submit(asyncio.run, answers(self.kafka)).result():
                failure = self.failure()
                if failure is not None:
                    raise failure
                progress("Starting Kafka", 0, 0)
                if time.monotonic() > deadline:
                    raise self._explain(f"did not answer within {START_S:.0f} s")
                time.sleep(0.1)

    def _tail(self, limit: int = 20_000) -> str:
        """The end of what the broker wrote since its start."""
        written = b""
        with contextlib.suppress(OSError):
            log = self.log_file.read_bytes()
            # A log smaller than it was has been rolled: all of it is new.
            written = log[self._log_start if len(log) >= self._log_start else 0 :][-limit:]
        with contextlib.suppress(OSError):
            written += (self.data_dir / "broker.out").read_bytes()[-limit:]
        return written.decode(errors="replace")

    def _explain(self, what: str, output: str | None = None) -> BrokerError:
        text = self._tail() if output is None else output
        # On a disk that is quite full the log cannot tell either.
        if "No space left on device" in text or self._free_bytes(self.data_dir) < FULL_BYTES:
            why = f"the disk of {self.data_dir} is full: free some space or set HEADRACE_DATA_DIR to another"
        elif "already in use" in text:
            why = f"port {self.port} of {LOOPBACK} is in use: stop what listens there, or give another port"
        elif "OutOfMemoryError" in text:
            why = f"its heap of {self._heap} is too small: give it more"
        else:
            lines = [line for line in text.splitlines() if line.strip()]
            errors = [line for line in lines if re.search(r"\b(ERROR|FATAL|Error|Invalid)\b", line)]
            if not errors and output is not None:
                errors = lines[-1:]
            why = f"see {self.log_file}" + (f"; it says: {errors[0].strip()[:500]}" if errors else "")
        return BrokerError(f"the embedded Kafka in {self.data_dir} {what}: {why}")


def _cluster_id() -> str:
    """22 characters; none with a dash in front, which Kafka's tools would take for an option."""
    while True:
        found = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not found.startswith("-"):
            return found


def _read_lock(path: Path) -> dict[str, int]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_alive(pid: int) -> bool:
    # Here and not above: the extra `embedded` brings it, and an existing cluster needs no extra.
    import psutil

    try:
        # A zombie has ended; only its parent has not noticed.
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _environment() -> dict[str, str]:
    # Java takes the encoding of file names from the locale, and a bare C locale has only ASCII.
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def _is_free(port: int) -> bool:
    if not port:
        return False
    with socket.socket() as probe:
        # As Kafka does: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _free_port(besides: int = 0) -> int:
    for _ in range(200):
        port = random.choice(PORTS)
        if port != besides and _is_free(port):
            return port
    raise BrokerError(f"no free port between {PORTS.start} and {PORTS.stop} of {LOOPBACK}: stop what holds them")
