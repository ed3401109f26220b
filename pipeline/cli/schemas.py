"""`headrace schemas export`: the published contracts from the models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The published contracts: JSON Schema of all that crosses Kafka or HTTP.")


@app.callback()
def schemas() -> None:
    """The published contracts."""


@app.command("export")
def export_command(
    folder: Annotated[Path | None, typer.Option(help="where to; the checkout's schemas/json when left out")] = None,
    check: Annotated[bool, typer.Option("--check", help="write nothing; exit 1 and name the stale files")] = False,
) -> None:
    """Write schemas/json/<Model>.schema.json for every model."""
    from pipeline.models.contracts import export, stale
    from pipeline.models.resources import resource

    target = folder or resource("schemas") / "json"
    if check:
        old = stale(target)
        for name in old:
            typer.echo(f"stale: {target / name}; run `headrace schemas export`", err=True)
        raise typer.Exit(1 if old else 0)
    changed = export(target)
    typer.echo(f"{len(changed)} files written to {target}" if changed else f"{target} is up to date")
