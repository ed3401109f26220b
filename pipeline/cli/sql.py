"""`headrace sql`: a partner's tables, queried in SQL."""

from __future__ import annotations

import json as json_
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.client import Client, fail
from pipeline.cli.options import Api, Partner
from pipeline.cli.output import moment, print_list

__all__ = ["sql"]


class Format(StrEnum):
    """Of the rows. ``arrow``: an Arrow IPC stream."""

    table = "table"
    json = "json"
    csv = "csv"
    arrow = "arrow"


def sql(
    partner: Partner,
    query: Annotated[
        str | None,
        typer.Argument(help="one SELECT, as DuckDB has it; @FILE reads a file, - standard input; left out: the tables"),
    ] = None,
    format: Annotated[Format, typer.Option(help="how to print the rows")] = Format.table,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="rows; it is said when there are more")] = 10_000,
    seconds: Annotated[float, typer.Option(min=0.1, max=60, help="after so long it is given up")] = 30.0,
    api: Api = None,
) -> None:
    """Ask a partner's tables in SQL, or list them: customers, segment_members, segment_counts, sources, segments.

    headrace sql acme "SELECT segment, customers FROM segment_counts WHERE scope = 'all'"
    """
    client = Client(api)
    if query is None:
        _tables(client.get("partners", partner, "sql", "tables")["items"], format)
        return
    body = {"query": _text(query), "limit": limit, "seconds": seconds}
    if format in (Format.csv, Format.arrow):
        if format is Format.arrow and sys.stdout.isatty():
            fail("Arrow is no text: send it to a file or another program")
        sys.stdout.buffer.write(client.answer("partners", partner, "sql", format=format.value, body=body))
        sys.stdout.buffer.flush()
        return
    found = client.add("partners", partner, "sql", body=body)
    names = [column["name"] for column in found["columns"]]
    if format is Format.json:
        print(json_.dumps([dict(zip(names, row, strict=True)) for row in found["rows"]], ensure_ascii=False, indent=2))
    else:
        # By place, since a query may name two columns alike.
        rows = [{str(place): value for place, value in enumerate(row)} for row in found["rows"]]
        print_list(rows, [str(place) for place in range(len(names))], False, "No row.", titles=names)
    as_of = "not known yet" if found["as_of"] is None else moment(found["as_of"])
    more = f"; more than {limit} rows: raise --limit" if found["truncated"] else ""
    typer.echo(f"{len(found['rows'])} rows in {found['seconds']:.3f} s, as of {as_of}{more}", err=True)


def _text(query: str) -> str:
    if query == "-":
        return sys.stdin.read()
    if not query.startswith("@"):
        return query
    try:
        return Path(query[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        fail(f"{query[1:]}: {error}")


def _tables(items: list[dict[str, Any]], format: Format) -> None:
    rows = [
        {"table": table["name"], "column": column["name"], "type": column["type"], "about": column["about"]}
        for table in items
        for column in table["columns"]
    ]
    print_list(rows, ["table", "column", "type", "about"], format is Format.json, "No table.")
