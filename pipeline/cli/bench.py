"""`headrace bench NAME`: how fast, beside a peer doing the same work in the same run."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.bench.harness import Figure

__all__ = ["bench"]


def bench(
    name: Annotated[
        str,
        typer.Argument(
            help="path: gateway, intake, fan-out, and time to a visible count; "
            "gateway: the HTTP edge beside FastAPI, Fastify and Go; servers: bare HTTP servers for Python; "
            "segments: fan-out under a company's segments; "
            "dispatch: deliveries to tools beside bare aiohttp; "
            "engine: lanes beside aiokafka, Faust, Quix Streams, Bytewax and Kafka Streams"
        ),
    ],
    quick: Annotated[bool, typer.Option("--quick", help="shorter windows; ends within four minutes")] = False,
    json: Annotated[Path | None, typer.Option("--json", help="write the rows to this file too")] = None,
    rows: Annotated[
        str,
        typer.Option("--rows", help="engine, segments, dispatch: only these, with commas between (docs/benchmarks.md)"),
    ] = "",
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds",
            min=1,
            help="segments, dispatch: instead of three; one of segments takes an hour",
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="engine: draw the rates into this SVG file")] = None,
) -> None:
    """Run a benchmark on this machine: ours and the peer in turn, three rounds, median and spread."""
    import uvloop
    from rich.console import Console

    from pipeline.bench import dispatch, engine, gateway, path, segments, servers
    from pipeline.bench.harness import ROUNDS, report
    from pipeline.cli.roles import configure_logging
    from pipeline.settings import Settings

    # Where nobody looks at a terminal, rows of the table stay lines.
    console = Console(width=None if sys.stdout.isatty() else 200)
    names = [row.strip() for row in rows.split(",") if row.strip()]
    rows_of = {
        "engine": [row.name for row in engine.ROWS],
        "segments": [row.name for row in segments.ROWS],
        "dispatch": [row.name for row in dispatch.ROWS],
    }
    if names and name not in rows_of:
        raise typer.BadParameter(f"only `bench {'` and `bench '.join(rows_of)}` take it", param_hint="--rows")
    if unknown := set(names) - set(rows_of.get(name, ())):
        known = ", ".join(rows_of[name])
        raise typer.BadParameter(f"no row {', '.join(sorted(unknown))}; one of {known}", param_hint="--rows")
    if rounds is not None and name not in ("segments", "dispatch"):
        raise typer.BadParameter("only `bench segments` and `bench dispatch` take it", param_hint="--rounds")
    if plot and name != "engine":
        raise typer.BadParameter("only `bench engine` takes it", param_hint="--plot")
    runs: dict[str, Callable[[], Awaitable[list[Figure]]]] = {
        "path": lambda: path.run(quick, console),
        "gateway": lambda: gateway.run(quick, console),
        "servers": lambda: servers.run(quick, console),
        "segments": lambda: segments.run(quick, console, names, rounds or ROUNDS),
        "dispatch": lambda: dispatch.run(quick, console, names, rounds or ROUNDS),
        "engine": lambda: engine.run(quick, console, names),
    }
    if name not in runs:
        raise typer.BadParameter(f"no benchmark {name!r}; one of {', '.join(runs)}", param_hint="NAME")
    configure_logging(Settings(log_level="WARNING"))

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        # As Ctrl-C does: contenders and broker end with us.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        figures = await runs[name]()
        report(figures, console, json)
        if plot is not None:
            await engine.draw(figures, plot, console)

    uvloop.run(run())
