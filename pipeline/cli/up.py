"""`headrace up`: everything on one machine, in one command (decision 13)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import typer
from rich.console import Console

from pipeline.settings import KafkaSettings, Settings
from pipeline.stream.kafka import Kafka
from pipeline.supervisor import Supervisor

__all__ = ["Running", "everything", "up"]

log = logging.getLogger(__name__)
#: The processes, and what each is started with. Two workers, so that intake and fan-out have a core each.
PROCESSES: dict[str, tuple[str, ...]] = {
    "api": ("api",),
    "gateway": ("gateway",),
    "intake": ("worker", "--roles", "intake"),
    "fanout": ("worker", "--roles", "fanout"),
    "bridge": ("bridge",),
    "sink": ("sink",),
    "lake": ("lake",),
}
_READY_SECONDS = 90.0


@dataclass
class Running:
    """What runs: the addresses of its doors, and its processes."""

    kafka: Kafka
    gateway: str
    api: str
    supervisor: Supervisor


@asynccontextmanager
async def everything(
    settings: Settings, kafka_settings: KafkaSettings, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    """Broker (embedded, unless a cluster is named), topics and all roles; ready when it yields.

    Raises BrokerError, OSError (a port is taken) or RuntimeError (a process keeps ending), saying what to do.
    """
    from pipeline.broker.cluster import cluster
    from pipeline.topics.wanted import apply_all

    async with cluster(settings, kafka_settings) as kafka:
        await apply_all(kafka, settings)
        ports = {
            "gateway": settings.gateway_port or _free_port(settings.host),
            "api": settings.api_port or _free_port(settings.host),
        }
        for door, port in ports.items():
            _check_free(settings.host, port, door)
        supervisor = Supervisor(
            {
                "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
                "HEADRACE_GATEWAY_PORT": str(ports["gateway"]),
                "HEADRACE_API_PORT": str(ports["api"]),
                "HEADRACE_DATA_DIR": str(settings.data_dir.resolve()),
                "HEADRACE_LANES": str(settings.lanes),
                # Two workers: one port cannot be both's.
                **({"HEADRACE_WORKER_PORT": "0"} if settings.worker_port is not None else {}),
                **(environment or {}),
            }
        )
        host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
        running = Running(kafka, f"http://{host}:{ports['gateway']}", f"http://{host}:{ports['api']}", supervisor)
        try:
            also = {"postgres": ("postgres",)} if settings.postgres is not None else {}
            for name, arguments in (PROCESSES | also).items():
                await supervisor.start(name, [sys.executable, "-m", "pipeline.cli.main", *arguments])
            await _ready(running)
            yield running
        finally:
            await supervisor.stop()


async def _ready(running: Running) -> None:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        for address in (running.gateway, running.api):
            async with asyncio.timeout(_READY_SECONDS):
                while True:
                    if running.supervisor.failure.done():
                        running.supervisor.failure.result()
                    with contextlib.suppress(httpx.HTTPError):
                        if (await client.get(f"{address}/readyz")).status_code == 200:
                            break
                    await asyncio.sleep(0.1)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _check_free(host: str, port: int, door: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            setting = f"HEADRACE_{door.upper()}_PORT"
            raise OSError(
                f"{host}:{port} for the {door} can't be taken ({error.strerror}); "
                f"stop what uses it, or set {setting} to another port (0: a free one)"
            ) from None


def up() -> None:
    """Run everything on this machine: broker, topics, gateway, workers, sink, API. Ctrl-C stops it all."""
    import uvloop

    from pipeline.broker.cluster import cluster
    from pipeline.broker.errors import BrokerError
    from pipeline.broker.progress import shown
    from pipeline.cli.roles import configure_logging

    settings = Settings()
    configure_logging(settings)
    console = Console(stderr=True)

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        given = KafkaSettings()
        async with contextlib.AsyncExitStack() as stack:
            with shown() as progress:
                kafka = await stack.enter_async_context(cluster(settings, given, progress=progress))
            named = given.model_copy(update={"bootstrap_servers": kafka.bootstrap_servers})
            running = await stack.enter_async_context(everything(settings, named))
            doors = {"kafka": running.kafka.bootstrap_servers, "gateway": running.gateway, "api": running.api}
            print(json.dumps(doors | {"pid": os.getpid()}), flush=True)
            console.print("Headrace is up. API and its documentation: [bold]" + running.api + "/docs[/bold]")
            waiting = asyncio.create_task(stop.wait())
            first: list[asyncio.Future[Any]] = [waiting, running.supervisor.failure]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if running.supervisor.failure.done():
                running.supervisor.failure.result()
            console.print("Stopping …")

    try:
        uvloop.run(main())
    except (BrokerError, OSError, RuntimeError, TimeoutError) as error:
        typer.echo(f"headrace: {error}", err=True)
        raise typer.Exit(1) from None
