"""The peers' own environment, made on first use: a Python environment and the Kafka Streams program."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

__all__ = [
    "NOT_SHIPPED",
    "PEERS",
    "PeerMissing",
    "digest",
    "environment",
    "kafka_streams",
    "python",
    "run",
    "says",
    "script",
]

#: In a source tree alone: peers are not shipped in the wheel.
PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
NOT_SHIPPED = "the peers are in the source tree (benchmarks/peers), and this is an installed Headrace"
_JAVA = 17


class PeerMissing(Exception):
    """A peer can't run here; says what it would need."""


async def script(name: str, console: Console) -> list[str]:
    """The command of a Python peer. Raises `PeerMissing`."""
    return [str(await python(console)), str(PEERS / name)]


async def python(console: Console) -> Path:
    """The Python of the engine's peers. Raises `PeerMissing`."""
    return await environment(PEERS, "the peers' Python environment", console)


async def environment(folder: Path, what: str, console: Console) -> Path:
    """The Python of ``folder``'s environment, made anew when its lock has changed. Raises `PeerMissing`."""
    lock = folder / "requirements.lock"
    if not lock.is_file():
        raise PeerMissing(NOT_SHIPPED)
    venv = folder / ".venv"
    found, ready, wanted = venv / "bin" / "python", venv / ".ready", digest([lock])
    if not says(ready, wanted):
        console.print(f"Setting up {what} (once; a minute or two) …")
        shutil.rmtree(venv, ignore_errors=True)
        await run([sys.executable, "-m", "venv", str(venv)])
        pip = [str(found), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        await run([*pip, "--require-hashes", "-r", str(lock)])
        ready.write_text(wanted)
    return found


async def kafka_streams(console: Console) -> list[str]:
    """The command of the Kafka Streams peer, built anew when its source has changed. Raises `PeerMissing`."""
    folder = PEERS / "kafka-streams"
    java, javac, maven = (shutil.which(tool) for tool in ("java", "javac", "mvn"))
    if not folder.is_dir():
        raise PeerMissing(NOT_SHIPPED)
    if not (java and javac and maven):
        raise PeerMissing(f"needs a JDK >= {_JAVA} and Maven (java, javac and mvn on the PATH)")
    sources = [folder / "pom.xml", *sorted((folder / "src").rglob("*.java"))]
    ready = folder / "target" / ".ready"
    wanted = digest(sources)
    if not says(ready, wanted):
        console.print("Building the Kafka Streams peer with Maven (once; fetches 100 MB) …")
        await run([maven, "-q", "-B", "-f", str(folder / "pom.xml"), "clean", "package"])
        ready.write_text(wanted)
    return [java, "-Xms1g", "-Xmx1g", "-jar", str(folder / "target" / "peer.jar")]


def digest(files: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def says(file: Path, wanted: str) -> bool:
    return file.is_file() and file.read_text() == wanted


async def run(command: Sequence[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": ""},
    )
    said, _ = await process.communicate()
    if process.returncode:
        tail = said.decode(errors="replace").strip()[-2000:]
        raise PeerMissing(f"{' '.join(command[:3])} … ended with status {process.returncode}: {tail}")
