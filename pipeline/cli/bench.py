"""`headrace bench NAME`: how fast, beside a peer doing the same work in the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["bench"]


def bench(
    name: Annotated[str, typer.Argument(help="path: gateway, intake, fan-out, and time to a visible count")],
    quick: Annotated[bool, typer.Option("--quick", help="three rounds, less data; ends within four minutes")] = False,
    json: Annotated[Path | None, typer.Option("--json", help="write the rows to this file too")] = None,
) -> None:
    """Run a benchmark on this machine: ours and the peer in turn, at least three rounds, median and spread."""
    import uvloop
    from rich.console import Console

    from pipeline.bench import path
    from pipeline.bench.harness import report
    from pipeline.cli.roles import configure_logging
    from pipeline.settings import Settings

    runs = {"path": path.run}
    if name not in runs:
        raise typer.BadParameter(f"no benchmark {name!r}; one of {', '.join(runs)}", param_hint="NAME")
    configure_logging(Settings(log_level="WARNING"))
    console = Console()
    report(uvloop.run(runs[name](quick, console)), console, json)
