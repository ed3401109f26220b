"""`headrace crm`: files of customers to a source whose bridge is `crm`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.client import fail
from pipeline.cli.options import Json
from pipeline.cli.output import print_entity

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Customers of a CRM: upload files of them.")

_DEFAULT = "http://127.0.0.1:8080"
Source = Annotated[str, typer.Option(help="the source's key, <partner>.<code>; its secret is HEADRACE_SOURCE_SECRET")]
Gateway = Annotated[
    str | None, typer.Option(help="address of the gateway; else HEADRACE_GATEWAY, else http://127.0.0.1:8080")
]


@app.command("upload")
def upload(
    file: Annotated[Path, typer.Argument(help="CSV or NDJSON, gzip or not")],
    source: Source,
    gateway: Gateway = None,
    format: Annotated[str | None, typer.Option(help="csv or ndjson; else by the file's name")] = None,
    separator: Annotated[str | None, typer.Option(help="of CSV; else the one that the header has most of")] = None,
    encoding: Annotated[str | None, typer.Option(help="e.g. cp1252; else by the byte order mark, else UTF-8")] = None,
    report: Annotated[Path | None, typer.Option(help="where to write the refused rows: a .csv, else NDJSON")] = None,
    again: Annotated[
        str | None,
        typer.Option(help="any word: send rows anew that were done before, e.g. when the source's columns were mended"),
    ] = None,
    patience: Annotated[float, typer.Option(help="seconds to wait for a gateway that does not answer")] = 300,
    json: Json = False,
) -> None:
    """Upload a file. Stopped at any moment, it goes on where it was; a file that was uploaded adds nothing."""
    from pipeline.cli.crm_file import CustomerFile, FileFault
    from pipeline.cli.crm_upload import Upload, UploadFault

    try:
        customers = CustomerFile.of(file, format, separator, encoding)
        running = Upload(_address(gateway), source, _secret(source), customers, again or "", patience)
        result = asyncio.run(running.run(report, show=not json and sys.stderr.isatty()))
    except OSError as error:
        fail(f"{error.filename or file}: {error.strerror}")
    except (FileFault, UploadFault) as error:
        fail(f"{file}: {error}")
    except KeyboardInterrupt:
        fail("stopped; the same command goes on where it was")
    _print(result, json)
    if result["refused"] and not json:
        told = f"they are in {report}" if report else "--report FILE writes them"
        typer.echo(f"{result['refused']} of {result['rows']} rows are no customers; {told}", err=True)


@app.command("status")
def status(
    upload: Annotated[str, typer.Argument(help="the upload's id, as `upload` prints it")],
    source: Source,
    gateway: Gateway = None,
    json: Json = False,
) -> None:
    """How far an upload is."""
    from pipeline.cli.crm_upload import UploadFault, ask_status

    try:
        found = asyncio.run(ask_status(_address(gateway), source, _secret(source), upload))
    except UploadFault as error:
        fail(str(error))
    _print(found, json)


def _print(found: dict[str, Any], json: bool) -> None:
    names = ("id", "name", "rows", "taken", "refused", "complete", "seconds", "sent")
    print_entity(found if json else {name: found[name] for name in names if name in found}, json)


def _address(given: str | None) -> str:
    return (given or os.environ.get("HEADRACE_GATEWAY") or _DEFAULT).rstrip("/")


def _secret(source: str) -> str:
    """The source's secret key, whole or its last part. Never an argument, which others on the machine could read."""
    secret = os.environ.get("HEADRACE_SOURCE_SECRET")
    if not secret:
        if not sys.stdin.isatty():
            fail("no secret key: put it into HEADRACE_SOURCE_SECRET (`headrace sources keys add` makes one)")
        secret = str(typer.prompt("Secret key", hide_input=True))
    return secret.strip().removeprefix(f"{source}.")
