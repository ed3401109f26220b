"""`headrace schemas export`: the published contracts, from the code."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app", "export", "published", "stale"]

app = typer.Typer(no_args_is_help=True, help="The published contracts: JSON Schema, AsyncAPI and OpenAPI.")


@app.callback()
def schemas() -> None:
    """The published contracts."""


@app.command("export")
def export_command(
    folder: Annotated[Path | None, typer.Option(help="where to; the checkout's schemas when left out")] = None,
    check: Annotated[bool, typer.Option("--check", help="write nothing; exit 1 and name the stale files")] = False,
) -> None:
    """Write json/<Model>.schema.json for every model, asyncapi.json and openapi/*.json."""
    from pipeline.models.resources import resource

    target = folder or resource("schemas")
    if check:
        old = stale(target)
        for name in old:
            typer.echo(f"stale: {target / name}; run `headrace schemas export`", err=True)
        raise typer.Exit(1 if old else 0)
    changed = export(target)
    typer.echo(f"{len(changed)} files written to {target}" if changed else f"{target} is up to date")


@cache
def published() -> Mapping[str, bytes]:
    """File under `schemas/` -> content, the same bytes for the same code; JSON Schemas are `models.contracts`'."""
    import orjson

    from pipeline.api.app import openapi
    from pipeline.api.routers import ROUTERS
    from pipeline.gateway.openapi import document as gateway
    from pipeline.topics.asyncapi import document as asyncapi

    documents = {"asyncapi.json": asyncapi(), "openapi/api.json": openapi(ROUTERS), "openapi/gateway.json": gateway()}
    option = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    return {name: orjson.dumps(document, option=option) for name, document in documents.items()}


def stale(folder: Path) -> list[str]:
    """Files that are missing, differ from the code, or have no model any more."""
    from pipeline.models import contracts

    differing = [
        name
        for name, content in published().items()
        if not (folder / name).exists() or (folder / name).read_bytes() != content
    ]
    return [*(f"json/{name}" for name in contracts.stale(folder / "json")), *differing]


def export(folder: Path) -> list[str]:
    """Write all that is stale; returns the names that changed."""
    from pipeline.models import contracts

    changed = stale(folder)
    contracts.export(folder / "json")
    files = published()
    for name in changed:
        if name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(files[name])
    return changed
