"""`headrace customers`: who they are, what they did; all that is kept of one, and its end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.client import Client
from pipeline.cli.options import Api, Json, Partner, given
from pipeline.cli.output import moment, print_entity, print_list

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Customers of a partner, by any of their identifiers.")
Customer = Annotated[str, typer.Argument(help="canonical id, user id, anonymous id, e-mail or phone")]


@app.command("show")
def show(partner: Partner, customer: Customer, api: Api = None, json: Json = False) -> None:
    """Identifiers, traits and memberships."""
    print_entity(Client(api).get("partners", partner, "customers", customer), json)


@app.command("timeline")
def timeline(
    partner: Partner,
    customer: Customer,
    source: Annotated[str | None, typer.Option(help="only of this source")] = None,
    channel: Annotated[str | None, typer.Option(help="only of this channel")] = None,
    name: Annotated[str | None, typer.Option(help="only events of this name")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    api: Api = None,
    json: Json = False,
) -> None:
    """The newest events first, over all sources and channels, or of one."""
    query = given(source=source, channel=channel, name=name, limit=str(limit))
    found = Client(api).get("partners", partner, "customers", customer, "timeline", **query)
    print_list(found["items"], ["time", "name", "source", "channel", "properties"], json, "No event.")


@app.command("export")
def export(
    partner: Partner,
    customer: Customer,
    out: Annotated[Path | None, typer.Option(help="a file to write; standard output when not given")] = None,
    api: Api = None,
) -> None:
    """All that is kept of a customer, as JSON: what is known of it, each event, entry, exit and delivery."""
    found = Client(api).fetch("partners", partner, "customers", customer, "export")
    if out is None:
        sys.stdout.buffer.write(found + b"\n")
    else:
        out.write_bytes(found)


@app.command("erase")
def erase(
    partner: Partner,
    customer: Customer,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    api: Api = None,
    json: Json = False,
) -> None:
    """Erase a customer, with all that it did until now. There is no way back."""
    client = Client(api)
    known = client.get("partners", partner, "customers", customer)
    if not yes:
        typer.confirm(f"Erase {known['id']}, known as {', '.join(known['identifiers'])}?", abort=True)
    print_entity(_told(client.take("partners", partner, "customers", known["id"]), json), json)


@app.command("erasures")
def erasures(partner: Partner, api: Api = None, json: Json = False) -> None:
    """Who was erased in the last month, and what of it is still to go."""
    found = [_told(each, json) for each in Client(api).get("partners", partner, "erasures")["items"]]
    print_list(found, ["id", "customer", "requested", "counts", "files", "logs"], json, "Nobody was erased.")


def _told(erasure: dict[str, Any], as_json: bool) -> dict[str, Any]:
    """For people: what is done, and what is not."""
    if as_json:
        return erasure
    return {
        "id": erasure["id"],
        "customer": erasure["customer"],
        "requested": moment(erasure["requested"]),
        "counts": "gone" if erasure["at"] is not None else "not yet",
        "files": "gone" if erasure["files"] else "within a day, if the lake runs",
        "logs": f"gone by {moment(erasure['logs_until'])}",
    }
