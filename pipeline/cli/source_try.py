"""`headrace sources try`: what a sample becomes, with nothing recorded."""

from __future__ import annotations

import json as _json
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.client import Client, fail
from pipeline.cli.options import Api, Json, Name, Partner, given, read_json

__all__ = ["try_"]


def try_(
    partner: Partner,
    source: Name,
    sample: Annotated[str, typer.Argument(help="JSON as the origin sends it, @file, or - for standard input")],
    header: Annotated[list[str] | None, typer.Option(help="`Name: value`; may be given several times")] = None,
    mapping: Annotated[str | None, typer.Option(help="to try in place of the source's: JSON, or @file")] = None,
    form: Annotated[bool, typer.Option("--form", help="the sample is a form, a=1&b=2, and no JSON")] = False,
    api: Api = None,
    json: Json = False,
) -> None:
    """Show what a sample becomes by the source's mapping, or by another. Ends with code 1 where it is refused."""
    body = given(mapping=read_json(mapping, "--mapping"), headers=_headers(header or []))
    body |= {"text": _text(sample)} if form else {"body": read_json(sample, "the sample")}
    trial = Client(api).add("partners", partner, "sources", source, "try", body=body)
    if json:
        print(_json.dumps(trial, ensure_ascii=False, indent=2))
    else:
        _show(trial)
    if trial["errors"]:
        raise typer.Exit(1)


def _show(trial: dict[str, Any]) -> None:
    for event in trial["events"]:
        print(_json.dumps(event, ensure_ascii=False, indent=2))
    for error in trial["errors"]:
        where = f" (at {error['path']})" if error.get("path") else ""
        typer.echo(f"headrace: {error['message']}{where}", err=True)
    if trial["answer"] is not None:
        typer.echo(f"answered: {trial['answer']}", err=True)
    if not trial["events"] and not trial["errors"]:
        typer.echo("acknowledged, and nothing recorded", err=True)


def _headers(lines: list[str]) -> dict[str, str] | None:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise typer.BadParameter("write `Name: value`", param_hint="--header")
        headers[name.strip()] = value.strip()
    return headers or None


def _text(sample: str) -> str:
    if not sample.startswith("@"):
        return sample
    try:
        return Path(sample[1:]).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"the sample: {error}")
