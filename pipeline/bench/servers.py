"""`headrace bench servers`: what HTTP servers for Python cost by themselves (docs/decisions/0015-gateway-server.md).

Each takes the gateway's event by POST, parses it with orjson and answers 200; one process, no Kafka.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console

from pipeline.bench.engine_peers import PEERS, environment
from pipeline.bench.gateway import Generator, Server, free_port
from pipeline.bench.gateway_peers import argument, oha
from pipeline.bench.harness import ROUNDS, Figure
from pipeline.bench.path import event

__all__ = ["run"]

_FOLDER = PEERS / "servers"
_CONNECTIONS = 256
_TITLES = {
    "granian-asgi": "Granian, ASGI",
    "granian-rsgi": "Granian, RSGI",
    "robyn": "Robyn",
    "uvicorn": "uvicorn, plain ASGI",
}


async def run(quick: bool, console: Console) -> list[Figure]:
    """A row for each server beside the bare protocol (asyncio, llhttp, uvloop) that the gateway's front is made of."""
    generator = await oha(console)
    python = str(await environment(_FOLDER, "the servers", console))
    figures = {
        kind: Figure(f"bare server, 256 connections: protocol / {title}", "requests/s", title)
        for kind, title in _TITLES.items()
    }
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        load = Generator(generator, Path(folder), 3 if quick else 10)
        bodies = load.bodies("single", [event(number, 20_000) for number in range(1000)])
        for number in range(ROUNDS):
            rates: dict[str, float] = {}
            for kind in ("protocol", *_TITLES):
                port = free_port()
                command = [python, str(_FOLDER / "servers.py"), kind, argument("", "", port)]
                server = Server(kind, command, port, {"PYTHONPATH": str(_FOLDER)})
                await server.start()
                try:
                    await load.load(port, "/v1/track", bodies, _CONNECTIONS, seconds=1)
                    found = await load.load(port, "/v1/track", bodies, _CONNECTIONS)
                finally:
                    await server.stop()
                rates[kind] = found.rate
                console.print(f"  {number + 1}/{ROUNDS} {kind}: {found.rate:,.0f}/s, p99 {found.p99:.4f} s")
            for kind, figure in figures.items():
                figure.values.append(rates["protocol"])
                figure.peer_values.append(rates[kind])
    return list(figures.values())
