"""`headrace demo`: everything at work on this machine, in one command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.demo.run import Mode
    from pipeline.settings import Settings

__all__ = ["demo"]

_PORTS = {"gateway_port": 8080, "api_port": 8081}
_TRUE = ("1", "true", "yes")


def demo() -> None:
    """Start everything, send real traffic through every door, show the counts live; Ctrl-C ends it.

    CI=true: check every figure against what was sent, and end. DEMO_HOLD=1: check, then stay up and print one line of
    JSON with all addresses. Data and log stay in HEADRACE_DATA_DIR, else .headrace/demo.
    """
    import uvloop
    from rich.console import Console

    from pipeline.broker.errors import BrokerError
    from pipeline.cli.roles import configure_logging

    hold, check = (os.environ.get(name, "").lower() in _TRUE for name in ("DEMO_HOLD", "CI"))
    mode: Mode = "hold" if hold else "check" if check else "live"
    try:
        settings = _settings()
        log = settings.data_dir / "headrace.log"
        configure_logging(settings)
        with _log_to(log):
            # With ``hold``, standard output is for one line of JSON.
            console = Console(stderr=hold)
            console.width = console.width if console.is_terminal else 140
            code = uvloop.run(_main(settings, mode, console))
    except (BrokerError, OSError, RuntimeError, TimeoutError, ValueError) as error:
        typer.echo(f"headrace: {error or type(error).__name__}", err=True)
        code = 1
    if code == 1:
        typer.echo(f"headrace: what the processes said is in {log}", err=True)
    raise typer.Exit(code)


def _settings() -> Settings:
    """The environment's, with what suits a demo where it says nothing."""
    from pipeline.settings import Settings

    given = {name.removeprefix("HEADRACE_").lower() for name in os.environ if name.startswith("HEADRACE_")}
    wanted: dict[str, Any] = {
        "data_dir": ".headrace/demo",
        "lanes": 4,
        # The receiver is on this machine.
        "allow_networks": "127.0.0.0/8",
        **{name: port if _is_free(port) else 0 for name, port in _PORTS.items()},
    }
    return Settings(**{name: value for name, value in wanted.items() if name not in given})


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Log lines, of the child processes too, go to this file, since they would tear the live screen apart;
    ``sys.stderr`` stays with the person."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = sys.stderr
    with path.open("w") as log, os.fdopen(os.dup(2), "w", buffering=1) as person:
        os.dup2(log.fileno(), 2)
        sys.stderr = person
        try:
            yield
        finally:
            person.flush()
            os.dup2(person.fileno(), 2)
            sys.stderr = shown


async def _main(settings: Settings, mode: Mode, console: Console) -> int:
    """The exit code. The first signal ends whatever is going on, in order; more of them change nothing."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    task = asyncio.create_task(_run(settings, mode, console), name="demo")
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if task.done():
        return task.result()
    console.print("Stopping …")
    task.cancel()
    await asyncio.wait([task])
    if task.cancelled():
        # A check that was cut short has shown nothing.
        return 130 if mode == "check" else 0
    return task.result()


async def _run(settings: Settings, mode: Mode, console: Console) -> int:
    from pipeline.broker.cluster import cluster
    from pipeline.broker.progress import shown
    from pipeline.cli.up import everything
    from pipeline.demo.run import Doors, run
    from pipeline.settings import KafkaSettings

    environment = {"HEADRACE_ALLOW_NETWORKS": settings.allow_networks}
    given = KafkaSettings()
    async with contextlib.AsyncExitStack() as stack:
        with shown() as progress:
            kafka = await stack.enter_async_context(cluster(settings, given, progress=progress))
        named = given.model_copy(update={"bootstrap_servers": kafka.bootstrap_servers})
        console.print("Starting gateway, workers, sink and API …")
        running = await stack.enter_async_context(everything(settings, named, environment))
        token = settings.api_token.get_secret_value() if settings.api_token else None
        doors = Doors(kafka, running.gateway, running.api, token)
        working = asyncio.create_task(run(doors, mode, console))
        ends: list[asyncio.Future[Any]] = [working, running.supervisor.failure]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if running.supervisor.failure.done():
                running.supervisor.failure.result()
        except asyncio.CancelledError:
            # Holding ends so, and still has an exit code.
            working.cancel()
            return await working
        finally:
            working.cancel()
            await asyncio.wait([working])
        return working.result()
